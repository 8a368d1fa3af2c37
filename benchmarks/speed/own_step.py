"""A whole training step of a method as the trainer takes it: rates, forward, backward, clip, optimiser, target."""

from __future__ import annotations

from typing import Any

import torch
from driver import Stopwatch
from rows import StepTaker

from jepa_core.contracts import Batch, Losses
from jepa_core.methods.masked import MaskedPrediction
from jepa_core.settings import RunSettings
from jepa_core.train.optim import apply_rates, build_optimizer
from jepa_core.train.schedule import rates_at


class OwnStep(StepTaker):
    """Our side of a row; no log, no monitor.

    Args:
        method: in train mode, on its device.
        batch: on the same device; every step takes it.
        config: of the run: rates, clipping.
        steps: in a turn.
        factor: of our loss, where the reference's is a multiple of it.
    """

    def __init__(
        self, method: MaskedPrediction, batch: Batch, config: RunSettings, steps: int, factor: float = 1.0
    ) -> None:
        self.method, self.batch, self.config, self.steps, self.factor = method, batch, config, steps, factor
        method.watched = False
        self.optimizer, _, _ = build_optimizer(
            method.parameter_groups(), config.optimizer, next(method.parameters()).device
        )
        self.parameters = [parameter for parameter in method.parameters() if parameter.requires_grad]
        self.count, self.watch = 0, Stopwatch()
        self._watch_parts()

    def _watch_parts(self) -> None:
        parts: dict[str, Any] = {
            "front end": self.method.front_end,
            "context encoder": self.method.encoder,
            "target encoder": getattr(self.method.target, "encoder", None),
            "predictor": self.method.predictor,
        }
        for name, part in parts.items():
            if isinstance(part, torch.nn.Module):
                self.watch.watch(part, name)

    def step(self) -> float:
        """One training step of both encoders, predictor, optimiser and target."""
        self.count += 1
        settings = self.config.trainer
        apply_rates(self.optimizer, rates_at(self.count, settings.max_steps, self.config.optimizer))
        with self.watch.of("forward"):
            losses: Losses = self.method(self.batch, self.count)
        with self.watch.of("backward"):
            losses.total.backward()
        with self.watch.of("optimiser and target"):
            torch.nn.utils.clip_grad_norm_(self.parameters, settings.clip_norm or float("inf"))
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
            self.method.after_step(self.count)
        # Waits for a GPU, as the references do for their logs.
        return self.factor * float(losses.total.detach())
