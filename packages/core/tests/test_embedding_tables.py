"""Embedding tables: what is written is read back, anybody's Parquet is read, and tables meet on sample_id."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from jepa_core.errors import DataError
from jepa_core.evaluate import table_writer
from jepa_core.evaluate.table_writer import Rows, TableWriter, join_parts, table_schema
from jepa_core.evaluate.tables import EmbeddingTable, read_table

WIDTH = 6


def rows(first: int, count: int, layer: str = "last", width: int = WIDTH) -> Rows:
    places = range(first, first + count)
    vectors = np.stack([np.arange(width, dtype=np.float32) + 10 * place for place in places])
    groups = [None if place % 3 == 0 else f"drive-{place % 2}" for place in places]
    labels = ["cat" if place % 2 else None for place in places]
    return Rows([f"s{place}" for place in places], groups, labels, layer, "mean", vectors)


def write(path: Path, *parts: Rows, metadata: dict[str, str] | None = None) -> Path:
    with TableWriter(path, table_schema(parts[0].vectors.shape[1], False, False, metadata or {})) as writer:
        for part in parts:
            writer.add(part)
    return path


def anybody(path: Path, **columns: Any) -> Path:
    pq.write_table(pa.table(columns), path)
    return path


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    path = write(tmp_path / "t.parquet", rows(0, 5), rows(0, 5, "block_1"), metadata={"run": "first", "step": "7"})
    table = read_table(path)
    assert table.metadata == {"run": "first", "step": "7"} and len(table) == 10
    last = table.select("last", "mean")
    np.testing.assert_array_equal(last.vectors, rows(0, 5).vectors)
    assert last.sample_id.tolist() == ["s0", "s1", "s2", "s3", "s4"]
    assert last.label is not None and last.label.tolist() == [None, "cat", None, "cat", None]
    assert last.group is not None and last.group.tolist() == [None, "drive-1", "drive-0", None, "drive-0"]
    assert last.tensor().dtype == torch.float32
    np.testing.assert_array_equal(read_table(path, layer="block_1").vectors, table.select("block_1").vectors)
    field = pq.read_schema(path).field("vector")
    assert field.type == pa.list_(pa.float32(), WIDTH), "vectors are lists of fixed length"


def test_memory_is_bounded_by_row_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table_writer, "ROW_GROUP_BYTES", 4 * WIDTH * 4)
    path = write(tmp_path / "t.parquet", *(rows(place, 1) for place in range(10)))
    file = pq.ParquetFile(path)
    assert [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)] == [4, 4, 2]
    assert read_table(path).sample_id.tolist() == [f"s{place}" for place in range(10)]


def test_parts_join_in_order_with_metadata(tmp_path: Path) -> None:
    parts = [write(tmp_path / f"{k}", rows(3 * k, 3), metadata={"run": "r", "rows": "3"}) for k in range(3)]
    join_parts(parts, tmp_path / "t.parquet", {"rows": "9"})
    table = read_table(tmp_path / "t.parquet")
    assert table.sample_id.tolist() == [f"s{place}" for place in range(9)] and table.metadata["rows"] == "9"
    assert table.metadata["run"] == "r"
    other = write(tmp_path / "wide", rows(0, 2, width=WIDTH + 1))
    with pytest.raises(DataError, match="expected the columns of"):
        join_parts([parts[0], other], tmp_path / "u.parquet", {})


def test_layers_of_other_widths_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"expected vectors \[R, 6\].*layer block_1.*table of their own"):
        write(tmp_path / "t.parquet", rows(0, 2), rows(0, 2, "block_1", WIDTH + 2))


VECTORS = [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]
KINDS = [
    pa.array(VECTORS),
    pa.array(VECTORS, pa.list_(pa.float16(), 2)),
    pa.array(VECTORS, pa.large_list(pa.float32())),
    pa.array([[1, 2], [3, 4], [5, 6]]),
]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: str(kind.type))
def test_anybodys_table_is_read(kind: pa.Array, tmp_path: Path) -> None:
    table = read_table(anybody(tmp_path / "t.parquet", sample_id=[7, 8, 9], vector=kind, more=["x", "y", "z"]))
    assert table.sample_id.tolist() == ["7", "8", "9"] and table.layer is None and table.group_numbers() is None
    np.testing.assert_array_equal(table.vectors, np.array(VECTORS, dtype=np.float32))


def test_a_folder_of_shards_is_one_table(tmp_path: Path) -> None:
    for k in range(2):
        write(tmp_path / f"table-{k:05d}-of-00002.parquet", rows(4 * k, 4))
    assert read_table(tmp_path).sample_id.tolist() == [f"s{place}" for place in range(8)]


def test_other_programs_metadata_is_kept(tmp_path: Path) -> None:
    schema = pa.schema([("sample_id", pa.string()), ("vector", pa.list_(pa.float32()))], {"made by": "me"})
    pq.write_table(pa.table({"sample_id": ["a"], "vector": [[1.0]]}, schema=schema), tmp_path / "t.parquet")
    assert read_table(tmp_path / "t.parquet").metadata == {"made by": "me"}


BAD = {
    "sample_id": ({"sampel_id": ["a"], "vector": [[1.0]]}, "expected a column sample_id.*did you mean sampel_id"),
    "no vector": ({"sample_id": ["a"], "features": [[1.0]]}, "expected a column vector, got sample_id, features"),
    "ragged": (
        {"sample_id": ["a", "b"], "vector": [[1.0], [1.0, 2.0]]},
        r"one length without gaps, got lengths \[1, 2",
    ),
    "gap": ({"sample_id": ["a", "b"], "vector": [[1.0], [None]]}, "without gaps"),
    "no list": ({"sample_id": ["a"], "vector": [1.0]}, "expected lists of numbers"),
    "text": ({"sample_id": ["a"], "vector": [["x"]]}, "expected numbers in the column vector"),
    "nameless": ({"sample_id": ["a", None], "vector": [[1.0], [2.0]]}, "a sample_id in every row"),
    "empty": (
        {"sample_id": pa.array([], pa.string()), "vector": pa.array([], pa.list_(pa.float32()))},
        "no row at all",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_table_is_refused_in_one_line(name: str, tmp_path: Path) -> None:
    columns, message = BAD[name]
    with pytest.raises(DataError, match=message) as error:
        read_table(anybody(tmp_path / "t.parquet", **columns))
    assert "\n" not in str(error.value) and "t.parquet" in str(error.value)


def test_what_is_no_parquet_is_refused(tmp_path: Path) -> None:
    whole = write(tmp_path / "t.parquet", rows(0, 50)).read_bytes()
    for content in (b"", b"no parquet at all", whole[: len(whole) // 2], whole[:-4] + b"XXXX"):
        (tmp_path / "torn.parquet").write_bytes(content)
        with pytest.raises(DataError, match="expected a whole Parquet file"):
            read_table(tmp_path / "torn.parquet")
    for nothing in (tmp_path / "none.parquet", tmp_path / "none"):
        with pytest.raises(DataError, match="expected a Parquet file or a folder"):
            read_table(nothing)


def test_unknown_layers_name_those_there_are(tmp_path: Path) -> None:
    path = write(tmp_path / "t.parquet", rows(0, 2), rows(0, 2, "block_1"))
    with pytest.raises(DataError, match="expected rows of block_2/any pooling, got block_1/mean, last/mean"):
        read_table(path, layer="block_2")
    with pytest.raises(ValueError, match=r"layer: expected one of block_1, last in .* got 'lats'; did you mean last"):
        read_table(path).select("lats")


def table(names: str, start: float, **columns: Any) -> EmbeddingTable:
    vectors = np.arange(len(names), dtype=np.float32)[:, None] + start
    return EmbeddingTable(np.array(list(names), dtype=object), vectors, origin=f"table {start:g}", **columns)


def test_tables_meet_on_sample_id() -> None:
    first, second = table("abcd", 0).join(table("xdba", 10))
    assert first.sample_id.tolist() == second.sample_id.tolist() == ["a", "b", "d"]
    assert first.vectors[:, 0].tolist() == [0, 1, 3] and second.vectors[:, 0].tolist() == [13, 12, 11]
    with pytest.raises(ValueError, match="table 10: expected one row a sample, got 3 rows of 2 samples; select one"):
        table("ab", 0).join(table("aba", 10))
    with pytest.raises(ValueError, match=r"table 0 and table 10: expected common values.*\['a'\] and \['b'\]"):
        table("a", 0).join(table("b", 10))


def test_labels_and_groups_as_numbers() -> None:
    labels = np.array(["dog", "cat", "dog"], dtype=object)
    groups = np.array(["g", None, "g"], dtype=object)
    labelled = table("abc", 0, label=labels, group=groups)
    numbers, names = labelled.classes()
    assert numbers.tolist() == [1, 0, 1] and names == ("cat", "dog")
    grouped = labelled.group_numbers()
    assert grouped is not None and grouped.tolist() == [0, 1, 0]
    with pytest.raises(ValueError, match="expected a label in every row"):
        table("ab", 0, label=np.array(["x", None], dtype=object)).classes()
