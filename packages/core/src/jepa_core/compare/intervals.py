"""Intervals that do not bootstrap rows: a copied row is its own perfect neighbour and would count as agreement."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np

from jepa_core.compare.arrays import Array
from jepa_core.compare.groups import Codes

Z95 = 1.96
DRAWS = 100
"""Halves that subsampling draws."""


def jackknife_se(without: Array) -> float:
    """Standard error from the values without each row or group: ``sqrt((G-1)/G sum (t_g - mean t)^2)``."""
    count = len(without)
    return math.sqrt((count - 1) / count * float(((without - without.mean()) ** 2).sum()))


def jackknife(measure: Callable[[Codes], float], codes: Codes) -> Array:
    """The value of a measure without each group of rows, ``[G]``, by computing it anew.

    Args:
        measure: of the rows whose numbers it is given.
        codes: group of each row.
    """
    return np.array([measure(np.flatnonzero(codes != group)) for group in range(int(codes.max()) + 1)])


def halves(codes: Codes, draws: int, seed: int) -> Iterator[Codes]:
    """Random halves of the groups, without replacement, as rising row numbers."""
    generator = np.random.default_rng(seed)
    groups = int(codes.max()) + 1
    for _ in range(draws):
        chosen = np.zeros(groups, dtype=bool)
        chosen[generator.permutation(groups)[: groups // 2]] = True
        yield np.flatnonzero(chosen[codes])


def subsampling_se(values: Array, groups: int) -> float:
    """Standard error from values of random halves of so many groups or rows, rescaled by ``sqrt(m / (n - m))``."""
    half = groups // 2
    return float(np.std(values, ddof=1)) * math.sqrt(half / (groups - half))


def interval(value: float, se: float, lowest: float, highest: float) -> tuple[float, float]:
    """``value +- 1.96 se`` within the range of the measure."""
    if not math.isfinite(value) or not math.isfinite(se):
        return math.nan, math.nan
    return max(lowest, value - Z95 * se), min(highest, value + Z95 * se)
