"""The watch over losses and gradients that are not finite: checked every few steps without a host sync in the step."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from jepa_core.contracts import Batch
from jepa_core.errors import DivergenceError
from jepa_core.train.control import Control


@dataclass(frozen=True)
class _Step:
    """What is kept of a step until it is checked: scalars on the device, and names."""

    step: int
    losses: tuple[Tensor, ...]
    grad_norm: Tensor
    sample_ids: tuple[tuple[str, ...], ...]


class FiniteWatch:
    """Keeps the scalars of the steps since the last check, so that the first bad one can be named exactly."""

    def __init__(self, control: Control) -> None:
        self._control = control
        self._steps: list[_Step] = []

    def note(self, step: int, losses: list[Tensor], grad_norm: Tensor, window: list[Batch]) -> None:
        """Keeps a step's scalars; reads none of them."""
        ids = tuple(batch.sample_id for batch in window)
        self._steps.append(_Step(step, tuple(loss.detach() for loss in losses), grad_norm.detach(), ids))

    def check(self, last_good: str) -> None:
        """Reads what was kept; all processes must call it at the same steps.

        Args:
            last_good: the newest checkpoint, for the message.

        Raises:
            DivergenceError: on every process, naming the first bad step, its samples and the checkpoint.
        """
        found = self._first_bad()
        self._steps = []
        if not self._control.total([int(found is not None)])[0]:
            return
        everywhere = [entry for entry in self._control.gather(found) if entry is not None]
        step = min(entry[0] for entry in everywhere)
        here = [entry for entry in everywhere if entry[0] == step]
        # A bad loss on one process spoils the gradients of all: those that saw only the gradient are not the culprits.
        culprits = [entry for entry in here if entry[1] == "loss"] or here
        ids = [sample_id for entry in culprits for sample_id in entry[2]]
        raise DivergenceError(
            f"the {culprits[0][1]} of step {step} is not finite; samples of this step: {', '.join(ids)}. "
            f"Last good checkpoint: {last_good}. What helps: a lower optimizer.lr, a longer warm-up, "
            f"trainer.precision=fp32, trainer.clip_norm"
        )

    def _first_bad(self) -> tuple[int, str, tuple[str, ...]] | None:
        """(step, what, sample ids) of the first bad step of this process, with one host sync."""
        if not self._steps:
            return None
        flat = torch.stack([value.float() for kept in self._steps for value in (*kept.losses, kept.grad_norm)])
        values = iter(flat.tolist())
        for kept in self._steps:
            losses = [next(values) for _ in kept.losses]
            norm = next(values)
            bad = [ids for loss, ids in zip(losses, kept.sample_ids, strict=True) if not math.isfinite(loss)]
            if bad:
                return kept.step, "loss", tuple(name for ids in bad for name in ids)
            if not math.isfinite(norm):
                return kept.step, "gradient", tuple(name for ids in kept.sample_ids for name in ids)
        return None
