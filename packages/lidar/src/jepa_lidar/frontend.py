"""The front end: points to voxels on the device, and which bird's-eye cells hold any."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from jepa_core.contracts import Grid
from jepa_lidar.geometry import VoxelGrid
from jepa_lidar.voxels import OFFSET_FEATURES, Points, Voxels, bev_cells, offset_features, voxelise

VoxelFeatures = Literal["mean", "offset"]


class VoxelFrontEnd(nn.Module):
    """Voxelises a batch of scans.

    Args:
        grid: range and voxel size.
        features: ``mean`` (raw point features, MeanVFE) or ``offset`` (7 values without absolute x and y).
        max_points: points a voxel averages at most; 0 = all.
        max_voxels: voxels a scan keeps at most in training; 0 = all. Evaluation keeps all.
    """

    def __init__(self, grid: VoxelGrid, features: VoxelFeatures, max_points: int, max_voxels: int) -> None:
        super().__init__()
        self.grid = grid
        self.features = features
        self.max_points = max_points or None
        self.max_voxels = max_voxels or None

    @property
    def channels(self) -> int:
        """Width of a voxel's features."""
        return len(OFFSET_FEATURES) if self.features == "offset" else len(self.grid.point_features)

    @torch.no_grad()
    def forward(self, inputs: Points, seeds: Tensor) -> tuple[Voxels, Grid]:
        """Voxels of ``inputs``, and the bird's-eye grid with its occupied cells ``[B, N]``."""
        budget = self.max_voxels if self.training else None
        voxels = voxelise(inputs, self.grid, self.max_points, budget, seeds)
        lattice = self.grid.bev_lattice
        occupied = torch.zeros(inputs.batch_size, lattice.count, dtype=torch.bool, device=voxels.features.device)
        occupied[voxels.coordinates[:, 0], bev_cells(voxels.coordinates, self.grid)] = True
        if self.features == "offset":
            voxels = offset_features(voxels, self.grid)
        return voxels, Grid(lattice, occupied=occupied)
