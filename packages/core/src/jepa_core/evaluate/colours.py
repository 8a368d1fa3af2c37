"""Tokens as colours: their first principal components as red, green and blue (DINOv2, arXiv 2304.07193)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

LOW, HIGH = 0.02, 0.98
"""Quantiles that become the darkest and the brightest value of a colour: single odd tokens then do not dim the rest."""

_FLAT = 1e-5  # a component whose spread is below this share of the features' size is noise of the arithmetic


@dataclass(frozen=True)
class Colours:
    """Tokens as colours.

    Attributes:
        rgb: ``[B, N, 3]``, 0 to 1.
        explained: share of the tokens' variance that the three components hold.
    """

    rgb: Tensor
    explained: float


def principal_colours(features_BND: Tensor) -> Colours:
    """The first three principal components of all tokens ``[B, N, D]`` as red, green and blue.

    Each component is scaled by its own quantiles. Its sign, which is arbitrary, is chosen so that its largest loading
    is positive.
    """
    rows = features_BND.detach().double().cpu().flatten(0, 1)
    centred = rows - rows.mean(0)
    values, axes = torch.linalg.eigh(centred.T @ centred)
    values, axes = values.flip(0).clamp_min(0), axes.flip(1)[:, :3]
    axes = axes * axes.gather(0, axes.abs().argmax(0, keepdim=True)).sign()
    projected = centred @ axes
    low, high = (projected.quantile(level, dim=0) for level in (LOW, HIGH))
    spread = high - low
    flat = spread <= _FLAT * rows.square().mean().sqrt()
    scaled = ((projected - low) / torch.where(flat, 1.0, spread)).clamp(0, 1)
    rgb = F.pad(torch.where(flat, 0.5, scaled), (0, 3 - axes.shape[1]), value=0.5)
    explained = float(values[:3].sum() / values.sum()) if values.sum() > 0 else 0.0
    return Colours(rgb.float().unflatten(0, features_BND.shape[:2]), explained)
