"""Canonical correlations, SVCCA and PWCCA, refused where they are 1 for any data.

Sources: Hotelling 1936; Raghu et al. 2017 (SVCCA); Morcos et al. 2018 (PWCCA).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from jepa_core.compare.arrays import Array, as_pair, centred

KEPT = 0.99
"""Share of the squared singular values that SVCCA keeps."""


class SaturatedError(ValueError):
    """There are so many features that canonical correlations are 1 for independent data."""


@dataclass(frozen=True)
class Basis:
    """A table's part of CCA.

    Attributes:
        rows: ``[N, R]``: orthonormal columns; with a ridge, columns shrunk by it.
        features: the centred table ``[N, D]``; what PWCCA weighs by.
    """

    rows: Array
    features: Array


def _svd(x: Array) -> tuple[Array, Array, Array]:
    """Singular vectors and values of the centred table, without those of rounding alone."""
    u, s, v = np.linalg.svd(centred(x), full_matrices=False)
    kept = s > (s[0] if len(s) else 0.0) * max(x.shape) * np.finfo(np.float64).eps
    return u[:, kept], s[kept], v[kept]


def _shrunk(s: Array, ridge: float) -> Array:
    """Singular values with the ridge: roots of the covariance's eigenvalues plus so many of their mean."""
    return np.sqrt(s**2 + (ridge * float((s**2).mean()) if len(s) else 0.0))


def basis(x: Array, ridge: float = 0.0) -> Basis:
    """The basis of a table.

    Args:
        x: ``[N, P]``.
        ridge: added to the covariance, in units of its mean eigenvalue; 0 = plain CCA.
    """
    if not ridge >= 0:
        raise ValueError(f"ridge: expected 0 or more, got {ridge}")
    u, s, _ = _svd(x)
    return Basis(u * (s / _shrunk(s, ridge)), centred(x))


def weights_of(x: Array, ridge: float = 0.0) -> Array:
    """What makes the rows of :func:`basis` of the centred table, ``[P, R]``, for rows that it was not made of."""
    _, s, v = _svd(x)
    return v.T / _shrunk(s, ridge)


def truncated_basis(x: Array, ridge: float = 0.0) -> Basis:
    """The basis of the fewest components with 99 % of the squared singular values."""
    u, s, _ = _svd(x)
    share = np.cumsum(s**2) / (s**2).sum() if len(s) else np.ones(0)
    count = int(np.searchsorted(share, KEPT - 1e-12)) + 1 if len(s) else 0
    return Basis(u[:, :count] * (s[:count] / _shrunk(s[:count], ridge)), centred(x))


def check_saturation(left: Basis, right: Basis, ridge: float) -> None:
    """Refuses ranks p + q >= n - 1 without a ridge.

    Raises:
        SaturatedError: see above.
    """
    n, p, q = len(left.rows), left.rows.shape[1], right.rows.shape[1]
    if not ridge and p + q >= n - 1:
        raise SaturatedError(f"CCA is saturated: p+q={p + q}, n={n}; reduce with PCA or pass ridge=")


def reorder(side: Basis, order: np.ndarray) -> Basis:
    """The basis of the rows in another order."""
    return Basis(side.rows[order], side.features)


def correlations(left: Basis, right: Basis) -> Array:
    """Canonical correlations, falling, ``[min(p, q)]``."""
    if not left.rows.shape[1] or not right.rows.shape[1]:
        return np.full(1, np.nan)
    return np.clip(np.linalg.svd(left.rows.T @ right.rows, compute_uv=False), 0.0, 1.0)


def mean_correlation(left: Basis, right: Basis) -> float:
    """Mean canonical correlation."""
    return float(correlations(left, right).mean())


def mean_squared_correlation(left: Basis, right: Basis) -> float:
    """Mean squared canonical correlation; max(p, q) / (n - 1) by chance."""
    return float((correlations(left, right) ** 2).mean())


def weighted_correlation(left: Basis, right: Basis) -> float:
    """Mean canonical correlation, each weighed by how much of the left table its variate carries (PWCCA)."""
    if not left.rows.shape[1] or not right.rows.shape[1]:
        return float("nan")
    u, rho, _ = np.linalg.svd(left.rows.T @ right.rows, full_matrices=False)
    weights = np.abs((left.rows @ u).T @ left.features).sum(1)
    return float(weights @ np.clip(rho, 0.0, 1.0) / weights.sum())


# --------------------------------------------------------------------------------------------------------------------
# Measures as plain functions
# --------------------------------------------------------------------------------------------------------------------


def canonical_correlations(x: Array, y: Array, ridge: float = 0.0) -> Array:
    """Canonical correlations of two tables, falling, ``[min(rank x, rank y)]``.

    Args:
        x: ``[N, P]``.
        y: ``[N, Q]``, row i of the same sample.
        ridge: added to both covariances, in units of their mean eigenvalue.

    Raises:
        SaturatedError: the ranks add up to N - 1 or more, and there is no ridge.
    """
    x, y = as_pair("cca", x, y, least=3)
    left, right = basis(x, ridge), basis(y, ridge)
    check_saturation(left, right, ridge)
    return correlations(left, right)


def cca(x: Array, y: Array, ridge: float = 0.0) -> float:
    """Mean canonical correlation, 0 to 1; see :func:`canonical_correlations`."""
    return float(canonical_correlations(x, y, ridge).mean())


def svcca(x: Array, y: Array, ridge: float = 0.0) -> float:
    """Mean canonical correlation of the leading components, 99 % of squared singular values each."""
    x, y = as_pair("svcca", x, y, least=3)
    left, right = truncated_basis(x, ridge), truncated_basis(y, ridge)
    check_saturation(left, right, ridge)
    return mean_correlation(left, right)


def pwcca(x: Array, y: Array, ridge: float = 0.0) -> float:
    """Projection-weighted CCA, weighed by ``x``: not symmetric, and undefined where two correlations are equal."""
    x, y = as_pair("pwcca", x, y, least=3)
    left, right = basis(x, ridge), basis(y, ridge)
    check_saturation(left, right, ridge)
    return weighted_correlation(left, right)
