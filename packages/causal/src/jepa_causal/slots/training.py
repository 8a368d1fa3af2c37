"""Training a slot autoencoder on the frames of episodes, by the recipe that a CPU can run in minutes."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from jepa_causal.episodes import Episode
from jepa_causal.slots.pixels import SlotAutoencoder, SlotSettings
from jepa_core.errors import DataError, DivergenceError
from jepa_core.seeds import random_keys, sample_seed, uniform
from jepa_core.train.schedule import warmup_cosine

_EPISODE_STREAM, _START_STREAM, _SEED_STREAM = 611, 612, 613


@dataclass(frozen=True)
class SlotTraining:
    """How slots are trained.

    Attributes:
        model: the autoencoder.
        steps: optimiser steps.
        batch_size: clips of a step.
        clip_frames: frames of a clip that follow each other; an image model gains nothing from more than 1.
        single_share: of the steps, the first ones, that train on single frames, as many as the clips have in all: a
            video model finds objects first and learns to keep them afterwards.
        lr: peak of Adam's learning rate on single frames.
        clip_lr: its peak on clips.
        warmup: steps of linear warm-up on single frames, and again on clips, each time a fifth of these steps at most;
            a cosine to 0 follows.
        clip_norm: largest norm of a gradient.
        log_every: steps between lines of progress, and between looks at whether the loss is finite.
    """

    model: SlotSettings = field(default_factory=SlotSettings)
    steps: int = 900
    batch_size: int = 24
    clip_frames: int = 1
    single_share: float = 1.0
    lr: float = 2e-3
    clip_lr: float = 5e-4
    warmup: int = 100
    clip_norm: float = 0.5
    log_every: int = 100

    def __post_init__(self) -> None:
        for key in ("steps", "batch_size", "clip_frames", "log_every"):
            if getattr(self, key) < 1:
                raise ValueError(f"{key}: expected 1 or more, got {getattr(self, key)}")
        if not 0 <= self.warmup <= self.steps:
            raise ValueError(f"warmup: expected 0 to steps={self.steps}, got {self.warmup}")
        if not 0 <= self.single_share <= 1:
            raise ValueError(f"single_share: expected a share from 0 to 1, got {self.single_share}")
        for key in ("lr", "clip_lr", "clip_norm"):
            if not getattr(self, key) > 0:
                raise ValueError(f"{key}: expected a number above 0, got {getattr(self, key)}")

    @property
    def single_steps(self) -> int:
        """The first steps, on single frames."""
        return round(self.single_share * self.steps)

    def rate(self, step: int) -> float:
        """Learning rate of a step, from 1 to ``steps``."""
        before, total, peak = 0, self.single_steps, self.lr
        if step > total:
            # A schedule of its own: what single frames taught has settled before clips begin.
            before, total, peak = total, self.steps - total, self.clip_lr
        return warmup_cosine(step - before, total, peak, 0.0, 0.0, min(self.warmup, total // 5))


def video_training(model: SlotSettings | None = None) -> SlotTraining:
    """The same for a video model: the steps of an image model on single frames, then a quarter as many on clips."""
    chosen = model or SlotSettings(mode="video")
    return SlotTraining(chosen, steps=1125, batch_size=6, clip_frames=4, single_share=0.8)


def train_slots(
    episodes: Sequence[Episode],
    settings: SlotTraining,
    device: torch.device | str = "cpu",
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
    after_step: Callable[[int, SlotAutoencoder], None] | None = None,
) -> SlotAutoencoder:
    """A trained autoencoder, in eval mode, on ``device``.

    All randomness comes from ``seed``: the same machine, threads and seed give the same weights.

    Args:
        episodes: with frames; each clip is drawn from a random one at a random step.
        settings: see :class:`SlotTraining`.
        device: to train on.
        seed: of weights, clips and noise.
        progress: is given a line now and then.
        after_step: is given each step, from 1, and the model as it then is.

    Raises:
        DataError: no episodes, or one without enough frames.
        DivergenceError: the loss is no longer finite.
    """
    check_frames(episodes, settings.clip_frames)
    # The weights' own generator: what the caller draws afterwards does not change.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = SlotAutoencoder(settings.model)
    model.mean.copy_(mean_colour(episodes))
    model = model.to(device).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=settings.lr)
    total, started = torch.zeros((), device=device), time.monotonic()
    for step in range(1, settings.steps + 1):
        optimizer.param_groups[0]["lr"] = settings.rate(step)
        total += _step(model, optimizer, draw_clips(episodes, settings, seed, step), settings.clip_norm)
        if after_step is not None:
            after_step(step, model)
        if step % settings.log_every == 0 or step == settings.steps:
            since = (step - 1) % settings.log_every + 1
            _report(step, settings.steps, float(total) / since, time.monotonic() - started, progress)
            total.zero_()
    return model.eval()


def check_frames(episodes: Sequence[Episode], least: int) -> None:
    """Refuses what cannot be trained on or encoded.

    Raises:
        DataError: no episodes, or one with fewer frames than ``least``, or of another kind.
    """
    if not episodes:
        raise DataError("slots: expected episodes with frames, got none")
    for episode in episodes:
        frames = episode.frames
        name = f"episode {episode.episode_id}"
        if frames is None:
            raise DataError(f"{name}: expected frames, got none; render the world with pictures")
        if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3:
            raise DataError(f"{name}: expected frames uint8 [T, H, W, 3], got {frames.dtype} {list(frames.shape)}")
        if len(frames) < least:
            raise DataError(f"{name}: expected {least} frames or more, got {len(frames)}; lower clip_frames")


def mean_colour(episodes: Sequence[Episode]) -> Tensor:
    """Of the first frames of episodes, from 0 to 1, float32 ``[3]``."""
    first = [episode.frames[0].reshape(-1, 3) for episode in episodes[:1000] if episode.frames is not None]
    return torch.from_numpy(np.concatenate(first).mean(0) / 255).float()


@dataclass(frozen=True)
class Clips:
    """A batch of training: frames uint8 ``[B, T, H, W, 3]`` and the seeds int64 ``[B]`` of their noise."""

    frames: Tensor
    seeds: Tensor


def draw_clips(episodes: Sequence[Episode], settings: SlotTraining, seed: int, step: int) -> Clips:
    """The clips of one step; a function of ``seed`` and ``step`` alone."""
    key = torch.tensor([sample_seed(seed, step, "clips")])
    count, length = settings.batch_size, settings.clip_frames
    if step <= settings.single_steps:
        count, length = count * length, 1
    chosen = (uniform(key, count, _EPISODE_STREAM)[0].double() * len(episodes)).long().tolist()
    shares = uniform(key, count, _START_STREAM)[0].tolist()
    clips = [_clip(episodes[i], share, length) for i, share in zip(chosen, shares, strict=True)]
    if len({clip.shape for clip in clips}) > 1:
        raise DataError(f"frames: expected one size in all episodes, got {sorted({c.shape[1:3] for c in clips})}")
    return Clips(torch.from_numpy(np.stack(clips)), random_keys(key, count, _SEED_STREAM)[0])


def _clip(episode: Episode, share: float, length: int) -> NDArray[np.uint8]:
    assert episode.frames is not None
    start = int(share * (len(episode.frames) - length + 1))
    return episode.frames[start : start + length]


def _step(model: SlotAutoencoder, optimizer: torch.optim.Optimizer, clips: Clips, clip_norm: float) -> Tensor:
    device = next(model.parameters()).device
    loss: Tensor = model(clips.frames.to(device), clips.seeds.to(device))
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), clip_norm)
    optimizer.step()
    return loss.detach()


def _report(step: int, steps: int, loss: float, seconds: float, progress: Callable[[str], None] | None) -> None:
    if not np.isfinite(loss):
        raise DivergenceError(f"slots: the loss is {loss} by step {step} of {steps}; lower lr or clip_norm")
    if progress is not None:
        progress(f"slots: step {step}/{steps}, loss {loss:.4f}, {seconds:.0f} s")
