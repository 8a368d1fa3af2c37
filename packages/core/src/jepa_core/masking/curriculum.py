"""Masks that change during training: the contract, and A-JEPA's curriculum (arXiv 2311.15830) from easy to hard."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

from torch import Tensor

from jepa_core.contracts import Grid, Mask, Masker
from jepa_core.masking.block import MultiBlockMasker
from jepa_core.masking.layout import batch_draws
from jepa_core.masking.time_frequency import TimeFrequencyMasker

Root = Literal["inside", "outside"]

_STREAM = 195


@runtime_checkable
class Curriculum(Masker, Protocol):
    """A masker that depends on the step. Promise: what :meth:`at` gives follows from the step alone.

    Called without a step it draws the masks of the last one.
    """

    def at(self, step: int) -> Masker:
        """The masker of an optimiser step, counted from 0."""
        ...


@dataclass(frozen=True)
class Mixture:
    """One of two maskers for each batch.

    Attributes:
        early, late: the maskers.
        chance: of the late one; drawn from the batch's seed, so that all processes agree.
    """

    early: Masker
    late: Masker
    chance: float

    def __call__(self, grid: Grid, seeds: Tensor, batch_seed: int) -> tuple[Mask, ...]:
        """Masks of one of the two; see :class:`jepa_core.contracts.Masker`."""
        (draw,) = batch_draws(batch_seed, 1, _STREAM)
        return (self.late if draw < self.chance else self.early)(grid, seeds, batch_seed)


class RootCurriculum:
    """Moves from one masker to another: at step s of S each batch takes the late one with the chance f(s).

    ``inside``: f(s) = sqrt(s (1 - c^2) / S + c^2), the usual curriculum of competence (arXiv 1903.09848, eq. 8).
    ``outside``: f(s) = min(1, sqrt(s (1 - c^2) / S) + c^2), as notes on A-JEPA print it. At c = 0.01 they differ by
    less than 0.01 but for the first steps.

    RECONSTRUCTED: A-JEPA's code was never released, and the geometry of its late masks is our reading of third-party
    notes, see ``time_frequency.py``. The contexts have the fixed lengths of those maskers. With the maskers exchanged
    this is the reversed curriculum of its ablation.

    Args:
        steps: S, optimiser steps of the curriculum; afterwards it stays at its end.
        start: c, the chance at step 0 (``inside``; its square ``outside``).
        root: where the constant stands, see above.
        early: masker of the beginning; None = four blocks of 15 to 20 % inside the grid.
        late: masker of the end; None = three time-frequency targets of 5 to 7.5 %.
    """

    def __init__(
        self,
        steps: int,
        start: float = 0.01,
        root: Root = "outside",
        early: Masker | None = None,
        late: Masker | None = None,
    ) -> None:
        if steps < 1 or not 0 <= start <= 1 or root not in ("inside", "outside"):
            raise ValueError(
                f"steps, start, root: expected 1 or more, a chance from 0 to 1, and inside or outside, got {steps}, "
                f"{start} and {root!r}"
            )
        self.steps, self.start, self.root = steps, start, root
        self.early: Masker = MultiBlockMasker(edges="inside", fit="fitted") if early is None else early
        self.late: Masker = TimeFrequencyMasker() if late is None else late

    def chance(self, step: int) -> float:
        """f(step), the chance of the late masker."""
        if step < 0:
            raise ValueError(f"step: expected 0 or more, got {step}")
        least = self.start**2
        grown = min(step, self.steps) / self.steps * (1 - least)
        return math.sqrt(grown + least) if self.root == "inside" else min(1.0, math.sqrt(grown) + least)

    def at(self, step: int) -> Masker:
        """The masker of an optimiser step, counted from 0."""
        return Mixture(self.early, self.late, self.chance(step))

    def __call__(self, grid: Grid, seeds: Tensor, batch_seed: int) -> tuple[Mask, ...]:
        """Masks of the last step; see :class:`jepa_core.contracts.Masker`."""
        return self.at(self.steps)(grid, seeds, batch_seed)
