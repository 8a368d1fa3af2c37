"""What every measure asks of its two arrays, and the few operations they share; all in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def as_table(name: str, x: Any) -> Array:
    """``x`` as float64 ``[N, D]``.

    Raises:
        ValueError: not two-dimensional, no column, or not finite everywhere.
    """
    found = np.asarray(x, dtype=np.float64)
    if found.ndim != 2 or not found.shape[1]:
        raise ValueError(f"{name}: expected an array [samples, features], got shape {list(found.shape)}")
    if not np.isfinite(found).all():
        bad = int((~np.isfinite(found).all(1)).sum())
        raise ValueError(f"{name}: expected finite numbers, got NaN or infinity in {bad} of {len(found)} rows")
    return found


def as_pair(name: str, x: Any, y: Any, least: int) -> tuple[Array, Array]:
    """Both tables, checked.

    Raises:
        ValueError: as :func:`as_table`; unequal numbers of rows; fewer than ``least``.
    """
    first, second = as_table(name, x), as_table(name, y)
    if len(first) != len(second):
        raise ValueError(f"{name}: expected as many rows in both tables, got {len(first)} and {len(second)}")
    if len(first) < least:
        raise ValueError(f"{name}: expected at least {least} paired rows, got {len(first)}")
    return first, second


def centred(x: Array) -> Array:
    """``x`` minus its mean row."""
    return x - x.mean(0)


def row_norms_squared(x: Array) -> Array:
    """Squared length of each row, ``[N]``."""
    return np.einsum("nd,nd->n", x, x)


def unit_rows(x: Array) -> Array:
    """Rows of length 1; a row of zeros stays."""
    lengths = np.sqrt(row_norms_squared(x))
    return x / np.where(lengths > 0, lengths, 1.0)[:, None]


def is_constant(x: Array) -> bool:
    """Whether all rows are the same but for rounding."""
    return float(row_norms_squared(centred(x)).sum()) <= 1e-26 * float(row_norms_squared(x).sum())
