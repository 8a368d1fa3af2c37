"""The probe of frozen features as tables: figures with their errors, and what may be said against each control."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from jepa_core.report.figures import is_trained, probe_chart
from jepa_core.report.page import number, page_chart
from jepa_core.report.reading import Run


def probe_table(run: Run) -> dict[str, Any] | None:
    """What the page shows of a run's probe; None, with a word in ``run.missing``, where it has none."""
    given = run.result.get("probe")
    rows = probe_rows(run)
    columns = list(dict.fromkeys(column for cells in rows.values() for column in cells))
    if not columns or not isinstance(given, Mapping):
        if run.result:
            run.missing.append(("probe", "result.json holds no probe figures"))
        return None
    metric = str(given.get("metric", columns[0]))
    if metric in columns:  # the leading column comes first
        columns = [metric, *(column for column in columns if column != metric)]
    lead = columns[0]
    figures = [(name, *figure(cells.get(lead))) for name, cells in rows.items()]
    known = [(name, value, stderr) for name, value, stderr in figures if value is not None]
    # Controls to be held against, and in which columns lower is better.
    judged = {name: cells for name, cells in rows.items() if name not in names(given, "bounds")}
    errors = names(given, "errors")
    return {
        "metric": metric,
        "columns": columns,
        "rows": _probe_rows(rows, columns, _best(judged, columns, errors)),
        "n": number(given.get("n")),
        "note": str(given.get("note", "")),
        "findings": [
            finding for column in columns for finding in _findings(judged, column, -1 if column in errors else 1)
        ],
        "chart": page_chart(probe_chart(known, metric)) if known else None,
        "trained": next((cell_text(value, stderr, False) for name, value, stderr in known if name == "trained"), None),
    }


def probe_rows(run: Run) -> dict[str, dict[str, Any]]:
    """Rows of a run's probe with their cells by column; empty where it has none."""
    given = run.result.get("probe")
    rows = given.get("rows") if isinstance(given, Mapping) else None
    if not isinstance(rows, Mapping):
        return {}
    return {str(name): dict(cells) for name, cells in rows.items() if isinstance(cells, Mapping)}


def figure(cell: Any) -> tuple[float | None, float | None]:
    """Value and standard error of a probe's cell, None where there is none."""
    if isinstance(cell, Mapping):
        value, stderr = cell.get("value"), cell.get("stderr")
        return (None if value is None else float(value)), (None if stderr is None else float(stderr))
    return (float(cell) if isinstance(cell, int | float) else None), None


def cell_text(value: float | None, stderr: float | None, best: bool) -> dict[str, Any]:
    """A cell for a template."""
    return {
        "value": "–" if value is None else f"{value:.3f}",
        "error": "" if stderr is None else f"± {stderr:.3f}",
        "best": best,
    }


def names(given: Mapping[str, Any], key: str) -> tuple[str, ...]:
    """Columns or rows that a table names; results of former versions name none."""
    found = given.get(key)
    return tuple(map(str, found)) if isinstance(found, list | tuple) else ()


def _best(rows: Mapping[str, Mapping[str, Any]], columns: list[str], errors: tuple[str, ...]) -> dict[str, float]:
    """The best figure of each column that has one."""
    found = {column: [figure(cells.get(column))[0] for cells in rows.values()] for column in columns}
    known = {column: [value for value in values if value is not None] for column, values in found.items()}
    return {column: (min if column in errors else max)(values) for column, values in known.items() if values}


def _probe_rows(
    rows: Mapping[str, Mapping[str, Any]], columns: list[str], best: Mapping[str, float]
) -> list[dict[str, Any]]:
    figures = {column: {name: figure(cells.get(column)) for name, cells in rows.items()} for column in columns}
    return [
        {
            "name": name,
            "trained": is_trained(name),
            "cells": [
                cell_text(
                    *figures[column][name],
                    best=figures[column][name][0] is not None and figures[column][name][0] == best.get(column),
                )
                for column in columns
            ],
        }
        for name in rows
    ]


def _findings(rows: Mapping[str, Mapping[str, Any]], column: str, sign: int) -> list[dict[str, str]]:
    """The trained encoder against every control: behind first, then level within two joint errors, then ahead.

    ``sign`` is -1 where lower is better.
    """
    trained, error = figure(rows.get("trained", {}).get(column))
    groups: dict[str, list[str]] = {"bad": [], "warn": [], "good": []}
    for name, cells in rows.items():
        value, stderr = figure(cells.get(column))
        if is_trained(name) or value is None or trained is None:
            continue
        difference = trained - value
        level = difference == 0 or abs(difference) <= 2 * math.hypot(error or 0.0, stderr or 0.0)
        groups["warn" if level else "good" if sign * difference > 0 else "bad"].append(f"“{name}” ({difference:+.3f})")
    return [
        {"tone": tone, "text": f"{column}: the trained encoder is {RELATIONS[tone]} {', '.join(names)}."}
        for tone, names in groups.items()
        if names
    ]


RELATIONS = {"bad": "behind", "warn": "level, within the error, with", "good": "ahead of"}
