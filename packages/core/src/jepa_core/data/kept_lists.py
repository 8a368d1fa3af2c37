"""Lists of large roots, kept for the next start: a million headers of tar members are read once, not at every run.

A list is a file of plain arrays below ``JEPA_CACHE``, else ``XDG_CACHE_HOME/jepakit``, else ``~/.cache/jepakit``; an
empty ``JEPA_CACHE`` keeps none. It is believed as long as every file and folder that it was made from has the time and
the size it had then. What was changed less than two seconds before it was read is not kept: a file system that counts
in whole seconds would not tell the next change from that one.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic

import numpy as np
from numpy.typing import NDArray

from jepa_core.data.archives import read_npz
from jepa_core.data.records import Content, Readers, RecordList, Records, RecordTable
from jepa_core.data.texts import Column, Texts

FORMAT = 1
KEPT_FROM = 20_000
"""Samples; fewer are listed faster than a user notices."""
_MOST_FILES = 32
_SETTLED_NS = 2 * 10**9
_SAID_AFTER_S = 3.0

Stamps = Mapping[str, tuple[int, int] | None]
"""Of files and folders: time of the last change in ns, and size in bytes; None = there is none."""
Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Listing(Generic[Content]):
    """A list, and what it takes to keep it.

    Attributes:
        found: the list.
        places: what its readers are made of, besides the root; None = it cannot be kept.
        stamps: of what it was made from, taken before.
    """

    found: RecordList[Content]
    places: Arrays | None
    stamps: Stamps


_recent: dict[tuple[str, str], tuple[Stamps, RecordList[Any]]] = {}
"""By the key of a list and the root as it was written: readers keep it so, and a process may change its folder."""


def stamps_of(paths: Sequence[Path]) -> dict[str, tuple[int, int] | None]:
    """The stamps of files and folders."""
    return {os.path.abspath(path): _stamp(path) for path in paths}


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size


def kept_or_listed(
    wanted: Sequence[object],
    root: Path,
    find: Callable[[], Listing[Content]],
    readers: Callable[[Arrays], Readers[Content]],
) -> RecordList[Content]:
    """The list of a root as it was kept, or as it is found now.

    Args:
        wanted: all that the list depends on besides the files; has a ``repr`` that says so.
        root: of the data.
        find: makes the list.
        readers: makes the readers of a list that was kept from :attr:`Listing.places`.
    """
    name = hashlib.sha256(repr((FORMAT, str(root.resolve()), *wanted)).encode("utf-8", "surrogatepass")).hexdigest()[
        :32
    ]
    key = name, str(root)
    if (recent := _recent.get(key)) and _are_as_they_were(recent[0]):
        return recent[1]
    folder = _folder()
    if folder is None:
        return _find(root, find).found
    file = folder / f"{name}.npz"
    if found := _read(key, file, readers):
        return found
    with _one_at_a_time(file):
        if found := _read(key, file, readers):
            return found
        begin = time.time_ns()
        listing = _find(root, find)
        if _is_kept(listing, begin):
            _write(file, listing)
            _remember(key, listing.stamps, listing.found)
        return listing.found


def _folder() -> Path | None:
    chosen = os.environ.get("JEPA_CACHE")
    if chosen == "":
        return None
    home = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return Path(chosen or os.path.join(home, "jepakit")) / "lists"


def _find(root: Path, find: Callable[[], Listing[Content]]) -> Listing[Content]:
    note = f"data: listing what {root} holds\n"
    timer = threading.Timer(_SAID_AFTER_S, lambda: sys.stderr.write(note))
    timer.daemon = True
    timer.start()
    try:
        return find()
    finally:
        timer.cancel()


def _is_kept(listing: Listing[Any], begin_ns: int) -> bool:
    changed = max((stamp[0] for stamp in listing.stamps.values() if stamp), default=0)
    return listing.places is not None and len(listing.found.records) >= KEPT_FROM and changed < begin_ns - _SETTLED_NS


def _are_as_they_were(stamps: Stamps) -> bool:
    return all(_stamp(Path(path)) == stamp for path, stamp in stamps.items())


def _remember(key: tuple[str, str], stamps: Stamps, found: RecordList[Any]) -> None:
    _recent.clear()  # one: a run has one root, and a list of millions is large
    _recent[key] = stamps, found


@contextmanager
def _one_at_a_time(file: Path) -> Iterator[None]:
    """The processes of a run start together: one lists, the others wait and read what it kept."""
    if os.environ.get("WORLD_SIZE", "1") == "1":
        yield
        return
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        lock = (file.parent / ".lock").open("a")
    except OSError:  # then nothing can be kept either
        yield
        return
    with lock:
        with suppress(OSError):  # a file system without locks: each process lists for itself
            fcntl.lockf(lock, fcntl.LOCK_EX)
        yield


# --------------------------------------------------------------------------------------------------------------------
# Files
# --------------------------------------------------------------------------------------------------------------------


def _write(file: Path, listing: Listing[Any]) -> None:
    records, places = listing.found.records, listing.places
    assert places is not None and len(records) == len(records.table.sample_ids), "a whole table"
    about = {
        "kind": listing.found.kind,
        "classes": listing.found.classes,
        "fields": records.field_names,
        "stamps": dict(listing.stamps),
    }
    content: dict[str, Any] = {
        "about": np.frombuffer(json.dumps(about).encode(), np.uint8),
        **_table_arrays(records.table),
        **{f"places.{name}": values for name, values in places.items()},
    }
    unfinished = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with unfinished.open("wb") as out:
            np.savez(out, **content)
        os.replace(unfinished, file)
        for old in sorted(file.parent.glob("*.npz"), key=lambda kept: kept.stat().st_mtime_ns)[:-_MOST_FILES]:
            old.unlink()
    except OSError:  # a full or read-only disk costs the next start its seconds, and nothing else
        with suppress(OSError):
            unfinished.unlink()


def _table_arrays(table: RecordTable[Any]) -> dict[str, NDArray[Any]]:
    found: dict[str, NDArray[Any]] = {"ids.content": table.sample_ids.content, "ids.ends": table.sample_ids.ends}
    found |= {"splits": table.splits, "labels": table.labels}
    for name, column in (("groups", table.groups), *((f"field{n}", c) for n, c in enumerate(table.fields.values()))):
        found |= {f"{name}.codes": column.codes, f"{name}.content": column.values.content}
        found[f"{name}.ends"] = column.values.ends
    return found


def _read(
    key: tuple[str, str], file: Path, readers: Callable[[Arrays], Readers[Content]]
) -> RecordList[Content] | None:
    """The list in a file; None = there is none, it is damaged, or the data have changed."""
    if not file.is_file():
        return None
    try:
        arrays = read_npz(file)
        about = json.loads(arrays["about"].tobytes())
        stamps: Stamps = {path: stamp and (stamp[0], stamp[1]) for path, stamp in about["stamps"].items()}
        if not _are_as_they_were(stamps):
            return None
        places = {each.removeprefix("places."): value for each, value in arrays.items() if each.startswith("places.")}
        records = Records(_table_of(arrays, about["fields"], readers(places)))
        found = RecordList(records, tuple(str(each) for each in about["classes"]), str(about["kind"]))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    with suppress(OSError):
        os.utime(file)  # the files that are used last are kept
    _remember(key, stamps, found)
    return found


def _table_of(arrays: Arrays, fields: Sequence[str], readers: Readers[Content]) -> RecordTable[Content]:
    ids = Texts(arrays["ids.content"], arrays["ids.ends"])

    def column(name: str) -> Column:
        codes = arrays[f"{name}.codes"]
        if len(codes) != len(ids):
            raise ValueError(f"{name}: expected {len(ids)} rows, got {len(codes)}")
        return Column(codes, Texts(arrays[f"{name}.content"], arrays[f"{name}.ends"]))

    splits, labels = arrays["splits"], arrays["labels"]
    if len(splits) != len(ids) or len(labels) != len(ids):
        raise ValueError("splits, labels: expected a row for each sample")
    columns = {str(each): column(f"field{number}") for number, each in enumerate(fields)}
    return RecordTable(ids, readers, splits, labels, column("groups"), columns)
