"""Predictors that learn nothing, with the calls of one that does: what a trained one must beat.

The position probe is affine, so copying or extrapolating slots is copying or extrapolating the positions it reads.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from jepa_causal.clips import History
from jepa_causal.forecast import complete, forecast
from jepa_core.contracts import Method

CHUNK = 256
"""Windows predicted at once."""


class Forecaster(Protocol):
    """Predicts slots."""

    def forecast(self, history: History, steps: int) -> Tensor:
        """Slots ``[B, steps, K, D]`` of the steps after the history, on the CPU."""
        ...

    def complete(self, history: History, hidden_BK: Tensor) -> Tensor | None:
        """Slots ``[B, T_h, K, D]`` with the hidden ones filled in after the first step; None where it cannot."""
        ...


class CopyLast:
    """Nothing moves: the slot last seen; for a hidden object the one of the first step (its anchor)."""

    def forecast(self, history: History, steps: int) -> Tensor:
        """The last slots, again and again."""
        return history.slots[:, -1:].expand(-1, steps, -1, -1)

    def complete(self, history: History, hidden_BK: Tensor) -> Tensor:
        """The first slots of what is hidden."""
        return torch.where(hidden_BK[:, None, :, None], history.slots[:, :1], history.slots)


class ConstantVelocity:
    """Everything goes on as from the last step but one to the last."""

    def forecast(self, history: History, steps: int) -> Tensor:
        """Straight on."""
        last = history.slots[:, -1:]
        before = history.slots[:, -min(2, history.slots.shape[1])].unsqueeze(1)  # a single step stands still
        return last + (last - before) * torch.arange(1, steps + 1).view(1, -1, 1, 1)

    def complete(self, history: History, hidden_BK: Tensor) -> None:
        """One step alone has no velocity."""


@dataclass(frozen=True)
class MethodForecaster:
    """A trained method as a forecaster.

    Attributes:
        method: of the causal modality, on ``device``.
        device: where it computes.
    """

    method: Method
    device: torch.device

    def forecast(self, history: History, steps: int) -> Tensor:
        """See :func:`jepa_causal.forecast.forecast`."""
        module = self._module()

        def run(part: History, _: Tensor) -> Tensor:
            return forecast(module, part.slots, part.present, steps, part.actions, part.proprio)

        return self._chunked(history, torch.zeros(len(history.slots)), run)

    def complete(self, history: History, hidden_BK: Tensor) -> Tensor:
        """See :func:`jepa_causal.forecast.complete`."""
        module = self._module()

        def run(part: History, hidden: Tensor) -> Tensor:
            return complete(module, part.slots, hidden, part.present, part.actions, part.proprio)

        return self._chunked(history, hidden_BK, run)

    def _module(self) -> nn.Module:
        assert isinstance(self.method, nn.Module), "a contract of Method"
        return self.method

    @torch.no_grad()
    def _chunked(self, history: History, beside: Tensor, run: Callable[[History, Tensor], Tensor]) -> Tensor:
        """``run`` on the device, a few windows at a time."""
        parts = []
        for rows in torch.arange(len(history.slots)).split(CHUNK):
            part = history.at(rows).to(self.device)
            parts.append(run(part, beside[rows].to(self.device)).cpu())
        return torch.cat(parts)
