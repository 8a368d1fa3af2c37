"""Training views of a spectrogram: a random rectangle of it, stretched over the whole."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from jepa_core.seeds import uniform

_STREAM = 421


@dataclass(frozen=True)
class TimeFrequencyCrop:
    """A random rectangle of each spectrogram in its place, as a random resized crop of a picture.

    It changes tempo and pitch and loses what lies outside: for sounds of which any part tells what they are. Of a
    spoken word every part is needed.

    Attributes:
        scale_min, scale_max: share of the spectrogram's area that the rectangle has.
        aspect_min, aspect_max: share of the time over the share of the bins.
    """

    scale_min: float
    scale_max: float
    aspect_min: float = 3 / 4
    aspect_max: float = 4 / 3

    def __call__(self, values: Tensor, lengths: Tensor, seeds: Tensor, silence: float) -> Tensor:
        """``[R, T, bins]`` to the same shape.

        Args:
            values: spectrograms.
            lengths: int64 ``[R]``, frames of each; the rectangle lies within them, and stretches over them.
            seeds: int64 ``[R]``.
            silence: what stands after the end of a clip.
        """
        _, frames, bins = values.shape
        draw_R4 = uniform(seeds, 4, _STREAM).to(values.device)
        area = self.scale_min + (self.scale_max - self.scale_min) * draw_R4[:, 0]
        low, high = math.log(self.aspect_min), math.log(self.aspect_max)
        aspect = (low + (high - low) * draw_R4[:, 1]).exp()
        share_t = (area * aspect).sqrt().clamp(max=1)
        # What one side cannot give the other does, so that the area is what was drawn.
        share_f = (area / share_t).clamp(max=1)
        x = _stretched(share_f, draw_R4[:, 3], torch.full_like(area, bins), bins) / bins * 2 - 1
        y = _stretched(share_t, draw_R4[:, 2], lengths.to(area), frames) / frames * 2 - 1
        grid = torch.stack([x[:, None, :].expand(-1, frames, -1), y[:, :, None].expand(-1, -1, bins)], dim=-1)
        cut = F.grid_sample(values[:, None], grid, mode="bilinear", padding_mode="border", align_corners=False)[:, 0]
        own = torch.arange(frames, device=values.device) < lengths[:, None]
        return torch.where(own[:, :, None], cut, silence)


def _stretched(share: Tensor, start: Tensor, length: Tensor, count: int) -> Tensor:
    """Where to look for each of ``count`` places, ``[R, count]``, in places; 0.5 is the centre of the first."""
    place = torch.arange(count, device=share.device) + 0.5
    return (1 - share)[:, None] * start[:, None] * length[:, None] + place * share[:, None]
