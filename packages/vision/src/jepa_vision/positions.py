"""The position codes of I-JEPA (arXiv 2301.08243), V-JEPA (2404.08471) and V-JEPA 2 (2506.09985), by name."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from jepa_core.lattice import Lattice
from jepa_core.nn.position import Pairing, sin_cos_table

Positions = Literal["sin_cos_xy", "sin_cos_yx", "sin_cos_half_time", "rotary_interleaved", "rotary_tiled", "stored"]


def channel_order(positions: str, lattice: Lattice) -> tuple[str, ...]:
    """Axis names in the order of their channels: I-JEPA's tables begin with the column, V-JEPA's with time or row."""
    if positions == "sin_cos_xy":
        return (*lattice.axes[:-2], *lattice.axes[-2:][::-1])
    return lattice.axes


def channel_split(positions: str, lattice: Lattice, width: int) -> tuple[int, ...] | None:
    """Channels of each axis, None for equal shares (V-JEPA's ``uniform_power``, which all its releases have)."""
    if positions != "sin_cos_half_time":
        return None
    if len(lattice.axes) != 3 or width % 8:
        raise ValueError(
            f"positions: sin_cos_half_time expects three axes and a width that is a multiple of 8, got {lattice.axes} "
            f"and {width}"
        )
    return width // 2, width // 4, width // 4


def position_table(positions: str, lattice: Lattice, width: int) -> Tensor:
    """Codes of all sites, float32 ``[N, width]``; of no rows for rotary ones, zeros for stored ones."""
    if positions.startswith("rotary"):
        return torch.empty(0, width)
    if positions == "stored":
        return torch.zeros(lattice.count, width)
    return sin_cos_table(lattice, width, channel_order(positions, lattice), channel_split(positions, lattice, width))


def predictor_positions(positions: Positions, axes: int) -> Positions:
    """The code of the predictor of such an encoder: a stored table comes with weights, a predictor's never does."""
    if positions != "stored":
        return positions
    return "sin_cos_xy" if axes == 2 else "sin_cos_yx"


def pairing_of(positions: str) -> Pairing:
    """See :func:`jepa_core.nn.position.rotary`."""
    return "tiled" if positions == "rotary_tiled" else "interleaved"


def resize_table(table: Tensor, old: Lattice, new: Lattice) -> Tensor:
    """A stored table ``[N, D]`` on another lattice: bicubic over an image, trilinear over a clip, as released."""
    maps = table.T.reshape(1, -1, *old.sizes)
    mode = "bicubic" if len(old.sizes) == 2 else "trilinear"
    return F.interpolate(maps.float(), size=new.sizes, mode=mode, align_corners=False)[0].flatten(1).T.to(table.dtype)
