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


def test_impossible_ratio_is_refused() -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        RandomMasker(1.0)
