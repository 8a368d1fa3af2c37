"""Features at the occupied sites of a batch of voxel grids, kept sorted so that neighbours are found by bisection."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

Size3 = tuple[int, int, int]


def linear_keys(coordinates: Tensor, shape: Size3) -> Tensor:
    """Row-major number of every site, int64 ``[V]``, of coordinates ``[V, 4]`` as (batch, z, y, x).

    int64 whatever the input: a Waymo grid (41 x 1504 x 1504) passes 2^31 sites from 24 scans on.
    """
    batch, z, y, x = coordinates.long().unbind(1)
    return ((batch * shape[0] + z) * shape[1] + y) * shape[2] + x


def coordinates_of(keys: Tensor, shape: Size3) -> Tensor:
    """The inverse of :func:`linear_keys`: int64 ``[V, 4]`` as (batch, z, y, x)."""
    parts, rest = [], keys
    for size in reversed(shape):
        upper = torch.div(rest, size, rounding_mode="floor")
        parts.append(rest - upper * size)
        rest = upper
    return torch.stack([rest, *reversed(parts)], dim=1)


@dataclass(frozen=True)
class SparseTensor:
    """A batch of sparse grids.

    Attributes:
        features: ``[V, C]``, one row for each active site of the whole batch.
        coordinates: int64 ``[V, 4]`` rows (batch, z, y, x), strictly increasing in :func:`linear_keys`.
        shape: sites along (z, y, x).
        batch_size: scans in the batch; a scan may have no site at all.
        maps: index maps already built for these sites and for those made from them, by name. Layers that work on the
            same sites share them, and so do two encoders that are given the same tensor.
    """

    features: Tensor
    coordinates: Tensor
    shape: Size3
    batch_size: int
    maps: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.features.ndim != 2 or self.coordinates.shape != (self.features.shape[0], 4):
            raise ValueError(
                f"SparseTensor: expected features [V, C] and coordinates [V, 4] with the same V, "
                f"got {list(self.features.shape)} and {list(self.coordinates.shape)}"
            )
        if self.coordinates.dtype != torch.int64:
            raise ValueError(f"SparseTensor: coordinates must be int64, got {self.coordinates.dtype}; call .long()")

    @staticmethod
    def from_unsorted(features: Tensor, coordinates: Tensor, shape: Size3, batch_size: int) -> SparseTensor:
        """Sorts the rows; raises ValueError for a site named twice or outside the grid (waits for the device)."""
        if len(coordinates):
            limit = torch.tensor([batch_size, *shape], device=coordinates.device)
            outside = int(((coordinates < 0) | (coordinates >= limit)).any(1).sum())
            if outside:
                raise ValueError(
                    f"SparseTensor: {outside} of {len(coordinates)} coordinates lie outside batch {batch_size}, "
                    f"shape {tuple(shape)}; rows are (batch, z, y, x)"
                )
        keys, order = torch.sort(linear_keys(coordinates, shape))
        twice = int((keys[1:] == keys[:-1]).sum())
        if twice:
            raise ValueError(f"SparseTensor: {twice} sites are named more than once; merge their features first")
        return SparseTensor(features[order], coordinates.long()[order], shape, batch_size)

    def with_features(self, features: Tensor) -> SparseTensor:
        """Other features ``[V, C']`` at the same sites, sharing the index maps."""
        return replace(self, features=features)

    def keys(self) -> Tensor:
        """int64 ``[V]``, increasing."""
        return linear_keys(self.coordinates, self.shape)

    def dense(self) -> Tensor:
        """``[B, C, Z, Y, X]``, zero where there is no site."""
        channels = self.features.shape[1]
        rows = self.features.new_zeros(self.batch_size * math.prod(self.shape), channels)
        # Keys are unique, so copying has no race and its gradient is a plain look-up.
        rows = rows.index_copy(0, self.keys(), self.features)
        return rows.view(self.batch_size, *self.shape, channels).permute(0, 4, 1, 2, 3).contiguous()

    def columns(self) -> Tensor:
        """``[B, Y * X, C * Z]``: what stands over each cell of the ground, channel = c * Z + z; zero where no site is.

        The same numbers as :meth:`dense`, laid out cell by cell without turning the whole grid around.
        """
        depth, height, width = self.shape
        batch, z, y, x = self.coordinates.unbind(1)
        here = z[:, None] == torch.arange(depth, device=z.device)
        rows = torch.where(here[:, None, :], self.features[:, :, None], 0.0).flatten(1)
        columns = self.features.new_zeros(self.batch_size * height * width, rows.shape[1])
        # Sites of one column fill different places of its row: each sum is of one number and zeros, in any order.
        columns = columns.index_add(0, (batch * height + y) * width + x, rows)
        return columns.view(self.batch_size, height * width, -1)
