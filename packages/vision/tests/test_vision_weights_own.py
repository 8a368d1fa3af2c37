"""The project's own format, the hub, runs, the commands, and what a model in use gives."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from vision_cases import built, configured
from vision_weights_cases import equal_tensors, facts, model, noise, released, small_predictor

from jepa_core.cli import main
from jepa_core.config import to_yaml
from jepa_core.methods.masked import MaskedPrediction
from jepa_core.train import checkpoint as checkpoints
from jepa_vision.weights import VisionModel, WeightsError
from jepa_vision.weights.facts import facts_from_json, ratio_of

MODELS = [
    facts(16, 24, predictor=small_predictor()),
    facts(16, 16, stem="mlp", positions="stored", mean=(0.1, 0.2, 0.3)),
    facts(4, 16, 8, positions="rotary_interleaved", norm_eps=1e-5),
    facts(4, 8, 8, positions="sin_cos_half_time", predictor=small_predictor("sin_cos_half_time", 2, token=None)),
]


@pytest.mark.parametrize("of", MODELS)
def test_what_is_saved_comes_back_bit_for_bit(of: Any, tmp_path: Path) -> None:
    made = model(of)
    made.save_pretrained(tmp_path)
    got = VisionModel.from_pretrained(tmp_path)
    assert got.facts == of and equal_tensors(got, made) and not got.training
    images = noise(2, *of.input_size)
    assert torch.equal(got(images).features, made(images).features)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "model.safetensors"]


def test_a_packed_predictor_stays_one_and_older_folders_have_none(tmp_path: Path) -> None:
    of = facts(16, 24, predictor=small_predictor(sequences="packed"))
    model(of).save_pretrained(tmp_path)
    got = VisionModel.from_pretrained(tmp_path)
    assert got.predictor is not None and got.predictor.sequences == "packed"
    config = json.loads((tmp_path / "config.json").read_text())
    del config["model"]["predictor"]["sequences"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    before = VisionModel.from_pretrained(tmp_path)
    assert before.predictor is not None and before.predictor.sequences == "per_block"


def test_the_encoder_alone_can_be_loaded(tmp_path: Path) -> None:
    made = model(MODELS[0])
    made.save_pretrained(tmp_path)
    got = VisionModel.from_pretrained(tmp_path, parts="encoder")
    assert got.predictor is None and equal_tensors(got.encoder, made.encoder)


def edited(folder: Path, **changes: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    for key, value in changes.items():
        (config if key in config else config["model"])[key] = value
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format_version": 2}, "format 2 is newer than 1 here: install a newer jepa-vision"),
        ({"sha256": "0" * 64}, "differs from its checksum"),
        ({"positions": "learned"}, "model.positions: expected one of .*, got 'learned'"),
        ({"colour": True}, r"unknown: \['colour'\]"),
        ({"size": {"width": 48}}, "model.size: expected .* missing: "),
        ({"size": {"width": 48, "depth": 3, "heads": 3, "mlp_hidden": 96}}, "12 missing: transformer.blocks.2"),
        ({"format": "other", "model_type": "vit"}, "model_type: expected ijepa or vjepa2"),
        ({"format": "other"}, "expected that of transformers, timm or jepakit"),
    ],
)
def test_folders_that_cannot_be_are_refused(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    model(MODELS[0]).save_pretrained(tmp_path)
    if "model_type" in changes:
        (tmp_path / "config.json").write_text(json.dumps({"model_type": "vit"}))
    else:
        edited(tmp_path, **changes)
    with pytest.raises(ValueError, match=message) as raised:
        VisionModel.from_pretrained(tmp_path)
    assert "\n" not in str(raised.value)


def test_changed_or_missing_weights_are_told(tmp_path: Path) -> None:
    model(MODELS[0]).save_pretrained(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    save_file(state | {"encoder.transformer.norm.bias": torch.ones(48)}, tmp_path / "model.safetensors")
    with pytest.raises(WeightsError, match="differs from its checksum"):
        VisionModel.from_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ValueError, match="cannot be read"):
        VisionModel.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text("[")
    with pytest.raises(ValueError, match="expected JSON"):
        VisionModel.from_pretrained(tmp_path)
    (tmp_path / "config.json").unlink()
    with pytest.raises(WeightsError, match="no config.json in it"):
        VisionModel.from_pretrained(tmp_path)


@pytest.mark.parametrize("of", MODELS)
def test_facts_survive_json(of: Any) -> None:
    assert facts_from_json(json.loads(json.dumps(of.as_json()))) == of


def test_ratios_give_the_hidden_width_again() -> None:
    for width in (1408, 1664, 33, 7, 48):
        assert all(int(width * ratio_of(hidden, width)) == hidden for hidden in (6144, 8192, 97, 1, 100))


# ---------------------------------------------------------------------------------------------------------------- use


def test_features_are_means_of_tokens_or_blocks() -> None:
    made = model(MODELS[0])
    images = noise(2, 16, 24)
    tokens = made(images)
    assert tokens.features.shape == (2, 24, 48) and tokens.lattice.sizes == (4, 6)
    assert torch.equal(made.features(images), tokens.features.mean(1))
    two = made.features(images, layers=(-1, 0))
    assert two.shape == (2, 96)
    torch.testing.assert_close(two[:, :48], made.features(images, layers=(1,)))
    with pytest.raises(ValueError, match="layers: expected -2 to 1"):
        made.features(images, layers=(2,))


def test_other_sizes_are_possible_and_wrong_inputs_told() -> None:
    made = model(MODELS[2])
    assert made(noise(1, 8, 8, 12)).features.shape == (1, 24, 48)
    for wrong in (noise(1, 4, 16, 9), noise(1, 16, 8), noise(1, 4, 16, 8).float()):
        with pytest.raises(ValueError, match="expected"):
            made(wrong)


# ---------------------------------------------------------------------------------------------------------------- hub


class Hub:
    """Stands for ``HfApi``: keeps what was uploaded."""

    calls: list[tuple[str, dict[str, Any]]] = []
    files: dict[str, bytes] = {}

    def __init__(self, token: str | None = None) -> None:
        self.token = token

    def create_repo(self, repo_id: str, **rest: Any) -> SimpleNamespace:
        Hub.calls.append(("create_repo", {"repo_id": repo_id, **rest}))
        return SimpleNamespace(repo_id=repo_id)

    def upload_folder(self, folder_path: str, **rest: Any) -> SimpleNamespace:
        Hub.calls.append(("upload_folder", rest))
        Hub.files = {path.name: path.read_bytes() for path in Path(folder_path).iterdir()}
        return SimpleNamespace(commit_url="https://hub/commit/1")


def test_the_hub_gets_and_gives_what_a_folder_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.HfApi", Hub)
    made = model(MODELS[0])
    Hub.calls.clear()
    assert made.push_to_hub("me/model", private=True, revision="try", token="t") == "https://hub/commit/1"
    assert Hub.calls[0] == ("create_repo", {"repo_id": "me/model", "private": True, "exist_ok": True})
    assert Hub.calls[1] == (
        "upload_folder",
        {"repo_id": "me/model", "revision": "try", "commit_message": "Upload model"},
    )

    def download(repo_id: str, revision: str | None, allow_patterns: list[str]) -> str:
        assert (repo_id, revision) == ("me/model", "try") and "model.safetensors" in allow_patterns
        for name, content in Hub.files.items():
            (tmp_path / name).write_bytes(content)
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    assert equal_tensors(VisionModel.from_pretrained("me/model", revision="try"), made)
    with pytest.raises(ValueError, match="revision: expected none with a local folder"):
        VisionModel.from_pretrained(tmp_path, revision="try")


def test_no_folder_and_no_hub_name_is_told() -> None:
    with pytest.raises(ValueError, match="expected a folder or <owner>/<name> on the hub, got neither"):
        VisionModel.from_pretrained("/no/such/folder/here")


# --------------------------------------------------------------------------------------------------------------- runs


def run_folder(folder: Path, *overrides: str, recipe: str = "quickstart") -> MaskedPrediction:
    """A run with one checkpoint, whose moving average is not its online encoder."""
    config = configured(recipe, *overrides)
    method = built(config)
    with torch.no_grad():
        for parameter in method.target.parameters():  # type: ignore[attr-defined]  # a target that is a module
            parameter.add_(1)
    kept = checkpoints.Checkpoint(7, checkpoints.model_tensors(method), {}, {}, [], {}, to_yaml(config))
    checkpoints.save(folder, kept, keep=0)
    return method.eval()


def test_a_run_gives_both_encoders_and_its_predictor(tmp_path: Path) -> None:
    method = run_folder(tmp_path)
    online = VisionModel.from_run(tmp_path, "online")
    target = VisionModel.from_run(tmp_path / "checkpoints" / "step-7", "target")
    assert equal_tensors(online.encoder, method.encoder)
    assert equal_tensors(target.encoder, method.target.encoder)  # type: ignore[attr-defined]  # a moving average
    assert online.predictor is not None and equal_tensors(online.predictor, method.predictor)
    images = noise(2, 48, 48)
    inputs, _ = method.front_end(images, torch.zeros(2, dtype=torch.long))
    assert torch.equal(online(images).features, method.encoder(inputs, None).features)
    online.save_pretrained(tmp_path / "own")
    assert equal_tensors(VisionModel.from_pretrained(tmp_path / "own"), online)


def test_a_run_without_a_moving_average_says_so(tmp_path: Path) -> None:
    run_folder(tmp_path, recipe="mae")
    with pytest.raises(WeightsError, match="the run has none: take the student"):
        VisionModel.from_run(tmp_path, "target")
    assert VisionModel.from_run(tmp_path, "online").predictor is not None


# ----------------------------------------------------------------------------------------------------------- commands


def jepa(*arguments: str) -> int:
    return main(["data", *arguments])


def test_weights_are_shown_and_converted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = model(MODELS[0])
    release = tmp_path / "w.pth.tar"
    torch.save(released(made, "module."), release)
    known = ["--which", "teacher", "--heads", "3", "--predictor-heads", "3", "--size", "16x24"]
    assert jepa("show-weights", str(release), *known) == 0
    shown = capsys.readouterr().out
    assert "the teacher's encoder" in shown and "usual input 16 x 24" in shown
    assert "loaded (under 'module.')" in shown and "ignored: computed instead, it is sin_cos_xy" in shown
    for name in ("jepakit", "huggingface", "timm"):
        out = tmp_path / name
        assert jepa("convert-weights", str(release), str(out), "--to", name, *known) == 0
        told = capsys.readouterr().out
        assert ("the predictor is left out" in told) == (name != "jepakit")
        got = VisionModel.from_pretrained(out)
        assert equal_tensors(got.encoder, made.encoder) and (got.predictor is None) == (name != "jepakit")
        assert jepa("show-weights", str(out)) == 0


def test_converting_clips_tells_of_the_mask_tokens(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model(facts(4, 8, 8, positions="rotary_tiled", predictor=small_predictor("rotary_tiled", 10))).save_pretrained(
        tmp_path / "own"
    )
    assert jepa("convert-weights", str(tmp_path / "own"), str(tmp_path / "out"), "--to", "huggingface") == 0
    assert "transformers predicts with row 1, this model with row 0" in capsys.readouterr().out


def test_command_errors_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model(MODELS[0]).save_pretrained(tmp_path / "own")
    state = released(model(MODELS[0]), "module.")
    del state["target_encoder"]["module.norm.bias"]
    torch.save(state, tmp_path / "w.pt")
    own = str(tmp_path / "own")
    for arguments, message in [
        (["show-weights", own, "--which", "teacher"], "--which: .* has one encoder only"),
        (["show-weights", own, "--heads", "3"], "expected a file; a folder says it itself"),
        (["show-weights", str(tmp_path / "w.pt"), "--heads", "3"], "say which"),
        (["show-weights", str(tmp_path / "w.pt"), "--which", "teacher", "--heads", "3"], "1 missing: norm.bias"),
        (["convert-weights", own, str(tmp_path / "w.pt"), "--to", "jepakit"], "cannot be written"),
        (["convert-weights", str(tmp_path / "none"), own, "--to", "timm"], "no such file or folder"),
    ]:
        assert jepa(*arguments) != 0
        captured = capsys.readouterr()
        assert len(captured.err.strip().splitlines()) == 1
        assert re.search(message, captured.err)
