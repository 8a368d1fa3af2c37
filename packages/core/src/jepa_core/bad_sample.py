"""What a source raises for a sample that cannot be used."""

from __future__ import annotations

from jepa_core.one_line import one_line


class BadSample(Exception):
    """A sample that cannot be used; the loader puts it in quarantine with this reason, made one line, and goes on."""

    def __init__(self, reason: str = "") -> None:
        super().__init__(one_line(reason))
