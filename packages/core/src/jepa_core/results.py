"""What a run reports: figures with their errors, the probe's table, pictures of what it learned and of samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

_STARTS = {"png": b"\x89PNG\r\n\x1a\n", "gif": b"GIF89a"}


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
        errors: columns in which lower is better; in all others higher is.
        bounds: rows that know what the others have to find out: nobody is held against them.
    """

    metric: str
    rows: Mapping[str, Mapping[str, Measurement]]
    n: int
    note: str
    errors: tuple[str, ...] = ()
    bounds: tuple[str, ...] = ()


@dataclass(frozen=True)
class Picture:
    """A picture for the report.

    Attributes:
        title: short; the file is named after it.
        png: a PNG file, or a GIF file of a picture that moves.
        caption: what to look at.
    """

    title: str
    png: bytes
    caption: str = ""

    @property
    def suffix(self) -> str:
        """``.png`` or ``.gif``, by what the file holds."""
        return f".{picture_format(self.png) or 'png'}"


@dataclass(frozen=True)
class SamplePictures:
    """Small pictures of the samples of a batch, before any encoder.

    Attributes:
        png: a PNG file of each sample, about 128 pixels on its longer side; None where there is nothing to draw.
        how: how to read them, one sentence; empty where they speak for themselves.
    """

    png: Sequence[bytes | None]
    how: str = ""


def picture_format(data: bytes) -> str | None:
    """``png`` or ``gif``; None where the bytes begin as neither."""
    return next((kind for kind, start in _STARTS.items() if data.startswith(start)), None)
