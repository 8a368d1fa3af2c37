"""The bird's-eye predictor: what it sees, what it may not see, and the published bound on the empty cosine."""

from __future__ import annotations

import pytest
import torch

from jepa_core.contracts import Sites, Tokens
from jepa_core.lattice import Lattice
from jepa_lidar import predictor as predictor_module
from jepa_lidar.masking import EMPTY, KINDS, OCCUPIED
from jepa_lidar.predictor import BevPredictor

LATTICE = Lattice(("y", "x"), (6, 5), (0.8, 0.8), ("m", "m"), (0.4, 0.4))
WIDTH = 8


def tokens(valid: torch.Tensor) -> Tokens:
    whole = Sites.whole(LATTICE, len(valid))
    features = torch.randn(len(valid), LATTICE.count, WIDTH, generator=torch.Generator().manual_seed(0))
    return Tokens(features, Sites(whole.ids, valid, complete=True), LATTICE)


def targets(batch: int) -> Sites:
    whole = Sites.whole(LATTICE, batch)
    return Sites(whole.ids.unsqueeze(1), complete=True)


@pytest.fixture
def predictor() -> BevPredictor:
    torch.manual_seed(1)
    return BevPredictor(WIDTH, (6, 6), "sqrt_width", "plain").eval()


def test_hidden_cells_features_play_no_part(predictor: BevPredictor) -> None:
    valid = torch.rand(2, LATTICE.count, generator=torch.Generator().manual_seed(3)) > 0.5
    given = tokens(valid)
    wild = given.with_features(torch.where(valid.unsqueeze(-1), given.features, 1e5))
    assert torch.equal(predictor(given, targets(2), None), predictor(wild, targets(2), None))


def test_context_reaches_three_cells_away_and_not_further(predictor: BevPredictor) -> None:
    valid = torch.ones(1, LATTICE.count, dtype=torch.bool)
    given = tokens(valid)
    moved = given.features.clone()
    moved[0, 0] += 1.0
    change = (predictor(given, targets(1), None) - predictor(given.with_features(moved), targets(1), None)).abs()
    map_YX = change.sum(-1).reshape(6, 5) > 0
    assert map_YX[:4, :4].all() and not map_YX[4:].any() and not map_YX[:, 4].any()


def test_some_targets_by_id_equal_the_whole_map(predictor: BevPredictor) -> None:
    given = tokens(torch.ones(2, LATTICE.count, dtype=torch.bool))
    some = Sites(torch.tensor([[[3, 17]], [[0, 29]]]))
    whole = predictor(given, targets(2), None)
    torch.testing.assert_close(predictor(given, some, None)[1, 0, 1], whole[1, 0, 29])


def test_a_last_relu_bounds_the_cosine_to_a_token_with_signs() -> None:
    published = BevPredictor(WIDTH, (WIDTH, WIDTH), "unit", "bn_relu").train()
    out = published(tokens(torch.ones(2, LATTICE.count, dtype=torch.bool)), targets(2), None)
    token = torch.randn(WIDTH, generator=torch.Generator().manual_seed(4))
    cosine = torch.nn.functional.cosine_similarity(out, token, dim=-1)
    assert out.min() >= 0
    assert cosine.max() <= token.relu().norm() / token.norm() + 1e-6


def test_impossible_widths_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"lidar.predictor.hidden: .* got \[64, 0\]"):
        BevPredictor(WIDTH, (64, 0), "unit", "plain")


def scans(empty: float) -> Tokens:
    """Two scans with few cells of their own; a share of the others is empty, with one vector, the rest is hidden."""
    drawn = torch.rand(2, LATTICE.count, generator=torch.Generator().manual_seed(5))
    own, hidden = drawn < 0.15, drawn > 0.15 + 0.85 * empty
    given = tokens(~hidden)
    features = torch.where(own.unsqueeze(-1), given.features, torch.full((WIDTH,), 0.3))
    kind = torch.where(own, OCCUPIED, EMPTY)
    return Tokens(features, Sites(given.sites.ids, ~hidden, kind, KINDS, complete=True), LATTICE)


@pytest.mark.parametrize("empty", [0.0, 0.5])
@pytest.mark.parametrize("scale", ["unit", "sqrt_width"])
def test_multiplying_only_the_cells_of_their_own_is_the_same_convolution(
    empty: float, scale: predictor_module.InputScale, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(1)
    model = BevPredictor(WIDTH, (6, 6), scale, "plain", shared_kind=EMPTY).double().train()

    def run(few: float) -> list[torch.Tensor]:
        monkeypatch.setattr(predictor_module, "_SPARSE_UP_TO", few)
        given = scans(empty)
        features = given.features.double().requires_grad_()
        out = model(given.with_features(features), targets(2), None)
        gradients = torch.autograd.grad(out.square().sum(), [features, *model.parameters()])
        # The one vector of the empty cells has one gradient: where it is put down is left open.
        at_features, kind = gradients[0], given.sites.kind
        shared = (at_features * (kind == EMPTY).unsqueeze(-1)).sum((0, 1))
        own = torch.where((kind == OCCUPIED).unsqueeze(-1), at_features, 0.0)
        return [out, own, shared, *gradients[1:]]

    few, dense = run(1.0), run(-1.0)
    for one, other in zip(few, dense, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


def test_a_map_without_any_cell_of_its_own_is_predicted() -> None:
    model = BevPredictor(WIDTH, (6, 6), "unit", "plain", shared_kind=EMPTY)
    out = model(tokens(torch.zeros(2, LATTICE.count, dtype=torch.bool)), targets(2), None)
    out.sum().backward()
    assert out.isfinite().all() and model.mask_token.grad is not None
