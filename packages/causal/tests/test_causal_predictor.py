"""The predictor of slots: symmetry, what it may see, its residual, rollouts, and the released code's attention."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from jepa_causal.build import FutureMatcher, SlotShape, build_method
from jepa_causal.encoder import FrozenSlots, Scale, SlotFrontEnd
from jepa_causal.forecast import complete, forecast
from jepa_causal.predictor import ReleasedBlock, ReleasedTransformer, SlotPredictor, last_visible
from jepa_causal.settings import CausalSettings
from jepa_causal.windows import SlotWindow, slot_lattice
from jepa_core.contracts import Batch, Mask, Sites
from jepa_core.methods.masked import MaskedPrediction

H, F, K, D, A, P, B = 5, 3, 4, 12, 2, 3, 6
T = H + F


def settings(**changes: object) -> CausalSettings:
    options = CausalSettings(history=H, future=F)
    options.predictor.width, options.predictor.head_width = 16, 8
    options.masking.masked_objects = [0, 2]
    for key, value in changes.items():
        section, _, name = key.partition("__")
        setattr(getattr(options, section) if name else options, name or section, value)
    return options


def streams() -> SlotFrontEnd:
    return SlotFrontEnd(
        Scale(torch.arange(A).float(), torch.full((A,), 2.0)), Scale(torch.zeros(P), torch.full((P,), 0.5))
    )


def method_of(front_end: SlotFrontEnd | None = None, **changes: object) -> MaskedPrediction:
    torch.manual_seed(0)
    method = build_method(settings(**changes), SlotShape(K, D), front_end or SlotFrontEnd(), 0, 32)
    with torch.no_grad():  # so that differences are not lost in weights near zero
        for p in method.predictor.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return method


def predictor_of(method: MaskedPrediction) -> SlotPredictor:
    assert isinstance(method.predictor, SlotPredictor)
    return method.predictor


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def window(**changes: object) -> SlotWindow:
    return SlotWindow(noise(B, T, K, D), **changes)  # type: ignore[arg-type]


def with_streams() -> SlotWindow:
    return window(actions=noise(B, T, A, seed=1), proprio=noise(B, T, P, seed=2))


def batch_of(inputs: SlotWindow) -> Batch:
    return Batch(inputs, torch.arange(B), tuple(f"w{place}" for place in range(B)))


def predict(method: MaskedPrediction, inputs: SlotWindow) -> tuple[Tensor, Mask]:
    """Predictions ``[B, T, K, D]`` and the mask they were made with."""
    batch = batch_of(inputs)
    _, (mask,) = method.masks(batch)
    seen, _ = method.front_end(inputs, batch.seeds)
    assert method.condition is not None
    found = method.predictor(method.encoder(seen, mask.context), mask.targets, method.condition(seen))
    return found[:, 0].unflatten(1, (T, K)), mask


CASES = [
    {},
    {"predictor__width": 0, "predictor__residual": "none"},
    {"predictor__released_attention": True},
    {"masking__kind": "token"},
    {"masking__kind": "tube"},
    {"matching": "hungarian"},
]


@pytest.mark.parametrize("changes", CASES, ids=str)
def test_every_parameter_learns_and_the_loss_is_the_sum_of_its_terms(changes: dict[str, object]) -> None:
    method = method_of(streams(), **changes)
    losses = method(batch_of(with_streams()), 1)
    losses.total.backward()
    assert [name for name, p in method.named_parameters() if p.grad is None or not bool(p.grad.any())] == []
    assert set(losses.terms) == {"energy/future", "energy/history"}
    torch.testing.assert_close(losses.total.detach(), sum(losses.terms.values()))


def test_the_loss_is_the_mean_square_over_each_kind() -> None:
    method = method_of(future_weight=2.0)
    inputs = window()
    found, mask = predict(method, inputs)
    square = (found - inputs.slots).square().mean(-1).flatten(1)
    kinds = [mask.targets.kind_mask(kind)[:, 0] for kind in (0, 1)]
    future, history = (square[kind].mean() for kind in kinds)
    torch.testing.assert_close(method(batch_of(inputs), 1).total, 2 * future + history)


def test_two_micro_batches_are_one_batch() -> None:
    """Hidden objects differ in number: each term is the mean over all of them, not the mean of means."""
    method = method_of()
    whole = batch_of(window())
    parts = [
        Batch(SlotWindow(whole.inputs.slots[cut]), whole.seeds[cut], whole.sample_id[cut], micro_batches=2)
        for cut in (slice(0, 3), slice(3, B))
    ]
    counts = [method.target_counts(part) for part in parts]
    assert counts[0] is not None and counts[1] is not None and counts[0].shape == (1, 2)
    for part in parts:
        part.joint_counts = counts[0] + counts[1]
    joined = torch.stack([method(part, 1).total for part in parts]).mean()
    torch.testing.assert_close(joined, method(whole, 1).total)


def test_slots_may_be_permuted() -> None:
    method = method_of(streams())
    order = torch.tensor([2, 0, 3, 1])
    inputs = with_streams()
    seen, _ = method.front_end(inputs, torch.arange(B))
    _, (mask,) = method.masks(batch_of(inputs))
    assert method.condition is not None

    def run(slots: Tensor, valid: Tensor) -> Tensor:
        keep = Sites(mask.context.ids, valid, complete=True)
        part = SlotWindow(slots, None, seen.actions, None, seen.proprio, None)
        found = method.predictor(method.encoder(part, keep), mask.targets, method.condition(part))  # type: ignore[misc]
        return found[:, 0].unflatten(1, (T, K))

    valid = mask.context.valid_mask().unflatten(1, (T, K))
    plain = run(seen.slots, valid.flatten(1))
    permuted = run(seen.slots[:, :, order], valid[:, :, order].flatten(1))
    torch.testing.assert_close(permuted, plain[:, :, order], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("released", [False, True])
def test_hidden_slots_change_no_prediction(released: bool) -> None:
    method = method_of(predictor__released_attention=released).eval()
    inputs = window()
    plain, mask = predict(method, inputs)
    hidden = ~mask.context.valid_mask().unflatten(1, (T, K))
    changed = SlotWindow(torch.where(hidden.unsqueeze(-1), 1e6, inputs.slots))
    assert torch.equal(predict(method, changed)[0], plain)


@pytest.mark.parametrize("released", [False, True])
def test_an_absent_object_is_as_if_it_were_not_in_the_window(released: bool) -> None:
    method = method_of(predictor__released_attention=released, masking__masked_objects=[0, 0]).eval()
    present = torch.ones(B, T, K, dtype=torch.bool)
    present[:, :, 1] = False
    left = [0, 2, 3]
    absent, _ = predict(method, window(present=present))
    slots = noise(B, T, K, D)
    inputs = SlotWindow(slots[:, :, left])
    _, (mask,) = method.masks(batch_of(inputs))
    alone = method.predictor(method.encoder(inputs, mask.context), mask.targets, None)[:, 0].unflatten(1, (T, 3))
    torch.testing.assert_close(absent[:, :, left], alone, atol=1e-5, rtol=1e-5)
    losses = method(batch_of(window(present=present)), 1)
    assert bool(losses.total.isfinite())


def test_future_actions_are_seen_and_what_must_not_be_is_not() -> None:
    method = method_of(streams()).eval()
    plain, _ = predict(method, with_streams())

    def changed(name: str, step: int) -> bool:
        inputs = with_streams()
        stream = {"actions": inputs.actions, "proprio": inputs.proprio}[name]
        assert stream is not None
        stream[:, step] += 5
        return not torch.equal(predict(method, inputs)[0], plain)

    assert changed("actions", T - 2) and changed("actions", 0) and changed("proprio", H - 1)
    assert not changed("proprio", H) and not changed("actions", T - 1)


def test_an_unknown_action_is_left_out_and_its_number_means_nothing() -> None:
    method = method_of(streams()).eval()
    valid = torch.ones(B, T, dtype=torch.bool)
    valid[:, 4:] = False
    actions = noise(B, T, A, seed=1)
    found = predict(method, window(actions=actions, action_valid=valid))[0]
    other = torch.where(valid.unsqueeze(-1), actions, torch.nan)
    assert torch.equal(predict(method, window(actions=other, action_valid=valid))[0], found)
    assert not torch.equal(predict(method, window(actions=actions))[0], found)


def test_streams_are_scaled_as_in_training_and_kept_with_the_weights() -> None:
    method = method_of(streams())
    other = method_of(SlotFrontEnd(Scale(torch.zeros(A), torch.ones(A)), Scale(torch.zeros(P), torch.ones(P))))
    other.load_state_dict(method.state_dict())
    seen, _ = other.front_end(with_streams(), torch.arange(B))
    torch.testing.assert_close(seen.actions, (noise(B, T, A, seed=1) - torch.arange(A)) / 2)
    with pytest.raises(ValueError, match="actions: expected 2 numbers a step, as in training, got 5"):
        method.front_end(window(actions=noise(B, T, 5)), torch.arange(B))


def test_the_residual_is_to_the_last_visible_slot() -> None:
    slots = torch.arange(5.0).view(1, 5, 1, 1).expand(1, 5, 3, 1)
    visible = torch.tensor([[1, 1, 1, 0, 0], [1, 0, 0, 0, 0], [0, 1, 0, 1, 0]]).T[None].bool()
    found = last_visible(slots, visible)[0, :, :, 0].T.tolist()
    assert found == [[0, 1, 2, 2, 2], [0, 0, 0, 0, 0], [1, 1, 1, 3, 3]]


def test_a_residual_predictor_starts_from_what_was_seen_last() -> None:
    torch.manual_seed(0)
    method = build_method(settings(), SlotShape(K, D), SlotFrontEnd(), 0, 32)
    inputs = window()
    found, mask = predict(method, inputs)
    seen = mask.context.on_lattice(T * K).unflatten(1, (T, K))
    last = last_visible(inputs.slots * seen[..., None], seen)
    future = found[:, H:] - last[:, H:]
    assert 0 < future.abs().max().item() < 0.1


def test_without_weights_the_residual_copies() -> None:
    method = method_of(masking__masked_objects=[0, 0])
    nn.init.zeros_(predictor_of(method).project.weight)
    nn.init.zeros_(predictor_of(method).project.bias)
    slots = noise(B, H, K, D)
    torch.testing.assert_close(forecast(method, slots, None, 4), slots[:, -1:].expand(-1, 4, -1, -1))
    hidden = torch.tensor([[True, False, False, True]]).expand(B, K)
    filled = complete(method, slots, hidden)
    torch.testing.assert_close(filled[:, :, [0, 3]], slots[:, :1, [0, 3]].expand(-1, H, -1, -1))
    assert torch.equal(filled[:, :, [1, 2]], slots[:, :, [1, 2]])


# --------------------------------------------------------------------------------------------------------------------
# Rollouts
# --------------------------------------------------------------------------------------------------------------------


def test_a_forecast_of_a_window_is_what_training_predicts() -> None:
    method = method_of(streams(), masking__masked_objects=[0, 0]).eval()
    inputs = with_streams()
    expected = predict(method, inputs)[0][:, H:]
    assert inputs.proprio is not None
    found = forecast(method, inputs.slots[:, :H], None, F, inputs.actions, inputs.proprio[:, :H])
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert torch.equal(forecast(method, inputs.slots[:, :H], None, 2, inputs.actions, inputs.proprio), found[:, :2])


def test_a_long_forecast_goes_on_from_its_own_predictions() -> None:
    method = method_of(streams()).eval()
    slots, actions = noise(B, H, K, D), noise(B, H + 7, A, seed=1)
    found = forecast(method, slots, None, 7, actions)
    assert found.shape == (B, 7, K, D) and not found.requires_grad
    joined = torch.cat([slots, found[:, :F]], dim=1)[:, -H:]
    torch.testing.assert_close(found[:, F : 2 * F], forecast(method, joined, None, F, actions[:, F:]))
    again = forecast(method, torch.cat([noise(B, 2, K, D, seed=9), slots], dim=1), None, F)
    torch.testing.assert_close(again, forecast(method, slots, None, F))


def test_a_shorter_history_takes_the_last_codes_of_time() -> None:
    method = method_of().eval()
    slots = noise(B, 2, K, D)
    first = copy.deepcopy(method)
    with torch.no_grad():
        predictor_of(first).time_embed[: H - 2].fill_(1e3)
    assert torch.equal(forecast(first, slots, None, F), forecast(method, slots, None, F))


def test_a_removed_object_changes_the_others_forecast_and_keeps_its_slot() -> None:
    method = method_of().eval()
    slots, present = noise(B, H, K, D), torch.ones(B, H, K, dtype=torch.bool)
    plain = forecast(method, slots, present, F)
    torch.testing.assert_close(plain, forecast(method, slots, None, F), atol=1e-5, rtol=1e-5)
    present[:, :, 2] = False
    found = forecast(method, slots, present, F)
    assert not torch.allclose(found[:, :, 0], plain[:, :, 0], atol=1e-3)
    assert torch.equal(found[:, :, 2], slots[:, -1:, 2].expand(-1, F, -1))
    left = forecast(method, slots[:, :, [0, 1, 3]], None, F)
    torch.testing.assert_close(found[:, :, [0, 1, 3]], left, atol=1e-5, rtol=1e-5)


def test_completion_reads_no_more_of_a_hidden_object_than_its_first_step() -> None:
    method = method_of(masking__masked_objects=[1, 1]).eval()
    inputs = window()
    _, (mask,) = method.masks(batch_of(inputs))
    hidden = mask.targets.kind_mask(1)[:, 0].unflatten(1, (T, K)).any(1)
    expected = predict(method, inputs)[0][:, :H]
    found = complete(method, inputs.slots[:, :H], hidden)
    fill = hidden[:, None, :, None] & (torch.arange(H) > 0)[:, None, None]
    torch.testing.assert_close(found, torch.where(fill, expected, inputs.slots[:, :H]), atol=1e-5, rtol=1e-5)


def test_using_a_method_leaves_its_mode() -> None:
    method = method_of().train()
    forecast(method, noise(B, H, K, D), None, 1)
    assert method.training


@pytest.mark.parametrize(
    ("slots", "present", "steps", "message"),
    [
        ((B, H, K, 5), None, 1, r"slots: expected \[B, T, K, 12\]"),
        ((B, 0, K, D), None, 1, "with a step or more"),
        ((B, H, K, D), (B, H, 2), 1, r"present: expected \[B, T, K\]"),
        ((B, H, K, D), None, 0, "expected 1 step or more, got 0"),
    ],
)
def test_impossible_forecasts_are_refused(
    slots: tuple[int, ...], present: tuple[int, ...] | None, steps: int, message: str
) -> None:
    there = None if present is None else torch.ones(present, dtype=torch.bool)
    with pytest.raises(ValueError, match=message):
        forecast(method_of(), torch.zeros(slots), there, steps)
    with pytest.raises(ValueError, match="a method of the causal modality, got Linear"):
        forecast(nn.Linear(1, 1), torch.zeros(B, H, K, D), None, 1)


# --------------------------------------------------------------------------------------------------------------------
# Parts
# --------------------------------------------------------------------------------------------------------------------


def test_slots_come_back_at_the_sites_asked_for() -> None:
    inputs = window()
    keep = Sites(torch.tensor([[3, 0]]).expand(B, 2), torch.tensor([[True, False]]).expand(B, 2))
    tokens = FrozenSlots()(inputs, keep)
    assert torch.equal(tokens.features[:, 0], inputs.slots[:, 0, 3]) and not bool(tokens.features[:, 1].any())
    assert tokens.lattice == slot_lattice(T, K)


def test_the_released_attention_is_multi_head_attention_without_a_norm() -> None:
    torch.manual_seed(0)
    stack = ReleasedTransformer(16, 1, 4, 32, 0.0).eval()
    x = noise(2, 5, 16)
    block = stack.blocks[0]
    assert isinstance(block, ReleasedBlock)
    after = x + block.attn(x, x, x)[0]
    norm, first, act, _, second, _ = block.mlp
    torch.testing.assert_close(stack(x), stack.norm(after + second(act(first(norm(after))))), atol=1e-5, rtol=1e-5)
    valid = torch.ones(2, 5, dtype=torch.bool)
    valid[:, 4] = False
    torch.testing.assert_close(stack(x, valid)[:, :4], stack(x[:, :4]), atol=1e-5, rtol=1e-5)


def test_targets_are_matched_in_the_future_alone_and_only_where_all_are_there() -> None:
    target = noise(2, 1, T * K, D)
    order = torch.tensor([1, 3, 0, 2])
    swapped = target.unflatten(2, (T, K))[:, :, :, order].flatten(2, 3)
    valid = torch.ones(2, 1, T * K, dtype=torch.bool)
    valid[1, 0, -1] = False
    sites = Sites(torch.arange(T * K).expand(2, 1, -1), valid, complete=True)
    found = FutureMatcher(H, K)(swapped, target, sites)
    first = H * K
    assert torch.equal(found[:, :, :first], target[:, :, :first])
    assert torch.equal(found[0, :, first:], swapped[0, :, first:]) and torch.equal(found[1], target[1])


@pytest.mark.parametrize("some_absent", [False, True])
def test_the_released_attention_is_that_of_torchs_module(some_absent: bool) -> None:
    torch.manual_seed(0)
    block = ReleasedBlock(16, 4, 32, 0.0).double()
    x = torch.randn(3, 7, 16, dtype=torch.float64)
    valid = torch.rand(3, 7) < 0.6 if some_absent else None
    if valid is not None:
        valid[:, 0] = True
    absent = None if valid is None else ~valid
    expected = x + block.attn(x, x, x, key_padding_mask=absent, need_weights=False)[0]
    torch.testing.assert_close(block(x, valid), expected + block.mlp(expected))
