"""Groups of rows that are not exchangeable one by one: their codes, sums over them, and balanced selections."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Codes = NDArray[np.intp]

LEAST_GROUPS = 20
"""Below this many groups a permutation of groups says too little for a p-value."""


def codes_of(names: Sequence[Any] | NDArray[Any]) -> Codes:
    """Groups as whole numbers from 0 in order of appearance, ``[N]``; a row without a group (None) is its own."""
    number: dict[Any, int] = {}
    found = [("row", row) if name is None else ("group", name) for row, name in enumerate(names)]
    return np.array([number.setdefault(name, len(number)) for name in found], dtype=np.intp)


def sizes_of(codes: Codes) -> Codes:
    """Rows of each group, ``[G]``."""
    return np.bincount(codes)


def one_hot_sums(matrix: NDArray[np.float64], codes: Codes) -> NDArray[np.float64]:
    """Sums of the columns of each group, ``[N, G]``."""
    groups = int(codes.max()) + 1
    if groups == len(codes) and (codes == np.arange(groups)).all():
        return matrix
    order = np.argsort(codes, kind="stable")
    starts = np.searchsorted(codes[order], np.arange(groups))
    return np.add.reduceat(matrix[:, order], starts, axis=1)


def balanced_rows(codes: Codes) -> Codes:
    """Rows that make groups of equal size: the first m rows of every group that has m.

    Whole groups can only change places where they are equally large. m is what keeps most rows while at least
    :data:`LEAST_GROUPS` groups stay; it is 1, one row a group, where groups are very unequal.

    Returns:
        Row numbers, rising.
    """
    sizes = sizes_of(codes)
    places = place_in_group(codes)
    least = min(LEAST_GROUPS, len(sizes))
    best = max(
        (m for m in np.unique(sizes).tolist() if m == 1 or (sizes >= m).sum() >= least),
        key=lambda m: m * int((sizes >= m).sum()),
        default=1,
    )
    return np.flatnonzero((places < best) & (sizes[codes] >= best))


def place_in_group(codes: Codes) -> Codes:
    """How many rows of its group stand before each row, ``[N]``."""
    order = np.argsort(codes, kind="stable")
    sizes = sizes_of(codes)
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    places = np.empty(len(codes), dtype=np.intp)
    places[order] = np.arange(len(codes)) - starts[codes[order]]
    return places


def recoded(codes: Codes) -> Codes:
    """Codes without gaps, in order of appearance."""
    _, first, inverse = np.unique(codes, return_index=True, return_inverse=True)
    rank = np.empty(len(first), dtype=np.intp)
    rank[np.argsort(first)] = np.arange(len(first))
    return rank[inverse.reshape(-1)]
