"""Finding images: folders, tar shards and arrays, with classes and splits where they are known; nothing is decoded."""

from __future__ import annotations

import csv
import io
import re
import tarfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

EXTENSIONS = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"})
SPLITS = {"train": "train", "val": "validation", "valid": "validation", "validation": "validation", "test": "test"}
LABELS_TABLE = "labels.csv"
_SHARD = re.compile(r"\.(tar|tar\.gz|tgz)$")


# A file's bytes, a picture [H, W] or [H, W, 3], or a picture of Pillow's.
Content = bytes | NDArray[np.uint8] | Image.Image


@dataclass(frozen=True)
class Record:
    """One image, not yet read.

    Attributes:
        sample_id: the same on every machine: path relative to the root, or shard and key.
        read: gives the file's bytes or the picture.
        split: ``train``, ``validation``, ``test``, or empty where the data do not say.
        label: class number; None = not known.
    """

    sample_id: str
    read: Callable[[], Content]
    split: str = ""
    label: int | None = None


@dataclass(frozen=True)
class ImageList:
    """What a root holds.

    Attributes:
        records: in a fixed order.
        classes: class names by number; empty without labels.
        kind: how they lie there, for messages.
    """

    records: tuple[Record, ...]
    classes: tuple[str, ...]
    kind: str


def find_images(root: str | Path) -> ImageList:
    """The images of a root.

    - a folder with tar shards (``<split>-0000.tar``, ``.tar.gz``): images with ``<key>.cls`` beside them, class names
      in ``classes.txt``;
    - an ``.npz`` file, or a folder of them (``<split>.npz``): ``images`` uint8 ``[N, H, W]`` or ``[N, H, W, 3]`` and
      perhaps ``labels`` ``[N]``;
    - any other folder: every image file below it. A first folder named train, val, validation or test is its split;
      classes are those of ``labels.csv`` (columns ``file``, ``label``, perhaps ``split``), or the folders that hold the
      images where every image lies in one and there are at least two.

    Raises:
        ValueError: no such folder or file, or no image in it.
    """
    path = Path(root)
    if not path.exists():
        raise ValueError(f"data.root: expected a folder of images, tar shards or an .npz file, got {str(root)!r}: none")
    shards = _files(path, lambda name: _SHARD.search(name) is not None)
    arrays = _files(path, lambda name: name.endswith(".npz"))
    if shards:
        found = _list_shards(path if path.is_dir() else path.parent, shards)
    elif arrays:
        found = _list_arrays(arrays)
    elif path.is_dir():
        found = _list_folder(path)
    else:
        raise ValueError(f"data.root: expected a folder, a .tar, .tar.gz or .npz file, got {str(root)!r}")
    if not found.records:
        raise ValueError(
            f"data.root: expected images ({', '.join(sorted(EXTENSIONS))}), tar shards or .npz files in "
            f"{str(root)!r}, got none"
        )
    return found


def _files(path: Path, wanted: Callable[[str], bool]) -> list[Path]:
    if path.is_dir():
        return sorted(entry for entry in path.iterdir() if entry.is_file() and wanted(entry.name))
    return [path] if wanted(path.name) else []


def _split_of(name: str) -> str:
    return SPLITS.get(re.split(r"[-_.]", name.lower())[0], "")


# --------------------------------------------------------------------------------------------------------------------
# Folders
# --------------------------------------------------------------------------------------------------------------------


def _list_folder(root: Path) -> ImageList:
    files = sorted(p for p in root.rglob("*") if p.suffix.lower() in EXTENSIONS and p.is_file())
    names = [path.relative_to(root).as_posix() for path in files]
    records = [
        Record(name, path.read_bytes, SPLITS.get(name.split("/")[0].lower(), "") if "/" in name else "")
        for name, path in zip(names, files, strict=True)
    ]
    table = root / LABELS_TABLE
    if table.is_file():
        return _labelled_by_table(records, table)
    return _labelled_by_folder(records)


def _labelled_by_table(records: Sequence[Record], table: Path) -> ImageList:
    with table.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        if not {"file", "label"} <= set(reader.fieldnames or ()):
            raise ValueError(f"{table}: expected the columns file and label, got {', '.join(reader.fieldnames or ())}")
        rows = {row["file"]: row for row in reader}
    missing = sorted(set(rows) - {record.sample_id for record in records})
    if missing:
        raise ValueError(
            f"{table}: expected an image for each row, got none for {missing[0]!r} and {len(missing) - 1} "
            "others; file is a path relative to the table's folder"
        )
    classes = tuple(sorted({row["label"] for row in rows.values()}))
    number = {name: place for place, name in enumerate(classes)}
    labelled = []
    for record in records:
        row = rows.get(record.sample_id)
        if row is not None:
            split = SPLITS.get((row.get("split") or "").lower(), record.split)
            record = replace(record, label=number[row["label"]], split=split)
        labelled.append(record)
    return ImageList(tuple(labelled), classes, f"image files with {LABELS_TABLE}")


def _labelled_by_folder(records: Sequence[Record]) -> ImageList:
    def folder(record: Record) -> str:
        parts = record.sample_id.split("/")[:-1]
        return parts[1 if record.split else 0] if len(parts) > bool(record.split) else ""

    folders = [folder(record) for record in records]
    classes = tuple(sorted(set(folders)))
    if len(classes) < 2 or "" in classes:
        return ImageList(tuple(records), (), "image files")
    number = {name: place for place, name in enumerate(classes)}
    labelled = [replace(r, label=number[name]) for r, name in zip(records, folders, strict=True)]
    return ImageList(tuple(labelled), classes, "class folders")


# --------------------------------------------------------------------------------------------------------------------
# Tar shards
# --------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Slice:
    """Bytes of a member of an uncompressed tar, read where they lie."""

    path: Path
    start: int
    size: int

    def __call__(self) -> bytes:
        with self.path.open("rb") as file:
            file.seek(self.start)
            return file.read(self.size)


@dataclass(frozen=True)
class _Held:
    """Bytes of a member of a compressed tar, which cannot be read at a place: they stay in memory."""

    content: bytes

    def __call__(self) -> bytes:
        return self.content


def _list_shards(root: Path, shards: Sequence[Path]) -> ImageList:
    records = [record for shard in shards for record in _one_shard(shard)]
    table = root / "classes.txt"
    classes = tuple(table.read_text(encoding="utf-8").split("\n")) if table.is_file() else ()
    classes = tuple(name.strip() for name in classes if name.strip())
    labels = {record.label for record in records if record.label is not None}
    if labels and not classes:
        classes = tuple(str(number) for number in range(max(labels) + 1))
    if any(not 0 <= label < len(classes) for label in labels):
        raise ValueError(f"{table}: expected a line for each class up to {max(labels)}, got {len(classes)}")
    return ImageList(tuple(records), classes, "tar shards")


def _one_shard(shard: Path) -> Iterator[Record]:
    """Records of one tar; an image and its ``.cls`` share everything before the first dot of the name."""
    images: dict[str, Callable[[], bytes]] = {}
    labels: dict[str, int] = {}
    try:
        with tarfile.open(shard, "r:*") as archive:
            compressed = _is_compressed(shard)
            for member in archive:
                if not member.isfile():
                    continue
                key, _, extension = member.name.partition(".")
                if extension == "cls":
                    labels[key] = int(_content(archive, member))
                elif f".{extension.lower()}" in EXTENSIONS:
                    held = _Held(_content(archive, member)) if compressed else None
                    images[key] = held or _Slice(shard, member.offset_data, member.size)
    except (tarfile.TarError, EOFError, OSError, ValueError) as error:
        raise ValueError(f"{shard}: expected a whole tar shard, got {error}; copy it again") from None
    stem = _SHARD.sub("", shard.name)
    for key, read in images.items():
        yield Record(f"{stem}/{key}", read, _split_of(stem), labels.get(key))


def _is_compressed(shard: Path) -> bool:
    with shard.open("rb") as file:
        return file.read(2) == b"\x1f\x8b"


def _content(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = archive.extractfile(member)
    assert file is not None, "asked of files alone"
    return file.read()


# --------------------------------------------------------------------------------------------------------------------
# Arrays
# --------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Row:
    """One picture of an array."""

    images: NDArray[np.uint8]
    place: int

    def __call__(self) -> NDArray[np.uint8]:
        return self.images[self.place]


def _list_arrays(files: Sequence[Path]) -> ImageList:
    records: list[Record] = []
    for path in files:
        images, labels = _load_arrays(path)
        for place in range(len(images)):
            label = None if labels is None else int(labels[place])
            records.append(Record(f"{path.stem}/{place:08d}", _Row(images, place), _split_of(path.stem), label))
    known = {record.label for record in records if record.label is not None}
    classes = tuple(str(number) for number in range(max(known) + 1)) if known else ()
    return ImageList(tuple(records), classes, "arrays")


def _load_arrays(path: Path) -> tuple[NDArray[np.uint8], NDArray[np.int64] | None]:
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as arrays:
            found = {name: arrays[name] for name in arrays.files if name in ("images", "labels")}
    except (OSError, ValueError, zipfile.BadZipFile, EOFError) as error:
        raise ValueError(f"{path}: expected an .npz file of plain arrays, got {error}") from None
    images = found.get("images")
    if (
        images is None
        or images.dtype != np.uint8
        or not (images.ndim == 3 or (images.ndim == 4 and images.shape[3] == 3))
    ):
        got = "none" if images is None else f"{images.dtype} {list(images.shape)}"
        raise ValueError(f"{path}: expected images uint8 [N, H, W] or [N, H, W, 3], got {got}")
    labels = found.get("labels")
    if labels is None:
        return images, None
    if labels.shape != (len(images),) or labels.dtype.kind not in "iu" or (len(labels) and labels.min() < 0):
        raise ValueError(
            f"{path}: expected labels as whole numbers [{len(images)}] from 0, got {labels.dtype} {list(labels.shape)}"
        )
    return images, labels.astype(np.int64)
