"""Finding media in Parquet files, as the Hugging Face Hub has them: a column of files, and columns of what is known."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jepa_core.contracts import BadSample
from jepa_core.data.media import Columns, Media
from jepa_core.data.records import Label, RecordList, RecordPacker, first_of, number_labels, split_of
from jepa_core.plain_json import parse_json

HELD_BYTES = 256 * 2**20
"""Row groups that a process keeps after reading them."""
LARGEST_GROUP_BYTES = 2**30
MOST_ROWS_A_BYTE = 1
"""A row holds a medium, so that a file has fewer rows than bytes; a footer may claim any number of empty ones."""
_ROWS_AT_ONCE = 64
# What a file that lies makes pyarrow raise besides its own exceptions.
BROKEN = (ValueError, TypeError, KeyError, IndexError, OverflowError, MemoryError, RuntimeError, AttributeError)


def parquet_files(path: Path) -> list[Path]:
    """A ``.parquet`` file, or those of a folder and of its folders (``data/``, ``train/``), less metadata.parquet."""
    if path.is_dir():
        found = [*path.glob("*.parquet"), *path.glob("*/*.parquet")]
        return sorted(file for file in found if file.name != "metadata.parquet")
    return [path] if path.suffix == ".parquet" else []


def list_parquet(root: Path, files: Sequence[Path], media: Media[Any], columns: Columns) -> RecordList[bytes]:
    """The samples of Parquet files; only what is said of them is read.

    - The file is the column ``media.column``, else the only one with the feature ``media.feature``: a struct with
      ``bytes``, or binary. The label is the first column of ``columns.label``, else the only one that is a ClassLabel.
    - Labels are whole numbers (-1 = not known), named by the ClassLabel in the schema where there is one, or strings.
    - A split is the first word of the file's name or, where that is none, the name of its folder.
    - Fields are the label, the group and ``columns.others``, as far as they are there.

    A sample is read with the whole row group it lies in, of which each process keeps 256 MiB (at least one group): sets
    within that are read from the disk once. Larger ones are read again and again, one group for each sample: write them
    with small groups, or as tar shards or by ``Dataset.save_to_disk``, where a sample is read alone.

    Raises:
        ValueError: a file that cannot be read, without such columns, or with a row group above 1 GiB.
    """
    tables = [_open_table(file, media, columns) for file in files]
    names = {table.names for table in tables}
    if len(names) > 1:
        raise ValueError(f"{root}: expected the same class names in all Parquet files, got {len(names)} lists")
    told = [row for table in tables for row in table.told()]
    classes, numbers = number_labels([label for label, _ in told], next(iter(names)), str(root))
    packer = RecordPacker()
    places = (place for table in tables for place in table.places(root))
    for (sample_id, split), number, (_, fields) in zip(places, numbers, told, strict=True):
        packer.add(sample_id, split, number, first_of(columns.group, fields), fields)
    return RecordList(packer.packed(_Rows.of(tables)), classes, "Parquet tables")


@dataclass(frozen=True)
class _Table:
    """One Parquet file.

    Attributes:
        path: the file.
        one: what a row holds, for messages.
        groups: rows of each row group.
        content: what to read of it, ``image.bytes`` of a struct.
        label: column; None = there is none.
        names: class names; None = not known.
        fields: further columns to read.
    """

    path: Path
    one: str
    groups: tuple[int, ...]
    content: str
    label: str | None
    names: tuple[str, ...] | None
    fields: tuple[str, ...]

    def told(self) -> list[tuple[Label, dict[str, str]]]:
        """Label and fields of each row."""
        wanted = list(dict.fromkeys([*self.fields, *([self.label] if self.label else [])]))
        if not wanted:
            return [(None, {})] * sum(self.groups)
        import pyarrow
        import pyarrow.parquet

        try:
            with pyarrow.parquet.ParquetFile(self.path) as file:
                rows = file.read(columns=wanted, use_threads=False).to_pylist()
        except (OSError, *BROKEN, pyarrow.ArrowException) as error:
            raise ValueError(f"{self.path}: expected a whole Parquet file, got {error}; copy it again") from None
        if len(rows) != sum(self.groups):
            raise ValueError(f"{self.path}: expected {sum(self.groups)} rows, got {len(rows)}; copy it again")
        return [(row[self.label] if self.label else None, self._fields(row)) for row in rows]

    def _fields(self, row: Mapping[str, Any]) -> dict[str, str]:
        said = {name: row[name] for name in self.fields if row[name] is not None}
        number = said.get(self.label) if self.label is not None else None
        if self.label is not None and number == -1:
            del said[self.label]
        elif self.label is not None and self.names and isinstance(number, int) and number < len(self.names):
            said[self.label] = self.names[number]
        return {name: str(value) for name, value in said.items()}

    def places(self, root: Path) -> Iterator[tuple[str, str]]:
        """Sample id and split of each row."""
        folder = self.path.parent.name if self.path.parent != root else ""
        split = split_of(self.path.name) or split_of(folder)
        inside = self.path.relative_to(root).with_suffix("") if root.is_dir() else Path(self.path.stem)
        return ((f"{inside.as_posix()}/{row:08d}", split) for row in range(sum(self.groups)))


class RowGroups:
    """Reads row groups and keeps the last ones, up to :data:`HELD_BYTES` and at least one; a process has its own."""

    def __init__(self) -> None:
        self._held: OrderedDict[tuple[Path, int], Any] = OrderedDict()
        self._footers: dict[Path, Any] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Nothing that is held goes to a loader process."""
        return {"_held": OrderedDict(), "_footers": {}}

    def column(self, table: _Table, group: int) -> Any:
        """The files of a row group, an Arrow column."""
        key = (table.path, group)
        if key not in self._held:
            import pyarrow.parquet

            with pyarrow.parquet.ParquetFile(table.path, metadata=self._footers.get(table.path)) as file:
                self._footers[table.path] = file.metadata
                self._held[key] = _content_of(file, group, table.content)
            while len(self._held) > 1 and sum(column.nbytes for column in self._held.values()) > HELD_BYTES:
                self._held.popitem(last=False)
        self._held.move_to_end(key)
        return self._held[key]


def _content_of(file: Any, group: int, content: str) -> Any:
    """The files of a row group, batch by batch: a dictionary of one large file can stand for any number of rows."""
    import pyarrow

    found, size = [], 0
    for batch in file.iter_batches(_ROWS_AT_ONCE, row_groups=[group], columns=[content], use_threads=False):
        size += batch.nbytes
        if size > LARGEST_GROUP_BYTES:
            raise ValueError(f"expected at most {LARGEST_GROUP_BYTES} bytes in a row group, got more")
        found.append(batch.column(0))
    return pyarrow.chunked_array(found)


@dataclass(frozen=True)
class _Rows:
    """The rows of Parquet files.

    Attributes:
        groups: reads them.
        tables: the files.
        table, group: int32 ``[G]`` of each row group of all files: its file, and its place there.
        ends: int64 ``[G]``, rows up to the end of each.
    """

    groups: RowGroups
    tables: tuple[_Table, ...]
    table: NDArray[np.int32]
    group: NDArray[np.int32]
    ends: NDArray[np.int64]

    @classmethod
    def of(cls, tables: Sequence[_Table]) -> _Rows:
        """Of files, one after the other."""
        of_table = np.repeat(np.arange(len(tables), dtype=np.int32), [len(table.groups) for table in tables])
        of_group = np.array([place for table in tables for place in range(len(table.groups))], np.int32)
        counts = np.array([rows for table in tables for rows in table.groups], np.int64)
        return cls(RowGroups(), tuple(tables), of_table, of_group, np.cumsum(counts))

    def reader(self, row: int, sample_id: str) -> _Row:
        """What reads a row, counted over all files."""
        place = int(np.searchsorted(self.ends, row, side="right"))
        start = int(self.ends[place - 1]) if place else 0
        return _Row(self.groups, self.tables[int(self.table[place])], int(self.group[place]), row - start)


@dataclass(frozen=True)
class _Row:
    """One sample of a Parquet file."""

    groups: RowGroups
    table: _Table
    group: int
    row: int

    def __call__(self) -> bytes:
        import pyarrow

        place = f"{self.table.path}, row group {self.group}"
        try:
            value = self.groups.column(self.table, self.group)[self.row].as_py()
        except (OSError, *BROKEN, pyarrow.ArrowException) as error:
            raise BadSample(f"{place}: cannot be read: {error}") from None
        content = value.get("bytes") if isinstance(value, dict) else value
        if content is None:
            raise BadSample(f"{place}, row {self.row}: no bytes of {self.table.one} in the table")
        return bytes(content)


# --------------------------------------------------------------------------------------------------------------------
# Schemas
# --------------------------------------------------------------------------------------------------------------------


def _open_table(path: Path, media: Media[Any], columns: Columns) -> _Table:
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            metadata, schema = file.metadata, file.schema_arrow
        features = _features(schema.metadata)
    except (OSError, *BROKEN, pyarrow.ArrowException) as error:
        raise ValueError(f"{path}: expected a whole Parquet file, got {error}; copy it again") from None
    groups = [metadata.row_group(group) for group in range(metadata.num_row_groups)]
    _check_rows(path, [group.num_rows for group in groups])
    _check_sizes(path, media, [group.total_byte_size for group in groups])
    content = _only_column(path, features, schema.names, (media.column,), media.feature)
    if content is None:
        raise ValueError(f"{path}: expected a column {media.column}, got {', '.join(schema.names) or 'no column'}")
    label = _label_column(path, features, schema.names, columns)
    names = features.get(label or "", {}).get("names")
    wanted = (*columns.label, *columns.group, *columns.others)
    return _Table(
        path,
        media.one,
        tuple(group.num_rows for group in groups),
        _bytes_of(path, schema.field(content)),
        label,
        None if names is None else tuple(names),
        tuple(name for name in dict.fromkeys(wanted) if name in schema.names and name != content),
    )


def _check_rows(path: Path, rows: Sequence[int]) -> None:
    most = MOST_ROWS_A_BYTE * path.stat().st_size
    if min(rows, default=0) < 0 or sum(rows) > most:
        raise ValueError(f"{path}: expected at most {most} rows in a file of as many bytes, got {sum(rows)}")


def _check_sizes(path: Path, media: Media[Any], sizes: Sequence[int]) -> None:
    largest = max(sizes, default=0)
    if largest > LARGEST_GROUP_BYTES:
        raise ValueError(
            f"{path}: expected row groups of at most 1 GiB, got {largest / 2**30:.1f} GiB: {media.one} is read with "
            "its whole group; write the file again with row_group_size=100"
        )


def _features(metadata: Mapping[bytes, bytes] | None) -> dict[str, dict[str, Any]]:
    """What ``datasets`` wrote into the schema: feature by column."""
    written = parse_json((metadata or {}).get(b"huggingface", b"{}"))
    features = written.get("info", {}).get("features", {})
    return {name: feature for name, feature in features.items() if isinstance(feature, dict)}


def _label_column(
    path: Path, features: Mapping[str, Mapping[str, Any]], names: Sequence[str], columns: Columns
) -> str | None:
    if columns.label_is_named and columns.label[0] not in names:
        raise ValueError(f"{path}: expected the column data.label={columns.label[0]}, got {', '.join(names)}")
    return _only_column(path, features, names, columns.label, "ClassLabel")


def _only_column(
    path: Path, features: Mapping[str, Mapping[str, Any]], columns: Sequence[str], usual: Sequence[str], kind: str
) -> str | None:
    known = next((name for name in usual if name in columns), None)
    if known is not None:
        return known
    found = [name for name in columns if features.get(name, {}).get("_type") == kind]
    if len(found) > 1:
        listed = ", ".join(found)
        raise ValueError(f"{path}: expected a column {usual[0]} or one {kind} feature, got {listed}; rename one")
    return found[0] if found else None


def _bytes_of(path: Path, field: Any) -> str:
    from pyarrow import types

    def binary(kind: Any) -> bool:
        return bool(types.is_binary(kind) or types.is_large_binary(kind))

    if types.is_struct(field.type):
        parts = {part.name: part.type for part in field.type}
        if "bytes" in parts and binary(parts["bytes"]):
            return f"{field.name}.bytes"
    elif binary(field.type):
        return str(field.name)
    raise ValueError(f"{path}: expected {field.name} as a struct with bytes or as binary, got {field.type}")
