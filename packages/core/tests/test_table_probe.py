"""``jepa probe`` on embedding tables: folds that keep groups whole, controls held against the first, clear refusals."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jepa_core.cli import main


def write(path: Path, signal: float, samples: int = 120, first: int = 0, **columns: list[object]) -> Path:
    """A table of three classes and twelve groups; ``signal`` says how far the classes are apart."""
    random = np.random.default_rng([samples, first, int(100 * signal)])
    labels = np.arange(samples) % 3
    vectors = random.normal(size=(samples, 8)) + signal * np.eye(8)[labels]
    table = {
        "sample_id": [f"s{first + row}" for row in range(samples)],
        "label": [f"class {label}" for label in labels],
        "group": [f"g{(first + row) // 10}" for row in range(samples)],
        "vector": list(vectors),
    }
    pq.write_table(pa.table({**table, **columns}), path)
    return path


def test_controls_stand_beside_the_first_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good, poor = write(tmp_path / "trained.parquet", 4.0), write(tmp_path / "raw.parquet", 0.0)
    assert main(["probe", str(good), str(poor), f"out={tmp_path / 'found.json'}"]) == 0
    found = json.loads((tmp_path / "found.json").read_text())
    accuracy = {(row["table"], row["head"]): row["accuracy"] for row in found["rows"]}
    assert accuracy["trained", "linear"] > 0.95
    assert accuracy["raw", "linear"] < 0.55
    assert found["groups"] == 12
    assert "linear: trained is ahead of raw" in capsys.readouterr().out
    apart = next(row for row in found["differences"] if row["head"] == "linear")
    assert apart["difference"] == pytest.approx(accuracy["trained", "linear"] - accuracy["raw", "linear"])


def test_folds_by_group_and_a_test_split(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = write(tmp_path / "train.parquet", 4.0)
    assert main(["probe", str(table), "folds=groups", "heads=knn"]) == 0
    assert "12 folds" in capsys.readouterr().out
    other = write(tmp_path / "test.parquet", 4.0, samples=30, first=1000)
    assert main(["probe", str(table), f"test={other}", "heads=linear"]) == 0
    assert "Test split, 30 samples tested" in capsys.readouterr().out


def test_samples_without_label_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    labels: list[object] = [None, *(f"class {row % 3}" for row in range(1, 120))]
    assert main(["probe", str(write(tmp_path / "a.parquet", 4.0, label=labels)), "heads=knn"]) == 0
    assert "1 samples have no label" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["heads=liner"], "did you mean"),
        (["folds=1"], "folds: expected a whole number from 2"),
        (["test=a.parquet", "folds=3"], "folds: expected none beside test="),
        (["test=a.parquet"], "expected samples that are not in"),
        (["out=found.txt"], "ends in .json"),
        (["nonsense=1"], "nonsense"),
        (["layer=block_3"], "got unnamed/unnamed"),
        (["test=a.parquet,b.parquet"], "expected a table for each of the 1 tables, got 2"),
    ],
)
def test_refusals_are_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    words: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "a.parquet", 1.0)
    assert main(["probe", "a.parquet", *arguments]) == 2
    said = capsys.readouterr().err
    assert words in said
    assert said.count("\n") == 1


def test_a_group_on_both_sides_of_a_split_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    groups: list[object] = ["g0"] * 30
    train = write(tmp_path / "train.parquet", 1.0)
    test = write(tmp_path / "test.parquet", 1.0, samples=30, first=1000, group=groups)
    assert main(["probe", str(train), f"test={test}"]) == 2
    assert "expected every group on one side" in capsys.readouterr().err


def test_several_rows_of_a_sample_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names: list[object] = [f"s{row // 2}" for row in range(120)]
    assert main(["probe", str(write(tmp_path / "a.parquet", 1.0, sample_id=names))]) == 2
    assert "expected one row a sample" in capsys.readouterr().err
