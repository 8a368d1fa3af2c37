"""Representational similarity analysis: correlation of two tables' dissimilarities between samples or classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from jepa_core.compare.arrays import Array, as_pair, as_table

METRICS = {"correlation": "correlation", "euclidean": "euclidean", "cosine": "cosine"}
CORRELATIONS = ("spearman", "pearson", "kendall", "kendall_a")
LEAST_CLASSES = 8


def dissimilarities(x: Array, metric: str = "euclidean") -> Array:
    """Dissimilarities of rows i < j, ``[N (N - 1) / 2]``; correlation and cosine are 1 minus the similarity."""
    from scipy.spatial.distance import pdist

    if metric not in METRICS:
        raise ValueError(f"metric: expected one of {', '.join(METRICS)}, got {metric!r}")
    found = pdist(as_table("rsa", x), METRICS[metric])
    if not np.isfinite(found).all():
        raise ValueError(f"rsa: expected rows that have a {metric} dissimilarity, got rows of zeros or constant rows")
    return found


def side(x: Array, metric: str, correlation: str) -> Array:
    """Dissimilarities as a matrix ``[N, N]``, zero diagonal, ready to be multiplied.

    Of Spearman (average ranks) and Pearson the entries are centred and have norm 1, so that the product of two such
    matrices is the correlation; of Kendall they are as they are.
    """
    from scipy.spatial.distance import squareform
    from scipy.stats import rankdata

    found = dissimilarities(x, metric)
    if correlation not in CORRELATIONS:
        raise ValueError(f"correlation: expected one of {', '.join(CORRELATIONS)}, got {correlation!r}")
    if correlation.startswith("kendall"):
        return squareform(found, checks=False)
    values = rankdata(found) if correlation == "spearman" else found
    values = values - values.mean()
    norm = float(np.linalg.norm(values))
    return squareform(values / (norm * np.sqrt(2)) if norm > 0 else np.full_like(values, np.nan), checks=False)


def kendall(left: Array, right: Array) -> float:
    """Kendall's tau-b of the upper triangles."""
    from scipy.stats import kendalltau

    above = np.triu_indices(len(left), 1)
    return float(kendalltau(left[above], right[above]).statistic)


def kendall_a(left: Array, right: Array) -> float:
    """Kendall's tau-a of the upper triangles: ties count against, so 1 is only reached without any."""
    above = np.triu_indices(len(left), 1)
    pairs = len(above[0]) * (len(above[0]) - 1) / 2
    untied = [pairs - _tied_pairs(matrix[above]) for matrix in (left, right)]
    return kendall(left, right) * float(np.sqrt(untied[0] * untied[1])) / pairs


def _tied_pairs(values: Array) -> float:
    counts = np.unique(values, return_counts=True)[1]
    return float((counts * (counts - 1) / 2).sum())


def rsa(x: Array, y: Array, metric: str = "euclidean", correlation: str = "spearman") -> float:
    """Correlation of the dissimilarities of two tables, -1 to 1; 0 by chance.

    The N (N - 1) / 2 dissimilarities are not independent of each other: no textbook p-value holds, only a permutation
    of rows.

    Args:
        x: ``[N, P]``, at least 3 rows.
        y: ``[N, Q]``, row i of the same sample.
        metric: ``correlation``, ``euclidean`` or ``cosine``.
        correlation: ``spearman``, ``pearson``, ``kendall`` (tau-b) or ``kendall_a``.
    """
    x, y = as_pair("rsa", x, y, least=3)
    left, right = (side(table, metric, correlation) for table in (x, y))
    if correlation == "kendall":
        return kendall(left, right)
    return kendall_a(left, right) if correlation == "kendall_a" else float(np.vdot(left, right))


# --------------------------------------------------------------------------------------------------------------------
# Classes
# --------------------------------------------------------------------------------------------------------------------


def centroids(x: Array, labels: Sequence[Any], names: Sequence[Any]) -> Array:
    """Mean row of each class in ``names``, ``[C, D]``."""
    place = {name: row for row, name in enumerate(names)}
    codes = np.array([place.get(label, -1) for label in labels])
    kept = codes >= 0
    sums = np.zeros((len(names), x.shape[1]))
    np.add.at(sums, codes[kept], x[kept])
    return sums / np.bincount(codes[kept], minlength=len(names))[:, None]


def shared_classes(first: Sequence[Any], second: Sequence[Any]) -> list[Any]:
    """Labels that both tables have, sorted.

    Raises:
        ValueError: fewer than :data:`LEAST_CLASSES`.
    """
    shared = sorted({label for label in first if label is not None} & {x for x in second if x is not None}, key=str)
    if len(shared) < LEAST_CLASSES:
        raise ValueError(
            f"mode='class': expected at least {LEAST_CLASSES} labels that both tables have, got {len(shared)}: their "
            "vocabularies must agree"
        )
    return shared


def class_rsa(x: Array, y: Array, labels_x: Sequence[Any], labels_y: Sequence[Any]) -> float:
    """RSA (Euclidean, Spearman) of class means; the tables need not hold the same samples.

    Args:
        x: ``[N, P]``.
        y: ``[M, Q]``.
        labels_x: N classes.
        labels_y: M classes of the same vocabulary, at least 8 of them shared.
    """
    names = shared_classes(labels_x, labels_y)
    pairs = ((x, labels_x), (y, labels_y))
    means = [centroids(as_table("class_rsa", table), labels, names) for table, labels in pairs]
    return rsa(means[0], means[1])
