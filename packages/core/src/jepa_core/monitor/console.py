"""What a person sees while a run goes: a progress bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import atexit
import os
import time
from collections.abc import Mapping, Sequence
from types import TracebackType

import rich.console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from jepa_core.settings import LoggingSettings

MODES = ("auto", "bar", "lines", "off")
REFRESH_PER_SECOND = 4
SHORTEST_BAR, LONGEST_BAR = 8, 50
SPEED_MEMORY = 0.9
"""Share the smoothed speed keeps of itself at each update."""

VERDICT_STYLES = {
    "healthy": "green",
    "warming": "cyan",
    "target frozen": "yellow",
    "predictor ignores": "yellow",
    "partial": "yellow",
    "total": "bold red",
    "diverging": "bold red",
}


PROBED = ("probe/kNN", "probe/linear")

# Columns of tables in a file or a pipe, where there is no terminal to ask.
FILE_COLUMNS = 110


def _standard_output() -> rich.console.Console:
    out = rich.console.Console(highlight=False)
    if not out.is_terminal and "COLUMNS" not in os.environ:
        out.width = FILE_COLUMNS
    return out


class Console:
    """One voice for a run; silent on processes that are not enabled.

    Use it as a context manager, or call :meth:`close`: the cursor comes back after Ctrl-C too.
    """

    def __init__(
        self,
        total_steps: int,
        settings: LoggingSettings,
        enabled: bool,
        output: rich.console.Console | None = None,
    ) -> None:
        """Starts nothing yet: the bar appears with the first :meth:`update`.

        Args:
            total_steps: optimiser steps of the whole run.
            settings: ``progress`` and ``lines_every``.
            enabled: False on all processes but one.
            output: where to write; None = standard output.
        """
        if settings.progress not in MODES:
            raise ValueError(f"logging.progress: expected one of {', '.join(MODES)}, got '{settings.progress}'")
        self._total = max(total_steps, 1)
        self._every = max(settings.lines_every, 1)
        self._enabled = enabled
        self._off = settings.progress == "off"
        self._out = output if output is not None else _standard_output()
        self._bar = settings.progress in ("auto", "bar") and self._out.is_terminal
        self._live: Live | None = None
        self._view = _View(self._total)
        self._clock = _Clock(self._total)
        self._last_line: int | None = None

    def update(self, step: int, metrics: Mapping[str, float], verdict: str) -> None:
        """Shows where the run is.

        Args:
            step: optimiser steps done.
            metrics: latest figures; ``loss``, ``loss/<term>``, ``samples_per_s`` and
                ``monitor/<name>/effective_rank`` are shown, the rest belongs to the files.
            verdict: the monitor's headline.
        """
        if not self._enabled or self._off:
            return
        left_s = self._clock.seconds_left(step)
        if self._bar:
            self._view.set(step, metrics, verdict, left_s)
            self._start_live()
        elif self._line_is_due(step):
            self._last_line = step
            self._out.print(_line(step, self._total, metrics, verdict, left_s), soft_wrap=True, markup=False)

    def message(self, text: str) -> None:
        """A plain remark; not shown when progress is off."""
        if self._enabled and not self._off:
            self._out.print(text, markup=False, soft_wrap=not self._out.is_terminal)

    def warn(self, text: str) -> None:
        """Something the user should know; always shown."""
        if self._enabled:
            self._out.print(Text("warning: ", "bold yellow") + Text(text), soft_wrap=not self._out.is_terminal)

    def choices(self, rows: Sequence[tuple[str, str, str]]) -> None:
        """Automatic choices as (what, choice, reason); not shown when progress is off."""
        if rows and not self._off:
            self.table("Chosen automatically", ["what", "choice", "why"], [list(row) for row in rows])

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """A table; always shown. Cells fold on narrow terminals, nothing is cut off."""
        if not self._enabled:
            return
        table = Table(title=Text(title, "bold"), title_justify="left", box=None, pad_edge=False, padding=(0, 2, 0, 0))
        for column in columns:
            table.add_column(Text(column, "dim"), overflow="fold")
        for row in rows:
            table.add_row(*(Text(str(cell)) for cell in row))
        self._out.print(table)

    def close(self) -> None:
        """Takes the bar down and gives the cursor back; may be called twice."""
        if self._live is not None:
            self._live.stop()
            self._live = None
            atexit.unregister(self.close)

    def __enter__(self) -> Console:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _start_live(self) -> None:
        if self._live is None:
            # Live redraws from its own thread at a fixed rate, so a fast loop does not flicker.
            self._live = Live(self._view, console=self._out, refresh_per_second=REFRESH_PER_SECOND)
            self._live.start()
            atexit.register(self.close)

    def _line_is_due(self, step: int) -> bool:
        if self._last_line is None or step >= self._total:
            return step != self._last_line
        return step // self._every > self._last_line // self._every


class _Clock:
    """Seconds left, from a smoothed speed: steps slow down and speed up."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._step: int | None = None
        self._time = 0.0
        self._seconds_per_step: float | None = None

    def seconds_left(self, step: int) -> float | None:
        now = time.monotonic()
        if self._step is not None and step > self._step:
            fresh = (now - self._time) / (step - self._step)
            old = self._seconds_per_step
            self._seconds_per_step = fresh if old is None else SPEED_MEMORY * old + (1 - SPEED_MEMORY) * fresh
        self._step, self._time = step, now
        return None if self._seconds_per_step is None else self._seconds_per_step * max(self._total - step, 0)


class _View:
    """The two lines of the bar; each is cut to the terminal's width, so it never wraps."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._step = 0
        self._metrics: dict[str, float] = {}
        self._verdict = ""
        self._left_s: float | None = None

    def set(self, step: int, metrics: Mapping[str, float], verdict: str, left_s: float | None) -> None:
        self._step, self._verdict, self._left_s = step, verdict, left_s
        # Figures are measured at different steps: each stays until there is a newer one.
        self._metrics.update(metrics)

    def __rich_console__(
        self, console: rich.console.Console, options: rich.console.ConsoleOptions
    ) -> rich.console.RenderResult:
        width = options.max_width
        head = f"{self._step}/{self._total} {100 * self._step // self._total:3d}%"
        parts = [part for part in (_speed(self._metrics), _duration(self._left_s)) if part]
        while parts and len(head) + len("  ".join(parts)) + 4 + SHORTEST_BAR > width:
            parts.pop(0)
        tail = "  ".join(parts)
        room = min(max(width - len(head) - len(tail) - 4, SHORTEST_BAR), LONGEST_BAR)
        grid = Table.grid(padding=(0, 2, 0, 0))
        for _ in range(3):
            grid.add_column(no_wrap=True, overflow="ellipsis")
        grid.add_row(Text(head), ProgressBar(self._total, self._step, width=room), Text(tail, "dim"))
        yield grid
        yield _fitting_status(self._metrics, self._verdict, width)


def _fitting_status(metrics: Mapping[str, float], verdict: str, width: int) -> Text:
    """Verdict first (it must never be cut), then rank and losses while they fit."""
    line = Text(verdict, _verdict_style(verdict), no_wrap=True, overflow="ellipsis", end="")
    for part in (_rank(metrics), _probe(metrics), *_losses(metrics)):
        if part and line.cell_len + len(part) + 3 <= width:
            line.append(" · ", "dim").append(part)
    return line


def _line(step: int, total: int, metrics: Mapping[str, float], verdict: str, left_s: float | None) -> str:
    whole, *terms = _losses(metrics) or [""]
    losses = whole + (f" ({', '.join(terms)})" if terms else "")
    count = f"step {step:>{len(str(total))}}/{total}"
    figures = [losses, _rank(metrics), _probe(metrics), _speed(metrics), _duration(left_s), verdict]
    return "  ".join(filter(None, [count, *figures]))


def _losses(metrics: Mapping[str, float]) -> list[str]:
    """The whole loss first, then its terms by their short names."""
    whole = [f"loss {metrics['loss']:.4g}"] if "loss" in metrics else []
    terms = [f"{name[5:]} {value:.4g}" for name, value in metrics.items() if name.startswith("loss/")]
    return whole + terms


def _rank(metrics: Mapping[str, float]) -> str:
    for name in ("target", "context"):
        if (key := f"monitor/{name}/effective_rank") in metrics:
            width = metrics.get(f"monitor/{name}/dimensions")
            return f"rank {metrics[key]:.0f}" + (f"/{width:.0f}" if width else "")
    return ""


def _probe(metrics: Mapping[str, float]) -> str:
    return ", ".join(f"{name[6:]} {value:.3f}" for name, value in metrics.items() if name in PROBED)


def _speed(metrics: Mapping[str, float]) -> str:
    return f"{metrics['samples_per_s']:.3g} samples/s" if "samples_per_s" in metrics else ""


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return ""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return (f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}") + " left"


def _verdict_style(verdict: str) -> str:
    return next((style for word, style in VERDICT_STYLES.items() if verdict.lower().startswith(word)), "")
