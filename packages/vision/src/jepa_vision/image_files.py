"""Finding images: folders, tar shards, arrays and tables, with known classes and splits; nothing is decoded."""

from __future__ import annotations

import csv
import io
import re
import tarfile
import zipfile
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from jepa_vision.image_records import SPLITS, ImageList, Record, split_of
from jepa_vision.image_tables import is_saved_dataset, list_parquet, list_saved_dataset, parquet_files

EXTENSIONS = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"})
LABELS_TABLE = "labels.csv"
_SHARD = re.compile(r"\.(tar|tar\.gz|tgz)$")


def find_images(root: str | Path) -> ImageList:
    """The images of a root.

    - a folder with tar shards (``<split>-0000.tar``, ``.tar.gz``): images with ``<key>.cls`` beside them, class names
      in ``classes.txt``;
    - an ``.npz`` file, or a folder of them (``<split>.npz``): ``images`` uint8 ``[N, H, W]`` or ``[N, H, W, 3]`` and
      perhaps ``labels`` ``[N]``;
    - a ``.parquet`` file, or a folder of them (``<split>-*.parquet``), see
      :func:`jepa_vision.image_tables.list_parquet`;
    - a folder that ``Dataset.save_to_disk`` of the package ``datasets`` wrote;
    - any other folder: every image file below it. A first folder named train, val, validation or test is its split;
      classes are those of ``labels.csv`` (columns ``file``, ``label``, perhaps ``split``), or the folders that hold the
      images where every image lies in one and there are at least two.

    Raises:
        ValueError: no such folder or file, or no image in it.
    """
    path = Path(root)
    if not path.exists():
        raise ValueError(
            f"data.root: expected a folder of images, tar shards, an .npz or a .parquet file, got {str(root)!r}: none"
        )
    shards = shards_of(path)
    arrays = _files(path, lambda name: name.endswith(".npz"))
    if shards:
        found = _list_shards(path if path.is_dir() else path.parent, shards)
    elif arrays:
        found = _list_arrays(arrays)
    elif is_saved_dataset(path):
        found = list_saved_dataset(path)
    elif tables := parquet_files(path):
        found = list_parquet(path, tables)
    elif path.is_dir():
        found = _list_folder(path)
    else:
        raise ValueError(f"data.root: expected a folder, a .tar, .tar.gz, .npz or .parquet file, got {str(root)!r}")
    if not found.records:
        raise ValueError(
            f"data.root: expected images ({', '.join(sorted(EXTENSIONS))}), tar shards, .npz or .parquet files in "
            f"{str(root)!r}, got none"
        )
    return found


def _files(path: Path, wanted: Callable[[str], bool]) -> list[Path]:
    if path.is_dir():
        return sorted(entry for entry in path.iterdir() if entry.is_file() and wanted(entry.name))
    return [path] if wanted(path.name) else []


def shards_of(path: Path) -> list[Path]:
    """The tar shards of a folder in the order of their names, or the one that ``path`` is."""
    return _files(path, lambda name: _SHARD.search(name) is not None)


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
    rows = read_table(table, "label", [record.sample_id for record in records])
    classes, labels = numbered([rows[r.sample_id]["label"] if r.sample_id in rows else None for r in records])
    labelled = []
    for record, label in zip(records, labels, strict=True):
        split = SPLITS.get(rows.get(record.sample_id, {}).get("split", "").lower(), record.split)
        labelled.append(replace(record, label=label, split=split))
    return ImageList(tuple(labelled), classes, f"image files with {LABELS_TABLE}")


def read_table(table: Path, column: str, names: Sequence[str]) -> dict[str, dict[str, str]]:
    """The rows of a label table by their ``file``.

    Args:
        table: a ``.csv`` with a head line.
        column: must be there beside ``file``.
        names: every sample there is; a row for any other is refused, a sample without a row is not.
    """
    with table.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file, restval="")
        if not {"file", column} <= set(reader.fieldnames or ()):
            got = ", ".join(reader.fieldnames or ())
            raise ValueError(f"{table}: expected the columns file and {column}, got {got}")
        rows = {row["file"]: {key: value for key, value in row.items() if key is not None} for row in reader}
    missing = sorted(set(rows) - set(names))
    if missing:
        raise ValueError(
            f"{table}: expected a sample for each row, got none for {missing[0]!r} and {len(missing) - 1} "
            "others; file is a path relative to the table's folder"
        )
    return rows


def numbered(values: Sequence[str | None]) -> tuple[tuple[str, ...], list[int | None]]:
    """Sorted class names, and the number of each value among them; None and the empty string are no class."""
    classes = tuple(sorted({value for value in values if value}))
    number = {name: place for place, name in enumerate(classes)}
    return classes, [number[value] if value else None for value in values]


def _labelled_by_folder(records: Sequence[Record]) -> ImageList:
    classes, labels = class_folders([(record.sample_id, record.split) for record in records])
    if not classes:
        return ImageList(tuple(records), (), "image files")
    labelled = [replace(record, label=label) for record, label in zip(records, labels, strict=True)]
    return ImageList(tuple(labelled), classes, "class folders")


def class_folders(samples: Sequence[tuple[str, str]]) -> tuple[tuple[str, ...], list[int | None]]:
    """Classes and their numbers from the first folder, below that of the split, of (relative path, split).

    No classes where a sample lies in no such folder, or where there are fewer than two.
    """

    def folder(name: str, split: str) -> str:
        parts = name.split("/")[:-1]
        return parts[1 if split else 0] if len(parts) > bool(split) else ""

    folders = [folder(*sample) for sample in samples]
    if len(set(folders)) < 2 or "" in folders:
        return (), [None] * len(folders)
    return numbered(folders)


# --------------------------------------------------------------------------------------------------------------------
# Tar shards
# --------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Slice:
    """Bytes of a member of an uncompressed tar, read where they lie."""

    path: Path
    start: int
    size: int

    def __call__(self) -> bytes:
        with self.path.open("rb") as file:
            file.seek(self.start)
            return file.read(self.size)


@dataclass(frozen=True)
class Held:
    """Bytes of a member of a compressed tar, which cannot be read at a place: they stay in memory."""

    content: bytes

    def __call__(self) -> bytes:
        return self.content


@dataclass(frozen=True)
class Member:
    """A file of a tar shard; those of one sample share everything before the first dot of the name.

    Attributes:
        key: folder and name up to the first dot.
        extension: the rest, in small letters, without that dot.
        read: gives its bytes.
    """

    key: str
    extension: str
    read: Slice | Held


def _list_shards(root: Path, shards: Sequence[Path]) -> ImageList:
    records = [record for shard in shards for record in _one_shard(shard)]
    return ImageList(tuple(records), class_names(root, [record.label for record in records]), "tar shards")


def class_names(root: Path, labels: Sequence[int | None]) -> tuple[str, ...]:
    """The lines of ``classes.txt``, else the numbers up to the highest label; empty without labels and table."""
    table = root / "classes.txt"
    classes = tuple(table.read_text(encoding="utf-8").split("\n")) if table.is_file() else ()
    classes = tuple(name.strip() for name in classes if name.strip())
    known = {label for label in labels if label is not None}
    if known and not classes:
        classes = tuple(str(number) for number in range(max(known) + 1))
    if any(not 0 <= label < len(classes) for label in known):
        raise ValueError(f"{table}: expected a line for each class up to {max(known)}, got {len(classes)}")
    return classes


def _one_shard(shard: Path) -> Iterator[Record]:
    stem = shard_stem(shard)
    members = shard_members(shard, EXTENSIONS, {".cls"})
    labels = {member.key: class_number(shard, member) for member in members if member.extension == "cls"}
    images = {member.key: member.read for member in members if member.extension != "cls"}
    for key, read in images.items():
        yield Record(f"{stem}/{key}", read, split_of(stem), labels.get(key))


def shard_stem(shard: Path) -> str:
    """The shard's name without its ending."""
    return _SHARD.sub("", shard.name)


def shard_members(shard: Path, media: Collection[str], beside: Collection[str]) -> list[Member]:
    """The files of one tar with the endings ``media``, read later where the tar is not compressed, or ``beside``."""
    members = []
    try:
        with tarfile.open(shard, "r:*") as archive:
            compressed = _is_compressed(shard)
            for entry in archive:
                folder, _, name = entry.name.removeprefix("./").rpartition("/")
                stem, _, extension = name.partition(".")
                extension = extension.lower()
                if not entry.isfile() or (f".{extension}" not in media and f".{extension}" not in beside):
                    continue
                later = f".{extension}" in media and not compressed
                read = Slice(shard, entry.offset_data, entry.size) if later else Held(_content(archive, entry))
                members.append(Member(f"{folder}/{stem}" if folder else stem, extension, read))
    except (tarfile.TarError, EOFError, OSError, ValueError) as error:
        raise ValueError(f"{shard}: expected a whole tar shard, got {error}; copy it again") from None
    return members


def class_number(shard: Path, member: Member) -> int:
    """The whole number that a ``.cls`` file holds."""
    content = member.read()
    try:
        return int(content)
    except ValueError:
        raise ValueError(f"{shard}: expected a class number in {member.key}.cls, got {content[:40]!r}") from None


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
            records.append(Record(f"{path.stem}/{place:08d}", _Row(images, place), split_of(path.stem), label))
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
