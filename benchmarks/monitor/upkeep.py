"""What a step costs beside the method and the monitor: watch over finite numbers, log, progress bar."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import rich.console
import torch
from accelerate import Accelerator

from jepa_core.contracts import Batch, Losses, Method
from jepa_core.monitor.console import REFRESH_PER_SECOND, Console, _View
from jepa_core.settings import LoggingSettings
from jepa_core.train.control import Control
from jepa_core.train.meter import Meter
from jepa_core.train.optim import weight_norm
from jepa_core.train.recorder import Recorder
from jepa_core.train.watch import FiniteWatch


class Upkeep:
    """The trainer's own work around a step.

    Args:
        method: that is trained.
        batch: of a step.
        losses: of that step.
        folder: to write to.
    """

    def __init__(self, method: Method, batch: Batch, losses: Losses, folder: Path) -> None:
        self.groups, self.batch, self.losses = method.parameter_groups(), batch, losses
        device = losses.total.device
        self.norm = torch.ones((), device=device)
        accelerator = Accelerator(cpu=device.type == "cpu")
        self.terminal = rich.console.Console(force_terminal=True, width=100, file=io.StringIO())
        quiet = Console(1000, LoggingSettings(progress="lines"), True, rich.console.Console(file=io.StringIO()))
        self.recorder = Recorder(accelerator, quiet, folder, ["tensorboard"], 0)
        self.meter = Meter(len(batch), device)
        self.finite = FiniteWatch(Control(), weight_norm(self.groups), 1e9)
        self.view, self.step = _View(1000), 0

    def watch(self) -> None:
        """After each step: the norm of all weights, the step's scalars, whether they are finite."""
        self.step += 1
        self.meter.step()
        self.finite.note(self.step, [self.losses.total], self.norm, weight_norm(self.groups), [self.batch])
        self.finite.is_broken()

    def figures(self) -> dict[str, float]:
        """What is written: loss and terms, rates, speed, and forty figures of the monitor."""
        terms = torch.stack([self.losses.total.detach(), *self.losses.terms.values()]).tolist()
        named = dict(zip(("loss", *(f"loss/{name}" for name in self.losses.terms)), terms, strict=True))
        return {**named, "lr": 1e-3, **self.meter.read(), **{f"monitor/figure_{i}": 0.5 for i in range(40)}}

    def log(self) -> None:
        """A line of ``metrics.jsonl``, the tracker, the console."""
        self.recorder.write(self.step, self.figures(), "healthy")

    def draw(self) -> None:
        """The progress bar, once."""
        self.view.set(self.step, {"loss": 0.5, "samples_per_s": 10.0}, "healthy", 60.0)
        self.terminal.print(self.view)

    def work(self, log_every: int) -> dict[str, tuple[Callable[[], Any], Callable[[float], float]]]:
        """By name: what to time, and how many times it is done in a step of so many seconds."""
        return {
            "finite weights, gradients and losses": (self.watch, lambda _: 1.0),
            "log: metrics.jsonl, TensorBoard": (self.log, lambda _: 1 / log_every),
            "progress bar": (self.draw, lambda step_s: REFRESH_PER_SECOND * step_s),
        }
