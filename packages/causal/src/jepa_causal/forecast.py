"""Using a trained predictor: rolling slots forward, and filling in objects that are out of sight."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from jepa_causal.encoder import SlotFrontEnd, slot_tokens
from jepa_causal.masking import SLOT_KINDS
from jepa_causal.predictor import SlotPredictor
from jepa_causal.windows import SlotWindow, condition_of
from jepa_core.contracts import Sites
from jepa_core.methods.masked import MaskedPrediction


@dataclass(frozen=True)
class _Streams:
    """Actions ``[B, S, A]`` and proprioception ``[B, S, P]`` from the first step of the history on; NaN = not known."""

    actions: Tensor | None
    proprio: Tensor | None

    def cut(self, start: int, steps: int) -> dict[str, Tensor | None]:
        """Those of so many steps from ``start``, as parts of a window."""
        actions, action_valid = _known(self.actions, start, steps)
        proprio, proprio_valid = _known(self.proprio, start, steps)
        return {
            "actions": actions,
            "action_valid": action_valid,
            "proprio": proprio,
            "proprio_valid": proprio_valid,
        }


@torch.no_grad()
def forecast(
    method: nn.Module,
    slots: Tensor,
    present: Tensor | None,
    steps: int,
    actions: Tensor | None = None,
    proprio: Tensor | None = None,
) -> Tensor:
    """Rolls slots forward, a window's future at a time; what is predicted becomes history of the next window.

    Args:
        method: of :func:`jepa_causal.build.build_method`; it computes in eval mode where it is.
        slots: ``[B, T_h, K, D]``. Longer histories than in training are cut to their end, shorter ones take the last
            codes of time.
        present: bool ``[B, T_h, K]``; None = all. Objects absent at the last step stay so, and their slots are returned
            as the last step holds them. An object is removed from the world by False at all steps.
        steps: model steps to predict.
        actions: ``[B, T_h + steps - 1 or more, A]`` from the first step of the history on, as recorded (not scaled),
            with those of skipped frames side by side; NaN, and what is missing at the end, = not known.
        proprio: ``[B, T_h or more, P]``, likewise; only that of the history is used.

    Returns:
        ``[B, steps, K, D]``.

    Raises:
        ValueError: shapes that do not fit each other or the method, or fewer than one step.
    """
    parts = _parts(method)
    _check(parts, slots, present)
    if steps < 1:
        raise ValueError(f"forecast: expected 1 step or more, got {steps}")
    if proprio is not None:
        proprio = proprio[:, : slots.shape[1]]
    streams, count = _Streams(actions, proprio), slots.shape[1]
    known = torch.ones(slots.shape[:3], dtype=torch.bool, device=slots.device) if present is None else present
    with _evaluating(method):
        while slots.shape[1] < count + steps:
            start = max(0, slots.shape[1] - parts.history)
            new = _future(parts, slots[:, start:], None if present is None else known[:, start:], streams, start)
            slots = torch.cat([slots, new.to(slots.dtype)], dim=1)
            known = torch.cat([known, known[:, -1:].expand(-1, parts.future, -1)], dim=1)
    return slots[:, count : count + steps]


@torch.no_grad()
def complete(
    method: nn.Module,
    slots: Tensor,
    hidden: Tensor,
    present: Tensor | None = None,
    actions: Tensor | None = None,
    proprio: Tensor | None = None,
) -> Tensor:
    """Fills in the history of hidden objects from their first step and from the other objects.

    Args:
        method, present, actions, proprio: as in :func:`forecast`.
        slots: ``[B, T_h, K, D]``, at most the history of training. Of a hidden object only the first step at which it
            is present is read.
        hidden: bool ``[B, K]``.

    Returns:
        ``[B, T_h, K, D]``: what is predicted at the hidden steps, everything else copied.

    Raises:
        ValueError: shapes that do not fit each other or the method.
    """
    parts = _parts(method)
    _check(parts, slots, present)
    steps = slots.shape[1]
    if steps > parts.history:
        raise ValueError(f"complete: expected at most {parts.history} steps of history, got {steps}: cut the slots")
    if hidden.shape != (len(slots), slots.shape[2]):
        raise ValueError(f"complete: expected hidden [B, K] {[len(slots), slots.shape[2]]}, got {list(hidden.shape)}")
    there = torch.ones(slots.shape[:3], dtype=torch.bool, device=slots.device) if present is None else present
    anchor_B1K = there.int().argmax(1, keepdim=True)
    time_T1 = torch.arange(steps, device=slots.device)[:, None]
    fill_BTK = there & hidden[:, None] & (time_T1 > anchor_B1K)
    streams = _Streams(actions, None if proprio is None else proprio[:, :steps])
    with _evaluating(method):
        found = _run(parts, slots, present, there & ~fill_BTK, streams.cut(0, steps + parts.future))
    return torch.where(fill_BTK.unsqueeze(-1), found[:, :steps].to(slots.dtype), slots)


# --------------------------------------------------------------------------------------------------------------------
# One window
# --------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Parts:
    front_end: SlotFrontEnd
    predictor: SlotPredictor

    @property
    def history(self) -> int:
        return self.predictor.history

    @property
    def future(self) -> int:
        return self.predictor.future


def _future(parts: _Parts, slots: Tensor, present: Tensor | None, streams: _Streams, start: int) -> Tensor:
    """The future ``[B, future, K, D]`` of a history that begins at step ``start``; absent slots as they were last."""
    visible = torch.ones(slots.shape[:3], dtype=torch.bool, device=slots.device) if present is None else present
    steps = slots.shape[1]
    found = _run(parts, slots, present, visible, streams.cut(start, steps + parts.future))[:, steps:]
    return found if present is None else torch.where(present[:, -1:, :, None], found, slots[:, -1:])


def _run(
    parts: _Parts, slots: Tensor, present: Tensor | None, visible: Tensor, streams: dict[str, Tensor | None]
) -> Tensor:
    """Predictions ``[B, T_h + future, K, D]`` from the visible slots of a history."""
    future = parts.future
    padded = functional.pad(slots, (0, 0, 0, 0, 0, future))
    if present is not None:
        # Who is there at the end and was seen before stays; who has never been seen cannot be told from others.
        present = torch.cat([present, present[:, -1:].expand(-1, future, -1)], dim=1)
    window, grid = parts.front_end(SlotWindow(padded, present, **streams), slots.new_empty(0, dtype=torch.long))
    whole = Sites.whole(grid.lattice, len(slots), slots.device)
    kind = None if present is None else (~present).flatten(1).long()
    seen = functional.pad(visible, (0, 0, 0, future)).flatten(1)
    context = slot_tokens(window, Sites(whole.ids, seen, kind, SLOT_KINDS, complete=True))
    targets = Sites(whole.ids[:, None], complete=True)
    found: Tensor = parts.predictor(context, targets, condition_of(window))
    return found[:, 0].unflatten(1, (-1, slots.shape[2]))


def _known(x: Tensor | None, start: int, steps: int) -> tuple[Tensor | None, Tensor | None]:
    """So many steps of a stream from ``start``, zeros where not known, and where it is known (None = everywhere)."""
    if x is None:
        return None, None
    part = x[:, start : start + steps]
    known = functional.pad(part.isfinite().all(-1), (0, steps - part.shape[1]))
    part = functional.pad(part.nan_to_num(0.0, 0.0, 0.0), (0, 0, 0, steps - part.shape[1]))
    return part, known


def _parts(method: nn.Module) -> _Parts:
    if not isinstance(method, MaskedPrediction) or not isinstance(method.predictor, SlotPredictor):
        raise ValueError(f"forecast: expected a method of the causal modality, got {type(method).__name__}")
    assert isinstance(method.front_end, SlotFrontEnd)
    return _Parts(method.front_end, method.predictor)


def _check(parts: _Parts, slots: Tensor, present: Tensor | None) -> None:
    width = parts.predictor.project.out_features
    if slots.ndim != 4 or slots.shape[-1] != width or not slots.shape[1]:
        raise ValueError(f"slots: expected [B, T, K, {width}] with a step or more, got {list(slots.shape)}")
    if present is not None and present.shape != slots.shape[:3]:
        raise ValueError(f"present: expected [B, T, K] {list(slots.shape[:3])}, got {list(present.shape)}")


@contextmanager
def _evaluating(method: nn.Module) -> Iterator[None]:
    """Eval mode, and the mode it was in again afterwards."""
    was_training = method.training
    method.eval()
    try:
        yield
    finally:
        method.train(was_training)
