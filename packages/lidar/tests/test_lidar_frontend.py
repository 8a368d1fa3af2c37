"""The front end, occupancy targets and raw statistics on hand-made scans."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from jepa_lidar.frontend import VoxelFrontEnd
from jepa_lidar.geometry import GRIDS
from jepa_lidar.occupancy import CellOccupancy
from jepa_lidar.raw_features import RAW_NAMES, cell_statistics, height_span, neighbourhood
from jepa_lidar.voxels import join_scans

SMALL = GRIDS["small"]
SEEDS = torch.tensor([1, 2])


def scans() -> list[np.ndarray]:
    one = np.array([[0.1, -25.5, -2.9, 0.2], [0.15, -25.45, -2.85, 0.4], [50.0, 0.0, 0.0, 1.0]], np.float32)
    return [one, np.zeros((0, 4), np.float32)]


def test_occupied_cells_and_an_empty_scan() -> None:
    voxels, grid = VoxelFrontEnd(SMALL, "offset", 0, 0)(join_scans(scans()), SEEDS)
    assert grid.occupied is not None
    assert grid.occupied.sum(1).tolist() == [2, 0] and bool(grid.occupied[0, 0])
    assert voxels.features.shape == (2, 7)


def test_voxel_budget_holds_in_training_only() -> None:
    rng = np.random.default_rng(0)
    cloud = (rng.random((500, 4)) * [50, 50, 3.9, 1] + [0, -25, -3, 0]).astype(np.float32)
    front = VoxelFrontEnd(SMALL, "mean", 5, 64)
    assert len(front.train()(join_scans([cloud]), SEEDS[:1])[0].features) == 64
    assert len(front.eval()(join_scans([cloud]), SEEDS[:1])[0].features) > 400


def test_occupancy_marks_the_sub_voxel_of_each_point() -> None:
    voxels, _ = VoxelFrontEnd(SMALL, "offset", 0, 0)(join_scans(scans()), SEEDS)
    describe = CellOccupancy(SMALL)
    tokens = describe(voxels, None)
    assert describe.width == 160 and tokens.features.shape == (2, 64 * 64, 160)
    assert tokens.features[0, 0].nonzero().flatten().tolist() == [0]
    assert tokens.features.sum().item() == 2


def test_cell_statistics_by_hand() -> None:
    statistics = cell_statistics(torch.from_numpy(scans()[0]), SMALL)
    row = dict(zip(RAW_NAMES, statistics[0].tolist(), strict=True))
    assert row["log_count"] == pytest.approx(math.log(3))
    assert row["min_z"] == pytest.approx(-2.9) and row["max_z"] == pytest.approx(-2.85)
    assert row["mean_intensity"] == pytest.approx(0.3) and row["std_intensity"] == pytest.approx(0.1)
    assert height_span(statistics)[0].item() == pytest.approx(0.05, abs=1e-6)
    assert not statistics[1].any()


def test_neighbourhood_centre_is_the_cell_itself_and_borders_are_zero() -> None:
    statistics = torch.arange(64 * 64 * 8, dtype=torch.float32).reshape(-1, 8)
    around = neighbourhood(statistics, SMALL).reshape(-1, 8, 9)
    assert torch.equal(around[:, :, 4], statistics)
    assert not around[0, :, 0].any()
    assert torch.equal(around[65, :, 5], statistics[66])
