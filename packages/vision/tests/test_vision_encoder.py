"""Front end and encoder: patches are the published convolution, what is dropped has no influence, published sizes."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from jepa_core.contracts import Sites
from jepa_core.nn.position import sin_cos_table
from jepa_vision.encoder import SIZES, PatchEmbedding, Positions, Size, VisionTransformer
from jepa_vision.frontend import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    Patches,
    PatchFrontEnd,
    patch_lattice,
    patchify,
    unpatchify,
)

SMALL = Size(24, 2, 2, 48)
POSITIONS: tuple[Positions, ...] = ("sin_cos_xy", "sin_cos_yx", "rotary_interleaved", "rotary_tiled")


def pixels(*shape: int) -> Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def patches(batch: int, *size: int, patch: int = 4) -> Patches:
    shape = (patch,) * 2 if len(size) == 2 else (2, patch, patch)
    found, _ = PatchFrontEnd(shape)(pixels(batch, 3, *size), torch.arange(batch))
    return found


def encoder(inputs: Patches, positions: Positions = "sin_cos_xy") -> VisionTransformer:
    torch.manual_seed(0)
    return VisionTransformer(SMALL, inputs.features.shape[-1], inputs.lattice, positions=positions).eval()


# --------------------------------------------------------------------------------------------------------- front end


def test_patches_of_pictures_are_the_published_convolution() -> None:
    x, conv = torch.randn(2, 3, 8, 12), nn.Conv2d(3, 5, 4, stride=4)
    ours = F.linear(patchify(x, (4, 4)), conv.weight.flatten(1), conv.bias)
    torch.testing.assert_close(ours, conv(x).flatten(2).transpose(1, 2), atol=1e-5, rtol=1e-5)


def test_tubelets_of_clips_are_the_published_convolution_time_first() -> None:
    x, conv = torch.randn(2, 3, 4, 8, 12), nn.Conv3d(3, 5, (2, 4, 4), stride=(2, 4, 4))
    ours = F.linear(patchify(x, (2, 4, 4)), conv.weight.flatten(1), conv.bias)
    torch.testing.assert_close(ours, conv(x).flatten(2).transpose(1, 2), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("size", "patch"), [((8, 12), (4, 4)), ((4, 8, 12), (2, 4, 4)), ((6, 6), (3, 2))])
def test_patches_go_back_to_pixels(size: tuple[int, ...], patch: tuple[int, ...]) -> None:
    x = torch.randn(2, 3, *size)
    assert torch.equal(unpatchify(patchify(x, patch), patch_lattice(size, patch), patch), x)


def test_the_front_end_normalises_by_channel_and_knows_the_grid() -> None:
    images = pixels(2, 3, 8, 12)
    found, grid = PatchFrontEnd((4, 4))(images, torch.arange(2))
    assert grid.lattice.sizes == (2, 3) and grid.lattice.axes == ("y", "x") and grid.present is None
    assert grid.lattice.positions(torch.tensor([0, 5])).tolist() == [[1.5, 1.5], [5.5, 9.5]]
    back = unpatchify(found.features, found.lattice, (4, 4))
    for channel, (mean, std) in enumerate(zip(IMAGENET_MEAN, IMAGENET_STD, strict=True)):
        torch.testing.assert_close(back[:, channel] * std + mean, images[:, channel] / 255)


def test_inputs_that_do_not_fit_are_refused() -> None:
    front_end = PatchFrontEnd((4, 4))
    for wrong in (pixels(2, 3, 8, 10), pixels(2, 1, 8, 8), torch.zeros(2, 3, 8, 8), pixels(2, 3, 2, 8, 8)):
        with pytest.raises(ValueError, match="expected"):
            front_end(wrong, torch.arange(2))


# ----------------------------------------------------------------------------------------------------------- encoder


@pytest.mark.parametrize("positions", POSITIONS)
@pytest.mark.parametrize("size", [(8, 12), (4, 8, 12)])
def test_dropped_patches_change_no_bit(positions: Positions, size: tuple[int, ...]) -> None:
    inputs = patches(2, *size)
    model = encoder(inputs, positions)
    keep = Sites(torch.tensor([[0, 3, 5], [1, 2, 4]]))
    spoiled = inputs.features.clone()
    rest = ~keep.on_lattice(inputs.lattice.count)
    spoiled[rest] = float("nan")
    got = model(Patches(spoiled, inputs.lattice), keep).features
    assert torch.equal(got, model(inputs, keep).features) and bool(got.isfinite().all())


@pytest.mark.parametrize("positions", POSITIONS)
def test_keeping_all_in_any_order_is_the_whole(positions: Positions) -> None:
    inputs = patches(2, 8, 12)
    model = encoder(inputs, positions)
    order = torch.tensor([[4, 0, 5, 2, 1, 3], [0, 1, 5, 4, 3, 2]])
    torch.testing.assert_close(model(inputs, Sites(order)).dense(), model(inputs, None).dense(), atol=1e-5, rtol=1e-5)


def test_sites_that_are_not_valid_have_no_influence() -> None:
    inputs = patches(2, 8, 12)
    model = encoder(inputs)
    ids = torch.tensor([[0, 3, 5], [1, 2, 4]])
    padded = Sites(torch.cat([ids, torch.full((2, 2), 3)], 1), torch.tensor([[True] * 3 + [False] * 2] * 2))
    got = model(inputs, padded).features[:, :3]
    torch.testing.assert_close(got, model(inputs, Sites(ids)).features, atol=1e-5, rtol=1e-5)
    whole = Sites.whole(inputs.lattice, 2)
    some = Sites(whole.ids, Sites(ids).on_lattice(6), complete=True)
    torch.testing.assert_close(model(inputs, some).at(Sites(ids)), got, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("positions", POSITIONS)
def test_other_grids_than_the_usual_one_are_encoded(positions: Positions) -> None:
    usual, larger = patches(2, 8, 12), patches(2, 16, 8)
    built_for_larger, built_for_usual = encoder(larger, positions), encoder(usual, positions)
    torch.testing.assert_close(
        built_for_usual(larger, None).features, built_for_larger(larger, None).features, atol=1e-5, rtol=1e-5
    )


def test_position_tables_are_in_both_published_orders() -> None:
    inputs = patches(1, 8, 12)
    xy, yx = (encoder(inputs, positions).table for positions in ("sin_cos_xy", "sin_cos_yx"))
    half = SMALL.width // 2
    assert torch.equal(xy[:, :half], yx[:, half:]) and torch.equal(xy[:, half:], yx[:, :half])
    assert torch.equal(yx, sin_cos_table(inputs.lattice, SMALL.width))
    # Sites 0 and 3 share their column: in I-JEPA's order their first half is the same.
    assert torch.equal(xy[0, :half], xy[3, :half]) and not torch.equal(xy[0, half:], xy[3, half:])
    angles = torch.tensor([1.0 * 10000 ** (-i / (half / 2)) for i in range(half // 2)])
    torch.testing.assert_close(xy[1, :half], torch.cat([angles.sin(), angles.cos()]))


def test_rotary_encoders_have_no_table() -> None:
    assert encoder(patches(1, 8, 12), "rotary_tiled").table.shape == (0, SMALL.width)


@pytest.mark.parametrize(
    ("name", "images_millions", "clips_millions"),
    [
        ("tiny", 5.49, 5.63),
        ("small", 21.59, 21.88),
        ("base", 85.65, 86.24),
        ("large", 303.1, 303.9),
        ("huge", 630.7, 631.6),
        ("giant", 1011.1, 1012.2),
        ("giant_22_heads", 1011.1, 1012.2),
    ],
)
def test_published_sizes_have_the_published_numbers_of_parameters(
    name: str, images_millions: float, clips_millions: float
) -> None:
    for size, patch, millions in (
        ((224, 224), (16, 16), images_millions),
        ((16, 224, 224), (2, 16, 16), clips_millions),
    ):
        with torch.device("meta"):
            model = VisionTransformer(SIZES[name], 3 * math.prod(patch), patch_lattice(size, patch))
        count = sum(parameter.numel() for parameter in model.parameters()) / 1e6
        assert count == pytest.approx(millions, rel=1e-3)


def test_initial_weights_are_scaled_by_depth_only_when_asked() -> None:
    lattice, size = patch_lattice((8, 8), (4, 4)), Size(96, 3, 2, 384)
    for kind, expected in (("constant", 1.0), ("by_depth", 6**-0.5)):
        torch.manual_seed(0)
        model = VisionTransformer(size, 48, lattice, scale_residuals=kind)  # type: ignore[arg-type]  # two literals
        weight = dict(model.named_parameters())["transformer.blocks.2.mlp.fc2.weight"]
        assert float(weight.detach().std()) == pytest.approx(0.02 * expected, rel=0.05)


def test_stems_stay_inside_a_patch() -> None:
    for stem in ("linear", "mlp"):
        torch.manual_seed(0)
        model = PatchEmbedding(6, 8, stem)
        x = torch.randn(2, 5, 6)
        changed = x.clone()
        changed[:, 2] = 0
        same = (model(x) == model(changed)).all(-1)
        assert same.sum(1).tolist() == [4, 4]


def test_recomputed_activations_give_the_same_gradients() -> None:
    inputs = patches(2, 8, 12)
    gradients = []
    for recompute in (False, True):
        torch.manual_seed(0)
        model = VisionTransformer(SMALL, inputs.features.shape[-1], inputs.lattice, recompute=recompute).train()
        model(inputs, None).features.square().mean().backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)
