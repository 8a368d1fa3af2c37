"""Pages of rows that were measured in turns: ratios, memory, stages; and what later runs are compared with."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from driver import Pair, Timed, spread

HEAD = """\
Ours / reference in samples a second: median (range) of the turns; with one thread by the processor's time of each
process, which other work on the machine does not add to, with more by the clock. Memory: our peak over the
reference's, each above what its process had after its imports. "same" mathematics: from equal weights, inputs and
masks the losses of two steps were equal first, the second after backward, optimiser and target update of the first.
"""


@dataclass(frozen=True)
class Measured:
    """A row.

    Attributes:
        work: what is done.
        against: what it is measured against.
        size: of a batch, in words.
        threads: of each side.
        mathematics: ``same``, or what differs.
        pair: both sides.
    """

    work: str
    against: str
    size: str
    threads: int
    mathematics: str
    pair: Pair

    def line(self) -> str:
        """A row of the table."""
        cells = (self.work, self.against, self.size, self.threads, spread(self.pair.ratios), f"{self.pair.memory:.2f}")
        return f"| {' | '.join(map(str, cells))} | {self.mathematics} |"

    def split(self, stages: Sequence[str]) -> str:
        """Each stage: its share of our step, and how many times as fast ours is there."""
        whole, cells = self.pair.ours.median(), []
        for stage in stages:
            mine, other = self.pair.ours.median(stage), self.pair.theirs.median(stage)
            share = f"{mine / whole:.0%}" if mine else ""
            cells.append(f"{share}, {other / mine:.2f}x" if mine and other else share)
        return f"| {self.work} | {self.threads} | {' | '.join(cells)} |"


def same_losses(tolerance: float) -> Callable[[Timed, Timed], None]:
    """A check that both sides do the same mathematics: losses equal, relative to their size."""

    def check(ours: Timed, theirs: Timed) -> None:
        for mine, other in zip(ours.facts["losses"], theirs.facts["losses"], strict=True):
            if not math.isclose(mine, other, rel_tol=tolerance):
                raise SystemExit(f"not the same mathematics: losses {ours.facts['losses']}, {theirs.facts['losses']}")

    return check


def any_losses(ours: Timed, theirs: Timed) -> None:
    """No check: for rows whose mathematics differs, as their label says."""


def page(title: str, how: str, rows: Sequence[Measured], stages: Sequence[str], reading: Path) -> str:
    """The page: ratios, then stages, then what is said of them in ``reading``, if there is such a file."""
    lines = [
        f"# {title}",
        "",
        how,
        "",
        HEAD,
        "| work | against | batch | threads | speed | memory | mathematics |",
        "|---|---|---|---|---|---|---|",
        *(row.line() for row in rows),
        "",
        "Share of our step, and speed against the reference, by stage; parts of forward stand after it.",
        "",
        f"| work | threads | {' | '.join(stages)} |",
        "|---|---|" + "---|" * len(stages),
        *(row.split(stages) for row in rows),
        "",
    ]
    return "\n".join(lines) + ("\n" + reading.read_text(encoding="utf-8") if reading.exists() else "")


def store(rows: Sequence[Measured], path: Path) -> None:
    """What later runs are compared with."""
    found = [
        {
            "work": row.work,
            "against": row.against,
            "threads": row.threads,
            "speed": statistics.median(row.pair.ratios),
            "ratios": row.pair.ratios,
            "memory": row.pair.memory,
        }
        for row in rows
    ]
    path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
