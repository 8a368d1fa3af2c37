"""Valid rows moved together: the same rows in the same order, and the same terms and gradients behind them."""

from __future__ import annotations

import pytest
import torch

from jepa_core.anticollapse import VarianceHinge
from jepa_core.methods.close_up import close_up


def rows(share: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Features and which are valid; the last sample has none."""
    draw = torch.Generator().manual_seed(0)
    valid = torch.rand(4, 60, generator=draw) < share
    valid[-1] = False
    return torch.randn(4, 60, 5, generator=draw, dtype=torch.float64), valid


def test_the_valid_rows_of_each_sample_stay_in_order() -> None:
    features, valid = rows(0.2)
    close, real = close_up(features, valid)
    assert close.shape[1] == valid.sum(1).max() and torch.equal(real.sum(1), valid.sum(1))
    for sample in range(len(features)):
        assert torch.equal(close[sample][real[sample]], features[sample][valid[sample]])


@pytest.mark.parametrize("scope", ["sample", "batch"])
def test_a_hinge_behind_it_and_its_gradient_are_the_same(scope: str) -> None:
    features, valid = rows(0.2)
    hinge = VarianceHinge(gamma=1.0, scope=scope)  # type: ignore[arg-type]  # both scopes
    direct, moved = (features.clone().requires_grad_() for _ in range(2))
    expected, got = hinge(direct, valid, 1)["variance"], hinge(*close_up(moved, valid), 1)["variance"]
    torch.testing.assert_close(got, expected)
    one, other = torch.autograd.grad(expected, direct)[0], torch.autograd.grad(got, moved)[0]
    torch.testing.assert_close(other, one)


def test_most_rows_valid_or_none_at_all() -> None:
    features, valid = rows(0.9)
    assert close_up(features, valid)[0] is features
    close, real = close_up(features, torch.zeros_like(valid))
    assert close.shape[1] == 1 and not real.any()
