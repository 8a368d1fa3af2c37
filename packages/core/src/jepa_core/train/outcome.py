"""What is left after the last step: pictures, the probe against its controls, ``result.json``, the report."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from jepa_core.contracts import Measurement, Picture, ProbeTable
from jepa_core.monitor.console import Console
from jepa_core.monitor.verdict import Verdict


def write_pictures(run_dir: Path, pictures: Sequence[Picture]) -> None:
    """``pictures/<nn>-<slug>.png`` (``.gif`` of what moves) and ``pictures/index.json``."""
    folder = run_dir / "pictures"
    folder.mkdir(exist_ok=True)
    index = []
    for number, picture in enumerate(pictures, 1):
        slug = re.sub(r"[^a-z0-9]+", "-", picture.title.lower()).strip("-") or "picture"
        name = f"{number:02d}-{slug}{picture.suffix}"
        (folder / name).write_bytes(picture.png)
        index.append({"file": name, "title": picture.title, "caption": picture.caption})
    (folder / "index.json").write_text(json.dumps(index, indent=1), encoding="utf-8")


def probe_summary(table: ProbeTable) -> dict[str, Any]:
    """The leading column of the three rows that always stand, and the whole table."""

    def value(row: str) -> float | None:
        measurement = table.rows.get(row, {}).get(table.metric)
        return None if measurement is None else measurement.value

    trained = table.rows["trained"][table.metric]
    return {
        "metric": table.metric,
        "trained": trained.value,
        "untrained": value("untrained"),
        "raw": value("raw"),
        "stderr": trained.stderr,
        "n": table.n,
        "note": table.note,
        "errors": list(table.errors),
        "bounds": list(table.bounds),
        "rows": {
            name: {column: {"value": m.value, "stderr": m.stderr} for column, m in columns.items()}
            for name, columns in table.rows.items()
        },
    }


def write_result(
    run_dir: Path, figures: Mapping[str, Any], verdict: Verdict, table: ProbeTable | None
) -> dict[str, Any]:
    """``result.json``; returns what it holds."""
    result = {
        **figures,
        "verdict": verdict.state,
        "verdict_sentence": verdict.sentence,
        "probe": None if table is None else probe_summary(table),
    }
    write_json(run_dir / "result.json", result)
    return result


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Strict JSON, which has no NaN and no infinity: such a figure becomes ``null``."""
    path.write_text(json.dumps(_strict(value), indent=1, allow_nan=False), encoding="utf-8")


def _strict(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _strict(inner) for key, inner in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def show_probe(console: Console, table: ProbeTable) -> None:
    """The table a run ends with: the leading metric first."""
    columns = list(dict.fromkeys([table.metric, *(column for row in table.rows.values() for column in row)]))
    rows = [[name, *(_figure(row.get(column)) for column in columns)] for name, row in table.rows.items()]
    console.table(f"Probe, n = {table.n}", ["features", *columns], rows)
    console.message(table.note)


def _figure(measurement: Measurement | None) -> str:
    if measurement is None:
        return "-"
    error = "" if measurement.stderr is None else f" ± {measurement.stderr:.3f}"
    return f"{measurement.value:.3f}{error}"


def release(device: torch.device) -> None:
    """Gives cached GPU memory back before the probe."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
