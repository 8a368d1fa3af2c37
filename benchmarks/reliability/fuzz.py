"""Every reader against thousands of damaged files: nothing may crash, hang, take memory without end or go unexplained.

Each file goes the way it goes in training, in a child process with a limit of memory and of time. Outcomes:

- ``read``: it was taken for a good file (much damage leaves one);
- ``refused``: BadSample, a user's error or an error of the file system, with one line that says why: quarantine, or an
  exit with one line;
- ``bug``: any other exception, or a reason that is no line; ``crash``, ``hang``, ``memory``: as they say.

Address space is limited at 1 GiB above what the idle reader has. Where a reader makes a refusal of an allocation that
failed there, the file is read again with 6 GiB: ``memory`` if more than 1 GiB is then resident, else the refusal stands
(a length was believed as far as asking for it, and nothing was written there). The greatest growth is written down.

    python benchmarks/reliability/fuzz.py                      # all readers, 2 000 files each; writes HOSTILE.md
    python benchmarks/reliability/fuzz.py images -n 200 --dry  # one reader, nothing written
    python benchmarks/reliability/fuzz.py images --show 117    # what the reader says to file 117, with the traceback
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import resource
import sys
import tempfile
import time
import traceback
from collections import Counter
from dataclasses import asdict, dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]
from mutations import Mutant  # noqa: E402  # beside this file, in no package
from readers import READERS, Reader  # noqa: E402

ROOM_BYTES = 2**30
MORE_ROOM_BYTES = 6 * 2**30
SECONDS_A_FILE = 30.0
START_SECONDS = 300.0
LONGEST_REASON = 2000
SEED = "jepakit-1"
_KEPT = 5
_WANT_OF_MEMORY = ("MemoryError", "Unable to allocate", "Cannot allocate memory", "malloc of size", "realloc of size")


@dataclass(frozen=True)
class Outcome:
    """What became of one file.

    Attributes:
        kind: see the head of this file.
        reason: for people.
        seconds: it took.
        grown_mib: resident memory beyond the idle reader's, at its greatest.
    """

    kind: str
    reason: str = ""
    seconds: float = 0.0
    grown_mib: float = 0.0


@dataclass
class Tally:
    """The row of a reader."""

    reader: str
    what: str
    files: int = 0
    kinds: dict[str, int] = field(default_factory=dict)
    damages: dict[str, int] = field(default_factory=dict)
    slowest_s: float = 0.0
    grown_mib: float = 0.0
    faults: list[dict[str, Any]] = field(default_factory=list)


# --------------------------------------------------------------------------------------------------------------------
# The child
# --------------------------------------------------------------------------------------------------------------------


def child(name: str, pipe: Connection) -> None:
    """Reads one file after another, as the parent names them by number."""
    log = os.open(os.devnull, os.O_WRONLY)
    os.dup2(log, 1)
    os.dup2(log, 2)
    reader = READERS[name]
    seeds = reader.seeds()
    with tempfile.TemporaryDirectory() as folder:
        # What is imported and built at first use belongs to the idle reader.
        for seed in seeds:
            _read(reader, Mutant(seed.name, seed.content, "none"), Path(folder) / "sound")
        limit_memory()
        idle = _status("VmRSS")
        pipe.send("ready")
        while (number := pipe.recv()) is not None:
            made = reader.mutant(seeds, f"{SEED} {name} {number}")
            Path("/proc/self/clear_refs").write_text("5")  # the greatest resident memory is measured anew
            began = time.monotonic()
            kind, reason = _read(reader, made, Path(folder) / str(number))
            grown = max(0, _status("VmHWM") - idle) / 1024
            if kind == "memory":
                kind, grown = _with_more_room(reader, made, Path(folder) / str(number), idle)
            pipe.send((Outcome(kind, reason, time.monotonic() - began, grown), made.damage, made.name))


def _with_more_room(reader: Reader, made: Mutant, folder: Path, idle: int) -> tuple[str, float]:
    """Kind and growth where an allocation failed: whether more is used, or only asked for and given back."""
    low, high = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (high, high))
    Path("/proc/self/clear_refs").write_text("5")
    kind, _ = _read(reader, made, folder)
    grown = max(0, _status("VmHWM") - idle) / 1024
    resource.setrlimit(resource.RLIMIT_AS, (low, high))
    settled = kind if kind != "memory" else "refused"
    return ("memory" if grown * 2**20 > ROOM_BYTES else settled), grown


def limit_memory() -> None:
    """No more address space than now and :data:`ROOM_BYTES`; for a second look, :data:`MORE_ROOM_BYTES`."""
    used = _status("VmSize") * 1024
    resource.setrlimit(resource.RLIMIT_AS, (used + ROOM_BYTES, used + MORE_ROOM_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _status(key: str) -> int:
    """KiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{key}:"))


def _read(reader: Reader, made: Mutant, folder: Path) -> tuple[str, str]:
    folder.mkdir(parents=True)
    try:
        reader.read(folder, made)
    except BaseException as error:  # whatever it is, it is the result
        return judged(error)
    finally:
        _remove(folder)
    return "read", ""


def judged(error: BaseException) -> tuple[str, str]:
    """Kind and reason of what a reader raised."""
    from jepa_core.one_line import one_line

    text = str(error)
    if isinstance(error, MemoryError):
        return "bug", f"MemoryError got out {_where(error)}"
    if not _is_refusal(error):
        return "bug", f"{type(error).__name__}: {text[:300]} {_where(error)}"
    if any(mark in text for mark in _WANT_OF_MEMORY):
        return "memory", f"{type(error).__name__}: {text[:300]} {_where(error)}"
    if type(error) is ValueError:  # a command hands it on as a UserError
        text = one_line(text)
    if not text.strip() or "\n" in text or len(text) > LONGEST_REASON:
        return "bug", f"no line for people: {text[:300]!r} {_where(error)}"
    return "refused", text


def _is_refusal(error: BaseException) -> bool:
    from jepa_core.contracts import BadSample
    from jepa_core.errors import UserError

    if isinstance(error, BadSample | UserError | OSError):
        return True
    # A ValueError for users is raised by the project's own code; one that a library raised only passed through it.
    frames = traceback.extract_tb(error.__traceback__)
    return isinstance(error, ValueError) and "/jepa_" in frames[-1].filename


def _where(error: BaseException) -> str:
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "/jepa_" in frame.filename]
    return f"({Path(frames[-1].filename).name}:{frames[-1].lineno} {frames[-1].name})" if frames else ""


def _remove(folder: Path) -> None:
    for place in sorted(folder.rglob("*"), reverse=True):
        place.rmdir() if place.is_dir() and not place.is_symlink() else place.unlink()
    folder.rmdir()


# --------------------------------------------------------------------------------------------------------------------
# The parent
# --------------------------------------------------------------------------------------------------------------------


class Children:
    """A child of a reader, and the next one where it is lost."""

    def __init__(self, reader: str) -> None:
        self._reader, self._process, self._pipe = reader, None, None

    def outcome(self, number: int) -> tuple[Outcome, str, str]:
        """(outcome, damage, file name) of a file; the last two are empty where the child was lost."""
        if self._process is None:
            self._start()
        self._pipe.send(number)
        began = time.monotonic()
        if not self._pipe.poll(SECONDS_A_FILE):
            self.close()
            return Outcome("hang", f"more than {SECONDS_A_FILE:.0f} s", time.monotonic() - began), "", ""
        try:
            return self._pipe.recv()
        except EOFError:
            self._process.join()
            code = self._process.exitcode
            self.close()
            return Outcome("crash", f"the process ended with {code}", time.monotonic() - began), "", ""

    def close(self) -> None:
        """Ends the child."""
        if self._process is not None:
            self._process.kill()
            self._process.join()
        self._process = self._pipe = None

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=child, args=(self._reader, theirs), daemon=True)
        self._process.start()
        theirs.close()
        if not self._pipe.poll(START_SECONDS) or self._pipe.recv() != "ready":
            raise SystemExit(f"{self._reader}: its child did not start")


def fuzz(name: str, count: int, keep: Path) -> Tally:
    """All files of a reader; those that show a fault are kept."""
    reader = READERS[name]
    tally, kinds, damages = Tally(name, reader.what, count), Counter[str](), Counter[str]()
    children = Children(name)
    for number in range(count):
        found, _, _ = children.outcome(number)
        kinds[found.kind] += 1
        tally.slowest_s, tally.grown_mib = max(tally.slowest_s, found.seconds), max(tally.grown_mib, found.grown_mib)
        if found.kind not in ("read", "refused"):
            made = reader.mutant(reader.seeds(), f"{SEED} {name} {number}")
            damages[made.damage] += 1
            tally.faults.append({"file": number, "name": made.name, "damage": made.damage, **asdict(found)})
            if kinds[found.kind] <= _KEPT:
                keep.mkdir(parents=True, exist_ok=True)
                kept = f"{name}-{number}-{found.kind}-{made.name}".replace("/", "-")
                (keep / kept).write_bytes(made.content)
            print(f"  {name} {number} {made.name} ({made.damage}): {found.kind}: {found.reason}", flush=True)
    children.close()
    tally.kinds, tally.damages = dict(kinds), dict(damages)
    return tally


# --------------------------------------------------------------------------------------------------------------------
# The table
# --------------------------------------------------------------------------------------------------------------------

_HEAD = """# Hostile files

Damaged copies of real files, read as training, embedding, comparison and reports read them. Written by

    JEPA_DATA=<data> python benchmarks/reliability/fuzz.py

Every file is drawn from the seed `{seed}` and its number; `--show <number>` shows what a reader says to it. *Refused*:
quarantined or an exit, with one line that says why. *Read*: taken for a good file, which much
damage leaves. A reader may take {room:.0f} MiB of address space above its idle state and {seconds:.0f} s for a file;
*grown* is the greatest resident memory above idle, *slowest* the longest that one file took.

| reader | files of | mutants | read | refused | bugs | crashes | hangs | memory | grown MiB | slowest s |
|---|---|---|---|---|---|---|---|---|---|---|
"""


def table(tallies: list[Tally]) -> str:
    """HOSTILE.md."""
    rows = []
    for tally in tallies:
        counts = [str(tally.kinds.get(kind, 0)) for kind in ("read", "refused", "bug", "crash", "hang", "memory")]
        numbers = [str(tally.files), *counts, f"{tally.grown_mib:.0f}", f"{tally.slowest_s:.2f}"]
        rows.append(f"| {' | '.join([tally.reader, tally.what, *numbers])} |")
    head = _HEAD.format(seed=SEED, room=ROOM_BYTES / 2**20, seconds=SECONDS_A_FILE)
    files, bad = sum(tally.files for tally in tallies), sum(len(tally.faults) for tally in tallies)
    return head + "\n".join(rows) + f"\n\n{files} files in all, {bad} with a fault.\n"


def show(name: str, number: int) -> None:
    """What a reader says to one file, in this process and without limits."""
    reader = READERS[name]
    made = reader.mutant(reader.seeds(), f"{SEED} {name} {number}")
    print(f"{made.name}: {made.damage}, {len(made.content)} bytes")
    with tempfile.TemporaryDirectory() as folder:
        reader.read(Path(folder), made)
    print("read")


def main() -> None:
    """See the head of this file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("readers", nargs="*", help=f"of {', '.join(READERS)}; none = all")
    parser.add_argument("-n", type=int, default=2000, help="files of each reader")
    parser.add_argument("--show", type=int, help="one file, with the traceback")
    parser.add_argument("--dry", action="store_true", help="write no table")
    parser.add_argument("--keep", type=Path, default=Path("runs/fuzz"), help="where files that show a fault are kept")
    options = parser.parse_args()
    names = options.readers or list(READERS)
    if options.show is not None:
        return show(names[0], options.show)
    results = HERE / "results" / "hostile.json"
    for name in names:
        tally = fuzz(name, options.n, options.keep)
        print(f"{name}: {tally.kinds}, slowest {tally.slowest_s:.2f} s, grown {tally.grown_mib:.0f} MiB", flush=True)
        if not options.dry:
            held = json.loads(results.read_text()) if results.is_file() else {}
            held[name] = asdict(tally)
            ordered = {key: held[key] for key in READERS if key in held}
            results.parent.mkdir(exist_ok=True)
            results.write_text(json.dumps(ordered, indent=1) + "\n")
            (HERE / "HOSTILE.md").write_text(table([Tally(**row) for row in ordered.values()]))
    return None


if __name__ == "__main__":
    main()
