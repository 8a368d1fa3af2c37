"""Masks forward in time: who is seen, how many, drawn for each sample, absent sites."""

from __future__ import annotations

import pytest
import torch

from jepa_core.contracts import Grid
from jepa_core.lattice import Lattice
from jepa_core.masking.future import FutureMasker

LATTICE = Lattice(("t", "y", "x"), (4, 3, 5), (1.0,) * 3, ("frame", "px", "px"), (0.0,) * 3)
SEEDS = torch.tensor([11, 12, 13])


@pytest.mark.parametrize(("past", "seen"), [(0.5, 30), (0.01, 15), (0.99, 45)])
def test_context_lies_before_every_target(past: float, seen: int) -> None:
    (mask,) = FutureMasker(past)(Grid(LATTICE), SEEDS, 0)
    assert torch.equal(mask.context.ids.sort(1).values, torch.arange(seen).expand(3, -1))
    assert torch.equal(mask.targets.ids[:, 0].sort(1).values, torch.arange(seen, 60).expand(3, -1))


def test_shares_are_fixed_lengths_drawn_for_each_sample() -> None:
    (mask,) = FutureMasker(0.5, 0.4, 0.7)(Grid(LATTICE), SEEDS, 0)
    assert mask.context.ids.shape == (3, 12) and mask.targets.ids.shape == (3, 1, 21)
    assert mask.context.valid is None and mask.targets.valid is None
    assert mask.context.ids.max() < 30 <= mask.targets.ids.min()
    assert not torch.equal(mask.context.ids[0].sort().values, mask.context.ids[1].sort().values)
    (alone,) = FutureMasker(0.5, 0.4, 0.7)(Grid(LATTICE), SEEDS[1:2], 5)
    assert torch.equal(alone.context.ids[0], mask.context.ids[1])
    assert torch.equal(alone.targets.ids[0], mask.targets.ids[1])


def test_absent_sites_are_neither_context_nor_target() -> None:
    present = torch.rand(3, 60, generator=torch.Generator().manual_seed(0)) > 0.4
    present[2, 30:] = False
    (mask,) = FutureMasker(0.5, 0.5, 1.0)(Grid(LATTICE, present), SEEDS, 0)
    for sample in range(3):
        context = mask.context.ids[sample][mask.context.valid_mask()[sample]]
        targets = mask.targets.ids[sample, 0][mask.targets.valid_mask()[sample, 0]]
        assert present[sample, context].all() and present[sample, targets].all()
        assert len(context) == round(0.5 * int(present[sample, :30].sum()))
        assert len(targets) == int(present[sample, 30:].sum())


def test_one_step_has_no_future_and_shares_must_be_shares() -> None:
    with pytest.raises(ValueError, match="expected at least 2 time steps, got 1 of t"):
        FutureMasker().check(Lattice(("t",), (1,), (1.0,), ("s",), (0.0,)))
    for wrong in ({"past": 1.0}, {"context_share": 0.0}, {"target_share": 1.5}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            FutureMasker(**wrong)
