"""Every masker for grids with absent sites: disjoint lists, purity, absent sites, padded clips, counts, messages."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from jepa_core.contracts import Grid, Mask, Masker, Sites
from jepa_core.lattice import Lattice
from jepa_core.masking.block import MultiBlockMasker
from jepa_core.masking.curriculum import Curriculum, RootCurriculum
from jepa_core.masking.extent import extents, sides_within
from jepa_core.masking.future import FutureMasker
from jepa_core.masking.inverse_block import InverseBlockMasker
from jepa_core.masking.layout import fitted_sides
from jepa_core.masking.padded import keep_one_of_both, part_of, share_of
from jepa_core.masking.random import RandomMasker
from jepa_core.masking.spans import SpanMasker, long_runs
from jepa_core.masking.statistics import MaskTally, mask_statistics
from jepa_core.masking.time import TimeMasker
from jepa_core.masking.time_frequency import TimeFrequencyMasker


def lattice(*sizes: int) -> Lattice:
    n = len(sizes)
    return Lattice(("t", "f")[:n], sizes, (0.1,) * n, ("s", "bin")[:n], (0.0,) * n)


class Case(NamedTuple):
    make: Callable[[], Masker]
    sizes: tuple[int, ...]


# Sizes whose halves have whole counts, so that nothing but rounding could set a padded clip apart.
CASES = {
    "random": Case(lambda: RandomMasker(0.6), (40, 4)),
    "time": Case(lambda: TimeMasker(0.6), (40, 4)),
    "time spans": Case(lambda: TimeMasker(0.5, 5), (40, 4)),
    "time, one axis": Case(lambda: TimeMasker(0.6, 3), (60,)),
    "inverse block": Case(lambda: InverseBlockMasker(masks=3), (40, 10)),
    "spans": Case(SpanMasker, (200,)),
    "speech spans": Case(SpanMasker.speech, (200,)),
    "blocks": Case(MultiBlockMasker, (28, 14)),
    "fitted blocks": Case(lambda: MultiBlockMasker(edges="inside", fit="fitted"), (56, 4)),
    "time-frequency": Case(TimeFrequencyMasker, (64, 8)),
    "wrapped time-frequency": Case(lambda: TimeFrequencyMasker(edges="wrap"), (64, 8)),
    "curriculum": Case(lambda: RootCurriculum(100).at(30), (56, 8)),
}
UNEQUAL = ("spans", "speech spans")
SEEDS = torch.arange(12) * 7919 + 5
every_masker = pytest.mark.parametrize("name", CASES)


def on_lattice(mask: Mask, count: int) -> tuple[Tensor, Tensor]:
    """Context ``[B, N]`` and targets ``[B, K, N]``."""
    blocks = [
        Sites(mask.targets.ids[:, k], mask.targets.valid_mask()[:, k]).on_lattice(count)
        for k in range(mask.targets.ids.shape[1])
    ]
    return mask.context.on_lattice(count), torch.stack(blocks, 1)


def same_sites(one: Mask, other: Mask, count: int) -> bool:
    pairs = zip(on_lattice(one, count), on_lattice(other, count), strict=True)
    return one.name == other.name and all(torch.equal(a, b) for a, b in pairs)


@every_masker
def test_context_and_targets_are_disjoint_and_of_fixed_lengths(name: str) -> None:
    case = CASES[name]
    where = lattice(*case.sizes)
    for batch_seed in range(3):
        for mask in case.make()(Grid(where), SEEDS, batch_seed):
            context, targets = on_lattice(mask, where.count)
            assert not (context & targets.any(1)).any()
            assert torch.equal(mask.target_union.on_lattice(where.count), targets.any(1))
            assert context.any(1).all() and targets.any(2).all()
            assert mask_statistics(mask, where.count).repeated == 0
            assert not torch.equal(context[0], context[1]), "drawn for each sample"
            if name not in UNEQUAL:
                assert mask.context.valid is None and mask.targets.valid is None


@every_masker
def test_a_sample_has_the_same_mask_in_any_batch_present_or_padded(name: str) -> None:
    case = CASES[name]
    where = lattice(*case.sizes)
    present = torch.arange(where.count).expand(12, -1) < torch.arange(1, 13)[:, None] * where.count // 12
    for grid, alone in ((Grid(where), Grid(where)), (Grid(where, present), Grid(where, present[4:6]))):
        together, apart = case.make()(grid, SEEDS, 9), case.make()(alone, SEEDS[4:6], 9)
        for one, other in zip(together, apart, strict=True):
            assert torch.equal(one.context.ids[4:6], other.context.ids)
            assert torch.equal(one.targets.ids[4:6], other.targets.ids)
            assert torch.equal(one.targets.valid_mask()[4:6], other.targets.valid_mask())


@every_masker
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_masks_are_the_same_on_every_device(name: str) -> None:
    case = CASES[name]
    where = lattice(*case.sizes)
    present = torch.arange(where.count).expand(12, -1) < torch.arange(1, 13)[:, None] * where.count // 12
    for here, there in ((None, None), (present, present.cuda())):
        pairs = zip(
            case.make()(Grid(where, here), SEEDS, 3), case.make()(Grid(where, there), SEEDS.cuda(), 3), strict=True
        )
        for one, other in pairs:
            assert torch.equal(one.context.ids, other.context.ids.cpu())
            assert torch.equal(one.targets.ids, other.targets.ids.cpu())
            assert torch.equal(one.targets.valid_mask(), other.targets.valid_mask().cpu())


@every_masker
def test_absent_sites_are_never_used_and_two_sites_are_enough_for_both_sides(name: str) -> None:
    case = CASES[name]
    where = lattice(*case.sizes)
    ends = torch.tensor([1, 2, 3, where.sizes[-1] + 1, where.count // 5, where.count // 2, where.count])
    clips = torch.arange(where.count) < ends[:, None]
    holes = torch.rand(5, where.count, generator=torch.Generator().manual_seed(0)) < 0.3
    far = torch.zeros(2, where.count, dtype=torch.bool)
    far[0, [0, where.count - 1]] = True
    present = torch.cat([clips, holes, far])  # the last sample is empty
    several = present.sum(1) > 1
    for batch_seed in range(6):
        for mask in case.make()(Grid(where, present), torch.arange(len(present)) + 100 * batch_seed, batch_seed):
            context, targets = on_lattice(mask, where.count)
            union = targets.any(1)
            assert not ((context | union) & ~present).any() and not (context & union).any()
            assert torch.equal(context.any(1) & union.any(1), several)
            assert torch.equal(context.any(1), present.any(1)), "a lone site is context"
            assert torch.equal(mask.target_union.on_lattice(where.count), union)
            assert mask_statistics(mask, where.count).repeated == 0


@every_masker
def test_all_sites_present_is_the_same_as_nothing_said(name: str) -> None:
    case = CASES[name]
    where = lattice(*case.sizes)
    everywhere = torch.ones(len(SEEDS), where.count, dtype=torch.bool)
    for batch_seed in range(4):
        said, unsaid = (case.make()(Grid(where, present), SEEDS, batch_seed) for present in (everywhere, None))
        for one, other in zip(said, unsaid, strict=True):
            assert same_sites(one, other, where.count)


@every_masker
def test_a_padded_clip_has_the_mask_that_it_has_alone(name: str) -> None:
    case = CASES[name]
    whole, half = lattice(*case.sizes), lattice(case.sizes[0] // 2, *case.sizes[1:])
    padded = Grid(whole, torch.arange(whole.count).expand(len(SEEDS), -1) < half.count)
    for one, other in zip(case.make()(padded, SEEDS, 4), case.make()(Grid(half), SEEDS, 4), strict=True):
        (context, targets), (alone, alone_targets) = on_lattice(one, whole.count), on_lattice(other, half.count)
        assert torch.equal(context[:, : half.count], alone)
        assert torch.equal(targets[:, :, : half.count], alone_targets)


@every_masker
def test_masks_can_be_counted(name: str) -> None:
    case = CASES[name]
    where = lattice(*case.sizes)
    present = torch.arange(where.count).expand(12, -1) < torch.arange(6, 18)[:, None] * where.count // 17
    mask = case.make()(Grid(where, present), SEEDS, 0)[0]
    tally = MaskTally(mask.name, where)
    tally.add(mask, present)
    assert mask.name in tally.lines()[0] and mask.name in mask_statistics(mask, where.count).sentence()


# -------------------------------------------------------------------------------------------------------------- parts


def test_shares_round_alike_as_numbers_and_tensors() -> None:
    totals = torch.arange(600)
    for share in (0.07, 1 / 3, 0.6, 0.8, 1.0):
        assert share_of(totals, share).tolist() == [share_of(n, share) for n in range(600)]
        assert share_of(totals, share).tolist() == pytest.approx([share * n for n in range(600)], abs=0.501)
        assert (share_of(totals, share).diff() >= 0).all()
    assert part_of(torch.tensor([0, 1, 2, 3, 100]), 0.99).tolist() == [0, 0, 1, 2, 99]
    assert [part_of(n, 0.01) for n in (1, 2, 100, 500)] == [0, 1, 1, 5]


def test_a_side_without_sites_is_given_one() -> None:
    present = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [1, 1, 1, 0], [0, 1, 0, 0]]).bool()
    context = torch.tensor([[0, 0, 0, 0], [0, 0, 0, 0], [1, 1, 1, 0], [0, 0, 0, 0]]).bool()
    targets = torch.tensor([[[1, 0, 0, 0]], [[1, 1, 0, 0]], [[0, 0, 0, 0]], [[0, 1, 0, 0]]]).bool()
    context, targets = keep_one_of_both(context, targets, present, torch.arange(4))
    assert context.sum(1).tolist() == [1, 1, 2, 1] and targets.sum((1, 2)).tolist() == [1, 1, 1, 0]
    assert not (context & targets[:, 0]).any() and not context[0, 0]


def test_fitted_sides_keep_the_area_on_a_long_grid() -> None:
    assert fitted_sides(435, 1.0, 64, 8) == (54, 8) and fitted_sides(435, 1.0, 8, 64) == (8, 54)
    assert fitted_sides(36, 1.0, 14, 14) == (6, 6) and fitted_sides(512, 1.5, 64, 8) == (64, 8)
    extent = torch.tensor([[64, 8], [32, 8], [3, 8], [1, 1]])
    for scale, aspect in ((0.18, 0.9), (0.87, 1.0), (0.06, 1.3)):
        alone = [fitted_sides(int(rows * columns * scale), aspect, rows, columns) for rows, columns in extent.tolist()]
        found = sides_within(scale, aspect, extent, "fitted")
        assert found.tolist() == [[max(side, 1) for side in sides] for sides in alone]


def test_extents_end_at_the_last_site_of_each_axis() -> None:
    present = torch.zeros(3, 5, 4, dtype=torch.bool)
    present[0, 2, 1] = present[0, 0, 3] = True
    present[1, 4, 0] = True
    assert extents(present.flatten(1), (5, 4)).tolist() == [[3, 4], [5, 1], [1, 1]]
    assert extents(torch.tensor([[True, False, True, False]]), (4,)).tolist() == [[3]]


# --------------------------------------------------------------------------------------------------------------- time


def test_hidden_time_steps_are_hidden_at_every_frequency_in_equal_numbers() -> None:
    where = lattice(50, 5)
    (mask,) = TimeMasker(0.6, 4)(Grid(where), torch.arange(4000), 0)
    hidden = mask.targets.on_lattice(250).view(-1, 50, 5)
    assert mask.targets.ids.shape == (4000, 1, 150) and torch.equal(hidden.any(2), hidden.all(2))
    share = hidden[:, :, 0].double().mean(0)
    assert float((share / 0.6 - 1).abs().max()) < 0.08, "no step is favoured"
    # With spans a hidden step's neighbour is hidden more often than the 0.6 of single steps.
    beside = hidden[:, 1:, 0][hidden[:, :-1, 0]].double().mean()
    assert float(beside) > 0.8


# ------------------------------------------------------------------------------------------------------- inverse block


def test_inverse_blocks_of_eat() -> None:
    where = lattice(64, 8)
    masks = InverseBlockMasker()(Grid(where), torch.arange(64), 0)
    assert len(masks) == 16 and [mask.name for mask in masks[:2]] == ["inverse_block", "inverse_block_2"]
    for mask in masks:
        assert mask.context.ids.shape == (64, 102) and mask.targets.ids.shape == (64, 1, 410)
    assert not torch.equal(masks[0].context.ids, masks[1].context.ids)
    # A seen site's neighbour in time is seen far more often than the 0.2 of unstructured masks.
    seen = torch.stack([mask.context.on_lattice(512).view(-1, 64, 8) for mask in masks]).flatten(0, 1)
    beside = float(seen[:, 1:][seen[:, :-1]].double().mean())
    assert beside == pytest.approx(_released_inverse_blocks(), abs=0.02) and beside > 0.6


def _released_inverse_blocks() -> float:
    """How often a seen site's later neighbour is seen by the rule as released, drawn with NumPy."""
    rng = np.random.default_rng(0)
    seen = np.zeros((1500, 64, 8), dtype=bool)
    for one in seen:
        for centre in rng.integers(0, 512, int(512 * 0.27 / 25)):
            t, f = divmod(int(centre), 8)
            one[max(t - 2, 0) : t + 3, max(f - 2, 0) : f + 3] = True
        flat = one.reshape(-1)
        many = int(flat.sum()) - 102
        flat[rng.choice(np.flatnonzero(flat == (many > 0)), abs(many), replace=False)] = many < 0
    return float(seen[:, 1:][seen[:, :-1]].mean())


# -------------------------------------------------------------------------------------------------------------- spans


def test_spans_are_as_many_as_the_rule_draws() -> None:
    (mask,) = SpanMasker()(Grid(lattice(200)), torch.arange(1500), 0)
    context, targets = on_lattice(mask, 200)
    rng = np.random.default_rng(0)
    expected = np.array([_released_spans(rng) for _ in range(1500)])
    assert float(context.sum(1).double().mean()) == pytest.approx(expected[:, 0].mean(), rel=0.03)
    assert float(targets.sum(2).double().mean()) == pytest.approx(expected[:, 1].mean(), rel=0.02)
    assert int(context.sum(1).min()) >= 20
    assert mask.context.ids.shape == (1500, 80) and mask.targets.ids.shape == (1500, 4, 60)
    starts = targets & ~torch.nn.functional.pad(targets, (1, 0))[..., :-1]
    runs = targets.sum(2) / starts.sum(2)
    assert float(runs.min()) >= 10, "no span is cut"


def _released_spans(rng: np.random.Generator) -> tuple[int, float]:
    def union(p: float) -> np.ndarray:
        mask = np.zeros(200, dtype=bool)
        for start in rng.choice(191, int(p * 20 + rng.random()), replace=False):
            mask[start : start + 10] = True
        return mask

    while True:
        targets = np.stack([union(0.25) for _ in range(4)])
        context = ~union(0.65) & ~targets.any(0)
        if context.sum() >= 20:
            return int(context.sum()), float(targets.sum(1).mean())


def test_speech_spans_leave_a_context_of_long_runs() -> None:
    (mask,) = SpanMasker.speech()(Grid(lattice(200)), torch.arange(500), 0)
    context, targets = on_lattice(mask, 200)
    assert int(context.sum(1).min()) >= 100
    assert torch.equal(long_runs(context, 5), context)
    assert torch.equal(long_runs(~targets.any(1), 5), context), "the context is all the rest"


def test_long_runs_drops_short_ones() -> None:
    row = torch.tensor([[1, 1, 0, 1, 1, 1, 0, 0, 1, 1, 1, 1, 0, 1]]).bool()
    assert long_runs(row, 3).long().tolist() == [[0, 0, 0, 1, 1, 1, 0, 0, 1, 1, 1, 1, 0, 0]]
    assert torch.equal(long_runs(row, 1), row) and not long_runs(row, 5).any()
    assert long_runs(torch.ones(1, 4, dtype=torch.bool), 4).all()


# ------------------------------------------------------------------------------------------- time-frequency, curriculum


def test_no_context_at_the_times_and_frequencies_of_a_target() -> None:
    where = lattice(64, 8)
    for batch_seed in range(5):
        (mask,) = TimeFrequencyMasker()(Grid(where), torch.arange(64), batch_seed)
        context, targets = (x.view(64, -1, 64, 8).any(1) for x in on_lattice(mask, 512))
        assert not (context.any(2) & targets.any(2)).any() and not (context.any(1) & targets.any(1)).any()
        assert mask.context.ids.shape == (64, 64) and mask.targets.ids.shape[1] == 3
        assert 0.04 < mask.targets.ids.shape[2] / 512 < 0.08


def test_chances_of_both_printed_forms() -> None:
    inside, outside = RootCurriculum(1000, root="inside"), RootCurriculum(1000, root="outside")
    assert inside.chance(0) == pytest.approx(0.01) and outside.chance(0) == pytest.approx(1e-4)
    assert inside.chance(250) == pytest.approx(0.50007, abs=1e-5) and outside.chance(250) == pytest.approx(
        0.500075, abs=1e-6
    )
    assert inside.chance(1000) == outside.chance(1000) == outside.chance(5000) == 1.0
    assert max(abs(inside.chance(s) - outside.chance(s)) for s in range(1, 1001)) < 0.01


def test_a_curriculum_follows_from_the_step_and_the_batch_alone() -> None:
    where = Grid(lattice(56, 8))
    curriculum = RootCurriculum(100)
    assert isinstance(curriculum, Curriculum) and not isinstance(TimeMasker(0.5), Curriculum)

    def late(step: int) -> float:
        names = [curriculum.at(step)(where, SEEDS[:2], batch)[0].name for batch in range(200)]
        return names.count("time_frequency") / 200

    assert late(0) < 0.03 and late(25) == pytest.approx(0.5, abs=0.12) and late(100) == 1.0
    first, again = (curriculum.at(25)(where, SEEDS, 77)[0] for _ in range(2))
    assert same_sites(first, again, 448)
    assert same_sites(curriculum(where, SEEDS, 77)[0], curriculum.at(100)(where, SEEDS, 77)[0], 448)


# ----------------------------------------------------------------------------------------------------------- messages


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: TimeMasker(1.0), "ratio must lie between 0 and 1"),
        (lambda: TimeMasker(0.5, 0), "length must be 1 or more"),
        (lambda: TimeMasker(0.5)(Grid(lattice(1, 8)), SEEDS, 0), "at least 2 time steps"),
        (lambda: FutureMasker(1.0), "past"),
        (lambda: InverseBlockMasker(1.0), "mask_prob"),
        (lambda: InverseBlockMasker(adjust=-0.1), "adjust"),
        (lambda: InverseBlockMasker(masks=0), "masks"),
        (lambda: InverseBlockMasker()(Grid(lattice(64, 4)), SEEDS, 0), "at least length 5"),
        (lambda: InverseBlockMasker()(Grid(lattice(64)), SEEDS, 0), "2 axes"),
        (lambda: SpanMasker(sets=0), "sets"),
        (lambda: SpanMasker(target_p=0), "target_p"),
        (lambda: SpanMasker(min_context=0.5), "max_context"),
        (lambda: SpanMasker()(Grid(lattice(64, 4)), SEEDS, 0), "one axis"),
        (lambda: SpanMasker()(Grid(lattice(10)), SEEDS, 0), "more than length 10"),
        (lambda: TimeFrequencyMasker(target_scale=(0.2, 0.1)), "target_scale"),
        (lambda: TimeFrequencyMasker(context_share=1.0), "context_share"),
        (lambda: TimeFrequencyMasker(context_share=0.6)(Grid(lattice(64, 8)), SEEDS, 0), "lower context_share"),
        (lambda: TimeFrequencyMasker()(Grid(lattice(64)), SEEDS, 0), "2 axes"),
        (lambda: RootCurriculum(0), "steps"),
        (lambda: RootCurriculum(9, root="around"), "inside or outside"),  # type: ignore[arg-type]  # on purpose
        (lambda: RootCurriculum(9).at(-1), "step: expected 0"),
        (lambda: MultiBlockMasker(fit="cut"), "clipped or fitted"),  # type: ignore[arg-type]  # on purpose
        (
            lambda: MultiBlockMasker(truncate="prefix", edges="inside")(
                Grid(lattice(14, 14), torch.ones(12, 196, dtype=torch.bool)), SEEDS, 0
            ),
            "truncate: prefix",
        ),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(make: Callable[[], object], says: str) -> None:
    with pytest.raises(ValueError, match=says) as caught:
        make()
    assert "\n" not in str(caught.value)
