"""Measures of who is near whom: mutual k-nearest neighbours, Jaccard, and CKNNA, from exact cosine neighbours.

Sources: Huh et al. 2024, "The Platonic Representation Hypothesis" (mutual kNN, CKNNA).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from jepa_core.compare.arrays import Array, as_pair, centred, unit_rows
from jepa_core.compare.groups import Codes, sizes_of

BLOCK_BYTES = 64 * 2**20
"""Similarities held at a time while neighbours are found."""


@dataclass(frozen=True)
class Lists:
    """Neighbours of a table.

    Attributes:
        ids: rows by falling cosine, ``[N, depth]``; ties by rising row.
        similarity: their cosines, ``[N, depth]``.
        k: how many count; the rest stand ready for when rows are left out.
    """

    ids: Codes
    similarity: Array
    k: int


def nearest(x: Array, k: int, depth: int | None = None) -> Lists:
    """Exact neighbours by cosine of uncentred rows, never a row itself; equal cosines go to the smaller row.

    O(N^2 D) time, a bounded block of similarities at a time.

    Args:
        x: ``[N, D]``.
        k: neighbours that count, 1 to N - 1.
        depth: neighbours to find, at least ``k``.

    Raises:
        ValueError: ``k`` is not possible with so many rows.
    """
    n = len(x)
    if not 1 <= k <= n - 1:
        raise ValueError(f"k: expected 1 to {n - 1} neighbours for {n} rows, got {k}")
    depth = min(max(k, depth or k), n - 1)
    rows = unit_rows(np.asarray(x, np.float64))
    block = max(1, BLOCK_BYTES // (8 * n))
    found = [_nearest_block(rows, start, min(n, start + block), depth) for start in range(0, n, block)]
    return Lists(np.concatenate([ids for ids, _ in found]), np.concatenate([near for _, near in found]), k)


def _nearest_block(rows: Array, start: int, stop: int, depth: int) -> tuple[Codes, Array]:
    near = rows[start:stop] @ rows.T
    near[np.arange(stop - start), np.arange(start, stop)] = -np.inf
    edge = np.partition(near, near.shape[1] - depth, axis=1)[:, -depth][:, None]
    above, level = near > edge, near == edge
    room = depth - above.sum(1)[:, None]
    chosen = above | (level & (np.cumsum(level, axis=1) <= room))
    ids = np.nonzero(chosen)[1].reshape(stop - start, depth)
    values = np.take_along_axis(near, ids, 1)
    order = np.argsort(-values, axis=1, kind="stable")
    return np.take_along_axis(ids, order, 1), np.take_along_axis(values, order, 1)


def reorder(lists: Lists, order: Codes) -> Lists:
    """The neighbours of the rows in another order, without looking for them again."""
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    return Lists(place[lists.ids[order, : lists.k]], lists.similarity[order, : lists.k], lists.k)


def overlaps(first: Codes, second: Codes) -> Codes:
    """How many rows two lists share, ``[N]``."""
    both = np.sort(np.concatenate([first, second], axis=1), axis=1)
    return (both[:, 1:] == both[:, :-1]).sum(1)


def mutual(left: Lists, right: Lists) -> float:
    """Mean share of common neighbours."""
    k = left.k
    return float(overlaps(left.ids[:, :k], right.ids[:, :k]).mean()) / k


def jaccard(left: Lists, right: Lists) -> float:
    """Mean of common neighbours over neighbours in either list."""
    k = left.k
    shared = overlaps(left.ids[:, :k], right.ids[:, :k])
    return float((shared / (2 * k - shared)).mean())


def cknna_score(left: Lists, right: Lists) -> float:
    """CKNNA by our reading of unbiased HSIC for masks that are not symmetric: column sums go with column sums."""
    cross = _masked_hsic(left, right)
    own = _masked_hsic(left, left) * _masked_hsic(right, right)
    return cross / math.sqrt(own) if own > 0 else math.nan


def _masked_hsic(left: Lists, right: Lists) -> float:
    n, k = left.ids.shape[0], left.k
    ids, other = left.ids[:, :k], right.ids[:, :k]
    row, first, second = np.nonzero(ids[:, :, None] == other[:, None, :])
    column = ids[row, first]
    a, b = left.similarity[row, first], right.similarity[row, second]
    columns_a, columns_b = (np.bincount(column, weights, n) for weights in (a, b))
    total = float(a @ b) + float(a.sum()) * float(b.sum()) / ((n - 1) * (n - 2))
    return (total - 2 * float(columns_a @ columns_b) / (n - 2)) / (n * (n - 3))


def deletions(left: Lists, right: Lists, codes: Codes) -> Array | None:
    """Mutual kNN without each group of rows, ``[G]``; None where the lists are too short for that.

    Only rows that have a row of the group among their neighbours change, so each group costs what it touches.
    """
    k, n = left.k, len(codes)
    largest = int(sizes_of(codes).max())
    if min(left.ids.shape[1], right.ids.shape[1]) < k + largest or n - largest - 1 < k:
        return None
    shared = overlaps(left.ids[:, :k], right.ids[:, :k])
    touched = _touched(left, right, codes)
    found = []
    for group, rows in enumerate(touched):
        gone = codes == group
        rows = rows[~gone[rows]]
        first, second = (_without(lists.ids[rows], gone, k) for lists in (left, right))
        total = shared[~gone].sum() - shared[rows].sum() + overlaps(first, second).sum()
        found.append(total / ((n - gone.sum()) * k))
    return np.array(found)


def _touched(left: Lists, right: Lists, codes: Codes) -> list[Codes]:
    """For each group, the rows that have one of its rows among their first k neighbours in either table."""
    near = codes[np.concatenate([left.ids[:, : left.k], right.ids[:, : left.k]], axis=1)]
    row = np.repeat(np.arange(len(codes)), near.shape[1])
    order = np.argsort(near.reshape(-1), kind="stable")
    starts = np.searchsorted(near.reshape(-1)[order], np.arange(int(codes.max()) + 2))
    return [np.unique(row[order[starts[g] : starts[g + 1]]]) for g in range(len(starts) - 1)]


def _without(ids: Codes, gone: np.ndarray, k: int) -> Codes:
    """The first k neighbours that are still there."""
    kept = ~gone[ids]
    first = kept & (np.cumsum(kept, axis=1) <= k)
    return ids[np.nonzero(first)].reshape(len(ids), k)


# --------------------------------------------------------------------------------------------------------------------
# Measures as plain functions
# --------------------------------------------------------------------------------------------------------------------


def _both(name: str, x: Array, y: Array, k: int, least: int = 3) -> tuple[Lists, Lists]:
    x, y = as_pair(name, x, y, least)
    return nearest(x, k), nearest(y, k)


def mutual_knn(x: Array, y: Array, k: int = 10) -> float:
    """Mean share of common cosine neighbours, uncentred, 0 to 1; k / (N - 1) by chance.

    Args:
        x: ``[N, P]``.
        y: ``[N, Q]``, row i of the same sample.
        k: neighbours, below N.
    """
    return mutual(*_both("mutual_knn", x, y, k))


def mutual_knn_centred(x: Array, y: Array, k: int = 10) -> float:
    """Mutual kNN of features minus their mean."""
    return mutual_knn(centred(np.asarray(x, np.float64)), centred(np.asarray(y, np.float64)), k)


def jaccard_knn(x: Array, y: Array, k: int = 10) -> float:
    """Mean of common neighbours over neighbours in either table, uncentred cosine, 0 to 1."""
    return jaccard(*_both("jaccard_knn", x, y, k))


def cknna(x: Array, y: Array, k: int = 10) -> float:
    """CKA of cosines that only counts common neighbours (``k`` from 2); column sums go with column sums."""
    if k < 2:
        raise ValueError(f"cknna: expected k of at least 2, got {k}")
    return cknna_score(*_both("cknna", x, y, k, least=4))


def cut(lists: Lists, k: int) -> Lists:
    """The same neighbours, of which ``k`` count."""
    return replace(lists, k=k)
