"""Two implementations of the same work, each in a process of its own, timed in turns: A B A B ...

A machine's speed drifts; what two sides take within one turn drifts together, so that the ratio of a turn holds. Each
side has its own process: its own peak of memory, its own allocator, no module of the other.
"""

from __future__ import annotations

import multiprocessing
import os
import platform
import resource
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Protocol

TOTAL = "total"

CLOCKS = {"wall": time.perf_counter, "processor": time.process_time}
"""What seconds are. On one thread a process may count its processor time, which other load hardly changes."""


class Work(Protocol):
    """One side, built and ready."""

    def facts(self) -> Mapping[str, Any]:
        """What must be equal on both sides before anything is timed: losses, lengths."""
        ...

    def turn(self) -> Mapping[str, float]:
        """One turn of steps: seconds of each stage, and of all under ``total``."""
        ...


Build = Callable[[Mapping[str, Any]], Work]


@dataclass(frozen=True)
class Side:
    """What a process is started with.

    Attributes:
        name: for messages.
        build: importable by name, called in the process.
        options: what it is called with; can be pickled.
        threads: CPU threads of the process.
        clock: name in :data:`CLOCKS`.
    """

    name: str
    build: Build
    options: Mapping[str, Any]
    threads: int
    clock: str = "wall"


@dataclass
class Timed:
    """What one side took.

    Attributes:
        stages: seconds of each turn by stage.
        peak_mib: memory above what the process had when its modules were imported.
        facts: see :meth:`Work.facts`.
    """

    facts: Mapping[str, Any]
    stages: dict[str, list[float]] = field(default_factory=dict)
    peak_mib: float = 0.0

    @property
    def totals(self) -> list[float]:
        """Seconds of each turn."""
        return self.stages[TOTAL]

    def median(self, stage: str = TOTAL) -> float:
        """Median seconds of a turn; 0 for a stage that this side does not have."""
        return statistics.median(self.stages.get(stage, [0.0]))


@dataclass(frozen=True)
class Pair:
    """Both sides of a row.

    Attributes:
        ours: this project.
        theirs: the reference.
    """

    ours: Timed
    theirs: Timed

    @property
    def ratios(self) -> list[float]:
        """How many times as fast ours is, for each turn."""
        return [b / a for a, b in zip(self.ours.totals, self.theirs.totals, strict=True)]

    @property
    def memory(self) -> float:
        """Our peak memory over theirs."""
        return self.ours.peak_mib / max(self.theirs.peak_mib, 1e-9)


class Child:
    """A side in its process."""

    def __init__(self, side: Side) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self.name = side.name
        # torch reads these at import, before the process could set them itself.
        kept = {key: os.environ.get(key) for key in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
        os.environ.update(dict.fromkeys(kept, str(side.threads)))
        try:
            self._process = context.Process(target=_serve, args=(theirs, side), daemon=True)
            self._process.start()
        finally:
            for key, value in kept.items():
                os.environ.pop(key) if value is None else os.environ.update({key: value})
        self.timed = Timed(self._answer())

    def turn(self, keep: bool) -> None:
        """One turn; warm-up is not kept."""
        self._pipe.send("turn")
        for stage, seconds in self._answer().items():
            if keep:
                self.timed.stages.setdefault(stage, []).append(seconds)

    def close(self) -> Timed:
        """Ends the process."""
        self._pipe.send("end")
        self.timed.peak_mib = self._answer()
        self._process.join()
        return self.timed

    def _answer(self) -> Any:
        try:
            kind, value = self._pipe.recv()
        except EOFError:
            raise SystemExit(f"{self.name}: its process ended before it answered") from None
        if kind == "error":
            raise SystemExit(f"{self.name}: {value}")
        return value


def _serve(pipe: Connection, side: Side) -> None:
    import torch

    torch.set_num_threads(side.threads)
    Stopwatch.now = staticmethod(CLOCKS[side.clock])
    try:
        # Its module is imported by now, being needed to read what it is called with.
        base = _resident_mib()
        work = side.build(side.options)
        pipe.send(("facts", work.facts()))
        _reset_peak()
        while pipe.recv() == "turn":
            pipe.send(("turn", work.turn()))
        pipe.send(("peak", _peak_mib() - base))
    except Exception as error:  # noqa: BLE001  # told by the parent, which ends
        import traceback

        traceback.print_exc()
        pipe.send(("error", f"{type(error).__name__}: {error}"))


def _status(key: str) -> float | None:
    """MiB of a line of Linux's account of this process."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith(key)), None)


def _resident_mib() -> float:
    found = _status("VmRSS:")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 if found is None else found


def _peak_mib() -> float:
    found = _status("VmHWM:")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 if found is None else found


def _reset_peak() -> None:
    """Linux begins its high-water mark anew: building and checking are not the work."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return


def alternate(
    reference: Side, ours: Sequence[Side], turns: int, warm_up: int, check: Callable[[int, Timed, Timed], None]
) -> list[Pair]:
    """Builds the reference, then each of ours, and times them in turns.

    Args:
        reference: it is built first: it may write what ours read.
        ours: variants, each compared with the same reference.
        turns: that count.
        warm_up: turns before them.
        check: refuses, by its number, a variant that does not do what the reference does.
    """
    theirs = Child(reference)
    children = [Child(side) for side in ours]
    for number, child in enumerate(children):
        check(number, child.timed, theirs.timed)
    for turn in range(warm_up + turns):
        for child in (*children, theirs):
            child.turn(keep=turn >= warm_up)
    other = theirs.close()
    return [Pair(child.close(), other) for child in children]


def alternate_two(ours: Side, reference: Side, turns: int, warm_up: int, check: Callable[[Timed, Timed], None]) -> Pair:
    """:func:`alternate` with one variant."""
    (found,) = alternate(reference, [ours], turns, warm_up, lambda _, a, b: check(a, b))
    return found


def clock_for(threads: int, device: str = "cpu") -> str:
    """One thread of a CPU counts its own processor time, which other work leaves alone; else the wall clock counts."""
    return "processor" if threads == 1 and device == "cpu" else "wall"


class Stopwatch:
    """Seconds by stage; a stage may come several times in a turn."""

    now = staticmethod(time.perf_counter)

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._begun: dict[int, float] = {}

    @contextmanager
    def of(self, stage: str) -> Iterator[None]:
        """Counts what happens inside."""
        start = self.now()
        yield
        self.add(stage, self.now() - start)

    def add(self, stage: str, seconds: float) -> None:
        """Counts seconds."""
        self.seconds[stage] = self.seconds.get(stage, 0.0) + seconds

    def watch(self, module: Any, stage: str) -> None:
        """Counts the calls of an ``nn.Module``."""

        def before(*_: Any) -> None:
            self._begun[id(module)] = self.now()

        def after(*_: Any) -> None:
            self.add(stage, self.now() - self._begun.pop(id(module)))

        module.register_forward_pre_hook(before)
        module.register_forward_hook(after)

    def take(self) -> dict[str, float]:
        """The seconds so far; begins anew."""
        found, self.seconds = self.seconds, {}
        return found


def machine(threads: int) -> str:
    """Processor, threads and versions, for the head of a table."""
    import torch

    name = platform.processor() or platform.machine()
    flags = ""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        name = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), name)
        have = next((line.split() for line in lines if line.startswith("flags")), [])
        flags = ", ".join(each for each in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if each in have)
    except OSError:
        pass
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return (
        f"{name} ({flags or 'flags unknown'}), cores: {cores}, threads of a side: {threads}, torch {torch.__version__}"
    )


def spread(values: list[float], digits: int = 2) -> str:
    """Median, and the range."""
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f} .. {max(values):.{digits}f})"
