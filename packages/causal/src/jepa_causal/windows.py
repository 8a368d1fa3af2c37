"""A window of an episode, as it passes between the loader, the front end, the encoder and the predictor."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from jepa_core.contracts import Condition
from jepa_core.lattice import Lattice


@dataclass(frozen=True)
class SlotWindow:
    """T model steps of B episodes with K slots each: the ``inputs`` of a batch.

    Attributes:
        slots: float32 ``[B, T, K, D]``.
        present: bool ``[B, T, K]``, which slots hold an object; None = all (the static fast path).
        actions: float32 ``[B, T, A]``; ``actions[:, t]`` leads from model step t to t + 1. None = there are none.
        action_valid: bool ``[B, T]``; None = all are known.
        proprio: float32 ``[B, T, P]``, what the agent knows of itself. None = there is none.
        proprio_valid: bool ``[B, T]``; None = all are known.
    """

    slots: Tensor
    present: Tensor | None = None
    actions: Tensor | None = None
    action_valid: Tensor | None = None
    proprio: Tensor | None = None
    proprio_valid: Tensor | None = None

    @property
    def lattice(self) -> Lattice:
        """Model steps by slots."""
        return slot_lattice(self.slots.shape[1], self.slots.shape[2])


def slot_lattice(steps: int, slots: int) -> Lattice:
    """The lattice of a window: (t, slot), one id for each slot of each step."""
    return Lattice(("t", "slot"), (steps, slots), (1.0, 1.0), ("step", "slot"), (0.0, 0.0))


def condition_of(window: SlotWindow) -> Condition | None:
    """Actions, then proprioception, as one condition ``[B, S * T, max(A, P)]`` of S streams; None without either.

    A narrower stream is filled up with zeros on the right.
    """
    streams = [
        (features, valid)
        for features, valid in ((window.actions, window.action_valid), (window.proprio, window.proprio_valid))
        if features is not None
    ]
    if not streams:
        return None
    width = max(features.shape[-1] for features, _ in streams)
    joined = torch.cat([torch.nn.functional.pad(x, (0, width - x.shape[-1])) for x, _ in streams], dim=1)
    steps = torch.arange(window.slots.shape[1], device=joined.device)
    at = steps.repeat(len(streams)).expand(joined.shape[:2])
    if all(valid is None for _, valid in streams):
        return Condition(joined, at)
    masks = [x.new_ones(x.shape[:2], dtype=torch.bool) if valid is None else valid for x, valid in streams]
    return Condition(joined, at, torch.cat(masks, dim=1))
