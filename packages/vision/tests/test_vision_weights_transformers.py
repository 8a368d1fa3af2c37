"""Models of transformers and timm: the same features and predictions both ways, round trips without a changed bit."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from vision_weights_cases import (
    equal_tensors,
    facts,
    model,
    noise,
    normalised,
    predicted,
    released,
    shaken,
    small_predictor,
)

from jepa_vision.encoder import Size
from jepa_vision.weights import Hints, VisionModel, WeightsError

transformers = pytest.importorskip("transformers")
timm = pytest.importorskip("timm")
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-11}
TYPES = list(TOLERANCE)


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    yield


# width, blocks, heads, MLP, image size, patch: among them no square, an odd head width and a giant's ratio.
IJEPA = [
    (32, 1, 2, 64, 16, 4),
    (45, 3, 3, 90, [16, 24], 8),
    (66, 2, 6, 288, [28, 14], 7),
]
# width, blocks, heads, MLP ratio, crop, patch, frames, tubelet, predictor width, blocks, heads, ratio, tokens.
VJEPA2 = [
    (48, 1, 3, 4.0, 16, 4, 4, 2, 24, 2, 3, 4.0, 10),
    (88, 3, 4, 48 / 11, 16, 8, 6, 3, 56, 1, 4, 2.0, 1),
    (52, 2, 2, 2.5, 21, 7, 4, 1, 36, 3, 2, 4.0, 2),
]


def ijepa(case: tuple[Any, ...]) -> Any:
    width, depth, heads, hidden, size, patch = case
    config = transformers.IJepaConfig(
        hidden_size=width,
        num_hidden_layers=depth,
        num_attention_heads=heads,
        intermediate_size=hidden,
        image_size=size,
        patch_size=patch,
        layer_norm_eps=1e-6,
    )
    return shaken(transformers.IJepaModel(config))


def vjepa2(case: tuple[Any, ...]) -> Any:
    names = (
        *("hidden_size", "num_hidden_layers", "num_attention_heads", "mlp_ratio", "crop_size", "patch_size"),
        *("frames_per_clip", "tubelet_size", "pred_hidden_size", "pred_num_hidden_layers"),
        *("pred_num_attention_heads", "pred_mlp_ratio", "pred_num_mask_tokens"),
    )
    return shaken(transformers.VJEPA2Model(transformers.VJEPA2Config(**dict(zip(names, case, strict=True)))))


def ids(of: VisionModel, count: int, batch: int = 2) -> tuple[Tensor, Tensor]:
    """Context and target ids, not sorted and of different lengths."""
    order = torch.stack(
        [torch.randperm(of.facts.lattice.count, generator=torch.Generator().manual_seed(n)) for n in (1, 2)]
    )
    return order[:batch, :count], order[:batch, count : 2 * count + 1]


# ------------------------------------------------------------------------------------------------------------- I-JEPA


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("case", IJEPA)
def test_ijepa_models_give_the_same_tokens(case: tuple[Any, ...], dtype: torch.dtype) -> None:
    theirs = ijepa(case)
    ours = VisionModel.from_huggingface(theirs).to(dtype)
    assert ours.facts.positions == "stored" and ours.predictor is None
    images = noise(2, *ours.facts.input_size)
    expected = theirs.to(dtype)(normalised(ours, images)).last_hidden_state
    torch.testing.assert_close(ours(images).features, expected, atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])


@pytest.mark.parametrize("case", IJEPA)
def test_ijepa_folders_come_back_without_a_changed_bit(case: tuple[Any, ...], tmp_path: Path) -> None:
    theirs = ijepa(case)
    theirs.save_pretrained(tmp_path / "theirs")
    ours = VisionModel.from_huggingface(tmp_path / "theirs")
    assert equal_tensors(ours, VisionModel.from_huggingface(theirs))
    ours.to_huggingface(tmp_path / "ours")
    first, second = (load_file(tmp_path / name / "model.safetensors") for name in ("theirs", "ours"))
    assert set(first) == set(second) and all(torch.equal(first[key], second[key]) for key in first)
    again, told = transformers.IJepaModel.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert equal_tensors(again, theirs)
    assert not told["missing_keys"] and not told["unexpected_keys"] and not told["mismatched_keys"]


@pytest.mark.parametrize("positions", ["sin_cos_xy", "sin_cos_yx"])
def test_our_pictures_encoder_works_in_transformers(positions: Any, tmp_path: Path) -> None:
    ours = model(facts(16, 24, positions=positions, predictor=small_predictor(positions)))
    ours.to_huggingface(tmp_path)
    theirs = transformers.IJepaModel.from_pretrained(tmp_path)
    images = noise(2, 16, 24)
    torch.testing.assert_close(
        theirs(normalised(ours, images)).last_hidden_state, ours(images).features, atol=1e-5, rtol=1e-5
    )
    back = VisionModel.from_pretrained(tmp_path)
    assert back.facts == ours.facts.without_predictor() and equal_tensors(back.encoder, ours.encoder)


def test_a_table_that_is_known_is_named_and_one_that_is_not_is_kept(tmp_path: Path) -> None:
    ours = model(facts(16, 16))
    ours.to_huggingface(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    for scale, expected in ((2e-6, "sin_cos_xy"), (2e-5, "stored")):
        noisy = state | {"embeddings.position_embeddings": state["embeddings.position_embeddings"] + scale}
        save_file(noisy, tmp_path / "model.safetensors")
        back = VisionModel.from_huggingface(tmp_path)
        assert back.facts.positions == expected
    assert torch.equal(back.encoder.table, noisy["embeddings.position_embeddings"][0])


def test_larger_pictures_resize_a_stored_table_as_transformers_does() -> None:
    theirs = ijepa(IJEPA[0])
    ours = VisionModel.from_huggingface(theirs)
    images = noise(2, 24, 20)
    expected = theirs(normalised(ours, images), interpolate_pos_encoding=True).last_hidden_state
    torch.testing.assert_close(ours(images).features, expected, atol=1e-5, rtol=1e-5)


def test_the_encoder_of_a_classifier_is_taken(tmp_path: Path) -> None:
    of_pictures = transformers.IJepaForImageClassification(ijepa(IJEPA[1]).config)
    of_clips = transformers.VJEPA2ForVideoClassification(vjepa2(VJEPA2[1]).config)
    for whole, inner in ((of_pictures, of_pictures.ijepa), (of_clips, of_clips.vjepa2)):
        whole.save_pretrained(tmp_path / inner.config.model_type)
        got = VisionModel.from_pretrained(tmp_path / inner.config.model_type)
        assert equal_tensors(got, VisionModel.from_huggingface(inner))


def test_processors_normalise_as_the_front_end(tmp_path: Path) -> None:
    images = noise(1, 16, 24)
    ours = model(facts(16, 24, mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7)))
    ours.to_huggingface(tmp_path)
    theirs = transformers.AutoImageProcessor.from_pretrained(tmp_path)
    got = theirs(images[0].permute(1, 2, 0).numpy(), return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(got, normalised(ours, images), atol=1e-5, rtol=1e-5)
    assert VisionModel.from_pretrained(tmp_path).facts == ours.facts


# ----------------------------------------------------------------------------------------------------------- V-JEPA 2


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("case", VJEPA2)
def test_vjepa2_models_give_the_same_tokens_and_predictions(case: tuple[Any, ...], dtype: torch.dtype) -> None:
    theirs = vjepa2(case)
    ours = VisionModel.from_huggingface(theirs).to(dtype)
    clips = noise(2, *ours.facts.input_size)
    context, targets = ids(ours, ours.facts.lattice.count // 3)
    pixels = normalised(ours, clips).transpose(1, 2)
    expected = theirs.to(dtype)(pixels, context_mask=[context], target_mask=[targets])
    tokens = ours(clips)
    limit = TOLERANCE[dtype]
    torch.testing.assert_close(tokens.features, expected.last_hidden_state, atol=limit, rtol=limit)
    assert ours.predictor is not None and ours.predictor.token == 0
    ours.predictor.token = 1 % case[-1]  # what transformers predicts with
    got = predicted(ours, tokens, context, targets)
    torch.testing.assert_close(got, expected.predictor_output.last_hidden_state, atol=limit, rtol=limit)


@pytest.mark.parametrize("case", VJEPA2)
def test_vjepa2_folders_come_back_without_a_changed_bit(case: tuple[Any, ...], tmp_path: Path) -> None:
    theirs = vjepa2(case)
    theirs.save_pretrained(tmp_path / "theirs")
    ours = VisionModel.from_pretrained(tmp_path / "theirs")
    ours.to_huggingface(tmp_path / "ours")
    again, told = transformers.VJEPA2Model.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert equal_tensors(again, theirs)
    assert not told["missing_keys"] and not told["unexpected_keys"] and not told["mismatched_keys"]
    assert again.config.mlp_ratio == pytest.approx(case[3]) and again.config.frames_per_clip == case[6]


def test_our_clips_model_works_in_transformers(tmp_path: Path) -> None:
    inner = small_predictor("rotary_tiled", tokens=3)
    ours = model(facts(4, 16, 16, shape=Size(48, 2, 4, 129), positions="rotary_tiled", predictor=inner))
    ours.to_huggingface(tmp_path)
    theirs = transformers.VJEPA2Model.from_pretrained(tmp_path)
    clips, (context, targets) = noise(2, 4, 16, 16), ids(ours, 9)
    expected = theirs(normalised(ours, clips).transpose(1, 2), context_mask=[context], target_mask=[targets])
    assert ours.predictor is not None
    ours.predictor.token = 1
    got = predicted(ours, ours(clips), context, targets)
    torch.testing.assert_close(got, expected.predictor_output.last_hidden_state, atol=1e-5, rtol=1e-5)
    longer = noise(1, 8, 16, 16)
    expected = theirs(normalised(ours, longer).transpose(1, 2), skip_predictor=True).last_hidden_state
    torch.testing.assert_close(ours(longer).features, expected, atol=1e-5, rtol=1e-5)


# ----------------------------------------------------------------------------------------------------------- refusals


def drop(state: dict[str, Tensor], config: dict[str, Any]) -> None:
    del state["layernorm.bias"]


def add(state: dict[str, Tensor], config: dict[str, Any]) -> None:
    state["encoder.layer.0.gamma"] = torch.zeros(1)


def reshape(state: dict[str, Tensor], config: dict[str, Any]) -> None:
    state["encoder.layer.1.attention.attention.key.weight"] = torch.zeros(48, 47)


def other_block(state: dict[str, Tensor], config: dict[str, Any]) -> None:
    config["hidden_act"] = "relu"


def other_kind(state: dict[str, Tensor], config: dict[str, Any]) -> None:
    config["model_type"] = "vit"


def no_number(state: dict[str, Tensor], config: dict[str, Any]) -> None:
    del config["num_hidden_layers"]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (drop, "encoder: 1 missing: layernorm.bias"),
        (add, "1 unexpected: encoder.layer.0.gamma"),
        (reshape, r"1 of wrong shape: encoder.layer.1.attention.attention.key.weight \(model \(48, 48\), file"),
        (other_block, "hidden_act: expected 'gelu', which this encoder computes, got 'relu'"),
        (other_kind, "model_type: expected ijepa or vjepa2, got 'vit'"),
        (no_number, "num_hidden_layers: expected a number above 0"),
    ],
)
def test_folders_that_are_not_this_encoder_are_refused(
    spoil: Callable[[dict[str, Tensor], dict[str, Any]], None], message: str, tmp_path: Path
) -> None:
    model(facts(16, 16)).to_huggingface(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    config = json.loads((tmp_path / "config.json").read_text())
    spoil(state, config)
    save_file(state, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(WeightsError, match=message) as raised:
        VisionModel.from_pretrained(tmp_path)
    assert "\n" not in str(raised.value)


PACKED = small_predictor("rotary_tiled", sequences="packed")


@pytest.mark.parametrize(
    ("of", "message"),
    [
        (facts(16, 16, stem="mlp"), "expected the stem linear"),
        (facts(16, 16, positions="rotary_tiled", shape=Size(48, 1, 3, 96)), "expected a position table"),
        (facts(4, 16, 16, positions="sin_cos_yx"), "expected the positions rotary_tiled"),
        (facts(4, 16, 16, positions="rotary_tiled"), "expected a predictor"),
        (facts(4, 16, 8, positions="rotary_tiled"), "expected square frames"),
        (facts(4, 16, 16, positions="rotary_tiled", predictor=PACKED), "expected a predictor of sequences per_block"),
    ],
)
def test_what_transformers_cannot_compute_is_refused(of: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        model(of).to_huggingface(tmp_path / "out")
    assert not (tmp_path / "out").exists()


# --------------------------------------------------------------------------------------------------------------- timm


@pytest.mark.parametrize("positions", ["sin_cos_xy", "sin_cos_yx", "stored"])
@pytest.mark.parametrize(("size", "shape"), [((16, 16), Size(48, 2, 3, 96)), ((8, 24), Size(33, 1, 3, 144))])
def test_timm_gives_the_same_features_and_comes_back(
    positions: Any, size: tuple[int, int], shape: Size, tmp_path: Path
) -> None:
    if positions != "stored" and shape.width % 2:
        shape = Size(36, 1, 3, 157)
    ours = model(facts(*size, shape=shape, positions=positions))
    images = noise(2, *size)
    theirs = ours.to_timm()
    torch.testing.assert_close(theirs(normalised(ours, images)), ours.features(images), atol=1e-5, rtol=1e-5)
    ours.save_timm(tmp_path)
    loaded = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    assert equal_tensors(loaded, theirs)
    for back in (VisionModel.from_timm(loaded), VisionModel.from_pretrained(tmp_path)):
        assert back.facts == ours.facts and equal_tensors(back, ours)


def test_timms_own_ijepa_architecture_is_read() -> None:
    kind = "vit_huge_patch14_gap_224"
    theirs = timm.create_model(kind, embed_dim=48, depth=2, num_heads=4, img_size=28, num_classes=0).eval()
    ours = VisionModel.from_timm(shaken(theirs))
    images = noise(2, 28, 28)
    torch.testing.assert_close(ours.features(images), theirs(normalised(ours, images)), atol=1e-5, rtol=1e-5)


def test_timm_reads_a_released_ijepa_as_this_does(tmp_path: Path) -> None:
    """An independent reader of the released layout; it takes the student."""
    from timm.models.vision_transformer import checkpoint_filter_fn

    made = model(facts(16, 16, predictor=small_predictor()))
    release = released(made, "module.")
    torch.save(release, tmp_path / "w.pth.tar")
    hints = Hints(heads=3, predictor_heads=3)
    ours = VisionModel.from_official(tmp_path / "w.pth.tar", "student", hints=hints)
    theirs = cast(Any, made.to_timm())
    theirs.load_state_dict(checkpoint_filter_fn(release, theirs))
    images = noise(2, 16, 16)
    expected = theirs.double()(normalised(ours.double(), images))
    torch.testing.assert_close(ours.features(images), expected, atol=1e-6, rtol=1e-6)
    assert not torch.allclose(ours.features(images), made.double().features(images))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"class_token": True, "global_pool": "token"}, "neither class nor register tokens"),
        ({"fc_norm": True}, "layer norm of the tokens"),
        ({"init_values": 0.1}, "unexpected: blocks.0.ls1.gamma"),
        ({"qk_norm": True}, "unexpected: blocks.0.attn.q_norm.weight"),
        ({"act_layer": "gelu_tanh"}, "expected the exact GELU"),
        ({"pre_norm": True}, "missing: patch_embed.proj.bias"),
    ],
)
def test_other_blocks_of_timm_are_refused(arguments: dict[str, Any], message: str) -> None:
    same = {"class_token": False, "global_pool": "avg", "fc_norm": False, "num_classes": 0}
    made = timm.models.VisionTransformer(
        img_size=16, patch_size=4, embed_dim=48, depth=1, num_heads=3, **(same | arguments)
    )
    with pytest.raises(WeightsError, match=message):
        VisionModel.from_timm(made)


@pytest.mark.parametrize(
    ("of", "message"),
    [
        (facts(16, 16, stem="mlp"), "stem linear"),
        (facts(16, 16, positions="rotary_interleaved"), "position table"),
        (facts(4, 16, 16, positions="sin_cos_yx"), "pictures, got clips"),
    ],
)
def test_what_timm_cannot_compute_is_refused(of: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"timm: expected .*{message}"):
        model(of).to_timm()
