"""The measures by name, each with what it is invariant to, its value by chance and the rows it needs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from jepa_core.checks import hint
from jepa_core.compare import canonical, cka, neighbours, predictivity, rdm, rotation, streaming
from jepa_core.compare.arrays import Array, centred
from jepa_core.compare.groups import Codes
from jepa_core.errors import ConfigError

ORTHOGONAL = ("orthogonal maps", "one scale for all features")
SHIFT = "shifts"


@dataclass(frozen=True)
class Tuning:
    """What measures may be asked.

    Attributes:
        k: neighbours.
        ridge: of CCA, in units of the covariance's mean eigenvalue; 0 = none.
        scale: RBF bandwidth in median distances.
        depth: neighbours to keep ready beyond ``k``, for the jackknife.
        codes: group of each row, for the folds of a regression.
    """

    k: int = 10
    ridge: float = 0.0
    scale: float = 1.0
    depth: int = 0
    codes: Codes | None = None


@dataclass(frozen=True)
class Shape:
    """Rows and widths that chance levels depend on."""

    n: int
    p: int
    q: int


@dataclass(frozen=True)
class Measure:
    """A measure of two tables whose rows are pairs; higher is more similar.

    A table's part is prepared once (``left``, ``right``); broken pairs only reorder the right part.

    Attributes:
        name, title: in settings and for people.
        left, right: the part of either table.
        reorder: the right part of the rows in another order.
        score: the value.
        invariances: what may be done to one table without changing the value.
        chance: value for independent isotropic tables; None where no formula holds.
        chance_text: the same in words.
        least_n: rows it needs.
        lowest: of its range; the highest is 1.
        estimator: how it is computed, in words.
        symmetric: whether the tables may change places.
        check: refuses what it would be meaningless for.
        deletions: values without each group of rows; None = by subsampling.
    """

    name: str
    title: str
    left: Callable[[Array, Tuning], Any]
    right: Callable[[Array, Tuning], Any]
    reorder: Callable[[Any, Codes], Any]
    score: Callable[[Any, Any], float]
    invariances: tuple[str, ...]
    chance: Callable[[Shape, Tuning], float | None]
    chance_text: str
    least_n: int
    estimator: str
    lowest: float = 0.0
    highest: float = 1.0
    symmetric: bool = True
    check: Callable[[Any, Any, Tuning], None] | None = None
    deletions: Callable[[Any, Any, Codes], Array | None] | None = None

    def value(self, x: Array, y: Array, tuning: Tuning) -> float:
        """The measure of two tables, prepared anew."""
        return self.score(self.left(x, tuning), self.right(y, tuning))


def _same(name: str, title: str, side: Callable[[Array, Tuning], Any], **rest: Any) -> Measure:
    return Measure(name, title, side, side, **rest)


def _zero(shape: Shape, tuning: Tuning) -> float:
    return 0.0


def _unknown(shape: Shape, tuning: Tuning) -> None:
    return None


def _knn_chance(shape: Shape, tuning: Tuning) -> float:
    return tuning.k / (shape.n - 1)


def _cca_chance(shape: Shape, tuning: Tuning) -> float | None:
    return None if tuning.ridge else max(shape.p, shape.q) / (shape.n - 1)


def _biased_chance(shape: Shape, tuning: Tuning) -> float:
    return math.sqrt(shape.p * shape.q / ((shape.n + shape.p) * (shape.n + shape.q)))


def _lists(x: Array, tuning: Tuning) -> neighbours.Lists:
    return neighbours.nearest(x, tuning.k, tuning.k + tuning.depth)


def _centred_lists(x: Array, tuning: Tuning) -> neighbours.Lists:
    return _lists(centred(x), tuning)


def _rsa_side(metric: str, correlation: str) -> Callable[[Array, Tuning], Array]:
    return lambda x, tuning: rdm.side(x, metric, correlation)


def _operators(x: Array, tuning: Tuning) -> predictivity.Operators:
    fold = predictivity.folds_of(len(x), tuning.codes)
    return predictivity.operators(x, fold, predictivity.PENALTY * predictivity.mean_eigenvalue(x))


def _check_cca(left: canonical.Basis, right: canonical.Basis, tuning: Tuning) -> None:
    canonical.check_saturation(left, right, tuning.ridge)


def _reorder_features(side: tuple[Array, Array, float], order: Codes) -> tuple[Array, Array, float]:
    return side[0][order], side[1][order], side[2]


def _feature_deletions(left: Any, right: Any, codes: Codes) -> Array:
    order = np.argsort(codes, kind="stable")
    edges = np.searchsorted(codes[order], np.arange(1, int(codes.max()) + 1))
    return streaming.feature_deletions(left, right, np.split(order, edges))


_MATRIX: dict[str, Any] = {"reorder": cka.reorder_matrix, "score": cka.product}
_CKA: dict[str, Any] = {**_MATRIX, "invariances": (*ORTHOGONAL, SHIFT)}
_KNN: dict[str, Any] = {
    "reorder": neighbours.reorder,
    "score": neighbours.mutual,
    "chance": _knn_chance,
    "chance_text": "k / (n - 1)",
    "least_n": 20,
    "deletions": neighbours.deletions,
}
_DEBIASED: dict[str, Any] = {"chance": _zero, "chance_text": "0", "least_n": 8, "lowest": -1.0}
_RSA: dict[str, Any] = {**_MATRIX, **_DEBIASED}
_CCA: dict[str, Any] = {
    "reorder": canonical.reorder,
    "score": canonical.mean_correlation,
    "chance": _unknown,
    "chance_text": "mean square max(p, q) / (n - 1)",
    "least_n": 8,
    "check": _check_cca,
}

# In the form of features instead of Gram matrices: the same value, faster where features are few.
LINEAR_CKA_OF_FEATURES = _same(
    "linear_cka",
    "Linear CKA, debiased",
    lambda x, tuning: streaming.feature_side(x),
    reorder=_reorder_features,
    score=streaming.feature_score,
    invariances=(*ORTHOGONAL, SHIFT),
    estimator="linear kernel, unbiased HSIC",
    deletions=_feature_deletions,
    **_DEBIASED,
)

_ALL = (
    _same(
        "linear_cka",
        "Linear CKA, debiased",
        lambda x, tuning: cka.debiased_side(x),
        estimator="linear kernel, unbiased HSIC",
        deletions=cka.deletions,
        **_CKA,
        **_DEBIASED,
    ),
    _same(
        "rbf_cka",
        "RBF CKA, debiased",
        lambda x, tuning: cka.debiased_side(x, cka.rbf_gram(x, tuning.scale)),
        estimator="RBF kernel in median distances, unbiased HSIC",
        deletions=cka.deletions,
        **_CKA,
        **_DEBIASED,
    ),
    _same(
        "linear_cka_biased",
        "Linear CKA, biased",
        lambda x, tuning: cka.biased_side(x),
        estimator="linear kernel, biased HSIC: rises with d / n, only to repeat older papers",
        chance=_biased_chance,
        chance_text="sqrt(p q / ((n + p)(n + q)))",
        least_n=8,
        **_CKA,
    ),
    _same(
        "mutual_knn",
        "Mutual kNN",
        _centred_lists,
        estimator="cosine of centred features, exact",
        invariances=(*ORTHOGONAL, SHIFT),
        **_KNN,
    ),
    _same(
        "mutual_knn_uncentred",
        "Mutual kNN, uncentred",
        _lists,
        estimator="cosine of features as they are, exact",
        invariances=ORTHOGONAL,
        **_KNN,
    ),
    _same(
        "jaccard_knn",
        "Jaccard of kNN",
        _centred_lists,
        estimator="cosine of centred features, exact",
        invariances=(*ORTHOGONAL, SHIFT),
        **{**_KNN, "score": neighbours.jaccard, "chance": _unknown, "chance_text": "no formula", "deletions": None},
    ),
    _same(
        "cknna",
        "CKNNA",
        _centred_lists,
        estimator="cosine of centred features, column sums with column sums",
        invariances=(*ORTHOGONAL, SHIFT),
        lowest=-1.0,
        **{
            **_KNN,
            "score": neighbours.cknna_score,
            "chance": _unknown,
            "chance_text": "no formula",
            "deletions": None,
        },
    ),
    _same(
        "rsa",
        "RSA",
        _rsa_side("euclidean", "spearman"),
        estimator="Euclidean distances, Spearman",
        invariances=(*ORTHOGONAL, SHIFT),
        **_RSA,
    ),
    _same(
        "rsa_correlation",
        "RSA, correlation",
        _rsa_side("correlation", "spearman"),
        estimator="1 - Pearson between rows, Spearman",
        invariances=("one scale for all features", "adding a number to all features"),
        **_RSA,
    ),
    _same(
        "rsa_cosine",
        "RSA, cosine",
        _rsa_side("cosine", "pearson"),
        estimator="1 - cosine, Pearson",
        invariances=ORTHOGONAL,
        **_RSA,
    ),
    _same(
        "rsa_kendall",
        "RSA, Kendall",
        _rsa_side("euclidean", "kendall"),
        estimator="Euclidean distances, Kendall tau-b",
        invariances=(*ORTHOGONAL, SHIFT),
        **{**_RSA, "score": rdm.kendall},
    ),
    _same(
        "cca",
        "CCA",
        lambda x, tuning: canonical.basis(x, tuning.ridge),
        estimator="mean canonical correlation",
        invariances=("invertible linear maps (without a ridge)", SHIFT),
        **_CCA,
    ),
    _same(
        "cca_squared",
        "CCA, squared",
        lambda x, tuning: canonical.basis(x, tuning.ridge),
        estimator="mean squared canonical correlation",
        invariances=("invertible linear maps (without a ridge)", SHIFT),
        **{
            **_CCA,
            "score": canonical.mean_squared_correlation,
            "chance": _cca_chance,
            "chance_text": "max(p, q) / (n - 1)",
        },
    ),
    _same(
        "svcca",
        "SVCCA",
        lambda x, tuning: canonical.truncated_basis(x, tuning.ridge),
        estimator="mean canonical correlation of 99 % of the squared singular values",
        invariances=(*ORTHOGONAL, SHIFT),
        **_CCA,
    ),
    _same(
        "pwcca",
        "PWCCA",
        lambda x, tuning: canonical.basis(x, tuning.ridge),
        estimator="canonical correlations weighed by the first table",
        invariances=(*ORTHOGONAL, SHIFT),
        symmetric=False,
        **{**_CCA, "score": canonical.weighted_correlation},
    ),
    _same(
        "procrustes",
        "Procrustes",
        lambda x, tuning: rotation.side(x),
        reorder=lambda side, order: side[order],
        score=rotation.score,
        estimator="nuclear norm of X'Y of centred tables of norm 1",
        invariances=(*ORTHOGONAL, SHIFT),
        chance=_unknown,
        chance_text="grows with d / n",
        least_n=8,
    ),
    Measure(
        "predictivity",
        "Linear predictivity",
        _operators,
        lambda y, tuning: predictivity.gram(y),
        cka.reorder_matrix,
        predictivity.score,
        ("orthogonal maps and one scale of either table", SHIFT),
        _unknown,
        "0 or less",
        4 * predictivity.FOLDS,
        f"ridge regression, R2 of {predictivity.FOLDS} folds, penalty {predictivity.PENALTY:g} mean eigenvalues",
        lowest=-math.inf,
        symmetric=False,
    ),
)

MEASURES: Mapping[str, Measure] = {measure.name: measure for measure in _ALL}
RETRIEVAL = "retrieval"
NAMES = (*MEASURES, RETRIEVAL)
DEFAULT = ("linear_cka", "mutual_knn", "rsa", RETRIEVAL)


def find_measure(name: str) -> Measure:
    """The measure of this name.

    Raises:
        ConfigError: there is none.
    """
    if name not in MEASURES:
        raise ConfigError(f"measures: expected some of {', '.join(NAMES)}, got {name!r}{hint(name, NAMES)}")
    return MEASURES[name]


def for_tables(measure: Measure, n: int, widths: list[int]) -> Measure:
    """The faster form of a measure for so many rows and features; values are the same."""
    few = len(widths) == 2 and widths[0] * widths[1] < 60 * n
    return LINEAR_CKA_OF_FEATURES if measure.name == "linear_cka" and few else measure
