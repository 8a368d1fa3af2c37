"""The simulator against closed forms: planes, kerbs, boxes and cylinders hit where geometry says they are."""

from dataclasses import replace

import numpy as np
import pytest

from jepa_lidar.geometry import Boxes, points_in_boxes
from jepa_lidar.scenes import KERB_M, KINDS, SENSOR_HEIGHT_M, Layout, Part, Road, random_layout, rectangles_overlap
from jepa_lidar.simulate import Sensor, scan_layout, simulate_scene

EXACT = Sensor(azimuths=256, range_noise_m=0.0, dropout=0.0, rough=0.0)
AROUND = replace(EXACT, azimuths=512, full_circle=True)
STREET = Road(heading_rad=0.1, offset_m=0.7, half_width_m=5.0, tilt=(0.004, -0.003))
FIELD = Road(heading_rad=0.0, offset_m=0.0, half_width_m=1e6, tilt=(0.0, 0.0))


def layout(road: Road, *parts: Part) -> Layout:
    none = Boxes(np.zeros((0, 7), np.float32), ())
    things = len(parts)
    return Layout(
        road, parts, np.full(things, 6, np.int8), np.zeros(things, np.float32), none, np.full(things, -1, np.int16)
    )


def rng() -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(0))


@pytest.mark.parametrize("sensor", [Sensor(), Sensor(beams=32), Sensor(azimuths=1024, full_circle=True)])
def test_same_seed_same_bits(sensor: Sensor) -> None:
    one, two, other = (simulate_scene(seed, sensor) for seed in (5, 5, 6))
    np.testing.assert_array_equal(one.points, two.points)
    np.testing.assert_array_equal(one.boxes.values, two.boxes.values)
    np.testing.assert_array_equal(one.box_index, two.box_index)
    assert one.points.shape != other.points.shape or not np.array_equal(one.points, other.points)


def test_a_scan_looks_like_one() -> None:
    counts = [len(simulate_scene(seed, Sensor()).points) for seed in range(5)]
    assert min(counts) > 22_000 and max(counts) < 512 * 64
    front = simulate_scene(0, Sensor()).points
    around = simulate_scene(0, Sensor(azimuths=1024, full_circle=True)).points
    assert front[:, 0].min() > -0.3 and (around[:, 0] < -1).mean() > 0.3
    assert front[:, 3].min() >= 0 and front[:, 3].max() <= 1
    kinds = np.concatenate([simulate_scene(seed, Sensor()).kind for seed in range(20)])
    assert set(np.unique(kinds)) == set(range(len(KINDS)))


def test_flat_ground_is_at_the_range_of_a_ray_and_a_plane() -> None:
    scene = scan_layout(layout(FIELD), EXACT, rng())
    xyz = scene.points[:, :3].astype(np.float64)
    np.testing.assert_allclose(xyz[:, 2], -SENSOR_HEIGHT_M, atol=1e-5)
    elevation = EXACT.elevation_rad()
    seen = elevation[(elevation < 0) & (SENSOR_HEIGHT_M / np.sin(-elevation) < EXACT.max_range_m)]
    assert len(xyz) == len(seen) * EXACT.azimuths
    ranges = np.sort(np.unique(np.round(np.linalg.norm(xyz, axis=1), 3)))
    expected = np.sort(SENSOR_HEIGHT_M / np.sin(-seen))
    assert all(np.abs(expected - value).min() < 1e-3 for value in ranges)


@pytest.mark.parametrize("sensor", [EXACT, AROUND])
def test_ground_has_two_heights_and_a_kerb_between(sensor: Sensor) -> None:
    scene = scan_layout(layout(STREET), sensor, rng())
    x, y, z = scene.points[:, :3].astype(np.float64).T
    above = z - (-SENSOR_HEIGHT_M + STREET.tilt[0] * x + STREET.tilt[1] * y)
    lateral = np.abs(y * np.cos(0.1) - x * np.sin(0.1) + 0.7)
    road, pavement = np.abs(above) < 1e-4, np.abs(above - KERB_M) < 1e-4
    kerb = ~road & ~pavement
    assert (lateral[road] <= 5 + 1e-4).all() and (lateral[pavement] >= 5 - 1e-4).all()
    np.testing.assert_allclose(lateral[kerb], 5.0, atol=1e-4)
    assert (above[kerb] > 0).all() and (above[kerb] < KERB_M).all()
    assert min(road.sum(), pavement.sum(), kerb.sum()) > 10


def surface_distance(xyz: np.ndarray, part: Part) -> np.ndarray:
    """How far outside (positive) or inside (negative) of a part's surface points lie, by its largest slab excess."""
    dx, dy = xyz[:, 0] - part.x, xyz[:, 1] - part.y
    along, across = dx * np.cos(part.yaw) + dy * np.sin(part.yaw), dy * np.cos(part.yaw) - dx * np.sin(part.yaw)
    vertical = np.maximum(part.bottom - xyz[:, 2], xyz[:, 2] - part.top)
    if part.shape == "cylinder":
        return np.maximum(np.hypot(dx, dy) - part.length / 2, vertical)
    return np.maximum.reduce((np.abs(along) - part.length / 2, np.abs(across) - part.width / 2, vertical))


@pytest.mark.parametrize("shape", ["box", "cylinder"])
@pytest.mark.parametrize("x,y,yaw,sensor", [
    (12.0, 3.0, 0.4, EXACT),
    (7.0, -6.9, -2.0, EXACT),
    (-9.0, 0.1, 0.8, AROUND),  # over the seam at 180 degrees
    (6.0, 0.0, np.pi / 2, AROUND),
])  # fmt: skip
def test_solids_are_hit_on_their_near_surface(shape: str, x: float, y: float, yaw: float, sensor: Sensor) -> None:
    part = Part(shape, x, y, -1.5, 0.2, 4.0, 4.0 if shape == "cylinder" else 1.8, yaw, 0)
    scene = scan_layout(layout(FIELD, part), sensor, rng())
    on = scene.kind == 6
    xyz = scene.points[on, :3].astype(np.float64)
    assert on.sum() > 40
    np.testing.assert_allclose(surface_distance(xyz, part), 0.0, atol=2e-5)
    # Nothing is hit through it: a millimetre short of the hit the ray is still outside.
    assert (surface_distance(xyz * (1 - 1e-3 / np.linalg.norm(xyz, axis=1, keepdims=True)), part) > 0).all()
    # No ray that misses it passes through it on the way to the ground.
    ground = scene.points[~on, :3].astype(np.float64)
    steps = np.linspace(0.02, 1, 300)[:, None, None] * ground[None, ::7]
    assert surface_distance(steps.reshape(-1, 3), part).min() > -1e-3


def test_a_wall_across_the_view_is_at_its_distance() -> None:
    wall = Part("box", 10.5, 0.0, -5.0, 50.0, 1.0, 400.0, 0.0, 0)
    scene = scan_layout(layout(FIELD, wall), EXACT, rng())
    np.testing.assert_allclose(scene.points[scene.kind == 6, 0], 10.0, atol=1e-5)
    assert scene.points[:, 0].max() < 10.0 + 1e-4


def test_the_nearer_solid_hides_the_farther_one() -> None:
    near, far = (Part("box", x, 0.0, -2.0, 2.0, 1.0, 4.0, 0.0, i) for i, x in enumerate((8.0, 16.0)))
    for parts in ((near, far), (far, near)):
        scene = scan_layout(layout(FIELD, *parts), EXACT, rng())
        inside = np.abs(scene.points[:, 1] / scene.points[:, 0]) < 0.2
        assert scene.points[inside & (scene.kind == 6), 0].max() < 9.0


@pytest.mark.parametrize("seed", range(8))
def test_points_of_an_object_lie_in_its_exact_box(seed: int) -> None:
    exact = simulate_scene(seed, replace(AROUND, azimuths=1024))
    on = exact.box_index >= 0
    assert on.sum() > 50
    grown = exact.boxes.values + np.array([0, 0, 0, 1e-3, 1e-3, 1e-3, 0], np.float32)
    shrunk = exact.boxes.values - np.array([0, 0, 0, 1e-3, 1e-3, 1e-3, 0], np.float32)
    for index in np.unique(exact.box_index[on]):
        own = exact.points[exact.box_index == index]
        assert (points_in_boxes(own, grown[index : index + 1]) == 0).all()
    # And nothing else does, but the ground on which people stand.
    others = exact.points[~on & (exact.kind != 0)]
    assert (points_in_boxes(others, shrunk) == -1).all()


def test_noise_keeps_points_near_their_box() -> None:
    scene = simulate_scene(3, Sensor())
    on = scene.box_index >= 0
    boxes = scene.boxes.values + np.array([0, 0, 0, 0.3, 0.3, 0.3, 0], np.float32)
    assert (points_in_boxes(scene.points[on], boxes) >= 0).all()
    tight = points_in_boxes(scene.points[on], scene.boxes.values)
    assert 0.3 < (tight >= 0).numpy().mean() < 0.9  # half of the noise lies inside the near face


@pytest.mark.parametrize("seed", range(4))
def test_boxes_are_tight_where_they_are_seen(seed: int) -> None:
    """The top of a near vehicle's points is its box's top, its lowest point the box's floor, within a beam."""
    scene = simulate_scene(seed, replace(AROUND, azimuths=2048))
    for index, (box, name) in enumerate(zip(scene.boxes.values, scene.boxes.names, strict=True)):
        own = scene.points[scene.box_index == index]
        distance = np.hypot(box[0], box[1])
        if name != "Car" or len(own) < 300 or distance > 15:
            continue
        assert box[2] + box[5] / 2 - own[:, 2].max() < 0.02 * distance


def test_dropout_grows_with_range() -> None:
    # One flat field, so that what is missing was lost.
    full = scan_layout(layout(FIELD), EXACT, rng())
    thin = scan_layout(layout(FIELD), replace(EXACT, dropout=0.06), rng())

    def kept(low: float, high: float) -> float:
        ranges = [np.linalg.norm(scene.points[:, :3], axis=1) for scene in (thin, full)]
        return float(np.divide(*[((r >= low) & (r < high)).sum() for r in ranges]))

    assert kept(0, 15) == pytest.approx(0.94, abs=0.02)
    assert kept(40, 80) < kept(0, 15) - 0.05


def test_things_do_not_overlap() -> None:
    for seed in range(5):
        made = random_layout(np.random.Generator(np.random.PCG64(seed)), behind=True)
        boxes = made.boxes.values.astype(np.float64)[:, [0, 1, 3, 4, 6]]
        for index, box in enumerate(boxes):
            assert not rectangles_overlap(box, np.delete(boxes, index, axis=0)).any()


def test_overlap_of_rectangles() -> None:
    one = np.array([0.0, 0, 4, 2, 0])
    others = np.array(
        [[3.9, 0, 4, 2, 0], [4.1, 0, 4, 2, 0], [0, 2.5, 4, 2, 0], [0, 2.5, 4, 2, np.pi / 2], [2.9, 1.9, 2, 2, 0.78]]
    )
    assert rectangles_overlap(one, others).tolist() == [True, False, False, True, False]


def test_impossible_sensors_are_named() -> None:
    with pytest.raises(ValueError, match="32 or 64"):
        Sensor(beams=16)
    with pytest.raises(ValueError, match="dropout"):
        Sensor(dropout=1.0)
