"""Reads a run folder as far as it goes: what is absent or broken is named, never an error."""

from __future__ import annotations

import base64
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from jepa_core.monitor.loggers import read_metrics
from jepa_core.one_line import one_line
from jepa_core.plain_json import parse_json
from jepa_core.plain_yaml import check_yaml
from jepa_core.recipe_record import FILE
from jepa_core.results import picture_format

NO_RECIPE = "what differs from the recipe was not recorded: the run was made before reports showed it"
PARTS = ("config.yaml", "environment.json", "metrics.jsonl", "result.json")
"""A folder with any of them is a run's."""


@dataclass
class Run:
    """What a run folder holds, read as far as it goes.

    Attributes:
        config: ``config.yaml`` as it stands.
        settings: the same as nested values; empty where it cannot be read.
        recipe: ``recipe.json``, see :mod:`jepa_core.recipe_record`.
        missing: (file, what that means) for everything absent or unreadable.
    """

    folder: Path
    config: str = ""
    settings: dict[str, Any] = field(default_factory=dict)
    recipe: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, Any] = field(default_factory=dict)
    metrics: list[dict[str, Any]] = field(default_factory=list)
    quarantine: list[dict[str, Any]] = field(default_factory=list)
    result: dict[str, Any] = field(default_factory=dict)
    pictures: list[dict[str, str]] = field(default_factory=list)
    missing: list[tuple[str, str]] = field(default_factory=list)


def is_run(folder: Path) -> bool:
    """Whether a folder holds anything that a run writes."""
    return any((folder / name).is_file() for name in PARTS)


def read_run(folder: Path) -> Run:
    """Reads a run folder."""
    run = Run(folder)
    run.config = _read(run, "config.yaml", "the settings of this run are unknown", _text) or ""
    run.settings = _settings(run)
    run.recipe = _read(run, FILE, NO_RECIPE, _json_object) or {}
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


def _settings(run: Run) -> dict[str, Any]:
    try:
        check_yaml(run.config)
        found = yaml.safe_load(run.config)
    except (yaml.YAMLError, ValueError, TypeError, RecursionError):
        found = None
    if run.config and not isinstance(found, dict):
        run.missing.append(("config.yaml", "it holds no keys and values; it is shown as it stands"))
    return found if isinstance(found, dict) else {}


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace")


def _metrics(path: Path) -> list[dict[str, Any]]:
    rows = read_metrics(path)
    if not rows:
        raise ValueError("it holds no complete line")
    return rows


def _json_object(path: Path) -> dict[str, Any]:
    content = parse_json(_text(path))
    if not isinstance(content, dict):
        raise ValueError("expected a JSON object")
    return content


def _json_list(path: Path) -> list[Any]:
    content = parse_json(_text(path))
    if not isinstance(content, list):
        raise ValueError("expected a JSON list")
    return content


def _json_lines(path: Path) -> list[dict[str, Any]]:
    rows = []
    for number, line in enumerate(_text(path).splitlines(), 1):
        try:
            row = parse_json(line)
            rows.append(row if isinstance(row, dict) else {"entry": row})
        except ValueError:
            warnings.warn(f"line {number} is broken and left out", stacklevel=2)
    return rows


def _picture(run: Run, entry: Any) -> dict[str, str] | None:
    name = str(entry.get("file", "")) if isinstance(entry, dict) else ""
    folder = (run.folder / "pictures").resolve()
    try:
        path = (folder / name).resolve()
        # An index may come from elsewhere: it must not pull other files into a page that people send around.
        data = path.read_bytes() if name and path.is_relative_to(folder) and path.is_file() else b""
    except (OSError, ValueError):  # a name that no file can have
        data = b""
    kind = picture_format(data)
    if kind is None:
        run.missing.append(
            (one_line(f"pictures/{name}"), "the index names it, but it is no PNG or GIF file in that folder")
        )
        return None
    return {
        "title": str(entry.get("title", "")),
        "caption": str(entry.get("caption", "")),
        "format": kind,
        "data": base64.b64encode(data).decode(),
    }
