"""Kaldi filter banks, batched and on the device: the input of Audio-MAE, BEATs, EAT and Audio-JEPA.

Equal to ``torchaudio.compliance.kaldi.fbank`` without dither, which takes one clip at a time. No log-mel spectrogram
can stand in for it: the mean of each frame is taken off, frames are pre-emphasised, the window is Kaldi's own, and
triangles are straight in mel, not in hertz.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from jepa_audio.framing import FilterBank, clip_lengths, power_of, silent_after_end
from jepa_audio.log_mel import FLOAT32_EPS, check_range
from jepa_audio.waveforms import Waveforms

KaldiWindow = Literal["povey", "hanning", "hamming", "blackman", "rectangular"]
Level = Literal["kept", "peak"]
_PEAK_EPS = 1e-6


@dataclass(frozen=True)
class KaldiSettings:
    """What a Kaldi filter bank is made of; lengths in samples, so that a shift of 39.0625 ms is not rounded.

    Attributes:
        sample_rate_hz: of the waveforms.
        window_length: of a frame; it is filled up with zeros to the next power of two.
        hop_length: from one frame to the next.
        n_mels: bins of a frame.
        low_hz, high_hz: lower edge of the lowest filter, upper edge of the highest.
        window: ``povey`` is ``hanning`` to the power of 0.85; all are symmetric.
        pre_emphasis: share of the sample before that is taken off each sample.
        scale: factor on the waveform: 2^15 for models that were trained on 16-bit integers (BEATs).
        level: ``peak`` divides each clip by its largest magnitude + 1e-6 (Audio-JEPA; a silent clip stays silent).
    """

    sample_rate_hz: int = 16_000
    window_length: int = 400
    hop_length: int = 160
    n_mels: int = 128
    low_hz: float = 20.0
    high_hz: float = 8000.0
    window: KaldiWindow = "povey"
    pre_emphasis: float = 0.97
    scale: float = 1.0
    level: Level = "kept"

    def __post_init__(self) -> None:
        lengths = (self.sample_rate_hz, self.hop_length, self.n_mels)
        if min(lengths) < 1 or self.window_length < 2:
            raise ValueError(
                "kaldi: expected sample_rate_hz, hop_length and n_mels of at least 1 and window_length of at least 2, "
                f"got {lengths} and {self.window_length}"
            )
        check_range(self.low_hz, self.high_hz, self.sample_rate_hz)
        if self.window not in _WINDOWS:
            raise ValueError(f"kaldi: window must be one of {', '.join(_WINDOWS)}, got {self.window}")
        if not 0 <= self.pre_emphasis <= 1:
            raise ValueError(f"kaldi: pre_emphasis must lie in 0..1, got {self.pre_emphasis}")
        if not self.scale > 0:
            raise ValueError(f"kaldi: scale must be above 0, got {self.scale}")
        if self.level not in ("kept", "peak"):
            raise ValueError(f"kaldi: level must be one of kept, peak, got {self.level}")

    @property
    def n_fft(self) -> int:
        """The window's length, or the next power of two."""
        return 1 << (self.window_length - 1).bit_length()


def _povey(length: int) -> Tensor:
    return torch.hann_window(length, periodic=False).pow(0.85)


def _hanning(length: int) -> Tensor:
    return torch.hann_window(length, periodic=False)


def _hamming(length: int) -> Tensor:
    return torch.hamming_window(length, periodic=False, alpha=0.54, beta=0.46)


def _blackman(length: int) -> Tensor:
    return torch.blackman_window(length, periodic=False)


def _rectangular(length: int) -> Tensor:
    return torch.ones(length)


_WINDOWS: Mapping[str, Callable[[int], Tensor]] = {
    "povey": _povey,
    "hanning": _hanning,
    "hamming": _hamming,
    "blackman": _blackman,
    "rectangular": _rectangular,
}


def _filters(settings: KaldiSettings) -> Tensor:
    """Filters ``[n_fft // 2 + 1, n_mels]``; the frequency at half the sample rate has no part in any."""
    from torchaudio.compliance.kaldi import get_mel_banks

    # The last three are Kaldi's speaker warping, off at a factor of 1.
    banks_MF: Tensor
    banks_MF, _ = get_mel_banks(
        settings.n_mels, settings.n_fft, settings.sample_rate_hz, settings.low_hz, settings.high_hz, 100.0, -500.0, 1.0
    )
    return F.pad(banks_MF, (0, 1)).T.contiguous()


def peak_normalise(inputs: Waveforms) -> Waveforms:
    """Each clip divided by its largest magnitude + 1e-6 (Audio-JEPA, arXiv 2507.02915); zeros after its end."""
    samples = silent_after_end(inputs)
    return Waveforms(samples / (samples.abs().amax(1, keepdim=True) + _PEAK_EPS), inputs.lengths)


class KaldiFbank(FilterBank):
    """Kaldi filter banks of waveforms ``[R, S]``: natural logarithms ``[R, T, n_mels]``, not below ln(1.19e-7).

    Only whole windows are frames (Kaldi's ``snip_edges``): a clip of L samples has
    ``1 + (L - window_length) // hop_length``; one that is shorter than a window is filled up with zeros to one window,
    where Kaldi gives no frame at all.
    """

    window_N: Tensor
    filters_FM: Tensor

    def __init__(self, settings: KaldiSettings) -> None:
        super().__init__(
            settings.sample_rate_hz,
            settings.window_length,
            settings.hop_length,
            0,
            settings.n_mels,
            float(torch.tensor(FLOAT32_EPS).log()),
        )
        self.settings = settings
        window = _WINDOWS[settings.window](settings.window_length)
        self.register_buffer("window_N", F.pad(window, (0, settings.n_fft - len(window))), persistent=False)
        self.register_buffer("filters_FM", _filters(settings), persistent=False)

    def log_energies(self, inputs: Waveforms) -> Tensor:
        """See :class:`FilterBank`."""
        inputs = peak_normalise(inputs) if self.settings.level == "peak" else inputs
        samples = silent_after_end(inputs) * self.settings.scale
        samples = F.pad(samples, (0, max(0, self.window - samples.shape[1])))
        # Frames lose their mean below; without most of it they keep the digits of a faint sound on a large offset.
        offset_R1 = samples.detach().sum(1, keepdim=True) / clip_lengths(inputs)[:, None]
        power_RTF = power_of(torch.fft.rfft(self._frames(samples - offset_R1)))
        return (power_RTF @ self.filters_FM).clamp(min=FLOAT32_EPS).log()

    def _frames(self, samples: Tensor) -> Tensor:
        """Frames ``[R, T, n_fft]`` without their mean, pre-emphasised, windowed, zeros after the window.

        Pre-emphasis of the whole clip is that of each frame but for the frame's first sample, and leaves
        ``1 - pre_emphasis`` of its mean: one pass over samples instead of over frames, of which 2.5 overlap.
        """
        share, n_fft = self.settings.pre_emphasis, self.settings.n_fft
        raw_RTN = samples.unfold(1, self.window, self.hop)
        mean_RT1 = raw_RTN.mean(-1, keepdim=True)
        emphasised = F.pad(samples[:, 1:] - share * samples[:, :-1], (1, n_fft - self.window))
        frames_RTN = emphasised.unfold(1, n_fft, self.hop) * self.window_N
        frames_RTN.addcmul_(mean_RT1, self.window_N, value=share - 1)
        frames_RTN[..., :1] = (raw_RTN[..., :1] - mean_RT1) * ((1 - share) * self.window_N[:1])
        return frames_RTN
