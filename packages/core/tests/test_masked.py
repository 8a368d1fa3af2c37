"""Masked prediction: gradients, promises of the contracts, joint counts, and several masks a sample."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from jepa_core.anticollapse import VarianceHinge
from jepa_core.contracts import Batch, Condition, Drawn, Grid, Mask, Sites, Tokens
from jepa_core.distributed import drawn_rows
from jepa_core.energy import L2, Cosine
from jepa_core.lattice import Lattice
from jepa_core.masking.random import RandomMasker
from jepa_core.methods.masked import KindToken, MaskedPrediction, Regulariser
from jepa_core.targets import EmaTarget, LayerNormalise, MomentumSchedule, RawTarget

LATTICE = Lattice(("y", "x"), (4, 4), (1.0, 1.0), ("px", "px"), (0.0, 0.0))
WIDTH = 6


class PatchEncoder(nn.Module):
    """Each kept patch sees the mean of the kept patches: enough to notice what leaks."""

    def __init__(self) -> None:
        super().__init__()
        self.own, self.shared = nn.Linear(3, WIDTH), nn.Linear(3, WIDTH)

    def forward(self, inputs: Tensor, keep: Sites | None) -> Tokens:
        sites = keep if keep is not None else Sites.whole(LATTICE, len(inputs))
        kept = inputs.gather(1, sites.ids.unsqueeze(-1).expand(-1, -1, 3))
        weight = sites.valid_mask().unsqueeze(-1).float()
        mean = (kept * weight).sum(1, keepdim=True) / weight.sum(1, keepdim=True).clamp(min=1)
        return Tokens(self.own(kept) + self.shared(mean), sites, LATTICE)


class MeanPredictor(nn.Module):
    def __init__(self, width: int = WIDTH) -> None:
        super().__init__()
        self.place, self.head = nn.Embedding(16, WIDTH), nn.Linear(WIDTH, width)

    def forward(self, context: Tokens, targets: Sites, condition: Any, mask_index: int = 0) -> Tensor:
        weight = context.sites.valid_mask().unsqueeze(-1).float()
        mean = (context.features * weight).sum(1) / weight.sum(1).clamp(min=1)
        return self.head(mean[:, None, None] + self.place(targets.ids))


def everything_present(inputs: Tensor, seeds: Tensor) -> tuple[Tensor, Grid]:
    return inputs, Grid(LATTICE)


def absent_where_zero(inputs: Tensor, seeds: Tensor) -> tuple[Tensor, Grid]:
    return inputs, Grid(LATTICE, present=inputs.abs().sum(-1) > 0)


def method(**options: Any) -> MaskedPrediction:
    torch.manual_seed(0)
    encoder = PatchEncoder()
    parts: dict[str, Any] = {
        "front_end": everything_present,
        "encoder": encoder,
        "target": EmaTarget(encoder, "follow", MomentumSchedule(0.9, 1.0, 10)),
        "masker": RandomMasker(0.5),
        "predictor": MeanPredictor(),
        "energy": L2(),
        "monitor_rows": 8,
    }
    return MaskedPrediction(**{**parts, **options})


def batch(count: int = 3, seed: int = 0) -> Batch:
    inputs = torch.randn(count, 16, 3, generator=torch.Generator().manual_seed(seed))
    return Batch(inputs, torch.arange(count) + 100, tuple(f"s{i}" for i in range(count)))


def test_every_trainable_parameter_is_in_one_group_and_gets_a_gradient() -> None:
    model = method(kind_token=None)
    grouped = [name for group in model.parameter_groups() for name, _ in group.parameters]
    trainable = [name for name, p in model.named_parameters() if p.requires_grad]
    assert sorted(grouped) == sorted(trainable) and not any("target" in name for name in trainable)
    model(batch(), 0).total.backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


def test_target_values_do_not_influence_predictions_or_context() -> None:
    model, given = method(), batch()
    seen: list[Tensor] = []
    model.predictor.register_forward_hook(lambda m, a, out: seen.append(out.detach()))
    (mask,) = model.masker(Grid(LATTICE), given.seeds, 0)
    hidden = mask.target_union.on_lattice(16).unsqueeze(-1)
    model(given, 0)
    model(replace(given, inputs=torch.where(hidden, 7.0, given.inputs)), 0)
    assert torch.equal(seen[0], seen[1])


def test_masked_target_view_shows_the_target_encoder_only_the_targets() -> None:
    model, given = method(target_view="targets"), batch()
    (mask,) = model.masker(Grid(LATTICE), given.seeds, 0)
    seen = mask.context.on_lattice(16).unsqueeze(-1)
    changed = replace(given, inputs=torch.where(seen, 7.0, given.inputs))
    one = model.target.encode(given.inputs, mask.target_union).features
    assert torch.equal(one, model.target.encode(changed.inputs, mask.target_union).features)


def test_target_moves_once_per_optimiser_step() -> None:
    model = method()
    before = [p.clone() for p in model.target.parameters()]
    model(batch(), 0)
    assert all(torch.equal(a, b) for a, b in zip(before, model.target.parameters(), strict=True))
    with torch.no_grad():
        model.encoder.own.weight.add_(1.0)
    model.after_step(1)
    assert model.momentum_now == pytest.approx(0.9)
    torch.testing.assert_close(model.target.encoder.own.weight, before[0] + 0.1)


def test_raw_target_makes_it_an_autoencoder() -> None:
    raw = RawTarget(lambda x, keep: Tokens(x, Sites.whole(LATTICE, len(x)), LATTICE))
    model = method(target=raw, predictor=MeanPredictor(3), normaliser=LayerNormalise())
    optimiser = torch.optim.Adam(model.parameters(), 0.05)
    given = batch()
    first = model(given, 0).total.item()
    for step in range(60):
        optimiser.zero_grad()
        model(given, step).total.backward()
        optimiser.step()
    assert model(given, 0).total.item() < 0.5 * first


def test_joint_counts_make_accumulated_gradients_those_of_the_joined_batch() -> None:
    model = method(front_end=absent_where_zero)
    whole = batch(4)
    whole.inputs[0, :11] = 0  # an uneven micro-batch: few sites present
    model(whole, 0).total.backward()
    joined = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    model.zero_grad()
    halves = [
        replace(
            whole, inputs=whole.inputs[i : i + 2], seeds=whole.seeds[i : i + 2], sample_id=whole.sample_id[i : i + 2]
        )
        for i in (0, 2)
    ]
    counts = torch.stack([c for h in halves if (c := model.target_counts(h)) is not None]).sum(0)
    total = torch.tensor(0.0)
    for half in halves:
        loss = model(replace(half, joint_counts=counts, micro_batches=2), 0).total / 2
        loss.backward()
        total += loss.detach()
    torch.testing.assert_close(total, model(whole, 0).total.detach())
    for one, other in zip(joined, [p.grad for p in model.parameters() if p.grad is not None], strict=True):
        torch.testing.assert_close(one, other)


def test_fixed_lengths_need_no_counts() -> None:
    assert method().target_counts(batch()) is None


def test_a_batch_without_any_target_gives_zero_and_finite_gradients() -> None:
    model = method(front_end=absent_where_zero, energy=Cosine())
    empty = replace(batch(2), inputs=torch.zeros(2, 16, 3))
    losses = model(empty, 0)
    losses.total.backward()
    assert losses.total.item() == 0
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_regulariser_is_added_by_weight_and_logged() -> None:
    hinge = Regulariser(VarianceHinge(gamma=5.0, eps=1e-4), "context", 0, 2.0, l2_normalise=False)
    plain, ruled = method()(batch(), 0), method(regularisers=[hinge])(batch(), 0)
    (name,) = set(ruled.terms) - set(plain.terms)
    assert name.endswith("/context")
    torch.testing.assert_close(ruled.total, plain.total + 2 * ruled.terms[name])


class TwoMasks:
    def __call__(self, grid: Grid, seeds: Tensor, batch_seed: int) -> tuple[Mask, ...]:
        (short,) = RandomMasker(0.25)(grid, seeds, batch_seed)
        (long,) = RandomMasker(0.75)(grid, seeds, batch_seed)
        return replace(short, name="short"), replace(long, name="long")


def test_several_masks_are_averaged_and_named() -> None:
    losses = method(masker=TwoMasks())(batch(), 0)
    assert any(name.startswith("short/") for name in losses.terms)
    torch.testing.assert_close(losses.total, torch.stack(list(losses.terms.values())).mean())


def test_kind_token_replaces_one_kind_only() -> None:
    sites = Sites(torch.tensor([[0, 1]]), kind=torch.tensor([[0, 1]]), kinds=("occupied", "empty"))
    token = KindToken(3, kind=1)
    out = token(torch.ones(1, 2, 3), sites)
    assert torch.equal(out[0, 0], torch.ones(3)) and torch.equal(out[0, 1], token.token)


def test_monitor_rows_are_valid_rows_even_where_few_are() -> None:
    model = method()
    features = torch.arange(16.0).reshape(1, 16, 1)
    valid = torch.zeros(1, 16, dtype=torch.bool)
    valid[0, 3], valid[0, 9] = True, True
    places, keys = model._picks(Sites(torch.arange(16).unsqueeze(0), valid), torch.tensor([5]))
    rows = drawn_rows(Drawn(features.flatten(0, 1)[places], keys, model.monitor_rows))
    assert set(rows.flatten().tolist()) == {3.0, 9.0} and rows.shape == (8, 1)


def test_nothing_is_put_aside_where_nobody_watches() -> None:
    one, other = method(), method()
    other.load_state_dict(one.state_dict())
    other.watched = False
    watched, alone = one(batch(), 1), other(batch(), 1)
    assert torch.equal(watched.total, alone.total) and set(watched.monitor) == {"context", "target"}
    assert not alone.monitor and one.diagnose() and not other.diagnose()


def test_embed_leaves_the_mode_as_it_was() -> None:
    model = method().train()
    embedding = model.embed(batch())
    assert model.training and embedding["tokens"].features.shape == (3, 16, WIDTH)
    assert not embedding["tokens"].features.requires_grad


def test_what_the_predictor_is_told_may_come_from_the_front_end() -> None:
    told: list[Any] = []

    class Listener(MeanPredictor):
        def forward(self, context: Tokens, targets: Sites, condition: Any, mask_index: int = 0) -> Tensor:
            told.append(condition)
            return super().forward(context, targets, condition, mask_index)

    made = Condition(torch.ones(3, 1, 2))
    method(predictor=Listener(), condition=lambda inputs: made)(batch(), 1)
    given = Condition(torch.zeros(3, 1, 2))
    method(predictor=Listener())(replace(batch(), condition=given), 1)
    assert told[0] is made and told[1] is given


def test_targets_may_be_reordered_before_they_are_compared() -> None:
    def towards_the_prediction(predicted: Tensor, target: Tensor, targets: Sites) -> Tensor:
        assert not predicted.requires_grad and target.shape == predicted.shape == (*targets.ids.shape, WIDTH)
        return predicted

    assert float(method(matcher=towards_the_prediction)(batch(), 1).total.detach()) == 0
