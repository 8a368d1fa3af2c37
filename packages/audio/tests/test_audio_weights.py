"""Weights of sound encoders: written, read, taken from runs, shared, and started from."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from audio_weights_cases import SMALL, batch_of, built, clips, configured, equal_tensors, run_folder, small_model
from safetensors.torch import load_file, save_file

from jepa_audio.modality import MODALITY
from jepa_audio.presets import PRESETS
from jepa_audio.waveforms import Waveforms
from jepa_audio.weights import AudioModel, Facts, PredictorFacts, WeightsError, read_weights
from jepa_audio.weights.facts import WaveformSettings, facts_from_json
from jepa_audio.weights.model import open_model
from jepa_audio.weights.start import choice, untrained_rows
from jepa_core.targets import EmaTarget

PREDICTOR = PredictorFacts(24, 1, 2, 96, 32)


@pytest.mark.parametrize("name", [*PRESETS, "waveform"])
def test_a_saved_model_comes_back_bit_for_bit(name: str, tmp_path: Path) -> None:
    model = small_model(name).with_readout("frequency")
    model.save_pretrained(tmp_path)
    again = AudioModel.from_pretrained(tmp_path)
    assert again.facts == model.facts and equal_tensors(again, model) and not again.training
    sound = clips(model.sample_rate_hz, 1.0)[0]
    assert torch.equal(again.features(sound, model.sample_rate_hz), model.features(sound, model.sample_rate_hz))


@pytest.mark.parametrize(
    "facts",
    [
        Facts(PRESETS["small"].settings, SMALL, 16_000, (16, 16), predictor=PREDICTOR),
        Facts(PRESETS["eat"].settings, SMALL, 32_000, (16, 16), positions="learned", longest=50, stem="mlp"),
        Facts(PRESETS["audio_jepa"].settings, SMALL, 320_000, (16, 16), 256, positions="sin_cos_ft", norm_eps=1e-5),
        Facts(WaveformSettings(16_000, 8), SMALL, 32_000, stem="none", norm="post", predictor=PREDICTOR),
    ],
)
def test_facts_survive_json_and_shapes_are_those_of_the_model(facts: Facts) -> None:
    assert facts_from_json(json.loads(json.dumps(facts.as_json()))) == facts
    state = AudioModel(facts).state_dict()
    named = {f"{part}.{key}": shape for part, found in facts.shapes().items() for key, shape in found.items()}
    assert named == {key: tuple(value.shape) for key, value in state.items()}


def test_what_is_damaged_or_strange_is_refused(tmp_path: Path) -> None:
    small_model().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    tensors = load_file(tmp_path / "model.safetensors")
    save_file({**tensors, "more": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(WeightsError, match="differs from its checksum"):
        AudioModel.from_pretrained(tmp_path)
    small_model().save_pretrained(tmp_path)
    for change, message in (
        ({"format_version": 2}, "install a newer jepa-audio"),
        ({"format": "jepakit-vision"}, "expected the format jepakit-audio"),
        ({"model": {**config["model"], "readout": "no"}}, "model.readout: expected one of mean"),
        ({"model": {**config["model"], "input": {"kind": "mp3"}}}, "model.input: expected a section with a kind"),
        ({"model": {**config["model"], "size": {**config["model"]["size"], "depth": 3}}}, "missing: blocks|missing"),
    ):
        (tmp_path / "config.json").write_text(json.dumps({**config, **change}))
        with pytest.raises(ValueError, match=message):
            AudioModel.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match="no such file or folder"):
        read_weights(tmp_path / "none")


# --------------------------------------------------------------------------------------------------------------- runs


@pytest.mark.parametrize(
    ("recipe", "more"),
    [
        ("quickstart", ()),
        ("quickstart", ("audio.encoder.positions=learned", "audio.encoder.longest=9", "audio.encoder.norm=post")),
        ("quickstart", ("audio.encoder.positions=sin_cos_ft", "audio.encoder.norm_eps=1e-4")),
        (
            "quickstart",
            ("audio.frontend.preset=waveform", "audio.frontend.channels=16", "audio.augment.scale_min=1.0"),
        ),
    ],
)
def test_a_run_gives_what_its_method_embeds(recipe: str, more: tuple[str, ...], tmp_path: Path) -> None:
    method = run_folder(tmp_path, *more, recipe=recipe)
    rows = clips(16_000, 0.9, 0.4)
    inputs = Waveforms(torch.nn.utils.rnn.pad_sequence(rows, batch_first=True), torch.tensor([len(r) for r in rows]))
    embedded: dict[str, Any] = {}
    for which in ("online", "target"):
        place = tmp_path if which == "online" else tmp_path / "checkpoints" / "step-7"
        model = AudioModel.from_run(place, which)
        tokens = method.embed(batch_of(inputs), encoder=which)["tokens"]
        with torch.no_grad():
            found = model(inputs)
        assert torch.equal(found.features, tokens.features)
        embedded[which] = found.features
        assert model.predictor is not None and equal_tensors(model.predictor, method.predictor)
    assert not torch.equal(embedded["online"], embedded["target"])
    assert equal_tensors(open_model(f"{tmp_path}#target").encoder, AudioModel.from_run(tmp_path, "target").encoder)
    assert equal_tensors(open_model(str(tmp_path)).encoder, AudioModel.from_run(tmp_path, "online").encoder)


def test_a_run_without_moving_average_has_no_target(tmp_path: Path) -> None:
    run_folder(tmp_path, "audio.target.policy=stop_gradient", "audio.target.blocks=0")
    with pytest.raises(WeightsError, match="take the student"):
        AudioModel.from_run(tmp_path, "target")


# ---------------------------------------------------------------------------------------------------------------- hub


class Hub:
    """Stands for ``HfApi``: keeps what was uploaded."""

    files: dict[str, bytes] = {}

    def __init__(self, token: str | None = None) -> None:
        pass

    def create_repo(self, repo_id: str, **rest: Any) -> SimpleNamespace:
        return SimpleNamespace(repo_id=repo_id)

    def upload_folder(self, folder_path: str, **rest: Any) -> SimpleNamespace:
        Hub.files = {path.name: path.read_bytes() for path in Path(folder_path).iterdir()}
        return SimpleNamespace(commit_url="https://hub/commit/1")


def test_the_hub_gives_what_it_got(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def download(repo_id: str, revision: str | None, allow_patterns: list[str]) -> str:
        assert (repo_id, revision) == ("me/sounds", None) and "model.safetensors" in allow_patterns
        for name, content in Hub.files.items():
            (tmp_path / name).write_bytes(content)
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.HfApi", Hub)
    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    made = small_model()
    assert made.push_to_hub("me/sounds") == "https://hub/commit/1"
    assert equal_tensors(AudioModel.from_pretrained("me/sounds"), made)
    assert equal_tensors(open_model("me/sounds").encoder, made.encoder)
    with pytest.raises(ValueError, match="one encoder only"):
        open_model("me/sounds#target")


# -------------------------------------------------------------------------------------------------------------- start


def test_training_starts_from_weights_of_a_run_and_of_a_folder(tmp_path: Path) -> None:
    run_folder(tmp_path / "run", "audio.frontend.preset=riou", "audio.frontend.mean=-6.5")
    AudioModel.from_run(tmp_path / "run", "target").save_pretrained(tmp_path / "model")
    # The preset has a level of its own, but the weights were trained with another.
    same = ("audio.frontend.preset=riou", "audio.frontend.mean=null", "audio.frontend.std=null")
    for place in ("run", "model"):
        config = configured("quickstart", f"audio.weights={tmp_path / place}", *same)
        method = built(config, seed=1)
        filled = AudioModel.from_run(tmp_path / "run", "target")
        assert equal_tensors(method.encoder, filled.encoder) and filled.predictor is not None
        assert equal_tensors(method.predictor, filled.predictor) and isinstance(method.target, EmaTarget)
        assert equal_tensors(method.target.encoder, filled.encoder)
        assert float(method.front_end.mean) == -6.5  # type: ignore[attr-defined]
    rows = choice(config.audio)
    assert rows[0][2] == "its only encoder fills encoder and moving average; the predictor is filled too"


def test_untrained_stands_beside_as_loaded(tmp_path: Path) -> None:
    run_folder(tmp_path)
    config = configured("quickstart", f"audio.weights={tmp_path}", "audio.weights_parts=encoder")
    loaded = built(config, seed=1)
    rows = untrained_rows(config, loaded, MODALITY.build, torch.device("cpu"))
    assert list(rows) == ["as loaded", "untrained"] and rows["as loaded"] is loaded
    assert not equal_tensors(rows["untrained"].encoder, loaded.encoder)
    whole = AudioModel.from_run(tmp_path, "target").predictor
    assert whole is not None and not equal_tensors(loaded.predictor, whole)
    plain = configured("quickstart")
    assert list(untrained_rows(plain, loaded, MODALITY.build, torch.device("cpu"))) == ["untrained"]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("audio.encoder.size=micro", r"audio.encoder.size \(width\): here 192, in the weights 128"),
        ("audio.encoder.positions=rotary", "audio.encoder.positions: here rotary, in the weights sin_cos"),
        ("audio.frontend.patch_frames=8", r"audio.frontend.patch: here \(8, 16\), in the weights \(16, 16\)"),
        ("audio.frontend.preset=default", "audio.frontend.n_fft: here 400, in the weights 512"),
        ("audio.frontend.mean=-1.0", "audio.frontend.mean: here -1.0, in the weights -7; leave it out"),
        ("audio.predictor.depth=2", "audio.predictor.depth: here 2, in the weights 1"),
    ],
)
def test_weights_of_another_recipe_are_refused_by_name(override: str, message: str, tmp_path: Path) -> None:
    run_folder(tmp_path)
    with pytest.raises(WeightsError, match=message):
        built(configured("quickstart", f"audio.weights={tmp_path}", override))
