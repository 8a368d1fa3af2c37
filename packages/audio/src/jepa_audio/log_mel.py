"""Log-mel spectrograms, batched and on the device: torch.stft, mel filters, logarithm.

Equal to ``torchaudio.transforms.MelSpectrogram`` and ``librosa.feature.melspectrogram`` where all settings are: the
defaults of the three differ.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from jepa_audio.framing import FilterBank, mirror_edges, power_of, silent_after_end
from jepa_audio.waveforms import Waveforms

FLOAT32_EPS = 1.1920928955078125e-07
MelScale = Literal["htk", "slaney"]
PadMode = Literal["reflect", "constant", "none"]
Logarithm = Literal["log_add", "log_clamp", "db"]


@dataclass(frozen=True)
class LogMelSettings:
    """What a log-mel spectrogram is made of; lengths in samples.

    Attributes:
        sample_rate_hz: of the waveforms.
        n_fft: length of a Fourier transform, even.
        win_length: length of the periodic Hann window, at most ``n_fft``, in whose middle it lies.
        hop_length: from one frame to the next.
        n_mels: bins of a frame.
        f_min_hz, f_max_hz: lower edge of the lowest filter, upper edge of the highest.
        mel_scale: ``htk`` (2595 log10(1 + f/700)) or ``slaney`` (linear below 1 kHz).
        norm: ``slaney`` gives every filter the same area; None the same height.
        power: 2 for energies, 1 for magnitudes.
        pad_mode: frames are centred on multiples of the hop, and what lies outside a clip is its mirror image
            (``reflect``) or zeros (``constant``); or the first frame starts with the clip (``none``), and a clip
            shorter than ``n_fft`` is filled up with zeros.
        normalized: divides energies by that of the window, as torchaudio's option of this name.
        log: ``log_add`` is ln(x + eps), ``log_clamp`` is ln(max(x, eps)), ``db`` decibels of max(x, eps). There is
            no floor below the loudest frame (``top_db``): it would make a frame depend on the others.
        eps: see ``log``.
    """

    sample_rate_hz: int = 16_000
    n_fft: int = 400
    win_length: int = 400
    hop_length: int = 160
    n_mels: int = 80
    f_min_hz: float = 50.0
    f_max_hz: float = 8000.0
    mel_scale: MelScale = "slaney"
    norm: Literal["slaney"] | None = "slaney"
    power: Literal[1, 2] = 2
    pad_mode: PadMode = "reflect"
    normalized: bool = False
    log: Logarithm = "log_add"
    eps: float = FLOAT32_EPS

    def __post_init__(self) -> None:
        lengths = (self.sample_rate_hz, self.n_fft, self.win_length, self.hop_length, self.n_mels)
        if min(lengths) < 1 or self.win_length > self.n_fft:
            raise ValueError(
                "log-mel: expected sample_rate_hz, n_fft, win_length, hop_length and n_mels of at least 1 and "
                f"win_length <= n_fft, got {lengths}"
            )
        if self.n_fft % 2:
            raise ValueError(
                f"log-mel: n_fft must be even, so that filters end at half the sample rate, got {self.n_fft}"
            )
        check_range(self.f_min_hz, self.f_max_hz, self.sample_rate_hz)
        _check_choice("mel_scale", self.mel_scale, ("htk", "slaney"))
        _check_choice("norm", self.norm, (None, "slaney"))
        _check_choice("power", self.power, (1, 2))
        _check_choice("pad_mode", self.pad_mode, ("reflect", "constant", "none"))
        _check_choice("log", self.log, ("log_add", "log_clamp", "db"))
        if not self.eps > 0:
            raise ValueError(f"log-mel: eps must be above 0, or silence has no logarithm, got {self.eps}")

    @property
    def reach(self) -> int:
        """Samples added before and after a clip."""
        return 0 if self.pad_mode == "none" else self.n_fft // 2


def check_range(low_hz: float, high_hz: float, sample_rate_hz: int) -> None:
    """Raises ValueError unless 0 <= low < high <= half the sample rate."""
    if not 0 <= low_hz < high_hz <= sample_rate_hz / 2:
        raise ValueError(
            f"filter bank: expected 0 <= f_min_hz < f_max_hz <= {sample_rate_hz / 2:g} (half of {sample_rate_hz} Hz), "
            f"got {low_hz:g} and {high_hz:g}"
        )


def _check_choice(name: str, got: object, choices: tuple[object, ...]) -> None:
    if got not in choices:
        raise ValueError(f"log-mel: {name} must be one of {', '.join(map(str, choices))}, got {got}")


def _window(settings: LogMelSettings) -> Tensor:
    """The window ``[n_fft]``, its scale included."""
    window = torch.hann_window(settings.win_length)
    if settings.normalized:
        window = window / window.square().sum().sqrt()
    before = (settings.n_fft - settings.win_length) // 2
    return F.pad(window, (before, settings.n_fft - settings.win_length - before))


def _filters(settings: LogMelSettings) -> Tensor:
    """Mel filters ``[n_fft // 2 + 1, n_mels]``; torchaudio warns of filters that hold no frequency."""
    from torchaudio.functional import melscale_fbanks

    filters: Tensor = melscale_fbanks(
        settings.n_fft // 2 + 1,
        settings.f_min_hz,
        settings.f_max_hz,
        settings.n_mels,
        settings.sample_rate_hz,
        settings.norm,
        settings.mel_scale,
    )
    return filters


def _logarithm(energies: Tensor, settings: LogMelSettings) -> Tensor:
    if settings.log == "log_add":
        return (energies + settings.eps).log()
    clamped = energies.clamp(min=settings.eps)
    return clamped.log() if settings.log == "log_clamp" else clamped.log10() * (20 / settings.power)


class LogMel(FilterBank):
    """Log-mel spectrograms of waveforms ``[R, S]``: ``[R, T, n_mels]``.

    A centred clip of L samples has ``1 + L // hop_length`` frames.
    """

    window_N: Tensor
    filters_FM: Tensor

    def __init__(self, settings: LogMelSettings) -> None:
        super().__init__(
            settings.sample_rate_hz,
            settings.n_fft,
            settings.hop_length,
            settings.reach,
            settings.n_mels,
            float(_logarithm(torch.zeros(()), settings)),
        )
        self.settings = settings
        self.register_buffer("window_N", _window(settings), persistent=False)
        self.register_buffer("filters_FM", _filters(settings), persistent=False)

    def log_energies(self, inputs: Waveforms) -> Tensor:
        """See :class:`FilterBank`."""
        n_fft = self.settings.n_fft
        if self.settings.pad_mode == "reflect":
            padded = mirror_edges(inputs, self.reach)
        else:
            padded = F.pad(silent_after_end(inputs), (self.reach, self.reach))
        padded = F.pad(padded, (0, max(0, n_fft - padded.shape[1])))
        spectrum_RFT = torch.stft(padded, n_fft, self.hop, n_fft, self.window_N, center=False, return_complex=True)
        magnitude_RFT = power_of(spectrum_RFT) if self.settings.power == 2 else spectrum_RFT.abs()
        return _logarithm(magnitude_RFT.transpose(1, 2) @ self.filters_FM, self.settings)
