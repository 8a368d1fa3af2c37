"""A LiDAR simulator on numpy: rays of a spinning sensor against a random street, with exact boxes.

Ground by two planes and the kerb between them, upright boxes by the slab test, upright cylinders by the quadratic.
All solids are upright, so a ray meets one where a horizontal interval, which depends on its azimuth column alone, meets
a vertical one, which depends on its beam alone; each solid is tested only on the columns it can cover.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from jepa_lidar.geometry import Boxes
from jepa_lidar.scenes import KERB_M, SENSOR_HEIGHT_M, Layout, Part, Road, random_layout

Array = NDArray[np.floating]
_GROUND = -1  # the thing a ray that meets the ground belongs to


@dataclass(frozen=True)
class Sensor:
    """A spinning LiDAR.

    Attributes:
        azimuths: columns over the field of view.
        beams: 64, or 32 (every second one of the 64).
        full_circle: 360 degrees; otherwise the front half.
        max_range_m: no return beyond.
        range_noise_m: standard deviation of a range, besides the roughness of the surface.
        dropout: chance that a return is lost at range 0; it doubles by 40 m and grows with the square.
        rough: factor on the roughness of surfaces; 0 makes them exact.
    """

    azimuths: int = 512
    beams: int = 64
    full_circle: bool = False
    max_range_m: float = 80.0
    range_noise_m: float = 0.02
    dropout: float = 0.06
    rough: float = 1.0

    def __post_init__(self) -> None:
        if self.beams not in (32, 64):
            raise ValueError(f"Sensor: beams must be 32 or 64, got {self.beams}")
        if self.azimuths < 8 or not 0 <= self.dropout < 1:
            raise ValueError(f"Sensor: expected azimuths >= 8 and dropout in 0..1, got {self.azimuths}, {self.dropout}")

    def azimuth_rad(self) -> Array:
        """Azimuth of every column ``[A]``, counter-clockwise from -90 (front half) or -180 degrees."""
        half = np.pi if self.full_circle else np.pi / 2
        return -half + (np.arange(self.azimuths) + 0.5) * (2 * half / self.azimuths)

    def elevation_rad(self) -> Array:
        """Elevation of every beam ``[L]``: the two blocks of an HDL-64."""
        degrees = np.concatenate((np.linspace(2.0, -8.33, 32), np.linspace(-8.83, -24.8, 32)))
        return np.deg2rad(degrees[:: 64 // self.beams])


@dataclass(frozen=True)
class Scene:
    """A simulated scan.

    Attributes:
        points: float32 ``[P, 4]`` x, y, z in metres, intensity in 0..1.
        boxes: exact boxes of vehicles and people, seen or not.
        box_index: int64 ``[P]``, the box a point lies on; -1 on everything else.
        kind: int8 ``[P]``, index into :data:`jepa_lidar.scenes.KINDS`.
    """

    points: NDArray[np.float32]
    boxes: Boxes
    box_index: NDArray[np.int64]
    kind: NDArray[np.int8]


def simulate_scene(seed: int, sensor: Sensor) -> Scene:
    """The scene of this seed: the same bits for the same seed, sensor and numpy."""
    rng = np.random.Generator(np.random.PCG64(seed))
    return scan_layout(random_layout(rng, behind=sensor.full_circle), sensor, rng)


def scan_layout(layout: Layout, sensor: Sensor, rng: np.random.Generator) -> Scene:
    """What the sensor at the origin sees of a layout; ``rng`` gives noise, drop-out and intensity."""
    azimuth, tangent = sensor.azimuth_rad(), _tangents(sensor)
    distance, thing = _cast(layout, azimuth, tangent, sensor)
    slant = np.sqrt(1.0 + tangent**2)
    range_AL = distance * slant
    returned = (range_AL < sensor.max_range_m) & ~_lost(range_AL, sensor, rng)
    column, beam = np.nonzero(returned)
    range_P, thing_P = range_AL[column, beam], thing[column, beam]
    noisy = range_P + _range_error(thing_P, layout, sensor, rng)
    flat = noisy / slant[beam]
    xyz = np.stack((flat * np.cos(azimuth)[column], flat * np.sin(azimuth)[column], flat * tangent[beam]), axis=1)
    intensity = _intensity(thing_P, range_P, len(layout.kinds), rng)
    # Index -1 (ground) reads the entry appended last.
    return Scene(
        points=np.concatenate((xyz, intensity[:, None]), axis=1).astype(np.float32),
        boxes=layout.boxes,
        box_index=np.append(layout.box_of_thing, -1)[thing_P].astype(np.int64),
        kind=np.append(layout.kinds, 0)[thing_P].astype(np.int8),
    )


def _tangents(sensor: Sensor) -> Array:
    tangent = np.tan(sensor.elevation_rad())
    return np.where(np.abs(tangent) < 1e-9, 1e-9, tangent)


def _cast(layout: Layout, azimuth: Array, tangent: Array, sensor: Sensor) -> tuple[Array, NDArray[np.int16]]:
    """Horizontal distance ``[A, L]`` to the first surface of every ray (inf for none) and the thing it belongs to."""
    directions = np.stack((np.cos(azimuth), np.sin(azimuth)))
    distance = _ground_distance(layout.road, directions, tangent)
    thing = np.full(distance.shape, _GROUND, dtype=np.int16)
    for part in layout.parts:
        columns = _columns_covered(part, azimuth, sensor.full_circle)
        if columns.size == 0:
            continue
        near, far = _horizontal_interval(part, directions[:, columns])
        hit, entry = _meet(near, far, part, tangent)
        before = hit & (entry < distance[columns])
        distance[columns] = np.where(before, entry, distance[columns])
        thing[columns] = np.where(before, part.thing, thing[columns])
    return distance, thing


def _ground_distance(road: Road, directions: Array, tangent: Array) -> Array:
    """Pavement where the ray reaches the upper plane outside the kerbs, road where it reaches the lower one inside."""
    slope = tangent[None, :] - (road.tilt[0] * directions[0] + road.tilt[1] * directions[1])[:, None]
    down = np.where(slope < -1e-9, -slope, np.nan)
    upper, lower = (SENSOR_HEIGHT_M - KERB_M) / down, SENSOR_HEIGHT_M / down
    sideways = (directions[1] * np.cos(road.heading_rad) - directions[0] * np.sin(road.heading_rad))[:, None]
    on_pavement = np.abs(road.offset_m + upper * sideways) > road.half_width_m
    on_road = np.abs(road.offset_m + lower * sideways) <= road.half_width_m
    with np.errstate(divide="ignore"):
        kerb = (road.half_width_m - np.sign(sideways) * road.offset_m) / np.abs(sideways)
    met = np.where(on_pavement, upper, np.where(on_road, lower, kerb))
    return np.where(np.isnan(down), np.inf, met)


def _columns_covered(part: Part, azimuth: Array, full_circle: bool) -> NDArray[np.int64]:
    """Azimuth columns that can meet the part's footprint, less than 180 degrees as no part holds the sensor."""
    if part.shape == "cylinder":
        half_span = np.arcsin(min(1.0, part.length / 2 / np.hypot(part.x, part.y)))
        turns = np.array([-half_span, half_span])
    else:
        cos, sin = np.cos(part.yaw) / 2, np.sin(part.yaw) / 2
        lengths, widths = part.length * np.array([1, -1, -1, 1]), part.width * np.array([1, 1, -1, -1])
        x, y = part.x + lengths * cos - widths * sin, part.y + lengths * sin + widths * cos
        turns = np.arctan2(part.x * y - part.y * x, part.x * x + part.y * y)  # angle from the centre's direction
    centre = np.arctan2(part.y, part.x)
    step = azimuth[1] - azimuth[0]
    first = int(np.floor((centre + turns.min() - azimuth[0]) / step))
    last = int(np.ceil((centre + turns.max() - azimuth[0]) / step))
    columns = np.arange(first, last + 1)
    return columns % len(azimuth) if full_circle else columns[(columns >= 0) & (columns < len(azimuth))]


def _horizontal_interval(part: Part, directions: Array) -> tuple[Array, Array]:
    """Where each column ``[C]`` enters and leaves the footprint; entry > exit if it misses."""
    if part.shape == "cylinder":
        middle = part.x * directions[0] + part.y * directions[1]
        inside = (part.length / 2) ** 2 - (part.x**2 + part.y**2 - middle**2)
        half = np.sqrt(np.maximum(inside, 0.0))
        return np.where(inside > 0, middle - half, np.inf), middle + half
    cos, sin = np.cos(part.yaw), np.sin(part.yaw)
    axes = np.array([[cos, sin], [-sin, cos]])
    to_centre = axes @ np.array([part.x, part.y])
    speed = axes @ directions
    speed = np.where(np.abs(speed) < 1e-12, 1e-12, speed)
    half_size = np.array([part.length, part.width]) / 2
    one, other = (to_centre - half_size)[:, None] / speed, (to_centre + half_size)[:, None] / speed
    return np.minimum(one, other).max(axis=0), np.maximum(one, other).min(axis=0)


def _meet(near: Array, far: Array, part: Part, tangent: Array) -> tuple[NDArray[np.bool_], Array]:
    """Which rays ``[C, L]`` meet the part, and at what horizontal distance."""
    one, other = part.bottom / tangent, part.top / tangent
    entry = np.maximum(near[:, None], np.minimum(one, other)[None, :])
    leave = np.minimum(far[:, None], np.maximum(one, other)[None, :])
    return (entry <= leave) & (entry > 0), entry


def _lost(range_AL: Array, sensor: Sensor, rng: np.random.Generator) -> NDArray[np.bool_]:
    chance = sensor.dropout * (1.0 + (np.minimum(range_AL, sensor.max_range_m) / 40.0) ** 2)
    return rng.random(range_AL.shape, dtype=np.float32) < chance


def _range_error(thing_P: NDArray[np.int16], layout: Layout, sensor: Sensor, rng: np.random.Generator) -> Array:
    roughness = sensor.rough * np.append(layout.roughness_m, 0.01)[thing_P]
    return rng.standard_normal(len(thing_P), dtype=np.float32) * np.hypot(sensor.range_noise_m, roughness)


def _intensity(thing_P: NDArray[np.int16], range_P: Array, things: int, rng: np.random.Generator) -> Array:
    """Random per thing, a little weaker with range, a little noisy."""
    base = rng.uniform(0.05, 0.7, things + 1)
    noise = 0.03 * rng.standard_normal(len(thing_P), dtype=np.float32)
    return np.clip(base[thing_P] * (1.0 - 0.3 * range_P / 80.0) + noise, 0.0, 1.0)
