"""Positions of sites: fixed sine-cosine codes (arXiv 1706.03762, section 3.5) and rotary ones (arXiv 2104.09864),
separable over the axes of a lattice.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from jepa_core.lattice import Lattice

Pairing = Literal["interleaved", "tiled"]
_BASE = 10000.0


def _angles(coordinate: Tensor, channels: int) -> Tensor:
    """Coordinate ``[...]`` times ``10000^(-i / (channels / 2))``, ``[..., channels / 2]``, dtype kept."""
    half = channels // 2
    power = torch.arange(half, dtype=coordinate.dtype, device=coordinate.device) / half
    return coordinate[..., None] * _BASE**-power


@dataclass(frozen=True)
class SinCos:
    """How channels are shared out between axes.

    Attributes:
        width: D of the code.
        axes: axis numbers in the order in which their channels follow each other.
        channels: channels of each entry of ``axes``, even; all together are cut to ``width``.
    """

    width: int
    axes: tuple[int, ...]
    channels: tuple[int, ...]

    def __call__(self, coordinates: Tensor) -> Tensor:
        """Codes ``[..., width]`` of floating coordinates ``[..., axes]``: for each axis all sines, then all cosines."""
        parts = []
        for axis, channels in zip(self.axes, self.channels, strict=True):
            angle = _angles(coordinates[..., axis], channels)
            parts += [angle.sin(), angle.cos()]
        return torch.cat(parts, dim=-1)[..., : self.width]

    def along(self, axis: int, coordinate: Tensor) -> Tensor:
        """Codes ``[..., width]`` of coordinates ``[...]`` along one axis; the channels of the others are 0."""
        place = self.axes.index(axis)
        angle = _angles(coordinate, self.channels[place])
        before, after = sum(self.channels[:place]), sum(self.channels[place + 1 :])
        return functional.pad(torch.cat([angle.sin(), angle.cos()], dim=-1), (before, after))[..., : self.width]


def sin_cos(
    lattice: Lattice, width: int, order: Sequence[str] | None = None, channels: Sequence[int] | None = None
) -> SinCos:
    """The code of a lattice.

    Args:
        lattice: its axes.
        width: D of the code.
        order: axis names in channel order; None = as in the lattice. On a (y, x) lattice I-JEPA's tables are
            ``("x", "y")`` and V-JEPA's image tables are ``("y", "x")``.
        channels: channels of each axis, in the order of ``order``; None = ``2 ceil(D / 2n)`` for each of n axes, cut to
            D, which is D / 2 each in two dimensions and V-JEPA's ``uniform_power`` in three. Its other split in three
            dimensions is ``(D / 2, D / 4, D / 4)``.
    """
    names = tuple(lattice.axes if order is None else order)
    if sorted(names) != sorted(lattice.axes):
        raise ValueError(f"order: expected each of the axes {lattice.axes} once, got {names}")
    if channels is None:
        channels = [2 * math.ceil(width / (2 * len(names)))] * len(names)
    if len(channels) != len(names) or any(c < 2 or c % 2 for c in channels) or sum(channels) < width:
        raise ValueError(
            f"channels: expected an even number for each of {names}, at least {width} together, got {tuple(channels)}"
        )
    return SinCos(width, tuple(lattice.axes.index(name) for name in names), tuple(channels))


def sin_cos_table(
    lattice: Lattice, width: int, order: Sequence[str] | None = None, channels: Sequence[int] | None = None
) -> Tensor:
    """Codes of all sites, float32 ``[lattice.count, width]``, from site indices; arguments of :func:`sin_cos`."""
    coordinates = lattice.coordinates(torch.arange(lattice.count)).double()
    return sin_cos(lattice, width, order, channels)(coordinates).float()


@dataclass(frozen=True)
class Rotation:
    """Rotary positions of some tokens, to be applied to queries and keys.

    Attributes:
        cos, sin: float32 or float64, ``[B, N, head_width]``.
    """

    cos: Tensor
    sin: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        """Heads ``[B, H, N, head_width]``, each channel pair (2i, 2i + 1) turned; dtype kept."""
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        even, odd = wide[..., 0::2], wide[..., 1::2]
        turned = torch.stack([-odd, even], dim=-1).flatten(-2)
        return (wide * self.cos[:, None] + turned * self.sin[:, None]).to(x.dtype)

    def of(self, tokens: slice) -> Rotation:
        """That of some of the tokens."""
        return Rotation(self.cos[:, tokens], self.sin[:, tokens])


def rotary(coordinates: Tensor, head_width: int, pairing: Pairing = "interleaved") -> Rotation:
    """Rotary positions over several axes, as V-JEPA 2 has them (arXiv 2506.09985, section 2.1).

    Each axis turns ``2 floor(floor(head_width / axes) / 2)`` channels, one segment after the other; the rest stay.

    Args:
        coordinates: ``[B, N, axes]``, float32 or float64.
        head_width: channels of a head, even.
        pairing: ``interleaved`` gives both members of a pair the same angle: a rotation, so that products of queries
            and keys depend on distances alone. ``tiled`` repeats the angles as a whole, which is what the released
            V-JEPA 2 weights were trained with, though it is no rotation: use it for those weights only.
    """
    if pairing not in ("interleaved", "tiled"):
        raise ValueError(f"pairing: expected interleaved or tiled, got {pairing!r}")
    least = 2 * coordinates.shape[-1]
    if head_width < least or head_width % 2:
        raise ValueError(f"rotary: expected an even head width of at least {least}, 2 for each axis, got {head_width}")
    angle = _angles(coordinates, 2 * (head_width // coordinates.shape[-1] // 2))
    angle = angle.repeat_interleave(2, dim=-1) if pairing == "interleaved" else torch.cat([angle, angle], dim=-1)
    angle = angle.flatten(-2)
    rest = angle.new_zeros(*angle.shape[:-1], head_width - angle.shape[-1])
    angle = torch.cat([angle, rest], dim=-1)
    return Rotation(angle.cos(), angle.sin())
