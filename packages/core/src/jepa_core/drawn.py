"""Rows that a process has drawn from its part of a batch, with what is needed to draw from the whole batch by them."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Drawn:
    """The candidates of this process for a random draw from the rows of all processes.

    The draw takes the rows with the highest keys. A process needs to offer no more than ``most`` of its own, and the
    rows drawn are those that one process with the joined batch would draw, in the same order.

    Attributes:
        features: ``[R, D]``, at most ``most`` rows, those with the highest keys of this process.
        keys: int64 ``[R]``, falling; -1 where there is no row (the features there count nowhere).
        most: rows of the draw.
    """

    features: Tensor
    keys: Tensor
    most: int
