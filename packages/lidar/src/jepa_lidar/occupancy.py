"""Raw sub-voxel occupancy of each bird's-eye cell: the target of the reconstruction control (Occupancy-MAE's idea)."""

from __future__ import annotations

import torch

from jepa_core.contracts import Sites, Tokens
from jepa_lidar.geometry import VoxelGrid
from jepa_lidar.voxels import Voxels, bev_cells

LAYER_VOXELS = 2


class CellOccupancy:
    """Which sub-voxels of a cell hold a point: stride x stride columns, pairs of layers joined.

    Args:
        grid: voxel grid.
    """

    def __init__(self, grid: VoxelGrid) -> None:
        self.grid = grid
        self.layers = -(-grid.counts_xyz[2] // LAYER_VOXELS)

    @property
    def width(self) -> int:
        """Values a cell."""
        return self.grid.bev_stride**2 * self.layers

    def __call__(self, inputs: Voxels, keep: Sites | None) -> Tokens:
        """0 or 1 for each sub-voxel, ``[B, cells, width]``; ``keep`` plays no part, raw values are what they are."""
        stride, lattice = self.grid.bev_stride, self.grid.bev_lattice
        scan, z, y, x = inputs.coordinates.unbind(1)
        part = (torch.div(z, LAYER_VOXELS, rounding_mode="floor") * stride + y % stride) * stride + x % stride
        values = torch.zeros(inputs.batch_size, lattice.count, self.width, device=scan.device)
        values[scan, bev_cells(inputs.coordinates, self.grid), part] = 1.0
        return Tokens(values, Sites.whole(lattice, inputs.batch_size, scan.device), lattice)
