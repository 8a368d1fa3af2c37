"""Neighbours of a few samples in both tables, side by side: where they agree most, as usual, and least."""

from __future__ import annotations

import numpy as np

from jepa_core.compare.arrays import Array, centred
from jepa_core.compare.inputs import Features
from jepa_core.compare.neighbours import Lists, nearest, overlaps
from jepa_core.compare.scores import Example, Neighbour

EXAMPLES = 6
SHOWN = 5


def side_by_side(x: Array, y: Array, a: Features, b: Features, k: int) -> tuple[Example, ...]:
    """Examples from most to least common neighbours: two of each end and two of the middle.

    Args:
        x, y: the features that were compared, row i of the same sample.
        a, b: whose names and labels are shown.
        k: neighbours.
    """
    k = min(k, len(x) - 1)
    if len(x) < EXAMPLES or k < 1:
        return ()
    lists = nearest(centred(x), k), nearest(centred(y), k)
    shared = overlaps(lists[0].ids, lists[1].ids)
    order = np.argsort(-shared, kind="stable")
    middle = len(order) // 2
    chosen = dict.fromkeys([*order[:2].tolist(), *order[middle - 1 : middle + 1].tolist(), *order[-2:].tolist()])
    return tuple(_example(row, lists, a, b, int(shared[row])) for row in chosen)


def _example(row: int, lists: tuple[Lists, Lists], a: Features, b: Features, overlap: int) -> Example:
    near = [[int(other) for other in side.ids[row]] for side in lists]
    common = set(near[0]) & set(near[1])
    shown = [
        tuple(Neighbour(_name(a, other), _label(a, b, other), other in common) for other in side[:SHOWN])
        for side in near
    ]
    return Example(_name(a, row), _label(a, b, row), overlap, shown[0], shown[1])


def _name(table: Features, row: int) -> str:
    return f"row {row}" if table.sample_id is None else str(table.sample_id[row])


def _label(a: Features, b: Features, row: int) -> str:
    for table in (a, b):
        if table.label is not None and table.label[row] is not None:
            return str(table.label[row])
    return ""
