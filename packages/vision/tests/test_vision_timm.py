"""timm's vision transformers as encoders: same features, nothing of what is dropped, and they train."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from vision_cases import built, configured, noise

from jepa_core.contracts import Sites
from jepa_core.errors import ConfigError
from jepa_core.targets import EmaTarget
from jepa_vision.frontend import Patches, PatchFrontEnd, patch_lattice, unpatchify
from jepa_vision.modality import MODALITY
from jepa_vision.timm_encoder import TimmEncoder, build_timm_encoder, check_timm_model

timm = pytest.importorskip("timm")

# Class token; registers with average or attention pooling; another norm; a norm before the blocks; registers without
# positions; no such token at all.
MODELS = ("test_vit", "test_vit2", "test_vit3", "test_vit4", "vit_xsmall_patch16_clip_224")
FURTHER = ("vit_small_patch14_reg4_dinov2", "vit_medium_patch16_gap_240")
TIMM = "vision.encoder.timm=test_vit"
PLAIN = ["vision.encoder.size=base", "vision.encoder.stem=linear", TIMM]


def patches(height: int = 24, width: int = 32, patch: int = 8) -> Patches:
    images = torch.randint(0, 256, (2, 3, height, width), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return PatchFrontEnd((patch, patch))(images, torch.arange(2))[0]


def encoder(inputs: Patches, name: str = MODELS[0]) -> TimmEncoder:
    torch.manual_seed(0)
    model = TimmEncoder(name, inputs.lattice).eval()
    # Tokens and positions of a fresh model are near zero: mistakes in them would not show.
    with torch.no_grad():
        for token in ("cls_token", "reg_token", "pos_embed"):
            if getattr(model.model, token) is not None:
                getattr(model.model, token).normal_()
    return model


def own(model: TimmEncoder, inputs: Patches) -> Tensor:
    """What timm itself makes of the same picture, less class and register tokens."""
    picture = unpatchify(inputs.features, inputs.lattice, (8, 8))
    features: Tensor = model.model.forward_features(picture)
    return features[:, model.model.num_prefix_tokens :]


@pytest.mark.parametrize("name", [*MODELS, *FURTHER])
def test_the_whole_image_is_timms_own_result(name: str) -> None:
    inputs = patches()
    model = encoder(inputs, name)
    found = model(inputs, None)
    torch.testing.assert_close(found.features, own(model, inputs), atol=1e-5, rtol=1e-4)
    assert found.features.shape == (2, 12, model.width) and model.size.heads == model.model.blocks[0].attn.num_heads


@pytest.mark.parametrize("name", MODELS)
def test_dropped_patches_change_no_bit(name: str) -> None:
    inputs = patches()
    model = encoder(inputs, name)
    keep = Sites(torch.tensor([[0, 3, 5], [11, 2, 4]]))
    spoiled = inputs.features.clone()
    spoiled[~keep.on_lattice(12)] = float("nan")
    got = model(Patches(spoiled, inputs.lattice), keep).features
    assert torch.equal(got, model(inputs, keep).features) and bool(got.isfinite().all())


def test_keeping_all_in_any_order_is_the_whole() -> None:
    inputs = patches()
    model = encoder(inputs)
    order = torch.stack([torch.arange(12).flip(0), torch.arange(12).roll(5)])
    torch.testing.assert_close(model(inputs, Sites(order)).dense(), model(inputs, None).dense(), atol=1e-4, rtol=1e-4)


def test_sites_that_are_not_valid_have_no_influence() -> None:
    inputs = patches()
    model = encoder(inputs)
    ids = torch.tensor([[0, 3, 5], [1, 2, 4]])
    padded = Sites(torch.cat([ids, torch.full((2, 2), 7)], 1), torch.tensor([[True] * 3 + [False] * 2] * 2))
    got = model(inputs, padded).features[:, :3]
    torch.testing.assert_close(got, model(inputs, Sites(ids)).features, atol=1e-5, rtol=1e-4)
    spoiled = inputs.features.clone()
    spoiled[:, 7] = float("nan")
    assert torch.equal(model(Patches(spoiled, inputs.lattice), padded).features[:, :3], got)
    # A sample of which nothing is kept spoils nothing, with a class token or without.
    for name in (MODELS[0], FURTHER[1]):
        nothing = Sites(ids, torch.tensor([[True] * 3, [False] * 3]))
        assert bool(encoder(inputs, name)(inputs, nothing).features.isfinite().all())


@pytest.mark.parametrize("name", MODELS[:2])
def test_another_lattice_gets_positions_as_timm_resamples_them(name: str) -> None:
    usual, larger = patches(), patches(40, 24)
    model = encoder(usual, name)
    found = model(larger, None).features
    model.model.set_input_size((40, 24))
    torch.testing.assert_close(found, own(model, larger), atol=1e-5, rtol=1e-4)


def test_blocks_are_given_by_number() -> None:
    inputs = patches()
    model = encoder(inputs)
    found = model.forward_layers(inputs, None, (0, -1))
    assert list(found.layers) == ["block_0", "block_5"] and torch.equal(found.features, model(inputs, None).features)
    torch.testing.assert_close(model.model.norm(found.layers["block_5"]), found.features)
    with pytest.raises(ValueError, match="layers: expected -6 to 5"):
        model.forward_layers(inputs, None, (6,))


# -------------------------------------------------------------------------------------------------------- in a method


@pytest.mark.parametrize("recipe", ["quickstart", "mae", "ijepa_vith14"])
@pytest.mark.parametrize("recompute", [False, True])
def test_a_step_reaches_every_parameter(recipe: str, recompute: bool) -> None:
    config = configured(
        recipe,
        *PLAIN,
        "data.height=96",
        "data.width=96",
        "vision.encoder.patch=8",
        "vision.predictor.width=48",
        "vision.predictor.heads=3",
        f"vision.encoder.recompute={recompute}",
    )
    method = built(config)
    assert isinstance(method.encoder, TimmEncoder) and method.encoder.model.patch_embed.patch_size == (8, 8)
    losses = method(noise(3, 96, 96), 1)
    losses.total.backward()
    missing = [name for name, p in method.named_parameters() if p.requires_grad and p.grad is None]
    assert losses.total.isfinite() and not missing
    grouped = [name for group in method.parameter_groups() if group.weight_decay for name, _ in group.parameters]
    assert not [name for name in grouped if name.endswith(("pos_embed", "cls_token"))]
    if isinstance(method.target, EmaTarget):
        before = [p.clone() for p in method.target.encoder.parameters()]
        with torch.no_grad():
            for p in method.encoder.parameters():
                p.add_(1.0)
        method.after_step(1)
        assert all(not torch.equal(a, b) for a, b in zip(before, method.target.encoder.parameters(), strict=True))


def test_recomputing_gives_the_same_gradient() -> None:
    inputs = patches()
    keep = Sites(torch.tensor([[0, 3, 5], [11, 2, 4]]))
    gradients = []
    for recompute in (False, True):
        model = encoder(inputs).train()
        model.recompute = recompute
        model(inputs, keep).features.square().sum().backward()
        gradients.append([p.grad for p in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


def test_drop_path_and_initialisation_are_passed_on() -> None:
    lattice = patch_lattice((32, 32), (8, 8))
    torch.manual_seed(0)
    plain = TimmEncoder(MODELS[0], lattice)
    torch.manual_seed(0)
    scaled = TimmEncoder(MODELS[0], lattice, drop_path=0.3, scale_residuals="by_depth")
    assert scaled.model.blocks[-1].drop_path1.drop_prob == pytest.approx(0.3)
    assert plain.size.width == 64 and plain.size.mlp_hidden == 192
    one, other = plain.model.blocks[1].mlp.fc2.weight, scaled.model.blocks[1].mlp.fc2.weight
    torch.testing.assert_close(other, one / 2)


# ------------------------------------------------------------------------------------------------------------ refusals


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("vit_tiny_patch16_244", "did you mean vit_tiny_patch16_224"),
        ("nothing at all", "expected a model of timm.list_models"),
        ("hf-hub:someone/model", "expected a model of timm.list_models"),
        ("vit_tiny_patch16_224.augreg_in21k", "use vit_tiny_patch16_224"),
        ("swin_tiny_patch4_window7_224", "a plain vision transformer .* got a swin_transformer"),
        ("convnext_tiny", "got a convnext"),
        ("vit_tiny_r_s16_p8_224", r"a plain patch embedding \(PatchEmbed\), got HybridEmbed"),
        ("deit_tiny_distilled_patch16_224", r"a plain model \(VisionTransformer\), got VisionTransformerDistilled"),
        ("vit_base_patch16_rpn_224", r"a plain block \(Block\), got ResPostBlock"),
    ],
)
def test_what_is_no_plain_vision_transformer_is_refused(name: str, says: str) -> None:
    with pytest.raises(ValueError, match=says) as caught:
        check_timm_model(name)
    assert str(caught.value).startswith("vision.encoder.timm: expected") and "\n" not in str(caught.value)


@pytest.mark.parametrize("ignored", ["size=nano", "stem=mlp", "positions=rotary_tiled"])
def test_settings_that_would_do_nothing_are_refused(ignored: str) -> None:
    with pytest.raises(ConfigError, match=rf"vision.encoder.{ignored.partition('=')[0]}: expected .* beside"):
        configured("ijepa_vith14", "vision.encoder.size=base", TIMM, f"vision.encoder.{ignored}")


def test_clips_are_refused() -> None:
    wanted = configured("ijepa_vith14", *PLAIN).vision.encoder
    with pytest.raises(ValueError, match="vision.encoder.timm: expected null for clips"):
        build_timm_encoder(wanted, patch_lattice((4, 32, 32), (2, 8, 8)))


def test_weights_beside_it_are_refused() -> None:
    with pytest.raises(ConfigError, match="vision.weights: expected null beside vision.encoder.timm"):
        configured("ijepa_vith14", *PLAIN, "vision.weights=somewhere")


def test_a_block_that_timms_model_does_not_have_is_refused_before_training() -> None:
    with pytest.raises(ValueError, match="probe.layer: expected a value from -1 to .*, got 12"):
        MODALITY.build(configured("ijepa_vith14", *PLAIN, "probe.layer=12"))
