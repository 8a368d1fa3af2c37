"""Finding videos: files, folders of frames and tar shards, with classes, groups and splits; nothing is decoded."""

from __future__ import annotations

import math
import os
import re
from dataclasses import dataclass
from pathlib import Path

from jepa_core.data.media_folders import folder_record, has_extension, labelled
from jepa_core.data.records import Columns, Media, OpenFile, Record, RecordList
from jepa_core.data.shards import list_shards, shards_of
from jepa_vision.image_records import EXTENSIONS as IMAGES

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


# A file's bytes, its path, or frames.
Content = bytes | Path | FrameFiles
VideoRecord = Record[Content]
VideoList = RecordList[Content]

VIDEOS: Media[Content] = Media(
    one="one video",
    many="videos",
    extensions=EXTENSIONS,
    file=OpenFile,
    column="video",
    feature="Video",
    beside=frozenset({".cls", ".json"}),
)


def find_videos(root: str | Path, label: str | None = None) -> VideoList:
    """The videos of a root.

    - A folder with tar shards (``<split>-0000.tar``, ``.tar.gz``), or one shard: videos, each with ``<key>.json``
      (an object, whose texts and numbers become ``fields``) or ``<key>.cls`` beside it. Classes are the values of the
      field ``label``; without ``label`` they are those of the ``.cls`` files, with names in ``classes.txt``. Shards
      that are compressed are held in memory whole, others are read where they lie.
    - Any other folder: every video file below it, and every folder that holds images, no video and no folder: one
      video, its frames in natural order (2 before 10), their rate in its ``fps.txt``. A first folder named train, val,
      validation or test is the split. Classes are the column ``label`` (else the one named label) of ``labels.csv``
      (columns ``file``, a path relative to the root, perhaps ``split`` and ``group``), ``metadata.csv`` or
      ``meta.csv``, see :func:`jepa_core.data.media_folders.labelled`; without such a table they are the folders, where
      every video lies in one and there are at least two.
    - One video file.

    Names that begin with a dot are passed over.

    Raises:
        ValueError: no such folder or file, no video in it, or labels that do not fit.
    """
    path = Path(root)
    if not path.exists():
        raise ValueError(f"data.root: expected a folder of videos or tar shards, got {str(root)!r}: none")
    shards = shards_of(path)
    found: VideoList
    if shards:
        found = list_shards(path if path.is_dir() else path.parent, shards, VIDEOS, Columns.of(label))
    elif path.is_dir():
        records = sorted(_walk(path), key=lambda record: record.sample_id)
        found = labelled(path, records, "videos", Columns.of(label))
    else:
        one = [VideoRecord(path.name, OpenFile(path))] if path.suffix.lower() in EXTENSIONS else []
        found = VideoList(tuple(one), (), "one video file")
    if not found.records:
        raise ValueError(
            f"data.root: expected videos ({', '.join(sorted(EXTENSIONS))}), folders of frames or tar shards of videos "
            f"in {str(root)!r}, got none"
        )
    if label is not None:
        found.values_of(label)
    return found


# --------------------------------------------------------------------------------------------------------------------
# Folders
# --------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Frames:
    """A folder of frames; it is listed when it is read, so that a large data set is found fast and held small."""

    folder: Path

    def __call__(self) -> FrameFiles:
        names = sorted((name for name in os.listdir(self.folder) if has_extension(name, IMAGES)), key=_natural)
        return FrameFiles(tuple(self.folder / name for name in names), _rate(self.folder / RATE_FILE))


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


def _walk(root: Path) -> list[VideoRecord]:
    records: list[VideoRecord] = []
    for folder, inner, files in os.walk(root):
        inner[:] = [name for name in inner if not name.startswith(".")]
        place = Path(folder)
        videos = [place / name for name in files if has_extension(name, EXTENSIONS)]
        for path in videos:
            records.append(folder_record(path.relative_to(root).as_posix(), OpenFile(path)))
        if not videos and not inner and any(has_extension(name, IMAGES) for name in files):
            name = place.name if place == root else place.relative_to(root).as_posix()
            records.append(folder_record(name, _Frames(place)))
    return records
