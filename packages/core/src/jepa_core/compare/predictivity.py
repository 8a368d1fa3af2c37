"""Linear predictivity: how much of one table's variance a ridge regression on the other predicts, cross-validated."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from jepa_core.compare.arrays import Array, as_pair, centred, row_norms_squared
from jepa_core.compare.groups import Codes

FOLDS = 4
PENALTY = 0.1
"""Of the registered measure, in units of :func:`mean_eigenvalue`."""


@dataclass(frozen=True)
class Operators:
    """What a table predicts with: quadratic forms in the other table's Gram matrix, ``[N, N]`` each.

    Attributes:
        residual: sum of squared errors of the predictions = ``<residual, Y Y^T>``.
        total: of the training means.
    """

    residual: Array
    total: Array


def operators(x: Array, fold: Codes, penalty: float) -> Operators:
    """The quadratic forms of ridge regression on ``x``.

    They depend on ``x`` alone, so a permutation of the other table needs no new fit.

    Args:
        x: ``[N, P]``.
        fold: of each row, from 0.
        penalty: on the squared weights.
    """
    n = len(x)
    error, mean_error = np.eye(n), np.eye(n)
    for number in range(int(fold.max()) + 1):
        test, train = fold == number, fold != number
        mean = x[train].mean(0)
        weights = _ridge_weights(x[train] - mean, x[test] - mean, penalty)
        shared = np.full((int(test.sum()), int(train.sum())), 1 / train.sum())
        mean_error[np.ix_(test, train)] -= shared
        error[np.ix_(test, train)] -= shared + weights
    return Operators(error.T @ error, mean_error.T @ mean_error)


def mean_eigenvalue(x: Array) -> float:
    """Of ``X^T X`` of centred rows, among those that can differ from 0: the unit of a penalty without a scale."""
    return float(row_norms_squared(centred(x)).sum()) / min(x.shape)


def _ridge_weights(train: Array, test: Array, penalty: float) -> Array:
    """What each training row counts in each prediction, ``[test, train]``; in whichever space is smaller."""
    rows, width = train.shape
    if width <= rows:
        found = test @ np.linalg.solve(train.T @ train + penalty * np.eye(width), train.T)
    else:
        found = np.linalg.solve(train @ train.T + penalty * np.eye(rows), train @ test.T).T
    return np.asarray(found, np.float64)


def gram(y: Array) -> Array:
    """``Y Y^T`` of centred rows."""
    shifted = centred(np.asarray(y, np.float64))
    return shifted @ shifted.T


def score(left: Operators, right: Array) -> float:
    """R2, pooled over columns."""
    return 1 - float(np.vdot(left.residual, right)) / float(np.vdot(left.total, right))


def folds_of(n: int, codes: Codes | None = None, folds: int = FOLDS) -> Codes:
    """Fold of each row: row i mod F, or group i mod F."""
    return (np.arange(n) if codes is None else codes) % folds


def ridge_r2(x: Array, y: Array, penalty: float = 1.0, folds: int = FOLDS, codes: Codes | None = None) -> float:
    """Cross-validated R2 of ridge regression from ``x`` to ``y``: at most 1, 0 or less by chance, not symmetric.

    Args:
        x: ``[N, P]``.
        y: ``[N, Q]``, row i of the same sample.
        penalty: on the squared weights, as it stands.
        folds: row i is tested in fold i mod ``folds``.
        codes: group of each row, from 0; groups are then tested as a whole.
    """
    x, y = as_pair("ridge_r2", x, y, least=2 * folds)
    return score(operators(x, folds_of(len(x), codes, folds), penalty), gram(y))
