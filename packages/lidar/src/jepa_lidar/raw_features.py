"""Raw statistics of bird's-eye cells: the control that needs no network."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from jepa_lidar.geometry import VoxelGrid

RAW_NAMES = (
    "log_count", "min_z", "max_z", "mean_z", "std_z", "mean_intensity", "std_intensity", "max_intensity",
)  # fmt: skip


def cell_statistics(points: Tensor, grid: VoxelGrid) -> Tensor:
    """Statistics of the points of each cell, ``[cells, 8]`` (:data:`RAW_NAMES`), heights in metres; 0 where empty.

    Args:
        points: ``[P, 4+]`` x, y, z, intensity.
        grid: points out of its range are left out.
    """
    cells = grid.cell_ids(points)
    inside = cells >= 0
    cells, z, intensity = cells[inside], points[inside, 2].double(), points[inside, 3].double()
    count = torch.zeros(grid.bev_lattice.count, dtype=torch.double).index_add(0, cells, torch.ones_like(z))
    mean_z, std_z = _moments(z, cells, count)
    mean_i, std_i = _moments(intensity, cells, count)
    columns = (
        count.log1p(),
        _extreme(z, cells, count, "amin"),
        _extreme(z, cells, count, "amax"),
        mean_z,
        std_z,
        mean_i,
        std_i,
        _extreme(intensity, cells, count, "amax"),
    )
    return torch.stack(columns, dim=1).float()


def neighbourhood(statistics: Tensor, grid: VoxelGrid) -> Tensor:
    """Statistics of the 3 x 3 cells around each, ``[cells, 72]``; 0 beyond the border."""
    rows, columns = grid.bev_shape
    map_1CYX = statistics.T.reshape(1, -1, rows, columns)
    return F.unfold(map_1CYX, kernel_size=3, padding=1).squeeze(0).T


def without_extremes(around: Tensor) -> Tensor:
    """The columns of :func:`neighbourhood` ``[R, 72]`` without the highest and lowest points, ``[R, 54]``."""
    kept = [index for index, name in enumerate(RAW_NAMES) if name not in ("min_z", "max_z")]
    return around.reshape(len(around), len(RAW_NAMES), -1)[:, kept].flatten(1)


def height_span(statistics: Tensor) -> Tensor:
    """Highest minus lowest point of each cell in metres, ``[cells]``."""
    return statistics[:, RAW_NAMES.index("max_z")] - statistics[:, RAW_NAMES.index("min_z")]


def _moments(values: Tensor, cells: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
    divisor = count.clamp(min=1)
    mean = torch.zeros_like(count).index_add(0, cells, values) / divisor
    variance = torch.zeros_like(count).index_add(0, cells, (values - mean[cells]).square()) / divisor
    return mean, variance.sqrt()


def _extreme(values: Tensor, cells: Tensor, count: Tensor, which: str) -> Tensor:
    found = torch.zeros_like(count).scatter_reduce(0, cells, values, reduce=which, include_self=False)
    return torch.where(count > 0, found, 0.0)
