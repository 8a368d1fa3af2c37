"""Released checkpoints: layouts of I-JEPA, V-JEPA and V-JEPA 2, which copy, what cannot be told, what is refused."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from vision_weights_cases import (
    equal_tensors,
    facts,
    model,
    noise,
    predicted,
    released,
    small_predictor,
)

from jepa_core.nn.position import sin_cos_table
from jepa_vision.encoder import Size
from jepa_vision.frontend import patch_lattice, patchify
from jepa_vision.weights import Hints, VisionModel, WeightsError, read_weights
from jepa_vision.weights.official import read_official

HEADS = Hints(heads=3, predictor_heads=3)
IJEPA = facts(16, 16, predictor=small_predictor())
VJEPA = facts(4, 16, 16, positions="sin_cos_yx", predictor=small_predictor("sin_cos_yx", tokens=2, token=None))
VJEPA2 = facts(6, 8, 8, positions="rotary_tiled", predictor=small_predictor("rotary_tiled", tokens=10))
# family, model, wrapper, file name
CASES = [
    ("ijepa", IJEPA, "module.", "ijepa.pth.tar"),
    ("vjepa", VJEPA, "module.backbone.", "vjepa.pth.tar"),
    ("vjepa2", VJEPA2, "module.backbone.", "vjepa2.pt"),
]


def saved(state: Any, folder: Path, name: str = "weights.pth.tar") -> Path:
    torch.save(state, folder / name)
    return folder / name


@pytest.mark.parametrize(("family", "of", "wrapper", "name"), CASES)
def test_a_release_is_read_whole(family: Any, of: Any, wrapper: str, name: str, tmp_path: Path) -> None:
    made = model(of)
    path = saved(released(made, wrapper), tmp_path, name)
    weights = read_official(path, "teacher", hints=HEADS)
    assert weights.facts == of and weights.copy == "teacher"
    assert equal_tensors(VisionModel.from_weights(weights), made)
    for part, table in weights.tables.items():
        assert table.complete and table.prefix == wrapper
        # Every key has a row: what is taken, or why it is not.
        positions = "pos_embed" if part == "encoder" else "predictor_pos_embed"
        assert list(table.ignored) == [positions]
    assert "opt" in weights.tables["encoder"].outside and "encoder" in weights.tables["encoder"].outside
    reason = weights.tables["encoder"].ignored["pos_embed"]
    assert ("unused" in reason) == (family == "vjepa2")
    student = VisionModel.from_official(path, "student", hints=HEADS)
    assert torch.equal(student.encoder.transformer.norm.weight, made.encoder.transformer.norm.weight + 1)


@pytest.mark.parametrize(("family", "of", "wrapper", "name"), CASES)
def test_what_was_read_computes_the_same(family: Any, of: Any, wrapper: str, name: str, tmp_path: Path) -> None:
    made = model(of)
    got = VisionModel.from_official(saved(released(made, wrapper), tmp_path, name), "teacher", hints=HEADS)
    images = noise(2, *of.input_size)
    tokens = got(images)
    assert torch.equal(tokens.features, made(images).features)
    context, targets = torch.tensor([[3, 1], [0, 2]]), torch.tensor([[2], [3]])
    for each in (made, got):
        assert each.predictor is not None
        each.predictor.token = 0 if each.predictor.token is None else each.predictor.token
    assert torch.equal(predicted(got, tokens, context, targets), predicted(made, tokens, context, targets))


def test_the_patch_embedding_is_the_released_convolution(tmp_path: Path) -> None:
    state = released(model(VJEPA), "module.")
    got = VisionModel.from_official(saved(state, tmp_path), "teacher", hints=HEADS)
    conv = torch.nn.functional.conv3d
    clips = torch.randn(1, 3, 4, 16, 16)
    theirs = state["target_encoder"]
    expected = conv(clips, theirs["module.patch_embed.proj.weight"], theirs["module.patch_embed.proj.bias"], (2, 4, 4))
    embedded = got.encoder.patch_embed(patchify(clips, (2, 4, 4)))
    torch.testing.assert_close(embedded, expected.flatten(2).transpose(1, 2), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("width", "family", "heads"), [(192, "ijepa", 3), (1408, "vjepa", 16), (1408, "vjepa2", 22)])
def test_heads_follow_from_width_and_family(width: int, family: Any, heads: int, tmp_path: Path) -> None:
    of = facts(16, 16) if family == "ijepa" else facts(4, 8, 8, positions="sin_cos_yx")
    of = facts(*of.input_size, shape=Size(width, 1, 1, 64), positions=of.positions)
    state = {key: value for key, value in _bare(VisionModel(of)).items()}
    got = read_official(saved(state, tmp_path), "teacher", hints=Hints(family=family))
    assert got.facts.size.heads == heads and got.copy is None


def _bare(made: VisionModel) -> dict[str, Tensor]:
    """The teacher alone, as a bare state dict."""
    made.predictor = made.predictor or model(IJEPA).predictor
    return dict(released(made, "")["target_encoder"])


def test_what_no_shape_tells_is_asked_for(tmp_path: Path) -> None:
    bare = _bare(model(VJEPA))
    path = saved(bare, tmp_path)
    with pytest.raises(WeightsError, match="say which, family=vjepa or family=vjepa2"):
        read_official(path, "teacher", hints=Hints(heads=3))
    with pytest.raises(WeightsError, match="width 48 is none of the published ones .* say heads=<number>"):
        read_official(path, "teacher", hints=Hints(family="vjepa"))
    del bare["pos_embed"]
    with pytest.raises(WeightsError, match="say size="):
        read_official(saved(bare, tmp_path), "teacher", hints=Hints(family="vjepa2", heads=3))
    got = read_official(path, "teacher", hints=Hints(family="vjepa2", heads=3, size=(8, 24, 16)))
    assert got.facts.input_size == (8, 24, 16) and got.facts.positions == "rotary_tiled"
    with pytest.raises(WeightsError, match="size: expected multiples of the patch"):
        read_official(path, "teacher", hints=Hints(family="vjepa2", heads=3, size=(8, 24, 15)))


PICTURES, CLIPS = ((16, 16), (8, 24)), ((2, 8, 16), (8, 12, 20), (16, 24, 24))
TABLES = [(size, name) for size in (*PICTURES, *CLIPS) for name in ("sin_cos_xy", "sin_cos_yx")]
TABLES += [(size, "sin_cos_half_time") for size in CLIPS]


@pytest.mark.parametrize(("size", "positions"), TABLES)
def test_the_table_tells_code_and_grid(size: tuple[int, ...], positions: Any, tmp_path: Path) -> None:
    of = facts(*size, positions=positions)
    state = _bare(VisionModel(of))
    got = read_official(saved(state, tmp_path), "teacher", hints=Hints(heads=3, family="vjepa")).facts
    table = VisionModel(got).encoder.table
    assert got.input_size == size and torch.equal(table, VisionModel(of).encoder.table)


def test_ijepas_and_vjepas_tables_differ_in_the_axis_that_comes_first() -> None:
    lattice = patch_lattice((8, 8), (4, 4))
    columns = sin_cos_table(lattice, 48, ("x", "y"))
    assert torch.equal(VisionModel(facts(8, 8)).encoder.table, columns)
    assert torch.equal(VisionModel(facts(8, 8, positions="sin_cos_yx")).encoder.table[[0, 2, 1, 3]], columns)


def test_a_table_of_no_code_is_kept_and_resized_for_other_pictures(tmp_path: Path) -> None:
    made = model(facts(16, 16, positions="stored"))
    state = _bare(made)
    assert torch.equal(state["pos_embed"][0], made.encoder.table)
    got = VisionModel.from_official(saved(state, tmp_path), "teacher", hints=Hints(heads=3))
    assert got.facts.positions == "stored" and equal_tensors(got.encoder, made.encoder)
    assert got(noise(1, 24, 16)).features.shape == (1, 24, 48)


def test_distilled_checkpoints_keep_their_teacher_as_ema_encoder(tmp_path: Path) -> None:
    made = model(IJEPA)
    state = released(made, "module.")
    state["ema_encoder"] = state.pop("target_encoder")
    assert equal_tensors(VisionModel.from_official(saved(state, tmp_path), "teacher", hints=HEADS), made)


def test_the_encoder_alone_can_be_taken(tmp_path: Path) -> None:
    state = released(model(IJEPA), "module.")
    state["predictor"]["module.action_encoder.weight"] = torch.zeros(2)
    path = saved(state, tmp_path)
    with pytest.raises(WeightsError, match="predictor: 1 unexpected: action_encoder.weight; parts=encoder takes"):
        read_official(path, "teacher", hints=HEADS)
    got = read_official(path, "teacher", hints=HEADS, parts="encoder")
    assert got.predictor is None and got.facts.predictor is None
    assert "predictor" in got.tables["encoder"].outside


# ----------------------------------------------------------------------------------------------------------- refusals


def lose(state: dict[str, Any]) -> None:
    del state["target_encoder"]["module.blocks.1.norm2.bias"]


def lose_a_block(state: dict[str, Any]) -> None:
    for key in [key for key in state["target_encoder"] if ".blocks.0.attn" in key]:
        del state["target_encoder"][key]


def gain(state: dict[str, Any]) -> None:
    state["target_encoder"]["module.cls_token"] = torch.zeros(1, 1, 48)


def without_wrapper(state: dict[str, Any]) -> None:
    state["target_encoder"]["norm.scale"] = torch.zeros(48)


def wrong_shape(state: dict[str, Any]) -> None:
    state["predictor"]["module.predictor_blocks.1.attn.qkv.weight"] = torch.zeros(24, 24)


def no_copy(state: dict[str, Any]) -> None:
    del state["target_encoder"]


def no_tensor(state: dict[str, Any]) -> None:
    state["target_encoder"]["module.step"] = 3


def other_table(state: dict[str, Any]) -> None:
    state["predictor"]["module.predictor_pos_embed"] += 0.1


def flat_table(state: dict[str, Any]) -> None:
    state["target_encoder"]["module.pos_embed"] = torch.zeros(16, 48)


def no_patches(state: dict[str, Any]) -> None:
    del state["target_encoder"]["module.patch_embed.proj.weight"]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lose, "encoder: 1 missing: blocks.1.norm2.bias"),
        (lose_a_block, "encoder: 4 missing: blocks.0.attn.qkv.weight"),
        (gain, "encoder: 1 unexpected: cls_token"),
        (without_wrapper, "encoder: 1 unexpected: norm.scale"),
        (wrong_shape, r"predictor: 1 of wrong shape: predictor_blocks.1.attn.qkv.weight \(model \(72, 24\), file"),
        (no_copy, r"expected target_encoder or ema_encoder in it \(teacher\), got .*encoder"),
        (no_tensor, "target_encoder: 1 entries are no tensors: module.step"),
        (other_table, "predictor_pos_embed is none of the known"),
        (flat_table, r"expected pos_embed with 3 dimensions, got of shape \(16, 48\)"),
        (no_patches, "expected patch_embed.proj.weight with 4 or 5 dimensions"),
    ],
)
def test_spoilt_checkpoints_are_refused(spoil: Callable[[dict[str, Any]], None], message: str, tmp_path: Path) -> None:
    state = released(model(IJEPA), "module.")
    spoil(state)
    with pytest.raises(ValueError, match=message) as raised:
        read_official(saved(state, tmp_path), "teacher", hints=HEADS)
    assert "\n" not in str(raised.value)


def test_the_refusal_carries_the_whole_table(tmp_path: Path) -> None:
    state = released(model(IJEPA), "module.")
    lose(state)
    gain(state)
    with pytest.raises(WeightsError) as raised:
        read_official(saved(state, tmp_path), "teacher", hints=HEADS)
    text = str(raised.value.tables["encoder"])
    assert "missing in the file" in text and "blocks.1.norm2.bias" in text and "cls_token" in text


class Hostile:
    """Makes a file when unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("zipped", [True, False])
def test_foreign_objects_are_not_unpickled(zipped: bool, tmp_path: Path) -> None:
    state = released(model(IJEPA), "module.") | {"args": Hostile(tmp_path / "ran")}
    path = tmp_path / "weights.pth.tar"
    torch.save(state, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(ValueError, match="refused: it is damaged or holds more than tensors") as raised:
        read_official(path, "teacher", hints=HEADS)
    assert not (tmp_path / "ran").exists() and "\n" not in str(raised.value)


def test_old_torch_files_are_read(tmp_path: Path) -> None:
    made = model(IJEPA)
    torch.save(released(made, "module."), tmp_path / "w.pth.tar", _use_new_zipfile_serialization=False)
    assert equal_tensors(VisionModel.from_official(tmp_path / "w.pth.tar", "teacher", hints=HEADS), made)


def test_a_file_with_two_encoders_needs_a_choice(tmp_path: Path) -> None:
    path = saved(released(model(IJEPA), "module."), tmp_path)
    with pytest.raises(WeightsError, match="two encoders: say which, teacher"):
        read_weights(path, hints=HEADS)
    with pytest.raises(WeightsError, match="no such file or folder"):
        read_weights(tmp_path / "none.pt", "teacher")
