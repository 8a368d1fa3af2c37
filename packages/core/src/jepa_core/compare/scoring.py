"""Scores a measure on paired arrays: its value, its null over rows or groups, its interval."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from jepa_core.compare import lookup
from jepa_core.compare.arrays import Array
from jepa_core.compare.canonical import SaturatedError
from jepa_core.compare.groups import LEAST_GROUPS, Codes, balanced_rows, recoded, sizes_of
from jepa_core.compare.intervals import DRAWS, halves, interval, jackknife_se, subsampling_se
from jepa_core.compare.registry import Measure, Shape, Tuning, for_tables
from jepa_core.compare.scores import LayerMap, Score
from jepa_core.compare.significance import Null, no_null, orders, summarise
from jepa_core.errors import DataError

LEAST_JACKKNIFE_GROUPS = 5
MOST_DEPTH = 2000
"""Neighbours kept for the jackknife; beyond, groups are too large and halves are drawn instead."""


@dataclass(frozen=True)
class Plan:
    """How scores are computed.

    Attributes:
        permutations: of the null, at least 19.
        alpha: level of the thresholds.
        seed: of orders and halves.
        tuning: of the measures.
        codes: group of each row; None = rows are exchangeable.
    """

    permutations: int = 500
    alpha: float = 0.05
    seed: int = 0
    tuning: Tuning = field(default_factory=Tuning)
    codes: Codes | None = None

    def groups(self) -> int:
        """How many groups; 0 = rows are exchangeable."""
        return 0 if self.codes is None else int(self.codes.max()) + 1

    def on(self, rows: Codes) -> Plan:
        """The plan for these rows only."""
        if self.codes is None:
            return self
        codes = recoded(self.codes[rows])
        return replace(self, codes=codes, tuning=replace(self.tuning, codes=codes))

    def testable(self) -> bool:
        """Whether there are enough groups for a p-value."""
        return self.codes is None or self.groups() >= LEAST_GROUPS


def balance(plan: Plan, n: int) -> tuple[Codes, Plan]:
    """Rows on which whole groups can change places, and the plan for them; all rows where nothing is to be done."""
    every = np.arange(n)
    if plan.codes is None or not plan.testable():
        return every, plan
    rows = balanced_rows(plan.codes)
    return rows, plan.on(rows)


def score_measure(measure: Measure, x: Array, y: Array, plan: Plan, direction: str = "a - b") -> Score:
    """The score of a measure.

    Args:
        measure: from the registry.
        x: ``[N, P]``, float64.
        y: ``[N, Q]``, row i of the same sample.
        plan: groups must be balanced, see :func:`balance`.
        direction: for the result.

    Raises:
        DataError: too few rows, or a measure that would be meaningless.
    """
    n, shape = len(x), Shape(len(x), x.shape[1], y.shape[1])
    if n < measure.least_n:
        raise DataError(f"{measure.name}: expected at least {measure.least_n} paired samples, got {n}")
    measure = for_tables(measure, n, [shape.p, shape.q])
    tuning = _with_depth(measure, plan, n)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            left, right = measure.left(x, tuning), measure.right(y, tuning)
            if measure.check is not None:
                measure.check(left, right, tuning)
        except ValueError as error:
            raise DataError(f"{measure.name}: {error}") from error
        value = measure.score(left, right)
    null = _null(measure, left, right, value, plan, n)
    se, how = _standard_error(measure, left, right, x, y, plan)
    limits = _limits([str(warning.message) for warning in caught], plan)
    chance = measure.chance(shape, tuning)
    bounds = interval(value, se, measure.lowest, measure.highest)
    details = Details(measure.name, measure.title, direction, _estimator(measure, plan), how, limits, chance)
    return make_score(details, value, null, bounds, shape, plan)


def _estimator(measure: Measure, plan: Plan) -> str:
    return f"k = {plan.tuning.k}, {measure.estimator}" if "knn" in measure.name else measure.estimator


def _with_depth(measure: Measure, plan: Plan, n: int) -> Tuning:
    largest = 1 if plan.codes is None else int(sizes_of(plan.codes).max())
    depth = largest if largest <= MOST_DEPTH else 0
    return replace(plan.tuning, depth=depth if measure.deletions is not None else 0)


def _limits(found: list[str], plan: Plan) -> tuple[str, ...]:
    if not plan.testable():
        found.append(
            f"no p-value: {plan.groups()} groups, expected at least {LEAST_GROUPS}; rows of one group are not "
            "exchangeable"
        )
    return tuple(dict.fromkeys(found))


def _null(measure: Measure, left: Any, right: Any, value: float, plan: Plan, n: int) -> Null:
    if not plan.testable() or not math.isfinite(value):
        return no_null()
    drawn = orders(n, plan.permutations, plan.seed, plan.codes)
    null = np.array([measure.score(left, measure.reorder(right, order)) for order in drawn])
    return summarise(value, null, plan.alpha, measure.highest)


def _standard_error(measure: Measure, left: Any, right: Any, x: Array, y: Array, plan: Plan) -> tuple[float, str]:
    """Standard error and how it was found; NaN where there are too few groups."""
    codes = np.arange(len(x)) if plan.codes is None else plan.codes
    groups = int(codes.max()) + 1
    unit = "row" if plan.codes is None else "group"
    if groups < LEAST_JACKKNIFE_GROUPS:
        return math.nan, f"none: {groups} groups, expected at least {LEAST_JACKKNIFE_GROUPS}"
    if measure.deletions is not None:
        without = measure.deletions(left, right, codes)
        if without is not None:
            return jackknife_se(without), f"delete-one-{unit} jackknife"
    values = []
    for rows in halves(codes, DRAWS, plan.seed):
        values.append(_of_half(measure, x[rows], y[rows], plan.on(rows)))
        if not math.isfinite(values[-1]):
            return math.nan, f"none: half of the {unit}s is too few"
    return subsampling_se(np.array(values), groups), f"subsampling of half of the {unit}s, {DRAWS} draws"


def _of_half(measure: Measure, x: Array, y: Array, plan: Plan) -> float:
    if len(x) < measure.least_n or ("knn" in measure.name and plan.tuning.k >= len(x)):
        return math.nan
    left, right = measure.left(x, plan.tuning), measure.right(y, plan.tuning)
    try:
        if measure.check is not None:
            measure.check(left, right, plan.tuning)
    except SaturatedError:
        return math.nan
    return measure.score(left, right)


@dataclass(frozen=True)
class Details:
    """The words of a score, and its value by chance."""

    name: str
    title: str
    direction: str
    estimator: str
    interval: str
    warnings: tuple[str, ...]
    chance: float | None


def make_score(
    details: Details, value: float, null: Null, bounds: tuple[float, float], shape: Shape, plan: Plan, how: str = ""
) -> Score:
    """A score from its parts; ``how`` describes the null where it is not one of permutations."""
    unit = f"whole groups ({plan.groups()})" if plan.codes is not None else "rows"
    return Score(
        measure=details.name,
        title=details.title,
        direction=details.direction,
        value=value,
        null_mean=null.mean,
        null_std=null.std,
        null_low=null.low,
        null_high=null.high,
        p_value=null.p_value,
        tau=null.tau,
        calibrated=null.calibrated,
        excess=null.excess,
        ci_low=bounds[0],
        ci_high=bounds[1],
        chance=math.nan if details.chance is None else details.chance,
        n=shape.n,
        d_x=shape.p,
        d_y=shape.q,
        groups=plan.groups(),
        estimator=details.estimator,
        null=how or (f"{null.count} permutations of {unit}" if null.count else "none"),
        interval=details.interval,
        permutations=null.count,
        seed=plan.seed,
        warnings=details.warnings,
    )


# --------------------------------------------------------------------------------------------------------------------
# Retrieval
# --------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Mapping:
    """How retrieval maps.

    Attributes:
        kind: ``ridge``, ``procrustes`` or ``cca``.
        penalty: of the ridge; None = cross-validated.
        csls: against hubs, see :func:`jepa_core.compare.lookup.similarities`.
        ridge: of CCA.
    """

    kind: str = "ridge"
    penalty: float | None = None
    csls: int = 0
    ridge: float = 0.0


@dataclass(frozen=True)
class Pairs:
    """Rows that retrieval's map is fitted on: tables ``[N, P]`` and ``[N, Q]``, and the group of each row or None."""

    x: Array
    y: Array
    codes: Codes | None = None

    def turned(self) -> Pairs:
        """For the other direction."""
        return Pairs(self.y, self.x, self.codes)


def score_retrieval(
    x: Array, y: Array, plan: Plan, mapping: Mapping, direction: str, fit: Pairs | None = None
) -> tuple[list[Score], dict[str, float]]:
    """R@k and MRR of finding rows of ``y`` by rows of ``x``, and the median rank with its value by chance.

    The map is fitted on the rows of ``fit``, without them on half of the rows (whole groups), which are then not
    tested; the null gives the tested queries other partners.

    Raises:
        DataError: fewer than 8 rows to fit or to test.
    """
    test = np.arange(len(x))
    if fit is None:
        train, test = lookup.split_rows(len(x), plan.codes, plan.seed)
        fit = Pairs(x[train], y[train], plan.on(train).codes)
    if min(len(fit.x), len(test)) < 8:
        raise DataError(f"retrieval: expected at least 8 samples to fit and 8 to test, got {len(fit.x)}, {len(test)}")
    fitted = _fit(fit, mapping)
    near = lookup.similarities(fitted, x[test], y[test], mapping.csls)
    tested = plan.on(test)
    limits = _limits([], tested)
    found = lookup.ranks(near, codes=tested.codes)
    drawn = orders(len(test), plan.permutations, plan.seed, tested.codes) if tested.testable() else iter(())
    null = [lookup.ranks(near, order, tested.codes) for order in drawn]
    shape = Shape(len(test), x.shape[1], y.shape[1])
    how = f"{fitted.name}, fitted on {len(fit.x)} samples" + (f", CSLS {mapping.csls}" if mapping.csls else "")
    scores = []
    for name, value in lookup.figures(found).items():
        if name == "MedR":
            continue
        values = _of_queries(name, found)
        summary = summarise(
            value if null else math.nan, np.array([_of_queries(name, r).mean() for r in null]), plan.alpha, 1.0
        )
        se, label = _query_error(values, tested)
        chance = None if tested.codes is not None else lookup.chance(name, len(test))
        details = Details(f"retrieval_{name}", f"Retrieval {name}", direction, how, label, limits, chance)
        scores.append(make_score(details, value, summary, interval(value, se, 0.0, 1.0), shape, tested))
    median = {f"MedR {direction}": float(np.median(found))}
    by_chance = {} if tested.codes is not None else {"MedR by chance": lookup.chance("MedR", len(test))}
    return scores, median | by_chance


def _fit(fit: Pairs, mapping: Mapping) -> lookup.LinearMap:
    if mapping.kind == "procrustes":
        return lookup.fit_procrustes(fit.x, fit.y)
    if mapping.kind == "cca":
        return lookup.fit_cca(fit.x, fit.y, mapping.ridge)
    penalty = lookup.choose_penalty(fit.x, fit.y, fit.codes) if mapping.penalty is None else mapping.penalty
    return lookup.fit_ridge(fit.x, fit.y, penalty)


def _of_queries(name: str, found: Codes) -> Array:
    return 1 / found if name == "MRR" else (found <= int(name.removeprefix("R@"))).astype(np.float64)


def _query_error(values: Array, plan: Plan) -> tuple[float, str]:
    """Delete-one jackknife of a mean over queries or groups of them; the candidates stay."""
    codes = np.arange(len(values)) if plan.codes is None else plan.codes
    unit = "query" if plan.codes is None else "group"
    sums, counts = np.bincount(codes, values), np.bincount(codes)
    if len(sums) < LEAST_JACKKNIFE_GROUPS:
        return math.nan, f"none: {len(sums)} groups, expected at least {LEAST_JACKKNIFE_GROUPS}"
    without = (values.sum() - sums) / (len(values) - counts)
    return jackknife_se(without), f"delete-one-{unit} jackknife"


# --------------------------------------------------------------------------------------------------------------------
# Layers
# --------------------------------------------------------------------------------------------------------------------


def score_layers(measure: Measure, first: dict[str, Array], second: dict[str, Array], plan: Plan) -> LayerMap:
    """The measure of all pairs of layers; the highest is compared with the highest of each permutation.

    Args:
        measure: from the registry.
        first, second: layers by name, ``[N, D]``, rows of the same samples throughout.
        plan: groups must be balanced.
    """
    tuning = plan.tuning
    lefts = [measure.left(x, tuning) for x in first.values()]
    rights = [measure.right(y, tuning) for y in second.values()]
    n = len(next(iter(first.values())))
    values = _matrix(measure, lefts, rights)
    drawn = orders(n, plan.permutations, plan.seed, plan.codes) if plan.testable() else iter(())
    tops = [_matrix(measure, lefts, [measure.reorder(right, order) for right in rights]).max() for order in drawn]
    null = summarise(float(values.max()) if tops else math.nan, np.array(tops), plan.alpha, measure.highest)
    row, column = np.unravel_index(int(values.argmax()), values.shape)
    names, others = tuple(first), tuple(second)
    return LayerMap(
        measure.name,
        measure.title,
        names,
        others,
        tuple(tuple(line) for line in np.where(np.isfinite(values), values, np.nan).tolist()),
        (names[row], others[column]),
        null.p_value,
        null.mean,
        null.std,
        null.tau,
        n,
        plan.groups(),
        null.count,
        plan.seed,
    )


def _matrix(measure: Measure, lefts: list[Any], rights: list[Any]) -> Array:
    found = np.array([[measure.score(left, right) for right in rights] for left in lefts])
    return np.where(np.isfinite(found), found, -np.inf)  # a layer that is constant is never the best
