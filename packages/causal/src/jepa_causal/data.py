"""Windows of episodes as a data set: every start of every episode is a sample.

Rules:

- a window holds ``steps`` model steps, ``frame_skip`` frames apart, and starts at any frame that leaves room for it;
- an episode that is shorter has no windows; how many there are is told by :attr:`SlotWindows.too_short`;
- a window whose slots are not finite, or of another number or width than those of the first episode, is quarantined;
- actions of a model step are those of its frames side by side. A NaN in them (an episode's last frame often has none)
  takes that step's action away and nothing else, as does a NaN in proprioception.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from jepa_causal.encoder import Scale
from jepa_causal.episodes import Episode, Flags, Floats
from jepa_causal.windows import SlotWindow
from jepa_core.contracts import BadSample

Presence = Literal["given", "all"]
_STILL = 1e-6
"""A channel whose deviation is less never changes; it is only centred."""


@dataclass(frozen=True)
class Cut:
    """How windows are cut.

    Attributes:
        steps: model steps of a window.
        frame_skip: frames from one model step to the next.
        presence: ``given`` (``Episode.present`` tells of each slot whether it holds an object) or ``all`` (all slots
            count, as those of an encoder do: there ``Episode.present`` speaks of objects, not of slots).
        actions, proprio: whether windows carry them.
    """

    steps: int
    frame_skip: int = 1
    presence: Presence = "given"
    actions: bool = False
    proprio: bool = False

    def __post_init__(self) -> None:
        if self.steps < 1 or self.frame_skip < 1:
            raise ValueError(f"windows: expected steps and frame_skip of 1 or more, got {self}")

    @property
    def span(self) -> int:
        """Frames from the first to the last of a window."""
        return (self.steps - 1) * self.frame_skip + 1


@dataclass(frozen=True)
class WindowSample:
    """One window, loaded: arrays of :class:`jepa_causal.windows.SlotWindow` without their first dimension."""

    slots: Floats
    present: Flags | None
    actions: Floats | None
    proprio: Floats | None


class SlotWindows:
    """Windows of episodes with slots; keeps the contract ``SampleSource``.

    Args:
        episodes: each with ``slots``.
        cut: see there.

    Raises:
        ValueError: no episode, one without slots, or none that is long enough.
    """

    def __init__(self, episodes: Sequence[Episode], cut: Cut) -> None:
        for episode in episodes:
            if episode.slots is None:
                raise ValueError(f"episode {episode.episode_id}: expected slots, got none; see data.slots")
        counts = [max(0, len(_slots(episode)) - cut.span + 1) for episode in episodes]
        self.episodes = [episode for episode, count in zip(episodes, counts, strict=True) if count]
        self.too_short = len(episodes) - len(self.episodes)
        if not self.episodes:
            longest = max((len(_slots(episode)) for episode in episodes), default=0)
            raise ValueError(
                f"windows: expected an episode of {cut.span} frames or more for {cut.steps} steps at "
                f"frame_skip={cut.frame_skip}, got {len(episodes)} episodes, the longest of {longest}; lower "
                "causal.history, causal.future or data.frame_skip"
            )
        self.cut = cut
        self.slots, self.width = _slots(self.episodes[0]).shape[1:]
        self._ends = np.cumsum([count for count in counts if count])

    def __len__(self) -> int:
        return int(self._ends[-1])

    def place(self, index: int) -> tuple[int, int]:
        """Which of :attr:`episodes` a window is of, and its first frame."""
        episode = int(np.searchsorted(self._ends, index, side="right"))
        return episode, index - (int(self._ends[episode - 1]) if episode else 0)

    def sample_id(self, index: int) -> str:
        """``<episode>/<first frame>``."""
        episode, start = self.place(index)
        return f"{self.episodes[episode].episode_id}/{start}"

    def load(self, index: int, seed: int) -> WindowSample:
        """The window; nothing in it is random. Raises :class:`BadSample`."""
        place, start = self.place(index)
        episode, cut = self.episodes[place], self.cut
        frames = slice(start, start + cut.span, cut.frame_skip)
        slots = np.asarray(_slots(episode)[frames], np.float32)
        if slots.shape[1:] != (self.slots, self.width):
            got = " x ".join(str(size) for size in slots.shape[1:])
            raise BadSample(f"slots: expected {self.slots} of width {self.width}, as in the first episode, got {got}")
        present = None
        if cut.presence == "given" and episode.present is not None:
            present = episode.present[frames]
            if present.shape != slots.shape[:2]:
                raise BadSample(f"present: expected {list(slots.shape[:2])}, got {list(present.shape)}")
        there = slots if present is None else slots[present]
        if not np.isfinite(there).all():
            raise BadSample("slots: expected finite numbers, got NaN or infinity")
        return WindowSample(
            slots,
            present,
            model_actions(episode, cut, start) if cut.actions else None,
            _proprio(episode, frames) if cut.proprio else None,
        )

    def collate(self, samples: Sequence[WindowSample]) -> SlotWindow:
        """``[B, T, K, D]`` and what goes with it."""
        actions, action_valid = _streams([sample.actions for sample in samples], "actions")
        proprio, proprio_valid = _streams([sample.proprio for sample in samples], "proprio")
        slots = torch.from_numpy(np.stack([sample.slots for sample in samples]))
        present = _presence([sample.present for sample in samples], slots)
        if present is not None:
            slots = torch.where(present.unsqueeze(-1), slots, 0.0)  # an absent slot may hold anything
        return SlotWindow(slots, present, actions, action_valid, proprio, proprio_valid)


def _slots(episode: Episode) -> Floats:
    assert episode.slots is not None, "checked when the windows were made"
    return episode.slots


def _proprio(episode: Episode, frames: slice) -> Floats:
    if episode.proprio is None:
        raise BadSample("proprio: expected it, as in the first episode, got none")
    return np.asarray(episode.proprio[frames], np.float32)


def model_actions(episode: Episode, cut: Cut, start: int) -> Floats:
    """Actions ``[steps, frame_skip * A]`` from frame ``start`` on, NaN beyond the end of the episode.

    Raises:
        BadSample: the episode has none.
    """
    if episode.actions is None:
        raise BadSample("actions: expected them, as in the first episode, got none")
    count = cut.steps * cut.frame_skip
    known = np.asarray(episode.actions[start : start + count], np.float32)
    padded = np.full((count, known.shape[1]), np.nan, np.float32)
    padded[: len(known)] = known
    return padded.reshape(cut.steps, -1)


def model_steps(episode: Episode, frame_skip: int) -> Episode:
    """The episode at model steps, from its first frame on: what a rollout over all of it works on.

    Actions of the frames of a step lie side by side, contacts of them are joined. The change per step in ``states``
    stays that of a frame.
    """
    if frame_skip == 1:
        return episode
    contacts, steps = episode.contacts, -(-episode.steps // frame_skip)
    if contacts is not None:
        first = np.maximum(np.arange(steps) * frame_skip - frame_skip + 1, 0)
        contacts = np.logical_or.reduceat(contacts[: (steps - 1) * frame_skip + 1], first, axis=0)
    return replace(
        episode,
        states=None if episode.states is None else episode.states[::frame_skip],
        present=None if episode.present is None else episode.present[::frame_skip],
        contacts=contacts,
        actions=None if episode.actions is None else model_actions(episode, Cut(steps, frame_skip), 0),
        proprio=None if episode.proprio is None else episode.proprio[::frame_skip],
        frames=None if episode.frames is None else episode.frames[::frame_skip],
        segments=None if episode.segments is None else episode.segments[::frame_skip],
        slots=None if episode.slots is None else episode.slots[::frame_skip],
    )


def _presence(found: Sequence[Flags | None], slots: Tensor) -> Tensor | None:
    """None where every slot of every window is there: the fast path."""
    if all(present is None or present.all() for present in found):
        return None
    whole = np.ones(slots.shape[1:3], bool)
    return torch.from_numpy(np.stack([whole if present is None else present for present in found]))


def _streams(found: Sequence[Floats | None], name: str) -> tuple[Tensor | None, Tensor | None]:
    """``[B, T, A]`` with zeros where not known, and where it is known; None = everywhere."""
    rows = [row for row in found if row is not None]
    if not rows:
        return None, None
    widths = sorted({row.shape[1] for row in rows})
    if len(widths) > 1:
        raise ValueError(f"{name}: expected one width in all episodes, got {' and '.join(map(str, widths))}")
    stream = torch.from_numpy(np.stack(rows))
    known = stream.isfinite().all(-1)
    if bool(known.all()):
        return stream, None
    return torch.where(known.unsqueeze(-1), stream, 0.0), known


# --------------------------------------------------------------------------------------------------------------------
# Scales
# --------------------------------------------------------------------------------------------------------------------


def action_scale(episodes: Sequence[Episode], frame_skip: int) -> Scale:
    """Of the actions of a model step, float32 ``[frame_skip * A]``."""
    one = _scale([episode.actions for episode in episodes], "actions")
    return Scale(one.mean.repeat(frame_skip), one.std.repeat(frame_skip))


def proprio_scale(episodes: Sequence[Episode]) -> Scale:
    """Of proprioception, float32 ``[P]``."""
    return _scale([episode.proprio for episode in episodes], "proprio")


def _scale(found: Sequence[Floats | None], name: str) -> Scale:
    """Over all steps that are known; float64 inside."""
    rows = [row[np.isfinite(row).all(1)] for row in found if row is not None]
    widths = sorted({row.shape[1] for row in rows})
    if len(widths) > 1:
        raise ValueError(f"{name}: expected one width in all episodes, got {' and '.join(map(str, widths))}")
    joined = np.concatenate(rows).astype(np.float64) if rows else np.zeros((0, 0))
    if not len(joined):
        raise ValueError(f"{name}: expected some that are known, got none in {len(found)} episodes; set it to none")
    std = joined.std(0)
    return Scale(torch.from_numpy(joined.mean(0)).float(), torch.from_numpy(np.where(std < _STILL, 1.0, std)).float())
