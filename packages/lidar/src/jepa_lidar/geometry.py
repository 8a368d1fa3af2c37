"""Voxel grids, their bird's-eye cells, and oriented boxes: the coordinates of AD-L-JEPA (arXiv 2501.04969, OpenPCDet).

Axes are those of the sensor: x forward, y left, z up, in metres. Voxel coordinates are stored (batch, z, y, x).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from jepa_core.lattice import Lattice

Triple = tuple[float, float, float]
XYZI = ("x", "y", "z", "intensity")


@dataclass(frozen=True)
class VoxelGrid:
    """The space that is looked at, its voxels, and the bird's-eye cells over them.

    Attributes:
        name: for messages and the registry.
        low_m, high_m: range (x, y, z); a point belongs to it iff low <= p < high on each axis.
        voxel_m: voxel size (x, y, z).
        bev_stride: voxels along x and along y of one bird's-eye cell.
        point_features: what each point carries; the first three are x, y, z.
    """

    name: str
    low_m: Triple
    high_m: Triple
    voxel_m: Triple
    bev_stride: int
    point_features: tuple[str, ...] = XYZI

    def __post_init__(self) -> None:
        if self.point_features[:3] != ("x", "y", "z"):
            raise ValueError(
                f"VoxelGrid {self.name}: point_features must begin with x, y, z, got {self.point_features}"
            )
        for axis, low, high, size in zip("xyz", self.low_m, self.high_m, self.voxel_m, strict=True):
            count = (high - low) / size if size > 0 else 0.0
            if count < 1 or abs(count - round(count)) > 1e-3:
                raise ValueError(
                    f"VoxelGrid {self.name}: range of {axis} must be a whole number of voxels, "
                    f"got {low}..{high} m by {size} m"
                )
        if self.bev_stride < 1 or any(count % self.bev_stride for count in self.counts_xyz[:2]):
            raise ValueError(
                f"VoxelGrid {self.name}: bev_stride must divide the {self.counts_xyz[:2]} voxels in x and y, "
                f"got {self.bev_stride}"
            )

    @property
    def counts_xyz(self) -> tuple[int, int, int]:
        """Voxels along x, y, z."""
        ranges = zip(self.low_m, self.high_m, self.voxel_m, strict=True)
        x, y, z = (round((high - low) / size) for low, high, size in ranges)
        return x, y, z

    @property
    def sparse_shape(self) -> tuple[int, int, int]:
        """Shape (z, y, x) of the sparse tensor; one more than the voxels in z makes 41 -> 21 -> 11 -> 5 -> 2 work."""
        x, y, z = self.counts_xyz
        return z + 1, y, x

    @property
    def bev_shape(self) -> tuple[int, int]:
        """Bird's-eye cells along y (rows) and x (columns)."""
        x, y, _ = self.counts_xyz
        return y // self.bev_stride, x // self.bev_stride

    @property
    def bev_lattice(self) -> Lattice:
        """Bird's-eye cells as a lattice over (y, x), in metres."""
        cell_y, cell_x = self.voxel_m[1] * self.bev_stride, self.voxel_m[0] * self.bev_stride
        return Lattice(
            axes=("y", "x"),
            sizes=self.bev_shape,
            spacing=(cell_y, cell_x),
            units=("m", "m"),
            origin=(self.low_m[1] + cell_y / 2, self.low_m[0] + cell_x / 2),
        )

    def inside(self, points: Tensor | NDArray[np.floating]) -> Tensor:
        """Bool ``[P]``: which of the points ``[P, 3+]`` lie in range. A point that is not finite never does."""
        # float64, because the bounds (51.2, 70.4) are no float32 numbers: every device must draw the same border.
        xyz = torch.as_tensor(points)[:, :3].double()
        low, high = xyz.new_tensor(self.low_m), xyz.new_tensor(self.high_m)
        return ((xyz >= low) & (xyz < high)).all(dim=1)

    def voxel_indices(self, points: Tensor | NDArray[np.floating]) -> Tensor:
        """Integer voxel coordinates ``[P, 3]`` (x, y, z) of points ``[P, 3+]`` that lie in range."""
        xyz = torch.as_tensor(points)[:, :3].double()
        # In range nothing is negative, so cutting off the fraction is the floor.
        indices = ((xyz - xyz.new_tensor(self.low_m)) / xyz.new_tensor(self.voxel_m)).long()
        # The division may round a point just below the upper border up to it.
        return indices.minimum(torch.tensor(self.counts_xyz, device=xyz.device) - 1)

    def cell_ids(self, points: Tensor | NDArray[np.floating]) -> Tensor:
        """Bird's-eye cell id int64 ``[P]`` of points ``[P, 3+]``; -1 for a point out of range."""
        inside = self.inside(points)
        xyz = torch.where(inside.unsqueeze(1), torch.as_tensor(points)[:, :3], 0.0)
        cells_xy = torch.div(self.voxel_indices(xyz)[:, :2], self.bev_stride, rounding_mode="floor")
        return torch.where(inside, cells_xy[:, 1] * self.bev_shape[1] + cells_xy[:, 0], -1)


_WAYMO_FEATURES = (*XYZI, "elongation")

GRIDS: dict[str, VoxelGrid] = {
    grid.name: grid
    for grid in (
        VoxelGrid("kitti", (0.0, -40.0, -3.0), (70.4, 40.0, 1.0), (0.05, 0.05, 0.1), 8),
        VoxelGrid("waymo", (-75.2, -75.2, -2.0), (75.2, 75.2, 4.0), (0.1, 0.1, 0.15), 8, _WAYMO_FEATURES),
        VoxelGrid("once", (-75.2, -75.2, -5.0), (75.2, 75.2, 3.0), (0.1, 0.1, 0.2), 8),
        VoxelGrid("nuscenes", (-51.2, -51.2, -5.0), (51.2, 51.2, 3.0), (0.1, 0.1, 0.2), 8),
        VoxelGrid("small", (0.0, -25.6, -3.0), (51.2, 25.6, 1.0), (0.2, 0.2, 0.2), 4),
    )
}


def grid_named(name: str) -> VoxelGrid:
    """The grid of this name; ValueError names the known ones."""
    if name not in GRIDS:
        raise ValueError(f"grid: expected one of {', '.join(GRIDS)}, got {name!r}")
    return GRIDS[name]


@dataclass(frozen=True)
class Boxes:
    """Oriented boxes of one scan.

    Attributes:
        values: float32 ``[K, 7]``: centre x, y, z, length, width, height in metres, yaw about z in radians.
        names: class of each box.
    """

    values: NDArray[np.float32]
    names: tuple[str, ...]

    def __post_init__(self) -> None:
        assert self.values.shape == (len(self.names), 7), (self.values.shape, len(self.names))

    def __len__(self) -> int:
        return len(self.names)


def points_in_boxes(
    points: Tensor | NDArray[np.floating], boxes: Tensor | NDArray[np.floating], floor_m: float = 0.0
) -> Tensor:
    """Index of the first box that holds each point.

    Args:
        points: ``[P, 3+]``.
        boxes: ``[K, 7]`` centre x, y, z, length, width, height, yaw. Faces belong to the box.
        floor_m: points less than this above a box's floor are not counted (they are ground). Memory grows as P * K.

    Returns:
        int64 ``[P]``, -1 where no box holds the point.
    """
    xyz = torch.as_tensor(points)[:, :3].float()
    box = torch.as_tensor(boxes, device=xyz.device).float()
    if len(box) == 0:
        return torch.full((len(xyz),), -1, dtype=torch.long, device=xyz.device)
    d_PK3 = xyz.unsqueeze(1) - box[:, :3]
    cos, sin = box[:, 6].cos(), box[:, 6].sin()
    along = d_PK3[..., 0] * cos + d_PK3[..., 1] * sin
    across = d_PK3[..., 1] * cos - d_PK3[..., 0] * sin
    half = box[:, 3:6] / 2
    held = (along.abs() <= half[:, 0]) & (across.abs() <= half[:, 1])
    held &= (d_PK3[..., 2] <= half[:, 2]) & (d_PK3[..., 2] >= floor_m - half[:, 2])
    return torch.where(held.any(dim=1), held.to(torch.uint8).argmax(dim=1), -1)


def box_corners(boxes: NDArray[np.floating]) -> NDArray[np.float64]:
    """Corners ``[K, 8, 3]`` of boxes ``[K, 7]``: the floor counter-clockwise from the front left, then the top."""
    box = np.asarray(boxes, dtype=np.float64).reshape(-1, 7)
    signs = np.array([[1, 1], [-1, 1], [-1, -1], [1, -1]]) / 2
    local = signs[None] * box[:, None, 3:5]
    cos, sin = np.cos(box[:, 6, None]), np.sin(box[:, 6, None])
    xy = np.stack((local[..., 0] * cos - local[..., 1] * sin, local[..., 0] * sin + local[..., 1] * cos), axis=-1)
    xy += box[:, None, :2]
    floors = box[:, 2, None] + np.array([-0.5, 0.5]) * box[:, 5, None]
    return np.concatenate([np.dstack((xy, np.repeat(z[:, None], 4, axis=1))) for z in floors.T], axis=1)
