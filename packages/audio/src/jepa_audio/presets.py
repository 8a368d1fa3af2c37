"""Named front ends: those of published models by their constants, and our own.

Where a preset differs from the published code, its ``note`` says how. Dasheng is not here: its normalisation is a
trained batch norm over bins. Published numbers of mean and standard deviation belong to their data: for other data set
both to None and measure them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches

from jepa_audio.framing import FilterBank
from jepa_audio.frontend import SpectrogramFrontEnd
from jepa_audio.kaldi import KaldiFbank, KaldiSettings
from jepa_audio.log_mel import LogMel, LogMelSettings

_AUDIOSET = (-4.2677393, 2 * 4.5689974)
_FIXED_LENGTH = "Clips are filled up with silence, not with a log energy of 0, which is louder than most sound."
_TOP_DB = "Without the floor below each clip's loudest frame (top_db), which would make frames depend on each other."


@dataclass(frozen=True)
class Preset:
    """A front end by name.

    Attributes:
        settings: of the filter bank.
        patch: usual frames and bins of a tile.
        mean, std: what log energies are normalised by; None = to be measured on the data.
        frames: fixed length, None = that of the clips.
        crop_s: usual length of a training clip, in seconds.
        note: source, and what differs from it.
    """

    settings: LogMelSettings | KaldiSettings
    patch: tuple[int, int]
    mean: float | None
    std: float | None
    crop_s: float
    note: str
    frames: int | None = None

    def with_hop(self, hop_length: int) -> Preset:
        """The same with another hop, in samples; 0 = its own."""
        return replace(self, settings=replace(self.settings, hop_length=hop_length)) if hop_length else self

    def bank(self) -> FilterBank:
        """The filter bank, before normalisation."""
        return LogMel(self.settings) if isinstance(self.settings, LogMelSettings) else KaldiFbank(self.settings)

    def front_end(
        self, mean: float | None = None, std: float | None = None, patch: tuple[int, int] | None = None
    ) -> SpectrogramFrontEnd:
        """The front end; ``mean``, ``std`` and ``patch`` stand before the preset's own.

        Raises:
            ValueError: neither the preset nor the caller knows mean and standard deviation.
        """
        mean, std = self.mean if mean is None else mean, self.std if std is None else std
        if mean is None or std is None:
            raise ValueError(
                "front end: this preset has no mean and std, got none either; measure them on the data "
                "(jepa_audio.statistics.measure_statistics) and pass both"
            )
        return SpectrogramFrontEnd(self.bank(), self.patch if patch is None else patch, mean, std, self.frames)


def preset(name: str) -> Preset:
    """The preset of this name.

    Raises:
        ValueError: there is none.
    """
    if name not in PRESETS:
        near = get_close_matches(name, PRESETS, n=1)
        raise ValueError(
            f"front end: expected one of {', '.join(PRESETS)}, got {name}" + (f"; nearest: {near[0]}" if near else "")
        )
    return PRESETS[name]


def _audio_jepa(window: int, hop: int, mels: int, frames: int, note: str) -> Preset:
    settings = KaldiSettings(32_000, window, hop, mels, 20.0, 16_000.0, window="hanning", level="peak")
    return Preset(settings, (16, 16), 0.0, 1.0, 10.0, f"arXiv 2507.02915, {note}. {_FIXED_LENGTH}", frames)


def _audio_mae(mean: float, std: float, crop_s: float, note: str, frames: int | None = None) -> Preset:
    settings = KaldiSettings(window="hanning")
    return Preset(settings, (16, 16), mean, std, crop_s, f"{note}. {_FIXED_LENGTH}", frames)


def _nnaudio(mean: float | None, std: float | None, crop_s: float, note: str) -> Preset:
    """80 slaney mels of equal area, ln(x + float32 eps): nnAudio's own choices at 16 kHz."""
    return Preset(LogMelSettings(), (16, 16), mean, std, crop_s, note)


PRESETS: Mapping[str, Preset] = {
    "default": Preset(
        LogMelSettings(), (16, 16), None, None, 2.08, "Our own: 25 ms in steps of 10 ms, 80 mels; as riou and m2d."
    ),
    "small": Preset(
        LogMelSettings(n_fft=512, win_length=512, n_mels=64, f_min_hz=0.0, eps=1e-10),
        (16, 16),
        None,
        None,
        5.0,
        "Our own, for small data at 16 kHz.",
    ),
    "small_8k": Preset(
        LogMelSettings(8000, 256, 256, 80, 40, 0.0, 4000.0, eps=1e-10),
        (4, 40),
        None,
        None,
        1.0,
        "Our own, for short words at 8 kHz: strips of 40 ms.",
    ),
    "audio_jepa": _audio_jepa(3125, 1250, 128, 256, "as published: 39.06 ms steps"),
    "audio_jepa_repo": _audio_jepa(1562, 625, 96, 512, "default configuration of the released code: 19.53 ms, 96 mels"),
    "audio_embeddings": Preset(
        LogMelSettings(
            n_fft=2048,
            win_length=2048,
            hop_length=625,
            n_mels=128,
            f_min_hz=0.0,
            mel_scale="htk",
            norm=None,
            normalized=True,
            log="db",
            eps=1e-10,
        ),
        (16, 16),
        0.0,
        1.0,
        10.0,
        "LudovicTuncay/audio-embeddings, the authors' second code for Audio-JEPA: raw decibels.",
    ),
    "a_jepa": _audio_mae(
        *_AUDIOSET,
        10.24,
        "arXiv 2311.15830; no code was released, the filter bank is taken to be that of Audio-MAE",
        1024,
    ),
    "riou": _nnaudio(-7.0633, 4.1971, 2.08, "arXiv 2405.08679."),
    "stem_jepa": _nnaudio(-9.453, 3.569, 8.0, "arXiv 2408.02514."),
    "m2d": _nnaudio(-7.1, 4.2, 6.08, "M2D, arXiv 2210.14648: the code's default mean and std."),
    "m2d_32k": Preset(
        LogMelSettings(32_000, 800, 800, 320, 80, 50.0, 16_000.0),
        (16, 16),
        None,
        None,
        6.08,
        "M2D's variant at 32 kHz; its mean and std are measured at run time.",
    ),
    "audio_mae": _audio_mae(*_AUDIOSET, 10.24, "arXiv 2207.06405, AudioSet", 1024),
    "audio_mae_esc50": _audio_mae(-6.6268077, 2 * 5.358466, 5.0, "arXiv 2207.06405, ESC-50", 512),
    "audio_mae_speech_commands": _audio_mae(-6.845978, 2 * 5.5654526, 1.0, "arXiv 2207.06405, Speech Commands", 128),
    "eat": _audio_mae(-4.268, 2 * 4.569, 10.24, "EAT, arXiv 2401.03497, and SSLAM; any multiple of 16 frames"),
    "beats": Preset(
        KaldiSettings(scale=2.0**15),
        (16, 16),
        15.41663,
        2 * 6.55582,
        10.0,
        "BEATs, arXiv 2212.09058: on the scale of 16-bit integers.",
    ),
    "atst_clip": Preset(
        LogMelSettings(
            n_fft=1024,
            win_length=1024,
            n_mels=64,
            f_min_hz=60.0,
            f_max_hz=7800.0,
            mel_scale="htk",
            norm=None,
            log="db",
            eps=1e-10,
        ),
        (4, 64),
        (50.6842 - 79.6482) / 2,
        (50.6842 + 79.6482) / 2,
        6.0,
        f"ATST-Clip, arXiv 2204.12076: -79.6482..50.6842 dB to -1..1. {_TOP_DB}",
    ),
}
"""Every named front end."""
