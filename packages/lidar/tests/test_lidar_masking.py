"""Bird's-eye masks: shares per scan, what depends on what, nearly empty scans."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from jepa_core.contracts import Grid
from jepa_core.lattice import Lattice
from jepa_lidar.masking import EMPTY, OCCUPIED, BevMasker

LATTICE = Lattice(("y", "x"), (16, 12), (0.8, 0.8), ("m", "m"), (0.4, 0.4))
N = LATTICE.count


def occupied(*counts: int) -> Tensor:
    generator = torch.Generator().manual_seed(sum(counts))
    rows = [torch.rand(N, generator=generator).argsort().argsort() < count for count in counts]
    return torch.stack(rows)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, N), min_size=1, max_size=4), st.sampled_from([0.25, 0.5, 0.7, 0.75]))
def test_share_of_occupied_cells_holds_in_every_scan(counts: list[int], ratio: float) -> None:
    cells = occupied(*counts)
    (mask,) = BevMasker(ratio, "scan")(Grid(LATTICE, occupied=cells), torch.arange(len(counts)), 0)
    context, target = mask.context.kind_mask(OCCUPIED), mask.targets.kind_mask(OCCUPIED).squeeze(1)
    assert context.sum(1).tolist() == [int((1 - ratio) * count + 1e-6) for count in counts]
    assert torch.equal(context | target, cells) and not (context & target).any()
    assert torch.equal(mask.context.on_lattice(N), ~mask.target_union.on_lattice(N))


def test_empty_cells_are_kept_by_a_coin_of_one_minus_ratio() -> None:
    cells = torch.zeros(200, N, dtype=torch.bool)
    (mask,) = BevMasker(0.7, "scan")(Grid(LATTICE, occupied=cells), torch.arange(200), 0)
    share = mask.context.kind_mask(EMPTY).float().mean().item()
    assert share == pytest.approx(0.3, abs=4 * (0.21 / (200 * N)) ** 0.5)


def test_a_scans_mask_does_not_depend_on_its_batch_in_scan_scope_but_does_in_batch_scope() -> None:
    cells, seeds = occupied(80, 61), torch.tensor([5, 6])
    for scope, same in (("scan", True), ("batch", False)):
        masker = BevMasker(0.5, scope)  # type: ignore[arg-type]  # a loop over the two literals
        (both,) = masker(Grid(LATTICE, occupied=cells), seeds, 0)
        (alone,) = masker(Grid(LATTICE, occupied=cells[1:]), seeds[1:], 0)
        assert torch.equal(both.context.kind_mask(OCCUPIED)[1], alone.context.kind_mask(OCCUPIED)[0]) is same


def test_batch_scope_holds_the_share_over_the_batch_only() -> None:
    cells = occupied(90, 31)
    (mask,) = BevMasker(0.5, "batch")(Grid(LATTICE, occupied=cells), torch.tensor([1, 2]), 0)
    assert mask.context.kind_mask(OCCUPIED).sum().item() == 60


def test_samples_and_epochs_differ() -> None:
    cells = occupied(96).expand(2, -1)
    (mask,) = BevMasker(0.5, "scan")(Grid(LATTICE, occupied=cells), torch.tensor([1, 2]), 0)
    assert not torch.equal(mask.context.kind_mask(OCCUPIED)[0], mask.context.kind_mask(OCCUPIED)[1])


def test_impossible_ratio_is_refused() -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        BevMasker(0.0, "scan")
