"""Probe tables of several runs beside each other: figures with errors, and differences with the joint error."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jepa_core.report.page import number
from jepa_core.report.probe_tables import cell_text, figure, is_trained, names, probe_rows
from jepa_core.report.reading import Run


@dataclass(frozen=True)
class ProbeSide:
    """A run's probe: its name and colour on the page, and the ``probe`` of its ``result.json``."""

    label: str
    colour: str
    given: Any
    run: Run

    @property
    def rows(self) -> Mapping[str, Mapping[str, Any]]:
        """Cells by row and column; empty where there is no probe."""
        return probe_rows(self.run)


def probe_sides(sides: Sequence[ProbeSide]) -> list[dict[str, Any]]:
    """A table a metric: rows are what was probed, columns are runs, then each run's difference to the first."""
    metrics = dict.fromkeys(column for side in sides for cells in side.rows.values() for column in cells)
    return [_table(metric, sides) for metric in metrics]


def _table(metric: str, sides: Sequence[ProbeSide]) -> dict[str, Any]:
    lower = any(metric in names(side.given or {}, "errors") for side in sides)
    found = dict.fromkeys(name for side in sides for name, cells in side.rows.items() if metric in cells)
    return {
        "metric": metric,
        "better": "lower is better" if lower else "higher is better",
        "pairs": [f"{side.label} − {sides[0].label}" for side in sides[1:]],
        "rows": [_row(name, metric, sides) for name in found],
    }


def _row(name: str, metric: str, sides: Sequence[ProbeSide]) -> dict[str, Any]:
    figures = [figure(side.rows.get(name, {}).get(metric)) for side in sides]
    return {
        "name": name,
        "trained": is_trained(name),
        "cells": [cell_text(value, stderr, best=False) for value, stderr in figures],
        "differences": [difference(figures[0], other) for other in figures[1:]],
    }


Figure = tuple[float | None, float | None]


def difference(first: Figure, second: Figure) -> dict[str, str]:
    """Second minus first with the joint error, the root of the summed squares, and whether two of it hold it.

    Returns:
        ``text``, ``error`` and ``note``; a dash where one side has no figure, no judgement where one has no error.
    """
    (a, error_a), (b, error_b) = first, second
    if a is None or b is None:
        return {"text": "–", "error": "", "note": ""}
    text = f"{b - a:+.3f}" if abs(b - a) >= 0.0005 else "0.000"
    if error_a is None or error_b is None:
        return {"text": text, "error": "", "note": "error unknown"}
    joint = math.hypot(error_a, error_b)
    within = abs(b - a) <= 2 * joint
    return {"text": text, "error": f"± {joint:.3f}", "note": "within two errors" if within else "beyond two errors"}


def probe_note(sides: Sequence[ProbeSide]) -> list[str]:
    """How the probes were made, once where it was the same for all, and what the errors do not hold."""
    with_probe = [side for side in sides if side.rows]
    made = {side.label: f"n = {number(side.given.get('n'))}. {side.given.get('note', '')}" for side in with_probe}
    alike = len(set(made.values())) == 1 and len(made) == len(sides)
    found = list(dict.fromkeys(made.values())) if alike else [f"{label}: {text}" for label, text in made.items()]
    without = [side.label for side in sides if not side.rows]
    if without:
        found.append(f"No probe: {', '.join(without)}.")
    found.append(
        "± is one standard error over the test samples; that of a difference is the root of the summed squares, as if "
        "the runs had been tested on different samples. Another seed may move a figure further than that."
    )
    return found
