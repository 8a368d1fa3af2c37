"""Attention and the transformer: what is not valid has no influence, order has none, every parameter learns."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from jepa_core.nn.attention import Attention, attend, attend_in_steps, key_mask
from jepa_core.nn.position import rotary
from jepa_core.nn.transformer import Block, DropPath, Transformer, draw_linear, scale_residuals_by_depth


def tokens(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def test_attention_equals_the_textbook_one() -> None:
    torch.manual_seed(0)
    ours, theirs = Attention(24, 4), nn.MultiheadAttention(24, 4, batch_first=True)
    with torch.no_grad():
        theirs.in_proj_weight.copy_(ours.qkv.weight)
        theirs.in_proj_bias.copy_(ours.qkv.bias)
        theirs.out_proj.load_state_dict(ours.proj.state_dict())
    x, valid = tokens(2, 7, 24), torch.rand(2, 7, generator=torch.Generator().manual_seed(1)) < 0.7
    torch.testing.assert_close(ours(x), theirs(x, x, x)[0], atol=1e-6, rtol=1e-5)
    expected = theirs(x, x, x, key_padding_mask=~valid)[0]
    torch.testing.assert_close(ours(x, valid), expected, atol=1e-6, rtol=1e-5)


def test_attention_in_bf16_on_a_cpu_is_the_same_attention() -> None:
    q, k, v = (tokens(3, 2, 4, 9, 8)[i].bfloat16().requires_grad_() for i in range(3))
    valid = torch.rand(2, 9, generator=torch.Generator().manual_seed(1)) < 0.7
    for mask in (None, key_mask(valid)):
        got = attend(q, k, v, mask)
        expected = attend(q.float(), k.float(), v.float(), mask)
        assert got.dtype == torch.bfloat16
        torch.testing.assert_close(got.float(), expected, atol=0.02, rtol=0.02)
        mine = torch.autograd.grad(got.sum(), (q, k, v))
        theirs = torch.autograd.grad(expected.sum(), (q, k, v))
        for a, b in zip(mine, theirs, strict=True):
            torch.testing.assert_close(a, b, atol=0.05, rtol=0.05)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("masked", [False, True])
def test_attention_in_steps_equals_the_fused_one_in_values_and_gradients(dtype: torch.dtype, masked: bool) -> None:
    q, k, v = (tokens(3, 2, 4, 9, 7)[i].to(dtype).requires_grad_() for i in range(3))
    mask = torch.rand(2, 1, 9, 9, generator=torch.Generator().manual_seed(1)) < 0.6 if masked else None
    if mask is not None:
        mask[0, 0, 3] = False  # a query that may look at nothing
    got = attend_in_steps(q, k, v, mask)
    expected = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    torch.testing.assert_close(got, expected)
    weight = tokens(*got.shape).to(dtype).cos()
    mine, theirs = (torch.autograd.grad((out * weight).sum(), (q, k, v)) for out in (got, expected))
    torch.testing.assert_close(mine, theirs)
    if mask is not None:
        assert not got[0, :, 3].any() and not mine[0][0, :, 3].any()


def test_attention_in_bf16_on_a_cpu_is_finite_where_nothing_may_be_looked_at() -> None:
    q, k, v = (tokens(3, 2, 4, 5, 8)[i].bfloat16().requires_grad_() for i in range(3))
    out = attend(q, k, v, torch.zeros(2, 1, 1, 5, dtype=torch.bool))
    out.sum().backward()
    assert not out.any() and all(x.grad is not None and x.grad.isfinite().all() for x in (q, k, v))


def test_head_width_need_not_multiply_to_the_width() -> None:
    assert Attention(20, 3, head_width=8)(tokens(2, 5, 20)).shape == (2, 5, 20)
    assert Attention(20, 3, head_width=8, qkv_bias=False).qkv.bias is None
    with pytest.raises(ValueError, match="divide the width 20"):
        Attention(20, 3)


@pytest.mark.parametrize("garbage", [1e4, float("nan"), float("inf")])
def test_tokens_that_are_not_valid_influence_nothing(garbage: float) -> None:
    torch.manual_seed(0)
    model = Transformer(16, 3, 2)
    x, valid = tokens(3, 9, 16), torch.ones(3, 9, dtype=torch.bool)
    valid[0, 4:], valid[1, ::2], valid[2] = False, False, False
    spoiled = torch.where(valid[..., None], x, garbage).requires_grad_()
    expected, got = model(x, valid), model(spoiled, valid)
    assert torch.equal(got[valid], expected[valid])
    got[valid].sum().backward()
    assert spoiled.grad is not None and spoiled.grad.isfinite().all()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    torch.testing.assert_close(got[0, :4], model(x[:1, :4])[0], atol=1e-6, rtol=1e-5)


def test_order_of_tokens_does_not_matter_when_positions_move_along() -> None:
    torch.manual_seed(0)
    model = Transformer(16, 2, 2)
    x, order, places = tokens(2, 6, 16), torch.tensor([3, 0, 5, 1, 4, 2]), torch.arange(12.0).view(1, 6, 2)
    places = places.expand(2, -1, -1)
    got = model(x[:, order], rotation=rotary(places[:, order], 8))
    torch.testing.assert_close(got, model(x, rotation=rotary(places, 8))[:, order], atol=1e-6, rtol=1e-5)
    assert not torch.allclose(model(x), model(x, rotation=rotary(places, 8)), atol=1e-5)


def test_chosen_layers_are_block_outputs_before_the_norm() -> None:
    torch.manual_seed(0)
    model, x = Transformer(16, 3, 2), tokens(2, 4, 16)
    out, layers = model.forward_layers(x, (0, 2, -1))
    assert torch.equal(layers[0], model.blocks[0](x))
    assert torch.equal(layers[-1], layers[2])
    assert torch.equal(model.norm(layers[-1]), out)
    with pytest.raises(ValueError, match="expected -3 to 2"):
        model.forward_layers(x, (3,))


def test_recomputation_changes_no_gradient() -> None:
    gradients = []
    for recompute in (False, True):
        torch.manual_seed(0)
        model = Transformer(16, 3, 2, layer_scale=0.1, drop_path=0.5, recompute=recompute)
        torch.manual_seed(1)
        model(tokens(4, 5, 16)).square().sum().backward()
        gradients.append([p.grad for p in model.parameters()])
    torch.testing.assert_close(gradients[0], gradients[1])
    assert all(gradient is not None and gradient.any() for gradient in gradients[0])


def test_drop_path_keeps_the_mean_and_rests_in_eval() -> None:
    torch.manual_seed(0)
    drop = DropPath(0.25)
    x = torch.ones(4000, 2, 3)
    out = drop(x)
    assert out.unique().tolist() == pytest.approx([0, 4 / 3])
    assert out.mean().item() == pytest.approx(1, abs=0.05)
    assert torch.equal(out[:, 0, 0], out[:, 1, 2])
    assert torch.equal(drop.eval()(x), x)
    rates = [module.rate for module in Transformer(8, 5, 2, drop_path=0.2).modules() if isinstance(module, DropPath)]
    assert rates == pytest.approx([0, 0.05, 0.1, 0.15, 0.2])


def test_initialisation_and_its_depth_scaling() -> None:
    torch.manual_seed(0)
    model = Transformer(256, 3, 4)
    before = [block.attn.proj.weight.std().item() for block in model.modules() if isinstance(block, Block)]
    assert before == pytest.approx([0.02] * 3, rel=0.02)
    assert not any(p.any() for name, p in model.named_parameters() if name.endswith("bias"))
    scale_residuals_by_depth(model)
    after = [block.mlp.fc2.weight.std().item() for block in model.modules() if isinstance(block, Block)]
    assert after == pytest.approx([0.02 / (2 * n) ** 0.5 for n in (1, 2, 3)], rel=0.02)


def test_state_dict_keys_are_those_of_published_vits() -> None:
    expected = {
        "norm1.weight", "norm1.bias", "attn.qkv.weight", "attn.qkv.bias", "attn.proj.weight", "attn.proj.bias",
        "norm2.weight", "norm2.bias", "mlp.fc1.weight", "mlp.fc1.bias", "mlp.fc2.weight", "mlp.fc2.bias",
    }  # fmt: skip
    assert set(Block(8, 2).state_dict()) == expected
    assert set(Block(8, 2, layer_scale=1e-5).state_dict()) == expected | {"ls1.gamma", "ls2.gamma"}


def test_post_norm_blocks_are_those_of_torch() -> None:
    torch.manual_seed(0)
    ours = Transformer(24, 2, 4, norm="post")
    layer = nn.TransformerEncoderLayer(24, 4, 96, 0.0, "gelu", 1e-6, batch_first=True, norm_first=False)
    theirs = nn.TransformerEncoder(layer, 2, nn.LayerNorm(24, eps=1e-6), enable_nested_tensor=False)
    with torch.no_grad():
        for mine, other in zip(ours.blocks, theirs.layers, strict=True):
            assert isinstance(mine, Block) and isinstance(other, nn.TransformerEncoderLayer)
            other.self_attn.in_proj_weight.copy_(mine.attn.qkv.weight)
            other.self_attn.in_proj_bias.copy_(mine.attn.qkv.bias)
            other.self_attn.out_proj.load_state_dict(mine.attn.proj.state_dict())
            other.linear1.load_state_dict(mine.mlp.fc1.state_dict())
            other.linear2.load_state_dict(mine.mlp.fc2.state_dict())
    x = tokens(2, 7, 24)
    torch.testing.assert_close(ours(x), theirs(x), atol=1e-5, rtol=1e-5)


def test_linear_layers_are_drawn_by_their_widths_or_left_alone() -> None:
    model = Transformer(64, 1, 4, 256)
    block = model.blocks[0]
    before = [parameter.clone() for parameter in model.parameters()]
    state = torch.get_rng_state()
    draw_linear(model, "normal")
    assert torch.equal(state, torch.get_rng_state()), "a draw would change every run that came before"
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    draw_linear(model, "xavier")
    assert block.mlp.fc1.weight.std().item() == pytest.approx((2 / (64 + 256)) ** 0.5, rel=0.05)
    assert not block.mlp.fc1.bias.any()
    draw_linear(model, "torch")
    assert block.mlp.fc1.weight.std().item() == pytest.approx((1 / (3 * 64)) ** 0.5, rel=0.05)
    assert block.mlp.fc1.bias.any()
    assert torch.equal(block.norm1.weight, torch.ones(64)), "norms stay"


@pytest.mark.parametrize("norm", ["pre", "post"])
@pytest.mark.parametrize("qkv_bias", [True, False])
@pytest.mark.parametrize("recompute", [True, False])
def test_the_tokens_that_are_wanted_are_those_of_the_whole(norm: Any, qkv_bias: bool, recompute: bool) -> None:
    torch.manual_seed(0)
    model = Transformer(24, 2, 2, layer_scale=0.5, qkv_bias=qkv_bias, recompute=recompute, norm=norm).double()
    x = tokens(3, 7, 24).double().requires_grad_()
    valid = torch.rand(3, 7, generator=torch.Generator().manual_seed(1)) < 0.7
    rotation = rotary(torch.arange(21.0, dtype=torch.float64).view(3, 7, 1), 12)
    some = slice(2, 6)
    weight = tokens(3, 4, 24).double().cos()
    results = []
    for out in (model(x, valid, rotation, some), model(x, valid, rotation)[:, some]):
        results.append((out, *torch.autograd.grad((out * weight).sum(), (x, *model.parameters()))))
    torch.testing.assert_close(*results)


def test_wanted_tokens_of_no_blocks_are_normalised() -> None:
    model, x = Transformer(8, 0, 2), tokens(1, 5, 8)
    torch.testing.assert_close(model(x, wanted=slice(1, 3)), model(x)[:, 1:3])
