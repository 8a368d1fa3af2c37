"""Neighbours in embedding tables: known ones, anybody's table, mistakes in one line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jepa_core.cli import main
from jepa_core.evaluate.nearest import Wanted, nearest, neighbours_of, same_label
from jepa_core.evaluate.tables import EmbeddingTable

ANGLES = np.radians([0, 10, 90, 100, 180])


def table() -> EmbeddingTable:
    vectors = np.stack([np.cos(ANGLES), np.sin(ANGLES)], 1) * [[1], [5], [1], [1], [1]]
    names = np.array(["a", "b", "c", "d", "e"], dtype=object)
    labels = np.array(["x", "x", "y", "y", None], dtype=object)
    groups = np.array(["1", "1", "2", "3", None], dtype=object)
    return EmbeddingTable(names, vectors.astype(np.float32), label=labels, group=groups)


def test_neighbours_by_cosine_and_by_distance() -> None:
    found = neighbours_of(table(), [0], Wanted((), 2, "cosine", "any"))[0]
    assert [n.sample_id for n in found] == ["b", "c"] and found[0].label == "x" and found[0].group == "1"
    assert [n.distance for n in found] == pytest.approx([1 - np.cos(np.radians(10)), 1.0], abs=1e-6)
    # b is five times as long: by distance c is nearer.
    found = neighbours_of(table(), [0], Wanted((), 2, "euclidean", "any"))[0]
    assert [n.sample_id for n in found] == ["c", "d"]
    assert found[0].distance == pytest.approx(2**0.5, abs=1e-5)


def test_a_group_of_ones_own_can_be_left_out() -> None:
    found = neighbours_of(table(), [0], Wanted((), 9, "cosine", "other"))[0]
    assert [n.sample_id for n in found] == ["c", "d", "e"]
    places, distances = nearest(table(), range(5), Wanted((), 1, "cosine", "any"))
    assert places[:, 0].tolist() == [1, 0, 3, 2, 3] and bool((distances >= 0).all())


def test_share_of_neighbours_with_the_same_label_and_chance() -> None:
    found = same_label(table(), Wanted((), 1, "cosine", "any"))
    assert found is not None
    share, chance = found
    assert share == 1 and chance == pytest.approx((2 + 2) / 12)
    assert same_label(table().rows(np.array([4])), Wanted((), 5, "cosine", "any")) is None


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A table of somebody else's: no layer, no pooling, numbers as labels."""
    path = tmp_path / "theirs.parquet"
    columns = {"sample_id": list(range(4)), "label": [0, 0, 1, 1], "vector": [[0.0, 1], [0.1, 1], [1, 0], [1, 0.1]]}
    pq.write_table(pa.table(columns), path)
    return path


def test_the_command_shows_and_writes(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["neighbours", str(file), "of=2", "k=1"]) == 0
    page = capsys.readouterr().out
    assert "2, 1" in page and "cosine distance" in page and "in 1.000 of the labelled samples" in " ".join(page.split())
    assert main(["neighbours", str(file), "of=2,0", "k=2", "out=-"]) == 0
    given = json.loads(capsys.readouterr().out)
    assert [each["sample_id"] for each in given["of"]] == ["2", "0"] and given["same_label"] == 1
    first = given["of"][0]["neighbours"][0]
    assert (first["sample_id"], first["label"], first["group"]) == ("3", 1, None)
    assert first["distance"] == pytest.approx(1 - 1 / 1.01**0.5, abs=1e-6)
    assert main(["neighbours", str(file), f"out={tmp_path / 'n.json'}"]) == 0
    assert len(json.loads((tmp_path / "n.json").read_text())["of"]) == 4


MISTAKES = [
    ([], "table: expected"),
    (["FILE", "of=9"], "'9'"),
    (["FILE", "k=0"], "k: expected a whole number from 1"),
    (["FILE", "metric=cosin"], "did you mean cosine?"),
    (["FILE", "groups=mine"], "groups: expected one of any, other"),
    (["FILE", "kk=2"], "kk: unknown key"),
    (["FILE", "layer=last"], "expected rows of last"),
    (["nowhere.parquet"], "nowhere.parquet"),
]


@pytest.mark.parametrize(("arguments", "words"), MISTAKES)
def test_a_mistake_is_one_line(file: Path, arguments: list[str], words: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["neighbours", *(word.replace("FILE", str(file)) for word in arguments)]) == 2
    said = capfd.readouterr().err
    assert words in said and len(said.splitlines()) == 1


def test_several_rows_of_a_sample_must_be_chosen_from(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "two.parquet"
    columns = {"sample_id": ["a", "a"], "layer": ["last", "block_0"], "vector": [[0.0, 1], [1.0, 0]]}
    pq.write_table(pa.table(columns), path)
    assert main(["neighbours", str(path)]) == 2
    assert "choose with layer= and pooling= (layer block_0, last)" in capfd.readouterr().err
