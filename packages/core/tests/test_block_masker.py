"""Block masks: the published statistics in prefix mode, no bias in random mode, static lengths, purity."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from jepa_core.contracts import Grid, Mask, Masker, Sites
from jepa_core.lattice import Lattice
from jepa_core.masking.block import LONG, SHORT, MultiBlockMasker, TubeMasker, Tubes
from jepa_core.masking.layout import cover, covered_by_any, draw_places
from jepa_core.masking.random import RandomMasker
from jepa_core.masking.statistics import MaskTally, coverage, mask_statistics


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


class EvenSizes(MultiBlockMasker):
    """Goes evenly through the draws of both sizes: they move lengths more than all else, and are no question here."""

    def sides(self, lattice: Lattice, batch_seed: int) -> tuple[tuple[int, int], tuple[int, int]]:
        step = batch_seed // 7919
        return self._target(lattice, step * 0.6180339887 % 1), self._context(lattice, step * 0.7548776662 % 1)


@pytest.mark.parametrize(
    ("batch", "side", "expected", "batches"),
    # Mean context tokens of the released collator over all sizes, see benchmarks/vision/MASKS.md.
    [(8, 14, 63.8, 300), (32, 14, 56.3, 200), (128, 14, 50.4, 80), (8, 16, 86.3, 300), (32, 16, 76.7, 200)],
)
def test_prefix_contexts_are_as_long_as_those_of_the_released_collator(
    batch: int, side: int, expected: float, batches: int
) -> None:
    masks = drawn(EvenSizes(truncate="prefix", edges="inside"), lattice(side, side), batch, batches)
    assert mean_length(masks) == pytest.approx(expected, rel=0.02)


def test_prefix_targets_are_as_many_as_those_of_the_released_collator() -> None:
    masks = drawn(EvenSizes(truncate="prefix", edges="inside"), GRID, 32, 100)
    statistics = [mask_statistics(mask, 196) for (mask,) in masks]
    assert sum(s.block for s in statistics) / 100 == pytest.approx(33.3, rel=0.02)
    assert sum(s.union for s in statistics) / 100 == pytest.approx(87.2, rel=0.02)
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
    masks = [mask for (mask,) in drawn(MultiBlockMasker(edges="inside"), GRID, 512, 30)]
    context, targets = (
        coverage(one, 196).view(14, 14) for one in zip(*((m.context, m.targets) for m in masks), strict=True)
    )
    assert context.min() > 0 and targets.min() > 0, "every site is used on both sides"
    # Up and down, left and right are alike; with prefix the top row alone holds a fifth of all contexts.
    for share in (context, targets):
        for along in (0, 1):
            line = share.sum(1 - along)
            torch.testing.assert_close(line, line.flip(0), rtol=0.03, atol=0)


WRAPPED: list[tuple[Masker, Lattice]] = [
    (MultiBlockMasker(), lattice(6, 20)),
    (MultiBlockMasker(), lattice(9, 8)),
    (TubeMasker((SHORT,)), lattice(2, 8, 8)),
    (TubeMasker((LONG,)), lattice(3, 5, 9)),
    (TubeMasker((Tubes("parts", 4, (0.2, 0.4), 0.3, 0.08, time_scale=(0.3, 0.6)),)), lattice(6, 5, 6)),
]


def test_with_wrapped_blocks_every_site_is_used_within_three_percent_of_the_mean() -> None:
    masks = [mask for (mask,) in drawn(MultiBlockMasker(), GRID, 1024, 36)]
    for used in ([mask.context for mask in masks], [mask.targets for mask in masks]):
        share = coverage(used, 196)
        assert float((share / share.mean() - 1).abs().max()) < 0.03


@pytest.mark.parametrize(("masker", "where"), WRAPPED, ids=lambda x: type(x).__name__)
def test_wrapped_masks_are_even_on_any_lattice_but_for_chance(masker: Masker, where: Lattice) -> None:
    masks = [mask for (mask,) in drawn(masker, where, 512, 16)]
    for used in ([mask.context for mask in masks], [mask.targets for mask in masks]):
        share = coverage(used, where.count)
        z = (share - share.mean()) / (share.mean() * (1 - share.mean()) / (512 * 16)).sqrt()
        assert float(z.square().mean()) < 2 and float(z.abs().max()) < 4.5


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


def test_blocks_all_along_an_axis_are_covered_as_any_others() -> None:
    places = draw_places(torch.arange(5), (3, 4), [4, 6, 7], 9)
    for sides in ((4, 3, 2), (4, 6, 2), (2, 6, 3), (4, 6, 7)):
        assert torch.equal(covered_by_any(places, sides, (4, 6, 7)), cover(places, sides, (4, 6, 7)).any(-2))
    assert cover(torch.tensor([5, 6]), (2, 3), (6, 8)).view(6, 8).nonzero().tolist() == [
        [0, 0], [0, 6], [0, 7], [5, 0], [5, 6], [5, 7],
    ]  # fmt: skip


class EvenTubes(TubeMasker):
    """As :class:`EvenSizes`."""

    def sides(self, place: int, lattice: Lattice, batch_seed: int) -> tuple[int, int, int]:
        return self.sets[place].sides(lattice, 0, 0, batch_seed // 7919 * 0.6180339887 % 1)


@pytest.mark.parametrize(
    ("batch", "batches", "short", "long"),
    # Context and targets of the released collator as shares of all sites, see benchmarks/vision/MASKS.md.
    [(2, 600, (0.331, 0.585), (0.149, 0.773)), (24, 250, (0.233, 0.478), (0.0625, 0.704))],
)
def test_prefix_tubes_are_as_long_as_those_of_the_released_collator(
    batch: int, batches: int, short: tuple[float, float], long: tuple[float, float]
) -> None:
    # One frame: a tube is the same in all.
    masks = drawn(EvenTubes(truncate="prefix", edges="inside"), FRAME, batch, batches)
    for place, (context, target) in enumerate((short, long)):
        assert mean_target(masks, place) / 196 == pytest.approx(target, rel=0.02)
        assert mean_length(masks, place) / 196 == pytest.approx(context, rel=0.03 if place == 0 else 0.06)


def test_prefix_tubes_starve_late_frames_and_random_ones_do_not() -> None:
    released = [0.20, 0.20, 0.20, 0.18, 0.13, 0.07, 0.03, 0.01]
    found = _time_shares([m[0].context.ids for m in drawn(TubeMasker(truncate="prefix", edges="inside"), CLIP, 24, 40)])
    assert found.tolist() == pytest.approx(released, abs=0.02)
    for place in (0, 1):
        masks = drawn(TubeMasker(), CLIP, 24, 10)
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


def test_short_and_long_tubes_have_their_aspect_from_one_draw() -> None:
    masker = TubeMasker()
    pairs = [(masker.sides(0, CLIP, seed), masker.sides(1, CLIP, seed)) for seed in range(60)]
    for (_, high, wide), (_, long_high, long_wide) in pairs:
        assert (high > wide) == (long_high > long_wide) or high == wide or long_high == long_wide
    assert len({sides for sides, _ in pairs}) > 1


def test_wrapped_tubes_find_room_for_all_sites() -> None:
    # With eight layouts one sample in sixty had too little context beside two long tubes.
    for masks in drawn(TubeMasker(), FRAME, 1024, 4):
        assert [mask_statistics(mask, 196).repeated for mask in masks] == [0, 0]


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


def test_what_only_some_batches_could_not_keep_to_is_refused_at_once() -> None:
    # 160 sites are left beside a block of 36, not beside one of 40.
    masker = MultiBlockMasker(context_tokens=158)
    sizes = [math.prod(masker.sides(GRID, seed)[0]) for seed in range(400)]
    assert min(sizes) < 37 and max(sizes) == 40
    with pytest.raises(ValueError, match="context_tokens: expected at most 156"):
        masker(Grid(GRID), torch.arange(2), sizes.index(min(sizes)))


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
        (lambda: TubeMasker((Tubes("x", 2, (0.1, 0.2), 0.1, 0.5),))(Grid(CLIP), torch.arange(2), 0), "target_share"),
        (lambda: TubeMasker((Tubes("x", 2, (0.7, 0.7), 0.4, 0.5),))(Grid(CLIP), torch.arange(2), 0), "context_share"),
        (lambda: TubeMasker((Tubes("x", 2, (1, 1), 0.1, 0.5),))(Grid(CLIP), torch.arange(2), 0), "finer"),
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


def test_a_tally_counts_lengths_and_uses_over_batches() -> None:
    tally = MaskTally("m", lattice(2, 3))
    for context, blocks in (([0, 1], [[3], [4]]), ([1, 2], [[3], [3]])):
        sites = Sites(torch.tensor([context]))
        tally.add(Mask("m", sites, Sites(torch.tensor([blocks])), sites), None)
    title, head, context_line, block, together = tally.lines()
    assert title == "m: 2 batches of 1 on 2 x 3 sites (y, x)" and head.split()[:3] == ["mean", "least", "most"]
    # Site 1 holds 2 of the 4 entries of context, where even use of six sites gives each 4 / 6.
    assert context_line.split()[1:6] == ["2.0", "2", "2", "0.00", "3.00"]
    assert context_line.split()[-4:] == ["2.00", "0.00", "0.75", "0.75"]
    assert block.split()[4:] == ["1.0", "1", "1"]
    assert together.split()[2:7] == ["1.5", "1", "2", "0.00", "4.00"]


def test_a_tally_tells_chance_from_bias_and_leaves_absent_sites_out() -> None:
    where, present = lattice(6, 6), torch.arange(36).expand(400, -1) % 6 > 0
    even, uneven = MaskTally("even", where), MaskTally("uneven", where)
    for batch in range(4):
        (mask,) = RandomMasker(0.5)(Grid(where, present=present), torch.arange(400) + 400 * batch, 0)
        even.add(mask, present)
    for (mask,) in drawn(MultiBlockMasker(edges="inside"), where, 400, 4):
        uneven.add(mask, None)
    relative = even.seen.relative()
    assert bool(relative.view(6, 6)[:, 0].isnan().all()) and even.lines()[2].split()[-2] == "-"
    assert float((relative - 1).abs().nan_to_num().max()) < 1.5 * even.seen.by_chance()
    assert float((uneven.hidden.relative() - 1).abs().max()) > 4 * uneven.hidden.by_chance()
