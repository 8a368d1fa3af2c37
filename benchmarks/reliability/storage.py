"""Disks that fail and signals that stop: what the run says, how it ends, what is left, and whether it goes on exactly.

    python benchmarks/reliability/storage.py      # writes results/storage.json; as root, it mounts small disks

A full disk is a tmpfs that has room for one checkpoint and a half; it is mended by giving it more. A read-only disk is
the folder of checkpoints, mounted anew over itself. A folder vanishes by being renamed while a checkpoint is written.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from harness import RESULTS, SUBJECTS, command, compare, contents, kill, start, train_to_the_end, wait_for_step
from kills import whole_and_torn

SUBJECT = SUBJECTS["motion"]
MODES = {"direct": "false", "background": "true"}


@dataclass(frozen=True)
class Row:
    """One way to end.

    Attributes:
        seconds: from the event to the end of the process.
        said: its last line.
        whole: steps of whole checkpoints afterwards.
        torn, left: checkpoints in place that are torn, and folders of unfinished writes.
        different: files that differ from the uninterrupted run's after resume=auto.
    """

    event: str
    mode: str
    exit_code: int
    seconds: float
    said: str
    whole: list[int]
    torn: int
    left: int
    different: list[str]


def sh(*words: str) -> None:
    """A command that must succeed."""
    subprocess.run(words, check=True)


@contextmanager
def full_disk(folder: Path) -> Iterator[Callable[[], None]]:
    """A disk for one checkpoint and a half; what is handed out makes it larger."""
    folder.mkdir()
    sh("mount", "-t", "tmpfs", "-o", "size=5m", "tmpfs", str(folder))
    try:
        yield lambda: sh("mount", "-o", "remount,size=64m", str(folder))
    finally:
        sh("umount", str(folder))


def during_a_write(run_dir: Path, process: subprocess.Popen[bytes]) -> None:
    """Returns while a checkpoint is being written."""
    while not any((run_dir / "checkpoints").glob(".step-*.partial")) and process.poll() is None:
        time.sleep(0.001)


def ending(process: subprocess.Popen[bytes]) -> tuple[int, float]:
    """Exit code and seconds until it came."""
    begun_s = time.monotonic()
    try:
        code = process.wait(timeout=60)
    except subprocess.TimeoutExpired:
        kill(process)
        raise
    return code, time.monotonic() - begun_s


def row(event: str, mode: str, runs: Path, words: list[str], act: Callable[..., Callable[[], None] | None]) -> Row:
    """Trains past the first checkpoint, lets ``act`` happen, looks, mends, resumes, compares."""
    run_dir, log = runs / "run", runs.parent / f"{event}-{mode}.log".replace(" ", "-")
    process = start(words, log)
    wait_for_step(run_dir, SUBJECT.every, process, log)
    mend = act(run_dir, process)
    code, seconds = ending(process)
    said = (log.read_text(errors="replace").strip().splitlines() or [""])[-1]
    said = said.replace(f"{runs.parent}/", "")
    if mend is not None:
        mend()
    whole, torn = whole_and_torn(run_dir)
    left = len(list((run_dir / "checkpoints").glob(".step-*")))
    train_to_the_end(words, run_dir, SUBJECT.steps, log)
    different = compare(WANTED, contents(run_dir, SUBJECT.steps))[1]
    done = Row(event, mode, code, round(seconds, 2), said, whole, torn, left, different)
    print(done, flush=True)
    return done


def read_only(run_dir: Path, process: subprocess.Popen[bytes]) -> Callable[[], None]:
    """The folder of checkpoints can be read and not written."""
    folder = str(run_dir / "checkpoints")
    sh("mount", "--bind", folder, folder)
    sh("mount", "-o", "remount,bind,ro", folder)
    return lambda: sh("umount", folder)


def vanished(run_dir: Path, process: subprocess.Popen[bytes]) -> Callable[[], None]:
    """The run folder goes while a checkpoint is written, and comes back when the process has ended."""
    during_a_write(run_dir, process)
    run_dir.rename(run_dir.with_name("gone"))

    def back() -> None:
        assert not run_dir.exists(), "it was made anew"
        run_dir.with_name("gone").rename(run_dir)

    return back


def signalled(number: int, in_write: bool) -> Callable[..., None]:
    """A signal to the process, at once or while a checkpoint is written."""

    def act(run_dir: Path, process: subprocess.Popen[bytes]) -> None:
        if in_write:
            during_a_write(run_dir, process)
        process.send_signal(number)

    return act


def twice(folder: Path) -> Row:
    """A second Ctrl-C, in a step that takes many seconds."""
    slow = [f"runs_dir={folder}", "name=run", "data.workers=0", "trainer.batch_size=1400"]
    log = folder / "twice.log"
    process = start(command(SUBJECT, slow), log)
    while not (folder / "run" / "metrics.jsonl").exists():  # written after the first step: the second has begun
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    time.sleep(1.2)  # sooner, it is one key press that a launcher passed on
    still = process.poll() is None
    process.send_signal(signal.SIGINT)
    code, seconds = ending(process)
    assert still, "the first Ctrl-C had ended it"
    return Row("second SIGINT", "direct", code, round(seconds, 2), "", *whole_torn_left(folder / "run"), [])


def whole_torn_left(run_dir: Path) -> tuple[list[int], int, int]:
    """Steps of whole checkpoints; how many are torn, how many unfinished."""
    whole, torn = whole_and_torn(run_dir)
    return whole, torn, len(list((run_dir / "checkpoints").glob(".step-*")))


def settings(runs: Path, mode: str) -> list[str]:
    """Of one run."""
    return [f"runs_dir={runs}", "name=run", "data.workers=0", f"trainer.save_in_background={MODES[mode]}"]


def disks(folder: Path, mode: str) -> Iterator[Row]:
    """The three ways in which a disk fails."""
    if os.geteuid() == 0:
        full = folder / f"full-{mode}"
        with full_disk(full) as grow:
            yield row("full disk", mode, full, command(SUBJECT, settings(full, mode)), lambda *_: grow_later(grow))
        runs = folder / f"read-only-{mode}"
        yield row("read-only disk", mode, runs, command(SUBJECT, settings(runs, mode)), read_only)
    else:
        print("full and read-only disks are left out: mounting takes root")
    runs = folder / f"vanished-{mode}"
    yield row("folder vanished in a write", mode, runs, command(SUBJECT, settings(runs, mode)), vanished)


def grow_later(grow: Callable[[], None]) -> Callable[[], None]:
    """Nothing happens now: the disk fills by itself."""
    return grow


def signals(folder: Path, mode: str) -> Iterator[Row]:
    """SIGTERM and SIGINT at any moment, SIGTERM in the write of a checkpoint."""
    for event, number, in_write in (
        ("SIGTERM", signal.SIGTERM, False),
        ("SIGINT", signal.SIGINT, False),
        ("SIGTERM in a write", signal.SIGTERM, True),
    ):
        runs = folder / f"{event}-{mode}".replace(" ", "-")
        yield row(event, mode, runs, command(SUBJECT, settings(runs, mode)), signalled(number, in_write))


WANTED: dict[str, object] = {}


def main() -> None:
    """All of them, in both ways of saving."""
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        train_to_the_end(
            command(SUBJECT, settings(folder / "whole", "direct")), folder / "whole/run", SUBJECT.steps, folder / "log"
        )
        WANTED.update(contents(folder / "whole" / "run", SUBJECT.steps))
        for mode in MODES:
            rows += [*disks(folder, mode), *signals(folder, mode)]
        rows.append(twice(folder / "twice"))
        print(rows[-1], flush=True)
    (RESULTS / "storage.json").write_text(json.dumps([asdict(each) for each in rows], indent=1) + "\n")
    sys.exit("differs" if any(each.different or each.torn for each in rows) else 0)


if __name__ == "__main__":
    main()
