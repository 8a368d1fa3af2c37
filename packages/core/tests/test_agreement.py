"""Views of a sample: their seeds, their agreement, and masked prediction on several of them."""

import pytest
import torch

from jepa_core.contracts import Sites, Tokens
from jepa_core.lattice import Lattice
from jepa_core.methods.agreement import ViewAgreement
from jepa_core.seeds import seeds_of_views

LATTICE = Lattice(("t",), (6,), (1.0,), ("s",), (0.0,))


def tokens(rows: int, valid: torch.Tensor | None = None) -> Tokens:
    sites = Sites.whole(LATTICE, rows)
    return Tokens(torch.randn(rows, 6, 16), Sites(sites.ids, valid, complete=True), LATTICE)


def test_the_first_view_keeps_the_samples_seed_and_no_two_are_equal() -> None:
    seeds = torch.tensor([5, 9, 11])
    views = seeds_of_views(seeds, 4)
    assert views.shape == (12,) and torch.equal(views[:3], seeds) and len(views.unique()) == 12
    assert torch.equal(seeds_of_views(seeds, 1), seeds)
    assert torch.equal(seeds_of_views(seeds[1:2], 4), views[1::3])


def test_equal_views_agree_and_different_ones_do_not() -> None:
    torch.manual_seed(0)
    part = ViewAgreement(16, views=2, hidden=32, output=8, slices=16)
    one = tokens(8)
    same = one.with_features(one.features.repeat(2, 1, 1))
    twice = Tokens(same.features, Sites.whole(LATTICE, 16), LATTICE)
    assert float(part(twice, 1)["agreement"].detach()) == pytest.approx(0, abs=1e-10)
    assert float(part(tokens(16), 1)["agreement"].detach()) > 1e-6


def test_terms_are_weighted_and_reach_the_tokens() -> None:
    torch.manual_seed(0)
    light = ViewAgreement(16, hidden=32, output=8, weight=0.5, share=0.2, slices=16)
    heavy = ViewAgreement(16, hidden=32, output=8, weight=1.0, share=0.2, slices=16)
    heavy.load_state_dict(light.state_dict())
    x = tokens(16)
    features = x.features.clone().requires_grad_()
    found = light(x.with_features(features), 3)
    for name, value in heavy(x, 3).items():
        torch.testing.assert_close(value, 2 * found[name])
    torch.stack(list(found.values())).sum().backward()
    assert features.grad is not None and bool(features.grad.abs().sum() > 0)


def test_padding_counts_nowhere() -> None:
    torch.manual_seed(0)
    part = ViewAgreement(16, hidden=32, output=8, slices=16).eval()
    valid = torch.ones(8, 6, dtype=torch.bool)
    valid[:, 4:] = False
    x = tokens(8, valid)
    other = x.with_features(torch.where(valid[..., None], x.features, torch.nan))
    for name, value in part(x, 1).items():
        torch.testing.assert_close(part(other, 1)[name], value)


def test_impossible_choices_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 2 views, got 1"):
        ViewAgreement(16, views=1)
    with pytest.raises(ValueError, match="share must lie in 0..1"):
        ViewAgreement(16, share=1.5)
