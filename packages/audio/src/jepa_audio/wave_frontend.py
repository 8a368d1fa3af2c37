"""The convolutional front end of WavJEPA (arXiv 2509.23238): a waveform to embedded frames of 10 ms."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from jepa_audio.framing import clip_lengths
from jepa_audio.frontend import wave_normalise
from jepa_audio.waveforms import Patches, Waveforms
from jepa_core.contracts import Grid
from jepa_core.lattice import Lattice
from jepa_core.nn.transformer import init_linear


class Layer(NamedTuple):
    """A convolution over time."""

    kernel: int
    stride: int


WAVJEPA = (Layer(10, 5), *(Layer(3, 2),) * 4, Layer(2, 2))
"""A frame each 160 samples, from 240 samples: at 16 kHz 100 frames a second of 15 ms."""


class ClipNorm(nn.Module):
    """Each channel to mean 0 and variance 1 over a clip's own frames, with a trained factor and offset.

    On clips of equal length it is ``nn.GroupNorm(channels, channels)``.
    """

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.eps = eps

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        """``[R, C, T]`` with ``lengths`` int64 ``[R]`` to the same shape."""
        own = (torch.arange(x.shape[2], device=x.device) < lengths[:, None])[:, None].to(x.dtype)
        count = lengths.clamp(min=1).to(x.dtype)[:, None, None]
        centred = (x - (x * own).sum(2, keepdim=True) / count) * own
        variance = centred.square().sum(2, keepdim=True) / count
        return centred * torch.rsqrt(variance + self.eps) * self.weight[:, None] + self.bias[:, None]


class WaveformFrontEnd(nn.Module):
    """Normalised waveforms through convolutions to frames; trained, and shared by online and target encoder.

    Convolutions without padding, GELU after each, a norm over the clip after the first; then a layer norm and a linear
    layer to the encoder's width. Neighbouring frames share a few samples, and the norm sees the whole clip: what is
    hidden is hidden from the encoder, not from the convolutions, as in the released code.

    Args:
        sample_rate_hz: of the waveforms.
        width: D of the encoder.
        channels: of each convolution.
        layers: kernels and strides.
    """

    def __init__(self, sample_rate_hz: int, width: int, channels: int = 512, layers: Sequence[Layer] = WAVJEPA) -> None:
        super().__init__()
        self.sample_rate_hz, self.layers = sample_rate_hz, tuple(layers)
        inputs = [1, *[channels] * (len(layers) - 1)]
        self.convolutions = nn.ModuleList(
            nn.Conv1d(width_in, channels, layer.kernel, layer.stride, bias=False)
            for width_in, layer in zip(inputs, layers, strict=True)
        )
        for convolution in self.convolutions:
            assert isinstance(convolution, nn.Conv1d)
            nn.init.kaiming_normal_(convolution.weight)
        self.clip_norm = ClipNorm(channels)
        self.norm = nn.LayerNorm(channels)
        self.embed = nn.Linear(channels, width)
        init_linear(self.embed)

    @property
    def channels(self) -> int:
        """Width of a frame."""
        return self.embed.out_features

    @property
    def hop(self) -> int:
        """Samples from frame to frame."""
        return math.prod(layer.stride for layer in self.layers)

    @property
    def reach(self) -> int:
        """Samples that a frame sees; a shorter clip is filled up with zeros to so many."""
        reach = 1
        for layer in reversed(self.layers):
            reach = (reach - 1) * layer.stride + layer.kernel
        return reach

    def lattice_for(self, samples: int) -> Lattice:
        """The lattice of a batch whose longest clip has so many samples."""
        frames = (max(samples, self.reach) - self.reach) // self.hop + 1
        rate = self.sample_rate_hz
        return Lattice(("t",), (frames,), (self.hop / rate,), ("s",), ((self.reach - 1) / 2 / rate,))

    def forward(self, inputs: Waveforms, seeds: Tensor) -> tuple[Patches, Grid]:
        """Embedded frames ``[R, T, D]`` and their grid; ``seeds`` are not used."""
        normed = wave_normalise(inputs)
        x = normed.samples.to(self.embed.weight.dtype)[:, None]
        x = F.pad(x, (0, max(0, self.reach - x.shape[2])))
        lengths = clip_lengths(inputs).clamp(min=self.reach)
        for number, (convolution, layer) in enumerate(zip(self.convolutions, self.layers, strict=True)):
            x, lengths = convolution(x), (lengths - layer.kernel) // layer.stride + 1
            x = F.gelu(self.clip_norm(x.float(), lengths) if number == 0 else x)
        features = self.embed(self.norm(x.transpose(1, 2)))
        lattice = self.lattice_for(inputs.samples.shape[1])
        present = None
        if inputs.lengths is not None:
            present = torch.arange(lattice.count, device=x.device) < lengths[:, None]
        return Patches(features, lattice, present), Grid(lattice, present)
