"""``jepa report``: which runs a command line names, and one report or a page with all of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from jepa_core.checks import hint
from jepa_core.errors import ConfigError, value_errors_are_users
from jepa_core.report.html import write_report
from jepa_core.report.side_by_side import check_run, write_side_by_side

KEYS = ("run", "out")
OUT = "comparison.html"


def run_report(arguments: Sequence[str], usage: str) -> Path:
    """Writes the report of one run, or of several side by side, and returns its path.

    Raises:
        ConfigError: no run, an unknown key, ``out=`` where it is not used, what :func:`write_side_by_side` refuses.
    """
    runs, out = _read(arguments, usage)
    if not runs:
        raise ConfigError(f"run: expected the folder of a run, got none; usage: {usage}")
    with value_errors_are_users():
        if len(runs) == 1:
            if out is not None:
                raise ConfigError("out: expected with several runs only, got one; its report is <run>/report.html")
            check_run(runs[0])
            return write_report(runs[0])
        return write_side_by_side(runs, _place(out or OUT))


def _read(arguments: Sequence[str], usage: str) -> tuple[list[Path], str | None]:
    runs, out = [], None
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if not equals or Path(argument).is_dir():
            runs.append(Path(argument))
        elif key == "run":
            runs.append(Path(value))
        elif key == "out":
            out = value
        else:
            raise ConfigError(f"{key}: expected one of {', '.join(KEYS)}, got {key!r}{hint(key, KEYS)}; usage: {usage}")
    return runs, out


def _place(text: str) -> Path:
    path = Path(text)
    if path.suffix != ".html":
        raise ConfigError(f"out: expected a file name that ends in .html, got {text!r}")
    if not path.parent.is_dir():
        raise ConfigError(f"out: expected a file in a folder that there is, got {text!r}: no folder {path.parent}")
    return path
