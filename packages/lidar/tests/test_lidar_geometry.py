"""Grids against the published tables; cells, boxes and corners against each other."""

import math

import numpy as np
import pytest
import torch

from jepa_lidar.geometry import GRIDS, Boxes, VoxelGrid, box_corners, grid_named, points_in_boxes

# Voxels X, Y, Z; sparse shape Z, Y, X; bird's-eye cells Y, X; cell size in metres (AD-L-JEPA, BEV-MAE).
PUBLISHED = {
    "kitti": ((1408, 1600, 40), (41, 1600, 1408), (200, 176), 0.4),
    "waymo": ((1504, 1504, 40), (41, 1504, 1504), (188, 188), 0.8),
    "once": ((1504, 1504, 40), (41, 1504, 1504), (188, 188), 0.8),
    "nuscenes": ((1024, 1024, 40), (41, 1024, 1024), (128, 128), 0.8),
    "small": ((256, 256, 20), (21, 256, 256), (64, 64), 0.8),
}


@pytest.mark.parametrize("name", GRIDS)
def test_grid_matches_published_table(name: str) -> None:
    grid = GRIDS[name]
    counts, sparse, bev, cell_m = PUBLISHED[name]
    assert (grid.counts_xyz, grid.sparse_shape, grid.bev_shape) == (counts, sparse, bev)
    assert grid.bev_lattice.sizes == bev
    assert grid.bev_lattice.spacing == pytest.approx((cell_m, cell_m))


@pytest.mark.parametrize("name", GRIDS)
def test_cell_centres_lie_in_their_own_cell(name: str) -> None:
    grid = GRIDS[name]
    ids = torch.arange(grid.bev_lattice.count)
    y, x = grid.bev_lattice.positions(ids).T
    points = torch.stack((x, y, torch.full_like(x, (grid.low_m[2] + grid.high_m[2]) / 2)), dim=1)
    assert torch.equal(grid.cell_ids(points), ids)


@pytest.mark.parametrize("name", GRIDS)
def test_range_is_half_open_and_indices_stay_inside(name: str) -> None:
    grid = GRIDS[name]
    low = np.array([grid.low_m])
    high = np.array([grid.high_m])
    assert grid.inside(low).item() and not grid.inside(high).item()
    just_below = np.nextafter(high, low)
    assert grid.inside(just_below).item()
    assert tuple(grid.voxel_indices(just_below)[0].tolist()) == tuple(n - 1 for n in grid.counts_xyz)
    assert tuple(grid.voxel_indices(low)[0].tolist()) == (0, 0, 0)


def test_points_out_of_range_or_not_finite_have_no_cell() -> None:
    points = torch.tensor([[-0.01, 0, 0], [10, 0, 1.0], [math.nan, 0, 0], [math.inf, 0, 0], [10, 0, 0]])
    assert GRIDS["small"].cell_ids(points).tolist()[:4] == [-1] * 4
    assert GRIDS["small"].cell_ids(points)[4] == 32 * 64 + 12


def test_impossible_grids_are_named() -> None:
    with pytest.raises(ValueError, match="whole number of voxels"):
        VoxelGrid("odd", (0, 0, 0), (1, 1, 1), (0.3, 0.1, 0.1), 1)
    with pytest.raises(ValueError, match="bev_stride"):
        VoxelGrid("odd", (0, 0, 0), (1, 1, 1), (0.1, 0.1, 0.1), 3)
    with pytest.raises(ValueError, match="kitti, waymo"):
        grid_named("kity")


def test_points_in_boxes_agrees_with_turning_the_points_back() -> None:
    rng = np.random.default_rng(0)
    boxes = np.concatenate((rng.uniform(-5, 5, (6, 3)), rng.uniform(1, 5, (6, 3)), rng.uniform(-4, 4, (6, 1))), axis=1)
    points = rng.uniform(-8, 8, (4000, 3))
    found = points_in_boxes(points, boxes).numpy()
    expected = np.full(len(points), -1)
    for index in reversed(range(len(boxes))):
        back = (points[:, :2] - boxes[index, :2]) @ np.exp(1j * boxes[index, 6]).repeat(1).view(float).reshape(1, 2).T
        left = np.array([-np.sin(boxes[index, 6]), np.cos(boxes[index, 6])])
        local = np.stack(
            (back[:, 0], (points[:, :2] - boxes[index, :2]) @ left, points[:, 2] - boxes[index, 2]), axis=1
        )
        expected[(np.abs(local) <= boxes[index, 3:6] / 2).all(axis=1)] = index
    assert (expected >= 0).sum() > 100
    np.testing.assert_array_equal(found, expected)


def test_floor_margin_and_no_boxes() -> None:
    box = np.array([[0, 0, 1, 2, 2, 2, 0.3]])
    points = np.array([[0, 0, 0.1], [0, 0, 0.2]])
    assert points_in_boxes(points, box, floor_m=0.15).tolist() == [-1, 0]
    assert points_in_boxes(points, np.zeros((0, 7))).tolist() == [-1, -1]
    assert len(Boxes(np.zeros((0, 7), np.float32), ())) == 0


def test_corners_lie_on_their_box() -> None:
    boxes = np.array([[1, 2, 3, 4, 2, 1, 0.7], [-5, 0, 0, 1, 1, 2, -2.0]])
    corners = box_corners(boxes)
    assert corners.shape == (2, 8, 3)
    for box, corner in zip(boxes, corners, strict=True):
        np.testing.assert_allclose(corner.mean(axis=0), box[:3], atol=1e-12)
        inner = box[:3] + 0.999 * (corner - box[:3])
        outer = box[:3] + 1.001 * (corner - box[:3])
        assert (points_in_boxes(inner, box[None]) == 0).all()
        assert (points_in_boxes(outer, box[None]) == -1).all()
