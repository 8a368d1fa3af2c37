"""The result of a comparison: what was found, for reading, as JSON, as CSV and as a page."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from jepa_core.compare.page import Pictures, render
from jepa_core.compare.scores import Findings, Score, figure, interval_text, p_text, score_name
from jepa_core.compare.verdict import judge
from jepa_core.monitor.loggers import replace_text

FORMAT = "1"


@dataclass(frozen=True)
class Comparison(Findings):
    """What a comparison found, and how to read it; attributes as of :class:`jepa_core.compare.scores.Findings`."""

    def table(self) -> str:
        """The scores for reading, one line each."""
        head = ("measure", "value", "95 % interval", "by chance", "p", "calibrated", "n")
        rows = [head, *(_row(score) for score in self.scores)]
        widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
        return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)

    def verdict(self) -> tuple[str, str]:
        """Tone (``good``, ``warn`` or ``none``) and a sentence for somebody who is no statistician."""
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

    def save(self, folder: str | Path, pictures: Sequence[Pictures | None] = (None, None)) -> Path:
        """Writes ``result.json``, ``result.csv`` and ``compare.html`` into a folder, made if need be.

        Args:
            folder: files of the same names are replaced.
            pictures: of the samples of either table, see :data:`jepa_core.compare.page.Pictures`; None = names only.

        Returns:
            The page.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        replace_text(folder / "result.json", json.dumps(self.as_dict(), indent=1, allow_nan=False) + "\n")
        replace_text(folder / "result.csv", self.csv())
        page = folder / "compare.html"
        replace_text(page, render(self, pictures))
        return page


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
