"""The audio method: front ends, positions, crops, views and settings, composed as recipes compose them."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from jepa_audio.augment import TimeFrequencyCrop
from jepa_audio.build import build_masker, build_method
from jepa_audio.encoder import AudioTransformer
from jepa_audio.front_ends import build_front_end
from jepa_audio.probe import level_statistics
from jepa_audio.settings import AudioRun, AudioSettings, MaskingSettings
from jepa_audio.wave_frontend import ClipNorm, WaveformFrontEnd
from jepa_audio.waveforms import Spectrogram, Waveforms
from jepa_audio.weights.facts import facts_from_settings
from jepa_core.config import compose
from jepa_core.contracts import Batch, Sites
from jepa_core.errors import ConfigError
from jepa_core.lattice import Lattice
from jepa_core.masking.random import RandomMasker
from jepa_core.methods.masked import MaskedPrediction
from jepa_core.nn.patch_encoder import SIZES, Patches
from jepa_core.targets import EmaTarget

RATE = 16000


def noise(rows: int, samples: int, seed: int = 0) -> Tensor:
    return 0.1 * torch.randn(rows, samples, generator=torch.Generator().manual_seed(seed))


def small(**changes: object) -> AudioSettings:
    options = AudioSettings()
    options.encoder.size, options.predictor.width, options.predictor.depth = "nano", 32, 1
    options.frontend.preset = "small"
    for key, value in changes.items():
        section, _, name = key.partition("__")
        setattr(getattr(options, section) if name else options, name or section, value)
    return options


def method_of(options: AudioSettings, seconds: float = 0.96, views: int = 1) -> MaskedPrediction:
    torch.manual_seed(0)
    return build_method(options, build_front_end(options, -8.0, 4.0), round(seconds * RATE), views, 10, 64)


def batch_of(inputs: Waveforms, samples: int) -> Batch:
    return Batch(inputs, torch.arange(samples), tuple(f"clip-{place}" for place in range(samples)))


# --------------------------------------------------------------------------------------------------------------------
# The convolutional front end
# --------------------------------------------------------------------------------------------------------------------


def test_the_norm_of_a_clip_is_torchs_group_norm() -> None:
    x = noise(3, 5 * 40).unflatten(1, (5, 40))
    ours, theirs = ClipNorm(5), nn.GroupNorm(5, 5)
    torch.testing.assert_close(ours(x, torch.full((3,), 40)), theirs(x), atol=1e-5, rtol=1e-5)


def test_a_clip_has_the_same_frames_alone_and_padded() -> None:
    torch.manual_seed(0)
    front_end = WaveformFrontEnd(RATE, 128, channels=16)
    short, long = noise(1, 3000), noise(1, 8000, 1)
    alone, _ = front_end(Waveforms(short), torch.empty(0))
    both = Waveforms(torch.cat([F.pad(short, (0, 5000)), long]), torch.tensor([3000, 8000]))
    together, grid = front_end(both, torch.empty(0))
    frames = alone.features.shape[1]
    assert grid.present is not None and grid.present.sum(1).tolist() == [frames, 49]
    torch.testing.assert_close(together.features[:1, :frames], alone.features, atol=1e-5, rtol=1e-5)


def test_frames_of_a_waveform_are_ten_milliseconds_apart() -> None:
    front_end = WaveformFrontEnd(RATE, 128, channels=16)
    assert (front_end.hop, front_end.reach) == (160, 240)
    lattice = front_end.lattice_for(round(2.01 * RATE))
    assert lattice.sizes == (200,) and lattice.spacing == (0.01,)
    tiny, _ = front_end(Waveforms(noise(1, 5)), torch.empty(0))
    assert tiny.features.shape == (1, 1, 128) and bool(tiny.features.isfinite().all())


def test_the_waveform_front_end_learns() -> None:
    options = small(frontend__preset="waveform", frontend__channels=8, masking__kind="spans", target__blocks=2)
    options.target.normalise = "none"
    method = method_of(options, 2.01)
    method(batch_of(Waveforms(noise(2, round(2.01 * RATE))), 2), 1).total.backward()
    assert all(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in method.front_end.parameters())


# --------------------------------------------------------------------------------------------------------------------
# Encoder
# --------------------------------------------------------------------------------------------------------------------


def lattice_of(steps: int) -> Lattice:
    return Lattice(("t", "f"), (steps, 4), (0.16, 16.0), ("s", "bin"), (0.0, 0.0))


@pytest.mark.parametrize("positions", ["sin_cos", "rotary", "learned"])
def test_a_longer_clip_needs_no_interpolation(positions: str) -> None:
    torch.manual_seed(0)
    encoder = AudioTransformer(SIZES["nano"], 8, lattice_of(6), positions=positions, longest=20).eval()  # type: ignore[arg-type]
    x = noise(2, 10 * 4 * 8).unflatten(1, (40, 8))
    keep = Sites(torch.arange(24).expand(2, 24))
    # The first six steps of a longer clip, with the rest out of sight, are the clip of six steps.
    cut = encoder(Patches(x, lattice_of(10)), keep).features
    own = encoder(Patches(x[:, :24], lattice_of(6)), None).features
    torch.testing.assert_close(cut, own, atol=1e-5, rtol=1e-5)


def test_an_encoder_can_be_pickled() -> None:
    encoder = AudioTransformer(SIZES["nano"], 8, lattice_of(6)).eval()
    again = pickle.loads(pickle.dumps(encoder))
    x = Patches(noise(2, 24 * 8).unflatten(1, (24, 8)), lattice_of(6))
    assert torch.equal(again(x, None).features, encoder(x, None).features)


def test_learned_positions_end_and_say_so() -> None:
    encoder = AudioTransformer(SIZES["nano"], 8, lattice_of(6), positions="learned", longest=8)
    with pytest.raises(ValueError, match=r"at most 8 steps \(1 s\), got 10"):
        encoder(Patches(torch.zeros(1, 40, 8), lattice_of(10)), None)


def test_every_linear_layer_is_drawn_as_asked_and_the_target_begins_as_a_copy() -> None:
    method = method_of(small(encoder__init="xavier", agreement__weight=1.0), views=2)
    assert isinstance(method.target, EmaTarget) and method.agreement is not None
    widths = {"encoder": method.encoder, "predictor": method.predictor, "projector": method.agreement.projector}
    for name, part in widths.items():
        for layer in part.modules():
            if isinstance(layer, nn.Linear):
                inner, outer = layer.weight.shape
                assert layer.weight.std().item() == pytest.approx((2 / (inner + outer)) ** 0.5, rel=0.1), name
    copies = dict(method.target.encoder.named_parameters())
    assert all(torch.equal(copies[name], own) for name, own in method.encoder.named_parameters())


def test_a_hop_of_ones_own_makes_other_frames() -> None:
    options = small(frontend__hop_length=320)
    front = build_front_end(options, -8.0, 4.0)
    assert front.lattice_for(RATE).spacing[0] == pytest.approx(16 * 0.02)
    assert facts_from_settings(options, RATE).lattice == front.lattice_for(RATE)


def test_a_clip_centred_by_itself_has_no_level_of_its_own() -> None:
    front = build_front_end(small(frontend__centre="clip"), -8.0, 4.0)
    clips = noise(2, RATE)
    clips[1, RATE // 2 :] = 0
    lengths = torch.tensor([RATE, RATE // 2])
    loud, _ = front(Waveforms(8 * clips, lengths), torch.arange(2))
    quiet, _ = front(Waveforms(clips, lengths), torch.arange(2))
    torch.testing.assert_close(loud.features[0], quiet.features[0], atol=1e-4, rtol=0)
    alone, _ = front(Waveforms(clips[1:, : RATE // 2]), torch.arange(1))
    own = alone.features.shape[1]
    torch.testing.assert_close(quiet.features[1:, :own], alone.features, atol=1e-5, rtol=0)
    assert facts_from_settings(small(frontend__centre="clip"), RATE).front_end().centre == "clip"


def test_padding_changes_no_embedding() -> None:
    method = method_of(small()).eval()
    short = noise(1, 11000)
    both = Waveforms(F.pad(short, (0, 9000)).repeat(2, 1), torch.tensor([11000, 20000]))
    alone = method.embed(batch_of(Waveforms(short), 1))["tokens"]
    together = method.embed(batch_of(both, 2))["tokens"]
    assert together.sites is not None and together.sites.valid is not None
    count = alone.features.shape[1]
    assert int(together.sites.valid[0].sum()) == count
    torch.testing.assert_close(together.features[0, :count], alone.features[0], atol=1e-5, rtol=1e-5)


# --------------------------------------------------------------------------------------------------------------------
# Crops, views, masks
# --------------------------------------------------------------------------------------------------------------------


def test_a_crop_of_everything_is_everything() -> None:
    x = noise(3, 20 * 12).unflatten(1, (20, 12))
    whole = TimeFrequencyCrop(1.0, 1.0, 1.0, 1.0)(x, torch.tensor([20, 15, 1]), torch.arange(3), -1.0)
    torch.testing.assert_close(whole[0], x[0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(whole[1, :15], x[1, :15], atol=1e-5, rtol=1e-5)
    assert bool((whole[1, 15:] == -1).all()) and bool((whole[2, 1:] == -1).all())


def test_a_crop_is_drawn_from_the_seed_and_keeps_its_share() -> None:
    ramp = torch.linspace(0, 1, 400)[None, :, None].expand(200, 400, 1).repeat(1, 1, 40)
    lengths = torch.full((200,), 400)
    crop = TimeFrequencyCrop(0.5, 0.5)
    one, again = (crop(ramp, lengths, torch.arange(200), 0.0) for _ in range(2))
    assert torch.equal(one, again) and not torch.equal(one[0], one[1])
    share = one[:, -1, 0] - one[:, 0, 0]
    assert float(share.min()) > 0.6 and float(share.max()) < 0.83  # sqrt(.5 * 3/4) to sqrt(.5 * 4/3)
    assert abs(float(one.mean()) - 0.5) < 0.02


def test_views_are_masked_apart_and_embedded_by_the_first() -> None:
    method = method_of(small(agreement__weight=1.0, masking__ratio=0.5), views=2)
    waves = Waveforms(noise(3, round(0.96 * RATE)).repeat(2, 1))
    batch = batch_of(waves, 3)
    _, (mask,) = method.masks(batch)
    assert len(mask.context.ids) == 6 and not torch.equal(mask.context.ids[:3], mask.context.ids[3:])
    losses = method(batch, 1)
    assert {"agreement", "agreement_sigreg"} <= set(losses.terms) and bool(losses.total.isfinite())
    features = method.embed(batch)["tokens"].features
    assert len(features) == 3
    torch.testing.assert_close(features, method.embed(batch_of(Waveforms(waves.samples[:3]), 3))["tokens"].features)


def test_a_share_between_bounds_is_drawn_for_the_batch() -> None:
    masker = build_masker(MaskingSettings(ratio_min=0.4, ratio_max=0.6), 10)
    assert isinstance(masker, RandomMasker) and masker.bounds == (0.4, 0.6)
    lattice = Lattice(("t", "f"), (20, 5), (1.0, 1.0), ("s", "bin"), (0.0, 0.0))
    from jepa_core.contracts import Grid

    counts = [masker(Grid(lattice), torch.arange(4), seed)[0].targets.ids.shape[-1] for seed in range(200)]
    assert 39 < min(counts) < 45 < 55 < max(counts) < 61


@pytest.mark.parametrize("kind", ["random", "multiblock", "time", "inverse_block", "curriculum"])
@pytest.mark.parametrize("view", ["full", "masked"])
def test_silent_and_tiny_clips_train(kind: str, view: str) -> None:
    options = small(masking__kind=kind, masking__ratio=0.5, masking__length=2, target__view=view)
    options.frontend.patch_bins = 8
    method = method_of(options, 1.92)
    samples = round(1.92 * RATE)
    waves = torch.cat([torch.zeros(1, samples), noise(2, samples)])
    waves[2, 320:] = 0
    losses = method(batch_of(Waveforms(waves, torch.tensor([samples, samples, 320])), 3), 1)
    losses.total.backward()
    assert bool(losses.total.isfinite())
    assert all(p.grad is None or bool(p.grad.isfinite().all()) for p in method.parameters())


def test_the_masked_view_of_the_target_hears_only_what_is_hidden() -> None:
    method = method_of(small(target__view="masked", energy="cosine"))
    seen: list[Sites | None] = []
    target = method.target
    encode = target.encode
    target.encode = lambda inputs, keep: (seen.append(keep), encode(inputs, keep))[1]  # type: ignore[method-assign]
    batch = batch_of(Waveforms(noise(2, round(0.96 * RATE))), 2)
    method(batch, 1)
    _, (mask,) = method.masks(batch)
    assert len(seen) == 1 and seen[0] is not None and torch.equal(seen[0].ids, mask.target_union.ids)


# --------------------------------------------------------------------------------------------------------------------
# Probe and settings
# --------------------------------------------------------------------------------------------------------------------


def test_statistics_of_levels_are_numpys_and_ignore_padding() -> None:
    values = noise(2, 30 * 4).unflatten(1, (30, 4))
    found = level_statistics(Spectrogram(values, torch.tensor([30, 12])))
    for row, length in enumerate((30, 12)):
        own = values[row, :length].numpy().astype(np.float64)
        np.testing.assert_allclose(found[row], np.concatenate([own.mean(0), own.std(0)]), atol=1e-6)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("audio.frontend.preset=m3d", "audio.frontend.preset: expected one of .*did you mean m2d"),
        ("audio.agreement.weight=1", "audio.agreement.weight: expected data.views of 2 or more beside it, got 1"),
        ("audio.masking.kind=spans", "spans needs audio.frontend.preset=waveform"),
        ("audio.target.blocks=13", "audio.target.blocks: expected a value from 0 to 12"),
        ("probe.readouts=[means]", "readouts: expected some of mean, .*got 'means'; did you mean mean"),
        ("data.seconds=0", "data.seconds: expected 0.01 to 3600, got 0"),
        ("audio.masking.ratio_max=0.5", "audio.masking.ratio_min: expected 0 <"),
    ],
)
def test_impossible_settings_are_refused_by_name(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        compose(AudioRun, None, [override])
