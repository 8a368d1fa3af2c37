"""Embedding tables: frozen features of a data set as Parquet, ours or anybody's, in memory.

One row a vector: ``sample_id``, ``group``, ``label``, ``layer``, ``pooling``, ``vector`` (a list of float32 of fixed
length), and ``site`` where single sites are kept. What made them stands in the file's key-value metadata.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from jepa_core.checks import hint
from jepa_core.data.tables import BROKEN
from jepa_core.errors import DataError

if TYPE_CHECKING:
    from torch import Tensor

# pyarrow takes a third of a second to import and torch seconds and 300 MB, so what needs them imports them.

PREFIX = "jepakit."
"""Before each of our keys in a file's metadata, so that other programs' keys can stand beside them."""

Strings = NDArray[np.object_]


@dataclass(frozen=True)
class EmbeddingTable:
    """A table in memory; R rows.

    Attributes:
        sample_id: text ``[R]``.
        vectors: float32 ``[R, D]``.
        layer, pooling: text ``[R]``; None where the file does not say.
        group: text or None ``[R]``; None where the file does not say.
        label: text, whole numbers or None ``[R]``; None where the file does not say.
        site: whole numbers or None ``[R]``; None where all rows are of whole samples.
        metadata: of the file, :data:`PREFIX` taken off.
        origin: the file, for messages.
    """

    sample_id: Strings
    vectors: NDArray[np.float32]
    layer: Strings | None = None
    pooling: Strings | None = None
    group: Strings | None = None
    label: Strings | None = None
    site: Strings | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    origin: str = "embedding table"

    def __len__(self) -> int:
        return len(self.sample_id)

    def rows(self, places: NDArray[Any]) -> EmbeddingTable:
        """The table with these rows only: whole numbers or a mask."""
        columns = {name: getattr(self, name) for name in _COLUMNS}
        kept: dict[str, Any] = {k: None if column is None else column[places] for k, column in columns.items()}
        return replace(self, vectors=self.vectors[places], **kept)

    def select(self, layer: str | None = None, pooling: str | None = None) -> EmbeddingTable:
        """The rows of a layer, of a pooling, or of both.

        Raises:
            ValueError: there are none; the message names those there are.
        """
        table = self
        for name, wanted in (("layer", layer), ("pooling", pooling)):
            if wanted is None:
                continue
            column = getattr(table, name)
            known = [] if column is None else sorted(set(column.tolist()))
            if wanted not in known:
                raise ValueError(
                    f"{name}: expected one of {', '.join(known) or 'none: the file has no such column'} in "
                    f"{self.origin}, got {wanted!r}{hint(wanted, known)}"
                )
            table = table.rows(column == wanted)
        return table

    def tensor(self) -> Tensor:
        """The vectors, float32 ``[R, D]``; they share the table's memory."""
        import torch

        return torch.from_numpy(self.vectors)

    def classes(self) -> tuple[Tensor, tuple[str | int, ...]]:
        """Labels as numbers, int64 ``[R]``, and what each number stands for, sorted.

        Raises:
            ValueError: a row has no label.
        """
        import torch

        if self.label is None or any(value is None for value in self.label):
            raise ValueError(f"{self.origin}: expected a label in every row, got rows without; select those that have")
        names = sorted(set(self.label.tolist()))
        number = {name: place for place, name in enumerate(names)}
        return torch.tensor([number[name] for name in self.label]), tuple(names)

    def group_numbers(self) -> Tensor | None:
        """Groups as numbers, int64 ``[R]``; a row without a group is one of its own. None where no row has one."""
        import torch

        if self.group is None or all(value is None for value in self.group):
            return None
        names = [f"sample {self.sample_id[k]}" if v is None else f"group {v}" for k, v in enumerate(self.group)]
        number = {name: place for place, name in enumerate(dict.fromkeys(names))}
        return torch.tensor([number[name] for name in names])

    def join(self, other: EmbeddingTable) -> tuple[EmbeddingTable, EmbeddingTable]:
        """The samples that both tables hold, in the order of this one: row k of both is the same sample.

        Raises:
            ValueError: a sample has several rows, or they have none in common.
        """
        places = [table._place_of_each() for table in (self, other)]
        shared = [name for name in self.sample_id if name in places[1]]
        if not shared:
            raise ValueError(
                f"{self.origin} and {other.origin}: expected common values of sample_id, got none; the first are "
                f"{self.sample_id[:1].tolist()} and {other.sample_id[:1].tolist()}"
            )
        first, second = (np.array([place[name] for name in shared]) for place in places)
        return self.rows(first), other.rows(second)

    def check_one_row_each(self) -> None:
        """Refuses a table in which a sample has several rows.

        Raises:
            DataError: one has; the message names the layers and poolings to choose from.
        """
        samples = len(set(self.sample_id))
        if samples == len(self):
            return
        kinds = {name: column for name in ("layer", "pooling") if (column := getattr(self, name)) is not None}
        known = "; ".join(f"{name} {', '.join(sorted(set(column.tolist())))}" for name, column in kinds.items())
        raise DataError(
            f"{self.origin}: expected one row a sample, got {len(self)} rows of {samples} samples; choose with layer= "
            f"and pooling= ({known or 'the file has no such columns'})"
        )

    def _place_of_each(self) -> dict[str, int]:
        places = {name: place for place, name in enumerate(self.sample_id)}
        if len(places) < len(self):
            raise ValueError(
                f"{self.origin}: expected one row a sample, got {len(self)} rows of {len(places)} samples; "
                "select one layer and one pooling first"
            )
        return places


_COLUMNS = ("sample_id", "layer", "pooling", "group", "label", "site")
ALIASES = {"vector": "embedding", "sample_id": "id", "group": "group_id"}
"""What other programs call our columns; read where ours are missing."""


def column_names(names: Sequence[str]) -> dict[str, str]:
    """Our name of each column that is read, by the name it has in a file."""
    found = {name: name for name in names if name in (*_COLUMNS, "vector")}
    return found | {other: ours for ours, other in ALIASES.items() if other in names and ours not in names}


def read_table(path: str | Path, layer: str | None = None, pooling: str | None = None) -> EmbeddingTable:
    """Reads a Parquet file, or all of a folder, that has the columns ``sample_id`` and ``vector``.

    Whoever wrote it: columns may bear the names in :data:`ALIASES`; ``vector`` may be a list of fixed or of equal
    lengths, of any kind of number; ``sample_id`` may be numbers; the other columns may be missing. Only the rows asked
    for are kept in memory.

    Args:
        path: a ``.parquet`` file, or a folder whose ``.parquet`` files are read in the order of their names.
        layer, pooling: as in :meth:`EmbeddingTable.select`.

    Raises:
        DataError: no such file, no Parquet, a missing column, vectors of unequal length or with gaps, no row of this
            layer and pooling.
    """
    kept: list[EmbeddingTable] = []
    known: set[str] = set()
    for group in (group for file in _files(Path(path)) for group in _row_groups(file)):
        part = _read_part(group, str(path))
        known |= _kinds(part)
        part = _matching(part, layer, pooling)
        if len(part):
            kept.append(part)
    if not kept:
        wanted = f"{layer or 'any layer'}/{pooling or 'any pooling'}"
        raise DataError(f"{path}: expected rows of {wanted}, got {', '.join(sorted(known)) or 'no row at all'}")
    if len({part.vectors.shape[1] for part in kept}) > 1:
        raise DataError(f"{path}: expected vectors of one length, got {sorted({p.vectors.shape[1] for p in kept})}")
    return _together(kept)


def _files(path: Path) -> list[Path]:
    files = sorted(path.glob("*.parquet")) if path.is_dir() else [path]
    if not files or not files[0].is_file():
        raise DataError(f"{path}: expected a Parquet file or a folder of them, got none")
    return files


@dataclass(frozen=True)
class _Group:
    """A row group, as Arrow reads it, and its file."""

    table: Any
    file: Path
    metadata: Mapping[str, str]


def _row_groups(file: Path) -> Iterator[_Group]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(file) as opened:
            names = opened.schema_arrow.names
            ours = column_names(names)
            for wanted in ("sample_id", "vector"):
                if wanted not in ours.values():
                    raise DataError(
                        f"{file}: expected a column {wanted}, got {', '.join(names)}{hint(wanted, names)}; rename it"
                    )
            stored = opened.schema_arrow.metadata or {}
            stored = {**stored, **(opened.metadata.metadata or {})}
            for group in range(opened.num_row_groups):
                table = opened.read_row_group(group, columns=list(ours))
                table = table.rename_columns([ours[name] for name in table.column_names])
                if table.num_rows:
                    yield _Group(table, file, decoded_metadata(stored))
    except (pa.ArrowException, OSError, *BROKEN) as error:
        raise DataError(f"{file}: expected a whole Parquet file, got {' '.join(str(error).split())}") from None


def decoded_metadata(metadata: Mapping[bytes, bytes]) -> dict[str, str]:
    """The metadata of a file as text, :data:`PREFIX` taken off."""
    found = {key.decode(errors="replace"): value.decode(errors="replace") for key, value in metadata.items()}
    return {key.removeprefix(PREFIX): value for key, value in found.items() if key != "ARROW:schema"}


def _read_part(group: _Group, origin: str) -> EmbeddingTable:
    table = group.table
    try:
        known = [name for name in _COLUMNS if name in table.column_names]
        columns = {name: np.array(table[name].to_pylist(), dtype=object) for name in known}
    except BROKEN as error:  # text that is no UTF-8
        raise DataError(f"{group.file}: expected a whole Parquet file, got {error}") from None
    names = columns.pop("sample_id")
    if any(name is None for name in names):
        raise DataError(f"{group.file}: expected a sample_id in every row, got rows without")
    if "group" in columns:
        columns["group"] = np.array([None if v is None else str(v) for v in columns["group"]], dtype=object)
    sample_id = np.array([str(name) for name in names], dtype=object)
    vectors = vectors_of(table["vector"], group.file)
    return EmbeddingTable(sample_id, vectors, metadata=group.metadata, origin=origin, **columns)


def vectors_of(column: Any, file: Path) -> NDArray[np.float32]:
    """A column of lists as float32 ``[R, D]``."""
    import pyarrow as pa
    import pyarrow.compute as pc

    kind = column.type
    if not (pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)):
        raise DataError(f"{file}: expected lists of numbers in the column vector, got {kind}")
    inner = kind.value_type
    if not (pa.types.is_floating(inner) or pa.types.is_integer(inner)):
        raise DataError(f"{file}: expected numbers in the column vector, got lists of {inner}")
    joined = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    joined = joined.combine_chunks() if isinstance(joined, pa.ChunkedArray) else joined
    flat = joined.flatten()
    lengths = np.unique(pc.list_value_length(joined).to_numpy(zero_copy_only=False))
    if joined.null_count or flat.null_count or len(lengths) != 1:
        raise DataError(f"{file}: expected vectors of one length without gaps, got lengths {lengths[:5].tolist()}")
    values = flat.to_numpy(zero_copy_only=False).astype(np.float32)
    return values.reshape(len(joined), -1)


def _kinds(table: EmbeddingTable) -> set[str]:
    """Every ``layer/pooling`` there is, for messages."""
    unnamed = np.full(len(table), "unnamed", dtype=object)
    layers, poolings = (unnamed if column is None else column for column in (table.layer, table.pooling))
    return {f"{layer}/{pooling}" for layer, pooling in set(zip(layers, poolings, strict=True))}


def _matching(table: EmbeddingTable, layer: str | None, pooling: str | None) -> EmbeddingTable:
    mask = np.ones(len(table), dtype=bool)
    for column, wanted in ((table.layer, layer), (table.pooling, pooling)):
        if wanted is not None:
            mask &= np.zeros(len(table), dtype=bool) if column is None else column == wanted
    return table if mask.all() else table.rows(mask)


def _together(parts: Sequence[EmbeddingTable]) -> EmbeddingTable:
    if len(parts) == 1:
        return parts[0]
    columns: dict[str, Any] = {}
    for name in _COLUMNS:
        found = [getattr(part, name) for part in parts]
        columns[name] = None if any(column is None for column in found) else np.concatenate(found)
    return replace(parts[0], vectors=np.concatenate([part.vectors for part in parts]), **columns)
