"""Two rooms: collisions, shortest ways against a search on a grid, crossing share, exact resumption, pictures."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from jepa_causal.episodes import Episode
from jepa_causal.worlds.rooms import Room
from jepa_causal.worlds.two_rooms import TwoRooms, TwoRoomSettings, cut, draw_wall, room_of

ROOM = Room(wall_x=0.5, door_y=0.4, door_width=0.25, wall_thickness=0.06, agent_radius=0.05)
VARIED = TwoRoomSettings(wall_x=(0.35, 0.65), door_y=(0.2, 0.8))


def free_points(room: Room, count: int, seed: int = 0) -> np.ndarray:
    points = np.random.default_rng(seed).uniform(0.05, 0.95, (4 * count, 2))
    return points[room.free(points)][:count]


@pytest.mark.parametrize("settings", [TwoRoomSettings(), VARIED], ids=["fixed", "random"])
def test_episodes_obey_the_world(settings: TwoRoomSettings) -> None:
    world = TwoRooms(settings)
    crossed = 0
    for seed in range(60):
        episode = world.episode(seed, 25)
        room, exact = room_of(episode), episode.extra["exact"].astype(np.float64)
        assert room.free(exact).all()
        assert np.hypot(*np.diff(exact, axis=0).T).max() <= settings.longest_step + 1e-9
        sides = room.side(exact[:, 0])
        assert (episode.label == "crosses") == ({-1, 1} <= set(sides.tolist()))
        crossed += episode.label == "crosses"
        actions, states = episode.actions, episode.states
        assert actions is not None and states is not None
        assert np.isnan(actions[-1]).all() and np.isfinite(actions[:-1]).all()
        np.testing.assert_allclose(np.diff(states[:, 0, :2], axis=0), states[1:, 0, 2:], atol=1e-6)
    assert 18 <= crossed <= 42


@pytest.mark.parametrize(("share", "label"), [(0.0, "stays"), (1.0, "crosses")])
def test_the_share_of_crossings_is_kept_at_its_ends(share: float, label: str) -> None:
    settings = TwoRoomSettings(crossing_share=share)
    labels = {TwoRooms(settings).episode(seed, max(settings.fewest_steps, 12)).label for seed in range(30)}
    assert labels == {label}


def test_rooms_vary_only_where_asked() -> None:
    fixed = {tuple(vars(room_of(TwoRooms().episode(seed, 10))).values()) for seed in range(5)}
    varied = {room_of(TwoRooms(VARIED).episode(seed, 25)).door_y for seed in range(5)}
    assert len(fixed) == 1 and len(varied) == 5


def test_resuming_gives_the_stored_future_bit_for_bit() -> None:
    world = TwoRooms(VARIED)
    for seed in range(10):
        episode = world.episode(seed, 25)
        for step in (0, 7, 24):
            after = world.resume(episode, step)
            assert after.extra["exact"].tobytes() == episode.extra["exact"][step:].tobytes()
            assert episode.states is not None and episode.actions is not None
            np.testing.assert_array_equal(after.states, episode.states[step:])
            np.testing.assert_array_equal(after.actions, episode.actions[step:])
            np.testing.assert_array_equal(after.attributes, episode.attributes)
    other = world.resume(episode, 3, np.zeros((4, 2), dtype=np.float32))
    assert other.steps == 5 and np.ptp(other.extra["exact"], axis=0).max() == 0


def test_walls_stop_the_agent_and_the_door_lets_it_pass() -> None:
    starts = np.array([(0.2, 0.8), (0.2, 0.4), (0.2, 0.2), (0.8, 0.8), (0.5, 0.4)])
    shifts = np.array([(0.6, 0.0), (0.6, 0.0), (-0.5, -0.3), (-0.6, 0.0), (0.0, 0.5)])
    ends = ROOM.move(starts, shifts)
    np.testing.assert_allclose(ends[0], (0.42, 0.8), atol=1e-5)
    np.testing.assert_allclose(ends[1], (0.8, 0.4))
    np.testing.assert_allclose(ends[2], (0.05, 0.11), atol=1e-5)
    np.testing.assert_allclose(ends[3], (0.58, 0.8), atol=1e-5)
    np.testing.assert_allclose(ends[4], (0.5, 0.475), atol=1e-5)
    assert ROOM.free(ends).all()
    # Where it stopped, it can turn away again, and pushing on brings it no further.
    assert np.abs(ROOM.move(ends[0], np.array([0.3, 0.0])) - ends[0]).max() < 1e-5
    np.testing.assert_allclose(ROOM.move(ends[0], np.array([-0.1, 0.1])), ends[0] + (-0.1, 0.1))
    np.testing.assert_array_equal(ROOM.move(ends[0], np.zeros(2)), ends[0])


def test_no_move_ever_ends_in_a_wall() -> None:
    rng = np.random.default_rng(0)
    points = free_points(ROOM, 2000)
    for _ in range(30):
        points = ROOM.move(points, rng.normal(0, 0.3, points.shape) * rng.integers(0, 2, points.shape))
        assert ROOM.free(points).all()


def test_batches_move_as_single_agents_do() -> None:
    points = free_points(ROOM, 50)
    shifts = np.random.default_rng(1).normal(0, 0.3, (50, 2))
    together = ROOM.move(points.reshape(5, 10, 2), shifts.reshape(5, 10, 2)).reshape(50, 2)
    alone = np.stack([ROOM.move(point, shift) for point, shift in zip(points, shifts, strict=True)])
    np.testing.assert_array_equal(together, alone)


def test_the_shortest_way_is_that_of_a_search_on_a_fine_grid() -> None:
    """Dijkstra over cells with sixteen directions comes within a few per cent, and never below."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import dijkstra

    side = 91
    axis = np.linspace(0.05, 0.95, side)
    points = np.stack(np.meshgrid(axis, axis, indexing="ij"), axis=-1)
    free = ROOM.free(points)
    index = np.arange(side * side).reshape(side, side)
    rows, columns, lengths = [], [], []
    for dx, dy in ((1, 0), (0, 1), (1, 1), (1, -1), (2, 1), (1, 2), (2, -1), (1, -2)):
        here = (slice(0, side - dx), slice(max(0, -dy), side - max(0, dy)))
        there = (slice(dx, side), slice(max(0, dy), side + min(0, dy)))
        both = free[here] & free[there]
        both &= np.isfinite(ROOM._sight(points[here], points[there]))
        rows.append(index[here][both])
        columns.append(index[there][both])
        lengths.append(np.full(int(both.sum()), 0.01 * np.hypot(dx, dy)))
    graph = coo_matrix((np.concatenate(lengths), (np.concatenate(rows), np.concatenate(columns))), (side**2, side**2))
    start = int(index[15, 80])
    found = dijkstra(graph.tocsr(), directed=False, indices=start).reshape(side, side)
    ours = ROOM.geodesic(np.broadcast_to(points[15, 80], points.shape), points)
    both = free & np.isfinite(found)
    assert both.sum() > 6000
    ratio = found[both & (ours > 0.1)] / ours[both & (ours > 0.1)]
    assert ratio.min() > 0.995 and ratio.max() < 1.06 and ratio.mean() < 1.03


def test_shortest_ways_are_a_metric_and_known_in_simple_cases() -> None:
    first, second, third = (free_points(ROOM, 200, seed) for seed in range(3))
    way = ROOM.geodesic(first, second)
    np.testing.assert_allclose(way, ROOM.geodesic(second, first))
    assert (way >= np.hypot(*(first - second).T) - 1e-12).all() and np.isfinite(way).all()
    assert (way <= ROOM.geodesic(first, third) + ROOM.geodesic(third, second) + 1e-9).all()
    same = ROOM.side(first[:, 0]) == ROOM.side(second[:, 0])
    np.testing.assert_allclose(way[same], np.hypot(*(first - second).T)[same])
    # Over the corners of the door: symmetric ways of which each part is known.
    corner = ROOM.geodesic(np.array([0.2, 0.9]), np.array([0.8, 0.9]))
    assert corner == pytest.approx(2 * np.hypot(0.22, 0.425) + 0.16)
    assert ROOM.geodesic(np.array([0.2, 0.4]), np.array([0.8, 0.4])) == pytest.approx(0.6)


def test_long_actions_are_cut() -> None:
    actions = np.array([(3.0, 4.0), (0.0, 0.02), (0.0, 0.0)])
    np.testing.assert_allclose(cut(actions, 0.1), [(0.06, 0.08), (0.0, 0.02), (0.0, 0.0)])


def test_pictures_hold_agent_and_wall_in_their_own_channels() -> None:
    world = TwoRooms(VARIED)
    episode = world.episode(2, 20)
    drawn, room = world.with_frames(episode), room_of(episode)
    assert drawn.frames is not None and drawn.segments is not None and episode.states is not None
    assert drawn.frames.shape == (20, 28, 28, 3) and not drawn.frames[..., 2].any()
    agent = drawn.frames[..., 0] / 255.0
    axis = (np.arange(28) + 0.5) / 28
    x = (agent.sum(1) * axis).sum(-1) / agent.sum((1, 2))
    y = 1 - (agent.sum(2) * axis).sum(-1) / agent.sum((1, 2))
    np.testing.assert_allclose(np.column_stack([x, y]), episode.states[:, 0, :2], atol=0.01)
    assert (drawn.segments == 1).any((1, 2)).all()
    wall = drawn.frames[0, ..., 1] / 255.0
    np.testing.assert_array_equal(drawn.frames[:, ..., 1], np.broadcast_to(drawn.frames[0, ..., 1], (20, 28, 28)))
    assert wall.sum() / 28**2 == pytest.approx(room.wall_thickness * (1 - room.door_width), rel=0.02)
    door_row = int((1 - room.door_y) * 28)
    assert not wall[door_row].any()


def test_the_wall_is_drawn_by_area() -> None:
    assert draw_wall(ROOM, 16).sum() / 255 / 256 == pytest.approx(0.06 * 0.75, rel=0.01)


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda: TwoRooms().episode(0, 3), "expected 8 or more to pass the door"),
        (lambda: TwoRooms().episode(0, 0), "steps 0"),
        (lambda: TwoRoomSettings(door_width=0.05), "door_width 0.05: expected"),
        (lambda: TwoRoomSettings(wall_x=(0.0, 0.5)), "wall_x .*expected two ends in order"),
        (lambda: TwoRoomSettings(door_y=(0.6, 0.4)), "door_y .*expected two ends in order"),
        (lambda: TwoRoomSettings(crossing_share=1.5), "crossing_share 1.5: expected 0 to 1"),
        (lambda: TwoRooms().resume(TwoRooms().episode(0, 9), 9), "step 9: expected 0 to 8"),
        (lambda: TwoRooms().resume(Episode("bare"), 0), "expected one that TwoRooms recorded"),
        (lambda: TwoRooms().resume(TwoRooms().episode(0, 9), 0, np.zeros((3, 3))), "finite numbers .steps, 2."),
        (lambda: TwoRooms().resume(TwoRooms().episode(0, 9), 0, np.full((3, 2), np.nan)), "finite numbers"),
        (lambda: room_of(Episode("bare")), "expected attributes wall_x"),
        (lambda: TwoRooms().with_frames(Episode("bare")), "expected states to draw"),
    ],
)
def test_hostile_requests(ask: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ask()
