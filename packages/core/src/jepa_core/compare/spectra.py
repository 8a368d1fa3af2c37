"""How a table's variance is spread over directions: defined without pairs, and silent about what the directions mean.

Source of RankMe: Garrido et al. 2023.
"""

from __future__ import annotations

import numpy as np

from jepa_core.compare.arrays import Array, as_table, centred

MEANING = "A similar spectrum is a similar shape, never similar content."


def _rank(x: Array) -> float:
    values = np.linalg.svd(x, compute_uv=False)
    shares = values / values.sum() + 1e-7
    return float(np.exp(-(shares * np.log(shares)).sum()))


def rankme(x: Array) -> float:
    """RankMe: the exponential of the entropy of singular values of uncentred rows."""
    return _rank(as_table("rankme", x))


def rankme_centred(x: Array) -> float:
    """RankMe of centred rows."""
    return _rank(centred(as_table("rankme", x)))


def spectrum(x: Array) -> Array:
    """Eigenvalues of the covariance (``ddof=1``), falling, ``[D]``.

    Raises:
        ValueError: fewer than 2 rows, or rows that are all the same.
    """
    x = as_table("spectrum", x)
    if len(x) < 2:
        raise ValueError(f"spectrum: expected at least 2 rows, got {len(x)}")
    shifted = centred(x)
    values = np.linalg.eigvalsh(shifted.T @ shifted / (len(x) - 1))[::-1]
    if not values[0] > 0:
        raise ValueError("spectrum: expected rows that differ, got all the same")
    return np.maximum(values, 0.0)


def participation_ratio(x: Array) -> float:
    """``(sum l)^2 / sum l^2`` of the covariance's eigenvalues: 1 for one direction, D for all alike."""
    values = spectrum(x)
    return float(values.sum() ** 2 / (values**2).sum())


def spectral_distance(x: Array, y: Array) -> float:
    """Total variation distance of two spectra that sum to 1, 0 to 1; the shorter is filled with zeros."""
    first, second = spectrum(x), spectrum(y)
    width = max(len(first), len(second))
    shares = [np.pad(values / values.sum(), (0, width - len(values))) for values in (first, second)]
    return 0.5 * float(np.abs(shares[0] - shares[1]).sum())
