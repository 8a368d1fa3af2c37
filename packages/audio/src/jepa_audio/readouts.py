"""How the tokens of a clip become one vector, or one vector a time step; sites without sound are left out.

A mean over all sites averages frequencies away, which timbre and pitch are made of; M2D (arXiv 2404.06095) and HEAR's
time stamps keep them apart. Letters: B batch, N sites, T time steps, F frequencies, D width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from jepa_core.contracts import Readout, Tokens


@dataclass(frozen=True)
class Timestamps:
    """A vector for each time step.

    Attributes:
        features: float32 ``[B, T, F * D]``, frequencies in order; zeros where there is no site.
        valid: bool ``[B, T]``: steps with sound at some frequency.
        seconds: float32 ``[T]``, centres of the steps.
    """

    features: Tensor
    valid: Tensor
    seconds: Tensor


def mean(tokens: Tokens) -> Tensor:
    """Mean over all sites, float32 ``[B, D]``."""
    x_BND, there_BN = _on_lattice(tokens)
    return _mean(x_BND, there_BN)


def frequency(tokens: Tokens) -> Tensor:
    """Mean over time of each frequency, float32 ``[B, F * D]``; zeros for a frequency without sites."""
    return _mean(*_rows(tokens)).flatten(1)


def frequency_std(tokens: Tokens) -> Tensor:
    """:func:`frequency` and the standard deviation over time of each frequency, float32 ``[B, 2 * F * D]``."""
    x_BFTD, there_BFT = _rows(tokens)
    mean_BFD = _mean(x_BFTD, there_BFT)
    spread_BFD = _mean((x_BFTD - mean_BFD[:, :, None]).square(), there_BFT).sqrt()
    return torch.cat([mean_BFD.flatten(1), spread_BFD.flatten(1)], dim=1)


def layers(tokens: Tokens) -> Tensor:
    """Mean over all sites of each further depth in ``tokens.layers``, in their order, float32 ``[B, sum of widths]``.

    What ATST (arXiv 2204.12076) reads out with all blocks of its encoder.

    Raises:
        ValueError: the tokens have no further depths.
    """
    if not tokens.layers:
        raise ValueError("layers: expected tokens with further depths, got none; ask the encoder for its blocks")
    return torch.cat([mean(tokens.with_features(features)) for features in tokens.layers.values()], dim=1)


def timestamps(tokens: Tokens) -> Timestamps:
    """The tokens of each time step, its frequencies one after the other."""
    x_BFTD, there_BFT = _rows(tokens)
    lattice = tokens.lattice
    steps = torch.arange(lattice.sizes[0], device=x_BFTD.device, dtype=torch.float32)
    seconds = steps * lattice.spacing[0] + lattice.origin[0]
    kept_BFTD = torch.where(there_BFT[..., None], x_BFTD, 0.0)
    return Timestamps(kept_BFTD.transpose(1, 2).flatten(2), there_BFT.any(1), seconds)


READOUTS: Mapping[str, Readout] = {
    "mean": mean,
    "frequency": frequency,
    "frequency_std": frequency_std,
    "layers": layers,
}
"""Those that give one vector a clip, by name."""

BY_BAND = frozenset({"frequency", "frequency_std"})
"""Those that keep frequencies apart: of a lattice of time alone, ``frequency`` is the mean."""


def _on_lattice(tokens: Tokens) -> tuple[Tensor, Tensor]:
    """Features of every site, float32 ``[B, N, D]``, and which sites the tokens hold, bool ``[B, N]``."""
    return tokens.dense().float(), tokens.sites.on_lattice(tokens.lattice.count)


def _rows(tokens: Tokens) -> tuple[Tensor, Tensor]:
    """:func:`_on_lattice` by frequency, ``[B, F, T, D]`` and ``[B, F, T]``; a lattice of time alone has one."""
    axes, sizes = tokens.lattice.axes, tokens.lattice.sizes
    if axes not in (("t", "f"), ("t",)):
        raise ValueError(f"readout: expected a lattice of (t, f) or of t alone, got {axes}; use the mean")
    x_BND, there_BN = _on_lattice(tokens)
    x_BTFD = x_BND.view(len(x_BND), sizes[0], -1, x_BND.shape[2])
    return x_BTFD.transpose(1, 2), there_BN.view(len(there_BN), sizes[0], -1).transpose(1, 2)


def _mean(x: Tensor, there: Tensor) -> Tensor:
    """Mean over the last dimension of ``there`` of ``x [..., M, D]``, absent entries left out; zeros without any."""
    weight = there.unsqueeze(-1)
    return torch.where(weight, x, 0.0).sum(-2) / weight.sum(-2).clamp(min=1)
