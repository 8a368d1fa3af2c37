"""What a comparison found: every number with its null, its interval and what it was computed from."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Score:
    """A measure's value, never without what makes it readable; NaN where something does not exist.

    Attributes:
        measure, title: its name, in settings and for people.
        direction: ``a - b``, or ``a -> b`` where the measure is not symmetric.
        value: higher is more similar.
        null_mean, null_std, null_low, null_high: of the null; low and high are its 2.5 % and 97.5 %.
        p_value: one-sided; NaN where rows are not exchangeable and groups are too few.
        tau: threshold at level ``alpha``.
        calibrated: 0 at ``tau`` and below, 1 at the highest value possible.
        excess: 0 at the null's mean, 1 at the highest value possible.
        ci_low, ci_high: 95 % interval.
        chance: value for independent isotropic tables by formula; NaN without one.
        n, d_x, d_y: rows and widths it was computed from.
        groups: groups that were permuted; 0 = rows.
        estimator, null, interval: how value, null and interval were computed.
        permutations, seed: of the null.
        warnings: what limits this value.
    """

    measure: str
    title: str
    direction: str
    value: float
    null_mean: float
    null_std: float
    null_low: float
    null_high: float
    p_value: float
    tau: float
    calibrated: float
    excess: float
    ci_low: float
    ci_high: float
    chance: float
    n: int
    d_x: int
    d_y: int
    groups: int
    estimator: str
    null: str
    interval: str
    permutations: int
    seed: int
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class LayerMap:
    """A measure of every layer of one table with every layer of the other.

    Attributes:
        measure, title: as in :class:`Score`.
        rows, columns: layers of the first and of the second table.
        values: by row and column.
        best: (row, column) of the highest value; a selected pair, to be read with ``p_value`` only.
        p_value: of the maximum against the maximum of each permutation.
        null_mean, null_std: of those maxima.
        tau: what a cell must exceed, at level ``alpha`` over all cells together.
        n: rows it was computed from.
        groups, permutations, seed: as in :class:`Score`.
    """

    measure: str
    title: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    values: tuple[tuple[float, ...], ...]
    best: tuple[str, str]
    p_value: float
    null_mean: float
    null_std: float
    tau: float
    n: int
    groups: int
    permutations: int
    seed: int


@dataclass(frozen=True)
class Neighbour:
    """A row near another: its sample, its label if it has one, and whether both tables name it."""

    sample_id: str
    label: str
    shared: bool


@dataclass(frozen=True)
class Example:
    """The nearest samples of one sample in either table, nearest first, and how many of k they share."""

    sample_id: str
    label: str
    overlap: int
    first: tuple[Neighbour, ...]
    second: tuple[Neighbour, ...]

    def shown(self, side: int) -> tuple[str, ...]:
        """Names of the sample and of its neighbours in the first (0) or the second (1) table."""
        return (self.sample_id, *(near.sample_id for near in (self.first, self.second)[side]))


@dataclass(frozen=True)
class Findings:
    """Everything a comparison found.

    Attributes:
        name_a, name_b: of the tables.
        mode: ``paired``, ``class`` or ``spectrum``.
        scores: one for each measure and direction.
        layer_maps: empty where each table has one layer.
        curve: mutual kNN by k: (k, value, chance).
        figures: further numbers by name, such as median ranks or spectra.
        examples: neighbours side by side.
        metadata: of the tables: (key, of a, of b).
        preprocessing: what was done to the features, in order.
        settings: what was asked for.
        warnings: what limits the whole comparison.
        alpha: level of the thresholds.
    """

    name_a: str
    name_b: str
    mode: str
    scores: tuple[Score, ...]
    layer_maps: tuple[LayerMap, ...] = ()
    curve: tuple[tuple[int, float, float], ...] = ()
    figures: Mapping[str, float] = field(default_factory=dict)
    examples: tuple[Example, ...] = ()
    metadata: tuple[tuple[str, str, str], ...] = ()
    preprocessing: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    alpha: float = 0.05

    def __getitem__(self, name: str) -> Score:
        """The first score of this measure."""
        for score in self.scores:
            if score.measure == name:
                return score
        raise KeyError(f"{name}: the comparison holds {', '.join(score.measure for score in self.scores)}")


def figure(value: float, digits: int = 3) -> str:
    """A number with so many decimals; a dash where there is none."""
    # Adding 0 makes a zero of the small negative ones, which would read -0.000.
    return f"{round(value, digits) + 0.0:.{digits}f}" if math.isfinite(value) else "-"


def p_text(score: Score | LayerMap) -> str:
    """A p-value for reading."""
    if not math.isfinite(score.p_value):
        return "-"
    return f"{score.p_value:.3f}" if score.p_value >= 0.001 else f"{score.p_value:.1g}"


def interval_text(score: Score) -> str:
    """The interval for reading."""
    return f"{figure(score.ci_low)} .. {figure(score.ci_high)}" if math.isfinite(score.ci_low) else "-"


def score_name(score: Score) -> str:
    """Title, with the direction where there are two."""
    return score.title if "->" not in score.direction else f"{score.title} {score.direction}"
