"""metrics.jsonl: strict JSON, survives kill -9 and resume."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from jepa_core.monitor.loggers import MetricsFile, read_metrics


def reject_constant(name: str) -> float:
    raise AssertionError(f"{name} is no JSON")


def test_round_trip_with_figures_json_does_not_have(tmp_path: Path) -> None:
    file = MetricsFile(tmp_path / "deep" / "metrics.jsonl")
    file.append(1, {"loss": 0.5, "rank": 7})
    file.append(2, {"loss": math.nan, "a": math.inf, "b": -math.inf})
    for line in file.path.read_text().splitlines():
        json.loads(line, parse_constant=reject_constant)
    first, second = read_metrics(file.path)
    assert (first["step"], first["loss"], first["rank"]) == (1, 0.5, 7.0) and first["time"] > 1e9
    assert math.isnan(second["loss"]) and second["a"] == math.inf and second["b"] == -math.inf
    assert "nonfinite" not in second


def test_each_line_is_on_disk_when_append_returns(tmp_path: Path) -> None:
    file = MetricsFile(tmp_path / "metrics.jsonl")
    for step in range(3):
        file.append(step, {"loss": 1.0})
        assert len(read_metrics(file.path)) == step + 1


def test_names_the_file_uses_itself_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="step"):
        MetricsFile(tmp_path / "metrics.jsonl").append(1, {"step": 3.0})


def test_truncate_drops_later_lines_only_and_leaves_nothing_beside(tmp_path: Path) -> None:
    file = MetricsFile(tmp_path / "metrics.jsonl")
    for step in (10, 20, 30, 40):
        file.append(step, {"loss": float(step)})
    before = file.path.read_text().splitlines()
    assert file.truncate_after(20) == 2
    assert file.path.read_text().splitlines() == before[:2]
    assert file.truncate_after(20) == 0
    file.append(30, {"loss": 0.0})
    assert [row["step"] for row in read_metrics(file.path)] == [10, 20, 30]
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_truncate_without_a_file(tmp_path: Path) -> None:
    assert MetricsFile(tmp_path / "metrics.jsonl").truncate_after(5) == 0


@pytest.mark.parametrize("cut", [1, 5, 20])
def test_torn_last_line_is_dropped_loudly(tmp_path: Path, cut: int) -> None:
    file = MetricsFile(tmp_path / "metrics.jsonl")
    file.append(1, {"loss": 1.0})
    file.append(2, {"loss": 2.0})
    file.path.write_bytes(file.path.read_bytes()[:-cut])
    with pytest.warns(UserWarning, match="torn"):
        assert [row["step"] for row in read_metrics(file.path)] == [1]
    with pytest.warns(UserWarning, match="torn"):
        again = MetricsFile(file.path)
    again.append(2, {"loss": 2.0})
    assert [row["step"] for row in read_metrics(file.path)] == [1, 2]


@pytest.mark.parametrize("line", ["{", "[]", '{"loss": 1}', '{"step": "a"}'])
def test_broken_line_in_the_middle_is_an_error_with_its_number(tmp_path: Path, line: str) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n' + line + '\n{"step": 3}\n')
    with pytest.raises(ValueError, match="line 2"):
        read_metrics(path)
