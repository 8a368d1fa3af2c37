"""The order of samples: pure in (seed, epoch), endless, equal for any number of processes."""

from __future__ import annotations

from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jepa_core.data.sampler import Draw, Sampler
from jepa_core.errors import UserError


def take(sampler: Sampler, count: int) -> list[Draw]:
    """The draws of the next ``count`` micro-batches."""
    return [draw for micro in islice(iter(sampler), count) for draw in micro.draws]


def test_each_epoch_holds_every_sample_once_and_differs() -> None:
    draws = take(Sampler(total=10, seed=3, batch_size=5), 4)
    first, second = draws[:10], draws[10:]
    assert sorted(d.index for d in first) == sorted(d.index for d in second) == list(range(10))
    assert {d.epoch for d in first} == {0} and {d.epoch for d in second} == {1}
    assert [d.index for d in first] != [d.index for d in second]
    assert draws == take(Sampler(total=10, seed=3, batch_size=5), 4)
    assert draws != take(Sampler(total=10, seed=4, batch_size=5), 4)


def test_the_last_batch_of_an_epoch_is_filled_from_the_next() -> None:
    draws = take(Sampler(total=7, seed=0, batch_size=5), 2)
    assert [d.epoch for d in draws] == [0] * 7 + [1] * 3


@given(total=st.integers(1, 40), batch=st.integers(1, 9), world=st.integers(1, 5), start=st.integers(0, 200))
def test_processes_split_what_one_process_would_take(total: int, batch: int, world: int, start: int) -> None:
    ranks = [Sampler(total, 1, batch, rank, world, start).at(start) for rank in range(world)]
    alone = Sampler(total, 1, batch * world, position=start).at(start)
    assert tuple(draw for micro in ranks for draw in micro.draws) == alone.draws
    assert {micro.batch_seed for micro in ranks} == {alone.batch_seed}


def test_a_run_goes_on_with_another_number_of_processes() -> None:
    whole = take(Sampler(20, 0, 2), 12)
    begun = Sampler(20, 0, 2)
    take(begun, 4)
    assert begun.global_position == 8
    rest = Sampler(20, 0, 2, rank=1, world=2, position=begun.global_position)
    assert take(rest, 1) == whole[10:12]


def test_a_data_set_smaller_than_a_batch_gives_several_epochs() -> None:
    draws = take(Sampler(total=3, seed=0, batch_size=8), 1)
    assert [d.epoch for d in draws] == [0, 0, 0, 1, 1, 1, 2, 2]
    assert sorted(d.index for d in draws[:3]) == [0, 1, 2]


def test_the_order_is_pinned() -> None:
    # Changes only when a run could no longer be resumed or repeated: then the checkpoint format must change too.
    assert Sampler(8, 0, 8).order(0).tolist() == [4, 0, 7, 6, 2, 1, 5, 3]


def test_an_empty_data_set_is_refused() -> None:
    with pytest.raises(UserError, match="empty"):
        Sampler(0, 0, 1)
