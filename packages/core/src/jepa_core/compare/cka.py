"""Centred kernel alignment and the HSIC it is made of: debiased by default, biased only by name.

Sources: Gretton et al. 2005 (biased HSIC), Song et al., JMLR 2012, eq. 5 (unbiased), Kornblith et al. 2019 (CKA),
Nguyen, Raghu and Kornblith 2021, arXiv 2010.15327 (mini-batches).
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable

import numpy as np

from jepa_core.compare.arrays import Array, as_pair, centred, is_constant, row_norms_squared
from jepa_core.compare.groups import Codes, one_hot_sums, sizes_of

DEGENERATE = 1e-12
"""An HSIC of a table with itself below this share of its scale is rounding error."""


# --------------------------------------------------------------------------------------------------------------------
# Kernels
# --------------------------------------------------------------------------------------------------------------------


def linear_gram(x: Array) -> Array:
    """``X X^T`` of centred rows, ``[N, N]``; CKA does not change with the shift, and loses fewer digits."""
    shifted = centred(x)
    return shifted @ shifted.T


def squared_distances(x: Array) -> Array:
    """Squared Euclidean distances ``[N, N]``, at least 0, 0 on the diagonal."""
    shifted = centred(x)
    norms = row_norms_squared(shifted)
    found = np.maximum(norms[:, None] + norms[None, :] - 2 * shifted @ shifted.T, 0.0)
    np.fill_diagonal(found, 0.0)
    return found


def median_distance(x: Array) -> float:
    """Median Euclidean distance between two different rows: the unit of the RBF bandwidth."""
    return _median_root(squared_distances(np.asarray(x, np.float64)))


def _median_root(squared: Array) -> float:
    return float(np.median(np.sqrt(squared[np.triu_indices(len(squared), 1)])))


def rbf_gram(x: Array, scale: float = 1.0) -> Array:
    """``exp(-|x_i - x_j|^2 / (2 sigma^2))`` with ``sigma = scale`` times the median distance, ``[N, N]``.

    Raises:
        ValueError: more than half of the rows are the same, so that there is no bandwidth.
    """
    distances = squared_distances(x)
    sigma_squared = (scale * _median_root(distances)) ** 2
    if not sigma_squared > 0:
        raise ValueError("rbf: expected rows that differ, got a median distance of 0; remove duplicates")
    return np.exp(-distances / (2 * sigma_squared))


# --------------------------------------------------------------------------------------------------------------------
# HSIC
# --------------------------------------------------------------------------------------------------------------------


def double_centred(gram: Array) -> Array:
    """``H K H``."""
    rows = gram.mean(0)
    return gram - rows[:, None] - rows[None, :] + rows.mean()


def u_centred(gram: Array) -> Array:
    """The U-centred matrix: zero diagonal, zero row sums; the products of two of them are unbiased HSIC."""
    n = len(gram)
    hollow = gram - np.diag(np.diag(gram))
    rows = hollow.sum(0)
    found = hollow - (rows[:, None] + rows[None, :]) / (n - 2) + rows.sum() / ((n - 1) * (n - 2))
    np.fill_diagonal(found, 0.0)
    return found


def hsic_biased(gram_x: Array, gram_y: Array) -> float:
    """``tr(K H L H) / (n - 1)^2``, at least 0."""
    return float(np.vdot(double_centred(gram_x), gram_y)) / (len(gram_x) - 1) ** 2


def hsic_unbiased(gram_x: Array, gram_y: Array) -> float:
    """Unbiased HSIC; below 0 about half the time for independent data. Needs at least 4 rows."""
    n = len(gram_x)
    check_rows("hsic_unbiased", n, 4)
    return float(np.vdot(u_centred(gram_x), u_centred(gram_y))) / (n * (n - 3))


def check_rows(name: str, n: int, least: int) -> None:
    """Refuses fewer rows than a measure needs."""
    if n < least:
        raise ValueError(f"{name}: expected at least {least} paired rows, got {n}")


# --------------------------------------------------------------------------------------------------------------------
# Sides: a table's part of the measure, prepared once
# --------------------------------------------------------------------------------------------------------------------


def unit(matrix: Array, scale: float, name: str) -> Array:
    """``matrix`` with Frobenius norm 1; all NaN, with a warning, where nothing but rounding is left of it."""
    norm = float(np.linalg.norm(matrix))
    if not norm > np.sqrt(DEGENERATE) * scale:
        warnings.warn(f"{name} is constant or has rank 0 after centring", stacklevel=3)
        return np.full_like(matrix, np.nan)
    return matrix / norm


def debiased_side(x: Array, gram: Array | None = None) -> Array:
    """The U-centred linear Gram matrix (or another's) with norm 1, ``[N, N]``."""
    x = np.asarray(x, np.float64)
    if is_constant(x):
        return unit(np.zeros((len(x), len(x))), 1.0, "a table")
    gram = linear_gram(x) if gram is None else gram
    return unit(u_centred(gram), float(np.trace(gram)), "a table")


def biased_side(x: Array, gram: Array | None = None) -> Array:
    """The double-centred linear Gram matrix (or another's) with norm 1, ``[N, N]``."""
    x = np.asarray(x, np.float64)
    gram = linear_gram(x) if gram is None else gram
    scale = np.inf if is_constant(x) else float(np.trace(gram))
    return unit(double_centred(gram), scale, "a table")


def product(left: Array, right: Array) -> float:
    """The sum of the products of two matrices, entry by entry."""
    return float(np.vdot(left, right))


def reorder_matrix(matrix: Array, order: Codes) -> Array:
    """``matrix`` of the rows in another order: entry ``(i, j)`` becomes that of ``(order[i], order[j])``."""
    return matrix.take(order, 0).take(order, 1)


def deletions(left: Array, right: Array, codes: Codes) -> Array:
    """Debiased CKA without each group, from two U-centred matrices.

    U-centring differs from the Gram matrix by a term of the row and one of the column, which unbiased HSIC ignores, so
    a part of the centred matrix gives the same as a part of the Gram matrix. All groups together cost O(N^2).

    Args:
        left, right: see :func:`debiased_side`.
        codes: group of each row, 0 to G - 1; N groups of one row for the delete-one jackknife.

    Returns:
        ``[G]``.
    """
    cross, first, second = (_hsic_without(a, b, codes) for a, b in ((left, right), (left, left), (right, right)))
    return cross / np.sqrt(first * second)


def _hsic_without(k: Array, m: Array, codes: Codes) -> Array:
    size = sizes_of(codes)
    kept = len(codes) - size
    inside = np.arange(len(codes)), codes
    k_by, m_by, products = (one_hot_sums(matrix, codes) for matrix in (k, m, k * m))  # [N, G]
    trace = products.sum() - 2 * products.sum(0) + np.bincount(codes, products[inside])
    rows = np.stack([_sum_without(by, codes) for by in (k_by, m_by)])
    k_rows, m_rows = k.sum(1)[:, None] - k_by, m.sum(1)[:, None] - m_by
    both = k_rows * m_rows
    through = both.sum(0) - np.bincount(codes, both[inside])
    return (trace + rows[0] * rows[1] / ((kept - 1) * (kept - 2)) - 2 * through / (kept - 2)) / (kept * (kept - 3))


def _sum_without(by_group: Array, codes: Codes) -> Array:
    inside = np.bincount(codes, by_group[np.arange(len(codes)), codes])
    return by_group.sum() - 2 * by_group.sum(0) + inside


# --------------------------------------------------------------------------------------------------------------------
# Measures as plain functions
# --------------------------------------------------------------------------------------------------------------------


def linear_cka(x: Array, y: Array) -> float:
    """Debiased linear CKA, -1 to 1.

    Args:
        x: ``[N, P]``, at least 4 rows.
        y: ``[N, Q]``, row i of the same sample as row i of ``x``.
    """
    x, y = as_pair("linear_cka", x, y, least=4)
    return product(debiased_side(x), debiased_side(y))


def linear_cka_biased(x: Array, y: Array) -> float:
    """Linear CKA with biased HSIC, 0 to 1: it rises with D / N whatever the data. Only to repeat older papers."""
    x, y = as_pair("linear_cka_biased", x, y, least=2)
    return product(biased_side(x), biased_side(y))


def rbf_cka(x: Array, y: Array, scale: float = 1.0) -> float:
    """Debiased CKA of RBF kernels; ``scale`` in median distances."""
    x, y = as_pair("rbf_cka", x, y, least=4)
    return product(debiased_side(x, rbf_gram(x, scale)), debiased_side(y, rbf_gram(y, scale)))


def rbf_cka_biased(x: Array, y: Array, scale: float = 1.0) -> float:
    """Biased CKA of RBF kernels; only to repeat older papers."""
    x, y = as_pair("rbf_cka_biased", x, y, least=2)
    return product(biased_side(x, rbf_gram(x, scale)), biased_side(y, rbf_gram(y, scale)))


def minibatch_cka(batches: Iterable[tuple[Array, Array]]) -> float:
    """Linear CKA of mini-batches: the ratio of mean unbiased HSICs, never the mean of ratios.

    Args:
        batches: (x, y) of a partition made after a shuffle common to both; batches below 4 rows are left out.

    Raises:
        ValueError: no batch of 4 rows.
    """
    sums, count = np.zeros(3), 0
    for x, y in batches:
        if len(x) < 4:
            continue
        x, y = as_pair("minibatch_cka", x, y, least=4)
        k, m = linear_gram(x), linear_gram(y)
        sums += hsic_unbiased(k, m), hsic_unbiased(k, k), hsic_unbiased(m, m)
        count += 1
    if not count:
        raise ValueError("minibatch_cka: expected a batch of at least 4 rows, got none")
    return float(sums[0] / np.sqrt(sums[1] * sums[2]))
