"""Starting a run from weights: what is filled, what is refused, other sizes, the rows of the probe."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import nn
from vision_cases import built, configured, noise
from vision_weights_cases import equal_tensors, facts, model, released

from jepa_core.config import compose
from jepa_core.errors import ConfigError
from jepa_core.methods.masked import MaskedPrediction
from jepa_vision.encoder import SIZES, Size
from jepa_vision.modality import MODALITY
from jepa_vision.settings import VisionRun
from jepa_vision.weights import Facts, PredictorFacts, VisionModel, WeightsError
from jepa_vision.weights.start import untrained_rows

NANO = SIZES["nano"]
INNER = PredictorFacts(32, 1, 4, 128, 128)
LIKE = ["vision.encoder.stem=linear", "vision.encoder.patch=8", "vision.masking.ratio=0.75"]


def fitting(*size: int, **more: Any) -> Facts:
    """What the quickstart recipe, made cheap, builds."""
    return Facts(NANO, (8, 8), size, predictor=more.pop("predictor", INNER), **more)


def config(weights: Path, *overrides: str) -> VisionRun:
    return configured("quickstart", *LIKE, f"vision.weights={weights}", *overrides)


def target(method: MaskedPrediction) -> nn.Module:
    return cast(nn.Module, cast(Any, method.target).encoder)


def own(folder: Path, of: Facts) -> VisionModel:
    made = model(of)
    made.save_pretrained(folder)
    return made


def test_encoder_moving_average_and_predictor_are_filled(tmp_path: Path) -> None:
    made = own(tmp_path, fitting(48, 48))
    method = built(config(tmp_path))
    assert equal_tensors(method.encoder, made.encoder) and equal_tensors(target(method), made.encoder)
    assert made.predictor is not None and equal_tensors(method.predictor, made.predictor)
    assert method(noise(2, 48, 48), 1).total.isfinite()


@pytest.mark.parametrize("copy", ["teacher", "student"])
def test_the_copy_of_a_release_is_chosen(copy: str, tmp_path: Path) -> None:
    made = model(fitting(48, 48))
    torch.save(released(made, "module."), tmp_path / "w.pth.tar")
    method = built(config(tmp_path / "w.pth.tar", f"vision.weights_copy={copy}"))
    shift = 1 if copy == "student" else 0
    weight = cast(Any, made.encoder.transformer.blocks[0]).mlp.fc1.weight + shift
    for encoder in (method.encoder, target(method)):
        assert torch.equal(cast(Any, encoder).transformer.blocks[0].mlp.fc1.weight, weight)


def test_other_resolutions_are_possible(tmp_path: Path) -> None:
    own(tmp_path / "computed", fitting(32, 32))
    made = own(tmp_path / "stored", fitting(32, 32, positions="stored"))
    assert built(config(tmp_path / "computed"))(noise(2, 48, 48), 1).total.isfinite()
    method = built(config(tmp_path / "stored", "vision.encoder.positions=stored"))
    table = cast(Any, method.encoder).table
    assert table.shape == (36, 128) and not torch.equal(table[0], made.encoder.table[0])
    assert torch.equal(table, cast(Any, target(method)).table)
    small = built(config(tmp_path / "stored", "vision.encoder.positions=stored", "data.height=32", "data.width=32"))
    assert equal_tensors(small.encoder, made.encoder)


@pytest.mark.parametrize(
    ("of", "message"),
    [
        (fitting(48, 48, stem="mlp"), "vision.encoder.stem: here linear, in the weights mlp"),
        (
            fitting(48, 48, positions="sin_cos_yx"),
            "vision.encoder.positions: here sin_cos_xy, .* sin_cos_yx",
        ),
        (Facts(SIZES["tiny"], (8, 8), (48, 48)), r"vision.encoder.size \(width\): here 128, in the weights 192"),
        (fitting(48, 48, norm_eps=1e-5), "vision.encoder.norm_eps: here 1e-06, in the weights 1e-05"),
        (fitting(48, 48, std=(0.5, 0.5, 0.5)), "vision.encoder.std: here"),
        (
            fitting(48, 48, predictor=PredictorFacts(32, 2, 4, 128, 128)),
            "vision.predictor.depth: here 1, in the weights 2",
        ),
        (
            fitting(48, 48, predictor=PredictorFacts(32, 1, 2, 128, 128)),
            "vision.predictor.heads: here 4, in the weights 2",
        ),
        (fitting(48, 48, predictor=PredictorFacts(32, 1, 4, 128, 128, 3)), "vision.predictor.mask_tokens: here 1"),
        (fitting(48, 48, predictor=None), "has no predictor; vision.weights_parts=encoder starts a random one"),
        (facts(48, 48, patch=4), r"vision.encoder.patch: here \(8, 8\), in the weights \(4, 4\)"),
    ],
)
def test_weights_of_another_recipe_are_refused_with_what_differs(of: Facts, message: str, tmp_path: Path) -> None:
    own(tmp_path, of)
    parts = "encoder" if of.predictor is None and "no predictor" not in message else "all"
    with pytest.raises(WeightsError, match=message) as raised:
        built(config(tmp_path, f"vision.weights_parts={parts}"))
    assert "\n" not in str(raised.value)


def test_a_release_is_not_taken_for_an_encoder_with_other_heads(tmp_path: Path) -> None:
    """No shape tells the heads (V-JEPA's and V-JEPA 2's giants differ in them alone): the recipe must not decide."""
    made = VisionModel(Facts(Size(192, 6, 3, 768), (8, 8), (16, 16)))
    made.predictor = VisionModel(fitting(16, 16)).predictor
    torch.save(released(made, "")["target_encoder"], tmp_path / "w.pt")
    size = ["data.height=16", "data.width=16", "vision.weights_parts=encoder", "vision.predictor.heads=4"]
    with pytest.raises(WeightsError, match=r"size \(heads\): here 6, in the weights 3"):
        built(config(tmp_path / "w.pt", "vision.encoder.size=micro", *size))


def test_the_encoder_alone_leaves_the_predictor_random(tmp_path: Path) -> None:
    made = own(tmp_path, fitting(48, 48))
    method = built(config(tmp_path, "vision.weights_parts=encoder"))
    assert equal_tensors(method.encoder, made.encoder)
    assert made.predictor is not None and not equal_tensors(method.predictor, made.predictor)
    pixels = built(config(tmp_path, "vision.weights_parts=encoder", "vision.target.policy=pixels"))
    assert equal_tensors(pixels.encoder, made.encoder)


def test_a_stored_table_needs_weights() -> None:
    with pytest.raises(ConfigError, match="stored needs vision.weights"):
        compose(VisionRun, MODALITY.recipes / "quickstart.yaml", ["vision.encoder.positions=stored"])


def test_the_probe_compares_with_what_was_loaded_and_with_random_weights(tmp_path: Path) -> None:
    cpu = torch.device("cpu")
    plain = configured("quickstart")
    method = built(plain)
    assert untrained_rows(plain, method, MODALITY.build, cpu) == {"untrained": method}
    made = own(tmp_path, fitting(48, 48, positions="stored"))
    settings = config(tmp_path, "vision.encoder.positions=stored")
    rows = untrained_rows(settings, built(settings), MODALITY.build, cpu)
    assert list(rows) == ["as loaded", "untrained"]
    assert equal_tensors(rows["as loaded"].encoder, made.encoder)
    fresh = cast(Any, rows["untrained"].encoder)
    assert not torch.equal(fresh.patch_embed.proj.weight, made.encoder.patch_embed.proj.weight)
    assert torch.equal(fresh.table, made.encoder.table) and not fresh.training
    assert settings.vision.weights == str(tmp_path)


def test_a_run_says_what_it_starts_from(tmp_path: Path) -> None:
    own(tmp_path, fitting(48, 48))
    rows = {what: (name, reason) for what, name, reason in MODALITY.choices(config(tmp_path))}
    assert rows["weights"] == (
        str(tmp_path),
        "its only encoder fills encoder and moving average; the predictor is filled too",
    )
    assert "weights" not in {what for what, _, _ in MODALITY.choices(configured("quickstart"))}
