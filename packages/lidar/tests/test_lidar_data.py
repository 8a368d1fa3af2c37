"""The scan data sets: what counts as a sample, what a seed fixes, halves, boxes, and what is refused."""

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from jepa_core.contracts import BadSample, SampleSource
from jepa_lidar.augment import FLIP_Y, PAPER, Augment, augmented
from jepa_lidar.data import LidarScans, SimulatedScans, recorded_boxes, sensor_for
from jepa_lidar.geometry import GRIDS, points_in_boxes
from jepa_lidar.simulate import Sensor
from jepa_lidar.voxels import voxelise

SMALL = GRIDS["small"]


def write_scan(path: Path, full_circle: bool = True, seed: int = 0, count: int = 500) -> np.ndarray:
    rng = np.random.default_rng(seed)
    table = np.concatenate(
        (rng.uniform(-20, 20, (count, 2)), rng.uniform(-2, 0.5, (count, 1)), rng.random((count, 1))), 1
    )
    if not full_circle:
        table[:, 0] = np.abs(table[:, 0])
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(table.astype("<f4").tobytes())
    return table.astype(np.float32)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for index in (10, 2, 1):
        write_scan(tmp_path / f"drive_b/scan_{index}.bin", full_circle=False, seed=index)
    for index in range(2):
        write_scan(tmp_path / f"drive_a/velodyne/{index:06d}.bin", seed=100 + index)
    (tmp_path / "drive_a/readme.txt").write_text("no scan")
    (tmp_path / ".cache").mkdir()
    write_scan(tmp_path / ".cache/000000.bin")
    return tmp_path


def test_natural_order_ids_groups_and_numbers(folder: Path) -> None:
    scans: SampleSource = LidarScans(folder, SMALL)
    assert [scans.sample_id(i) for i in range(len(scans))] == [
        "drive_a/velodyne/000000.bin",
        "drive_a/velodyne/000001.bin",
        "drive_b/scan_1.bin",
        "drive_b/scan_2.bin",
        "drive_b/scan_10.bin",
    ]
    frames = LidarScans(folder, SMALL).frames("drive_b")
    assert [frame.number for frame in frames] == [1, 2, 10] and {frame.group for frame in frames} == {"drive_b"}


def test_load_cuts_to_the_grid_and_collates(folder: Path) -> None:
    scans = LidarScans(folder, SMALL)
    table = write_scan(folder / "drive_b/scan_1.bin", full_circle=False, seed=1)
    np.testing.assert_array_equal(scans.load(2, 0), table[SMALL.inside(table).numpy()])
    points = scans.collate([scans.load(i, 0) for i in (2, 0)])
    assert points.batch_size == 2 and points.features.dtype == torch.float32 and points.batch.dtype == torch.int64
    assert len(voxelise(points, SMALL, 5, None, None).coordinates) > 100


def test_halves_of_full_circles_only(folder: Path) -> None:
    whole, halves = LidarScans(folder, SMALL), LidarScans(folder, SMALL, halves=True)
    assert len(halves) == len(whole) + 2
    assert halves.sample_id(1) == "drive_a/velodyne/000000.bin#rear"
    np.testing.assert_array_equal(halves.load(0, 0), whole.load(0, 0))
    table = np.fromfile(folder / "drive_a/velodyne/000000.bin", "<f4").reshape(-1, 4) * np.array(
        [-1, -1, 1, 1], np.float32
    )
    np.testing.assert_array_equal(halves.load(1, 0), table[SMALL.inside(table).numpy()])
    with pytest.raises(ValueError, match="begins at x = 0"):
        LidarScans(folder, GRIDS["nuscenes"], halves=True)


def test_a_seed_fixes_a_view(folder: Path) -> None:
    scans = LidarScans(folder, SMALL, augment=Augment(flip_y=True, rotation_rad=(-0.5, 0.5), scale=(0.9, 1.1)))
    np.testing.assert_array_equal(scans.load(3, 7), scans.load(3, 7))
    assert not np.array_equal(scans.load(3, 7)[:50], scans.load(3, 8)[:50])
    again = pickle.loads(pickle.dumps(scans))  # as loader processes get it
    np.testing.assert_array_equal(scans.load(3, 7), again.load(3, 7))


def test_augmentation_keeps_shape_and_switches_are_independent() -> None:
    points = np.random.default_rng(0).normal(size=(200, 4)).astype(np.float32)
    for seed in range(20):
        view = augmented(points, PAPER, seed)
        ratio = np.linalg.norm(view[:, :3], axis=1).mean() / np.linalg.norm(points[:, :3], axis=1).mean()
        assert 0.95 <= ratio <= 1.05
        np.testing.assert_array_equal(np.sort(view[:, 3]), np.sort(points[:, 3]))
        flat = augmented(points, Augment(shuffle=False, rotation_rad=PAPER.rotation_rad, scale=PAPER.scale), seed)
        np.testing.assert_allclose(
            np.linalg.norm(flat[:, :2], axis=1) / np.linalg.norm(points[:, :2], axis=1), ratio, rtol=1e-4
        )
    np.testing.assert_array_equal(augmented(points, Augment(shuffle=False), 3), points)
    flips = [np.allclose(np.sort(augmented(points, FLIP_Y, seed)[:, 1]), np.sort(-points[:, 1])) for seed in range(200)]
    assert 70 < sum(flips) < 130
    with pytest.raises(ValueError, match="scale"):
        Augment(scale=(0.0, 1.0))


def test_what_cannot_be_read_is_named(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(ValueError, match=r"no folder"):
        LidarScans(tmp_path / "nowhere", SMALL)
    (tmp_path / "bare").mkdir()
    with pytest.raises(ValueError, match=r"\.pcd\.bin, \.bin, \.pcd, \.ply, \.npz"):
        LidarScans(tmp_path / "bare", SMALL)
    (folder / "drive_b/scan_1.bin").write_bytes(b"short")
    np.full((9, 4), 0.5, "<f4").tofile(folder / "drive_b/scan_2.bin")
    (folder / "drive_b/scan_2.bin").write_bytes(
        (np.ones((9, 4), "<f4") * np.array([300, 0, 0, 1], np.float32)).tobytes()
    )
    scans = LidarScans(folder, SMALL, halves=True)
    assert len(scans) == 7  # a bad file still is a sample: it is reported when it is loaded
    with pytest.raises(BadSample, match="5 bytes"):
        scans.load(4, 0)
    with pytest.raises(BadSample, match="range of grid small.*none of 9"):
        scans.load(5, 0)
    np.savez(folder / "n.npz", xyz=np.ones((3, 2), np.int16), intensity=np.ones(2), scale=1.0, elongation=[0.5, np.nan])
    with pytest.raises(BadSample, match="finite.*1 of 2 rows"):
        LidarScans(folder, GRIDS["waymo"]).load(5, 0)
    with pytest.raises(BadSample, match="elongation"):
        LidarScans(folder, GRIDS["waymo"]).load(0, 0)


def test_links_that_lead_back_are_followed_once(folder: Path) -> None:
    (folder / "drive_a/again").symlink_to(folder)
    assert len(LidarScans(folder, SMALL)) == 5


def test_subset_keeps_names(folder: Path) -> None:
    scans = LidarScans(folder, SMALL)
    part = scans.subset([4, 1])
    assert [part.sample_id(i) for i in range(len(part))] == [scans.sample_id(4), scans.sample_id(1)]
    assert [frame.index for frame in part.frames()] == [0, 1] and len(scans) == 5
    np.testing.assert_array_equal(part.load(1, 3), scans.load(1, 3))


# ---- the simulated data set ------------------------------------------------------------------------------------------


def test_simulated_scenes_fixed_and_fresh() -> None:
    fixed = SimulatedScans(3, SMALL, sensor_for(SMALL), fresh=False)
    fresh: SampleSource = SimulatedScans(3, SMALL, sensor_for(SMALL), fresh=True)
    np.testing.assert_array_equal(fixed.load(1, 5), fixed.load(1, 6))
    np.testing.assert_array_equal(fresh.load(1, 5), fresh.load(2, 5))
    assert not np.array_equal(fresh.load(1, 5)[:99], fresh.load(1, 6)[:99])
    scene = fixed.scene(1)
    np.testing.assert_array_equal(fixed.load(1, 0), scene.points[SMALL.inside(scene.points).numpy()])
    assert len(scene.boxes) > 0 and fixed.sample_id(1) == "simulated-0-000001"
    other = SimulatedScans(3, SMALL, sensor_for(SMALL), fresh=False, seed=1)
    assert not np.array_equal(other.load(1, 0)[:99], fixed.load(1, 0)[:99])


def test_simulated_voxels_are_as_many_as_the_recipe_expects() -> None:
    scans = SimulatedScans(4, SMALL, sensor_for(SMALL), fresh=False)
    voxels = voxelise(scans.collate([scans.load(i, 0) for i in range(4)]), SMALL, None, None, None)
    per_scan = torch.bincount(voxels.coordinates[:, 0])
    assert per_scan.min() > 5000 and per_scan.max() < 16_000


def test_simulated_grids() -> None:
    assert sensor_for(GRIDS["nuscenes"]).full_circle and not sensor_for(SMALL).full_circle
    with pytest.raises(ValueError, match="elongation"):
        SimulatedScans(3, GRIDS["waymo"], Sensor(), fresh=True)
    with pytest.raises(ValueError, match="at least 1"):
        SimulatedScans(0, SMALL, Sensor(), fresh=True)


# ---- recorded scans with boxes ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def kitti() -> Path:
    root = Path(os.environ.get("JEPA_DATA", "")) / "lidar/kitti_raw_mini"
    if "JEPA_DATA" not in os.environ or not root.is_dir():
        pytest.skip("JEPA_DATA/lidar/kitti_raw_mini is not there")
    return root


def test_kitti_pool(kitti: Path) -> None:
    scans = LidarScans(kitti, SMALL, halves=True)
    pool = [f for f in scans.frames("drive_0005/scans") if f.number < 90] + list(scans.frames("drive_0048/scans"))
    assert len(scans) == 154 + 44 and len(pool) == 134
    assert {frame.group for frame in scans.frames()} == {"drive_0005/scans", "drive_0048/scans"}
    assert len(LidarScans(kitti, SMALL)) == 176
    assert len(LidarScans(kitti / "drive_0005", SMALL)) == 154
    rear = next(frame for frame in pool if frame.rear)
    assert rear.sample_id.endswith("#rear") and scans.boxes_for(rear.index) is None
    assert len(scans.load(rear.index, 0)) > 20_000
    assert scans.boxes_for(rear.index - 1) is None


def test_kitti_boxes_hold_their_points(kitti: Path) -> None:
    scans = LidarScans(kitti, SMALL)
    boxes = scans.boxes_for(130)
    assert boxes is not None and set(boxes.names) == {"Car", "Van", "Cyclist"} and len(boxes) == 10
    near = np.hypot(*boxes.values[:, :2].T) < 40
    held = torch.bincount(points_in_boxes(scans.load(130, 0), boxes.values[near]) + 1, minlength=int(near.sum()) + 1)[
        1:
    ]
    assert (held > 0).all() and held.sum() > 500
    assert recorded_boxes(kitti / "formats/kitti_000076.bin") is None


BOX_HEAD = "frame,class,x,y,z,length,width,height,yaw"


@pytest.mark.parametrize("ending", [".bin", ".pcd.bin", ".PCD", ".npz"])
def test_boxes_are_found_whatever_the_scans_ending(ending: str, tmp_path: Path) -> None:
    (tmp_path / "boxes_lidar.csv").write_text(f"{BOX_HEAD}\n7,Car,1,2,0,4,2,1.5,0\n")
    boxes = recorded_boxes(tmp_path / f"scans/000007{ending}")
    assert boxes is not None and boxes.names == ("Car",)
    assert recorded_boxes(tmp_path / f"scans/frame_7{ending}") is None


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("frame,class,x,y\n7,Car,1,2\n", "got none called z, length, width, height, yaw"),
        (f"{BOX_HEAD}\n7,Car,1,2,0,4,wide,1.5,0\n", "'wide'"),
        (f"{BOX_HEAD}\nseven,Car,1,2,0,4,2,1.5,0\n", "'seven'"),
        (f"{BOX_HEAD}\n7,Car,1,2\n", "NoneType"),
        ("", "got none called frame, class"),
    ],
)
def test_a_broken_table_of_boxes_is_one_line(text: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "boxes_lidar.csv").write_text(text)
    with pytest.raises(ValueError, match=r"boxes_lidar.csv: expected") as raised:
        recorded_boxes(tmp_path / "scans/000007.bin")
    assert words in str(raised.value) and "\n" not in str(raised.value)


def test_a_view_straight_ahead_keeps_only_what_lies_in_it() -> None:
    grid = GRIDS["small"]
    wide = SimulatedScans(1, grid, sensor_for(grid), fresh=False)
    narrow = SimulatedScans(1, grid, sensor_for(grid), fresh=False, view_deg=60.0)
    everything, ahead = wide.load(0, 0), narrow.load(0, 0)
    angle = np.degrees(np.abs(np.arctan2(everything[:, 1], everything[:, 0])))
    assert len(ahead) == (angle <= 30).sum() < len(everything)
