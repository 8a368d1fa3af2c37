"""Points to voxels, batched and on the device: mean features (MeanVFE of OpenPCDet) or features free of absolute x, y.

Deterministic: a stable sort by an int64 voxel key and one sequential mean a voxel, no atomic additions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from jepa_core.seeds import random_keys
from jepa_lidar.geometry import VoxelGrid

OFFSET_FEATURES = ("dx", "dy", "dz", "height", "intensity", "log_count", "one")
_BUDGET_STREAM = 7013  # keeps the voxel budget's draws apart from those of masks


@dataclass(frozen=True)
class Points:
    """The points of several scans, one after another.

    Attributes:
        features: float32 ``[P, F]``; the first three columns are x, y, z in metres.
        batch: int64 ``[P]``, the scan each point belongs to.
        batch_size: number of scans; a scan may have no point.
    """

    features: Tensor
    batch: Tensor
    batch_size: int

    def to(self, device: torch.device | str) -> Points:
        """The same points on another device; from page-locked memory the copy does not make the host wait."""
        features, batch = (x.to(device, non_blocking=x.is_pinned()) for x in (self.features, self.batch))
        return replace(self, features=features, batch=batch)


@dataclass(frozen=True)
class Voxels:
    """Occupied voxels of several scans, sorted by (scan, z, y, x).

    Attributes:
        features: float32 ``[V, C]``.
        coordinates: int64 ``[V, 4]`` (scan, z, y, x).
        batch_size: number of scans.
        counts: int64 ``[V]``, points each voxel's features stand on.
    """

    features: Tensor
    coordinates: Tensor
    batch_size: int
    counts: Tensor


def join_scans(scans: Sequence[NDArray[np.float32]]) -> Points:
    """One :class:`Points` of scans ``[P_i, F]``."""
    lengths = torch.tensor([len(scan) for scan in scans])
    features = torch.from_numpy(np.concatenate(scans).astype(np.float32, copy=False))
    return Points(features, torch.repeat_interleave(torch.arange(len(scans)), lengths), len(scans))


def voxelise(
    points: Points, grid: VoxelGrid, max_points: int | None, max_voxels: int | None, seeds: Tensor | None
) -> Voxels:
    """Occupied voxels with the mean of the raw features of their points (MeanVFE).

    Args:
        points: scans; points out of range are left out.
        grid: range and voxel size.
        max_points: points used of each voxel, the first in the order of the scan; None = all.
        max_voxels: voxels kept of each scan, a random choice by ``seeds``; None = all.
        seeds: int64 ``[B]``; needed with ``max_voxels``.
    """
    if points.features.shape[1] != len(grid.point_features):
        raise ValueError(
            f"voxelise: grid {grid.name} expects the point features {grid.point_features}, "
            f"got {points.features.shape[1]} columns"
        )
    # One wait for the device: a boolean index would wait at each tensor.
    inside = grid.inside(points.features).nonzero().squeeze(1)
    features, batch = points.features.index_select(0, inside), points.batch.index_select(0, inside)
    keys, order = _linear_keys(grid.voxel_indices(features), batch, grid).sort(stable=True)
    voxel_keys, counts = torch.unique_consecutive(keys, return_counts=True)
    coordinates = _unravel(voxel_keys, grid)
    if max_points is not None:
        order = order[_rank_in_segment(counts, len(order)) < max_points]
        counts = counts.clamp_max(max_points)
    means = _segment_mean(features[order], counts)
    voxels = Voxels(means, coordinates, points.batch_size, counts)
    return voxels if max_voxels is None else _within_budget(voxels, max_voxels, seeds)


def offset_features(voxels: Voxels, grid: VoxelGrid) -> Voxels:
    """The same voxels with the 7 features :data:`OFFSET_FEATURES`, none of which tells absolute x or y.

    Offset of the mean point from the voxel's centre in half voxels (3), height scaled to -1..1 over the grid's range,
    intensity, natural logarithm of the point count, constant 1.
    """
    means, zyx = voxels.features, voxels.coordinates[:, 1:]
    size, low, high = (means.new_tensor(v) for v in (grid.voxel_m, grid.low_m, grid.high_m))
    centre = (zyx.flip(1).to(means.dtype) + 0.5) * size + low
    offset = (means[:, :3] - centre) / (size / 2)
    height = (means[:, 2:3] - low[2]) / (high[2] - low[2]) * 2 - 1
    intensity = means[:, grid.point_features.index("intensity"), None]
    log_count = voxels.counts.to(means.dtype).log().unsqueeze(1)
    return replace(voxels, features=torch.cat((offset, height, intensity, log_count, torch.ones_like(log_count)), 1))


def bev_cells(coordinates: Tensor, grid: VoxelGrid) -> Tensor:
    """Bird's-eye cell id int64 ``[V]`` (row * columns + column) of voxels ``[V, 4]``."""
    row_col = torch.div(coordinates[:, 2:], grid.bev_stride, rounding_mode="floor")
    return row_col[:, 0] * grid.bev_shape[1] + row_col[:, 1]


def _linear_keys(xyz: Tensor, batch: Tensor, grid: VoxelGrid) -> Tensor:
    # int64: a batch of 16 Waymo scans passes 1.4e9, a bit more passes 2^31.
    z, y, x = grid.sparse_shape
    return ((batch * z + xyz[:, 2]) * y + xyz[:, 1]) * x + xyz[:, 0]


def _unravel(keys: Tensor, grid: VoxelGrid) -> Tensor:
    parts = []
    for size in reversed(grid.sparse_shape):
        parts.append(keys % size)
        keys = torch.div(keys, size, rounding_mode="floor")
    return torch.stack((keys, *parts[::-1]), dim=1)


def _rank_in_segment(counts: Tensor, total: int) -> Tensor:
    """Position of each of the ``total`` rows in its segment, for segments of ``counts`` rows that follow each other."""
    starts = counts.cumsum(0) - counts
    # Told the total, it need not ask the device for it.
    return torch.arange(total, device=counts.device) - torch.repeat_interleave(starts, counts, output_size=total)


def _segment_mean(rows: Tensor, counts: Tensor) -> Tensor:
    if len(counts) == 0:
        return rows.new_zeros(0, rows.shape[1])
    # float64 keeps the sum of metres far from the sensor exact to a micrometre whatever the number of points.
    # "unsafe" leaves out a check of the lengths that waits for the device; they are counted from these very rows.
    return torch.segment_reduce(rows.double(), "mean", lengths=counts, axis=0, unsafe=True).to(rows.dtype)


def _within_budget(voxels: Voxels, max_voxels: int, seeds: Tensor | None) -> Voxels:
    """At most ``max_voxels`` of each scan, those with the lowest hash: neither file order nor batch matters."""
    if seeds is None:
        raise ValueError("voxelise: max_voxels chooses voxels by the samples' seeds, got seeds=None; pass batch.seeds")
    scan = voxels.coordinates[:, 0]
    per_scan = torch.bincount(scan, minlength=voxels.batch_size)
    longest = int(per_scan.max())
    if longest <= max_voxels:
        return voxels
    keys = random_keys(seeds.to(scan.device), longest, _BUDGET_STREAM)[scan, _rank_in_segment(per_scan, len(scan))]
    by_key = keys.argsort(stable=True)
    shuffled = by_key[scan[by_key].argsort(stable=True)]
    kept = shuffled[_rank_in_segment(per_scan, len(scan)) < max_voxels].sort().values
    return replace(
        voxels,
        features=voxels.features[kept],
        coordinates=voxels.coordinates[kept],
        counts=voxels.counts[kept],
    )
