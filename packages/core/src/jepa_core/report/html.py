"""Writes ``report.html`` of a run: one file, everything inlined, opens offline, says what is missing."""

from __future__ import annotations

import base64
import json
import math
import warnings
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from jepa_core.monitor.loggers import read_metrics, replace_text
from jepa_core.monitor.verdict import DIVERGING, FROZEN, HEALTHY, IGNORES, PARTIAL, TOTAL, WARMING_UP, judge_history
from jepa_core.report.figures import Chart, curve_charts, is_trained, probe_chart
from jepa_core.report.samples import samples_page
from jepa_core.results import picture_format

QUARANTINE_SHOWN = 50

TONES = {HEALTHY: "good", FROZEN: "warn", IGNORES: "warn", PARTIAL: "warn", TOTAL: "bad", DIVERGING: "bad"}


@dataclass
class Run:
    """What a run folder holds, read as far as it goes.

    Attributes:
        missing: (file, what that means) for everything absent or unreadable.
    """

    folder: Path
    config: str = ""
    environment: dict[str, Any] = field(default_factory=dict)
    metrics: list[dict[str, Any]] = field(default_factory=list)
    quarantine: list[dict[str, Any]] = field(default_factory=list)
    result: dict[str, Any] = field(default_factory=dict)
    pictures: list[dict[str, str]] = field(default_factory=list)
    missing: list[tuple[str, str]] = field(default_factory=list)


def write_report(run_dir: Path | str) -> Path:
    """Writes ``report.html`` into a run folder and returns its path.

    Reads ``config.yaml``, ``environment.json``, ``metrics.jsonl``, ``quarantine.jsonl``, ``result.json``,
    ``samples.json`` with ``pictures/samples/``, and ``pictures/index.json`` with its PNG and GIF files, whichever
    exist; what is absent or broken is named in the report.

    Raises:
        ValueError: ``run_dir`` is no folder.
    """
    folder = Path(run_dir)
    if not folder.is_dir():
        raise ValueError(f"report: expected the folder of a run, got '{folder}', which is none; check the path")
    path = folder / "report.html"
    replace_text(path, _render(read_run(folder)))
    return path


def read_run(folder: Path) -> Run:
    """Reads a run folder."""
    run = Run(folder)
    run.config = _read(run, "config.yaml", "the settings of this run are unknown", _text) or ""
    run.environment = _read(run, "environment.json", "the machine and versions are unknown", _json_object) or {}
    run.metrics = _read(run, "metrics.jsonl", "no step has been logged yet", _metrics) or []
    run.result = _read(run, "result.json", "the run has not finished", _json_object) or {}
    if (folder / "quarantine.jsonl").exists():
        run.quarantine = _read(run, "quarantine.jsonl", "", _json_lines) or []
    index = _read(run, "pictures/index.json", "no pictures were drawn", _json_list) or []
    run.pictures = [picture for entry in index if (picture := _picture(run, entry))]
    return run


def _read(run: Run, name: str, meaning: str, reader: Callable[[Path], Any]) -> Any:
    path = run.folder / name
    if not path.exists():
        run.missing.append((name, meaning))
        return None
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            content = reader(path)
        run.missing += [(name, str(warning.message).removeprefix(f"{path}: ")) for warning in caught]
        return content
    except (OSError, ValueError) as error:
        run.missing.append((name, f"cannot be read: {error}"))
        return None


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace")


def _metrics(path: Path) -> list[dict[str, Any]]:
    rows = read_metrics(path)
    if not rows:
        raise ValueError("it holds no complete line")
    return rows


def _json_object(path: Path) -> dict[str, Any]:
    content = json.loads(_text(path))
    if not isinstance(content, dict):
        raise ValueError("expected a JSON object")
    return content


def _json_list(path: Path) -> list[Any]:
    content = json.loads(_text(path))
    if not isinstance(content, list):
        raise ValueError("expected a JSON list")
    return content


def _json_lines(path: Path) -> list[dict[str, Any]]:
    rows = []
    for number, line in enumerate(_text(path).splitlines(), 1):
        try:
            row = json.loads(line)
            rows.append(row if isinstance(row, dict) else {"entry": row})
        except ValueError:
            warnings.warn(f"line {number} is broken and left out", stacklevel=2)
    return rows


def _picture(run: Run, entry: Any) -> dict[str, str] | None:
    name = str(entry.get("file", "")) if isinstance(entry, dict) else ""
    folder = (run.folder / "pictures").resolve()
    path = (folder / name).resolve()
    # An index may come from elsewhere: it must not pull other files of this machine into a page people send around.
    data = path.read_bytes() if name and path.is_relative_to(folder) and path.is_file() else b""
    kind = picture_format(data)
    if kind is None:
        run.missing.append((f"pictures/{name}", "the index names it, but it is no PNG or GIF file in that folder"))
        return None
    return {
        "title": str(entry.get("title", "")),
        "caption": str(entry.get("caption", "")),
        "format": kind,
        "data": base64.b64encode(data).decode(),
    }


def _render(run: Run) -> str:
    charts = curve_charts(run.metrics)
    probe = _probe(run)
    environment = Environment(
        loader=PackageLoader("jepa_core.report", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    return environment.get_template("template.html").render(
        name=run.folder.resolve().name,
        subtitle=" · ".join(str(run.result[key]) for key in ("modality", "recipe") if run.result.get(key)),
        verdict=_verdict(run),
        facts=_facts(run, probe),
        missing=run.missing,
        probe=probe,
        charts={section: [_page_chart(chart) for chart in found] for section, found in charts.items()},
        samples=samples_page(run.folder, run.missing),
        pictures=run.pictures,
        quarantine=_quarantine(run.quarantine),
        config=run.config,
        environment=_flat(run.environment),
    )


def _page_chart(chart: Chart) -> dict[str, Any]:
    # The only text of a drawing is numbers and names that Matplotlib escaped.
    return {"title": chart.title, "caption": chart.caption, "legend": chart.legend, "svg": Markup(chart.svg)}


def _verdict(run: Run) -> dict[str, str]:
    """The verdict the run ended with; of an unfinished one, the verdict its recorded figures give."""
    judged = judge_history(run.metrics)
    given = str(run.result.get("verdict", "")) or judged.state
    # The result names the state; how many dimensions it concerns is in the figures.
    headline = judged.headline if judged.state == given else given
    sentence = str(run.result.get("verdict_sentence", "")) or (judged.sentence if judged.state == given else "")
    if given == WARMING_UP and not judged.evidence.get("measurements", 1.0):
        headline, sentence = "no verdict", "The features of this run have not been measured."
    tone = next((tone for state, tone in TONES.items() if headline.lower().startswith(state)), "none")
    if sentence.lower().startswith(headline.lower()):  # the page shows the headline already
        sentence = sentence[len(headline) :].removeprefix(":").strip()
    return {"tone": tone, "headline": _capital(headline), "sentence": _capital(sentence)}


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _facts(run: Run, probe: dict[str, Any] | None) -> list[tuple[str, str, str]]:
    """Key figures as (label, figure, unit)."""
    result, last = run.result, run.metrics[-1] if run.metrics else {}
    steps = result.get("steps", last.get("step"))
    speed = result.get("samples_per_s", last.get("samples_per_s"))
    facts = [("Steps", "–" if steps is None else f"{steps:,}", "")]
    facts.append(("Time", *_duration(_seconds(run))))
    facts.append(("Speed", number(speed), "samples/s"))
    peak = result.get("peak_rss_mib")
    facts.append(("Peak memory", number(peak / 1024 if peak else None), "GiB"))
    if probe and probe["trained"]:
        facts.insert(0, (f"Probe, {probe['metric']}", probe["trained"]["value"], probe["trained"]["error"]))
    return facts


def _seconds(run: Run) -> float | None:
    if "seconds" in run.result:
        return float(run.result["seconds"])
    times = [row["time"] for row in run.metrics if isinstance(row.get("time"), int | float)]
    return times[-1] - times[0] if len(times) > 1 else None


def _duration(seconds: float | None) -> tuple[str, str]:
    if seconds is None:
        return "–", ""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return (f"{hours}:{minutes:02d}", "h") if hours else (f"{minutes}:{rest:02d}", "min")


def number(value: Any, digits: int = 3) -> str:
    """A figure for reading; a dash where there is none."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return "–"
    if not math.isfinite(value):
        return str(value)
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.{digits}g}"


# --------------------------------------------------------------------------------------------------------------------
# The probe
# --------------------------------------------------------------------------------------------------------------------


def _probe(run: Run) -> dict[str, Any] | None:
    given = run.result.get("probe")
    if not isinstance(given, Mapping) or not isinstance(given.get("rows"), Mapping) or not given["rows"]:
        if run.result:
            run.missing.append(("probe", "result.json holds no probe figures"))
        return None
    rows = {str(name): dict(cells) for name, cells in given["rows"].items()}
    columns = list(dict.fromkeys(column for cells in rows.values() for column in cells))
    metric = str(given.get("metric", columns[0]))
    if metric in columns:  # the leading column comes first
        columns = [metric, *(column for column in columns if column != metric)]
    lead = columns[0]
    figures = [(name, *_figure(cells.get(lead))) for name, cells in rows.items()]
    known = [(name, value, stderr) for name, value, stderr in figures if value is not None]
    # Controls to be held against, and in which columns lower is better.
    judged = {name: cells for name, cells in rows.items() if name not in _names(given, "bounds")}
    errors = _names(given, "errors")
    return {
        "metric": metric,
        "columns": columns,
        "rows": _probe_rows(rows, columns, _best(judged, columns, errors)),
        "n": number(given.get("n")),
        "note": str(given.get("note", "")),
        "findings": [
            finding for column in columns for finding in _findings(judged, column, -1 if column in errors else 1)
        ],
        "chart": _page_chart(probe_chart(known, metric)) if known else None,
        "trained": next((_cell(value, stderr, False) for name, value, stderr in known if name == "trained"), None),
    }


def _figure(cell: Any) -> tuple[float | None, float | None]:
    if isinstance(cell, Mapping):
        value, stderr = cell.get("value"), cell.get("stderr")
        return (None if value is None else float(value)), (None if stderr is None else float(stderr))
    return (float(cell) if isinstance(cell, int | float) else None), None


def _cell(value: float | None, stderr: float | None, best: bool) -> dict[str, Any]:
    return {
        "value": "–" if value is None else f"{value:.3f}",
        "error": "" if stderr is None else f"± {stderr:.3f}",
        "best": best,
    }


def _names(given: Mapping[str, Any], key: str) -> tuple[str, ...]:
    """Columns or rows that a table names; results of former versions name none."""
    found = given.get(key)
    return tuple(map(str, found)) if isinstance(found, list | tuple) else ()


def _best(rows: Mapping[str, Mapping[str, Any]], columns: list[str], errors: tuple[str, ...]) -> dict[str, float]:
    """The best figure of each column that has one."""
    found = {column: [_figure(cells.get(column))[0] for cells in rows.values()] for column in columns}
    known = {column: [value for value in values if value is not None] for column, values in found.items()}
    return {column: (min if column in errors else max)(values) for column, values in known.items() if values}


def _probe_rows(
    rows: Mapping[str, Mapping[str, Any]], columns: list[str], best: Mapping[str, float]
) -> list[dict[str, Any]]:
    figures = {column: {name: _figure(cells.get(column)) for name, cells in rows.items()} for column in columns}
    return [
        {
            "name": name,
            "trained": is_trained(name),
            "cells": [
                _cell(
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
    trained, error = _figure(rows.get("trained", {}).get(column))
    groups: dict[str, list[str]] = {"bad": [], "warn": [], "good": []}
    for name, cells in rows.items():
        value, stderr = _figure(cells.get(column))
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


# --------------------------------------------------------------------------------------------------------------------
# Tables
# --------------------------------------------------------------------------------------------------------------------


def _flat(value: Any, prefix: str = "") -> list[tuple[str, str]]:
    """Nested settings as (dotted name, text) pairs."""
    if isinstance(value, Mapping):
        return [
            pair for key, inner in value.items() for pair in _flat(inner, f"{prefix}.{key}" if prefix else str(key))
        ]
    if isinstance(value, list) and not any(isinstance(item, dict | list) for item in value):
        return [(prefix, ", ".join(map(str, value)))]
    return [(prefix, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))]


def _quarantine(rows: list[dict[str, Any]]) -> dict[str, Any]:
    reasons = Counter(str(row.get("reason", "no reason given")).split(":")[0] for row in rows).most_common(8)
    shown = [
        {
            "name": str(row.get("sample_id", "")),
            "text": "; ".join(
                value if key == "reason" else f"{key} {value}"
                for key, value in _flat({key: value for key, value in row.items() if key != "sample_id"})
            ),
        }
        for row in rows[:QUARANTINE_SHOWN]
    ]
    return {"count": len(rows), "reasons": reasons, "shown": shown}
