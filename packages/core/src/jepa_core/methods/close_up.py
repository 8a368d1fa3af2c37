"""Few valid rows among many are moved together, so that what follows is as large as they are, not as the lattice."""

from __future__ import annotations

import torch
from torch import Tensor

# Above this share of valid rows a copy of them saves less than it costs.
_AT_MOST = 0.5


def close_up(features: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """The valid rows of each sample first and in order, ``[B, M, D]``, and which are real, bool ``[B, M]``.

    M is the count of the sample that has most, at least 1. Only on a CPU: elsewhere it would wait for the device to
    learn M, and the rows are returned as they came.

    Args:
        features: ``[B, N, D]``.
        valid: bool ``[B, N]``.
    """
    if features.device.type != "cpu":
        return features, valid
    count_B = valid.sum(1)
    most = max(int(count_B.max()), 1)
    if most > _AT_MOST * valid.shape[1]:
        return features, valid
    place_BM = valid.int().argsort(dim=1, descending=True, stable=True)[:, :most]
    start = torch.arange(len(valid), device=valid.device)[:, None] * valid.shape[1]
    rows = features.flatten(0, 1).index_select(0, (place_BM + start).flatten())
    return rows.unflatten(0, place_BM.shape), torch.arange(most, device=valid.device) < count_B[:, None]
