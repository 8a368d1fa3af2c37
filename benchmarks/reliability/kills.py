"""Kills at random moments, a share of them inside the write of a checkpoint; every kill is followed by resume=auto.

    python benchmarks/reliability/kills.py      # writes results/kills.json

A kill is aimed inside a write by watching for the folder that a checkpoint is written to before it is renamed. Whether
it hit is seen by what is left behind. The other kills come at a random moment from the start of the process on, so that
some fall into start-up, before the first step or into the reading of the checkpoint.
"""

from __future__ import annotations

import json
import random
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from harness import RESULTS, SUBJECTS, Subject, command, compare, contents, kill, last_logged, start, train_to_the_end

from jepa_core.train import checkpoint as checkpoints

SERIES = {"direct": ([], 36), "background": (["trainer.save_in_background=true"], 16)}
EVERY, STEPS = 3, 450
PATIENCE_S = 60


@dataclass(frozen=True)
class Kill:
    """One kill.

    Attributes:
        aim: ``write`` (inside the write of a checkpoint), ``step`` (after the first new step), ``any`` (from
            the start).
        inside_write: a folder that was being written was left behind.
        torn: checkpoints in place that do not agree with their checksums; there must be none.
        newest: step of the newest whole checkpoint afterwards.
        lost: steps whose figures were logged after it.
        before: the newest checkpoint when this process began.
        resumed_from: what the process said it went on from; None = it was killed before it said so.
    """

    series: str
    aim: str
    inside_write: bool
    torn: int
    newest: int
    lost: int
    before: int
    resumed_from: int | None


def wait_to_strike(aim: str, run_dir: Path, process: subprocess.Popen[bytes], draw: random.Random) -> None:
    """Returns at the moment of the kill."""
    deadline_s = time.monotonic() + PATIENCE_S
    folder, logged = run_dir / "checkpoints", last_logged(run_dir)
    old = unfinished(folder)

    def is_time() -> bool:
        if aim == "write":
            return bool(unfinished(folder) - old)
        return last_logged(run_dir) > logged

    if aim == "any":
        time.sleep(draw.uniform(0, 6))
        return
    while not is_time() and process.poll() is None and time.monotonic() < deadline_s:
        time.sleep(0.001 if aim == "write" else 0.01)
    time.sleep(draw.uniform(0, 0.02 if aim == "write" else 0.6))


def unfinished(folder: Path) -> set[tuple[str, int]]:
    """Folders of writes that have not come to their end, told apart from those of an earlier process by inode."""
    found = set()
    for path in folder.glob(".step-*.partial"):
        try:
            found.add((path.name, path.stat().st_ino))
        except FileNotFoundError:  # renamed meanwhile
            continue
    return found


def whole_and_torn(run_dir: Path) -> tuple[list[int], int]:
    """Steps of whole checkpoints, and how many of those in place are torn."""
    whole, torn = [], 0
    for folder in (run_dir / "checkpoints").glob("step-*"):
        try:
            checkpoints.check(folder)
            whole.append(int(folder.name[5:]))
        except checkpoints._Torn:
            torn += 1
    return sorted(whole), torn


def strike(series: str, words: list[str], run_dir: Path, aim: str, draw: random.Random) -> Kill:
    """Starts, waits, kills, looks at what is left."""
    log = run_dir.with_suffix(".log")
    log.unlink(missing_ok=True)
    before, old = max(whole_and_torn(run_dir)[0], default=0), unfinished(run_dir / "checkpoints")
    process = start(words, log)
    wait_to_strike(aim, run_dir, process, draw)
    if process.poll() is not None:
        raise SystemExit(f"the process ended before it was killed:\n{log.read_text()[-3000:]}")
    kill(process)
    whole, torn = whole_and_torn(run_dir)
    left = bool(unfinished(run_dir / "checkpoints") - old)
    said = re.search(r"at step (\d+)", log.read_text(errors="replace"))
    newest = max(whole, default=0)
    lost = max(0, last_logged(run_dir) - newest)
    return Kill(series, aim, left, torn, newest, lost, before, int(said[1]) if said else None)


def begin(words: list[str], run_dir: Path) -> None:
    """A run has a first checkpoint before it is killed for the first time: there is nothing to lose before."""
    process = start(words, run_dir.with_suffix(".log"))
    while not whole_and_torn(run_dir)[0]:
        time.sleep(0.02)
    kill(process)


def measure(series: str, subject: Subject, folder: Path, wanted: dict[str, object]) -> tuple[list[Kill], list[str]]:
    """All kills of a series, and the files that differ in the end."""
    more, count = SERIES[series]
    run_dir, draw, found = folder / series, random.Random(series), []
    words = command(subject, [f"runs_dir={folder}", f"name={series}", "data.workers=0", *more])
    begin(words, run_dir)
    for number in range(count):
        found.append(strike(series, words, run_dir, ("write", "step", "write", "any")[number % 4], draw))
        print(number + 1, found[-1], flush=True)
    train_to_the_end(words, run_dir, subject.steps, run_dir.with_suffix(".log"))
    return found, compare(wanted, contents(run_dir, subject.steps))[1]


def is_wrong(each: Kill) -> bool:
    """A promise broken: a torn checkpoint in place, a whole one lost, too many steps lost, another one resumed."""
    most = EVERY if each.series == "direct" else 2 * EVERY  # the write of one checkpoint lasts until the next at most
    others = each.resumed_from not in (None, each.before)
    return bool(each.torn) or each.newest < each.before or each.lost > most or others


def main() -> None:
    """Both series, against one run that nobody killed."""
    motion = SUBJECTS["motion"]
    subject = Subject(motion.modality, STEPS, EVERY, motion.settings)
    result: dict[str, object] = {"steps": STEPS, "checkpoint_every": EVERY}
    kills: list[Kill] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        words = command(subject, [f"runs_dir={folder}", "name=whole", "data.workers=0"])
        train_to_the_end(words, folder / "whole", STEPS, folder / "whole.log")
        wanted = contents(folder / "whole", STEPS)
        for series in SERIES:
            found, result[f"files that differ, {series}"] = measure(series, subject, folder, wanted)
            kills += found
    result["kills"] = [asdict(each) for each in kills]
    (RESULTS / "kills.json").write_text(json.dumps(result, indent=1) + "\n")
    bad = [each for each in kills if is_wrong(each)]
    differ = [series for series in SERIES if result[f"files that differ, {series}"]]
    sys.exit(f"{bad or ''} {differ or ''}" if bad or differ else 0)


if __name__ == "__main__":
    main()
