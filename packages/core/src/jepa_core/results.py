"""What a run reports: figures with their errors, the probe's table, pictures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Measurement:
    """One figure with its error and what it was measured on."""

    value: float
    stderr: float | None = None


@dataclass(frozen=True)
class ProbeTable:
    """A probe's figures: rows are what was probed, columns are metrics.

    Attributes:
        metric: the leading column, for example ``"average precision"``.
        rows: name to {column: figure}; the rows ``trained``, ``untrained`` and ``raw`` always stand.
        n: samples (or cells) the test figures stand on.
        note: how it was measured, one sentence.
    """

    metric: str
    rows: Mapping[str, Mapping[str, Measurement]]
    n: int
    note: str


@dataclass(frozen=True)
class Picture:
    """A picture for the report: PNG bytes and a caption."""

    title: str
    png: bytes
    caption: str = ""
