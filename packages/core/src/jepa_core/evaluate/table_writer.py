"""Writing embedding tables in a stream, and joining those of several processes; the format: see ``tables.py``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jepa_core.errors import DataError
from jepa_core.evaluate.tables import PREFIX

ROW_GROUP_BYTES = 16 * 2**20
"""Vectors of one row group: what a reader must hold to look at any of them."""
ROW_GROUP_ROWS = 2**16
"""Rows of one, however short their vectors are: names take memory too."""


@dataclass(frozen=True)
class Rows:
    """Vectors to write.

    Attributes:
        sample_id: R names.
        group: R names or None.
        label: R classes or None, all text or all whole numbers.
        layer, pooling: of all rows.
        vectors: float32 ``[R, D]``.
        site: site ids ``[R]``; None = the vectors are of whole samples.
    """

    sample_id: Sequence[str]
    group: Sequence[str | None]
    label: Sequence[str | int | None]
    layer: str
    pooling: str
    vectors: NDArray[np.float32]
    site: NDArray[np.int32] | None = None


def table_schema(width: int, numbered_labels: bool, with_sites: bool, metadata: Mapping[str, str]) -> Any:
    """The Arrow schema of a table.

    Args:
        width: D of the vectors.
        numbered_labels: whether labels are whole numbers; otherwise text.
        with_sites: whether rows may be of single sites.
        metadata: written with :data:`PREFIX` before each key.
    """
    import pyarrow as pa

    fields = [
        pa.field("sample_id", pa.string(), nullable=False),
        pa.field("group", pa.string()),
        pa.field("label", pa.int64() if numbered_labels else pa.string()),
        pa.field("layer", pa.string(), nullable=False),
        pa.field("pooling", pa.string(), nullable=False),
        *([pa.field("site", pa.int32())] if with_sites else []),
        pa.field("vector", pa.list_(pa.float32(), width), nullable=False),
    ]
    return pa.schema(fields, {PREFIX + key: value for key, value in metadata.items()})


class TableWriter:
    """Writes a table in row groups of bounded size; a context manager that closes the file.

    Args:
        path: of the file; one that exists is replaced.
        schema: see :func:`table_schema`.
    """

    def __init__(self, path: Path, schema: Any) -> None:
        import pyarrow.parquet as pq

        self.schema = schema
        repeated = ["group", "label", "layer", "pooling"]
        self._writer = pq.ParquetWriter(path, schema, compression="zstd", use_dictionary=repeated)
        self._width = schema.field("vector").type.list_size
        room = max(1, min(ROW_GROUP_BYTES // (4 * self._width), ROW_GROUP_ROWS))
        # One buffer, filled again and again: thousands of small arrays that wait between those of an encoder would
        # leave the allocator holes that it cannot use, ten times what they hold.
        self._vectors = np.empty((room, self._width), dtype=np.float32)
        self._columns: dict[str, list[Any]] = {name: [] for name in schema.names if name != "vector"}
        self._waiting = 0

    def __enter__(self) -> TableWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def add(self, rows: Rows) -> None:
        """Takes rows; they are written once a row group is full."""
        if rows.vectors.ndim != 2 or rows.vectors.shape[1] != self._width:
            raise DataError(
                f"embedding table: expected vectors [R, {self._width}] like those before, got "
                f"{list(rows.vectors.shape)} of layer {rows.layer}, pooling {rows.pooling}: write layers of other "
                "widths into a table of their own"
            )
        begin, count = 0, len(rows.sample_id)
        while begin < count:
            taken = slice(begin, begin + min(count - begin, len(self._vectors) - self._waiting))
            self._take(rows, taken)
            begin = taken.stop
            if self._waiting == len(self._vectors):
                self._flush()

    def _take(self, rows: Rows, taken: slice) -> None:
        count = taken.stop - taken.start
        self._vectors[self._waiting : self._waiting + count] = rows.vectors[taken]
        self._waiting += count
        columns = {
            "sample_id": rows.sample_id[taken],
            "group": rows.group[taken],
            "label": rows.label[taken],
            "layer": [rows.layer] * count,
            "pooling": [rows.pooling] * count,
            "site": [None] * count if rows.site is None else rows.site[taken].tolist(),
        }
        for name, column in self._columns.items():
            column.extend(columns[name])

    def write(self, table: Any) -> None:
        """Writes an Arrow table of the same schema at once, as a row group."""
        self._writer.write_table(table)

    def _flush(self) -> None:
        import pyarrow as pa

        if not self._waiting:
            return
        flat = pa.array(self._vectors[: self._waiting].reshape(-1))
        columns = {**self._columns, "vector": pa.FixedSizeListArray.from_arrays(flat, self._width)}
        arrays = [pa.array(columns[name], self.schema.field(name).type) for name in self.schema.names]
        self.write(pa.Table.from_arrays(arrays, schema=self.schema))
        self._waiting = 0
        for column in self._columns.values():
            column.clear()

    def annotate(self, metadata: Mapping[str, str]) -> None:
        """Adds to the metadata what is only known at the end."""
        self._writer.add_key_value_metadata({PREFIX + key: value for key, value in metadata.items()})

    def close(self) -> None:
        """Writes what waits and the file's footer."""
        self._flush()
        self._writer.close()


def join_parts(parts: Sequence[Path], out: Path, metadata: Mapping[str, str]) -> None:
    """Joins tables one after another, a row group at a time.

    Args:
        parts: in the order of their samples, at least one.
        out: where the joined table goes; one that exists is replaced.
        metadata: added to that of the first part.

    Raises:
        DataError: the parts have different columns or widths.
    """
    import pyarrow.parquet as pq

    schema = pq.read_schema(parts[0])
    with TableWriter(out, schema) as writer:
        for part in parts:
            with pq.ParquetFile(part) as file:
                if not file.schema_arrow.equals(schema):
                    raise DataError(f"{part}: expected the columns of {parts[0]}, got {file.schema_arrow.names}")
                for group in range(file.num_row_groups):
                    writer.write(file.read_row_group(group))
        writer.annotate(metadata)
