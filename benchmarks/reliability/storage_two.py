"""A full disk under two processes: both must end with exit code 5, one of them with one line, and resume exactly.

    sudo python benchmarks/reliability/storage_two.py      # writes results/storage_two.json; it mounts small disks

The processes are started without a launcher, which would have an exit code of its own: 1, whatever theirs are.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

from harness import RESULTS, command, compare, contents, kill, start, wait_for_step
from storage import MODES, SUBJECT, Row, full_disk, settings, whole_torn_left

PATIENCE_S = 120


def start_two(words: list[str], log: Path) -> list[subprocess.Popen[bytes]]:
    """Two processes that know of each other as those of ``torchrun`` do."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    shared = {"WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    places = [{"RANK": place, "LOCAL_RANK": place, **shared} for place in range(2)]
    return [start(words, log, {name: str(value) for name, value in place.items()}) for place in places]


def endings(both: list[subprocess.Popen[bytes]]) -> list[int]:
    """Exit codes; a process that does not end is a failure of this measurement."""
    try:
        return [process.wait(timeout=PATIENCE_S) for process in both]
    except subprocess.TimeoutExpired:
        for process in both:
            kill(process)
        raise


def to_the_end(words: list[str], run_dir: Path, log: Path) -> None:
    """Trains to the last checkpoint, and waits for both."""
    both = start_two([*words, "probe.enabled=false"], log)
    wait_for_step(run_dir, SUBJECT.steps, both[0], log)
    assert endings(both) == [0, 0], log.read_text()[-3000:]


def measure(folder: Path, mode: str, wanted: dict[str, object]) -> Row:
    """Runs into the full disk, gives it room, resumes, compares."""
    full, log = folder / f"full-two-{mode}", folder / f"two-{mode}.log"
    with full_disk(full) as grow:
        run_dir, words = full / "run", command(SUBJECT, settings(full, mode))
        both = start_two(words, log)
        wait_for_step(run_dir, SUBJECT.every, both[0], log)
        begun_s = time.monotonic()
        codes, seconds = endings(both), time.monotonic() - begun_s
        said = [line for line in log.read_text(errors="replace").splitlines() if line.startswith("jepa")]
        assert codes == [5, 5] and len(said) == 1, (codes, log.read_text(errors="replace")[-3000:])
        grow()
        left = whole_torn_left(run_dir)
        to_the_end(words, run_dir, log)
        different = compare(wanted, contents(run_dir, SUBJECT.steps))[1]
    words_said = said[0].replace(f"{folder}/", "")
    return Row("full disk, two processes", mode, codes[0], round(seconds, 2), words_said, *left, different)


def main() -> None:
    """Both ways of saving."""
    if os.geteuid() != 0:
        sys.exit("mounting a small disk takes root")
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        to_the_end(command(SUBJECT, settings(folder / "whole", "direct")), folder / "whole/run", folder / "whole.log")
        wanted = contents(folder / "whole" / "run", SUBJECT.steps)
        for mode in MODES:
            rows.append(measure(folder, mode, wanted))
            print(rows[-1], flush=True)
    (RESULTS / "storage_two.json").write_text(json.dumps([asdict(each) for each in rows], indent=1) + "\n")
    sys.exit("differs" if any(each.different or each.torn for each in rows) else 0)


if __name__ == "__main__":
    main()
