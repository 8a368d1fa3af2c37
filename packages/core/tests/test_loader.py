"""The loader: content depends on (seed, position), never on workers; bad samples are replaced and told."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest
import torch
from toy import ToySource

from jepa_core.contracts import Batch
from jepa_core.data.loader import Loader, choose_workers
from jepa_core.data.move import describe, map_tensors, to_device
from jepa_core.data.sampler import Sampler
from jepa_core.errors import ConfigError, DataError, UserError
from jepa_core.seeds import sample_seed


def batches(source: ToySource, count: int, workers: int = 0, position: int = 0, **ranks: int) -> list[Batch]:
    loader = Loader(source, Sampler(len(source), 7, 4, position=position, **ranks), 7, workers)
    out = [loader.next() for _ in range(count)]
    assert loader.global_position == position + count * 4 * ranks.get("world", 1)
    loader.close()
    return out


def same(a: list[Batch], b: list[Batch]) -> bool:
    return all(
        torch.equal(x.inputs, y.inputs)
        and torch.equal(x.seeds, y.seeds)
        and (x.sample_id, x.batch_seed, x.rejected) == (y.sample_id, y.batch_seed, y.rejected)
        for x, y in zip(a, b, strict=True)
    )


def test_workers_change_nothing_and_a_middle_start_goes_on_exactly() -> None:
    source = ToySource(bad=(2,))
    alone = batches(source, 8)
    assert same(alone, batches(source, 8, workers=2))
    assert same(alone[3:], batches(source, 5, workers=2, position=12))


def test_seeds_come_from_seed_epoch_and_name() -> None:
    batch = batches(ToySource(total=4), 2)[1]
    assert batch.seeds.tolist() == [sample_seed(7, 1, name) for name in batch.sample_id]
    assert batch.seeds.dtype == torch.int64


def test_processes_join_to_the_batch_of_one() -> None:
    left, right = (batches(ToySource(), 1, rank=rank, world=2)[0] for rank in (0, 1))
    loader = Loader(ToySource(), Sampler(23, 7, 8), 7)
    whole = loader.next()
    assert whole.sample_id == left.sample_id + right.sample_id
    assert torch.equal(whole.inputs, torch.cat([left.inputs, right.inputs]))
    assert whole.batch_seed == left.batch_seed == right.batch_seed


def test_the_loader_leaves_global_randomness_alone() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    batches(ToySource(), 2, workers=1)
    assert torch.equal(before, torch.get_rng_state())


def test_bad_samples_are_replaced_and_told() -> None:
    found = [batch for batch in batches(ToySource(total=8, bad=(1, 5)), 2) if batch.rejected]
    assert {name for batch in found for name, _ in batch.rejected} == {"toy-1", "toy-5"}
    assert all("broken on purpose" in reason for batch in found for _, reason in batch.rejected)
    assert all(not {"toy-1", "toy-5"} & set(batch.sample_id) for batch in found)


@pytest.mark.parametrize("workers", [0, 1])
def test_no_usable_sample_at_all_is_one_clean_line(workers: int) -> None:
    loader = Loader(ToySource(total=5, bad=(0, 1, 2, 3, 4)), Sampler(5, 0, 2), 0, workers)
    with pytest.raises(DataError, match="no usable sample") as caught:
        loader.next()
    assert "Traceback" not in str(caught.value)
    loader.close()


def test_a_signal_to_the_whole_job_leaves_the_workers_at_work() -> None:
    loader = Loader(ToySource(), Sampler(23, 7, 4), 7, workers=1)
    loader.next()
    workers = multiprocessing.active_children()
    assert workers
    for worker in workers:
        assert worker.pid is not None
        os.kill(worker.pid, signal.SIGTERM)
        os.kill(worker.pid, signal.SIGINT)
    assert same([loader.next() for _ in range(8)], batches(ToySource(), 9)[1:])
    loader.close()
    for worker in workers:
        worker.join(timeout=10)
        assert worker.exitcode == 0


def test_what_a_source_has_to_say_in_a_worker_stays_one_line() -> None:
    class Unusable(ToySource):
        def load(self, index: int, seed: int) -> torch.Tensor:
            raise ConfigError("data.root: install the reader first")

    loader = Loader(Unusable(), Sampler(23, 0, 2), 0, workers=1)
    with pytest.raises(DataError, match="^data.root: install the reader first$"):
        loader.next()
    loader.close()


def test_a_file_that_cannot_be_read_counts_as_bad() -> None:
    class Missing(ToySource):
        def load(self, index: int, seed: int) -> torch.Tensor:
            if index == 0:
                raise FileNotFoundError("gone.wav")
            return super().load(index, seed)

    rejected = [entry for batch in batches(Missing(total=4), 1) for entry in batch.rejected]
    assert rejected == [("toy-0", "gone.wav")]


def test_a_programming_error_is_not_a_bad_sample() -> None:
    class Broken(ToySource):
        def load(self, index: int, seed: int) -> torch.Tensor:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        batches(Broken(), 1)


def test_workers_are_chosen_with_a_reason() -> None:
    assert choose_workers("auto", 1, cores=2)[0] == 0
    assert choose_workers("auto", 1, cores=6)[0] == 5
    assert choose_workers("auto", 4, cores=8)[0] == 1
    assert choose_workers("auto", 1, cores=64)[0] == 8
    assert choose_workers("3", 1, cores=2) == (3, "as set by data.workers")
    with pytest.raises(UserError, match="data.workers"):
        choose_workers("many", 1)


class Pair(NamedTuple):
    a: Any
    b: Any


@dataclass(frozen=True)
class Scan:
    points: torch.Tensor
    name: str


class Own:
    def __init__(self) -> None:
        self.at: object = None

    def to(self, device: torch.device) -> Own:
        self.at = device
        return self


def test_nested_inputs_move() -> None:
    device = torch.device("meta")
    x = torch.zeros(2, 3)
    moved = to_device([Scan(x, "s"), {"k": (x, Pair(x, 1))}, OrderedDict(a=x), None, Own()], device)
    assert moved[0].points.device == device and moved[0].name == "s"
    assert moved[1]["k"][0].device == device and isinstance(moved[1]["k"][1], Pair) and moved[1]["k"][1].b == 1
    assert isinstance(moved[2], OrderedDict) and moved[3] is None and moved[4].at == device
    assert map_tensors(Scan(x, "s"), lambda t: t + 1).points.sum() == 6
    assert describe({"a": [x]}) == [("inputs.a.0", "[2, 3]", "float32")]
