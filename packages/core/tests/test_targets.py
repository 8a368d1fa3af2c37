"""Target encoders: the EMA rule, buffers, eval mode, and what the optimiser must not see."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from jepa_core.contracts import Sites, Tokens
from jepa_core.lattice import Lattice
from jepa_core.targets import (
    CentredLayerNormalise,
    EmaTarget,
    FrozenTarget,
    LayerNormalise,
    MeanOfBlocks,
    MomentumSchedule,
    RawTarget,
    Standardise,
    StopGradientTarget,
    Whiten,
)

LATTICE = Lattice(("x",), (4,), (1.0,), ("1",), (0.0,))


class TinyEncoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear, self.norm = nn.Linear(3, 3), nn.BatchNorm1d(3)

    def forward(self, inputs: Tensor, keep: Sites | None) -> Tokens:
        features = self.norm(self.linear(inputs).flatten(0, 1)).unflatten(0, inputs.shape[:2])
        return Tokens(features, Sites.whole(LATTICE, len(inputs)), LATTICE)


@pytest.fixture
def online() -> TinyEncoder:
    torch.manual_seed(0)
    return TinyEncoder()


def moved(online: TinyEncoder) -> None:
    with torch.no_grad():
        for p in online.parameters():
            p.add_(1.0)
        online.norm.running_mean.add_(2.0)  # type: ignore[operator]  # nn.BatchNorm1d types it as optional


def test_ema_moves_by_one_minus_momentum_and_buffers_follow(online: TinyEncoder) -> None:
    target = EmaTarget(online, "follow", MomentumSchedule(0.75, 0.75, 10))
    before = target.encoder.linear.weight.clone()
    moved(online)
    assert target.update(online, 1) == 0.75
    torch.testing.assert_close(target.encoder.linear.weight, before + 0.25)
    torch.testing.assert_close(target.encoder.norm.running_mean, torch.full((3,), 0.5))


def test_own_buffers_are_left_alone_and_run_in_train_mode(online: TinyEncoder) -> None:
    target = EmaTarget(online, "own", MomentumSchedule(0.5, 0.5, 10))
    moved(online)
    target.update(online, 1)
    assert torch.equal(target.encoder.norm.running_mean, torch.zeros(3))
    assert target.train().encoder.training and not target.eval().encoder.training


def test_following_target_stays_in_eval_mode(online: TinyEncoder) -> None:
    target = EmaTarget(online, "follow", MomentumSchedule(0.9, 1.0, 10)).train()
    assert not target.encoder.training
    inputs = torch.randn(2, 4, 3)
    one, other = target.encode(inputs[:1], None).features, target.encode(inputs, None).features
    torch.testing.assert_close(one, other[:1])


def test_target_has_no_trainable_parameter_and_passes_no_gradient(online: TinyEncoder) -> None:
    inputs = torch.randn(2, 4, 3, requires_grad=True)
    for target in (
        EmaTarget(online, "follow", MomentumSchedule(0.9, 1.0, 10)),
        FrozenTarget(TinyEncoder()),
        StopGradientTarget(online),
        RawTarget(lambda x, keep: Tokens(x * 2, Sites.whole(LATTICE, len(x)), LATTICE)),
    ):
        assert not [p for p in target.parameters() if p.requires_grad]
        assert not target.encode(inputs, None).features.requires_grad


def test_stop_gradient_target_is_the_online_encoder_itself(online: TinyEncoder) -> None:
    target = StopGradientTarget(online.eval())
    inputs = torch.randn(1, 4, 3)
    moved(online)
    assert torch.equal(target.encode(inputs, None).features, online(inputs, None).features)
    assert not list(target.parameters())


@pytest.mark.parametrize("shape", ["linear", "cosine"])
def test_momentum_runs_from_start_to_end_and_depends_on_the_step_alone(shape: Any) -> None:
    schedule = MomentumSchedule(0.9, 1.0, 5, shape)
    values = [schedule(step) for step in range(1, 6)]
    assert values[0] == pytest.approx(0.9) and values[-1] == pytest.approx(1.0)
    assert values == sorted(values) and values[2] == pytest.approx(0.95)
    assert schedule(99) == pytest.approx(1.0)


def test_momentum_outside_0_to_1_is_refused() -> None:
    with pytest.raises(ValueError, match="0..1"):
        MomentumSchedule(1.1, 1.0, 5)


def test_standardise_uses_the_valid_sites_of_its_kind_only() -> None:
    torch.manual_seed(0)
    features = torch.randn(2, 1, 6, 3) * 4 + 7
    valid, kind = torch.rand(2, 1, 6) > 0.3, torch.arange(6).expand(2, 1, 6) % 2
    targets = Sites(torch.zeros(2, 1, 6, dtype=torch.long), valid, kind, ("a", "b"))
    out = Standardise(kind=0)(features, targets)
    chosen = out[valid & (kind == 0)]
    torch.testing.assert_close(chosen.mean(0), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(chosen.var(0, correction=0), torch.ones(3), atol=1e-4, rtol=0)
    wild = torch.where((valid & (kind == 0)).unsqueeze(-1), features, 1e6)
    torch.testing.assert_close(Standardise(kind=0)(wild, targets)[valid & (kind == 0)], chosen)


def test_layer_normalise_gives_each_vector_mean_0_and_variance_1() -> None:
    out = LayerNormalise()(torch.randn(2, 1, 3, 16) * 3 + 1, Sites(torch.zeros(2, 1, 3, dtype=torch.long)))
    torch.testing.assert_close(out.mean(-1), torch.zeros(2, 1, 3), atol=1e-5, rtol=0)


def test_centring_takes_off_what_a_sample_has_in_common() -> None:
    torch.manual_seed(0)
    features, valid = torch.randn(2, 3, 5, 16, dtype=torch.float64), torch.rand(2, 3, 5) > 0.3
    targets = Sites(torch.zeros(2, 3, 5, dtype=torch.long), valid)
    out = CentredLayerNormalise()(features, targets)
    shared = torch.randn(2, 1, 1, 16, dtype=torch.float64) * 100
    torch.testing.assert_close(CentredLayerNormalise()(features + shared, targets), out)
    wild = torch.where(valid.unsqueeze(-1), features, 1e6)
    torch.testing.assert_close(CentredLayerNormalise()(wild, targets)[valid], out[valid])
    torch.testing.assert_close(out.var(-1, correction=0), torch.ones(2, 3, 5, dtype=torch.float64), atol=1e-3, rtol=0)


def test_centring_without_a_valid_target_is_finite() -> None:
    targets = Sites(torch.zeros(1, 1, 2, dtype=torch.long), torch.zeros(1, 1, 2, dtype=torch.bool))
    assert CentredLayerNormalise()(torch.randn(1, 1, 2, 4), targets).isfinite().all()


def correlated(rows: int, width: int) -> tuple[Tensor, Sites]:
    torch.manual_seed(0)
    features = (torch.randn(1, 1, rows, width) @ torch.randn(width, width)) + 3
    return features, Sites(torch.zeros(1, 1, rows, dtype=torch.long), torch.rand(1, 1, rows) > 0.2)


def test_whitening_by_half_gives_unit_covariance_and_by_a_quarter_its_square_root() -> None:
    features, targets = correlated(400, 5)
    rows = features[targets.valid_mask()]
    covariance = torch.cov(rows.T, correction=0)
    white = Whiten(0.5)(features, targets)[targets.valid_mask()]
    torch.testing.assert_close(torch.cov(white.T, correction=0), torch.eye(5), atol=1e-3, rtol=0)
    half = torch.cov(Whiten(0.25)(features, targets)[targets.valid_mask()].T, correction=0)
    torch.testing.assert_close(half @ half, covariance, atol=1e-2 * covariance.max().item(), rtol=1e-2)


def test_whitening_does_not_depend_on_a_rotation_of_the_features() -> None:
    features, targets = correlated(200, 4)
    rotation, _ = torch.linalg.qr(torch.randn(4, 4))
    turned = Whiten(0.25)(features @ rotation, targets)
    torch.testing.assert_close(turned, Whiten(0.25)(features, targets) @ rotation, atol=1e-3, rtol=1e-3)


def test_whitening_of_constant_or_absent_features_is_finite() -> None:
    _, targets = correlated(10, 4)
    nothing = Sites(targets.ids, torch.zeros_like(targets.ids, dtype=torch.bool))
    assert torch.isfinite(Whiten(0.5)(torch.ones(1, 1, 10, 4), targets)).all()
    assert torch.isfinite(Whiten(0.5)(torch.randn(1, 1, 10, 4), nothing)).all()
    with pytest.raises(ValueError, match="at most at 0.5"):
        Whiten(0.7)


class Blocks(nn.Module):
    """Three blocks, of which each adds its number."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward_layers(self, inputs: Tensor, keep: Sites | None, layers: tuple[int, ...]) -> Tokens:
        outputs = {f"block_{layer % 3}": inputs * self.scale + layer % 3 for layer in layers}
        return Tokens(inputs, keep or Sites.whole(LATTICE, len(inputs)), LATTICE, outputs)


def test_the_mean_of_the_last_blocks() -> None:
    x = torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(0))
    found = MeanOfBlocks(2, "none")(Blocks(), x, None)
    torch.testing.assert_close(found.features, x + 1.5)
    expected = nn.functional.instance_norm(x.transpose(1, 2), eps=1e-5).transpose(1, 2)
    for blocks in (1, 3):
        torch.testing.assert_close(MeanOfBlocks(blocks)(Blocks(), x, None).features, expected)
    assert (
        EmaTarget(Blocks(), "follow", MomentumSchedule(1, 1, 1), MeanOfBlocks(2)).encode(x, None).features.shape
        == x.shape
    )


def test_instance_norm_passes_over_padding_and_silence() -> None:
    x = torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(0))
    valid = torch.tensor([[True, True, True, False], [True] * 4])
    padded = torch.where(valid[..., None], x, 1e6)
    sites = Sites(torch.arange(4).expand(2, 4), valid, complete=True)
    found = MeanOfBlocks(1)(Blocks(), padded, sites).features
    alone = MeanOfBlocks(1)(Blocks(), x[:1, :3], Sites(torch.arange(3).expand(1, 3))).features
    torch.testing.assert_close(found[:1, :3], alone)
    constant = MeanOfBlocks(1)(Blocks(), torch.ones(1, 4, 3), None).features.detach()
    assert bool(constant.isfinite().all()) and float(constant.abs().max()) < 1e-3


def test_impossible_block_targets_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 1 block, got 0"):
        MeanOfBlocks(0)
    with pytest.raises(ValueError, match="norm must be one of instance, layer, none, got 'batch'"):
        MeanOfBlocks(1, "batch")  # type: ignore[arg-type]
