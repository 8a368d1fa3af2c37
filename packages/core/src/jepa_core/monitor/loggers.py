"""The run's own record of its figures: one strict JSON object a line, safe against a killed process."""

from __future__ import annotations

import json
import math
import os
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jepa_core.plain_json import parse_json

RESERVED = ("step", "time", "nonfinite")


class MetricsFile:
    """``metrics.jsonl``: ``{"step": 10, "time": 1700000000.0, "loss": 0.5, ...}``, one line a call, flushed.

    JSON has no NaN or infinity. Such a figure is written as ``null`` and spelled out under ``"nonfinite"``, for
    example ``{"loss": null, "nonfinite": {"loss": "nan"}}``; :func:`read_metrics` puts the float back.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        _cut_torn_tail(self.path)

    def append(self, step: int, metrics: Mapping[str, float]) -> None:
        """Adds one line; a line that this call returned from survives the death of the process.

        Args:
            step: optimiser steps done.
            metrics: name to figure; ``step``, ``time`` and ``nonfinite`` are taken.
        """
        taken = [name for name in RESERVED if name in metrics]
        if taken:
            raise ValueError(f"metrics: the names {taken} are taken by the file itself; rename these figures")
        with self.path.open("a", encoding="utf-8") as file:
            file.write(_encode(step, metrics) + "\n")

    def truncate_after(self, step: int) -> int:
        """Drops lines of later steps, so that a resumed run writes them anew; returns how many went.

        The file is rewritten beside and renamed: a crash leaves the old or the new one.
        """
        if not self.path.exists():
            return 0
        lines = self.path.read_text(encoding="utf-8").splitlines()
        kept = [line for number, line in enumerate(lines, 1) if _decode(line, number, self.path)["step"] <= step]
        if len(kept) < len(lines):
            replace_text(self.path, "".join(line + "\n" for line in kept))
        return len(lines) - len(kept)


def read_metrics(path: Path | str) -> list[dict[str, Any]]:
    """All lines of a ``metrics.jsonl``, non-finite figures as floats again.

    A last line without an end is what a killed process leaves: it is left out with a warning.

    Raises:
        ValueError: another line is no JSON object with a step.
    """
    path = Path(path)
    text = path.read_text(encoding="utf-8", errors="replace")
    complete, _, torn = text.rpartition("\n")
    if torn.strip():
        warnings.warn(f"{path}: left out a torn last line ({len(torn)} characters)", stacklevel=2)
    return [_decode(line, number, path) for number, line in enumerate(complete.splitlines(), 1)]


def replace_text(path: Path, text: str) -> None:
    """Writes a file beside and renames it: a reader or a crash sees the old one or the new one, never half."""
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with beside.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def _encode(step: int, metrics: Mapping[str, float]) -> str:
    values = {name: float(value) for name, value in metrics.items()}
    nonfinite = {name: str(value) for name, value in values.items() if not math.isfinite(value)}
    line: dict[str, Any] = {"step": int(step), "time": round(time.time(), 3)}
    line.update({name: None if name in nonfinite else value for name, value in values.items()})
    if nonfinite:
        line["nonfinite"] = nonfinite
    return json.dumps(line, allow_nan=False)


def _decode(line: str, number: int, path: Path) -> dict[str, Any]:
    try:
        row = parse_json(line)
        if not isinstance(row, dict) or not isinstance(row.get("step"), int):
            raise ValueError("no object with a whole-number step")
        restored = {name: float(value) for name, value in row.pop("nonfinite", {}).items()}
    except (ValueError, AttributeError, TypeError, OverflowError) as error:
        what = f"expected a JSON object with a step ({error}); mend or delete it"
        raise ValueError(f"{path}, line {number}: {what}") from error
    return {**row, **restored}


def _cut_torn_tail(path: Path) -> None:
    """Removes a last line that a killed process left unfinished; appending to it would spoil two lines."""
    if not path.exists():
        return
    data = path.read_bytes()
    end = data.rfind(b"\n") + 1
    if end < len(data):
        warnings.warn(f"{path}: cut off a torn last line ({len(data) - end} bytes)", stacklevel=3)
        with path.open("r+b") as file:
            file.truncate(end)
