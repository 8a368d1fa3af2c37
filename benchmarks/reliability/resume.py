"""Exact resume: N steps against some steps, kill -9 at a random moment, and resume, byte by byte.

    python benchmarks/reliability/resume.py [motion causal ...]     # writes results/resume-<subject>.json

The uninterrupted run of a (accumulation, processes) pair reads its data without workers: runs with two workers are
compared with it too. Motion and causal take the whole product of workers, accumulation and processes; of the others a
column of it that changes each of the three once, and all of them together with two processes.
"""

from __future__ import annotations

import itertools
import json
import random
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from harness import (
    RESULTS,
    SUBJECTS,
    Subject,
    command,
    compare,
    contents,
    kill,
    last_logged,
    start,
    steps_saved,
    train_to_the_end,
    wait_for_step,
)

WHOLE_PRODUCT = ("motion", "causal")
FEW = [(0, 2, 1), (2, 1, 1), (2, 2, 2)]


@dataclass(frozen=True)
class Row:
    """One case.

    Attributes:
        killed_after: last step in metrics.jsonl when the processes were gone.
        resumed_from: newest checkpoint at that moment.
        equal, different: names of files.
    """

    subject: str
    workers: int
    accumulation: int
    processes: int
    steps: int
    killed_after: int
    resumed_from: int
    equal: list[str]
    different: list[str]


def cases(name: str) -> list[tuple[int, int, int]]:
    """(workers, accumulation, processes) of a subject, grouped so that each reference is made once."""
    if name in WHOLE_PRODUCT:
        return [(w, a, p) for a, p in itertools.product((1, 2), (1, 2)) for w in (0, 2)]
    return FEW


def settings(folder: Path, name: str, workers: int, accumulation: int) -> list[str]:
    """What differs between the runs of a subject."""
    return [
        f"runs_dir={folder}",
        f"name={name}",
        f"data.workers={workers}",
        f"trainer.accumulation={accumulation}",
    ]


def killed_and_resumed(
    subject: Subject, words: list[str], run_dir: Path, log: Path, draw: random.Random
) -> tuple[int, int]:
    """Kills once at a random moment after a random checkpoint, resumes; (last step seen, step resumed from)."""
    process = start(words, log)
    begun_s = time.monotonic()
    aim = draw.randrange(1, max(2, subject.steps // subject.every // 2)) * subject.every
    wait_for_step(run_dir, subject.every, process, log)
    first_s = time.monotonic()
    wait_for_step(run_dir, aim, process, log)
    # The time from one checkpoint to the next is not known before: about as long as a tenth of the way to the first.
    time.sleep(draw.uniform(0, min(0.5, 0.05 * (first_s - begun_s))))
    kill(process)
    seen, saved = last_logged(run_dir), max(steps_saved(run_dir))
    if saved >= subject.steps:
        raise SystemExit(f"{run_dir}: the run was over before it could be killed; give it more steps")
    train_to_the_end(words, run_dir, subject.steps, log)
    return seen, saved


def measure(name: str, folder: Path, draw: random.Random) -> list[Row]:
    """All cases of one subject."""
    subject, rows = SUBJECTS[name], []
    references: dict[tuple[int, int], dict[str, object]] = {}
    for workers, accumulation, processes in cases(name):
        pair = (accumulation, processes)
        if pair not in references:
            whole = f"{name}-whole-{accumulation}-{processes}"
            words = command(subject, settings(folder, whole, 0, accumulation), processes)
            train_to_the_end(words, folder / whole, subject.steps, folder / f"{whole}.log")
            references[pair] = contents(folder / whole, subject.steps)
        own = f"{name}-{workers}-{accumulation}-{processes}"
        words = command(subject, settings(folder, own, workers, accumulation), processes)
        seen, saved = killed_and_resumed(subject, words, folder / own, folder / f"{own}.log", draw)
        equal, different = compare(references[pair], contents(folder / own, subject.steps))
        rows.append(Row(name, workers, accumulation, processes, subject.steps, seen, saved, equal, different))
        print(rows[-1], flush=True)
    return rows


def main() -> None:
    """Every subject named, or all."""
    wrong = 0
    for name in sys.argv[1:] or list(SUBJECTS):
        with tempfile.TemporaryDirectory() as folder:
            rows = measure(name, Path(folder), random.Random(f"resume {name}"))
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / f"resume-{name}.json").write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")
        wrong += sum(bool(row.different) for row in rows)
    sys.exit(f"{wrong} cases differ" if wrong else 0)


if __name__ == "__main__":
    main()
