"""Predictors that know nothing of other objects, with the calls of one that does: what a trained one must beat.

The position probe is affine, so copying or extrapolating slots is copying or extrapolating the positions it reads.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from jepa_causal.clips import History
from jepa_causal.data import Presence
from jepa_causal.episodes import Episode
from jepa_causal.forecast import complete, forecast
from jepa_causal.probe import fit_ridge
from jepa_core.contracts import Method

CHUNK = 256
"""Windows predicted at once."""

LINEAR_PENALTIES = (1e-7, 1e-5, 1e-3, 1e-1)
"""Tried for the linear control, as shares of the number of rows: fewer than for the probe, it has far more outputs."""


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
class OwnLinear:
    """A linear map from an object's own last slots: what can be said of its future without looking at others.

    Attributes:
        weight: float64 ``[H * D, S * D]``, of H slots that are read to the changes from the last of them in S steps.
        bias: float64 ``[S * D]``.
        reads: H.
    """

    weight: Tensor
    bias: Tensor
    reads: int

    def forecast(self, history: History, steps: int) -> Tensor:
        """Each object by itself, S steps at a time."""
        slots = history.slots.double()
        while slots.shape[1] < history.slots.shape[1] + steps:
            last = slots[:, -self.reads :]
            change_BKF = last.transpose(1, 2).flatten(2) @ self.weight + self.bias
            change_BKSD = change_BKF.unflatten(2, (-1, slots.shape[-1]))
            slots = torch.cat([slots, last[:, -1:] + change_BKSD.transpose(1, 2)], dim=1)
        start = history.slots.shape[1]
        return slots[:, start : start + steps].float()

    def complete(self, history: History, hidden_BK: Tensor) -> None:
        """A hidden object has no last slots."""


def fit_own_linear(episodes: Sequence[Episode], history: int, future: int, presence: Presence = "given") -> OwnLinear:
    """Ridge regression on windows of training episodes, the penalty chosen by cross-validation over episodes.

    Args:
        episodes: at least two, with slots, at model steps.
        history: steps that a predictor may read; the last two of them are read here.
        future: steps that are predicted at once.
        presence: see :class:`jepa_causal.data.Cut`.

    Raises:
        ValueError: no object is there for as long in two episodes.
    """
    reads = min(2, history)
    past, ahead, number = [], [], []
    for index, episode in enumerate(episodes):
        windows_RTD = _own_windows(episode, reads + future, presence)
        past.append(windows_RTD[:, :reads].flatten(1))
        ahead.append((windows_RTD[:, reads:] - windows_RTD[:, reads - 1 : reads]).flatten(1))
        number.append(torch.full((len(windows_RTD),), index))
    x, y, episode_R = torch.cat(past), torch.cat(ahead), torch.cat(number)
    if len(episode_R.unique()) < 2:
        raise ValueError(
            f"linear control: expected objects that are there for {reads + future} steps in 2 training episodes or "
            f"more, got {len(episode_R.unique())}; raise data.episodes"
        )
    weight, bias, _, _ = fit_ridge(x, y, episode_R, LINEAR_PENALTIES)
    return OwnLinear(weight, bias, reads)


def _own_windows(episode: Episode, length: int, presence: Presence) -> Tensor:
    """Slots of every object at every run of ``length`` steps at all of which it is there, ``[R, length, D]``."""
    assert episode.slots is not None
    if episode.steps < length:
        return torch.zeros(0, length, episode.slots.shape[-1])
    windows_SKDT = np.lib.stride_tricks.sliding_window_view(episode.slots, length, axis=0)
    there_SK = np.isfinite(windows_SKDT).all((2, 3))
    if presence == "given" and episode.present is not None:
        there_SK &= np.lib.stride_tricks.sliding_window_view(episode.present, length, axis=0).all(-1)
    return torch.from_numpy(windows_SKDT[there_SK]).transpose(1, 2)


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
