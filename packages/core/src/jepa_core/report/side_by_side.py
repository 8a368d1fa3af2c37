"""Writes several runs side by side into one page that opens offline: figures, curves, probes, settings, pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jepa_core.monitor.loggers import replace_text
from jepa_core.recipe_record import PLACE, flat
from jepa_core.report.figures import SERIES, overlay_charts
from jepa_core.report.page import environment, page_chart
from jepa_core.report.probe_sides import ProbeSide, probe_note, probe_sides
from jepa_core.report.reading import Run, is_run, read_run
from jepa_core.report.summary import facts, subtitle, verdict

MOST = len(SERIES)
"""Runs on a page: as many as there are lines that can be told apart without colour."""

# What differs between any two runs and says nothing.
_OWN = ("started", "choices.run folder", "choices.recipe")


@dataclass(frozen=True)
class Side:
    """A run on the page: what it is called there, and its colour as a CSS variable."""

    label: str
    colour: str
    run: Run


def write_side_by_side(folders: Sequence[Path], out: Path) -> Path:
    """Writes the page and returns its path; runs that are unfinished or broken are shown as far as they go.

    Raises:
        ValueError: fewer than two runs or more than :data:`MOST`, one twice, a folder that is no run's.
    """
    _check(folders)
    labels = distinct_names(folders)
    runs = [read_run(folder) for folder in folders]
    sides = [Side(label, f"--series-{k}", run) for k, (label, run) in enumerate(zip(labels, runs, strict=True), 1)]
    replace_text(out, _render(sides))
    return out


def _check(folders: Sequence[Path]) -> None:
    if not 2 <= len(folders) <= MOST:
        raise ValueError(f"report: expected 2 to {MOST} runs side by side, got {len(folders)}; leave some out")
    seen: dict[Path, Path] = {}
    for folder in folders:
        check_run(folder)
        if folder.resolve() in seen:
            raise ValueError(f"report: expected different runs, got {folder} twice; name it once")
        seen[folder.resolve()] = folder


def check_run(folder: Path) -> None:
    """Refuses what is no run folder.

    Raises:
        ValueError: no folder, or one without anything that a run writes.
    """
    if not folder.is_dir():
        raise ValueError(f"report: expected the folder of a run, got '{folder}': no such folder; check the path")
    if folder.resolve().parent.name == "checkpoints":
        run = folder.resolve().parent.parent
        raise ValueError(f"report: expected the folder of a run, got its checkpoint '{folder}'; name the run: {run}")
    if not is_run(folder):
        raise ValueError(
            f"report: expected the folder of a run, got '{folder}', which holds no config.yaml, environment.json, "
            f"metrics.jsonl or result.json; check the path"
        )


def distinct_names(folders: Sequence[Path]) -> list[str]:
    """Folder names; where two are the same, with as many folders above them as tell them apart."""
    parts = [folder.resolve().parts for folder in folders]
    for depth in range(1, max(map(len, parts)) + 1):
        names = ["/".join(each[-depth:]) for each in parts]
        if len(set(names)) == len(names):
            return names
    raise AssertionError("different folders have different paths")


def _render(sides: Sequence[Side]) -> str:
    charts = overlay_charts({side.label: side.run.metrics for side in sides})
    probes = [ProbeSide(side.label, side.colour, side.run.result.get("probe"), side.run) for side in sides]
    return (
        environment()
        .get_template("side_by_side.html")
        .render(
            name=" and ".join(", ".join(side.label for side in sides).rsplit(", ", 1)),
            sides=[_head(side) for side in sides],
            warnings=_warnings(sides),
            facts=_facts(sides),
            probes=probe_sides(probes),
            probe_note=probe_note(probes),
            charts={section: [page_chart(chart) for chart in found] for section, found in charts.items()},
            settings=_differing([_settings(side.run) for side in sides]),
            environments=_differing([_environment(side.run) for side in sides]),
            pictures=_pictures(sides),
            missing=[(side.label, *entry) for side in sides for entry in side.run.missing],
        )
    )


def _head(side: Side) -> dict[str, Any]:
    return {
        "label": side.label,
        "colour": side.colour,
        "subtitle": subtitle(side.run),
        "verdict": verdict(side.run),
        "finished": bool(side.run.result),
    }


def _warnings(sides: Sequence[Side]) -> list[str]:
    found = []
    modalities = {side.label: str(side.run.result.get("modality") or _modality(side.run)) for side in sides}
    known = {label: name for label, name in modalities.items() if name}
    if len(set(known.values())) > 1:
        listed = ", ".join(f"{label}: {name}" for label, name in known.items())
        found.append(f"Different modalities ({listed}): losses and probes are not comparable between them.")
    unfinished = [side.label for side in sides if not side.run.result]
    if unfinished:
        found.append(f"Not finished: {', '.join(unfinished)}. Shown as far as recorded, without a probe at the end.")
    return found


def _modality(run: Run) -> str:
    return Path(str(run.settings.get("modality") or "")).stem


def _facts(sides: Sequence[Side]) -> list[dict[str, Any]]:
    """Key figures with a cell a run."""
    columns = [facts(side.run) for side in sides]
    rows = [
        {"name": entries[0][0], "cells": [f"{figure} {unit}" if figure != "–" else "–" for _, figure, unit in entries]}
        for entries in zip(*columns, strict=True)
    ]
    rows.append({"name": "Samples put aside", "cells": [f"{len(side.run.quarantine):,}" for side in sides]})
    return rows


def _settings(run: Run) -> dict[str, str]:
    return {key: value for key, value in flat(run.settings) if key not in PLACE or key in ("modality", "recipe")}


def _environment(run: Run) -> dict[str, str]:
    return {key: value for key, value in flat(run.environment) if key not in _OWN}


def _differing(columns: Sequence[Mapping[str, str]]) -> list[dict[str, Any]]:
    """Rows of keys that not all columns have, or have alike; a column that is empty as a whole is only missing."""
    known = [column for column in columns if column]
    keys = dict.fromkeys(key for column in known for key in column)
    differing = [key for key in keys if len({column.get(key) for column in known}) > 1]
    return [{"name": key, "cells": [column.get(key, "–") for column in columns]} for key in differing]


def _pictures(sides: Sequence[Side]) -> list[dict[str, Any]]:
    """Pictures by title; the second of a title in one run stands with the second of the others."""
    by_run = []
    for side in sides:
        found: dict[tuple[str, int], dict[str, str]] = {}
        for picture in side.run.pictures:
            count = sum(title == picture["title"] for title, _ in found)
            found[picture["title"], count] = picture
        by_run.append(found)
    keys = dict.fromkeys(key for found in by_run for key in found)
    return [
        {
            "title": title,
            "cells": [(side.label, found.get((title, n))) for side, found in zip(sides, by_run, strict=True)],
        }
        for title, n in keys
    ]
