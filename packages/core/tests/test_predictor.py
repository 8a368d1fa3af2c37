"""The mask-token predictor: positions matter, blocks are separate, what is not valid has no influence."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from jepa_core.contracts import Condition, Sites, Tokens
from jepa_core.lattice import Lattice
from jepa_core.methods.groups import decay_groups
from jepa_core.nn.attention import Packing, attend_in_steps
from jepa_core.nn.predictor import TransformerPredictor

GRID = Lattice(("t", "y", "x"), (2, 4, 5), (1.0,) * 3, ("s", "px", "px"), (0.0,) * 3)
POSITIONS = ["sin_cos", "rotary", "sin_cos packed", "rotary packed"]


def build(positions: str, condition_width: int | None = None, depth: int = 2) -> TransformerPredictor:
    torch.manual_seed(0)
    code, *packed = positions.split()
    options: dict[str, Any] = {"positions": code, "sequences": "packed" if packed else "per_block"}
    predictor = TransformerPredictor(
        GRID, 12, width=24, depth=depth, heads=3, condition_width=condition_width, **options
    )  # fmt: skip
    # At the small initial weights attention is nearly uniform; larger ones let every influence show.
    with torch.no_grad():
        for parameter in predictor.parameters():
            parameter.mul_(5) if parameter.ndim > 1 else parameter
    return predictor


def context(batch: int = 2, valid: torch.Tensor | None = None) -> Tokens:
    generator = torch.Generator().manual_seed(1)
    ids = torch.stack([torch.randperm(GRID.count, generator=generator)[:9] for _ in range(batch)])
    return Tokens(torch.randn(batch, 9, 12, generator=generator), Sites(ids, valid), GRID)


def targets(batch: int = 2) -> Sites:
    generator = torch.Generator().manual_seed(2)
    return Sites(torch.randint(GRID.count, (batch, 3, 4), generator=generator))


def action(batch: int = 2) -> Condition:
    features = torch.randn(batch, 2, 7, generator=torch.Generator().manual_seed(3))
    return Condition(features, torch.tensor([[0.0, 1.0]]).expand(batch, -1))


@pytest.mark.parametrize("positions", POSITIONS)
def test_target_positions_matter(positions: str) -> None:
    predictor, sites = build(positions), targets()
    out = predictor(context(), sites)
    assert out.shape == (2, 3, 4, 12)
    moved = replace(sites, ids=(sites.ids + 7) % GRID.count)
    assert (predictor(context(), moved) - out).abs().max() > 1e-3
    same = replace(sites, ids=sites.ids[:, :, :1].expand(-1, -1, 4))
    torch.testing.assert_close(predictor(context(), same).std(2), torch.zeros(2, 3, 12), atol=1e-5, rtol=0)


@pytest.mark.parametrize("positions", POSITIONS)
def test_context_positions_and_features_matter(positions: str) -> None:
    predictor, tokens = build(positions), context()
    out = predictor(tokens, targets())
    moved = replace(tokens, sites=replace(tokens.sites, ids=tokens.sites.ids.flip(1)))
    assert (predictor(moved, targets()) - out).abs().max() > 1e-3
    order = torch.randperm(9, generator=torch.Generator().manual_seed(4))
    shuffled = Tokens(tokens.features[:, order], Sites(tokens.sites.ids[:, order]), GRID)
    torch.testing.assert_close(predictor(shuffled, targets()), out, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("positions", POSITIONS)
def test_each_block_is_its_own_sequence(positions: str) -> None:
    predictor, sites = build(positions), targets()
    together = predictor(context(), sites)
    for block in range(3):
        alone = predictor(context(), Sites(sites.ids[:, block : block + 1]))
        torch.testing.assert_close(together[:, block : block + 1], alone, atol=1e-5, rtol=1e-4)
    flipped = predictor(context(), Sites(sites.ids.flip(2))).flip(2)
    torch.testing.assert_close(flipped, together, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("positions", POSITIONS)
def test_what_is_not_valid_influences_nothing(positions: str) -> None:
    predictor, sites, act = build(positions, 7), targets(), action()
    keep_context = torch.arange(9).expand(2, -1) < torch.tensor([[5], [9]])
    keep_targets = torch.arange(4).expand(2, 3, -1) < torch.tensor([2, 4, 0])[None, :, None]
    keep_action = torch.tensor([[True, False], [True, True]])
    tokens = context(valid=keep_context)
    sites, act = replace(sites, valid=keep_targets), replace(act, valid=keep_action)
    out = predictor(tokens, sites, act)
    features = torch.where(keep_context[..., None], tokens.features, float("nan")).requires_grad_()
    spoiled = Tokens(features, Sites(torch.where(keep_context, tokens.sites.ids, 0), keep_context), GRID)
    spoiled_sites = replace(sites, ids=torch.where(keep_targets, sites.ids, 1))
    spoiled_act = replace(act, features=torch.where(keep_action[..., None], act.features, float("inf")))
    again = predictor(spoiled, spoiled_sites, spoiled_act)
    assert torch.equal(again[keep_targets], out[keep_targets])
    assert again.isfinite().all()
    again[keep_targets].sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in predictor.parameters())
    short = Tokens(tokens.features[:1, :5], Sites(tokens.sites.ids[:1, :5]), GRID)
    one = Condition(act.features[:1, :1], act.at[:1, :1] if act.at is not None else None)
    alone = predictor(short, Sites(sites.ids[:1, :1, :2]), one)
    torch.testing.assert_close(out[:1, :1, :2], alone, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("positions", POSITIONS)
def test_conditions_and_their_places_matter(positions: str) -> None:
    predictor, act = build(positions, 7), action()
    out = predictor(context(), targets(), act)
    assert (predictor(context(), targets(), replace(act, features=-act.features)) - out).abs().max() > 1e-3
    swapped = replace(act, at=torch.tensor([[1.0, 0.0]]).expand(2, -1))
    assert (predictor(context(), targets(), swapped) - out).abs().max() > 1e-4
    whole = predictor(context(), targets(), replace(act, at=None))
    assert whole.shape == out.shape


@pytest.mark.parametrize("positions", POSITIONS)
@pytest.mark.parametrize("condition_width", [None, 7])
def test_every_parameter_learns(positions: str, condition_width: int | None) -> None:
    predictor = build(positions, condition_width)
    predictor(context(), targets(), None if condition_width is None else action()).square().sum().backward()
    for name, parameter in predictor.named_parameters():
        assert parameter.grad is not None and parameter.grad.any(), name


@pytest.mark.parametrize("code", ["sin_cos", "rotary"])
def test_packed_differs_by_what_the_context_attends_to_and_by_nothing_else(code: str) -> None:
    # In one block the context has not yet seen a mask token.
    one = [build(f"{code}{packed}", 7, depth=1)(context(), targets(), action()) for packed in ("", " packed")]
    torch.testing.assert_close(*one, atol=1e-5, rtol=1e-4)
    two = [build(f"{code}{packed}", 7)(context(), targets(), action()) for packed in ("", " packed")]
    assert (two[0] - two[1]).abs().max() > 1e-3
    names = [list(build(f"{code}{packed}", 7).state_dict()) for packed in ("", " packed")]
    assert names[0] == names[1]


@pytest.mark.parametrize("masked", [False, True])
def test_packing_is_attention_under_a_block_mask(masked: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, 3, 5 + 12, 4, generator=generator).double().requires_grad_() for _ in range(3))
    block = torch.tensor([-1] * 5 + [0] * 4 + [1] * 4 + [2] * 4)
    may = (block[:, None] == block) | (block == -1)
    valid = torch.rand(2, 17, generator=generator) < 0.7 if masked else None
    weight = torch.randn(2, 3, 17, 4, generator=generator).double()
    mask = may if valid is None else may & valid[:, None, None]
    got, expected = Packing(5, 3).attend(q, k, v, valid), attend_in_steps(q, k, v, mask)
    alone = Packing(5, 3).attend(q[:, :, 5:], k, v, valid)
    torch.testing.assert_close(got, expected)
    torch.testing.assert_close(alone, expected[:, :, 5:])
    gradients = [torch.autograd.grad((out * weight).sum(), (q, k, v)) for out in (got, expected)]
    torch.testing.assert_close(*gradients)


def test_each_mask_takes_its_row_of_the_table_of_mask_tokens() -> None:
    torch.manual_seed(0)
    predictor, sites = TransformerPredictor(GRID, 12, width=24, depth=1, heads=3, mask_tokens=3), targets()
    first, second = predictor(context(), sites, None, 0), predictor(context(), sites, None, 1)
    assert not torch.allclose(first, second, atol=1e-6)
    second.sum().backward()
    gradient = predictor.mask_tokens.grad
    assert gradient is not None and gradient[1].any() and not gradient[[0, 2]].any()
    with pytest.raises(ValueError, match="at most 3 masks"):
        predictor(context(), sites, None, 3)


@pytest.mark.parametrize(("mask_tokens", "token", "row"), [(1, None, 0), (4, 2, 2)])
def test_all_masks_may_share_a_row(mask_tokens: int, token: int | None, row: int) -> None:
    predictor = TransformerPredictor(GRID, 12, width=24, depth=1, heads=3, mask_tokens=mask_tokens, token=token)
    outs = [predictor(context(), targets(), None, index) for index in (0, 5)]
    assert torch.equal(*outs)
    outs[0].sum().backward()
    gradient = predictor.mask_tokens.grad
    assert gradient is not None and gradient.any(1).nonzero().flatten().tolist() == [row]


def test_mask_tokens_start_at_their_width_and_never_decay() -> None:
    wide = TransformerPredictor(GRID, 12, width=240, depth=1, heads=3, mask_tokens=9, token_std=0.5)
    assert float(wide.mask_tokens.detach().std()) == pytest.approx(0.5, rel=0.05)
    zero = TransformerPredictor(GRID, 12, width=24, depth=1, heads=3, mask_tokens=2, token_std=0.0)
    assert not zero.mask_tokens.any()
    decayed = {name: group.weight_decay for group in decay_groups(zero) for name, _ in group.parameters}
    assert not decayed["mask_tokens"] and decayed["embed.weight"] and not decayed["embed.bias"]
    assert set(decayed) == {name for name, _ in zero.named_parameters()}
    inside = torch.nn.ModuleDict({"predictor": zero, "other": torch.nn.Linear(2, 2)})
    nested = {name: group.weight_decay for group in decay_groups(inside) for name, _ in group.parameters}
    assert not nested["predictor.mask_tokens"] and nested["other.weight"]


@pytest.mark.parametrize(("mask_tokens", "token"), [(0, None), (2, 2), (2, -1)])
def test_rows_that_are_not_in_the_table_are_refused(mask_tokens: int, token: int | None) -> None:
    with pytest.raises(ValueError, match="mask_tokens, token"):
        TransformerPredictor(GRID, 12, width=24, depth=1, heads=3, mask_tokens=mask_tokens, token=token)


def test_output_width_and_autocast() -> None:
    predictor = TransformerPredictor(GRID, 12, width=24, depth=1, heads=3, output_width=5, positions="rotary")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = predictor(context(), targets())
    assert out.shape == (2, 3, 4, 5)
    assert out.isfinite().all()
    assert "table" not in predictor.state_dict()


def test_wrong_use_is_named() -> None:
    predictor = build("sin_cos")
    other = replace(context(), lattice=replace(GRID, sizes=(2, 5, 4)))
    with pytest.raises(ValueError, match=r"expected a lattice of \(2, 4, 5\)"):
        predictor(other, targets())
    with pytest.raises(ValueError, match="expected no condition"):
        predictor(context(), targets(), action())
    with pytest.raises(ValueError, match="expected a condition"):
        build("sin_cos", 7)(context(), targets())
    with pytest.raises(ValueError, match="sin_cos or rotary"):
        build("rope")
    with pytest.raises(ValueError, match="per_block or packed, got 'long'"):
        TransformerPredictor(GRID, 12, width=24, heads=3, sequences="long")  # type: ignore[arg-type]  # on purpose


@pytest.mark.parametrize("positions", POSITIONS)
def test_in_half_precision_no_token_makes_the_others_wide(positions: str) -> None:
    predictor, seen = build(positions, 7), []
    predictor.transformer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].dtype))
    for kind in (torch.bfloat16, torch.float32):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=kind == torch.bfloat16):
            predictor(context(), targets(), action())
    assert seen == [torch.bfloat16, torch.float32]
