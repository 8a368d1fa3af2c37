"""Slots from pixels without labels: an autoencoder whose decoder draws every slot alone (arXiv 2006.15055, 2111.12594).

It is small enough to train on a CPU: 16 x 16 pixels, and a decoder that is an MLP on each pixel.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from jepa_causal.slots.attention import SlotAttention, Start, init_weights
from jepa_causal.slots.video import SlotVideo, Transition, transition


@dataclass(frozen=True)
class SlotSettings:
    """The autoencoder.

    Attributes:
        mode: ``image`` (each frame alone) or ``video`` (a frame starts from the slots before, SAVi).
        resolution: pixels along both sides of what it sees; frames of another size are averaged to it.
        slots: K, one more than the most objects: the background takes one.
        width: D of a slot.
        hidden: width inside the MLPs of slots.
        channels: of the convolutions.
        iterations: rounds of slot attention, in a video those of its first frame.
        later_iterations: of the further frames of a video.
        start: ``learned`` or ``gaussian``, see :class:`jepa_causal.slots.attention.SlotAttention`. Learned starts come
            to stand for regions of the picture, which suits frames alone; in a video an object then changes its slot.
        noise: of a learned start in training.
        predictor: from frame to frame in a video, ``attention`` or ``mlp``.
        heads: of that attention.
        frequencies: octaves of the decoder's positions.
        decoder: width inside the decoder.
    """

    mode: Literal["image", "video"] = "image"
    resolution: int = 16
    slots: int = 5
    width: int = 48
    hidden: int = 96
    channels: int = 32
    iterations: int = 3
    later_iterations: int = 2
    start: Start = "gaussian"
    noise: float = 0.1
    predictor: Transition = "mlp"
    heads: int = 4
    frequencies: int = 4
    decoder: int = 64

    def __post_init__(self) -> None:
        if self.mode not in ("image", "video"):
            raise ValueError(f"mode: expected image or video, got {self.mode!r}")
        for key in ("resolution", "slots", "width", "hidden", "channels", "iterations", "frequencies", "decoder"):
            if getattr(self, key) < 1:
                raise ValueError(f"{key}: expected 1 or more, got {getattr(self, key)}")


class SlotAutoencoder(nn.Module):
    """Frames to slots and back.

    Args:
        settings: see :class:`SlotSettings`.

    Attributes:
        mean: mean colour of the frames it is trained on, from 0 to 1, ``[3]``; the encoder sees what differs from it.
    """

    mean: Tensor

    def __init__(self, settings: SlotSettings) -> None:
        super().__init__()
        self.settings = settings
        self.register_buffer("mean", torch.full((3,), 0.5))
        self.features = PixelFeatures(settings)
        self.decoder = BroadcastDecoder(settings)
        self.apply(init_weights)
        attention = SlotAttention(
            settings.width,
            settings.slots,
            settings.width,
            settings.hidden,
            settings.iterations,
            settings.start,
            settings.noise,
        )
        self.reader: SlotAttention | SlotVideo = attention
        if settings.mode == "video":
            step = transition(settings.predictor, settings.width, settings.heads, settings.hidden)
            self.reader = SlotVideo(attention, step, settings.later_iterations)

    def encode(self, frames: Tensor, seeds: Tensor | None = None) -> Tensor:
        """Slots float32 ``[B, T, K, D]`` of uint8 frames ``[B, T, H, W, 3]``.

        Args:
            frames: any H and W.
            seeds: int64 ``[B]``, for the noise of the start; None as in :meth:`SlotAttention.initial`.

        Raises:
            ValueError: other frames.
        """
        return self.slots_of(self.images(frames), seeds)

    def images(self, frames: Tensor) -> Tensor:
        """What is to be drawn: float32 ``[B, T, 3, R, R]`` from 0 to 1, of frames as in :meth:`encode`."""
        if frames.dtype != torch.uint8 or frames.ndim != 5 or frames.shape[-1] != 3:
            raise ValueError(f"frames: expected uint8 [B, T, H, W, 3], got {frames.dtype} {list(frames.shape)}")
        images = frames.flatten(0, 1).permute(0, 3, 1, 2).float() / 255
        size = self.settings.resolution
        if images.shape[-2:] != (size, size):
            images = functional.interpolate(images, size=(size, size), mode="area")
        return images.unflatten(0, frames.shape[:2])

    def slots_of(self, images: Tensor, seeds: Tensor | None = None) -> Tensor:
        """As :meth:`encode`, of what :meth:`images` gives."""
        batch, steps = images.shape[:2]
        centred = 2 * (images.flatten(0, 1) - self.mean[:, None, None])
        inputs = self.features(centred).unflatten(0, (batch, steps))
        if isinstance(self.reader, SlotVideo):
            return self.reader(inputs, self.reader.corrector.initial(batch, seeds))[0]
        # Every frame of a clip starts alike, which is what keeps a slot near its object without a memory.
        start = self.reader.initial(batch, seeds).repeat_interleave(steps, 0)
        return self.reader(inputs.flatten(0, 1), start)[0].unflatten(0, (batch, steps))

    def decode(self, slots: Tensor) -> tuple[Tensor, Tensor]:
        """What slots ``[B, T, K, D]`` draw: rgb ``[B, T, 3, R, R]`` from 0 to 1, masks ``[B, T, K, R, R]``.

        Over the slots the masks of a pixel sum to 1.
        """
        rgb, masks = self.decoder(slots.flatten(0, 1))
        return rgb.unflatten(0, slots.shape[:2]), masks.unflatten(0, slots.shape[:2])

    def forward(self, frames: Tensor, seeds: Tensor | None = None) -> Tensor:
        """The loss: mean squared error of what is drawn, of colours from -1 to 1; arguments of :meth:`encode`."""
        images = self.images(frames)
        return 4 * functional.mse_loss(self.decode(self.slots_of(images, seeds))[0], images)


class PixelFeatures(nn.Module):
    """Three convolutions of stride 1, a layer norm, and an MLP that is also told the position."""

    codes: Tensor

    def __init__(self, settings: SlotSettings) -> None:
        super().__init__()
        channels, width = settings.channels, settings.width
        self.convolutions = nn.Sequential(
            nn.Conv2d(3, channels, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
        )
        self.norm = nn.LayerNorm(channels)
        self.register_buffer("codes", position_codes(settings), persistent=False)
        self.mix = nn.Sequential(
            nn.Linear(channels + self.codes.shape[1], 2 * width), nn.ReLU(), nn.Linear(2 * width, width)
        )

    def forward(self, images: Tensor) -> Tensor:
        """``[B, 3, R, R]`` to ``[B, R * R, width]``."""
        pixels = self.norm(self.convolutions(images).flatten(2).transpose(1, 2))
        # Beside the colours and not added to them: a sum is read as position alone for hundreds of steps.
        return self.mix(torch.cat([pixels, self.codes.expand(len(pixels), -1, -1)], -1))


class BroadcastDecoder(nn.Module):
    """Draws each slot at each pixel by one MLP on slot and position (spatial broadcast, arXiv 1901.07017)."""

    codes: Tensor

    def __init__(self, settings: SlotSettings) -> None:
        super().__init__()
        self.size = settings.resolution
        # The first layer of the sum of slot and position, taken apart: K + P rows instead of K times P.
        codes = 2 + 4 * settings.frequencies
        self.slot = nn.Linear(settings.width, settings.decoder)
        self.position = nn.Linear(codes, settings.decoder, bias=False)
        self.slot_factor = nn.Linear(settings.width, settings.decoder)
        self.position_factor = nn.Linear(codes, settings.decoder, bias=False)
        self.layers = nn.Sequential(
            nn.ReLU(),
            nn.Linear(settings.decoder, settings.decoder),
            nn.ReLU(),
            nn.Linear(settings.decoder, 4),
        )
        self.register_buffer("codes", position_codes(settings), persistent=False)

    def forward(self, slots: Tensor) -> tuple[Tensor, Tensor]:
        """Slots ``[B, K, D]`` to the picture ``[B, 3, R, R]`` and masks ``[B, K, R, R]``."""
        summed = self.slot(slots)[:, :, None] + self.position(self.codes)
        drawn = self.layers(
            torch.addcmul(summed, self.slot_factor(slots)[:, :, None], self.position_factor(self.codes))
        )
        masks = drawn[..., 3].softmax(1)
        # Bounded colours: a slot that could draw a brighter one than there is would make do with a fainter mask.
        picture = (bounded(drawn[..., :3]) * masks[..., None]).sum(1).transpose(1, 2)
        square = (self.size, self.size)
        return picture.unflatten(-1, square), masks.unflatten(-1, square)


def bounded(colours: Tensor) -> Tensor:
    """Nearly ``colours.clamp(0, 1)``, with a small slope outside so that no colour gets stuck there."""
    inside = colours.clamp(0, 1)
    return inside + 0.05 * (colours - inside)


def position_codes(settings: SlotSettings) -> Tensor:
    """What is told of the place of each pixel, float32 ``[R * R, 2 + 4 * frequencies]``."""
    places = pixel_places(settings.resolution)
    return torch.cat([places, fourier(places, settings.frequencies)], -1)


def pixel_places(size: int) -> Tensor:
    """Centres of ``size`` x ``size`` pixels, row by row, float32 ``[size * size, 2]``: y, x from -1 to 1."""
    along = (torch.arange(size) + 0.5) * (2 / size) - 1
    return torch.cartesian_prod(along, along)


def fourier(places: Tensor, frequencies: int) -> Tensor:
    """Sines and cosines ``[..., 4 * frequencies]`` of places ``[..., 2]``, in octaves from half a turn."""
    octaves = math.pi * 2.0 ** (torch.arange(frequencies, device=places.device) - 1)
    angles = (places[..., None] * octaves).flatten(-2)
    return torch.cat([angles.sin(), angles.cos()], -1)
