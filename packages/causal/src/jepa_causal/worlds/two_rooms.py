"""Two rooms: an agent moved by actions in a box with a wall and a door, the world to test planning around a detour.

After the wall world of PLDM (arXiv 2502.14819) and value-guided planning (arXiv 2601.00844), in widths of the box
instead of pixels; ours aims at places in the rooms instead of walking blindly, so that the share of episodes through
the door is what was asked for.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from jepa_causal.episodes import Bytes, Episode, Floats
from jepa_causal.worlds.discs import check_steps
from jepa_causal.worlds.render import check_size, disc_coverage
from jepa_causal.worlds.rooms import ROOM_ATTRIBUTES, Doubles, Room

_ARRIVED = 0.25  # Of the longest step: nearer than this to its aim, the agent takes the next aim.
_ATTEMPTS = 100
_SWAY_RADIANS = 0.25  # Standard deviation of the direction of a step around that of the aim.


@dataclass(frozen=True)
class TwoRoomSettings:
    """What a world of two rooms is; lengths in widths of the box.

    Attributes:
        wall_x: range of the wall's place, drawn per episode; equal ends fix it.
        door_y: range of the door's place, drawn per episode; equal ends fix it.
        door_width: of the door.
        wall_thickness: of the wall.
        agent_radius: of the agent.
        longest_step: of the agent; a longer action is cut to it.
        crossing_share: of the episodes whose agent goes through the door; in the others it stays in its room.
    """

    wall_x: tuple[float, float] = (0.5, 0.5)
    door_y: tuple[float, float] = (0.5, 0.5)
    door_width: float = 0.25
    wall_thickness: float = 0.06
    agent_radius: float = 0.05
    longest_step: float = 0.08
    crossing_share: float = 0.5

    def __post_init__(self) -> None:
        _check_range("agent_radius", self.agent_radius, 0.005, 0.2)
        _check_range("wall_thickness", self.wall_thickness, 0.005, 0.3)
        _check_range("door_width", self.door_width, 2 * self.agent_radius + 0.01, 0.9)
        _check_range("longest_step", self.longest_step, 0.001, 0.5)
        _check_range("crossing_share", self.crossing_share, 0, 1)
        # A room wide enough for the agent to move in, on both sides; the whole door inside the box.
        side = self.wall_thickness / 2 + 2 * self.agent_radius + 0.05
        _check_ends("wall_x", self.wall_x, side)
        _check_ends("door_y", self.door_y, self.door_width / 2)

    @property
    def fewest_steps(self) -> int:
        """Steps in which the door can be passed, and so the shortest episode where some have to."""
        if self.crossing_share == 0:
            return 1
        return 2 + math.ceil((self.wall_thickness + 2 * self.agent_radius + 0.05) / (0.5 * self.longest_step))


class TwoRooms:
    """Records episodes of an agent in two rooms.

    ``Episode.states`` has one object, the agent: its place and its last move. ``actions[t]``, in widths, leads from
    step t to t + 1; the last is NaN. ``extra["exact"]``, float64 ``[T, 2]``, is the place that ``states`` rounds.
    Attributes are those of ``ROOM_ATTRIBUTES``; ``label`` is "crosses" or "stays".
    """

    attributes: tuple[str, ...] = ROOM_ATTRIBUTES

    def __init__(self, settings: TwoRoomSettings | None = None) -> None:
        self.settings = TwoRoomSettings() if settings is None else settings

    def episode(self, seed: int, steps: int) -> Episode:
        """One episode; the same seed gives the same bits.

        Raises:
            ValueError: fewer steps than passing the door takes.
        """
        check_steps(steps)
        if steps < self.settings.fewest_steps:
            raise ValueError(
                f"steps {steps}: expected {self.settings.fewest_steps} or more to pass the door: ask for more, or set"
                " crossing_share=0"
            )
        rng = np.random.default_rng(seed)
        room = self.draw_room(rng)
        crosses = bool(rng.random() < self.settings.crossing_share)
        for _ in range(_ATTEMPTS):
            walk = _Walk(rng, room, self.settings.longest_step)
            actions, exact = walk.take(steps, crosses)
            if bool((room.side(exact[:, 0]) == -walk.home).any()) == crosses:
                return self._pack(f"two-rooms-{seed}", room, exact, actions, np.zeros(2))
        raise ValueError(
            f"seed {seed}: no walk of {steps} steps {'passed the door' if crosses else 'stayed in its room'} in"
            f" {_ATTEMPTS} attempts: ask for more steps or a wider door"
        )

    def resume(self, episode: Episode, step: int, actions: NDArray[Any] | None = None) -> Episode:
        """The same room from the stored state of one step on.

        Args:
            episode: one that this world recorded.
            step: where to go on; step 0 of what is returned is this one.
            actions: float32 ``[A, 2]``, A steps to take; None = those stored, which give the stored future bit for bit.

        Raises:
            ValueError: a step that is not there, an episode of another world, or actions of another shape.
        """
        exact, states = episode.extra.get("exact"), episode.states
        if exact is None or exact.ndim != 2 or states is None or episode.actions is None:
            raise ValueError(
                f"episode {episode.episode_id}: expected one that TwoRooms recorded, with `exact` in its extra"
            )
        if not 0 <= step < len(exact):
            raise ValueError(f"step {step}: expected 0 to {len(exact) - 1}, the steps of episode {episode.episode_id}")
        taken = np.asarray(episode.actions[step:-1] if actions is None else actions, dtype=np.float32)
        if taken.ndim != 2 or taken.shape[1] != 2 or not np.isfinite(taken).all():
            raise ValueError(f"actions {list(taken.shape)}: expected finite numbers [steps, 2] in widths of the box")
        room = room_of(episode)
        places = [np.array(exact[step], dtype=np.float64)]
        for action in taken:
            places.append(self.step(room, places[-1], action))
        return self._pack(f"{episode.episode_id}@{step}", room, np.stack(places), taken, states[step, 0, 2:])

    def step(self, room: Room, places: Doubles, actions: NDArray[Any]) -> Doubles:
        """One step of many agents: places ``[..., 2]``, actions ``[..., 2]`` -> ``[..., 2]``."""
        return room.move(places, cut(actions, self.settings.longest_step))

    def with_frames(self, episode: Episode, size: int = 28) -> Episode:
        """The episode with pictures of ``size`` pixels a side and their segments (1 = agent).

        The red channel is the agent, the green one the wall; blue is empty. So the first two are what planners on this
        world are usually shown.
        """
        if episode.states is None:
            raise ValueError(f"episode {episode.episode_id}: expected states to draw")
        room = room_of(episode)
        agent = disc_coverage(episode.states[:, 0, 0], episode.states[:, 0, 1], room.agent_radius, size)
        frames = np.zeros((*agent.shape, 3), dtype=np.uint8)
        frames[..., 0] = agent * 255 + 0.5
        frames[..., 1] = draw_wall(room, size)
        return replace(episode, frames=frames, segments=(agent >= 0.5).astype(np.uint8))

    def draw_room(self, rng: Generator) -> Room:
        """A room of these settings, its numbers rounded to float32 so that attributes give it back exactly."""
        chosen = self.settings
        numbers = (
            rng.uniform(*chosen.wall_x),
            rng.uniform(*chosen.door_y),
            chosen.door_width,
            chosen.wall_thickness,
            chosen.agent_radius,
        )
        return Room(*(float(np.float32(number)) for number in numbers))

    def _pack(self, name: str, room: Room, exact: Doubles, taken: Floats, first_move: NDArray[Any]) -> Episode:
        moves = np.vstack([first_move[None], np.diff(exact, axis=0)])
        sides = room.side(exact[:, 0])
        return Episode(
            name,
            states=np.hstack([exact, moves]).astype(np.float32)[:, None],
            present=np.ones((len(exact), 1), dtype=bool),
            contacts=np.zeros((len(exact), 1), dtype=bool),
            attributes=np.array([[getattr(room, key) for key in ROOM_ATTRIBUTES]], dtype=np.float32),
            actions=np.vstack([taken, np.full((1, 2), np.nan, dtype=np.float32)]),
            proprio=exact.astype(np.float32),
            label="crosses" if -1 in sides and 1 in sides else "stays",
            extra={"exact": exact},
        )


class _Walk:
    """An agent that aims at one place after another, with a swaying direction and a changing pace."""

    def __init__(self, rng: Generator, room: Room, longest: float) -> None:
        self.rng, self.room, self.longest = rng, room, longest
        self.home = int(rng.choice((-1, 1)))

    def take(self, steps: int, crosses: bool) -> tuple[Floats, Doubles]:
        """Actions ``[steps - 1, 2]`` and places ``[steps, 2]``; through the door first where ``crosses``."""
        room, home = self.room, self.home
        actions = np.zeros((steps - 1, 2), dtype=np.float32)
        places = np.empty((steps, 2))
        places[0] = self._anywhere(home)
        aims: list[Doubles] = []
        if crosses:
            door = room.door_y + room.gap * self.rng.uniform(-0.5, 0.5)
            aims = [np.array([room.wall_x + side * (room.reach + 0.01), door]) for side in (home, -home)]
            places[0] = self._near(home, aims[1], 0.5 * self.longest * (steps - 1))
        now = home
        for step in range(steps - 1):
            if not aims:
                aims = [self._anywhere(now)]
            actions[step] = self._towards(places[step], aims[0])
            places[step + 1] = room.move(places[step], cut(actions[step], self.longest))
            if np.hypot(*(aims[0] - places[step + 1])) < _ARRIVED * self.longest:
                now = int(room.side(aims.pop(0)[0]))
        return actions, places

    def _towards(self, place: Doubles, aim: Doubles) -> Floats:
        away = aim - place
        length = min(float(np.hypot(*away)), self.longest * self.rng.uniform(0.5, 1.0))
        angle = math.atan2(away[1], away[0]) + self.rng.normal(0, _SWAY_RADIANS)
        return np.array([length * math.cos(angle), length * math.sin(angle)], dtype=np.float32)

    def _anywhere(self, side: int, count: int = 1) -> Doubles:
        """Even draws in the room on a side, ``[2]``, or ``[count, 2]`` for more than one."""
        radius, edge = self.room.agent_radius, self.room.wall_x + side * (self.room.reach + 1e-3)
        low, high = (radius, edge) if side < 0 else (edge, 1 - radius)
        found = np.column_stack([self.rng.uniform(low, high, count), self.rng.uniform(radius, 1 - radius, count)])
        return found[0] if count == 1 else found

    def _near(self, side: int, aim: Doubles, way: float) -> Doubles:
        """A place in the room on a side from which ``aim`` is no further than ``way``; the nearest of many if none."""
        found = self._anywhere(side, 256)
        far = self.room.geodesic(found, aim)
        within = np.flatnonzero(far <= way)
        chosen: Doubles = found[within[0] if len(within) else far.argmin()]
        return chosen


def cut(actions: NDArray[Any], longest: float) -> Doubles:
    """Actions ``[..., 2]`` as float64, those longer than ``longest`` shortened to it."""
    wished = np.asarray(actions, dtype=np.float64)
    length = np.hypot(wished[..., 0], wished[..., 1])
    shortened: Doubles = wished * (longest / np.maximum(length, longest))[..., None]
    return shortened


def room_of(episode: Episode) -> Room:
    """The room that an episode was recorded in. Raises ValueError for an episode of another world."""
    if episode.attributes is None or episode.attributes.shape != (1, len(ROOM_ATTRIBUTES)):
        raise ValueError(f"episode {episode.episode_id}: expected attributes {', '.join(ROOM_ATTRIBUTES)} of one agent")
    return Room(*(float(value) for value in episode.attributes[0]))


def draw_wall(room: Room, size: int) -> Bytes:
    """The wall, uint8 ``[size, size]``, row 0 at the top: a pixel's level is the share of it that the wall covers."""
    check_size(size)
    edges = np.arange(size + 1) / size

    def covered(low: float, high: float) -> Doubles:
        share: Doubles = np.clip(np.minimum(edges[1:], high) - np.maximum(edges[:-1], low), 0, None) * size
        return share

    across = covered(room.wall_x - room.wall_thickness / 2, room.wall_x + room.wall_thickness / 2)
    up = 1 - covered(room.door_y - room.door_width / 2, room.door_y + room.door_width / 2)
    return (255 * np.outer(up[::-1], across) + 0.5).astype(np.uint8)


def _check_range(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise ValueError(f"{name} {value:g}: expected {low:g} to {high:g} widths of the box")


def _check_ends(name: str, ends: tuple[float, float], margin: float) -> None:
    if len(ends) != 2 or not margin <= ends[0] <= ends[1] <= 1 - margin:
        raise ValueError(f"{name} {list(ends)}: expected two ends in order, from {margin:g} to {1 - margin:g}")
