"""Finding videos: files, folders of frames and tar shards, with classes, groups and splits; nothing is decoded."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from jepa_vision.image_files import EXTENSIONS as IMAGES
from jepa_vision.image_files import (
    LABELS_TABLE,
    Member,
    class_folders,
    class_names,
    class_number,
    numbered,
    read_table,
    shard_members,
    shard_stem,
    shards_of,
)
from jepa_vision.image_records import SPLITS, split_of

EXTENSIONS = frozenset({".mp4", ".m4v", ".webm", ".avi", ".mov", ".mkv"})
RATE_FILE = "fps.txt"


@dataclass(frozen=True)
class FrameFiles:
    """A video that lies there as one image file a frame.

    Attributes:
        paths: in the order of time.
        fps: frames per second; None = not known.
    """

    paths: tuple[Path, ...]
    fps: float | None = None


@dataclass(frozen=True)
class VideoRecord:
    """One video, not yet read.

    Attributes:
        sample_id: the same on every machine: path relative to the root, or shard and key.
        open: gives the file's bytes, its path, or the frames.
        split: ``train``, ``validation``, ``test``, or empty where the data do not say.
        label: class number; None = not known.
        group: what must not be torn apart by a split (speaker, recording); empty = not known.
        fields: what the label table or the ``.json`` beside it says of this video, as text.
    """

    sample_id: str
    open: Callable[[], bytes | Path | FrameFiles]
    split: str = ""
    label: int | None = None
    group: str = ""
    fields: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class VideoList:
    """What a root holds.

    Attributes:
        records: in a fixed order.
        classes: class names by number; empty without labels.
        kind: how they lie there, for messages.
    """

    records: tuple[VideoRecord, ...]
    classes: tuple[str, ...]
    kind: str

    def labels_of(self, column: str) -> tuple[str | None, ...]:
        """What ``column`` of the label table, or this field of the ``.json``, says of each record; None = nothing.

        Raises:
            ValueError: no record has it.
        """
        values = tuple(record.fields.get(column) for record in self.records)
        if not any(values):
            known = sorted({name for record in self.records for name in record.fields})
            raise ValueError(
                f"data.label: expected one of the fields that the videos have ({', '.join(known) or 'they have none: '}"
                f"{'' if known else f'write a {LABELS_TABLE} or a .json beside each'}), got {column!r}"
            )
        return values


def find_videos(root: str | Path, label: str | None = None) -> VideoList:
    """The videos of a root.

    - A folder with tar shards (``<split>-0000.tar``, ``.tar.gz``), or one shard: videos, each with ``<key>.json``
      (an object, whose texts and numbers become ``fields``) or ``<key>.cls`` beside it. Classes are the values of the
      field ``label``; without ``label`` they are those of the ``.cls`` files, with names in ``classes.txt``. Shards
      that are compressed are held in memory whole, others are read where they lie.
    - Any other folder: every video file below it, and every folder that holds images, no video and no folder: one
      video, its frames in natural order (2 before 10), their rate in its ``fps.txt``. A first folder named train, val,
      validation or test is the split. Classes are the column ``label`` (else the one named label) of ``labels.csv``
      (columns ``file``, a path relative to the root, perhaps ``split`` and ``group``); without that table they are the
      folders, where every video lies in one and there are at least two.
    - One video file.

    Names that begin with a dot are passed over.

    Raises:
        ValueError: no such folder or file, no video in it, or labels that do not fit.
    """
    path = Path(root)
    if not path.exists():
        raise ValueError(f"data.root: expected a folder of videos or tar shards, got {str(root)!r}: none")
    shards = shards_of(path)
    if shards:
        found = _list_shards(path if path.is_dir() else path.parent, shards, label)
    elif path.is_dir():
        found = _list_folder(path, label)
    else:
        one = [VideoRecord(path.name, _File(path))] if path.suffix.lower() in EXTENSIONS else []
        found = VideoList(tuple(one), (), "one video file")
    if not found.records:
        raise ValueError(
            f"data.root: expected videos ({', '.join(sorted(EXTENSIONS))}), folders of frames or tar shards of videos "
            f"in {str(root)!r}, got none"
        )
    if label is not None:
        found.labels_of(label)
    return found


# --------------------------------------------------------------------------------------------------------------------
# Folders
# --------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _File:
    """A file that the decoder opens itself."""

    path: Path

    def __call__(self) -> Path:
        return self.path


@dataclass(frozen=True)
class _Frames:
    """A folder of frames; it is listed when it is read, so that a large data set is found fast and held small."""

    folder: Path

    def __call__(self) -> FrameFiles:
        names = sorted((name for name in os.listdir(self.folder) if _is_one_of(name, IMAGES)), key=_natural)
        return FrameFiles(tuple(self.folder / name for name in names), _rate(self.folder / RATE_FILE))


def _is_one_of(name: str, extensions: frozenset[str]) -> bool:
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in extensions


def _natural(name: str) -> list[tuple[int, str]]:
    """Sorts numbers inside names by their value."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name) if part]


def _rate(file: Path) -> float | None:
    if not file.is_file():
        return None
    text = file.read_text(encoding="utf-8", errors="replace").strip()
    try:
        rate = float(text)
    except ValueError:
        rate = math.nan
    if not 0 < rate < math.inf:
        raise ValueError(f"{file}: expected frames per second, a number above 0, got {text[:40]!r}")
    return rate


def _list_folder(root: Path, label: str | None) -> VideoList:
    records = sorted(_walk(root), key=lambda record: record.sample_id)
    table = root / LABELS_TABLE
    if table.is_file():
        return _labelled_by_table(records, table, label or "label")
    if label is not None and records:
        raise ValueError(f"data.label: expected a table {table} with the columns file and {label}, got no such file")
    classes, labels = class_folders([(record.sample_id, record.split) for record in records])
    labelled = (replace(record, label=number) for record, number in zip(records, labels, strict=True))
    return VideoList(tuple(labelled), classes, "class folders" if classes else "videos")


def _walk(root: Path) -> list[VideoRecord]:
    records = []
    for folder, inner, files in os.walk(root):
        inner[:] = [name for name in inner if not name.startswith(".")]
        place = Path(folder)
        videos = [place / name for name in files if _is_one_of(name, EXTENSIONS)]
        for path in videos:
            records.append(_record(path.relative_to(root).as_posix(), _File(path)))
        if not videos and not inner and any(_is_one_of(name, IMAGES) for name in files):
            name = place.name if place == root else place.relative_to(root).as_posix()
            records.append(_record(name, _Frames(place)))
    return records


def _record(name: str, opened: _File | _Frames) -> VideoRecord:
    split = SPLITS.get(name.split("/")[0].lower(), "") if "/" in name else ""
    return VideoRecord(name, opened, split)


def _labelled_by_table(records: Sequence[VideoRecord], table: Path, column: str) -> VideoList:
    rows = read_table(table, column, [record.sample_id for record in records])
    fields = [{key: value for key, value in rows.get(r.sample_id, {}).items() if key != "file"} for r in records]
    classes, labels = numbered([row.get(column) for row in fields])
    labelled = [
        replace(
            record,
            label=label,
            split=SPLITS.get(row.get("split", "").lower(), record.split),
            group=row.get("group", ""),
            fields=row,
        )
        for record, label, row in zip(records, labels, fields, strict=True)
    ]
    return VideoList(tuple(labelled), classes, f"videos with {LABELS_TABLE}")


# --------------------------------------------------------------------------------------------------------------------
# Tar shards
# --------------------------------------------------------------------------------------------------------------------


def _list_shards(root: Path, shards: Sequence[Path], label: str | None) -> VideoList:
    records = [record for shard in shards for record in _one_shard(shard)]
    if label is None:
        classes = class_names(root, [record.label for record in records])
        return VideoList(tuple(records), classes, "tar shards")
    classes, labels = numbered([record.fields.get(label) for record in records])
    labelled = (replace(record, label=number) for record, number in zip(records, labels, strict=True))
    return VideoList(tuple(labelled), classes, f"tar shards with {label}")


def _one_shard(shard: Path) -> list[VideoRecord]:
    stem = shard_stem(shard)
    videos: dict[str, Member] = {}
    labels: dict[str, int] = {}
    fields: dict[str, Mapping[str, str]] = {}
    for member in shard_members(shard, EXTENSIONS, {".cls", ".json"}):
        if member.extension == "cls":
            labels[member.key] = class_number(shard, member)
        elif member.extension == "json":
            fields[member.key] = _fields(shard, member)
        elif member.key in videos:
            raise ValueError(f"{shard}: expected one video for each key, got a second for {member.key!r}")
        else:
            videos[member.key] = member
    return [
        VideoRecord(
            f"{stem}/{key}",
            member.read,
            split_of(stem),
            labels.get(key),
            fields.get(key, {}).get("group", ""),
            fields.get(key, {}),
        )
        for key, member in videos.items()
    ]


def _fields(shard: Path, member: Member) -> Mapping[str, str]:
    """The texts and numbers of a ``.json``; lists and objects name no class."""
    content = member.read()
    try:
        found = json.loads(content)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise ValueError(f"{shard}: expected a JSON object in {member.key}.json, got {content[:40]!r}")
    return {key: str(value) for key, value in found.items() if isinstance(value, (str, int, float))}
