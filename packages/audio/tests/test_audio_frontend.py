"""The front end: tiles and their lattice, which sites are present, published grids, statistics, normalised waves."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from jepa_audio.augment import TimeFrequencyCrop
from jepa_audio.frontend import SpectrogramFrontEnd, pixels, tiles, untile, wave_normalise
from jepa_audio.kaldi import KaldiFbank, KaldiSettings
from jepa_audio.log_mel import LogMel, LogMelSettings
from jepa_audio.presets import PRESETS, preset
from jepa_audio.statistics import measure_statistics
from jepa_audio.waveforms import Patches, Waveforms
from jepa_core.contracts import Sites
from jepa_core.errors import DataError
from jepa_core.targets import LayerNormalise

BANK = LogMel(LogMelSettings())
SEEDS = torch.arange(2)


def noise(rows: int, samples: int, seed: int = 0) -> torch.Tensor:
    return 0.1 * torch.randn(rows, samples, generator=torch.Generator().manual_seed(seed))


def built(name: str) -> SpectrogramFrontEnd:
    return preset(name).front_end(*((-7.0, 4.0) if preset(name).mean is None else ()))


def test_tiles_run_along_frequency_first_and_come_back() -> None:
    front = SpectrogramFrontEnd(BANK, (16, 20))
    clips = Waveforms(noise(2, 16_000))
    patches, grid = front(clips, SEEDS)
    values = BANK(clips).values[:, :96]
    assert patches.lattice == grid.lattice and patches.present is grid.present is None
    assert patches.features.shape == (2, 6 * 4, front.channels)
    for step, band in ((0, 0), (2, 1), (5, 3)):
        site = int(patches.lattice.ids(torch.tensor([step, band])))
        tile = values[:, step * 16 : step * 16 + 16, band * 20 : band * 20 + 20]
        assert torch.equal(patches.features[:, site], tile.flatten(1))
    assert torch.equal(untile(patches.features, patches.lattice, front.patch), values)
    assert torch.equal(tiles(values, front.patch), patches.features)


def test_the_lattice_speaks_of_seconds_and_bins() -> None:
    lattice = SpectrogramFrontEnd(BANK, (16, 20)).lattice_for(16_000)
    assert (lattice.axes, lattice.units, lattice.sizes) == (("t", "f"), ("s", "bin"), (6, 4))
    assert lattice.spacing == pytest.approx((0.16, 20.0))
    # Frames are centred on multiples of 10 ms: the middle of the first 16 is 75 ms.
    assert lattice.origin == pytest.approx((0.075, 9.5))
    kaldi = SpectrogramFrontEnd(KaldiFbank(KaldiSettings()), (16, 16)).lattice_for(16_000)
    assert kaldi.origin == pytest.approx((0.0125 + 0.075, 7.5))


def test_where_a_tone_lies_in_time_is_where_the_lattice_says() -> None:
    front = SpectrogramFrontEnd(BANK, (4, 80))
    clip = torch.zeros(1, 32_000)
    clip[:, 15_900:16_100] = noise(1, 200)
    patches, _ = front(Waveforms(clip), SEEDS[:1])
    loudest = patches.features[0].mean(-1).argmax()
    assert float(patches.lattice.positions(loudest[None])[0, 0]) == pytest.approx(1.0, abs=0.02)


@pytest.mark.parametrize(
    ("name", "tokens"),
    [
        ("audio_jepa", 16 * 8),
        ("audio_jepa_repo", 32 * 6),
        ("audio_embeddings", 16 * 8),
        ("a_jepa", 64 * 8),
        ("riou", 13 * 5),
        ("stem_jepa", 50 * 5),
        ("m2d", 38 * 5),
        ("m2d_32k", 38 * 5),
        ("audio_mae", 64 * 8),
        ("audio_mae_esc50", 32 * 8),
        ("audio_mae_speech_commands", 8 * 8),
        ("eat", 64 * 8),
        ("beats", 62 * 8),
        ("atst_clip", 150),
        ("default", 13 * 5),
        ("small", 31 * 4),
        ("small_8k", 25),
    ],
)
def test_presets_have_their_published_grids(name: str, tokens: int) -> None:
    chosen = PRESETS[name]
    front = built(name)
    samples = round(chosen.crop_s * front.bank.sample_rate_hz)
    patches, _ = front(Waveforms(noise(1, samples)), SEEDS[:1])
    assert patches.features.shape == (1, tokens, front.channels)
    assert front.lattice_for(samples) == patches.lattice


def test_every_preset_is_listed_above() -> None:
    (mark,) = test_presets_have_their_published_grids.pytestmark  # type: ignore[attr-defined]
    assert {name for name, _ in mark.args[1]} == set(PRESETS)


@pytest.mark.parametrize("name", list(PRESETS))
def test_a_clip_gives_the_same_sites_alone_and_padded(name: str) -> None:
    front = built(name)
    rate = front.bank.sample_rate_hz
    lengths = [1, rate // 50, rate // 2, rate]
    clips = [noise(1, length, seed=length) for length in lengths]
    padded = torch.zeros(len(clips), rate)
    for row, clip in zip(padded, clips, strict=True):
        row[: clip.shape[1]] = clip[0]
    together, grid = front(Waveforms(padded, torch.tensor(lengths)), torch.arange(4))
    assert together.present is not None and together.present is grid.present
    for row, present, clip in zip(together.features, together.present, clips, strict=True):
        alone, _ = front(Waveforms(clip), SEEDS[:1])
        count = alone.features.shape[1] if alone.present is None else int(alone.present.sum())
        assert int(present.sum()) == count and present[:count].all()
        torch.testing.assert_close(row[:count], alone.features[0, :count], rtol=1e-5, atol=1e-3)


def test_a_step_counts_from_half_of_its_frames() -> None:
    front = SpectrogramFrontEnd(BANK, (16, 80))
    # A clip of L samples has 1 + L // 160 frames.
    frames = torch.tensor([1, 7, 8, 16, 23, 24, 39, 40, 48])
    patches, _ = front(Waveforms(noise(9, 47 * 160), (frames - 1) * 160), torch.arange(9))
    assert patches.present is not None
    assert patches.present.sum(1).tolist() == [1, 1, 1, 1, 1, 2, 2, 3, 3]
    assert [front.lattice_for((n - 1) * 160).sizes[0] for n in frames.tolist()] == [1, 1, 1, 1, 1, 2, 2, 3, 3]


def test_a_fixed_length_cuts_and_fills_with_silence() -> None:
    front = SpectrogramFrontEnd(BANK, (16, 80), mean=-7.0, std=4.0, frames=32)
    long, short = noise(1, 16_000), noise(1, 1600)
    cut, grid = front(Waveforms(long), SEEDS[:1])
    assert grid.present is None and cut.lattice.sizes == (2, 1)
    torch.testing.assert_close(
        untile(cut.features, cut.lattice, front.patch), (BANK(Waveforms(long)).values[:, :32] + 7) / 4
    )
    filled, grid = front(Waveforms(short), SEEDS[:1])
    assert grid.present is not None and grid.present.tolist() == [[True, False]]
    assert filled.features[0, 1].unique().tolist() == [pytest.approx((BANK.silence + 7) / 4)]


def test_a_crop_is_drawn_from_the_seed_in_train_mode_only() -> None:
    crop = TimeFrequencyCrop(0.3, 0.6)
    front, plain = (SpectrogramFrontEnd(BANK, (16, 20), crop=c) for c in (crop, None))
    clips = Waveforms(noise(2, 16_000), torch.tensor([16_000, 8000]))
    first, again, other = (front(clips, SEEDS + shift)[0] for shift in (0, 0, 9))
    assert torch.equal(first.features, again.features) and not torch.equal(first.features, other.features)
    whole, _ = plain(clips, SEEDS)
    assert first.present is not None and whole.present is not None and torch.equal(first.present, whole.present)
    assert not torch.equal(first.features, whole.features)
    assert torch.equal(front.eval()(clips, SEEDS)[0].features, whole.features)


def test_mean_and_std_travel_with_the_weights() -> None:
    trained, fresh = SpectrogramFrontEnd(BANK, (16, 16), -7.0, 4.0), SpectrogramFrontEnd(BANK, (16, 16))
    fresh.load_state_dict(trained.state_dict())
    assert set(trained.state_dict()) == {"mean", "std"}
    assert (float(fresh.mean), float(fresh.std)) == (-7.0, 4.0)


def test_raw_targets_know_what_is_present() -> None:
    front = SpectrogramFrontEnd(BANK, (16, 20), -7.0, 4.0)
    patches, _ = front(Waveforms(noise(2, 16_000), torch.tensor([16_000, 6000])), SEEDS)
    tokens = pixels(patches, None)
    assert tokens.sites.valid is patches.present and torch.equal(tokens.features, patches.features)
    keep = Sites(torch.tensor([[5, 2, 7], [1, 0, 3]]))
    chosen = pixels(patches, keep)
    assert torch.equal(chosen.features[0], patches.features[0, [5, 2, 7]])
    blocks = Sites(keep.ids[:, None])
    normal = LayerNormalise()(chosen.at(blocks), blocks)
    torch.testing.assert_close(normal.mean(-1), torch.zeros(2, 1, 3), rtol=0, atol=1e-5)


def test_silence_goes_through_with_finite_gradients() -> None:
    for name in PRESETS:
        front = built(name)
        clip = torch.zeros(1, front.bank.sample_rate_hz // 4, requires_grad=True)
        patches, _ = front(wave_normalise(Waveforms(clip)), SEEDS[:1])
        patches.features.square().sum().backward()
        assert patches.features.isfinite().all() and clip.grad is not None and clip.grad.isfinite().all()


def test_wave_normalise_uses_a_clips_own_samples() -> None:
    samples = noise(3, 2000) + 0.3
    samples[1] = 0
    lengths = torch.tensor([2000, 2000, 700])
    got = wave_normalise(Waveforms(samples, lengths)).samples
    assert (got[1] == 0).all() and (got[2, 700:] == 0).all()
    for row, length in ((0, 2000), (2, 700)):
        own = got[row, :length]
        assert float(own.mean()) == pytest.approx(0, abs=1e-4) and float(own.std()) == pytest.approx(1, abs=2e-3)
    alone = wave_normalise(Waveforms(samples[2:, :700])).samples
    torch.testing.assert_close(got[2:, :700], alone)


def test_statistics_are_those_of_frames_that_belong_to_a_clip() -> None:
    clips, lengths = noise(4, 8000), torch.tensor([8000, 400, 3000, 7999])
    spectrogram = BANK(Waveforms(clips, lengths))
    assert spectrogram.lengths is not None
    own = torch.cat([v[:n].double() for v, n in zip(spectrogram.values, spectrogram.lengths, strict=True)])
    got = measure_statistics(BANK, [Waveforms(clips, lengths)])
    assert got == pytest.approx((float(own.mean()), float(own.std(correction=0))), rel=1e-9)
    assert got == measure_statistics(BANK, [Waveforms(clips, lengths)])
    split = [Waveforms(clips[:1]), Waveforms(clips[1:], lengths[1:])]
    assert measure_statistics(BANK, split) == pytest.approx(got, rel=1e-6)
    front = SpectrogramFrontEnd(BANK, (1, 80), *got)
    patches, _ = front(Waveforms(clips[:1]), SEEDS[:1])
    assert abs(float(patches.features.mean())) < 0.2 and float(patches.features.std()) == pytest.approx(1, abs=0.2)


@pytest.mark.parametrize("batches", [[], [Waveforms(torch.zeros(2, 4000))]])
def test_statistics_of_nothing_are_refused(batches: list[Waveforms]) -> None:
    with pytest.raises(DataError, match="statistics"):
        measure_statistics(BANK, batches)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (lambda: SpectrogramFrontEnd(BANK, (16, 16), std=0.0), "std above 0"),
        (lambda: SpectrogramFrontEnd(BANK, (16, 24)), "bins divide 80"),
        (lambda: SpectrogramFrontEnd(BANK, (16, 16), frames=100), "frames divide 100"),
        (lambda: preset("audio_jeppa"), "nearest: audio_jepa"),
        (lambda: preset("small").front_end(), "measure"),
    ],
)
def test_what_cannot_be_is_told(wrong: Any, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        wrong()


def test_patches_of_a_batch_are_what_the_type_says() -> None:
    patches, _ = built("small_8k")(Waveforms(noise(2, 3000), torch.tensor([3000, 1200])), SEEDS)
    assert isinstance(patches, Patches) and patches.features.dtype == torch.float32
    assert patches.present is not None and patches.present.shape == patches.features.shape[:2]
