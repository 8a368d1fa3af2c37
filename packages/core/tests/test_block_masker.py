"""Block masks: the published statistics in prefix mode, no bias in random mode, static lengths, purity."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from jepa_core.contracts import Grid, Mask, Masker, Sites
from jepa_core.lattice import Lattice
from jepa_core.masking.block import LONG, SHORT, MultiBlockMasker, TubeMasker, Tubes
from jepa_core.masking.statistics import coverage, mask_statistics


def lattice(*sizes: int) -> Lattice:
    n = len(sizes)
    return Lattice(("t", "y", "x")[-n:], sizes, (1.0,) * n, ("px",) * n, (0.0,) * n)


GRID = lattice(14, 14)
CLIP = lattice(8, 14, 14)
FRAME = lattice(1, 14, 14)


def drawn(masker: Masker, where: Lattice, batch: int, batches: int) -> list[tuple[Mask, ...]]:
    return [masker(Grid(where), torch.arange(batch) + 1_000_003 * i + 17, 7919 * i + 3) for i in range(batches)]


def mean_length(masks: Sequence[tuple[Mask, ...]], place: int = 0) -> float:
    return sum(one[place].context.ids.shape[-1] for one in masks) / len(masks)


def mean_target(masks: Sequence[tuple[Mask, ...]], place: int = 0) -> float:
    return sum(one[place].targets.ids.shape[-1] for one in masks) / len(masks)


# ------------------------------------------------------------------------------------------------------------ I-JEPA


@pytest.mark.parametrize(
    ("batch", "side", "expected", "batches"),
    # Mean context tokens of the released collator at these batch sizes.
    [(8, 14, 64.1, 900), (32, 14, 56.5, 700), (128, 14, 50.6, 300), (8, 16, 86.0, 900), (32, 16, 76.8, 700)],
)
def test_prefix_contexts_are_as_long_as_those_of_the_released_collator(
    batch: int, side: int, expected: float, batches: int
) -> None:
    masks = drawn(MultiBlockMasker(truncate="prefix", edges="inside"), lattice(side, side), batch, batches)
    assert mean_length(masks) == pytest.approx(expected, rel=0.02)


def test_prefix_targets_are_as_many_as_those_of_the_released_collator() -> None:
    masks = drawn(MultiBlockMasker(truncate="prefix", edges="inside"), GRID, 32, 300)
    statistics = [mask_statistics(mask, 196) for (mask,) in masks]
    assert sum(s.block for s in statistics) / 300 == pytest.approx(33.3, rel=0.02)
    assert sum(s.union for s in statistics) / 300 == pytest.approx(87, rel=0.02)
    assert {s.blocks for s in statistics} == {4} and not any(s.repeated for s in statistics)


def test_prefix_uses_the_top_and_never_the_last_row_and_column() -> None:
    masks = drawn(MultiBlockMasker(truncate="prefix", edges="inside"), GRID, 128, 60)
    for used in ([mask.context for (mask,) in masks], [mask.targets for (mask,) in masks]):
        share = coverage(used, 196).view(14, 14)
        assert share[:13, :13].min() > 0 and share[13].max() == 0 and share[:, 13].max() == 0
    rows = coverage([mask.context for (mask,) in masks], 196).view(14, 14).sum(1)
    assert float(rows[0] / rows.sum()) == pytest.approx(0.21, abs=0.015)
    assert float(rows[-3:].sum() / rows.sum()) == pytest.approx(0.02, abs=0.01)


def test_prefix_lets_go_of_targets_one_by_one_when_nothing_is_left() -> None:
    # Four blocks of nearly half of the grid leave nothing; the first few complements have to go.
    masker = MultiBlockMasker(target_scale=(0.49, 0.5), target_aspect=(1, 1), truncate="prefix", edges="inside")
    (mask,) = masker(Grid(lattice(12, 12)), torch.arange(64), 0)
    assert mask.context.ids.shape[1] > 10
    assert bool((mask.context.on_lattice(144) & mask.targets.on_lattice(144)).any())


def test_targets_are_rectangles_of_the_four_known_sizes_and_the_context_avoids_them() -> None:
    sizes = set()
    for (mask,) in drawn(MultiBlockMasker(edges="inside"), GRID, 4, 200):
        assert mask.context.ids.shape == (4, 56) and mask.context.valid is None and mask.targets.valid is None
        sizes.add(mask.targets.ids.shape[2])
        assert not bool((mask.context.on_lattice(196) & mask.targets.on_lattice(196)).any())
        places = GRID.coordinates(mask.targets.ids)
        spans = places.amax(2) - places.amin(2) + 1
        assert bool((spans.prod(-1) == mask.targets.ids.shape[2]).all()), "a block is a full rectangle"
        assert torch.equal(mask.target_union.on_lattice(196), mask.targets.on_lattice(196))
    assert sizes == {30, 35, 36, 40}


def test_random_truncation_picks_every_eligible_site_alike() -> None:
    masks = [mask for (mask,) in drawn(MultiBlockMasker(edges="inside"), GRID, 256, 120)]
    context, targets = (
        coverage(one, 196).view(14, 14) for one in zip(*((m.context, m.targets) for m in masks), strict=True)
    )
    assert context.min() > 0 and targets.min() > 0, "every site is used on both sides"
    # Up and down, left and right are alike; with prefix the top row alone holds a fifth of all contexts.
    for share in (context, targets):
        for along in (0, 1):
            line = share.sum(1 - along)
            torch.testing.assert_close(line, line.flip(0), rtol=0.03, atol=0)


def test_with_wrapped_blocks_every_site_is_used_equally_often() -> None:
    masks = [mask for (mask,) in drawn(MultiBlockMasker(edges="wrap"), GRID, 512, 160)]
    for used in ([mask.context for mask in masks], [mask.targets for mask in masks]):
        share = coverage(used, 196)
        assert float((share / share.mean() - 1).abs().max()) < 0.03


def test_a_layout_without_room_repeats_sites_and_says_so() -> None:
    masker = MultiBlockMasker(target_scale=(0.45, 0.5), context_tokens=80)
    (mask,) = masker(Grid(GRID), torch.arange(64), 1)
    assert mask.context.ids.shape == (64, 80)
    assert not bool((mask.context.on_lattice(196) & mask.targets.on_lattice(196)).any())
    repeated = mask_statistics(mask, 196).repeated
    assert repeated > 0 and f"repeated sites in {repeated} samples" in mask_statistics(mask, 196).sentence()
    (usual,) = MultiBlockMasker()(Grid(GRID), torch.arange(2048), 1)
    assert mask_statistics(usual, 196).repeated == 0


def test_grids_need_not_be_square() -> None:
    where = lattice(6, 20)
    (mask,) = MultiBlockMasker()(Grid(where), torch.arange(8), 0)
    assert mask.context.ids.shape == (8, round(120 * 2 / 7)) and int(mask.targets.ids.max()) < 120


# ------------------------------------------------------------------------------------------------------------ V-JEPA


def slow_tubes(sides: tuple[int, int, int], blocks: int, rng: random.Random) -> tuple[int, int]:
    """Sites of a sample's context and of its union in one frame, counted one by one."""
    _, high, wide = sides
    while True:
        hidden = set()
        for _ in range(blocks):
            top, left = rng.randint(0, 14 - high), rng.randint(0, 14 - wide)
            hidden |= {(y, x) for y in range(top, top + high) for x in range(left, left + wide)}
        if len(hidden) < 196:
            return 196 - len(hidden), len(hidden)


@pytest.mark.parametrize("place", [0, 1])
def test_prefix_tubes_are_as_long_as_when_counted_one_by_one(place: int) -> None:
    # One frame: a tube is the same in all. Sizes are given, so that only places are drawn on both sides.
    masker, rng = TubeMasker(truncate="prefix", edges="inside"), random.Random(0)
    ours, theirs = [], []
    for masks, batch_seed in zip(drawn(masker, FRAME, 2, 1500), range(3, 10**9, 7919), strict=False):
        sides = masker.sides(place, FRAME, batch_seed)
        ours.append((masks[place].context.ids.shape[1], masks[place].targets.ids.shape[2]))
        pair = [slow_tubes(sides, masker.sets[place].blocks, rng) for _ in range(2)]
        theirs.append((min(c for c, _ in pair), min(t for _, t in pair)))
    for mine, other in zip(zip(*ours, strict=True), zip(*theirs, strict=True), strict=True):
        assert sum(mine) / len(mine) == pytest.approx(sum(other) / len(other), rel=0.02 if place == 0 else 0.04)


def test_prefix_tubes_match_the_released_collator() -> None:
    masks = drawn(TubeMasker(truncate="prefix", edges="inside"), FRAME, 24, 700)
    for place, (context, target) in enumerate([(0.233, 0.479), (0.065, 0.703)]):
        assert mean_target(masks, place) / 196 == pytest.approx(target, rel=0.02)
        assert mean_length(masks, place) / 196 == pytest.approx(context, abs=0.006)


def test_prefix_tubes_starve_late_frames_and_random_ones_do_not() -> None:
    released = [0.20, 0.20, 0.20, 0.18, 0.13, 0.07, 0.03, 0.01]
    found = _time_shares([m[0].context.ids for m in drawn(TubeMasker(truncate="prefix", edges="inside"), CLIP, 24, 60)])
    assert found.tolist() == pytest.approx(released, abs=0.02)
    for place in (0, 1):
        masks = drawn(TubeMasker(), CLIP, 24, 40)
        for ids in ([m[place].context.ids for m in masks], [m[place].targets.ids for m in masks]):
            assert _time_shares(ids).tolist() == pytest.approx([1 / 8] * 8, rel=0.03)


def _time_shares(ids: Sequence[Tensor]) -> Tensor:
    times = torch.cat([(one // 196).flatten() for one in ids]).bincount(minlength=8).double()
    return times / times.sum()


def test_random_tubes_have_fixed_lengths_and_disjoint_lists() -> None:
    for masks in drawn(TubeMasker(), CLIP, 16, 12):
        for mask, tubes in zip(masks, (SHORT, LONG), strict=True):
            assert mask.context.ids.shape == (16, round(tubes.context_share * 1568))
            assert mask.targets.ids.shape == (16, 1, round(tubes.target_share * 1568))
            assert not bool((mask.context.on_lattice(1568) & mask.targets.on_lattice(1568)).any())
            assert mask_statistics(mask, 1568).repeated == 0
            assert mask.name == tubes.name and mask.targets.valid is None


def test_wrapped_tubes_use_every_place_equally_often() -> None:
    masks = drawn(TubeMasker((SHORT,), edges="wrap"), lattice(2, 8, 8), 512, 120)
    for used in ([m[0].context for m in masks], [m[0].targets for m in masks]):
        share = coverage(used, 128)
        assert float((share / share.mean() - 1).abs().max()) < 0.03


# ------------------------------------------------------------------------------------------------------------ purity


@pytest.mark.parametrize(("masker", "where"), [(MultiBlockMasker(), GRID), (TubeMasker(), CLIP)])
def test_a_sample_has_the_same_mask_in_any_batch_of_the_same_batch_seed(masker: Masker, where: Lattice) -> None:
    seeds = torch.tensor([11, 12, 13])
    together, alone = masker(Grid(where), seeds, 5), masker(Grid(where), seeds[1:2], 5)
    for one, other in zip(together, alone, strict=True):
        assert torch.equal(one.context.ids[1:2], other.context.ids)
        assert torch.equal(one.targets.ids[1:2], other.targets.ids)
        assert not torch.equal(one.context.ids[0], one.context.ids[2])
    again = masker(Grid(where), seeds, 5)
    assert all(torch.equal(a.context.ids, b.context.ids) for a, b in zip(together, again, strict=True))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize(("masker", "where"), [(MultiBlockMasker(), GRID), (TubeMasker(), CLIP)])
def test_masks_are_the_same_on_every_device(masker: Masker, where: Lattice) -> None:
    seeds = torch.arange(8)
    for one, other in zip(masker(Grid(where), seeds, 5), masker(Grid(where), seeds.cuda(), 5), strict=True):
        assert torch.equal(one.context.ids, other.context.ids.cpu())
        assert torch.equal(one.targets.ids, other.targets.ids.cpu())


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: MultiBlockMasker(target_scale=(0.2, 0.1)), "target_scale"),
        (lambda: MultiBlockMasker(context_scale=(0.5, 1.5)), "context_scale"),
        (lambda: MultiBlockMasker(truncate="prefix", edges="wrap"), "truncate=random with wrap"),
        (lambda: MultiBlockMasker(truncate="middle"), "random or prefix"),  # type: ignore[arg-type]  # on purpose
        (lambda: MultiBlockMasker(blocks=0), "blocks"),
        (lambda: Tubes("x", 0, (0.1, 0.2), 0.1, 0.5), "at least one block"),
        (lambda: Tubes("x", 2, (0.1, 0.2), 0.6, 0.5), "together at most 1"),
        (lambda: TubeMasker((SHORT, SHORT)), "name of its own"),
        (lambda: MultiBlockMasker()(Grid(CLIP), torch.arange(2), 0), "2 axes"),
        (lambda: TubeMasker()(Grid(GRID), torch.arange(2), 0), "3 axes"),
        (lambda: MultiBlockMasker(context_tokens=190)(Grid(GRID), torch.arange(2), 0), "context_tokens"),
        (
            lambda: MultiBlockMasker(truncate="prefix", edges="inside")(Grid(lattice(4, 4)), torch.arange(2), 0),
            "min_keep",
        ),
        (lambda: MultiBlockMasker(target_scale=(1, 1), target_aspect=(1, 1))(Grid(GRID), torch.arange(2), 0), "finer"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(make: object, says: str) -> None:
    assert callable(make)
    with pytest.raises(ValueError, match=says) as caught:
        make()
    assert "\n" not in str(caught.value)


def test_statistics_do_not_count_what_is_not_valid() -> None:
    ids = torch.tensor([[1, 1, 2, 2]])
    sites = Sites(ids, torch.tensor([[True, False, True, False]]))
    mask = Mask("m", sites, Sites(ids[:, None], torch.tensor([[[True, False, False, True]]])), sites)
    found = mask_statistics(mask, 6)
    assert (found.context, found.block, found.union, found.repeated) == (2.0, 2.0, 2.0, 0)
    assert "context 2.0 of 6 sites (33 %), 1 target block of 2.0 sites" in found.sentence()
    assert math.isclose(float(coverage([sites], 6).sum()), 2)
