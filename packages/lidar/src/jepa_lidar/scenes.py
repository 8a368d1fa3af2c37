"""Random street scenes for the LiDAR simulator: a road with kerbs, vehicles, people, and things that look like them.

A scene is lists of upright boxes and cylinders. What a method must learn to tell apart stands side by side: hedges and
walls against vehicles, poles and bins against people.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from jepa_lidar.geometry import Boxes

SENSOR_HEIGHT_M = 1.73
KERB_M = 0.15
KINDS = ("ground", "Car", "Van", "Pedestrian", "hedge", "pole", "bin", "wall", "building")
# Length, width, height.
_CAR_M = ((3.5, 4.8), (1.55, 1.9), (1.35, 1.6))
_VAN_M = ((4.5, 6.0), (1.8, 2.1), (1.9, 2.4))
_FOREGROUND = ("Car", "Van", "Pedestrian")
_ROUGHNESS_M = {"Car": 0.01, "Van": 0.01, "Pedestrian": 0.02, "hedge": 0.10, "pole": 0.01, "bin": 0.01, "wall": 0.02}


@dataclass(frozen=True)
class Road:
    """Ground with two heights: a straight road and the pavement, one kerb higher, on both sides.

    Attributes:
        heading_rad: direction of the road.
        offset_m: distance of the sensor from the middle of the road.
        half_width_m: from the middle to either kerb.
        tilt: slope of the whole ground along x and y.
    """

    heading_rad: float
    offset_m: float
    half_width_m: float
    tilt: tuple[float, float]

    def lateral(self, x: float, y: float) -> float:
        """Signed distance from the middle of the road."""
        return float(y * np.cos(self.heading_rad) - x * np.sin(self.heading_rad) + self.offset_m)

    def place(self, along_m: float, lateral_m: float) -> tuple[float, float]:
        """The point (x, y) at this distance along the road and this distance from its middle."""
        cos, sin = np.cos(self.heading_rad), np.sin(self.heading_rad)
        across = lateral_m - self.offset_m
        return float(along_m * cos - across * sin), float(along_m * sin + across * cos)

    def height(self, x: float, y: float) -> float:
        """Height of the ground."""
        kerb = KERB_M if abs(self.lateral(x, y)) > self.half_width_m else 0.0
        return -SENSOR_HEIGHT_M + self.tilt[0] * x + self.tilt[1] * y + kerb


@dataclass(frozen=True)
class Part:
    """A solid of constant cross-section that stands upright: a yawed box, or a cylinder of diameter length = width.

    Attributes:
        shape: ``box`` or ``cylinder``.
        x, y: centre. bottom, top: heights.
        length, width, yaw: footprint.
        thing: index of the thing it belongs to.
    """

    shape: str
    x: float
    y: float
    bottom: float
    top: float
    length: float
    width: float
    yaw: float
    thing: int


@dataclass(frozen=True)
class Layout:
    """Everything in a scene.

    Attributes:
        road: the ground.
        parts: the solids.
        kinds: index into :data:`KINDS` of each thing.
        roughness_m: standard deviation of each thing's surface.
        boxes: exact boxes of the vehicles and people.
        box_of_thing: index of each thing's box; -1 for things that have none.
    """

    road: Road
    parts: tuple[Part, ...]
    kinds: NDArray[np.int8]
    roughness_m: NDArray[np.float32]
    boxes: Boxes
    box_of_thing: NDArray[np.int16]


def random_layout(rng: np.random.Generator, behind: bool) -> Layout:
    """A random street; ``behind`` fills the half behind the sensor too."""
    road = Road(
        heading_rad=float(rng.normal(0.0, 0.12)),
        offset_m=float(rng.uniform(-2.0, 2.0)),
        half_width_m=float(rng.uniform(4.0, 7.0)),
        tilt=(float(rng.normal(0.0, 0.004)), float(rng.normal(0.0, 0.004))),
    )
    builder = _Builder(road, rng, behind)
    for add, low, high in (
        (builder.add_building, 2, 6),
        (builder.add_vehicle, 5, 11),
        (builder.add_person, 3, 9),
        (builder.add_wall, 1, 3),
        (builder.add_hedge, 3, 8),
        (builder.add_pole, 4, 10),
        (builder.add_bin, 2, 6),
    ):
        for _ in range(int(rng.integers(low, high + 1)) * (2 if behind else 1)):
            add()
    return builder.layout()


class _Builder:
    """Adds things one at a time; one that would overlap an earlier one is left out."""

    def __init__(self, road: Road, rng: np.random.Generator, behind: bool) -> None:
        self.road, self.rng = road, rng
        self.first_m = -48.0 if behind else 2.0
        self.parts: list[Part] = []
        self.kinds: list[str] = []
        self.boxes: list[tuple[float, ...]] = []
        self.box_of_thing: list[int] = []
        self.footprints = np.empty((256, 5))
        self.footprints[0] = (0.0, 0.0, 5.0, 2.4, 0.0)  # the car that carries the sensor
        self.used = 1

    def layout(self) -> Layout:
        names = tuple(kind for kind in self.kinds if kind in _FOREGROUND)
        return Layout(
            road=self.road,
            parts=tuple(self.parts),
            kinds=np.array([KINDS.index(kind) for kind in self.kinds], dtype=np.int8),
            roughness_m=np.array([_ROUGHNESS_M.get(kind, 0.02) for kind in self.kinds], dtype=np.float32),
            boxes=Boxes(np.array(self.boxes, dtype=np.float32).reshape(-1, 7), names),
            box_of_thing=np.array(self.box_of_thing, dtype=np.int16),
        )

    def add_vehicle(self) -> None:
        van = self.rng.random() < 0.2
        length, width, height = (self._between(*range_m) for range_m in (_VAN_M if van else _CAR_M))
        side = self._side()
        parked = self.rng.random() < 0.5
        lateral = side * (self.road.half_width_m - width / 2 - 0.2 if parked else self._between(1.2, 2.4))
        yaw = self.road.heading_rad + (np.pi if side > 0 else 0.0) + self.rng.normal(0.0, 0.05)
        if self.rng.random() < 0.1:
            yaw += np.pi / 2
        at = self._settle(lateral, length, width, yaw)
        if at is None:
            return
        x, y, floor = at
        self._label("Van" if van else "Car", x, y, floor + 0.2, floor + height, length, width, yaw)
        waist = floor + (height if van else 0.55 * height)
        self._part("box", x, y, floor + 0.2, waist, length, width, yaw)
        if not van:
            back = -self._between(0.0, 0.12) * length
            cabin = self._between(0.50, 0.65) * length
            x, y = x + back * np.cos(yaw), y + back * np.sin(yaw)
            self._part("box", x, y, waist, floor + height, cabin, 0.9 * width, yaw)

    def add_person(self) -> None:
        radius, height = self._between(0.2, 0.3), self._between(1.5, 1.9)
        half = self.road.half_width_m
        crosses = self.rng.random() < 0.3
        lateral = self._side() * (self._between(0.5, half - 0.5) if crosses else half + self._between(0.4, 3.0))
        yaw = self._between(-np.pi, np.pi)
        at = self._settle(lateral, 2 * radius, 2 * radius, yaw)
        if at is None:
            return
        x, y, floor = at
        self._label("Pedestrian", x, y, floor, floor + height, 2 * radius, 2 * radius, yaw)
        self._part("cylinder", x, y, floor, floor + height, 2 * radius, 2 * radius, yaw)

    def add_hedge(self) -> None:
        self._add_block("hedge", (0.6, 5.0), (1.2, 7.0), (0.5, 1.8), (0.7, 1.9), turned=0.2)

    def add_wall(self) -> None:
        tall = self.rng.random() < 0.5
        self._add_block("wall", (2.5, 6.0), (5.0, 18.0), (0.2, 0.4), (1.8, 2.8) if tall else (0.5, 1.2), turned=0.3)

    def add_building(self) -> None:
        self._add_block("building", (8.0, 16.0), (8.0, 25.0), (6.0, 10.0), (4.0, 10.0), turned=0.0)

    def add_pole(self) -> None:
        self._add_round("pole", (0.06, 0.3), (2.2, 6.0))

    def add_bin(self) -> None:
        self._add_round("bin", (0.1, 0.4), (0.7, 1.4))

    def _add_block(
        self,
        kind: str,
        beyond_kerb: tuple[float, float],
        lengths: tuple[float, float],
        widths: tuple[float, float],
        heights: tuple[float, float],
        turned: float,
    ) -> None:
        """A box beside the road; the share ``turned`` stands across it."""
        length, width, height = (self._between(*range_m) for range_m in (lengths, widths, heights))
        across = self.rng.random() < turned
        yaw = self.road.heading_rad + (np.pi / 2 if across else 0.0) + self.rng.normal(0.0, 0.05)
        reach = (length if across else width) / 2
        lateral = self._side() * (self.road.half_width_m + reach + self._between(*beyond_kerb))
        at = self._settle(lateral, length, width, yaw)
        if at is not None:
            self._thing(kind, -1)
            self._part("box", at[0], at[1], at[2] - 0.3, at[2] + height, length, width, yaw)

    def _add_round(self, kind: str, radii: tuple[float, float], heights: tuple[float, float]) -> None:
        size, height = 2 * self._between(*radii), self._between(*heights)
        lateral = self._side() * (self.road.half_width_m + self._between(0.4, 7.0))
        at = self._settle(lateral, size, size, 0.0)
        if at is not None:
            self._thing(kind, -1)
            self._part("cylinder", at[0], at[1], at[2] - 0.1, at[2] + height, size, size, 0.0)

    def _between(self, low: float, high: float) -> float:
        return float(low + (high - low) * self.rng.random())

    def _side(self) -> float:
        return 1.0 if self.rng.random() < 0.5 else -1.0

    def _settle(self, lateral: float, length: float, width: float, yaw: float) -> tuple[float, float, float] | None:
        """A place (x, y, ground height) at this distance from the road's middle; None if something stands there."""
        x, y = self.road.place(self._between(self.first_m, 50.0), lateral)
        footprint = np.array([x, y, length + 0.2, width + 0.2, yaw])
        if rectangles_overlap(footprint, self.footprints[: self.used]).any():
            return None
        self.footprints[self.used] = footprint
        self.used += 1
        return x, y, self.road.height(x, y)

    def _thing(self, kind: str, box: int) -> None:
        self.kinds.append(kind)
        self.box_of_thing.append(box)

    def _label(
        self, kind: str, x: float, y: float, bottom: float, top: float, length: float, width: float, yaw: float
    ) -> None:
        self._thing(kind, len(self.boxes))
        wrapped = (yaw + np.pi) % (2 * np.pi) - np.pi
        self.boxes.append((x, y, (bottom + top) / 2, length, width, top - bottom, wrapped))

    def _part(
        self, shape: str, x: float, y: float, bottom: float, top: float, length: float, width: float, yaw: float
    ) -> None:
        self.parts.append(Part(shape, x, y, bottom, top, length, width, yaw, len(self.kinds) - 1))


def rectangles_overlap(one: NDArray[np.float64], others: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which rectangles ``[N, 5]`` (x, y, length, width, yaw) overlap ``one`` ``[5]``: the separating-axis theorem."""
    dx, dy = others[:, 0] - one[0], others[:, 1] - one[1]
    turn = others[:, 4] - one[4]
    cos, sin = np.abs(np.cos(turn)), np.abs(np.sin(turn))
    length, width = one[2] / 2, one[3] / 2
    lengths, widths = others[:, 2] / 2, others[:, 3] / 2
    c, s = np.cos(one[4]), np.sin(one[4])
    cs, ss = np.cos(others[:, 4]), np.sin(others[:, 4])
    return (
        (np.abs(dx * c + dy * s) < length + lengths * cos + widths * sin)
        & (np.abs(dy * c - dx * s) < width + lengths * sin + widths * cos)
        & (np.abs(dx * cs + dy * ss) < lengths + length * cos + width * sin)
        & (np.abs(dy * cs - dx * ss) < widths + length * sin + width * cos)
    )
