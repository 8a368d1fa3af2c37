"""Scores of slots against the objects that are there: FG-ARI, mean best overlap, identity over time; and matching."""

from __future__ import annotations

from functools import cache
from itertools import permutations

import numpy as np
import torch
from torch import Tensor

_LONGEST_SEARCH = 5


def fg_ari(found: Tensor, segments: Tensor) -> Tensor:
    """Adjusted Rand index over foreground pixels, float64 ``[B]`` (Hubert and Arabie 1985, eq. 5).

    Equal to scikit-learn's ``adjusted_rand_score`` on the pixels where ``segments > 0``: 1 where both split them alike,
    also where both leave them whole; 0 where one object is split by some slots. NaN where there is no foreground: leave
    it out of a mean (``nanmean``).

    Args:
        found: integers ``[B, ...]``, the slot of each pixel: ``masks.argmax`` over the slots. With the frames of a
            video among the dots, a slot that changes its object costs; frame by frame it does not.
        segments: integers of the same shape: 0 for the background, from 1 for objects.

    Raises:
        ValueError: shapes that differ, or negative numbers.
    """
    table_BGF = overlaps(found, segments)[:, 1:]
    pairs, total = _pairs(table_BGF).sum((1, 2)), _pairs(table_BGF.sum((1, 2)))
    of_objects, of_slots = _pairs(table_BGF.sum(2)).sum(1), _pairs(table_BGF.sum(1)).sum(1)
    expected = of_objects * of_slots / total.clamp(min=1)
    most = (of_objects + of_slots) / 2
    # 0 / 0 where both leave all pixels together or all apart: they agree.
    agree = most == expected
    score = torch.where(agree, 1.0, (pairs - expected) / torch.where(agree, 1.0, most - expected))
    return torch.where(table_BGF.sum((1, 2)) > 0, score, torch.nan)


def mean_best_overlap(found: Tensor, segments: Tensor) -> Tensor:
    """mBO, float64 ``[B]``: for each object the intersection over union of the best slot, and their mean.

    NaN where there is no object. Slots may serve several objects, and the background counts against a slot that spills
    over. Arguments and errors as of :func:`fg_ari`.
    """
    best_BG = _iou(overlaps(found, segments))[:, 1:].amax(2)
    there = _sizes(segments, best_BG.shape[1])
    return torch.where(there, best_BG, 0.0).sum(1) / torch.where(there.any(1), there.sum(1), torch.nan)


def slots_of_objects(found: Tensor, segments: Tensor, objects: int) -> Tensor:
    """The slot with the largest intersection over union with each object, int64 ``[B, N]``; -1 where it has no pixel.

    Args:
        found, segments: as in :func:`fg_ari`.
        objects: N; object i is the number i + 1 in ``segments``.
    """
    if segments.numel() and int(segments.max()) > objects:
        raise ValueError(f"objects: expected at least {int(segments.max())}, the largest in segments, got {objects}")
    best_BG = _iou(overlaps(found, segments, objects))[:, 1:].argmax(2)
    return torch.where(_sizes(segments, objects), best_BG, -1)


def kept_share(slots: Tensor) -> tuple[float, float]:
    """How often an object is in the slot it was in: one frame before, and when it was first seen.

    Args:
        slots: int64 ``[B, T, N]``, the slot of each object as of :func:`slots_of_objects`; -1 where it is not seen.

    Returns:
        Shares of the (object, frame) pairs where it is seen and was before; NaN where there are none.
    """
    seen = slots >= 0
    both = seen[:, 1:] & seen[:, :-1]
    kept = ((slots[:, 1:] == slots[:, :-1]) & both).sum() / both.sum()
    first = seen.long().argmax(1, keepdim=True)
    later = seen & (torch.arange(slots.shape[1], device=slots.device)[:, None] > first)
    same = ((slots == slots.gather(1, first)) & later).sum() / later.sum()
    return float(kept), float(same)


def overlaps(found: Tensor, segments: Tensor, objects: int | None = None) -> Tensor:
    """Pixels that each object and each slot share, float64 ``[B, 1 + N, K]``; row 0 is the background.

    Args:
        found, segments: as in :func:`fg_ari`.
        objects: N; None = the largest number in ``segments``.
    """
    if found.shape != segments.shape or found.ndim < 2:
        raise ValueError(
            f"found, segments: expected one shape [B, ...], got {list(found.shape)} and {list(segments.shape)}; "
            "bring the masks to the size of the segments"
        )
    found_BP, true_BP = found.flatten(1).long(), segments.flatten(1).long()
    if found_BP.numel() == 0:
        return torch.zeros(len(found), 1 + (objects or 0), 1, dtype=torch.float64, device=found.device)
    if int(found_BP.min()) < 0 or int(true_BP.min()) < 0:
        raise ValueError("found, segments: expected numbers from 0, got negative ones")
    slots = int(found_BP.max()) + 1
    rows = 1 + (int(true_BP.max()) if objects is None else objects)
    cells = torch.zeros(len(found), rows * slots, dtype=torch.float64, device=found.device)
    return cells.scatter_add_(1, true_BP * slots + found_BP, cells.new_ones(found_BP.shape)).unflatten(1, (rows, slots))


def _pairs(count: Tensor) -> Tensor:
    return count * (count - 1) / 2


def _iou(table_BGF: Tensor) -> Tensor:
    union = table_BGF.sum(2, keepdim=True) + table_BGF.sum(1, keepdim=True) - table_BGF
    return table_BGF / union.clamp(min=1)


def _sizes(segments: Tensor, objects: int) -> Tensor:
    """Bool ``[B, N]``: which objects have a pixel."""
    numbers = torch.arange(1, objects + 1, device=segments.device)
    return (segments.flatten(1)[:, None].long() == numbers[:, None]).any(2)


def match(a: Tensor, b: Tensor) -> Tensor:
    """The one-to-one matching of two sets of slots with the least sum of squared distances.

    Args:
        a, b: ``[B, K, D]``.

    Returns:
        int64 ``[B, K]``, on the device of ``a``: ``a[i, k]`` belongs to ``b[i, match[i, k]]``. Exact; no gradient.

    Raises:
        ValueError: other shapes, or distances that are not finite.
    """
    if a.shape != b.shape or a.ndim != 3:
        raise ValueError(f"match: expected two times [B, K, D], got {list(a.shape)} and {list(b.shape)}")
    # Not by |a|^2 + |b|^2 - 2ab: for slots close to each other it loses all digits.
    return assign(torch.cdist(a.detach(), b.detach(), compute_mode="donot_use_mm_for_euclid_dist").square())


def assign(cost: Tensor) -> Tensor:
    """The one-to-one assignment of least cost, exact (up to 5 on the device by trying all, above by scipy).

    Args:
        cost: ``[B, K, K]``, finite.

    Returns:
        int64 ``[B, K]``: the column of each row.

    Raises:
        ValueError: other shapes, or a cost that is not finite.
    """
    if cost.ndim != 3 or cost.shape[1] != cost.shape[2]:
        raise ValueError(f"assign: expected costs [B, K, K], got {list(cost.shape)}")
    if not bool(cost.isfinite().all()):
        raise ValueError("assign: expected finite costs, got NaN or infinity; mask the slots that are not there")
    if cost.shape[1] <= _LONGEST_SEARCH:
        return _try_all(cost)
    return _hungarian(cost)


def _try_all(cost: Tensor) -> Tensor:
    orders = torch.tensor(_orders(cost.shape[1]), device=cost.device)
    rows = torch.arange(cost.shape[1], device=cost.device)
    return orders[cost[:, rows, orders].sum(-1).argmin(1)]


@cache
def _orders(count: int) -> list[tuple[int, ...]]:
    return list(permutations(range(count)))


def _hungarian(cost: Tensor) -> Tensor:
    from scipy.optimize import linear_sum_assignment

    columns = [linear_sum_assignment(one)[1] for one in cost.double().cpu().numpy()]
    return torch.from_numpy(np.array(columns, dtype=np.int64).reshape(cost.shape[:2])).to(cost.device)
