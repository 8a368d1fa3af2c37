"""Energies against hand-worked values, and the mean over kinds of targets."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from jepa_core.contracts import Sites
from jepa_core.energy import ENERGIES, BinaryCrossEntropy, Cosine, build_energy, count_targets, reduce_energy

P = torch.tensor([[1.0, -2.0, 0.5, 3.0]])
T = torch.tensor([[0.5, 1.0, 0.5, 2.0]])
BY_HAND = {
    "l1": 4.5 / 4,
    "l2": (0.25 + 9 + 0 + 1) / 4,
    "smooth_l1": (0.125 + 2.5 + 0 + 0.5) / 4,
    "cosine": 1 - (0.5 - 2 + 0.25 + 6) / math.sqrt(14.25 * 5.5),
}


@pytest.mark.parametrize("name", BY_HAND)
def test_energies_by_hand(name: str) -> None:
    assert build_energy(name)(P, T).tolist() == pytest.approx([BY_HAND[name]], abs=1e-6)


def test_binary_cross_entropy_weighs_the_occupied_part() -> None:
    logits, occupied = torch.tensor([[0.0, 2.0]]), torch.tensor([[1.0, 0.0]])
    expected = (3 * math.log(2) + math.log(1 + math.exp(2))) / 2
    assert BinaryCrossEntropy(positive_weight=3.0)(logits, occupied).item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("name", ENERGIES)
def test_energies_are_float32_unreduced_and_lowest_at_the_target(name: str) -> None:
    energy = build_energy(name)
    p, t = torch.randn(2, 3, 5, 7, generator=torch.Generator().manual_seed(0)).unbind(0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        distance = energy(p.bfloat16(), t.bfloat16())
    assert distance.dtype == torch.float32
    assert distance.shape == (3, 5)
    assert energy(p.double(), t.double()).dtype == torch.float64
    best = t if name != "binary_cross_entropy" else 20 * t.sign()
    target = t if name != "binary_cross_entropy" else (t > 0).float()
    torch.testing.assert_close(energy(best, target), torch.zeros(3, 5), atol=1e-6, rtol=0)


def test_cosine_has_a_finite_gradient_at_zero() -> None:
    p = torch.zeros(1, 4, requires_grad=True)
    distance = Cosine()(p, T)
    distance.sum().backward()
    assert distance.item() == 1
    assert p.grad is not None and p.grad.isfinite().all()


def test_unknown_names_are_answered_with_the_nearest() -> None:
    with pytest.raises(ValueError, match="did you mean 'smooth_l1'"):
        build_energy("smoothl1")
    with pytest.raises(ValueError, match="did you mean 'beta'"):
        build_energy("smooth_l1", betta=2.0)
    with pytest.raises(ValueError, match="above 0"):
        build_energy("smooth_l1", beta=0.0)


def make(seed: int, batch: int = 2) -> tuple[Tensor, Sites]:
    """Distances and targets of two kinds, some not valid, [batch, 3, 5]."""
    generator = torch.Generator().manual_seed(seed)
    shape = (batch, 3, 5)
    valid = torch.rand(shape, generator=generator) < 0.8
    kind = (torch.rand(shape, generator=generator) < 0.3).long()
    sites = Sites(torch.zeros(shape, dtype=torch.long), valid, kind, ("occupied", "empty"))
    return torch.rand(shape, generator=generator, dtype=torch.float64), sites


def test_each_kind_has_its_own_mean() -> None:
    distance, sites = make(0)
    total, terms = reduce_energy(distance, sites, {"occupied": 0.25, "empty": 0.75})
    means = [distance[sites.kind_mask(kind)].mean() for kind in range(2)]
    torch.testing.assert_close(total, 0.25 * means[0] + 0.75 * means[1])
    assert list(terms) == ["energy/occupied", "energy/empty"]
    torch.testing.assert_close(terms["energy/empty"], means[1])
    assert count_targets(sites).tolist() == [sites.kind_mask(0).sum().item(), sites.kind_mask(1).sum().item()]


def test_an_empty_kind_is_zero_and_invalid_distances_give_no_gradient() -> None:
    distance = torch.tensor([[[1.0, 3.0, float("nan")]]], requires_grad=True)
    sites = Sites(
        torch.zeros(1, 1, 3, dtype=torch.long), torch.tensor([[[True, True, False]]]), kinds=("history", "future")
    )
    total, terms = reduce_energy(distance, sites)
    total.backward()
    assert total.item() == 2
    assert terms["energy/future"].item() == 0
    assert distance.grad is not None and distance.grad.tolist() == [[[0.5, 0.5, 0.0]]]


def test_no_target_at_all_is_zero_with_a_gradient() -> None:
    distance = torch.rand(2, 1, 3, requires_grad=True)
    sites = Sites(torch.zeros(2, 1, 3, dtype=torch.long), torch.zeros(2, 1, 3, dtype=torch.bool))
    total, _ = reduce_energy(distance, sites)
    total.backward()
    assert total.item() == 0
    assert distance.grad is not None and not distance.grad.any()


def test_the_mean_over_micro_batches_is_the_joint_mean() -> None:
    (first, sites_1), (second, sites_2) = make(1), make(2, batch=4)
    counts = count_targets(sites_1) + count_targets(sites_2)
    parts = [reduce_energy(d, s, None, counts, 2)[0] for d, s in ((first, sites_1), (second, sites_2))]
    ids = torch.cat([sites_1.ids, sites_2.ids])
    valid = torch.cat([sites_1.valid_mask(), sites_2.valid_mask()])
    joined = Sites(ids, valid, (torch.cat([sites_1.kind_mask(1), sites_2.kind_mask(1)])).long(), sites_1.kinds)
    expected, _ = reduce_energy(torch.cat([first, second]), joined)
    torch.testing.assert_close(sum(parts) / 2, expected)


def test_coefficients_name_every_kind() -> None:
    distance, sites = make(0)
    with pytest.raises(ValueError, match="occupied, empty"):
        reduce_energy(distance, sites, {"occupied": 1.0})
    with pytest.raises(ValueError, match="a distance for each target"):
        reduce_energy(distance[:, :1], sites)
