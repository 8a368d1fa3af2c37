"""Object masks: what is hidden, what never is, equal budgets, the released code's fixed set."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from jepa_causal.masking import MaskKind, ObjectMasker
from jepa_causal.windows import slot_lattice
from jepa_core.contracts import Grid, Mask
from jepa_core.masking.statistics import mask_statistics

H, F, K = 5, 3, 6


def draw(masker: ObjectMasker, present: Tensor | None = None, rows: int = 400, slots: int = K) -> Mask:
    grid = Grid(slot_lattice(masker.history + masker.future, slots), None if present is None else present.flatten(1))
    (mask,) = masker(grid, torch.arange(rows), 7)
    return mask


def laid_out(mask: Mask, slots: int = K) -> tuple[Tensor, Tensor]:
    """Context and targets, bool ``[B, T, K]``."""
    count = mask.context.ids.shape[1]
    context, targets = (
        sites.on_lattice(count).unflatten(1, (-1, slots)) for sites in (mask.context, mask.target_union)
    )
    return context, targets


@pytest.mark.parametrize("kind", ["object", "token", "tube"])
def test_every_slot_is_seen_or_predicted_and_the_anchor_is_seen(kind: MaskKind) -> None:
    mask = draw(ObjectMasker(H, F, (1, 3), kind))
    context, targets = laid_out(mask)
    assert bool((context ^ targets).all())
    assert bool(context[:, 0].all()) and bool(targets[:, H:].all())
    blocks = mask.targets
    assert blocks.valid is not None and torch.equal(blocks.valid[:, 0], targets.flatten(1))
    assert blocks.kinds == ("future", "history")
    assert int(blocks.kind_mask(0).sum()) == 400 * F * K
    assert torch.equal(blocks.kind_mask(1)[:, 0].unflatten(1, (-1, K)), targets & (torch.arange(H + F) < H)[:, None])


def test_objects_lose_all_but_their_first_step_and_their_number_is_uniform() -> None:
    _, targets = laid_out(draw(ObjectMasker(H, F, (0, 3)), rows=4000))
    hidden = targets[:, 1:H]
    assert bool((hidden.all(1) == hidden.any(1)).all())
    counts = hidden.any(1).sum(1).bincount(minlength=4) / 4000
    assert counts.shape == (4,) and bool(((counts - 0.25).abs() < 0.03).all())
    each = hidden[:, 0].float().mean(0)
    assert bool(((each - 1.5 / K).abs() < 0.03).all())


@pytest.mark.parametrize(("kind", "share", "cells"), [("token", None, 8), ("token", 0.25, 6), ("tube", 0.5, 12)])
def test_controls_hide_as_many_slots(kind: MaskKind, share: float | None, cells: int) -> None:
    _, targets = laid_out(draw(ObjectMasker(H, F, (2, 2), kind, share)))
    assert targets[:, :H].sum((1, 2)).unique().tolist() == [cells]


def test_a_tube_is_one_run_of_steps_of_all_objects() -> None:
    _, targets = laid_out(draw(ObjectMasker(H, F, (3, 3), "tube")))
    hidden = targets[:, :H]
    assert bool((hidden.all(2) == hidden.any(2)).all())
    steps = hidden[:, :, 0].int()
    assert steps.sum(1).unique().tolist() == [2]
    assert steps.diff(dim=1).clamp(min=0).sum(1).unique().tolist() == [1]
    assert set(steps.argmax(1).tolist()) == {1, 2, 3}


def test_a_draw_depends_on_the_samples_seed_alone() -> None:
    masker, grid = ObjectMasker(H, F, (0, 3), "token"), Grid(slot_lattice(H + F, K))
    (whole,), (part,) = masker(grid, torch.arange(50), 1), masker(grid, torch.arange(20, 30), 99)
    assert torch.equal(whole.context.valid_mask()[20:30], part.context.valid_mask())


def test_absent_objects_are_neither_seen_nor_predicted() -> None:
    present = torch.ones(400, H + F, K, dtype=torch.bool)
    present[:, :, 0] = False
    present[:, :2, 1] = False  # comes at step 2: its anchor is there
    present[:, H + 1 :, 2] = False  # goes
    present[:, :H, 3] = False  # comes when nothing tells who it is
    mask = draw(ObjectMasker(H, F, (K, K)), present)
    context, targets = laid_out(mask)
    assert not bool((context[:, :, [0, 3]] | targets[:, :, [0, 3]]).any())
    assert bool(context[:, 2, 1].all()) and bool(targets[:, 3:, 1].all())
    assert bool(targets[:, H, 2].all()) and not bool(targets[:, H + 1 :, 2].any())
    assert mask.context.kind is not None
    absent = (mask.context.kind == 1).unflatten(1, (-1, K))
    assert torch.equal(absent, ~(context | targets))


def test_lists_have_one_shape_whatever_is_there() -> None:
    masker = ObjectMasker(H, F, (0, 2))
    alone = draw(masker, torch.zeros(400, H + F, K, dtype=torch.bool))
    assert not bool(alone.context.valid_mask().any() | alone.targets.valid_mask().any())
    assert alone.targets.ids.shape == draw(masker).targets.ids.shape == (400, 1, (H + F) * K)


@pytest.mark.parametrize(
    ("slots", "objects", "expected"), [(7, 1, [0]), (7, 4, [0, 1, 2, 5]), (4, 1, [1]), (4, 2, [1, 3])]
)
def test_the_released_codes_fixed_objects(slots: int, objects: int, expected: list[int]) -> None:
    """What seed 42 gives there: one set for all samples of a run."""
    masker = ObjectMasker(6, 10, (objects, objects), fixed_seed=42)
    _, targets = laid_out(draw(masker, slots=slots), slots)
    assert [targets[row, 1].nonzero().flatten().tolist() for row in (0, 399)] == [expected, expected]


def test_the_released_loss_counts_the_anchor_of_hidden_objects() -> None:
    plain, released = (draw(ObjectMasker(H, F, (2, 2), anchor_in_loss=flag)) for flag in (False, True))
    assert torch.equal(plain.context.valid_mask(), released.context.valid_mask())
    _, before = laid_out(plain)
    _, after = laid_out(released)
    assert torch.equal(after[:, 1:], before[:, 1:])
    assert torch.equal(after[:, 0], before[:, 1])


def test_mask_statistics_can_be_taken() -> None:
    mask = draw(ObjectMasker(H, F, (1, 1)))
    found = mask_statistics(mask, (H + F) * K)
    assert (found.context, found.union, found.repeated) == (H * K - (H - 1), F * K + H - 1, 0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"masked_objects": (2, 1)}, "fewest <= most"),
        ({"kind": "row"}, "kind must be one of object, token, tube"),
        ({"share": 0.5}, "needs kind token or tube"),
        ({"kind": "token", "share": 1.5}, "share must lie in 0..1"),
        ({"fixed_seed": 1}, "one number of masked objects"),
        ({"history": 0}, "1 or more"),
    ],
)
def test_impossible_masks_are_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ObjectMasker(**{"history": H, "future": F, **arguments})  # type: ignore[arg-type]


def test_a_lattice_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="windows of 5 \\+ 3 steps, got 7"):
        ObjectMasker(H, F).check(slot_lattice(7, K))
    with pytest.raises(ValueError, match="masked_objects: expected at most 2"):
        ObjectMasker(H, F, (0, 3)).check(slot_lattice(H + F, 2))
