"""Finding media files in tar shards, as webdataset writes them: files of one name are one sample."""

from __future__ import annotations

import re
import tarfile
import zlib
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jepa_core.data.archives import most_unpacked
from jepa_core.data.kept_lists import Listing, kept_or_listed, stamps_of
from jepa_core.data.media import Columns, Media
from jepa_core.data.media_folders import files_of
from jepa_core.data.records import (
    LARGEST_LABEL,
    RecordList,
    RecordPacker,
    Records,
    first_fields,
    first_of,
    numbered,
    split_of,
    unnamed_classes,
)
from jepa_core.plain_json import parse_json

_SHARD = re.compile(r"\.(tar|tar\.gz|tgz)$")
CLASSES = "classes.txt"
_BESIDE_BYTES = 2**20
"""Of a ``.cls`` or ``.json``: it is read when the shard is listed."""
_BLOCK_BYTES = 512


@dataclass(frozen=True)
class Slice:
    """Bytes of a member of an uncompressed tar, read where they lie."""

    path: Path
    start: int
    size: int

    def __call__(self) -> bytes:
        with self.path.open("rb", buffering=0) as file:  # a buffer would read more than the member, to copy a part
            file.seek(self.start)
            return file.read(self.size)


@dataclass(frozen=True)
class Held:
    """Bytes of a member of a compressed tar, which cannot be read at a place: they stay in memory."""

    content: NDArray[np.uint8]
    start: int
    size: int

    def __call__(self) -> bytes:
        return self.content[self.start : self.start + self.size].tobytes()


@dataclass(frozen=True)
class Members:
    """Where the samples of shards lie.

    Attributes:
        shards: the files.
        held: by place in ``shards``, the unpacked media of those that are compressed.
        shard: int32 ``[N]``, the place of each sample's in ``shards``.
        start, size: int64 ``[N]`` in bytes, of the file or of what is held of it.
    """

    shards: tuple[Path, ...]
    held: Mapping[int, NDArray[np.uint8]]
    shard: NDArray[np.int32]
    start: NDArray[np.int64]
    size: NDArray[np.int64]

    def reader(self, row: int, sample_id: str) -> Slice | Held:
        """What reads the sample of a row."""
        place, start, size = int(self.shard[row]), int(self.start[row]), int(self.size[row])
        if place in self.held:
            return Held(self.held[place], start, size)
        return Slice(self.shards[place], start, size)


@dataclass(frozen=True, slots=True)
class _Member:
    """A file of a tar shard; those of one sample share everything before the first dot of the name.

    Attributes:
        key: folder and name up to the first dot.
        extension: the rest, in small letters, with that dot.
        start, size: in bytes; of what is in memory, if ``content`` is not None, ``start`` is 0.
        content: None = it is read later.
    """

    key: str
    extension: str
    start: int
    size: int
    content: bytes | None


# What a header that lies makes tarfile and its decompressors raise besides.
_BROKEN = (zlib.error, MemoryError, OverflowError, RecursionError, KeyError, IndexError, TypeError, AttributeError)


def shards_of(path: Path) -> list[Path]:
    """The tar shards of a folder in the order of their names, or the one that ``path`` is."""
    return files_of(path, lambda name: _SHARD.search(name) is not None)


def list_shards(root: Path, shards: Sequence[Path], media: Media[Any], columns: Columns) -> RecordList[bytes]:
    """The samples of tar shards, ``<split>-0000.tar`` or ``.tar.gz``.

    - ``<key>.cls`` holds the number of a class, named by the lines of ``classes.txt`` in ``root``;
    - ``<key>.json`` holds an object, whose texts and numbers become fields. A label that is asked for is one of them,
      and the ``.cls`` files are then not used;
    - compressed shards are held in memory whole, others are read where they lie.

    Raises:
        ValueError: a shard that is torn, labels that do not fit, two media files of one key, a media file that is a
            link, a device or sparse, one whose name leads out of the shard, or a compressed shard that is a bomb.
    """
    names = tuple(shard.name for shard in shards)
    return kept_or_listed(
        ("shards", names, sorted(media.extensions), sorted(media.beside), columns),
        root,
        lambda: _listing(root, shards, media, columns),
        lambda places: Members(tuple(shards), {}, places["shard"], places["start"], places["size"]),
    )


def _listing(root: Path, shards: Sequence[Path], media: Media[Any], columns: Columns) -> Listing[bytes]:
    stamps = stamps_of([*shards, root / CLASSES])
    packer, found = RecordPacker(), _Found(tuple(shards))
    for place in range(len(shards)):
        _add_shard(packer, found, place, media, columns)
    members = found.members()
    records = packer.packed(members)
    kept: dict[str, NDArray[Any]] = {"shard": members.shard, "start": members.start, "size": members.size}
    return Listing(_labelled(root, records, columns), None if members.held else kept, stamps)


def _labelled(root: Path, records: Records[bytes], columns: Columns) -> RecordList[bytes]:
    if not columns.label_is_named:
        return RecordList(records, class_names(root, records.labels), "tar shards")
    classes, labels = numbered(first_fields(records, columns.label))
    return RecordList(records.relabelled(labels), classes, f"tar shards with {columns.label[0]}")


class _Found:
    """Places of samples, as they are found."""

    def __init__(self, shards: tuple[Path, ...]) -> None:
        self.shards = shards
        self._shard, self._start, self._size = array("i"), array("q"), array("q")
        self._held: dict[int, bytearray] = {}

    def add(self, place: int, member: _Member) -> None:
        """Where a sample of the shard at ``place`` lies, or what it holds."""
        start = member.start
        if member.content is not None:
            held = self._held.setdefault(place, bytearray())
            start = len(held)
            held += member.content
        self._shard.append(place)
        self._start.append(start)
        self._size.append(member.size)

    def members(self) -> Members:
        """All; nothing can be added after this."""
        held = {place: np.frombuffer(content, np.uint8) for place, content in self._held.items()}
        shard = np.frombuffer(self._shard, np.int32)
        return Members(
            self.shards, held, shard, np.frombuffer(self._start, np.int64), np.frombuffer(self._size, np.int64)
        )


def class_names(root: Path, labels: NDArray[np.int32]) -> tuple[str, ...]:
    """The lines of ``classes.txt``, else the numbers up to the highest label; empty without labels and table.

    Args:
        root: where the table lies.
        labels: ``[N]``, -1 = not known.
    """
    table = root / CLASSES
    classes = tuple(table.read_text(encoding="utf-8").split("\n")) if table.is_file() else ()
    classes = tuple(name.strip() for name in classes if name.strip())
    highest = int(labels.max(initial=-1))
    if highest >= 0 and not classes:
        classes = unnamed_classes(labels, f"{root}, without a classes.txt")
    if highest >= len(classes):
        raise ValueError(f"{table}: expected a line for each class up to {highest}, got {len(classes)}")
    return classes


def _add_shard(packer: RecordPacker, found: _Found, place: int, media: Media[Any], columns: Columns) -> None:
    shard = found.shards[place]
    stem = _SHARD.sub("", shard.name)
    samples: dict[str, _Member] = {}
    labels: dict[str, int] = {}
    fields: dict[str, Mapping[str, str]] = {}
    for member in _members(shard, media):
        if member.extension == ".cls":
            labels[member.key] = _class_number(shard, member)
        elif member.extension == ".json":
            fields[member.key] = _fields(shard, member)
        elif member.key in samples:
            raise ValueError(f"{shard}: expected {media.one} for each key, got a second for {member.key!r}")
        else:
            samples[member.key] = member
    for key, member in samples.items():
        said = fields.get(key, {})
        packer.add(f"{stem}/{key}", split_of(stem), labels.get(key), first_of(columns.group, said), said)
        found.add(place, member)


def _members(shard: Path, media: Media[Any]) -> list[_Member]:
    """The media files of one tar, read later where the tar is not compressed, and what belongs beside them."""
    members = []
    size, held = shard.stat().st_size, 0
    try:
        with tarfile.open(shard, "r:*") as archive:
            compressed = _is_compressed(shard)
            for entry in archive:
                archive.members.clear()  # type: ignore[attr-defined]  # else it would keep every header, for look-ups that never come
                held += entry.size + _BLOCK_BYTES
                _refuse_sizes(entry, held, most_unpacked(size) if compressed else size)
                folder, _, name = entry.name.removeprefix("./").rpartition("/")
                stem, dot, ending = name.partition(".")
                extension = (dot + ending).lower()
                is_media = extension in media.extensions
                if entry.isdir() or not (is_media or extension in media.beside):
                    continue
                _refuse_kind(entry, is_media)
                content = None if is_media and not compressed else _content(archive, entry)
                key = f"{folder}/{stem}" if folder else stem
                members.append(_Member(key, extension, entry.offset_data, entry.size, content))
    except tarfile.ReadError as error:  # it tells of each compression that the file has not, in a line of its own
        said = "no tar, or a damaged one" if "\n" in str(error) else str(error)
        raise ValueError(f"{shard}: expected a whole tar shard, got {said}; copy it again") from None
    except (tarfile.TarError, EOFError, OSError, ValueError, *_BROKEN) as error:
        raise ValueError(f"{shard}: expected a whole tar shard, got {error}; copy it again") from None
    return members


def _refuse_sizes(entry: tarfile.TarInfo, held: int, most: int) -> None:
    """Nothing is read before this: sizes stand in headers, which may claim anything."""
    if entry.size < 0 or held > most:
        raise ValueError(f"{entry.name!r} of {entry.size} bytes where the shard has room for {most} in all")


def _refuse_kind(entry: tarfile.TarInfo, is_media: bool) -> None:
    """Nothing is ever unpacked to a disk; what asks for it by its name or kind comes from nobody who means well."""
    if not entry.isfile() or entry.issparse():
        raise ValueError(f"{entry.name!r}, which is a link, a device or sparse, and no plain file")
    if entry.name.startswith("/") or ".." in entry.name.split("/"):
        raise ValueError(f"{entry.name!r}, a name that leads out of the shard")
    if not is_media and entry.size > _BESIDE_BYTES:
        raise ValueError(f"{entry.name!r} of {entry.size} bytes, expected at most {_BESIDE_BYTES}")


def _is_compressed(shard: Path) -> bool:
    with shard.open("rb") as file:
        return file.read(2) == b"\x1f\x8b"


def _content(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    """Read where it lies: a file object for each, which ``extractfile`` makes, takes longer than to read it."""
    file = archive.fileobj
    assert file is not None, "open"
    file.seek(member.offset_data)
    content = file.read(member.size)
    if len(content) < member.size:
        raise tarfile.ReadError("unexpected end of data")
    return content


def _class_number(shard: Path, member: _Member) -> int:
    content = member.content or b""
    try:
        number = int(content[:20])
    except ValueError:
        number = -1
    if not 0 <= number <= LARGEST_LABEL:
        raise ValueError(f"{shard}: expected a class number in {member.key}.cls, got {content[:40]!r}")
    return number


def _fields(shard: Path, member: _Member) -> Mapping[str, str]:
    """The texts and numbers of a ``.json``; lists and objects name no class."""
    content = member.content or b""
    try:
        found = parse_json(content)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise ValueError(f"{shard}: expected a JSON object in {member.key}.json, got {content[:40]!r}")
    return {key: str(value) for key, value in found.items() if isinstance(value, (str, int, float))}
