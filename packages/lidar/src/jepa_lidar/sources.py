"""Which scans a run trains on and which it holds back for the probe."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from jepa_core.contracts import BadSample
from jepa_core.evaluation_source import Labelled, Split
from jepa_lidar.augment import Augment
from jepa_lidar.data import LidarScans, SimulatedScans, in_view, sensor_for
from jepa_lidar.geometry import GRIDS, VoxelGrid, points_in_boxes
from jepa_lidar.probe import ProbeScan, ProbeSplit
from jepa_lidar.scan_list import Frame
from jepa_lidar.settings import SIMULATED, LidarRun
from jepa_lidar.simulate import Sensor

# Simulated data sets of different seeds share no scene; these two are never trained on.
PROBE_TRAIN_SEED, PROBE_TEST_SEED = 1_000_001, 1_000_002
# A box stands on the ground: its lowest 15 cm hold road, not object.
FLOOR_M = 0.15
BLOCKS = 6


@dataclass(frozen=True)
class Choice:
    """Where the data come from, and why."""

    root: str
    reason: str


def choose_root(config: LidarRun) -> Choice:
    """``data.root``, then ``JEPA_DATA``/lidar, then simulated scans."""
    if config.data.root is not None:
        return Choice(config.data.root, "data.root")
    folder = Path(os.environ.get("JEPA_DATA", "")) / "lidar"
    if os.environ.get("JEPA_DATA") and folder.is_dir():
        sets = [entry for entry in sorted(folder.iterdir()) if entry.is_dir()]
        chosen = sets[0] if len(sets) == 1 else folder
        return Choice(str(chosen), "found through the environment variable JEPA_DATA")
    if os.environ.get("JEPA_DATA"):
        return Choice(SIMULATED, f"no data.root, and JEPA_DATA has no folder {folder}")
    return Choice(SIMULATED, "no data.root and no JEPA_DATA: simulated scans need no files")


def training_source(config: LidarRun) -> LidarScans | SimulatedScans:
    """The scans of a run, without those held back for the probe."""
    root, grid = choose_root(config).root, GRIDS[config.data.grid]
    if root == SIMULATED:
        if config.seed in (PROBE_TRAIN_SEED, PROBE_TEST_SEED):
            raise ValueError(f"seed: {config.seed} makes the probe's own scenes; choose any other seed")
        return SimulatedScans(
            config.data.scenes,
            grid,
            _sensor(config, grid),
            config.data.fresh,
            config.seed,
            _augment(config),
            config.data.view_deg,
        )
    scans = _scans(config, root)
    kept = np.flatnonzero(_parts(config, scans) == _TRAIN)
    if not len(kept):
        raise ValueError(
            f"data.root: {root} has {len(scans)} scans in folders too small to hold any back for the probe; "
            "set probe.train_until=1 to train on all of them without one"
        )
    return scans.subset(kept)


def held_back(config: LidarRun) -> int:
    """Scans of a folder that are not trained on."""
    root = choose_root(config).root
    if root == SIMULATED:
        return 0
    return int((_parts(config, _scans(config, root)) != _TRAIN).sum())


def probe_split(config: LidarRun) -> ProbeSplit | None:
    """The scans of the probe; None where nothing is held back."""
    root, grid = choose_root(config).root, GRIDS[config.data.grid]
    if root == SIMULATED:
        return _simulated_split(config, grid)
    return _recorded_split(config, _scans(config, root))


def evaluation_source(config: LidarRun, split: Split) -> Labelled | None:
    """Scans without augmentation, each with its drive as group; a scan has no class. None where the split is empty.

    Raises:
        ValueError: all simulated scenes are asked for.
    """
    root, grid = choose_root(config).root, GRIDS[config.data.grid]
    if root == SIMULATED:
        return _unlabelled(_evaluated_scenes(config, grid, split))
    scans = _scans(config, root)
    parts = _parts(config, scans)
    chosen = (
        np.arange(len(scans)) if split == "all" else np.flatnonzero(parts == {"train": _TRAIN, "test": _TEST}[split])
    )
    return _unlabelled(scans.subset(chosen).without_augmentation()) if len(chosen) else None


def _evaluated_scenes(config: LidarRun, grid: VoxelGrid, split: Split) -> SimulatedScans:
    if split == "all":
        raise ValueError("split: simulated scenes have no end; choose train or test")
    count, seed = config.data.scenes, config.seed
    if split == "test":
        count, seed = config.probe.test_scans, PROBE_TEST_SEED
    return SimulatedScans(count, grid, _sensor(config, grid), fresh=False, seed=seed, view_deg=config.data.view_deg)


def _unlabelled(scans: LidarScans | SimulatedScans) -> Labelled:
    return Labelled(scans, [None] * len(scans), [scans.group(index) for index in range(len(scans))])


def _sensor(config: LidarRun, grid: VoxelGrid) -> Sensor:
    sensor = sensor_for(grid, config.data.beams)
    return replace(sensor, azimuths=config.data.azimuths * (2 if sensor.full_circle else 1))


def _augment(config: LidarRun) -> Augment:
    wanted, angle = config.data.augment, math.radians(config.data.augment.rotation_deg)
    return Augment(wanted.flip_x, wanted.flip_y, (-angle, angle), (1 - wanted.scale, 1 + wanted.scale), wanted.shuffle)


def _scans(config: LidarRun, root: str) -> LidarScans:
    grid = GRIDS[config.data.grid]
    halves = config.data.halves and grid.low_m[0] >= 0
    return LidarScans(root, grid, _augment(config), halves, config.data.intensity_scale or None, config.data.view_deg)


# --------------------------------------------------------------------------------------------------------------------
# Simulated scenes
# --------------------------------------------------------------------------------------------------------------------


def _simulated_split(config: LidarRun, grid: VoxelGrid) -> ProbeSplit:
    sensor = _sensor(config, grid)

    def scenes(count: int, seed: int) -> list[ProbeScan]:
        source = SimulatedScans(count, grid, sensor, fresh=False, seed=seed, view_deg=config.data.view_deg)
        return [_simulated_scan(source, index) for index in range(count)]

    train = scenes(config.probe.train_scans, PROBE_TRAIN_SEED)
    test = scenes(config.probe.test_scans, PROBE_TEST_SEED)
    note = (
        f"simulated scenes with hard negatives, fitted on {len(train)}, tested on {len(test)} others, none trained on; "
        "errors by bootstrap over scenes"
    )
    return ProbeSplit(train, test, note)


def _simulated_scan(source: SimulatedScans, index: int) -> ProbeScan:
    scene = source.scene(index)
    kept = source.grid.inside(scene.points).numpy() & in_view(scene.points, source.view_deg)
    points = torch.from_numpy(scene.points[kept])
    cells = source.grid.cell_ids(points)
    counted = torch.zeros(source.grid.bev_lattice.count, dtype=torch.bool)
    counted[cells] = True
    objects = torch.zeros_like(counted)
    objects[cells[torch.from_numpy(scene.box_index[kept] >= 0)]] = True
    return ProbeScan(points, index, counted, objects)


# --------------------------------------------------------------------------------------------------------------------
# Recordings, split in time with a gap
# --------------------------------------------------------------------------------------------------------------------


_TRAIN, _GAP, _TEST = range(3)


def _parts(config: LidarRun, scans: LidarScans) -> NDArray[np.int8]:
    """Of every frame whether it is trained on, in the gap, or tested on, ``[N]``.

    Where any drive has boxes, only such are held back from.
    """
    labelled = _labelled_groups(scans)
    until, start = _shares(config, bool(labelled))
    found = np.full(len(scans), _TRAIN, np.int8)
    for group, places in scans.places_by_group().items():
        if until < 1 and (not labelled or group in labelled):
            found[places] = _GAP
            found[places[int(start * len(places)) :]] = _TEST
            found[places[: int(until * len(places))]] = _TRAIN
    return found


def _shares(config: LidarRun, labelled: bool) -> tuple[float, float]:
    """Where training ends and the test begins, as fractions of a recording; what is not set keeps the chosen gap."""
    until, start = (0.585, 0.65) if labelled else (0.88, 0.90)
    if config.probe.train_until:
        start = max(start, config.probe.train_until + start - until)
    return config.probe.train_until or until, config.probe.test_from or start


def _labelled_groups(scans: LidarScans) -> set[str]:
    by_group = scans.places_by_group()
    return {group for group, places in by_group.items() if scans.boxes_for(int(places[0])) is not None}


def _recorded_split(config: LidarRun, scans: LidarScans) -> ProbeSplit | None:
    labelled = _labelled_groups(scans)
    plain = scans.without_augmentation()
    parts = zip(scans.frames(), _parts(config, scans).tolist(), strict=True)
    # A rear half has no boxes: they cover the view forward.
    counted = [(frame, part) for frame, part in parts if _counts(frame, labelled)]
    train = _spread([frame for frame, part in counted if part == _TRAIN], config.probe.train_scans)
    test = _spread([frame for frame, part in counted if part == _TEST], config.probe.test_scans)
    blocks = [place * min(BLOCKS, len(test)) // len(test) for place in range(len(test))]
    fitted = [scan for frame in train if (scan := _recorded_scan(config, plain, frame, 0))]
    tested = [scan for f, block in zip(test, blocks, strict=True) if (scan := _recorded_scan(config, plain, f, block))]
    if not fitted or len({scan.unit for scan in tested}) < 2:
        return None
    kind = "recorded scans with boxes" if labelled else "recorded scans without boxes"
    note = f"{kind}, fitted on {len(fitted)} early ones, tested on {len(tested)} later ones after a gap"
    if lost := len(train) + len(test) - len(fitted) - len(tested):
        note += f"; {lost} files could not be read and are left out"
    if labelled:
        note += f"; errors by bootstrap over {blocks[-1] + 1} blocks in time"
        note += f"; cells within {config.probe.azimuth_deg:g} degrees of straight ahead, where boxes exist"
    return ProbeSplit(fitted, tested, note)


def _counts(frame: Frame, labelled: set[str]) -> bool:
    return not labelled or (frame.group in labelled and not frame.rear)


def _spread(frames: Sequence[Frame], count: int) -> list[Frame]:
    """At most ``count`` of the frames, evenly spread."""
    places = np.unique(np.linspace(0, len(frames) - 1, min(count, len(frames))).round().astype(int))
    return [frames[place] for place in places]


def _recorded_scan(config: LidarRun, scans: LidarScans, frame: Frame, unit: int) -> ProbeScan | None:
    """None for a file that cannot be read; the note of the table counts them."""
    try:
        points = torch.from_numpy(scans.load(frame.index, 0))
    except BadSample:
        return None
    grid, boxes = scans.grid, scans.boxes_for(frame.index)
    cells = grid.cell_ids(points)
    counted = torch.zeros(grid.bev_lattice.count, dtype=torch.bool)
    counted[cells] = True
    if boxes is None:
        return ProbeScan(points, unit, counted, None)
    counted &= _in_camera(grid, config.probe.azimuth_deg)
    objects = torch.zeros_like(counted)
    objects[cells[points_in_boxes(points, boxes.values, FLOOR_M) >= 0]] = True
    return ProbeScan(points, unit, counted, objects)


def _in_camera(grid: VoxelGrid, azimuth_deg: float) -> torch.Tensor:
    """Bool ``[cells]``: cells whose centre lies within this angle of straight ahead; boxes exist only there."""
    lattice = grid.bev_lattice
    y, x = lattice.positions(torch.arange(lattice.count)).unbind(1)
    return torch.atan2(y, x).abs() <= math.radians(azimuth_deg)
