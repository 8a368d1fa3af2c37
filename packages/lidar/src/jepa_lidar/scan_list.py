"""Finding LiDAR scans below a folder: natural order, one group for each folder, nothing is read but a scan a group."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from jepa_core.contracts import BadSample
from jepa_core.data.kept_lists import Arrays, Listing, Stamps, kept_or_listed, stamps_of
from jepa_core.data.media import OpenFile
from jepa_core.data.records import RecordList, RecordPacker, Records
from jepa_lidar.readers import FORMATS, read_scan, scan_format

REAR = "#rear"
SCANS_TABLE, BOXES_TABLE = "scans.csv", "boxes_lidar.csv"


@dataclass(frozen=True)
class Frame:
    """One sample of a folder.

    Attributes:
        index: its place in the data set.
        sample_id: path relative to the root, and ``#rear`` for the rear half of a scan.
        group: folder of the file relative to the root; scans of one group may be consecutive.
        number: the last number in the file's name (frame or time stamp), else its place in the group.
        path: the file.
        rear: whether it is the rear half, turned to the front.
    """

    index: int
    sample_id: str
    group: str
    number: int
    path: Path
    rear: bool


@dataclass(frozen=True)
class _Scans:
    """What opens scans, and what their names say besides: ``number`` int64 ``[N]``."""

    root: Path
    number: NDArray[np.int64]

    def reader(self, row: int, sample_id: str) -> OpenFile:
        """Gives the path."""
        return OpenFile(self.root / sample_id.removesuffix(REAR))


class Frames(Sequence[Frame]):
    """The samples of a folder, or some of them, in columns: an element is made when it is asked for."""

    def __init__(self, records: Records[Path], numbers: NDArray[np.int64]) -> None:
        self._records, self._numbers = records, numbers

    def __len__(self) -> int:
        return len(self._records)

    @overload
    def __getitem__(self, place: int) -> Frame: ...
    @overload
    def __getitem__(self, place: slice) -> Frames: ...
    def __getitem__(self, place: int | slice) -> Frame | Frames:
        if isinstance(place, slice):
            return Frames(self._records[place], self._numbers[place])
        index = range(len(self))[place]
        record = self._records[index]
        rear = record.sample_id.endswith(REAR)
        return Frame(index, record.sample_id, record.group, int(self._numbers[index]), record.read(), rear)

    def take(self, indices: Sequence[int] | NDArray[np.integer[Any]]) -> Frames:
        """These, in this order."""
        chosen = np.asarray(indices, np.int64)
        return Frames(Records(self._records.table, self._records.rows[chosen]), self._numbers[chosen])

    def sample_id(self, index: int) -> str:
        """That of one frame."""
        return self._records.sample_id(index)

    def group_at(self, index: int) -> str:
        """That of one frame."""
        return self._records.table.groups.at(int(self._records.rows[index])) or ""

    def places_by_group(self) -> dict[str, NDArray[np.int64]]:
        """Where the frames of each group stand, groups in the order of their first frame."""
        groups = self._records.groups
        codes, first = np.unique(groups.codes, return_index=True)
        in_order = codes[np.argsort(first)].tolist()
        return {groups.values[code]: np.flatnonzero(groups.codes == code) for code in in_order}


def list_frames(root: Path, halves: bool) -> Frames:
    """Every scan below a folder.

    Args:
        root: searched through links too; see :class:`jepa_lidar.data.LidarScans` for folders that do not count.
        halves: a scan of a group recorded over 360 degrees gives two frames.

    Raises:
        ValueError: no such folder, or no scan in it.
    """
    endings = ", ".join(FORMATS)
    if not root.is_dir():
        raise ValueError(f"data.root: expected a folder with LiDAR scans ({endings}), got {root}, which is no folder")

    def readers(places: Arrays) -> _Scans:
        return _Scans(root, places["number"])

    found = kept_or_listed(("scans", FORMATS, halves), root, lambda: _listing(root, halves), readers)
    if not found.records:
        raise ValueError(f"data.root: expected LiDAR scans ({endings}) below {root}, got none")
    scans = found.records.table.readers
    assert isinstance(scans, _Scans), "made here"
    return Frames(found.records, scans.number)


def _listing(root: Path, halves: bool) -> Listing[Path]:
    names, stamps = _scan_files(root)
    groups: dict[str, list[str]] = {}
    for name in sorted(names, key=_natural):
        groups.setdefault(name.rpartition("/")[0], []).append(name)
    packer, numbers = RecordPacker(), list[int]()
    for group, members in groups.items():
        sides = ("", REAR) if halves and _full_circle([root / name for name in members]) else ("",)
        for place, name in enumerate(members):
            number = _number(name, place)
            for side in sides:
                packer.add(name + side, group=group or ".")
                numbers.append(number)
    scans = _Scans(root, np.array(numbers, np.int64))
    return Listing(RecordList(packer.packed(scans), (), "scans"), {"number": scans.number}, stamps)


def _scan_files(root: Path) -> tuple[list[str], Stamps]:
    """Paths relative to the root, and the folders."""
    seen: set[str] = set()
    listed: set[Path] = set()  # folders below a table, where only folders named "scans" count
    found, stamps = list[str](), dict[str, tuple[int, int] | None]()
    for folder, subfolders, files in os.walk(root, followlinks=True):
        here = Path(folder)
        real = os.path.realpath(folder)
        if real in seen:  # a link that leads back up
            subfolders.clear()
            continue
        seen.add(real)
        stamps |= stamps_of([here])
        if SCANS_TABLE in files or BOXES_TABLE in files or here.parent in listed:
            listed.add(here)
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        if here in listed and here.name != "scans":
            continue
        inside = "" if here == root else f"{here.relative_to(root).as_posix()}/"
        found.extend(inside + name for name in files if not name.startswith(".") and scan_format(name))
    return found, stamps


def _natural(text: str) -> list[tuple[int, str]]:
    """Sort key by which ``scan_2`` comes before ``scan_10``."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", text)]


def _number(name: str, place: int) -> int:
    ending = scan_format(name) or ""
    numbers = re.findall(r"\d+", name.rpartition("/")[2][: -len(ending) or None])
    number = int(numbers[-1][:20]) if numbers else place  # Python refuses numbers of thousands of digits
    return number if number < 2**63 else place


def _full_circle(members: Sequence[Path]) -> bool:
    """Whether a group's scans look behind the sensor, judged by the first one that can be read."""
    for path in members:
        try:
            x = read_scan(path).points[:, 0]
        except BadSample:
            continue  # not lost: it is still a sample, and load() reports it
        return bool((x < -1.0).mean() > 0.1)
    return False
