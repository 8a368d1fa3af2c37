"""What the scripts of single modalities share: command line, loop over rows, page, and a side that takes steps."""

from __future__ import annotations

import argparse
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from driver import TOTAL, Stopwatch, machine
from tables import Measured, page, store

HERE = Path(__file__).parent
Row = TypeVar("Row")
STAGES = (
    "forward",
    "front end",
    "context encoder",
    "target encoder",
    "predictor",
    "backward",
    "optimiser and target",
)
"""Of a step that begins with raw recordings."""


class StepTaker(ABC):
    """A side whose turn is a number of training steps; ``step`` takes one and gives its loss."""

    steps: int
    watch: Stopwatch

    @abstractmethod
    def step(self) -> float:
        """One training step, its stages timed."""

    def facts(self) -> Mapping[str, Any]:
        """The loss of the first step, and of the second, after all that a step changes."""
        losses = [self.step() for _ in range(2)]
        self.watch.take()
        return {"losses": losses}

    def turn(self) -> Mapping[str, float]:
        """A turn of steps."""
        with self.watch.of(TOTAL):
            for _ in range(self.steps):
                self.step()
        return self.watch.take()


def arguments(about: str | None, reference: str, turns: int, warm_up: int) -> argparse.ArgumentParser:
    """The command line; ``reference`` says what the checkout is of."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reference", type=Path, help=f"checkout of {reference}; without it its rows are left out")
    parser.add_argument("--threads", type=int, nargs="+", default=[1])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--turns", type=int, default=turns)
    parser.add_argument("--warm-up", type=int, default=warm_up)
    parser.add_argument("--only", type=int, nargs="+", help="rows, counted from 0; no page is written")
    return parser


def check_device(given: argparse.Namespace, script: str) -> None:
    """Ends with one line where the device is not there."""
    if given.device == "cpu":
        return
    import torch

    if not torch.cuda.is_available():
        raise SystemExit(f"{script} --device {given.device}: there is no GPU here; run it on a machine that has one")


def measure_rows(
    given: argparse.Namespace,
    rows: Sequence[Row],
    needs_reference: Callable[[Row], bool],
    measured: Callable[[Row, argparse.Namespace, int], Measured],
    stages: Sequence[str],
) -> list[Measured]:
    """Measures the rows that are wanted and can be had, and prints each."""
    found = []
    for threads in given.threads:
        for index, row in enumerate(rows):
            if (given.reference is None and needs_reference(row)) or (given.only and index not in given.only):
                continue
            found.append(measured(row, given, threads))
            print(found[-1].line(), found[-1].split(stages), sep="\n", flush=True)
    return found


def write_page(
    given: argparse.Namespace,
    found: Sequence[Measured],
    name: str,
    title: str,
    more: Iterable[str],
    stages: Sequence[str],
) -> None:
    """The page and the figures beside it, unless only some rows were wanted; ``more`` are options of the command."""
    if given.only:
        return
    threads = " ".join(map(str, given.threads))
    parts = [f"python benchmarks/speed/{name}.py --reference DIR --threads {threads} --device {given.device}", *more]
    how = f"`{' '.join(parts)} --turns {given.turns}`. {machine(given.threads[-1])}."
    stem = name if given.device == "cpu" else f"{name}_gpu"
    text = page(title, how, found, stages, HERE / f"{stem}_reading.md")
    (HERE / f"{stem.upper()}.md").write_text(text, encoding="utf-8")
    store(found, HERE / f"{stem}.json")
