"""Finding videos: files, folders of frames and tar shards, with classes, groups and splits; nothing is decoded."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from jepa_core.data.media import Columns, Media, OpenFile
from jepa_core.data.media_folders import has_extension, labelled
from jepa_core.data.records import Record, RecordList, Records
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
        found = labelled(path, *_list_folder(path), "videos", Columns.of(label))
    else:
        one = [VideoRecord(path.name, OpenFile(path))] if path.suffix.lower() in EXTENSIONS else []
        found = VideoList(Records.of(one), (), "one video file")
    if not found.records:
        raise ValueError(
            f"data.root: expected videos ({', '.join(sorted(EXTENSIONS))}), folders of frames or tar shards of videos "
            f"in {str(root)!r}, got none"
        )
    if label is not None:
        found.require(label)
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


@dataclass(frozen=True)
class _Videos:
    """Files and folders of frames below a root.

    Attributes:
        root: of the data set.
        frames: bool ``[N]``, which are folders of frames.
    """

    root: Path
    frames: NDArray[np.bool_]

    def reader(self, row: int, sample_id: str) -> OpenFile | _Frames:
        """What reads a video; a root that is itself a folder of frames is named after itself."""
        if not self.frames[row]:
            return OpenFile(self.root / sample_id)
        is_root = len(self.frames) == 1 and not (self.root / sample_id).is_dir()
        return _Frames(self.root if is_root else self.root / sample_id)


def _list_folder(root: Path) -> tuple[list[str], _Videos]:
    """Names in order, and what reads them."""
    found = sorted(_walk(root))
    return [name for name, _ in found], _Videos(root, np.array([frames for _, frames in found], bool))


def _walk(root: Path) -> Iterator[tuple[str, bool]]:
    """(path relative to the root, whether it is a folder of frames) of each video."""
    for folder, inner, files in os.walk(root):
        inner[:] = [name for name in inner if not name.startswith(".")]
        inside = os.path.relpath(folder, root).replace(os.sep, "/")
        videos = [name for name in files if has_extension(name, EXTENSIONS)]
        yield from ((name if inside == "." else f"{inside}/{name}", False) for name in videos)
        if not videos and not inner and any(has_extension(name, IMAGES) for name in files):
            yield root.name if inside == "." else inside, True
