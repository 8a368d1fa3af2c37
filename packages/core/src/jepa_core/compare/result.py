"""What a comparison comes to: every number with its null, its interval and what it was computed from."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

FORMAT = "1"


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


@dataclass(frozen=True)
class Comparison:
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

    def table(self) -> str:
        """The scores for reading, one line each."""
        head = ("measure", "value", "95 % interval", "by chance", "p", "calibrated", "n")
        rows = [head, *(_row(score) for score in self.scores)]
        widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
        return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)

    def verdict(self) -> tuple[str, str]:
        """Tone (``good``, ``warn`` or ``none``) and a sentence for somebody who is no statistician."""
        from jepa_core.compare.verdict import judge

        return judge(self)

    def as_dict(self) -> dict[str, Any]:
        """All of it as JSON can hold it; what does not exist is null."""
        tone, sentence = self.verdict()
        found: dict[str, Any] = _finite({"format": FORMAT, "verdict": sentence, "tone": tone, **asdict(self)})
        return found

    def csv(self) -> str:
        """The scores as CSV, one line each with every field; empty where something does not exist."""
        stream = io.StringIO()
        names = list(Score.__dataclass_fields__)
        writer = csv.DictWriter(stream, names, lineterminator="\n")
        writer.writeheader()
        for score in self.scores:
            row = {key: "" if value is None else value for key, value in _finite(asdict(score)).items()}
            writer.writerow({**row, "warnings": " | ".join(score.warnings)})
        return stream.getvalue()

    def save(self, folder: str | Path, pictures: Sequence[Path | None] = (None, None)) -> Path:
        """Writes ``result.json``, ``result.csv`` and ``compare.html`` into a folder, made if need be.

        Args:
            folder: files of the same names are replaced.
            pictures: folders of either table with one picture a sample, ``<sample_id>.png`` or ``.jpg``.

        Returns:
            The page.
        """
        from jepa_core.compare.page import render
        from jepa_core.monitor.loggers import replace_text

        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        replace_text(folder / "result.json", json.dumps(self.as_dict(), indent=1, allow_nan=False) + "\n")
        replace_text(folder / "result.csv", self.csv())
        page = folder / "compare.html"
        replace_text(page, render(self, pictures))
        return page


def figure(value: float, digits: int = 3) -> str:
    """A number with so many decimals; a dash where there is none."""
    return f"{value:.{digits}f}" if math.isfinite(value) else "-"


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


def _row(score: Score) -> tuple[str, ...]:
    expected = score.null_mean if math.isfinite(score.null_mean) else score.chance
    return (
        score_name(score),
        figure(score.value),
        interval_text(score),
        figure(expected),
        p_text(score),
        figure(score.calibrated),
        str(score.n),
    )


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
