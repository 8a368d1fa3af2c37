"""Slots of many episodes in a Parquet file, one row a step, read by row groups."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jepa_causal.slots.archives import PARTS, Arrays, PerProcess, one_line
from jepa_core.contracts import BadSample
from jepa_core.data.archives import BROKEN
from jepa_core.errors import DataError

_SLOT = re.compile(r"slot_(\d+)")


@dataclass(frozen=True)
class _Run:
    """Rows ``start`` to ``stop`` of a file are one episode; ``fault``: why it cannot be used."""

    start: int
    stop: int
    fault: str | None


class ParquetFile:
    """A Parquet file of slots; its columns are told in :mod:`jepa_causal.slots.files`.

    Only the columns ``episode`` and ``step`` are read at first; then the row groups of the episode asked for, of which
    the last is kept.

    Args:
        path: of the file.
        slots: K, needed where a column ``slots`` has all slots of a step in one flat list.

    Raises:
        DataError: no such file, damaged, columns missing or of another type, rows of an episode that lie apart.
    """

    def __init__(self, path: Path, slots: int | None = None) -> None:
        self.path, self._slots = path, slots
        self._file = PerProcess(_open, path)
        found = self._file()
        self._columns = _columns(path, found.schema_arrow)
        sizes = [found.metadata.row_group(i).num_rows for i in range(found.num_row_groups)]
        self._edges = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        self._runs = _runs(path, found)
        self._held: tuple[int, Any] = (-1, None)
        self.shapes = self._shapes()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_held": (-1, None)}

    def read(self, episode_id: str) -> Arrays:
        """See :class:`jepa_causal.slots.archives.Container`."""
        run = self._runs[episode_id]
        if run.fault:
            raise BadSample(f"{episode_id} of {self.path.name}: {run.fault}")
        try:
            return self._parts(run.start, run.stop)
        except ValueError as error:
            raise BadSample(f"{episode_id} of {self.path.name}: {error}") from None

    def _shapes(self) -> dict[str, dict[str, tuple[int, ...]]]:
        """As if all steps were like the first good one of a start; a reader finds out where they are not."""
        row: dict[str, tuple[int, ...]] = {}
        fault = ""
        for start in (run.start for run in self._runs.values()):
            try:
                row = {part: values.shape[1:] for part, values in self._parts(start, start + 1).items()}
                break
            except ValueError as error:
                fault = fault or f"row {start}: {error}"
        if not row:
            raise DataError(f"{self.path}: no episode can be read; {fault}")
        return {
            name: {part: (run.stop - run.start, *shape) for part, shape in row.items()}
            for name, run in self._runs.items()
        }

    def _parts(self, start: int, stop: int) -> Arrays:
        import pyarrow as pa

        first, last = np.searchsorted(self._edges, [start, stop - 1], side="right") - 1
        pieces = []
        for group in range(int(first), int(last) + 1):
            low, high = int(self._edges[group]), int(self._edges[group + 1])
            begin = max(start, low)
            pieces.append(self._group(group).slice(begin - low, min(stop, high) - begin))
        table = pa.concat_tables(pieces)
        return {part: self._values(table, part, names) for part, names in self._columns.items()}

    def _group(self, group: int) -> Any:
        if self._held[0] != group:
            names = [name for columns in self._columns.values() for name in columns]
            try:
                self._held = (group, self._file().read_row_group(group, columns=names))
            except (_arrow_error(), *BROKEN) as error:
                raise ValueError(f"damaged: {one_line(error)}") from None
        return self._held[1]

    def _values(self, table: Any, part: str, names: Sequence[str]) -> NDArray[Any]:
        values = [dense(table[name], name) for name in names]
        if part != "slots":
            return values[0]
        if names != ["slots"]:
            if len({v.shape for v in values}) > 1:
                raise ValueError(
                    f"expected one width in {', '.join(names)}, got {sorted({v.shape[1:] for v in values})}"
                )
            return np.stack(values, 1)
        (slots,) = values
        if slots.ndim == 2:
            if not self._slots or slots.shape[1] % self._slots:
                raise ValueError(
                    f"slots: expected lists of K lists, or K with flat ones, got {slots.shape[1]} numbers and "
                    f"K={self._slots}; set the number of slots"
                )
            slots = slots.reshape(len(slots), self._slots, -1)
        return slots


def _arrow_error() -> type[Exception]:
    import pyarrow as pa

    kind: type[Exception] = pa.ArrowException
    return kind


def _open(path: Path) -> Any:
    import pyarrow.parquet as pq

    try:
        return pq.ParquetFile(path)
    except (_arrow_error(), *BROKEN) as error:
        raise DataError(f"{path}: expected a Parquet file, got {one_line(error)}") from None


def _columns(path: Path, schema: Any) -> dict[str, list[str]]:
    """Columns of each part."""
    names = list(schema.names)
    for wanted in ("episode", "step"):
        if wanted not in names:
            raise DataError(f"{path}: expected a column {wanted}, got {', '.join(names)}")
    numbered = sorted((int(m[1]), name) for name in names if (m := _SLOT.fullmatch(name)))
    if [number for number, _ in numbered] != list(range(len(numbered))):
        raise DataError(f"{path}: expected slot_0, slot_1 and so on, got {', '.join(name for _, name in numbered)}")
    if bool(numbered) == ("slots" in names):
        raise DataError(f"{path}: expected either a column slots or columns slot_0, slot_1 ..., got {', '.join(names)}")
    found = {part: [part] for part in PARTS if part in names}
    if numbered:
        found["slots"] = [name for _, name in numbered]
    for name in (name for columns in found.values() for name in columns):
        _check_type(path, name, schema.field(name).type)
    return found


def _check_type(path: Path, name: str, kind: Any) -> None:
    from pyarrow import types

    while types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        kind = kind.value_type
    if not (types.is_floating(kind) or types.is_integer(kind) or types.is_boolean(kind)):
        raise DataError(f"{path}: expected numbers or lists of numbers in the column {name}, got {kind}")


def _runs(path: Path, found: Any) -> dict[str, _Run]:
    """The rows of each episode, in the order of the file."""
    try:
        table = found.read(columns=["episode", "step"])
    except (_arrow_error(), *BROKEN) as error:
        raise DataError(f"{path}: expected a whole Parquet file, got {one_line(error)}; write it again") from None
    if not table.num_rows:
        raise DataError(f"{path}: expected rows of episodes, got none")
    if table["episode"].null_count or table["step"].null_count:
        raise DataError(f"{path}: expected episode and step in every row, got rows without")
    names = table["episode"].to_pylist()
    edges = [0, *(i for i in range(1, len(names)) if names[i] != names[i - 1]), len(names)]
    steps = table["step"].to_numpy()
    runs: dict[str, _Run] = {}
    for start, stop in zip(edges, edges[1:], strict=False):
        name = str(names[start])
        if name in runs:
            raise DataError(
                f"{path}: expected the rows of an episode together, got {name} apart; sort by episode, step"
            )
        inside = steps[start:stop]
        right = inside.dtype.kind in "iu" and np.array_equal(inside - inside[0], np.arange(stop - start))
        fault = None if right else "expected steps that rise by 1, got others; sort by episode, step"
        runs[name] = _Run(start, stop, fault)
    return runs


def dense(column: Any, name: str) -> NDArray[Any]:
    """A column of numbers, or of lists that have one length at each depth, as an array ``[rows, ...]``.

    Raises:
        ValueError: gaps, or lists of several lengths.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    array = array.combine_chunks() if isinstance(array, pa.ChunkedArray) else array
    if not hasattr(array, "flatten") or not hasattr(array.type, "value_type"):
        if array.null_count and pa.types.is_boolean(array.type):
            raise ValueError(f"{name}: expected no gaps, got {array.null_count}")
        return np.asarray(array.to_numpy(zero_copy_only=False))
    lengths = np.unique(pc.list_value_length(array).to_numpy(zero_copy_only=False))
    if array.null_count or len(lengths) != 1:
        raise ValueError(f"{name}: expected lists of one length without gaps, got lengths {lengths[:5].tolist()}")
    inner = dense(array.flatten(), name)
    return inner.reshape(len(array), int(lengths[0]), *inner.shape[1:])
