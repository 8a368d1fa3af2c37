"""Which scans a run trains on, which it holds back, and that the two never meet."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from lidar_cases import Scan, configured, scan_of_cells

from jepa_core.seeds import sample_seed
from jepa_lidar.data import LidarScans, SimulatedScans
from jepa_lidar.geometry import GRIDS
from jepa_lidar.settings import SIMULATED
from jepa_lidar.sources import choose_root, held_back, probe_split, training_source

SMALL = GRIDS["small"]
KITTI = Path(os.environ.get("JEPA_DATA", "")) / "lidar" / "kitti_raw_mini"
needs_kitti = pytest.mark.skipif(
    not os.environ.get("JEPA_DATA") or not KITTI.is_dir(),
    reason="needs the environment variable JEPA_DATA and lidar/kitti_raw_mini in it",
)


def fingerprint(points: Scan | torch.Tensor) -> str:
    return hashlib.blake2b(np.ascontiguousarray(np.asarray(points)).tobytes()).hexdigest()


def write_drive(folder: Path, count: int, boxes: bool = False) -> Path:
    """Scans ``<folder>/scans/<frame>.bin`` of different bytes; with boxes every frame has one."""
    (folder / "scans").mkdir(parents=True)
    rows = ["frame,track_id,class,x,y,z,length,width,height,yaw"]
    for frame in range(count):
        scan = scan_of_cells(60, seed=frame)
        scan.tofile(folder / f"scans/{frame:06d}.bin")
        near = scan[np.abs(np.arctan2(scan[:, 1], scan[:, 0])) < 0.5][0]
        rows.append(f"{frame},0,Car,{near[0]},{near[1]},{near[2]},3,3,3,0.1")
    if boxes:
        (folder / "boxes_lidar.csv").write_text("\n".join(rows) + "\n")
    return folder


# --------------------------------------------------------------------------------------------------------------------
# The order of places
# --------------------------------------------------------------------------------------------------------------------


def test_data_root_then_environment_then_simulated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drive = write_drive(tmp_path / "data/lidar/drives", 2)
    named, unnamed = configured("quickstart", "data.root=/elsewhere"), configured("quickstart", "data.root=null")
    monkeypatch.setenv("JEPA_DATA", str(tmp_path / "data"))
    assert choose_root(named).root == "/elsewhere" and choose_root(named).reason == "data.root"
    assert choose_root(unnamed).root == str(drive) and "JEPA_DATA" in choose_root(unnamed).reason
    assert choose_root(configured("quickstart", "data.root=simulated")).root == SIMULATED
    write_drive(tmp_path / "data/lidar/more", 2)
    assert choose_root(unnamed).root == str(tmp_path / "data/lidar")
    monkeypatch.delenv("JEPA_DATA")
    assert choose_root(unnamed).root == SIMULATED and isinstance(training_source(unnamed), SimulatedScans)


def test_a_missing_root_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="data.root: expected a folder.*nowhere") as raised:
        training_source(configured("quickstart", f"data.root={tmp_path / 'nowhere'}"))
    assert "\n" not in str(raised.value)


# --------------------------------------------------------------------------------------------------------------------
# Simulated scenes
# --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fresh", [True, False])
def test_probe_scenes_share_nothing_with_training_scenes(fresh: bool) -> None:
    settings = ["probe.train_scans=6", "probe.test_scans=6", "data.azimuths=32", f"data.fresh={fresh}"]
    split = probe_split(configured("quickstart", *settings))
    assert split is not None and split.labelled
    fitted, tested = ({fingerprint(scan.points) for scan in scans} for scans in (split.train, split.test))
    assert len(fitted) == len(tested) == 6 and not fitted & tested
    trained = set()
    for seed in (0, 1):
        config = configured("quickstart", *settings, f"seed={seed}", "data.augment.flip_y=false")
        source = training_source(config)
        for epoch in range(2):
            seeds = [sample_seed(seed, epoch, source.sample_id(i)) for i in range(len(source))]
            trained |= {fingerprint(source.load(i, own)) for i, own in enumerate(seeds)}
    assert len(trained) == (32 if fresh else 16), "every scene is another; fixed ones come back each epoch"
    assert not trained & (fitted | tested)


def test_the_probe_is_the_same_for_every_seed() -> None:
    settings = ["probe.train_scans=2", "probe.test_scans=2", "data.azimuths=32"]
    one, two = (probe_split(configured("quickstart", *settings, f"seed={seed}")) for seed in (0, 1))
    assert one is not None and two is not None
    assert [fingerprint(s.points) for s in one.test] == [fingerprint(s.points) for s in two.test]


# --------------------------------------------------------------------------------------------------------------------
# Recordings
# --------------------------------------------------------------------------------------------------------------------


def test_recordings_without_boxes_hold_back_the_last_tenth_after_a_gap(tmp_path: Path) -> None:
    config = configured("quickstart", f"data.root={write_drive(tmp_path, 50)}")
    source = training_source(config)
    assert [source.sample_id(i) for i in range(len(source))] == [f"scans/{i:06d}.bin" for i in range(44)]
    assert held_back(config) == 6
    split = probe_split(config)
    assert split is not None and not split.labelled and all(scan.objects is None for scan in split.test)
    plain = LidarScans(tmp_path, SMALL)
    assert [fingerprint(scan.points) for scan in split.test] == [fingerprint(plain.load(i, 0)) for i in range(45, 50)]


def test_only_drives_with_boxes_are_held_back_from(tmp_path: Path) -> None:
    write_drive(tmp_path / "a", 20, boxes=True)
    write_drive(tmp_path / "b", 10)
    config = configured("quickstart", f"data.root={tmp_path}")
    source = training_source(config)
    names = [source.sample_id(i) for i in range(len(source))]
    assert names == [f"a/scans/{i:06d}.bin" for i in range(11)] + [f"b/scans/{i:06d}.bin" for i in range(10)]
    split = probe_split(config)
    assert split is not None and split.labelled and len(split.train) == 11 and len(split.test) == 7


def test_shares_can_be_set_and_1_holds_nothing_back(tmp_path: Path) -> None:
    write_drive(tmp_path, 20)
    half = configured("quickstart", f"data.root={tmp_path}", "probe.train_until=.5", "probe.test_from=.75")
    split = probe_split(half)
    assert len(training_source(half)) == 10 and split is not None and len(split.test) == 5
    everything = configured("quickstart", f"data.root={tmp_path}", "probe.train_until=1")
    assert len(training_source(everything)) == 20 and probe_split(everything) is None


def test_a_full_circle_with_boxes_is_probed_on_front_halves(tmp_path: Path) -> None:
    write_drive(tmp_path, 30, boxes=True)
    for path in (tmp_path / "scans").iterdir():
        front = np.fromfile(path, "<f4").reshape(-1, 4)
        np.concatenate([front, front * np.float32([-1, -1, 1, 1])]).tofile(path)
    config = configured("quickstart", f"data.root={tmp_path}")
    split = probe_split(config)
    assert split is not None and split.labelled and len(training_source(config)) > len(split.train)


def test_a_later_end_of_training_keeps_the_gap(tmp_path: Path) -> None:
    write_drive(tmp_path, 100)
    config = configured("quickstart", f"data.root={tmp_path}", "probe.train_until=.92")
    split = probe_split(config)
    assert len(training_source(config)) == 92 and split is not None and len(split.test) == 6


def test_folders_too_small_to_hold_back_from_say_so(tmp_path: Path) -> None:
    for index in range(3):
        write_drive(tmp_path / f"drive_{index}", 1)
    with pytest.raises(ValueError, match="3 scans in folders too small.*probe.train_until=1"):
        training_source(configured("quickstart", f"data.root={tmp_path}"))
    assert len(training_source(configured("quickstart", f"data.root={tmp_path}", "probe.train_until=1"))) == 3


def test_files_the_probe_cannot_read_are_counted(tmp_path: Path) -> None:
    write_drive(tmp_path, 50)
    (tmp_path / "scans/000047.bin").write_bytes(b"torn")
    split = probe_split(configured("quickstart", f"data.root={tmp_path}"))
    assert split is not None and len(split.test) == 4 and "1 files could not be read" in split.note


def test_the_seeds_of_the_probes_scenes_are_refused() -> None:
    with pytest.raises(ValueError, match="seed: 1000002"):
        training_source(configured("quickstart", "seed=1000002"))


def test_an_environment_without_lidar_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JEPA_DATA", str(tmp_path))
    assert str(tmp_path / "lidar") in choose_root(configured("quickstart", "data.root=null")).reason


@needs_kitti
def test_the_time_split_of_the_real_drive() -> None:
    config = configured("quickstart", f"data.root={KITTI}", "probe.train_scans=2", "probe.test_scans=2")
    source = training_source(config)
    names = [source.sample_id(i) for i in range(len(source))]
    labelled = [f"drive_0005/scans/{frame:06d}.npz" for frame in range(90)]
    assert len(names) == len(set(names)) == 134 and names[:90] == labelled
    assert {name.rpartition("/")[0] for name in names[90:]} == {"drive_0048/scans"}
    assert sum(name.endswith("#rear") for name in names[90:]) == 22
    assert held_back(config) == 64
    split = probe_split(config)
    assert split is not None and split.labelled
    drive = LidarScans(KITTI / "drive_0005", SMALL)
    frames = {fingerprint(drive.load(frame, 0)): frame for frame in (0, 89, 100, 153)}
    assert [frames[fingerprint(scan.points)] for scan in (*split.train, *split.test)] == [0, 89, 100, 153]
    assert not {f"drive_0005/scans/{frame:06d}.npz" for frame in range(90, 154)} & set(names)


@needs_kitti
def test_the_environment_alone_finds_the_real_drives() -> None:
    assert choose_root(configured("quickstart", "data.root=null")).root == str(KITTI)
