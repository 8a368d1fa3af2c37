"""LiDAR data sets: a folder of recorded scans, and simulated scenes."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from jepa_core.contracts import BadSample
from jepa_core.seeds import sample_seed
from jepa_lidar.augment import Augment, augmented
from jepa_lidar.geometry import Boxes, VoxelGrid
from jepa_lidar.readers import read_scan, scan_format
from jepa_lidar.scan_list import BOXES_TABLE, Frame, list_frames
from jepa_lidar.simulate import Scene, Sensor, simulate_scene
from jepa_lidar.voxels import Points, join_scans

_BOX_COLUMNS = ("x", "y", "z", "length", "width", "height", "yaw")


class LidarScans:
    """Every scan below a folder, in natural order; no labels needed.

    A folder that holds ``scans.csv`` or ``boxes_lidar.csv`` keeps its scans in folders named ``scans``; other folders
    below it (uncropped copies, format samples) do not count.

    Args:
        root: searched recursively, through links too.
        grid: scans are cut to its range.
        augment: random views; None = the scan as it is.
        halves: a scan of a group recorded over 360 degrees gives two samples, its front and its rear half turned to
            the front. For grids that begin at the sensor (x = 0).
        intensity_scale: see :func:`jepa_lidar.readers.read_scan`.
        view_deg: only points within this view straight ahead are read; 360 = all.

    Raises:
        ValueError: no such folder, no scan in it, or ``halves`` with a grid that looks behind.
    """

    def __init__(
        self,
        root: str | Path,
        grid: VoxelGrid,
        augment: Augment | None = None,
        halves: bool = False,
        intensity_scale: float | None = None,
        view_deg: float = 360.0,
    ) -> None:
        self.root, self.grid, self.augment, self.intensity_scale = Path(root), grid, augment, intensity_scale
        self.view_deg = view_deg
        if halves and grid.low_m[0] < 0:
            raise ValueError(f"halves: expected a grid that begins at x = 0, got {grid.name} from {grid.low_m[0]} m")
        self._frames = list_frames(self.root, halves)

    def __len__(self) -> int:
        return len(self._frames)

    def sample_id(self, index: int) -> str:
        """Path relative to the root, the same on every machine."""
        return self._frames.sample_id(index)

    def group(self, index: int) -> str:
        """Folder of the scan: samples of one group must not stand on both sides of a split."""
        return self._frames.group_at(index)

    def frames(self, group: str | None = None) -> Sequence[Frame]:
        """The samples of a group, or of all, in order: to split a drive in time with a gap between the parts."""
        if group is None:
            return self._frames
        return [self._frames[place] for place in self.places_by_group().get(group, np.empty(0, np.int64)).tolist()]

    def places_by_group(self) -> dict[str, NDArray[np.int64]]:
        """The indices of the samples of each group, groups in order."""
        return self._frames.places_by_group()

    def subset(self, indices: Sequence[int] | NDArray[np.int64]) -> LidarScans:
        """The same data set with these samples only, in this order."""
        chosen = object.__new__(LidarScans)
        chosen.__dict__.update(self.__dict__)
        chosen._frames = self._frames.take(indices)
        return chosen

    def without_augmentation(self) -> LidarScans:
        """The same samples as they were recorded."""
        plain = self.subset(range(len(self)))
        plain.augment = None
        return plain

    def load(self, index: int, seed: int) -> NDArray[np.float32]:
        """Points ``[P, F]`` in range, F as the grid's ``point_features``; BadSample says what is wrong with a file."""
        frame = self._frames[index]
        scan = read_scan(frame.path, self.intensity_scale)
        try:
            points = scan.columns(self.grid.point_features)
        except KeyError as missing:
            raise BadSample(
                f"{frame.path}: grid {self.grid.name} expects the point feature {missing}, got {', '.join(scan.fields)}"
            ) from None
        if bad := int((~np.isfinite(points)).any(axis=1).sum()):
            raise BadSample(
                f"{frame.path}: expected finite point features, got {bad} of {len(points)} rows with NaN or inf"
            )
        if frame.rear:
            points[:, :2] *= -1.0
        return _cut(points[in_view(points, self.view_deg)], self.grid, self.augment, seed, str(frame.path))

    def collate(self, samples: Sequence[NDArray[np.float32]]) -> Points:
        """The points of several scans, one after another."""
        return join_scans(samples)

    def boxes_for(self, index: int) -> Boxes | None:
        """Labelled boxes of a sample; None where nothing is labelled: no table beside it, or a rear half."""
        frame = self._frames[index]
        return None if frame.rear else recorded_boxes(frame.path)


class SimulatedScans:
    """Simulated scenes as a data set.

    Args:
        count: scenes.
        grid: scans are cut to its range.
        sensor: see :func:`sensor_for`.
        fresh: a new scene every epoch (from the seed :meth:`load` is given); otherwise the same ``count`` scenes.
        seed: data sets of different seeds share no scene.
        augment: random views; None = the scan as it is.
        view_deg: as for :class:`LidarScans`.
    """

    def __init__(
        self,
        count: int,
        grid: VoxelGrid,
        sensor: Sensor,
        fresh: bool,
        seed: int = 0,
        augment: Augment | None = None,
        view_deg: float = 360.0,
    ) -> None:
        if count < 1:
            raise ValueError(f"SimulatedScans: expected at least 1 scene, got {count}")
        if grid.point_features != ("x", "y", "z", "intensity"):
            raise ValueError(
                f"SimulatedScans: the simulator gives x, y, z, intensity, grid {grid.name} wants {grid.point_features}"
            )
        self.count, self.grid, self.sensor, self.fresh = count, grid, sensor, fresh
        self.seed, self.augment, self.view_deg = seed, augment, view_deg

    def __len__(self) -> int:
        return self.count

    def sample_id(self, index: int) -> str:
        """``simulated-<seed>-<index>``."""
        return f"simulated-{self.seed}-{index:06d}"

    def group(self, index: int) -> str:
        """Every scene is a recording of its own."""
        return self.sample_id(index)

    def scene(self, index: int) -> Scene:
        """The fixed scene of this index with its exact boxes: uncut, not augmented."""
        return simulate_scene(sample_seed(self.seed, 0, self.sample_id(index)), self.sensor)

    def load(self, index: int, seed: int) -> NDArray[np.float32]:
        """Points ``[P, 4]`` in range."""
        scene = simulate_scene(seed, self.sensor) if self.fresh else self.scene(index)
        points = scene.points[in_view(scene.points, self.view_deg)]
        return _cut(points, self.grid, self.augment, seed, self.sample_id(index))

    def collate(self, samples: Sequence[NDArray[np.float32]]) -> Points:
        """The points of several scans, one after another."""
        return join_scans(samples)


def sensor_for(grid: VoxelGrid, beams: int = 64) -> Sensor:
    """The simulated sensor that fills a grid: the front half for one that begins at x = 0, else the full circle."""
    full_circle = grid.low_m[0] < 0
    return Sensor(azimuths=1024 if full_circle else 512, beams=beams, full_circle=full_circle)


def recorded_boxes(path: Path) -> Boxes | None:
    """Boxes of a scan ``<drive>/<folder>/<frame>.*`` from ``<drive>/boxes_lidar.csv``; None without such a table.

    Raises:
        ValueError: the table lacks a column or holds something else than numbers.
    """
    table = path.parent.parent / BOXES_TABLE
    frame = path.name[: len(path.name) - len(scan_format(path.name) or path.suffix)]
    if not frame.isdecimal() or not table.is_file():
        return None
    wanted = ("frame", "class", *_BOX_COLUMNS)
    with table.open(newline="") as file:
        reader = csv.DictReader(file)
        try:
            missing = [name for name in wanted if name not in (reader.fieldnames or ())]
            rows = [] if missing else [row for row in reader if int(row["frame"]) == int(frame)]
            values = np.array([[float(row[name]) for name in _BOX_COLUMNS] for row in rows], dtype=np.float32)
        except (TypeError, ValueError, csv.Error) as error:
            raise ValueError(f"{table}: expected frame numbers and metres, but {error}") from None
    if missing:
        raise ValueError(f"{table}: expected the columns {', '.join(wanted)}, got none called {', '.join(missing)}")
    return Boxes(values.reshape(-1, 7), tuple(row["class"] for row in rows))


def in_view(points: NDArray[np.float32], view_deg: float) -> NDArray[np.bool_]:
    """Which points of ``[P, F]`` lie within a view of this width straight ahead (a camera's, say)."""
    found: NDArray[np.bool_] = np.abs(np.arctan2(points[:, 1], points[:, 0])) <= np.deg2rad(view_deg / 2)
    return found if view_deg < 360 else np.ones(len(points), dtype=np.bool_)


def _cut(
    points: NDArray[np.float32], grid: VoxelGrid, augment: Augment | None, seed: int, name: str
) -> NDArray[np.float32]:
    if augment is not None:
        points = augmented(points, augment, seed)
    kept = points[grid.inside(points).numpy()]
    if len(kept) == 0:
        raise BadSample(
            f"{name}: expected points in the range of grid {grid.name} ({grid.low_m} to {grid.high_m} m), "
            f"got none of {len(points)}"
        )
    return kept
