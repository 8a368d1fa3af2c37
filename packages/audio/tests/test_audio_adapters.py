"""A model in use: padding, silence, very short and long clips, other sample rates, HEAR and X-ARES."""

from __future__ import annotations

import inspect
from pathlib import Path

import numpy as np
import pytest
import torch
from audio_weights_cases import RECIPES, batch_of, built, clips, configured, run_folder, small_model
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from jepa_audio import hear
from jepa_audio.front_ends import sample_rate_of
from jepa_audio.presets import PRESETS
from jepa_audio.readouts import READOUTS
from jepa_audio.waveforms import Waveforms
from jepa_audio.weights.clips import step_samples
from jepa_audio.xares import JepaEncoder

FRONT_ENDS = [*PRESETS, "waveform"]


def largest(a: Tensor, b: Tensor) -> float:
    """The largest difference; of values above 1, of which there are some before a norm, the share of the largest."""
    return float((a - b).abs().max() / b.abs().max().clamp(min=1))


@pytest.mark.parametrize("name", FRONT_ENDS)
@torch.no_grad()
def test_what_a_clip_is_batched_with_changes_nothing(name: str) -> None:
    model = small_model(name)
    rate = model.sample_rate_hz
    # The last is longer than some front ends of fixed length, so that it comes in pieces.
    sounds = clips(rate, 0.37, 1.3, 0.02, 2.4)
    for readout in READOUTS:
        together = model.features(sounds, rate, readout)
        assert together.shape == (4, model.feature_size(readout)) and together.isfinite().all()
        for row, sound in zip(together, sounds, strict=True):
            assert largest(row, model.features(sound, rate, readout)[0]) < 1e-5
    together, milliseconds = model.timestamps(sounds, rate)
    for row, sound in zip(together, sounds, strict=True):
        alone = model.timestamps(sound, rate)[0][0]
        assert largest(row[: len(alone)], alone) < 1e-5 and not row[len(alone) :].any()
    assert milliseconds.shape == together.shape[:2] and (milliseconds.diff() > 0).all()


@pytest.mark.parametrize("name", FRONT_ENDS)
@torch.no_grad()
def test_silence_and_a_single_sample_have_features(name: str) -> None:
    model = small_model(name)
    rate = model.sample_rate_hz
    for sound in (torch.zeros(rate), torch.zeros(1), torch.full((rate // 2,), 0.5), torch.ones(2)):
        for readout in READOUTS:
            assert model.features(sound, rate, readout).isfinite().all()
        assert model.timestamps(sound, rate)[0].isfinite().all()


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_step_on_silence_and_on_20_ms_is_finite(recipe: str) -> None:
    small = ("data.seconds=2.08", "data.views=2", "audio.frontend.channels=16", "audio.target.blocks=0")
    config = configured(recipe, *small)
    method = built(config)
    rate, views = sample_rate_of(config.audio.frontend), config.data.views
    short, whole = clips(rate, 0.02, 2.08)
    rows = [torch.zeros(len(whole)), short, whole] * views
    lengths = torch.tensor([len(row) for row in rows])
    batch = batch_of(Waveforms(pad_sequence(rows, batch_first=True), lengths), views)
    method.train()
    losses = method(batch, 1)
    losses.total.backward()
    gradients = [parameter.grad for parameter in method.parameters() if parameter.grad is not None]
    assert losses.total.isfinite() and gradients and all(gradient.isfinite().all() for gradient in gradients)
    torch.optim.AdamW([p for p in method.parameters() if p.requires_grad], 1e-3).step()
    method.after_step(1)
    one_view = batch_of(Waveforms(batch.inputs.samples[:3], lengths[:3]))
    tokens = method.embed(one_view)["tokens"]
    assert tokens.sites is not None and tokens.features[tokens.sites.valid_mask()].isfinite().all()


# -------------------------------------------------------------------------------------------------------------- pieces


@pytest.mark.parametrize("name", ["small", "small_8k", "m2d", "eat", "beats", "waveform", "atst_clip"])
@torch.no_grad()
def test_long_clips_come_in_pieces_that_join(name: str) -> None:
    model = small_model(name)
    rate, steps = model.sample_rate_hz, 8
    piece = steps * step_samples(model.front_end)
    sounds = clips(rate, 2.5 * piece / rate, 0.6 * piece / rate)
    seconds = piece / rate
    tokens = model.tokens(sounds, rate, seconds)
    bands = tokens.lattice.count // tokens.lattice.sizes[0]
    assert tokens.sites.complete and tokens.lattice.spacing == model.encoder.lattice.spacing
    valid = tokens.sites.valid_mask().view(2, -1, bands).all(-1).sum(1).tolist()
    assert abs(valid[0] - 2.5 * steps) <= 1 and abs(valid[1] - 0.6 * steps) <= 1
    # The second piece is what that stretch of sound gives by itself, but for the samples its last frame reaches into.
    alone = model.tokens(sounds[0][piece:], rate, seconds)
    assert largest(tokens.features[0, steps * bands : 2 * steps * bands], alone.features[0, : steps * bands]) < 1e-5
    short = model.tokens(sounds[1], rate)
    counted = min(short.features.shape[1], steps * bands)
    assert largest(tokens.features[1, :counted], short.features[0, :counted]) < 1e-5
    by_piece = model.features(sounds, rate, "mean", seconds)
    assert largest(by_piece, READOUTS["mean"](tokens)) == 0


@torch.no_grad()
def test_a_front_end_of_fixed_length_hears_a_long_clip_to_its_end() -> None:
    model = small_model("audio_jepa")
    long = clips(32_000, 12.0)[0]
    features, milliseconds = model.timestamps(long, 32_000)
    assert features.shape[1] == 19 and float(milliseconds[0, -1]) == pytest.approx(11_600, abs=200)
    changed = long.clone()
    changed[-32_000:] = 0
    assert largest(model.timestamps(changed, 32_000)[0], features) > 0.01
    with pytest.raises(ValueError, match="piece_seconds: expected a number above 0, got 0"):
        model.features(long, 32_000, piece_seconds=0)


# --------------------------------------------------------------------------------------------------------------- input


@torch.no_grad()
def test_other_sample_rates_and_kinds_of_input() -> None:
    model = small_model("small")
    time = np.arange(48_000) / 48_000
    tone = (0.3 * np.sin(2 * np.pi * 440 * time)).astype(np.float32)
    own = torch.from_numpy(tone[::3].copy())
    features = model.features(own, 16_000)
    assert largest(model.features(tone, 48_000), features) < 0.05
    assert torch.equal(model.features(own[None], 16_000), features)
    assert torch.equal(model.features([own.numpy()], 16_000), features)
    assert torch.equal(model.features(own.double(), 16_000), features)
    mixed = model.features([tone, tone[:24_000]], 48_000)
    assert largest(mixed[1], model.features(tone[:24_000], 48_000)[0]) < 1e-5


@pytest.mark.parametrize(
    ("sound", "rate", "message"),
    [
        (torch.zeros(2, 1, 100), 16_000, r"expected floating-point \[samples\] or \[clips, samples\]"),
        (torch.zeros(100, dtype=torch.int16), 16_000, "divide 16-bit integers by 32768"),
        (torch.zeros(0), 16_000, "at least one sample"),
        ([], 16_000, "at least one clip"),
        ([torch.zeros(2, 3)], 16_000, r"expected floating-point \[samples\] in"),
        (torch.zeros(100), 0, "sample_rate_hz: expected a rate above 0"),
    ],
)
def test_what_is_no_sound_is_told(sound: Tensor, rate: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small_model().features(sound, rate)


def test_an_unknown_readout_is_told() -> None:
    with pytest.raises(ValueError, match="readout: expected one of mean, .* got 'max'"):
        small_model().features(torch.zeros(100), 16_000, "max")


# ------------------------------------------------------------------------------------------------------- HEAR, X-ARES


def test_the_api_of_hear(tmp_path: Path) -> None:
    small_model("small").with_readout("frequency").save_pretrained(tmp_path)
    names = ("load_model", "get_scene_embeddings", "get_timestamp_embeddings")
    parameters = {name: list(inspect.signature(getattr(hear, name)).parameters) for name in names}
    assert parameters["load_model"] == ["model_file_path"]
    assert inspect.signature(hear.load_model).parameters["model_file_path"].default == ""
    assert parameters["get_scene_embeddings"] == parameters["get_timestamp_embeddings"] == ["audio", "model"]
    model = hear.load_model(str(tmp_path))
    assert isinstance(model, torch.nn.Module) and not model.training
    sizes = model.sample_rate, model.scene_embedding_size, model.timestamp_embedding_size
    assert sizes == (16_000, 4 * 32, 4 * 32) and all(type(size) is int for size in sizes)
    audio = torch.rand(3, 2 * model.sample_rate) * 2 - 1
    scenes = hear.get_scene_embeddings(audio, model)
    assert scenes.shape == (3, model.scene_embedding_size) and scenes.dtype == torch.float32
    embeddings, milliseconds = hear.get_timestamp_embeddings(audio, model)
    assert embeddings.dtype == torch.float32 and embeddings.shape[2] == model.timestamp_embedding_size
    assert embeddings.shape[:2] == milliseconds.shape and not scenes.requires_grad
    spacing = milliseconds.diff()
    assert (spacing - spacing.mean()).abs().max() < 1e-3 and milliseconds.max() < 2000
    for name, rate in (("audio_jepa", 44_100), ("small_8k", 16_000)):  # rates that HEAR has no tasks in
        small_model(name).save_pretrained(tmp_path)
        other = hear.load_model(str(tmp_path))
        assert other.sample_rate == rate
        sounds = clips(rate, 0.5, 0.5)
        assert hear.get_scene_embeddings(torch.stack(sounds), other).isfinite().all()
    with pytest.raises(ValueError, match="model_file_path: expected a run"):
        hear.load_model()


def test_the_encoder_of_x_ares(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_folder(tmp_path)
    with pytest.raises(ValueError, match="environment variable JEPA_XARES_MODEL"):
        JepaEncoder()
    monkeypatch.setenv("JEPA_XARES_MODEL", f"{tmp_path}#target")
    encoder = JepaEncoder()
    assert not encoder.training and (encoder.sampling_rate, encoder.output_dim) == (16_000, 4 * 128)
    assert encoder.hop_size_in_ms == pytest.approx(160)
    for samples in (50_000, 16_000 * 61 + 17):
        encoded = encoder(0.1 * torch.randn(2, samples))
        steps = samples / encoder.sampling_rate * 1000 / encoder.hop_size_in_ms
        assert encoded.shape[::2] == (2, encoder.output_dim) and abs(encoded.shape[1] - steps) <= 1
    assert encoder(torch.randn(20_000)).shape[0] == 1
    assert not encoder(torch.randn(20_000)).requires_grad
