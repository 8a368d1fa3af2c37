"""What the tests of the LiDAR method share: small configurations, and batches of real, tiny and empty scans."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray

from jepa_core.config import compose
from jepa_core.contracts import Batch
from jepa_core.methods.masked import MaskedPrediction
from jepa_core.plugins import find_modality, recipes
from jepa_lidar.geometry import GRIDS, VoxelGrid
from jepa_lidar.modality import MODALITY, build_method
from jepa_lidar.settings import LidarRun
from jepa_lidar.simulate import Sensor, simulate_scene
from jepa_lidar.voxels import join_scans

Scan = NDArray[np.float32]

RECIPES = tuple(recipes(find_modality(MODALITY.name)))
KITTI_CROP = VoxelGrid("kitti", (0.0, -6.4, -3.0), (12.8, 6.4, 1.0), (0.05, 0.05, 0.1), 8)
# Few rays and a thin predictor: a step takes a tenth of a second.
CHEAP = ["data.root=simulated", "data.azimuths=96", "data.beams=32", "data.scenes=8", "lidar.predictor.hidden=[8,8]"]
# The paper's choices on the small grid.
PAPER_LIKE = [
    "lidar.voxel_features=mean",
    "lidar.max_points=5",
    "lidar.variance_weight=1",
    "lidar.target.view=targets",
    "lidar.target.normalise=none",
    "lidar.target.momentum_start=0.996",
    "lidar.predictor.input_scale=unit",
]


def configured(recipe: str, *overrides: str) -> LidarRun:
    """A recipe as the command line would compose it, made cheap."""
    return compose(LidarRun, MODALITY.recipes / f"{recipe}.yaml", [*CHEAP, "trainer.device=cpu", *overrides])


def built(config: LidarRun, seed: int = 0) -> MaskedPrediction:
    """Its method, with the weights of this seed."""
    torch.manual_seed(seed)
    return build_method(config)


def simulated(seed: int, grid: VoxelGrid = GRIDS["small"], azimuths: int = 128) -> Scan:
    """A simulated scan, cut to the grid."""
    points = simulate_scene(seed, Sensor(azimuths=azimuths, beams=32)).points
    return cast(Scan, points[grid.inside(points).numpy()])


def scan_of_cells(cells: int, grid: VoxelGrid = GRIDS["small"], seed: int = 0) -> Scan:
    """A scan whose points lie in exactly this many bird's-eye cells, one to three in each."""
    rng = np.random.default_rng(seed)
    rows, columns = grid.bev_shape
    chosen = np.repeat(rng.choice(rows * columns, cells, replace=False), rng.integers(1, 4, cells))
    row_col = np.stack(np.divmod(chosen, columns), axis=1) + rng.uniform(0.05, 0.95, (len(chosen), 2))
    size = np.array(grid.voxel_m[:2]) * grid.bev_stride
    xy = row_col[:, ::-1] * size + np.array(grid.low_m[:2])
    z = rng.uniform(grid.low_m[2] + 0.1, grid.high_m[2] - 0.1, (len(chosen), 1))
    others = rng.random((len(chosen), len(grid.point_features) - 3))
    return np.concatenate([xy, z, others], axis=1).astype(np.float32)


def batch_of(scans: Sequence[Scan]) -> Batch:
    """A batch with fixed seeds."""
    names = tuple(f"scan-{index}" for index in range(len(scans)))
    return Batch(join_scans(scans), torch.arange(11, 11 + len(scans)), names)


def gradients(method: MaskedPrediction) -> dict[str, torch.Tensor]:
    """Gradient of every trainable parameter; an assertion names one that has none."""
    found = {name: p.grad for name, p in method.named_parameters() if p.requires_grad}
    silent = [name for name, gradient in found.items() if gradient is None]
    assert not silent, f"no gradient: {silent}"
    return cast(dict[str, torch.Tensor], found)
