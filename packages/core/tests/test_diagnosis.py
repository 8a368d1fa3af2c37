"""What a masked method tells of itself, on cases whose answer is known."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor, nn

from jepa_core.contracts import Condition, Drawn, Sites, Tokens
from jepa_core.energy import L2, Cosine
from jepa_core.lattice import Lattice
from jepa_core.methods.diagnosis import (
    Seen,
    context_use,
    diagnose,
    keep,
    relative_error,
    sample_share,
    target_motion,
)
from jepa_core.monitor.metrics import lidar_rank

LATTICE = Lattice(("t",), (6,), (1.0,), ("s",), (0.0,))
WIDTH = 4


class ReadsContext(nn.Module):
    """Predicts the mean of the context times ``gain``, plus a code of the place; dropout would show in train mode."""

    def __init__(self, gain: float) -> None:
        super().__init__()
        self.gain, self.place, self.drop = gain, nn.Embedding(6, WIDTH), nn.Dropout(0.5)

    def forward(self, context: Tokens, targets: Sites, condition: Condition | None, mask_index: int = 0) -> Tensor:
        mean = context.features.mean(1)[:, None, None]
        return self.drop(self.place(targets.ids) + self.gain * mean)


def seen(views: int = 1) -> Seen:
    features = torch.randn(4, 3, WIDTH, generator=torch.Generator().manual_seed(1))
    context = Tokens(features, Sites(torch.arange(3).expand(4, -1)), LATTICE)
    whole = Tokens(torch.randn(4, 6, WIDTH), Sites.whole(LATTICE, 4), LATTICE)
    targets = Sites(torch.arange(3, 6).expand(4, 1, -1))
    rows = torch.randn(12, 2 * WIDTH, generator=torch.Generator().manual_seed(2))
    drawn = Drawn(rows, torch.arange(12, 0, -1), 12)
    return keep(context, whole, targets, None, drawn, views)


def test_relative_error_of_the_mean_is_one_and_of_the_truth_zero() -> None:
    target = torch.randn(50, WIDTH, generator=torch.Generator().manual_seed(0)) * 3 + 2
    for energy in (L2(), Cosine()):
        assert relative_error(energy, target.mean(0).expand_as(target), target).item() == pytest.approx(1)
        assert relative_error(energy, target, target).item() == pytest.approx(0, abs=1e-6)
    # Half of the way from the mean to the truth is a quarter of the squared error.
    assert relative_error(L2(), (target + target.mean(0)) / 2, target).item() == pytest.approx(0.25)


def test_a_predictor_that_ignores_its_context_uses_none_of_it() -> None:
    assert context_use(seen(), ReadsContext(0.0)).item() == 0
    used = [context_use(seen(), ReadsContext(gain)).item() for gain in (0.1, 1.0, 100.0)]
    assert 0 < used[0] < used[1] < used[2]


def test_sample_share_tells_sites_from_samples() -> None:
    generator = torch.Generator().manual_seed(0)
    sites, samples = torch.randn(1, 6, WIDTH, generator=generator), torch.randn(8, 1, WIDTH, generator=generator)
    everywhere = torch.ones(8, 6, dtype=torch.bool)
    assert sample_share(sites.expand(8, -1, -1), everywhere).item() == 0
    assert sample_share(samples.expand(-1, 6, -1), everywhere).item() == pytest.approx(1)
    assert 0.1 < sample_share(sites + samples, everywhere).item() < 0.9
    # A site that one sample alone has tells nothing of samples.
    alone = torch.zeros(8, 6, dtype=torch.bool)
    alone[0] = True
    assert sample_share(samples.expand(-1, 6, -1), alone).item() == 0


def test_a_target_that_does_not_move_is_told_from_one_that_does() -> None:
    online = nn.Linear(3, 3)
    target = copy.deepcopy(online)
    with torch.no_grad():
        target.weight.mul_(0.5)
    size = torch.cat([p.flatten() for p in online.parameters()]).norm()
    for momentum, expected in ((1.0, 0.0), (float("nan"), 0.0), (0.9, 1 / 9)):
        figures = target_motion(target, online, momentum)
        distance = (0.5 * online.weight).norm() / size
        assert figures["distance"].item() == pytest.approx(distance.item(), rel=1e-5)
        assert figures["moved"].item() == pytest.approx(expected * distance.item(), rel=1e-5)
    # The step that the formula gives is the step that was made.
    before = target.weight.detach().clone()
    with torch.no_grad():
        torch._foreach_lerp_(list(target.parameters()), list(online.parameters()), 0.25)
    moved = target_motion(target, online, 0.75)["moved"].item()
    assert moved == pytest.approx(((target.weight - before).norm() / size).item(), rel=1e-4)


def test_diagnosis_changes_nothing_and_names_its_figures() -> None:
    predictor, kept = ReadsContext(1.0).train(), seen(views=2)
    generator = torch.get_rng_state()
    figures = diagnose(kept, predictor, L2())
    assert torch.equal(torch.get_rng_state(), generator) and predictor.training and predictor.drop.training
    assert set(figures) == {"prediction", "samples", "views"}
    assert set(figures["prediction"]) == {"relative_error", "context_use"}
    assert all(math.isfinite(value.item()) for each in figures.values() for value in each.values())


def test_samples_are_compared_by_their_first_view() -> None:
    """Of several processes each has other rows behind its first views: they would be taken for further samples."""
    kept = seen(views=2)
    assert kept.whole is not None and len(kept.whole[0]) == len(kept.whole[1]) == 2
    assert len(kept.context.features) == 2
    assert len(seen(views=4).context.features) == 1


def test_views_of_a_sample_are_told_by_lidar_rank() -> None:
    kept = seen(views=2)
    assert kept.views is not None and kept.views.shape == (2, 2, WIDTH)
    rank = diagnose(kept, ReadsContext(1.0), L2())["views"]["lidar_rank"]
    torch.testing.assert_close(rank, lidar_rank(kept.views))
