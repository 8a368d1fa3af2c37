"""Our side of a vision row: the method that the settings build, stepped as the trainer steps it."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from driver import TOTAL, Stopwatch
from torch import Tensor
from vision_cases import DECAY, LR, MOMENTUM, Case, Options, Step, lengths, read_steps

from jepa_core.config import compose
from jepa_core.contracts import Batch, Grid, Mask, Sites
from jepa_core.methods.masked import MaskedPrediction
from jepa_core.settings import RunSettings
from jepa_core.train import optim
from jepa_core.train.schedule import Rates
from jepa_vision.modality import MODALITY as IMAGES
from jepa_vision.settings import VisionRun
from jepa_vision.video_modality import MODALITY as CLIPS
from jepa_vision.video_settings import VideoRun


class StoredMasks:
    """A masker that gives the masks of a step."""

    def __init__(self, steps: list[Step]) -> None:
        self.masks = [_masks(step) for step in steps]

    def __call__(self, grid: Grid, seeds: Tensor, batch_seed: int) -> tuple[Mask, ...]:
        """Those of the step whose number is the batch seed."""
        return self.masks[batch_seed]


def _masks(step: Step) -> tuple[Mask, ...]:
    pairs = zip(step.context, step.targets, strict=True)
    # As maskers give them: the union need not be had where the target encoder sees everything.
    return tuple(
        Mask(str(index), Sites(seen), Sites(hidden), Sites(hidden).flat()) for index, (seen, hidden) in enumerate(pairs)
    )


def settings_of(case: Case, folder: Path, more: list[str]) -> tuple[RunSettings, Any]:
    """The run's settings, and the modality that builds from them."""
    modality: Any
    schema, modality, recipe = (VisionRun, IMAGES, "ijepa_vitb16")
    if case.family == "vjepa":
        schema, modality, recipe = (VideoRun, CLIPS, "vjepa_vitl16")  # type: ignore[assignment]  # both are runs
    overrides = [
        "data.root=null",
        f"data.height={case.side}",
        f"data.width={case.side}",
        f"vision.encoder.size={case.model}",
        "vision.encoder.patch=16",
        f"vision.predictor.depth={case.depth}",
        f"vision.target.momentum_start={MOMENTUM}",
        f"vision.target.momentum_end={MOMENTUM}",
        f"vision.weights={folder / 'weights.pth.tar'}",
        *more,
    ]
    return compose(schema, modality.recipes / f"{recipe}.yaml", overrides), modality


class Ours:
    """See :class:`driver.Work`."""

    def __init__(self, options: Options) -> None:
        case: Case = options["case"]
        folder = Path(options["folder"])
        self.steps = read_steps(folder)
        config, modality = settings_of(case, folder, list(options["settings"]))
        self.method: MaskedPrediction = modality.build(config).train()
        self.method.masker = StoredMasks(self.steps)
        self.method.watched = False
        self.groups = list(self.method.parameter_groups())
        self.optimizer, _, _ = optim.build_optimizer(self.groups, config.optimizer, torch.device("cpu"))
        self.parameters = [parameter for group in self.groups for _, parameter in group.parameters]
        self.autocast = options["precision"] == "bf16"
        self.watch = Stopwatch()
        self.done = 0
        _observe(self.method, self.watch)

    def facts(self) -> Mapping[str, Any]:
        """Losses of a turn that trains, and the lengths of its masks."""
        return {"losses": [self.step(number) for number in range(len(self.steps))], "lengths": lengths(self.steps)}

    def turn(self) -> Mapping[str, float]:
        """Every stored step once."""
        self.watch.take()
        with self.watch.of(TOTAL):
            for number in range(len(self.steps)):
                self.step(number)
        found = self.watch.take()
        found["loss"] = found.pop("forward") - sum(
            found.get(stage, 0.0) for stage in ("input", "target", "context", "predictor")
        )
        return found

    def step(self, number: int) -> float:
        """As ``Trainer._take_step`` on one process, with the loss read after each step as the references do."""
        step, watch = self.steps[number], self.watch
        count = len(step.inputs)
        batch = Batch(step.inputs, torch.arange(count), tuple(map(str, range(count))), batch_seed=number)
        optim.apply_rates(self.optimizer, Rates(LR, DECAY, 0.9))
        kind = torch.autocast("cpu", torch.bfloat16) if self.autocast else contextlib.nullcontext()
        with watch.of("forward"), kind:
            loss = self.method(batch, self.done + 1).total
        with watch.of("backward"):
            loss.backward()
        with watch.of("optimiser"):
            torch.nn.utils.clip_grad_norm_(self.parameters, float("inf"))
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
        self.done += 1
        with watch.of("moving average"):
            self.method.after_step(self.done)
        return float(loss.detach())


def _observe(method: Any, watch: Stopwatch) -> None:
    watch.watch(method.front_end, "input")
    watch.watch(method.target.encoder, "target")
    watch.watch(method.encoder, "context")
    watch.watch(method.predictor, "predictor")


def build(options: Options) -> Ours:
    """For :class:`driver.Side`."""
    return Ours(options)
