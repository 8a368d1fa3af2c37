"""The sites an encoder can speak about: named axes with sizes, spacing and units, and ids on them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Lattice:
    """A regular lattice of sites, row-major: the last axis runs fastest.

    Attributes:
        axes: axis names, outermost first, for example ``("y", "x")`` or ``("t", "f")``.
        sizes: sites along each axis.
        spacing: distance between neighbouring sites along each axis, in ``units``.
        units: unit of each axis, for example ``"m"``, ``"s"``, ``"px"``, ``"slot"``.
        origin: coordinate of the centre of site 0 along each axis, in ``units``.
    """

    axes: tuple[str, ...]
    sizes: tuple[int, ...]
    spacing: tuple[float, ...]
    units: tuple[str, ...]
    origin: tuple[float, ...]

    def __post_init__(self) -> None:
        lengths = {len(self.axes), len(self.sizes), len(self.spacing), len(self.units), len(self.origin)}
        if len(lengths) != 1 or not self.axes:
            raise ValueError(
                f"Lattice: axes, sizes, spacing, units and origin must have one entry per axis, "
                f"got lengths {[len(v) for v in (self.axes, self.sizes, self.spacing, self.units, self.origin)]}"
            )
        if any(size < 1 for size in self.sizes):
            raise ValueError(f"Lattice: every size must be at least 1, got {self.sizes}")

    @property
    def count(self) -> int:
        """Number of sites."""
        return math.prod(self.sizes)

    def ids(self, coordinates: Tensor) -> Tensor:
        """Site ids of integer coordinates ``[..., axes]`` (same order as ``axes``)."""
        ids = torch.zeros(coordinates.shape[:-1], dtype=torch.long, device=coordinates.device)
        for axis, size in enumerate(self.sizes):
            ids = ids * size + coordinates[..., axis].long()
        return ids

    def coordinates(self, ids: Tensor) -> Tensor:
        """Integer coordinates ``[..., axes]`` of site ids ``[...]``."""
        parts, rest = [], ids.long()
        for size in reversed(self.sizes):
            parts.append(rest % size)
            rest = torch.div(rest, size, rounding_mode="floor")
        return torch.stack(parts[::-1], dim=-1)

    def positions(self, ids: Tensor) -> Tensor:
        """Centres ``[..., axes]`` of sites, float32, in ``units``."""
        # Python numbers, not tensors: a copy from the host would wait for the device.
        axes = zip(self.coordinates(ids).float().unbind(-1), self.spacing, self.origin, strict=True)
        return torch.stack([place * spacing + origin for place, spacing, origin in axes], dim=-1)
