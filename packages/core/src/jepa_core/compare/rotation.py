"""Orthogonal Procrustes: how well one table can be turned, mirrored, shifted and scaled onto the other."""

from __future__ import annotations

import math

import numpy as np

from jepa_core.compare.arrays import Array, as_pair, centred, is_constant


def side(x: Array) -> Array:
    """Centred and scaled to Frobenius norm 1, ``[N, D]``; NaN where all rows are the same."""
    shifted = centred(np.asarray(x, np.float64))
    return np.full_like(shifted, np.nan) if is_constant(x) else shifted / np.linalg.norm(shifted)


def score(left: Array, right: Array) -> float:
    """Nuclear norm of ``X^T Y``; the narrower table counts as padded with zeros."""
    cross = left.T @ right
    return float(np.linalg.svd(cross, compute_uv=False).sum()) if np.isfinite(cross).all() else math.nan


def procrustes(x: Array, y: Array) -> float:
    """Similarity after the best rotation, 0 to 1; it grows with D / N also for independent data.

    Args:
        x: ``[N, P]``.
        y: ``[N, Q]``, row i of the same sample.
    """
    x, y = as_pair("procrustes", x, y, least=2)
    return min(score(side(x), side(y)), 1.0)


def procrustes_squared_distance(x: Array, y: Array) -> float:
    """``2 - 2 t``; its root is a metric."""
    return 2 - 2 * procrustes(x, y)


def procrustes_angle(x: Array, y: Array) -> float:
    """``arccos t`` in radians; a metric."""
    return math.acos(procrustes(x, y))
