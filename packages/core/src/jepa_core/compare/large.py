"""Two Parquet files too large for memory: one pass for exact debiased CKA, and a seeded subset for all else."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jepa_core.compare.groups import Codes
from jepa_core.compare.inputs import TIMES, Features
from jepa_core.compare.pairing import UNPAIRED, UnpairedError
from jepa_core.compare.streaming import StreamingCKA
from jepa_core.errors import DataError

CHUNK = 8192
"""Rows read at a time."""
BLOCKS = 20
"""Stretches of rows whose sums are kept for the jackknife."""

Vectors = NDArray[np.float32]


@dataclass(frozen=True)
class LargeTable:
    """A Parquet file of one vector a sample, of which only names are in memory.

    Attributes:
        path: the file.
        ids: Arrow array of the samples' names, text.
        columns: what the file calls ``vector``, ``group``, ``label``.
        metadata: of the file.
        timed: whether it has a column of times.
    """

    path: Path
    ids: Any
    columns: dict[str, str]
    metadata: dict[str, str]
    timed: bool

    def __len__(self) -> int:
        return len(self.ids)

    def vectors(self, kept: NDArray[np.bool_] | None = None) -> Iterator[Vectors]:
        """The vectors of the rows that are kept, in the order of the file, some thousand at a time."""
        from jepa_core.evaluate.tables import vectors_of

        start = 0
        for batch in self._batches([self.columns["vector"]]):
            found = vectors_of(batch.column(0), self.path)
            mask = None if kept is None else kept[start : start + len(found)]
            start += len(found)
            yield found if mask is None or mask.all() else found[mask]

    def column(self, name: str, places: Codes) -> NDArray[np.object_] | None:
        """A column of these rows; None where the file has none."""
        if name not in self.columns:
            return None
        import pyarrow as pa

        found = pa.chunked_array([batch.column(0) for batch in self._batches([self.columns[name]])])
        return np.array([*found.take(pa.array(places)).to_pylist(), None], dtype=object)[:-1]

    def _batches(self, columns: list[str]) -> Iterator[Any]:
        import pyarrow.parquet as pq

        # Without buffered streams a reader holds whole column chunks, which may be all of the file.
        with pq.ParquetFile(self.path, buffer_size=2**20, pre_buffer=False) as file:
            yield from file.iter_batches(CHUNK, columns=columns)


def rows_of(path: Path) -> int:
    """Rows of a Parquet file; 0 for anything else."""
    import pyarrow.parquet as pq

    if path.suffix != ".parquet" or not path.is_file():
        return 0
    try:
        return int(pq.read_metadata(path).num_rows)
    except Exception:  # reading it will say what is wrong with it
        return 0


def open_large(path: Path) -> LargeTable:
    """Opens a file; reads the names of its samples.

    Raises:
        DataError: no samples or vectors, several layers or poolings, samples with several rows.
    """
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    from jepa_core.evaluate.tables import column_names, decoded_metadata

    schema = pq.read_schema(path)
    ours = {mine: theirs for theirs, mine in column_names(schema.names).items()}
    for wanted in ("sample_id", "vector"):
        if wanted not in ours:
            raise DataError(f"{path}: expected a column {wanted}, got {', '.join(schema.names)}; rename it")
    for name in ("layer", "pooling"):
        if name in ours:
            values = pc.unique(pq.read_table(path, columns=[ours[name]]).column(0)).to_pylist()
            if len(values) > 1:
                raise DataError(f"{path}: expected one {name} in a table this large, got {', '.join(map(str, values))}")
    ids = pq.read_table(path, columns=[ours["sample_id"]]).column(0).combine_chunks().cast(pa.large_string())
    ids = ids.combine_chunks() if isinstance(ids, pa.ChunkedArray) else ids
    if ids.null_count or pc.count_distinct(ids).as_py() < len(ids):
        raise DataError(f"{path}: expected a sample_id in every row and one row a sample, got gaps or repeats")
    metadata = decoded_metadata({**(schema.metadata or {}), **(pq.read_metadata(path).metadata or {})})
    return LargeTable(path, ids, ours, metadata, any(name.lower() in TIMES for name in schema.names))


@dataclass(frozen=True)
class Pass:
    """What one pass over two large tables found.

    Attributes:
        stream: the sums of all joined rows.
        a, b: the subset, joined.
        rows: joined.
        widths: of the vectors.
        said: warnings.
    """

    stream: StreamingCKA
    a: Features
    b: Features
    rows: int
    widths: tuple[int, int]
    said: list[str]


def run_pass(first: LargeTable, second: LargeTable, subset: int, seed: int, prepare: Any) -> Pass:
    """Reads both tables once, side by side, joined on ``sample_id``.

    Where the samples stand in another order in the second, its vectors are first copied to a temporary file.

    Args:
        first, second: the tables.
        subset: rows to hold for what is not streamed.
        seed: of their choice.
        prepare: what is done to the vectors of either table, float64 to float64.

    Raises:
        UnpairedError: they have no sample in common.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    in_second = pc.index_in(first.ids, value_set=second.ids)
    kept = pc.is_valid(in_second).to_numpy(zero_copy_only=False)
    places = in_second.drop_null().to_numpy(zero_copy_only=False).astype(np.intp)
    rows = len(places)
    if not rows:
        raise UnpairedError(f"{UNPAIRED}; the first samples are {first.ids[0]} and {second.ids[0]}")
    chosen = np.sort(np.random.default_rng(seed).choice(rows, min(subset, rows), replace=False))
    stream = StreamingCKA(blocks=BLOCKS, block_rows=max(4, rows // BLOCKS))
    held: tuple[list[Vectors], list[Vectors]] = ([], [])
    start = 0
    with tempfile.TemporaryDirectory(prefix="jepa-compare-") as folder:
        pairs = _same_size(first.vectors(kept), _in_order(second, places, Path(folder)))
        for x, y in pairs:
            inside = chosen[(chosen >= start) & (chosen < start + len(x))] - start
            held[0].append(x[inside].copy())
            held[1].append(y[inside].copy())
            stream.update(prepare(x.astype(np.float64)), prepare(y.astype(np.float64)))
            start += len(x)
    ids = first.ids.filter(pa.array(kept)).take(pa.array(chosen)).to_pylist()
    names = np.array([*ids, None], dtype=object)[:-1]
    where = np.flatnonzero(kept)[chosen], places[chosen]
    tables = [
        Features(
            {"features": np.concatenate(vectors)},
            names,
            table.column("group", at),
            table.column("label", at),
            table.metadata,
            table.path.stem,
            table.timed,
        )
        for table, vectors, at in zip((first, second), held, where, strict=True)
    ]
    widths = tables[0].layers["features"].shape[1], tables[1].layers["features"].shape[1]
    said = []
    if rows < max(len(first), len(second)):
        said.append(f"{rows} samples are in both tables, of {len(first)} and {len(second)}; the others are left out")
    return Pass(stream, tables[0], tables[1], rows, widths, said)


def _in_order(table: LargeTable, places: Codes, folder: Path) -> Iterator[Vectors]:
    """The vectors of ``places`` in their order."""
    if (np.diff(places) > 0).all():
        kept = np.zeros(len(table), dtype=bool)
        kept[places] = True
        yield from table.vectors(kept)
        return
    copy: Any = None
    start = 0
    for vectors in table.vectors():
        if copy is None:
            shape = len(table), vectors.shape[1]
            copy = np.lib.format.open_memmap(folder / "vectors.npy", "w+", dtype=np.float32, shape=shape)
        copy[start : start + len(vectors)] = vectors
        start += len(vectors)
    for at in range(0, len(places), CHUNK):
        yield np.asarray(copy[places[at : at + CHUNK]])


def _same_size(first: Iterator[Vectors], second: Iterator[Vectors]) -> Iterator[tuple[Vectors, Vectors]]:
    """Both streams cut at the same rows."""
    waiting: list[Vectors | None] = [None, None]
    sources = (first, second)
    while True:
        for side in (0, 1):
            while waiting[side] is None or not len(waiting[side]):  # type: ignore[arg-type]
                found = next(sources[side], None)
                if found is None:
                    return
                waiting[side] = found
        x, y = waiting
        assert x is not None and y is not None
        count = min(len(x), len(y))
        yield x[:count], y[:count]
        waiting = [x[count:], y[count:]]
