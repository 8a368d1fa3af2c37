"""Frames of clips of unequal lengths: edges made from each clip's own end, silence where a clip has no frame.

A clip therefore has the same frames alone and padded in a batch. Letters in shapes: R rows, S samples, T frames.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from jepa_audio.waveforms import Spectrogram, Waveforms

# Three to four clips of 5 s at 16 kHz: what it gains is in benchmarks/audio/FRONTEND.md.
_SAMPLES_AT_ONCE = 1 << 18


def clip_lengths(inputs: Waveforms) -> Tensor:
    """Samples of each clip, int64 ``[R]``, at least one: a clip of no sample counts as one sample of silence."""
    rows, samples = inputs.samples.shape
    if inputs.lengths is None:
        return torch.full((rows,), samples, device=inputs.samples.device)
    return inputs.lengths.clamp(1, samples)


def within_clip(inputs: Waveforms) -> Tensor:
    """Bool ``[R, S]``: samples that belong to the clip."""
    return torch.arange(inputs.samples.shape[1], device=inputs.samples.device) < clip_lengths(inputs)[:, None]


def silent_after_end(inputs: Waveforms) -> Tensor:
    """Samples ``[R, S]``, zeros after the end of a clip whatever lay there."""
    if inputs.lengths is None:
        return inputs.samples
    return torch.where(within_clip(inputs), inputs.samples, 0.0)


def mirrored(place: Tensor, length: Tensor) -> Tensor:
    """Where a sample outside ``0 .. length - 1`` is mirrored to, the end samples not repeated.

    A place further out than the clip is long is mirrored to and fro, as in ``numpy.pad``; a clip of one sample repeats
    it.
    """
    period = (2 * (length - 1)).clamp(min=1)
    place = place.remainder(period)
    return torch.minimum(place, (period - place).abs()).where(length > 1, 0)


def mirror_edges(inputs: Waveforms, reach: int) -> Tensor:
    """``[R, S + 2 * reach]``: ``reach`` samples before each clip and after its own end mirror it."""
    samples = inputs.samples
    if inputs.lengths is None and samples.shape[1] > reach:
        return F.pad(samples, (reach, reach), mode="reflect")
    length = clip_lengths(inputs)[:, None]
    step = torch.arange(reach, device=samples.device).expand(len(samples), -1)
    outside = torch.cat([step - reach, length + step], 1)
    edges = samples.gather(1, mirrored(outside, length))
    return F.pad(samples, (reach, reach)).scatter(1, outside + reach, edges)


def _blocks(inputs: Waveforms) -> list[Waveforms]:
    """Rows that a processor's cache holds the frames of, all rows at once elsewhere."""
    samples, lengths = inputs.samples, inputs.lengths
    if samples.device.type != "cpu":
        return [inputs]
    rows = max(1, _SAMPLES_AT_ONCE // samples.shape[1])
    clips = samples.split(rows)
    ends = [None] * len(clips) if lengths is None else lengths.split(rows)
    return [Waveforms(clip, end) for clip, end in zip(clips, ends, strict=True)]


class FilterBank(nn.Module, ABC):
    """What log-mel and Kaldi filter banks share: the count of frames, float32, silence after the end of a clip.

    Attributes:
        sample_rate_hz: of the waveforms it is made for. It cannot be seen in them: the loader resamples.
        window: samples of a frame.
        hop: samples from one frame to the next.
        reach: samples that are added before and after a clip.
        bins: of a frame.
        silence: value of every bin for digital silence.
    """

    def __init__(self, sample_rate_hz: int, window: int, hop: int, reach: int, bins: int, silence: float) -> None:
        super().__init__()
        self.sample_rate_hz = sample_rate_hz
        self.window = window
        self.hop = hop
        self.reach = reach
        self.bins = bins
        self.silence = silence

    @property
    def first_centre(self) -> float:
        """Middle of the first frame, in samples from the start of a clip."""
        return self.window / 2 - self.reach

    def frames_of(self, samples: int) -> int:
        """Frames of a clip of so many samples; one at least, since a short clip is filled up with zeros."""
        return max(1, 1 + (samples + 2 * self.reach - self.window) // self.hop)

    @abstractmethod
    def log_energies(self, inputs: Waveforms) -> Tensor:
        """``[R, T, bins]`` of clips; frames past the end of a clip may hold anything."""

    def forward(self, inputs: Waveforms) -> Spectrogram:
        """Log energies of clips, float32 ``[R, T, bins]``, with the count of frames of each.

        Raises:
            ValueError: the samples are no ``[R, S]`` with S >= 1.
        """
        samples = inputs.samples
        if samples.ndim != 2 or not samples.shape[1] or not samples.is_floating_point():
            raise ValueError(
                f"waveforms: expected floating-point [rows, samples] with at least one sample, got {samples.dtype} "
                f"{list(samples.shape)}; mix channels down and put clips in rows"
            )
        # Energies span more than bf16 can tell apart, so autocast stays out.
        with torch.autocast(samples.device.type, enabled=False):
            values = torch.cat(
                [self.log_energies(rows) for rows in _blocks(Waveforms(samples.float(), inputs.lengths))]
            )
        if inputs.lengths is None:
            return Spectrogram(values)
        reached = clip_lengths(inputs) + 2 * self.reach - self.window
        lengths = (1 + reached.div(self.hop, rounding_mode="floor")).clamp(min=1)
        own = torch.arange(values.shape[1], device=values.device) < lengths[:, None]
        return Spectrogram(torch.where(own[..., None], values, self.silence), lengths)

    def __call__(self, inputs: Waveforms) -> Spectrogram:
        """See :meth:`forward`."""
        return cast(Spectrogram, super().__call__(inputs))


def power_of(spectrum: Tensor) -> Tensor:
    """Squared magnitude of a complex spectrum; its gradient is finite at silence."""
    return spectrum.real.square() + spectrum.imag.square()
