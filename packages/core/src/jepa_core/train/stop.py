"""Being asked to stop: SIGTERM and Ctrl-C save at the next step, a second Ctrl-C leaves at once."""

from __future__ import annotations

import os
import signal
import sys
import time
from types import FrameType, TracebackType
from typing import Any

# A launcher passes Ctrl-C on to processes that the terminal has told already: this fast, it is the same key press.
_SAME_PRESS_S = 1.0
# Set by accelerate launch and by torchrun for what they start.
_LAUNCHED = ("ACCELERATE_USE_CPU", "TORCHELASTIC_RUN_ID")
# A progress bar hides it, and nothing that would bring it back runs on the way out.
_SHOW_CURSOR = b"\x1b[?25h\n"


class StopRequest:
    """Notes signals while it is entered; the trainer asks :attr:`name` at each step."""

    def __init__(self) -> None:
        self._signal = ""
        self._time_s = 0.0
        # accelerate launch hands no signal on to the one process it starts, and a launcher that is killed can hand on
        # nothing: its end is then the request.
        self._launcher = os.getppid() if any(name in os.environ for name in _LAUNCHED) else None
        self._before: dict[int, Any] = {}

    @property
    def name(self) -> str:
        """What asked to stop; empty while nothing did."""
        orphaned = self._launcher is not None and os.getppid() != self._launcher
        return self._signal or ("the end of the launcher" if orphaned else "")

    def __enter__(self) -> StopRequest:
        for number in (signal.SIGTERM, signal.SIGINT):
            try:
                self._before[number] = signal.signal(number, self._note)
            except ValueError:  # Python takes handlers in the main thread only; elsewhere the caller's stay in charge
                break
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        again = number == signal.SIGINT and self._signal == "SIGINT"
        if again and time.monotonic() - self._time_s > _SAME_PRESS_S:
            if sys.stdout.isatty():
                os.write(sys.stdout.fileno(), _SHOW_CURSOR)
            os._exit(130)
        if not self._signal:
            self._time_s = time.monotonic()
        self._signal = signal.Signals(number).name
