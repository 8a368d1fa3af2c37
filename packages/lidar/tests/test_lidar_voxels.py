"""Voxelisation against a plain dictionary, and its promises: order, budget, empty scans, independence of the batch."""

import math
from collections import defaultdict
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from jepa_lidar.geometry import GRIDS, VoxelGrid
from jepa_lidar.voxels import OFFSET_FEATURES, Points, Voxels, bev_cells, join_scans, offset_features, voxelise

SMALL = GRIDS["small"]
TINY = VoxelGrid("tiny", (0.0, -1.0, -0.5), (2.0, 1.0, 0.5), (0.25, 0.25, 0.25), 2)


def random_scan(seed: int, count: int, spread: float = 1.2) -> np.ndarray:
    rng = np.random.default_rng(seed)
    xyz = rng.uniform(-spread, spread, (count, 3)) + np.array([1.0, 0.0, 0.0])
    return np.concatenate((xyz, rng.random((count, 1))), axis=1).astype(np.float32)


def by_dictionary(scans: list[np.ndarray], grid: VoxelGrid, max_points: int | None) -> dict[tuple, np.ndarray]:
    voxels: dict[tuple, list[np.ndarray]] = defaultdict(list)
    for scan_index, scan in enumerate(scans):
        for point in scan.astype(np.float64):
            if all(lo <= p < hi for p, lo, hi in zip(point, grid.low_m, grid.high_m, strict=False)):
                ix, iy, iz = (
                    math.floor((p - lo) / v) for p, lo, v in zip(point, grid.low_m, grid.voxel_m, strict=False)
                )
                rows = voxels[scan_index, iz, iy, ix]
                if max_points is None or len(rows) < max_points:
                    rows.append(point)
    return {key: np.mean(rows, axis=0) for key, rows in sorted(voxels.items())}


@settings(max_examples=25, deadline=None)
@given(
    sizes=st.lists(st.integers(0, 150), min_size=1, max_size=4),
    seed=st.integers(0, 1000),
    limit=st.sampled_from([None, 1, 3]),
)
def test_voxels_equal_a_dictionary(sizes: list[int], seed: int, limit: int | None) -> None:
    scans = [random_scan(seed + i, size) for i, size in enumerate(sizes)]
    voxels = voxelise(join_scans(scans), TINY, limit, None, None)
    expected = by_dictionary(scans, TINY, limit)
    assert [tuple(row) for row in voxels.coordinates.tolist()] == list(expected)
    assert voxels.batch_size == len(sizes)
    if expected:
        np.testing.assert_allclose(voxels.features.numpy(), np.stack(list(expected.values())), atol=1e-6)


def test_scans_without_points_in_range_work() -> None:
    far = np.full((5, 4), 900.0, dtype=np.float32)
    alone = voxelise(join_scans([far]), SMALL, 5, 10, torch.tensor([1]))
    assert alone.features.shape == (0, 4) and alone.coordinates.shape == (0, 4) and alone.batch_size == 1
    assert offset_features(alone, SMALL).features.shape == (0, len(OFFSET_FEATURES))
    assert bev_cells(alone.coordinates, SMALL).shape == (0,)
    mixed = voxelise(join_scans([far, random_scan(0, 50), far]), SMALL, 5, 10, torch.tensor([1, 2, 3]))
    assert set(mixed.coordinates[:, 0].tolist()) == {1} and mixed.batch_size == 3


def of_scan(voxels: Voxels, scan: int) -> tuple[torch.Tensor, torch.Tensor]:
    rows = voxels.coordinates[:, 0] == scan
    return voxels.coordinates[rows, 1:], voxels.features[rows]


def test_budget_depends_on_the_seed_alone() -> None:
    scans = [random_scan(i, 300) for i in range(3)]
    seeds = torch.tensor([11, 12, 13])
    joined = voxelise(join_scans(scans), TINY, 5, 40, seeds)
    assert torch.bincount(joined.coordinates[:, 0]).tolist() == [40, 40, 40]
    for index in range(3):
        alone = voxelise(join_scans([scans[index]]), TINY, 5, 40, seeds[index : index + 1])
        reordered = voxelise(join_scans([scans[index][::-1].copy()]), TINY, 5, 40, seeds[index : index + 1])
        assert torch.equal(of_scan(joined, index)[0], of_scan(alone, 0)[0])
        assert torch.equal(of_scan(joined, index)[1], of_scan(alone, 0)[1])
        assert torch.equal(alone.coordinates, reordered.coordinates)
    other = voxelise(join_scans(scans), TINY, 5, 40, seeds + 1)
    assert not torch.equal(joined.coordinates, other.coordinates)


def test_budget_keeps_every_voxel_equally_often() -> None:
    scan = join_scans([random_scan(0, 400)])
    everything = voxelise(scan, TINY, None, None, None)
    total = len(everything.coordinates)
    kept = torch.zeros(TINY.sparse_shape)
    for seed in range(200):
        chosen = voxelise(scan, TINY, None, total // 2, torch.tensor([seed])).coordinates
        kept[tuple(chosen[:, 1:].T)] += 1
    shares = kept[tuple(everything.coordinates[:, 1:].T)] / 200
    assert shares.min() > 0.3 and shares.max() < 0.7


def test_budget_without_seeds_and_wrong_columns_are_named() -> None:
    with pytest.raises(ValueError, match="seeds"):
        voxelise(join_scans([random_scan(0, 300)]), TINY, 5, 4, None)
    with pytest.raises(ValueError, match="elongation"):
        voxelise(join_scans([random_scan(0, 30)]), GRIDS["waymo"], 5, None, None)


def test_offset_features_do_not_tell_where_a_voxel_is() -> None:
    scan = random_scan(3, 400)
    moved = scan + np.array([8 * 0.25, -8 * 0.25, 0, 0], dtype=np.float32) * np.float32(0.5)
    wide = VoxelGrid("wide", (-8.0, -8.0, -0.5), (8.0, 8.0, 0.5), (0.25, 0.25, 0.25), 2)
    here, there = (offset_features(voxelise(join_scans([s]), wide, None, None, None), wide) for s in (scan, moved))
    torch.testing.assert_close(here.features, there.features, atol=1e-4, rtol=0)
    assert here.features[:, :4].abs().max() <= 1 + 1e-5
    assert (here.features[:, 6] == 1).all()
    torch.testing.assert_close(here.features[:, 5].exp(), here.counts.float())


def test_bev_cells_are_those_of_the_points() -> None:
    scan = random_scan(5, 500, spread=20.0)
    voxels = voxelise(join_scans([scan]), SMALL, None, None, None)
    cells = SMALL.cell_ids(scan)
    assert set(bev_cells(voxels.coordinates, SMALL).tolist()) == set(cells[cells >= 0].tolist())


def test_keys_do_not_overflow_for_large_batches() -> None:
    grid = GRIDS["waymo"]
    point = torch.tensor([[75.05, 75.05, 3.9, 0.5, 0.1]])
    voxels = voxelise(Points(point, torch.tensor([63]), 64), grid, 5, None, None)
    assert voxels.coordinates.tolist() == [[63, 39, 1502, 1502]]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_gives_the_voxels_of_the_cpu() -> None:
    points = join_scans([random_scan(i, 4000, spread=15.0) for i in range(4)])
    seeds = torch.arange(4)
    cpu = voxelise(points, SMALL, 5, 900, seeds)
    gpu = voxelise(points.to("cuda"), SMALL, 5, 900, seeds.cuda())
    assert torch.equal(cpu.coordinates, gpu.coordinates.cpu()) and torch.equal(cpu.counts, gpu.counts.cpu())
    torch.testing.assert_close(cpu.features, gpu.features.cpu(), atol=1e-6, rtol=0)
    again = voxelise(points.to("cuda"), SMALL, 5, 900, seeds.cuda())
    assert torch.equal(gpu.features, again.features)


class Asked(TorchDispatchMode):
    """Counts how often Python asks the device for a number: each makes the host wait for it."""

    def __init__(self) -> None:
        super().__init__()
        self.times = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.times += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(("max_voxels", "times"), [(None, 0), (40, 1)])
def test_voxels_ask_the_device_for_no_number_but_the_largest_scan(max_voxels: int | None, times: int) -> None:
    points = join_scans([random_scan(1, 500), random_scan(2, 90)])
    with Asked() as asked:
        voxelise(points, SMALL, 5, max_voxels, torch.tensor([1, 2]))
    assert asked.times == times
