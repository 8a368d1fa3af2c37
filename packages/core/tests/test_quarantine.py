"""The quarantine: each bad sample once, the limit, several processes, and a file that survives."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from jepa_core.data.quarantine import Quarantine
from jepa_core.errors import DataError, UserError


def test_each_sample_is_written_once(tmp_path: Path) -> None:
    path = tmp_path / "quarantine.jsonl"
    quarantine = Quarantine(path, total=100, max_fraction=0.05)
    quarantine.add([("a", "torn"), ("a", "torn again"), ("b", "empty")], step=1)
    assert not path.exists() and quarantine.waiting == 2
    assert quarantine.join() == {"a": "torn", "b": "empty"}
    quarantine.add([("a", "torn")], step=2)
    assert quarantine.waiting == 0 and quarantine.join() == {}
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert lines == [{"sample_id": "a", "reason": "torn", "step": 1}, {"sample_id": "b", "reason": "empty", "step": 1}]


@pytest.mark.parametrize(
    ("total", "fraction", "allowed"), [(20, 0.05, 1), (19, 0.05, 1), (100, 0.05, 5), (100, 0.29, 29), (100, 0.0, 0)]
)
def test_one_more_than_allowed_stops(tmp_path: Path, total: int, fraction: float, allowed: int) -> None:
    quarantine = Quarantine(tmp_path / "q.jsonl", total, fraction)
    quarantine.add([(f"s{k}", "bad") for k in range(allowed)], 1)
    quarantine.join()
    quarantine.add([("one-more", "torn file")], 2)
    with pytest.raises(DataError, match=f"{allowed + 1} of {total} .*one-more: torn file"):
        quarantine.join()


def test_processes_are_joined_and_only_the_first_writes(tmp_path: Path) -> None:
    others = {"a": ("torn", 3), "c": ("empty", 3)}

    def gather(value: object) -> list:
        return [value, others] if isinstance(value, dict) and "b" in value else [value]

    path = tmp_path / "q.jsonl"
    for rank, exists in ((1, False), (0, True)):
        quarantine = Quarantine(path, 100, 0.05, gather, rank)
        quarantine.add([("a", "torn"), ("b", "late")], 3)
        assert set(quarantine.join()) == {"a", "b", "c"}
        assert path.exists() == exists
    assert len(path.read_text().splitlines()) == 3


def test_a_resumed_run_knows_what_was_bad_before_even_after_a_torn_line(tmp_path: Path) -> None:
    path = tmp_path / "q.jsonl"
    path.write_text('{"sample_id": "a", "reason": "torn", "step": 1}\n{"sample_id": "b", "rea')
    assert Quarantine(path, 10, 0.5).bad == {"a": "torn"}


def test_an_impossible_fraction_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="max_bad_fraction"):
        Quarantine(tmp_path / "q", 10, 5)
