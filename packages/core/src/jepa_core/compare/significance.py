"""Permutation nulls, written once for every measure: p-value, threshold, calibrated score; rows or whole groups.

Source: Groger, Wen and Brbic 2026, arXiv 2602.14486.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from jepa_core.compare.arrays import Array
from jepa_core.compare.groups import Codes, place_in_group, sizes_of


@dataclass(frozen=True)
class Null:
    """A value against those of tables whose pairs were broken.

    Attributes:
        mean, std: of the null (``ddof=1``).
        p_value: share of values, the observed one among them, that reach it.
        tau: what has to be exceeded at level ``alpha``.
        calibrated: 0 at ``tau`` and below, 1 at the highest value possible.
        excess: 0 at the null's mean, 1 at the highest value possible.
        low, high: 2.5 % and 97.5 % of the null.
        count: permutations.
    """

    mean: float
    std: float
    p_value: float
    tau: float
    calibrated: float
    excess: float
    low: float
    high: float
    count: int


def no_null() -> Null:
    """Where rows are not exchangeable, or a value does not exist."""
    nan = math.nan
    return Null(nan, nan, nan, nan, nan, nan, nan, nan, 0)


def summarise(observed: float, null: Array, alpha: float, highest: float) -> Null:
    """What a permutation null says of a value; everything is NaN where the value is."""
    null = np.asarray(null, np.float64)
    count = len(null)
    if not (math.isfinite(observed) and np.isfinite(null).all()):
        return no_null()
    # Equal values may differ in the last digit, by the order of their sums: they count as reached.
    reached = int((null >= observed - 1e-12 * max(1.0, abs(observed))).sum())
    place = math.ceil((1 - alpha) * (count + 1) - 1e-9)
    tau = float(np.sort(np.append(null, observed))[min(place, count + 1) - 1])
    mean = float(null.mean())
    low, high = np.quantile(null, [0.025, 0.975]).tolist()
    calibrated = 0.0 if tau >= highest else float(np.clip((observed - tau) / (highest - tau), 0.0, 1.0))
    excess = 0.0 if mean >= highest else (observed - mean) / (highest - mean)
    std = float(null.std(ddof=1)) if count > 1 else math.nan
    return Null(mean, std, (1 + reached) / (count + 1), tau, calibrated, excess, low, high, count)


def orders(rows: int, count: int, seed: int, codes: Codes | None = None) -> Iterator[Codes]:
    """Random orders of the rows of one table, ``[N]`` each.

    Args:
        rows: N.
        count: how many.
        seed: of the drawing; the same for every measure, so that all see the same orders.
        codes: group of each row, all groups equally large: whole groups change places, and the rows within keep
            their order. None = every row may go anywhere.

    Raises:
        ValueError: groups of different sizes; see :func:`jepa_core.compare.groups.balanced_rows`.
    """
    generator = np.random.default_rng(seed)
    if codes is None:
        yield from (generator.permutation(rows) for _ in range(count))
        return
    sizes = sizes_of(codes)
    if len(set(sizes.tolist())) > 1:
        raise ValueError(f"groups: expected groups of equal size to permute, got sizes {sorted(set(sizes.tolist()))}")
    table = np.empty((len(sizes), int(sizes[0])), dtype=np.intp)
    table[codes, place_in_group(codes)] = np.arange(rows)
    for _ in range(count):
        order = np.empty(rows, dtype=np.intp)
        order[table] = table[generator.permutation(len(table))]
        yield order
