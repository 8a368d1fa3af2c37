"""Finding media files in tar shards, as webdataset writes them: files of one name are one sample."""

from __future__ import annotations

import re
import tarfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jepa_core.data.archives import most_unpacked
from jepa_core.data.media_folders import files_of
from jepa_core.data.records import Columns, Media, Record, RecordList, first_of, numbered, relabelled, split_of
from jepa_core.plain_json import parse_json

_SHARD = re.compile(r"\.(tar|tar\.gz|tgz)$")
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
class _Member:
    """A file of a tar shard; those of one sample share everything before the first dot of the name.

    Attributes:
        key: folder and name up to the first dot.
        extension: the rest, in small letters, with that dot.
        read: gives its bytes.
    """

    key: str
    extension: str
    read: Slice | Held


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
    records = [record for shard in shards for record in _one_shard(shard, media, columns)]
    if not columns.label_is_named:
        return RecordList(tuple(records), class_names(root, [record.label for record in records]), "tar shards")
    classes, labels = numbered([first_of(columns.label, record.fields) for record in records])
    return RecordList(relabelled(records, labels), classes, f"tar shards with {columns.label[0]}")


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


def _one_shard(shard: Path, media: Media[Any], columns: Columns) -> Iterator[Record[bytes]]:
    stem = _SHARD.sub("", shard.name)
    found: dict[str, _Member] = {}
    labels: dict[str, int] = {}
    fields: dict[str, Mapping[str, str]] = {}
    for member in _members(shard, media):
        if member.extension == ".cls":
            labels[member.key] = _class_number(shard, member)
        elif member.extension == ".json":
            fields[member.key] = _fields(shard, member)
        elif member.key in found:
            raise ValueError(f"{shard}: expected {media.one} for each key, got a second for {member.key!r}")
        else:
            found[member.key] = member
    for key, member in found.items():
        said = fields.get(key, {})
        group = first_of(columns.group, said)
        yield Record(f"{stem}/{key}", member.read, split_of(stem), labels.get(key), group, said)


def _members(shard: Path, media: Media[Any]) -> list[_Member]:
    """The media files of one tar, read later where the tar is not compressed, and what belongs beside them."""
    members = []
    size, held = shard.stat().st_size, 0
    try:
        with tarfile.open(shard, "r:*") as archive:
            compressed = _is_compressed(shard)
            for entry in archive:
                held += entry.size + _BLOCK_BYTES
                _refuse_sizes(entry, held, most_unpacked(size) if compressed else size)
                folder, _, name = entry.name.removeprefix("./").rpartition("/")
                stem, dot, ending = name.partition(".")
                extension = (dot + ending).lower()
                is_media = extension in media.extensions
                if entry.isdir() or not (is_media or extension in media.beside):
                    continue
                _refuse_kind(entry, is_media)
                later = is_media and not compressed
                read = Slice(shard, entry.offset_data, entry.size) if later else Held(_content(archive, entry))
                members.append(_Member(f"{folder}/{stem}" if folder else stem, extension, read))
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
    file = archive.extractfile(member)
    assert file is not None, "asked of files alone"
    return file.read()


def _class_number(shard: Path, member: _Member) -> int:
    content = member.read()
    try:
        return int(content[:20])
    except ValueError:
        raise ValueError(f"{shard}: expected a class number in {member.key}.cls, got {content[:40]!r}") from None


def _fields(shard: Path, member: _Member) -> Mapping[str, str]:
    """The texts and numbers of a ``.json``; lists and objects name no class."""
    content = member.read()
    try:
        found = parse_json(content)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise ValueError(f"{shard}: expected a JSON object in {member.key}.json, got {content[:40]!r}")
    return {key: str(value) for key, value in found.items() if isinstance(value, (str, int, float))}
