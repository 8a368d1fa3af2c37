"""Slots through time (SAVi, arXiv 2111.12594, section 3): a corrector reads a frame, a predictor starts the next."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor, nn

from jepa_causal.slots.attention import SlotAttention
from jepa_core.nn.transformer import Block, Mlp, init_linear

Transition = Literal["attention", "mlp"]


class ResidualMlp(nn.Module):
    """``s + MLP(LN(s))`` for each slot alone, so that slots cannot swap objects; ``[B, K, D]`` to ``[B, K, D]``."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.norm, self.mlp = nn.LayerNorm(width), Mlp(width, hidden)

    def forward(self, slots: Tensor) -> Tensor:
        """``[B, K, D]`` to ``[B, K, D]``."""
        return slots + self.mlp(self.norm(slots))


def transition(kind: Transition, width: int, heads: int, hidden: int) -> nn.Module:
    """The predictor of the next frame's slots: one pre-norm block over the slots, or an MLP on each.

    Raises:
        ValueError: another kind, or heads that do not divide the width.
    """
    if kind not in get_args(Transition):
        raise ValueError(f"predictor: expected one of {', '.join(get_args(Transition))}, got {kind!r}")
    module = ResidualMlp(width, hidden) if kind == "mlp" else Block(width, heads, hidden)
    # Small weights: an untrained predictor hands a slot on nearly as it is.
    return module.apply(init_linear)


class SlotVideo(nn.Module):
    """The recurrence; slots keep their place along K in all frames.

    Args:
        corrector: slot attention.
        predictor: slots of one frame to the start of the next, ``[B, K, D]`` to ``[B, K, D]``.
        later_iterations: rounds of the corrector in all frames but the first, which has the corrector's own.
    """

    def __init__(self, corrector: SlotAttention, predictor: nn.Module, later_iterations: int) -> None:
        super().__init__()
        if later_iterations < 1:
            raise ValueError(f"later_iterations: expected 1 or more, got {later_iterations}")
        self.corrector, self.predictor, self.later_iterations = corrector, predictor, later_iterations

    def forward(self, inputs: Tensor, slots: Tensor, valid: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Slots ``[B, T, K, D]`` and attention ``[B, T, K, P]``; those of frame t know no later frame.

        Args:
            inputs: ``[B, T, P, Din]``.
            slots: where the first frame starts, ``[B, K, D]``.
            valid: bool ``[B, T, P]``; None = all are.
        """
        found, attention = [], []
        for step in range(inputs.shape[1]):
            seen = None if valid is None else valid[:, step]
            rounds = None if step == 0 else self.later_iterations
            start = slots if step == 0 else self.predictor(slots)
            slots, weights = self.corrector(inputs[:, step], start, seen, rounds)
            found.append(slots)
            attention.append(weights)
        return torch.stack(found, 1), torch.stack(attention, 1)
