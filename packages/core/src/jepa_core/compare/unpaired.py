"""What can be said of two tables without common samples: their classes, if labels agree, and their spectra."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from jepa_core.compare import rdm, spectra
from jepa_core.compare.arrays import Array
from jepa_core.compare.cka import product, reorder_matrix
from jepa_core.compare.inputs import Features
from jepa_core.compare.intervals import interval, jackknife_se
from jepa_core.compare.registry import Shape
from jepa_core.compare.scores import Score
from jepa_core.compare.scoring import Details, Plan, make_score
from jepa_core.compare.significance import orders, summarise
from jepa_core.errors import DataError

if TYPE_CHECKING:
    from jepa_core.compare.options import Options

Found = tuple[tuple[Score, ...], dict[str, float]]


def compare_classes(x: Array, y: Array, a: Features, b: Features, options: Options) -> Found:
    """RSA of class means over the labels both tables have; null by permuting class names.

    Raises:
        DataError: a table without labels, or fewer than 8 in common.
    """
    for table in (a, b):
        if table.label is None:
            raise DataError(f"mode=class: expected a column label in both tables, got none in {table.name}")
    assert a.label is not None and b.label is not None
    names = rdm.shared_classes(a.label.tolist(), b.label.tolist())
    tables = ((x, a.label), (y, b.label))
    means = [rdm.centroids(features, labels.tolist(), names) for features, labels in tables]
    left, right = (rdm.side(table, "euclidean", "spearman") for table in means)
    value, count = product(left, right), len(names)
    plan = Plan(options.permutations, options.alpha, options.seed)
    drawn = orders(count, options.permutations, options.seed)
    null = [product(left, reorder_matrix(right, order)) for order in drawn]
    rows = [np.delete(np.arange(count), place) for place in range(count)]
    without = np.array([rdm.rsa(means[0][kept], means[1][kept]) for kept in rows])
    details = Details(
        "class_rsa",
        "RSA of classes",
        "a - b",
        f"means of {count} classes, Euclidean distances, Spearman",
        "delete-one-class jackknife",
        (f"{count} classes: the null is wide with few of them",),
        0.0,
    )
    bounds = interval(value, jackknife_se(without), -1.0, 1.0)
    summary = summarise(value, np.array(null), options.alpha, 1.0)
    how = f"{options.permutations} permutations of class names"
    shape = Shape(count, x.shape[1], y.shape[1])
    return (make_score(details, value, summary, bounds, shape, plan, how),), {"classes": float(count)}


def compare_spectra(x: Array, y: Array, a: Features, b: Features, options: Options) -> Found:
    """Figures of either table's spectrum, and the distance between the two; no score, for nothing is paired."""
    found: dict[str, float] = {"spectral_distance": spectra.spectral_distance(x, y)}
    for side, table in (("a", x), ("b", y)):
        found[f"rankme {side}"] = spectra.rankme(table)
        found[f"rankme_centred {side}"] = spectra.rankme_centred(table)
        found[f"participation_ratio {side}"] = spectra.participation_ratio(table)
        found[f"rows {side}"] = float(len(table))
        found[f"features {side}"] = float(table.shape[1])
    return (), found
