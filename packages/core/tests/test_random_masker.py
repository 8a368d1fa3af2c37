"""The random masker: partition, equal counts, per-sample draws, absent sites."""

from __future__ import annotations

import pytest
import torch

from jepa_core.contracts import Grid
from jepa_core.lattice import Lattice
from jepa_core.masking.random import RandomMasker

LATTICE = Lattice(("y", "x"), (6, 5), (1.0, 1.0), ("m", "m"), (0.0, 0.0))
SEEDS = torch.tensor([11, 12, 13])


def test_context_and_targets_partition_the_lattice_with_fixed_lengths() -> None:
    (mask,) = RandomMasker(0.6)(Grid(LATTICE), SEEDS, 0)
    assert mask.targets.ids.shape == (3, 1, 18) and mask.context.ids.shape == (3, 12)
    together = torch.cat((mask.context.ids, mask.target_union.ids), 1).sort(1).values
    assert torch.equal(together, torch.arange(30).expand(3, -1))
    assert not torch.equal(mask.context.ids[0].sort().values, mask.context.ids[1].sort().values)


def test_a_sample_has_the_same_mask_in_any_batch() -> None:
    (together,) = RandomMasker(0.5)(Grid(LATTICE), SEEDS, 1)
    (alone,) = RandomMasker(0.5)(Grid(LATTICE), SEEDS[1:2], 2)
    assert torch.equal(together.context.ids[1], alone.context.ids[0])


def test_absent_sites_are_neither_context_nor_target() -> None:
    present = torch.rand(3, 30, generator=torch.Generator().manual_seed(0)) > 0.4
    present[2] = False
    present[2, 7] = True
    (mask,) = RandomMasker(0.5)(Grid(LATTICE, present=present), SEEDS, 0)
    context, targets = mask.context.on_lattice(30), mask.targets.on_lattice(30)
    assert torch.equal(context ^ targets, present) and not (context & targets).any()
    assert context.sum(1).min() >= 1, "a lone site stays context: there is nothing to predict from nothing"


def test_several_masks_of_a_sample_are_drawn_independently() -> None:
    first, *further = RandomMasker(0.5, masks=40)(Grid(LATTICE), SEEDS, 0)
    (alone,) = RandomMasker(0.5)(Grid(LATTICE), SEEDS, 0)
    assert torch.equal(first.context.ids, alone.context.ids), "the first is that of one mask"
    assert [mask.name for mask in (first, *further[:2])] == ["random", "random_2", "random_3"]
    hidden = torch.stack([mask.targets.on_lattice(30) for mask in (first, *further)]).double()
    assert bool((hidden.sum(2) == 15).all())
    # Two independent halves of 30 sites share 15 * 15 / 30 of them, with a variance of 15^4 / (30^2 29).
    shared = torch.einsum("mbn,kbn->mkb", hidden, hidden)[torch.triu(torch.ones(40, 40), 1) > 0]
    assert float(shared.mean()) == pytest.approx(7.5, abs=0.15)
    assert float(shared.var()) == pytest.approx(15**4 / (30**2 * 29), rel=0.15)


def test_several_masks_leave_absent_sites_out() -> None:
    present = torch.arange(30).expand(3, -1) % 3 > 0
    for mask in RandomMasker(0.5, masks=3)(Grid(LATTICE, present=present), SEEDS, 0):
        assert torch.equal(mask.context.on_lattice(30) ^ mask.targets.on_lattice(30), present)


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        RandomMasker(1.0)
    with pytest.raises(ValueError, match="masks must be 1 or more"):
        RandomMasker(0.5, masks=0)
