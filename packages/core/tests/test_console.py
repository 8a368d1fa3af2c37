"""The console at 80 columns, on a terminal and in a log file."""

from __future__ import annotations

import io
import re

import pytest
import rich.console

from jepa_core.monitor.console import Console
from jepa_core.settings import LoggingSettings

METRICS = {
    "loss": 0.41234567,
    "loss/occupied": 0.31,
    "loss/empty": 0.1,
    "loss/variance": 1.0,
    "loss/covariance": 2.0,
    "samples_per_s": 35.27,
    "monitor/target/effective_rank": 76.2,
    "monitor/target/dimensions": 128.0,
    "lr": 1e-3,
}


def make(
    progress: str, terminal: bool, width: int = 80, total: int = 200, enabled: bool = True
) -> tuple[Console, io.StringIO]:
    stream = io.StringIO()
    output = rich.console.Console(file=stream, force_terminal=terminal, width=width, highlight=False, _environ={})
    return Console(total, LoggingSettings(progress=progress, lines_every=25), enabled, output), stream


def plain(stream: io.StringIO) -> list[str]:
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", stream.getvalue()).replace("\r", "\n").splitlines()


@pytest.mark.parametrize("width", [30, 50, 80, 200])
def test_bar_never_wraps_and_always_shows_the_verdict(width: int) -> None:
    console, stream = make("auto", terminal=True, width=width)
    console.update(10, METRICS, "healthy")
    console.update(50, {"loss": 0.3}, "partial collapse in 90 of 128 dimensions")
    console.close()
    lines = plain(stream)
    assert all(len(line) <= width for line in lines)
    text = "\n".join(lines)
    assert "50/200" in text and "partial collapse" in text
    if width >= 80:
        assert "rank 76/128" in text and "loss 0.3" in text and "35.3 samples/s" in text
        assert "partial collapse in 90 of 128 dimensions" in text


def test_cursor_comes_back_after_ctrl_c() -> None:
    console, stream = make("bar", terminal=True)
    with pytest.raises(KeyboardInterrupt), console:
        console.update(1, METRICS, "healthy")
        assert "\x1b[?25l" in stream.getvalue()
        raise KeyboardInterrupt
    assert stream.getvalue().rindex("\x1b[?25h") > stream.getvalue().rindex("\x1b[?25l")
    console.close()


@pytest.mark.parametrize("progress", ["auto", "bar", "lines"])
def test_lines_first_every_n_and_last(progress: str) -> None:
    console, stream = make(progress, terminal=False, total=110)
    for step in range(10, 111, 10):
        console.update(step, METRICS, "healthy")
    console.close()
    lines = stream.getvalue().splitlines()
    assert [int(re.match(r"step +(\d+)/110", line)[1]) for line in lines] == [10, 30, 50, 80, 100, 110]
    assert "\x1b" not in stream.getvalue()
    assert all("loss 0.4123 (occupied 0.31" in line and line.endswith("healthy") for line in lines)


def test_lines_mode_on_a_terminal_has_no_bar() -> None:
    console, stream = make("lines", terminal=True)
    console.update(1, METRICS, "healthy")
    assert "━" not in stream.getvalue() and "?25l" not in stream.getvalue()


def test_off_keeps_warnings_and_tables() -> None:
    console, stream = make("off", terminal=False)
    console.update(1, METRICS, "healthy")
    console.message("hidden")
    console.choices([("device", "cpu", "no GPU")])
    console.warn("three samples are broken [bold]")
    console.table("Probe", ["row", "AP"], [["trained", "0.68 ± 0.01"]])
    text = stream.getvalue()
    assert "hidden" not in text and "no GPU" not in text
    assert "warning: three samples are broken [bold]" in text and "0.68 ± 0.01" in text


def test_tables_fold_and_lose_nothing() -> None:
    console, stream = make("auto", terminal=False)
    reason = "the machine has two cores and the sparse library has no build for this platform, so the reference is used"
    console.choices([("sparse backend", "torch", reason), ("[red]x", "y", "z")])
    lines = stream.getvalue().splitlines()
    assert all(len(line) <= 80 for line in lines)
    assert re.sub(r"\s", "", reason[-12:]) in re.sub(r"\s", "", stream.getvalue()) and "[red]x" in stream.getvalue()


def test_disabled_is_silent_and_unknown_mode_is_refused() -> None:
    console, stream = make("auto", terminal=True, enabled=False)
    console.update(1, METRICS, "healthy")
    console.warn("x")
    console.table("t", ["a"], [["b"]])
    console.close()
    assert stream.getvalue() == ""
    with pytest.raises(ValueError, match=r"logging\.progress"):
        make("fancy", terminal=True)
