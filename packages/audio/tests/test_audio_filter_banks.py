"""Filter banks: equal to torchaudio, librosa and Kaldi; the same for a clip alone and padded; finite at silence."""

from __future__ import annotations

import csv
import os
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from jepa_audio.framing import mirrored
from jepa_audio.kaldi import KaldiFbank, KaldiSettings, peak_normalise
from jepa_audio.log_mel import FLOAT32_EPS, LogMel, LogMelSettings
from jepa_audio.presets import PRESETS
from jepa_audio.waveforms import Waveforms

# torchaudio's own notice of its maintenance, and of filters that hold no frequency.
warnings.filterwarnings("ignore", module="torchaudio")

LOG_MEL = [
    LogMelSettings(),
    LogMelSettings(mel_scale="htk", norm=None),
    LogMelSettings(n_fft=512, n_mels=64, f_min_hz=0.0),
    LogMelSettings(n_fft=512, win_length=512, n_mels=64, f_min_hz=0.0, pad_mode="constant"),
    LogMelSettings(power=1, f_max_hz=7800.0),
    LogMelSettings(pad_mode="none", n_mels=40),
    LogMelSettings(n_fft=402, win_length=301, hop_length=123, mel_scale="htk"),
    LogMelSettings(8000, 256, 256, 80, 40, 0.0, 4000.0, mel_scale="htk"),
    LogMelSettings(32_000, 800, 800, 320, 80, 50.0, 16_000.0),
]
KALDI = [
    KaldiSettings(),
    KaldiSettings(window="hanning", n_mels=80),
    KaldiSettings(window="hamming", pre_emphasis=0.5),
    KaldiSettings(window="blackman", low_hz=80.0, high_hz=7600.0, n_mels=40),
    KaldiSettings(window="rectangular", pre_emphasis=0.0),
    KaldiSettings(8000, 200, 80, 40, high_hz=4000.0, scale=2.0**15),
    KaldiSettings(32_000, 3125, 1250, 128, high_hz=16_000.0, window="hanning"),
    KaldiSettings(window_length=512, hop_length=100),
]
BANKS = [LogMel(s) for s in LOG_MEL[:7]] + [KaldiFbank(s) for s in KALDI] + [p.bank() for p in PRESETS.values()]


def sounds(rows: int, samples: int, seed: int = 0) -> Tensor:
    """Noise that swells and fades, with a constant offset."""
    generator = torch.Generator().manual_seed(seed)
    swell = torch.rand(rows, 1, generator=generator) * torch.linspace(0, 9, samples).sin()
    return 0.3 * swell * torch.randn(rows, samples, generator=generator) + 0.05


def energies(values: Tensor, settings: LogMelSettings) -> Tensor:
    """What the logarithm was taken of, ``[R, bins, T]``."""
    return (values.double().exp() - settings.eps).transpose(1, 2)


def assert_equal_to_peak(got: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(got.double(), expected.double(), rtol=0, atol=1e-5 * float(expected.abs().max()))


@pytest.mark.parametrize("settings", LOG_MEL)
@pytest.mark.parametrize("normalized", [False, True])
def test_log_mel_equals_torchaudio(settings: LogMelSettings, normalized: bool) -> None:
    from torchaudio.transforms import MelSpectrogram

    settings = replace(settings, normalized=normalized)
    centred: dict[str, Any] = {} if settings.pad_mode == "none" else {"pad_mode": settings.pad_mode}
    reference = MelSpectrogram(
        settings.sample_rate_hz,
        settings.n_fft,
        settings.win_length,
        settings.hop_length,
        settings.f_min_hz,
        settings.f_max_hz,
        n_mels=settings.n_mels,
        power=float(settings.power),
        normalized=normalized,
        center=bool(centred),
        norm=settings.norm,
        mel_scale=settings.mel_scale,
        **centred,
    )
    samples = sounds(2, 7001)
    got = LogMel(settings)(Waveforms(samples)).values
    assert_equal_to_peak(energies(got, settings), reference(samples))


@pytest.mark.parametrize("settings", LOG_MEL)
def test_log_mel_equals_librosa(settings: LogMelSettings) -> None:
    import librosa

    samples = sounds(2, 7001, seed=1)
    got = LogMel(settings)(Waveforms(samples)).values
    reference = librosa.feature.melspectrogram(
        y=samples.numpy(),
        sr=settings.sample_rate_hz,
        n_fft=settings.n_fft,
        win_length=settings.win_length,
        hop_length=settings.hop_length,
        power=float(settings.power),
        n_mels=settings.n_mels,
        fmin=settings.f_min_hz,
        fmax=settings.f_max_hz,
        htk=settings.mel_scale == "htk",
        norm=settings.norm,
        center=settings.pad_mode != "none",
        pad_mode="constant" if settings.pad_mode == "none" else settings.pad_mode,
    )
    assert_equal_to_peak(energies(got, settings), torch.from_numpy(reference))


@pytest.mark.parametrize("power", [1, 2])
def test_decibels_equal_torchaudio_without_top_db(power: Any) -> None:
    from torchaudio.transforms import AmplitudeToDB, MelSpectrogram

    settings = LogMelSettings(power=power, log="db", eps=1e-10, mel_scale="htk", norm=None)
    samples = sounds(2, 4000)
    samples[1] = 0
    mel = MelSpectrogram(16_000, 400, 400, 160, 50, 8000, n_mels=80, power=float(power))(samples)
    expected = AmplitudeToDB("power" if power == 2 else "magnitude", top_db=None)(mel).transpose(1, 2)
    torch.testing.assert_close(LogMel(settings)(Waveforms(samples)).values, expected, rtol=0, atol=1e-3)


def test_the_two_natural_logarithms_differ_near_the_floor_only() -> None:
    add, clamp = (LogMel(LogMelSettings(log=log, eps=1e-6)) for log in ("log_add", "log_clamp"))
    loud = Waveforms(sounds(1, 4000))
    quiet = Waveforms(sounds(1, 4000) * 1e-5)
    torch.testing.assert_close(add(loud).values[:, 5:-5], clamp(loud).values[:, 5:-5], rtol=0, atol=0.05)
    assert (clamp(quiet).values == clamp.silence).any() and (add(quiet).values > add.silence).any()
    assert clamp.silence == add.silence == pytest.approx(np.log(1e-6), abs=1e-5)


@pytest.mark.parametrize("settings", KALDI)
@pytest.mark.parametrize("samples", [3125, 8111])
def test_kaldi_equals_torchaudio(settings: KaldiSettings, samples: int) -> None:
    from torchaudio.compliance.kaldi import fbank

    clips = sounds(2, samples)
    got = KaldiFbank(settings)(Waveforms(clips)).values
    milliseconds = 1000 / settings.sample_rate_hz
    expected = torch.stack(
        [
            fbank(
                clip[None] * settings.scale,
                sample_frequency=settings.sample_rate_hz,
                frame_length=settings.window_length * milliseconds,
                frame_shift=settings.hop_length * milliseconds,
                num_mel_bins=settings.n_mels,
                low_freq=settings.low_hz,
                high_freq=settings.high_hz,
                window_type=settings.window,
                preemphasis_coefficient=settings.pre_emphasis,
                use_energy=False,
            )
            for clip in clips
        ]
    )
    assert_equal_to_peak(got.double().exp(), expected.double().exp())
    torch.testing.assert_close(got, expected, rtol=0, atol=0.02)


def test_kaldi_hears_a_faint_sound_on_a_large_offset() -> None:
    from torchaudio.compliance.kaldi import fbank

    faint = 0.5 + 1e-4 * torch.randn(1, 4000, generator=torch.Generator().manual_seed(0))
    got = KaldiFbank(KaldiSettings(scale=2.0**15))(Waveforms(faint)).values[0]
    exact = fbank(faint.double() * 2.0**15, num_mel_bins=128)
    torch.testing.assert_close(got.double(), exact, rtol=0, atol=0.05)


def test_kaldi_silence_is_its_known_floor() -> None:
    silent = KaldiFbank(KaldiSettings())(Waveforms(torch.zeros(1, 800))).values
    assert silent.unique().tolist() == [pytest.approx(-15.9424, abs=1e-4)]


def test_peak_level_uses_a_clips_own_samples() -> None:
    samples = torch.tensor([[0.5, -0.25, 9.0], [0.0, 0.0, 0.0]])
    got = peak_normalise(Waveforms(samples, torch.tensor([2, 3]))).samples
    torch.testing.assert_close(got, torch.tensor([[1.0, -0.5, 0.0], [0.0, 0.0, 0.0]]), rtol=0, atol=1e-5)


@pytest.mark.parametrize("length", [1, 2, 3, 7])
def test_mirroring_goes_to_and_fro_as_in_numpy(length: int) -> None:
    place = torch.arange(-10, length + 10)
    expected = np.pad(np.arange(length), 10, mode="reflect") if length > 1 else np.zeros(21)
    assert mirrored(place, torch.tensor(length)).tolist() == expected.tolist()


@pytest.mark.parametrize("bank", BANKS, ids=str)
def test_a_clip_has_the_same_frames_alone_and_padded(bank: Any) -> None:
    lengths = [1, 2, 39, bank.window // 2, bank.window // 2 + 1, bank.window, bank.window + bank.hop, 6100, 7000]
    clips = [sounds(1, length, seed=length) for length in lengths]
    # What follows a clip must not matter, whatever it is.
    padded = torch.full((len(clips), 7000), torch.nan)
    for row, clip in zip(padded, clips, strict=True):
        row[: clip.shape[1]] = clip[0]
    together = bank(Waveforms(padded, torch.tensor(lengths)))
    assert together.values.shape == (len(clips), bank.frames_of(7000), bank.bins)
    for row, frames, clip in zip(together.values, together.lengths.tolist(), clips, strict=True):
        alone = bank(Waveforms(clip)).values[0]
        assert frames == len(alone) == bank.frames_of(clip.shape[1])
        torch.testing.assert_close(row[:frames], alone, rtol=1e-5, atol=1e-3)
        assert (row[frames:] == bank.silence).all()


@pytest.mark.parametrize("bank", BANKS, ids=str)
@pytest.mark.parametrize("samples", [1, 320, 9000])
def test_silence_is_finite_forward_and_backward(bank: Any, samples: int) -> None:
    clip = torch.zeros(2, samples, requires_grad=True)
    got = bank(Waveforms(clip, torch.tensor([samples, 0]))).values
    assert (got == bank.silence).all()
    got.sum().backward()
    assert clip.grad is not None and clip.grad.isfinite().all()


@pytest.mark.parametrize("bank", [LogMel(LogMelSettings()), KaldiFbank(KaldiSettings(level="peak"))], ids=str)
def test_gradients_of_sound_are_those_of_finite_differences(bank: Any) -> None:
    generator = torch.Generator().manual_seed(0)
    clip = torch.randn(1, 900, generator=generator).requires_grad_()
    lengths = torch.tensor([800])
    (slope,) = torch.autograd.grad(bank(Waveforms(clip, lengths)).values.sum(), clip)
    assert slope.isfinite().all() and (slope[:, 800:] == 0).all()
    way = torch.randn(1, 900, generator=generator)
    step = 1e-3 * way
    ahead, behind = (bank(Waveforms(clip.detach() + s, lengths)).values.double().sum() for s in (step, -step))
    assert float(ahead - behind) / 2e-3 == pytest.approx(float((slope * way).sum()), rel=0.05)


def test_autocast_does_not_reach_a_filter_bank() -> None:
    clips = Waveforms(sounds(2, 4000))
    for bank in (LogMel(LogMelSettings()), KaldiFbank(KaldiSettings())):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            inside = bank(clips).values
        assert torch.equal(inside, bank(clips).values)


def test_blocks_of_rows_change_nothing() -> None:
    clips = sounds(20, 20_000)
    bank = LogMel(LogMelSettings())
    one_by_one = torch.cat([bank(Waveforms(clip[None])).values for clip in clips])
    torch.testing.assert_close(bank(Waveforms(clips)).values, one_by_one, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: LogMelSettings(win_length=401),
        lambda: LogMelSettings(n_fft=401),
        lambda: LogMelSettings(f_max_hz=8001.0),
        lambda: LogMelSettings(eps=0.0),
        lambda: LogMelSettings(log="ln"),  # type: ignore[arg-type]
        lambda: KaldiSettings(window="hann"),  # type: ignore[arg-type]
        lambda: KaldiSettings(low_hz=9000.0),
        lambda: KaldiSettings(scale=-1.0),
        lambda: KaldiFbank(KaldiSettings())(Waveforms(torch.zeros(800))),
        lambda: KaldiFbank(KaldiSettings())(Waveforms(torch.zeros(2, 0))),
        lambda: LogMel(LogMelSettings())(Waveforms(torch.zeros(2, 800, dtype=torch.int16))),
    ],
)
def test_what_cannot_be_is_told_in_one_line(wrong: Any) -> None:
    with pytest.raises(ValueError, match="got") as caught:
        wrong()
    assert "\n" not in str(caught.value)


def test_real_clips_equal_librosa_and_stay_finite() -> None:
    root = Path(os.environ.get("JEPA_DATA", "")) / "audio" / "esc10"
    if "JEPA_DATA" not in os.environ or not root.is_dir():
        pytest.skip("JEPA_DATA with audio/esc10 is not set")
    import librosa
    import soundfile

    with open(root / "meta.csv", newline="", encoding="utf-8") as table:
        rows = sorted(csv.DictReader(table), key=lambda row: -float(row["silence_frac"]))
    clips = np.stack([soundfile.read(root / "audio" / r["filename"], dtype="float32")[0] for r in rows[:4] + rows[-4:]])
    settings = LogMelSettings(n_fft=512, n_mels=64, f_min_hz=0.0, eps=FLOAT32_EPS)
    got = LogMel(settings)(Waveforms(torch.from_numpy(clips))).values
    reference = librosa.feature.melspectrogram(
        y=clips, sr=16_000, n_fft=512, win_length=400, hop_length=160, n_mels=64, pad_mode="reflect"
    )
    assert got.isfinite().all()
    assert_equal_to_peak(energies(got, settings), torch.from_numpy(reference))
