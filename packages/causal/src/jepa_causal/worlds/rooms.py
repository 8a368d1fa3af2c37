"""The geometry of two rooms with a door between them: how a disc moves in it, and how far it is to go.

The agent's centre is a point among walls thickened by the agent's radius (its configuration space); the corners of the
door stay square.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Doubles = NDArray[np.float64]

ROOM_ATTRIBUTES = ("wall_x", "door_y", "door_width", "wall_thickness", "agent_radius")
"""The columns of ``Episode.attributes`` in the world of two rooms, all in widths of the box."""

_CLEAR = 1e-6  # Kept between the agent and a wall it met, in widths, so that it is never inside one by rounding.


@dataclass(frozen=True)
class Room:
    """A unit box with an upright wall and a door in it; all lengths in widths of the box.

    Attributes:
        wall_x: middle of the wall.
        door_y: middle of the door, y upwards.
        door_width: of the door.
        wall_thickness: of the wall.
        agent_radius: of the agent.
    """

    wall_x: float
    door_y: float
    door_width: float
    wall_thickness: float
    agent_radius: float

    @property
    def reach(self) -> float:
        """How near the agent's centre comes to the middle of the wall."""
        return self.wall_thickness / 2 + self.agent_radius

    @property
    def gap(self) -> float:
        """How far from the middle of the door the agent's centre may pass."""
        return self.door_width / 2 - self.agent_radius

    def barriers(self) -> Doubles:
        """What the agent's centre may not enter, ``[2, 4]``: x from, y from, x to, y to of the parts of the wall."""
        left, right = self.wall_x - self.reach, self.wall_x + self.reach
        return np.array([(left, -1, right, self.door_y - self.gap), (left, self.door_y + self.gap, right, 2)])

    def side(self, x: Doubles) -> NDArray[np.int64]:
        """-1 in the left room, 1 in the right one, 0 in the door; any shape."""
        return np.where(x < self.wall_x - self.reach, -1, np.where(x > self.wall_x + self.reach, 1, 0))

    def free(self, points: Doubles) -> NDArray[np.bool_]:
        """Where the agent's centre can be; points ``[..., 2]`` -> ``[...]``."""
        low, high = self.agent_radius, 1 - self.agent_radius
        boxes = self.barriers()
        inside = (points[..., None, :] > boxes[:, :2]) & (points[..., None, :] < boxes[:, 2:])
        in_box = ((points >= low) & (points <= high)).all(-1)
        result: NDArray[np.bool_] = np.logical_and(in_box, ~inside.all(-1).any(-1))
        return result

    def move(self, points: Doubles, shifts: Doubles) -> Doubles:
        """The agent after a straight move that ends where it meets a wall.

        Args:
            points: ``[..., 2]``, free places.
            shifts: ``[..., 2]``, how far it wants to go.

        Returns:
            ``[..., 2]``.
        """
        low, high = self.agent_radius, 1 - self.agent_radius
        steps = _not_zero(shifts)
        border = (np.where(steps > 0, high, low) - points) / steps
        enters, leaves = _crossing(points, steps, self.barriers())
        blocked = (enters < leaves) & (enters < 1) & (leaves > 0)
        # The clearance is a length: as a share of the move it depends on how long that is.
        clear = _CLEAR / np.maximum(np.hypot(shifts[..., 0], shifts[..., 1]), _CLEAR)
        wall = np.where(blocked, enters - clear[..., None], 1.0).min(-1)
        share = np.clip(np.minimum(wall, border.min(-1)), 0, 1)
        return np.clip(points + share[..., None] * shifts, low, high)

    def geodesic(self, starts: Doubles, ends: Doubles) -> Doubles:
        """Length of the shortest way of the agent's centre, around the wall and through the door, in widths.

        A shortest way bends at corners of the door only, at two at most: all such ways are compared.

        Args:
            starts: ``[..., 2]``, free places.
            ends: ``[..., 2]``, free places.

        Returns:
            ``[...]``.
        """
        left, right = self.wall_x - self.reach, self.wall_x + self.reach
        low, high = self.door_y - self.gap, self.door_y + self.gap
        corners = np.array([(left, low), (left, high), (right, low), (right, high)])
        begin = self._sight(starts[..., None, :], corners)
        finish = self._sight(ends[..., None, :], corners)
        between = self._sight(corners[:, None], corners)
        bent = (begin[..., :, None] + between + finish[..., None, :]).min((-2, -1))
        result: Doubles = np.minimum(self._sight(starts, ends), bent)
        return result

    def _sight(self, starts: Doubles, ends: Doubles) -> Doubles:
        """Length of the straight way, infinite where a wall is in it."""
        steps = ends - starts
        shrunk = self.barriers() + np.array([_CLEAR, _CLEAR, -_CLEAR, -_CLEAR]) * 2
        enters, leaves = _crossing(starts, _not_zero(steps), shrunk)
        blocked = (enters < leaves) & (enters < 1) & (leaves > 0)
        return np.where(blocked.any(-1), np.inf, np.hypot(steps[..., 0], steps[..., 1]))


def _not_zero(steps: Doubles) -> Doubles:
    """Steps to divide by: one along an axis that stands still becomes very small."""
    return np.where(np.abs(steps) < 1e-12, 1e-12, steps)


def _crossing(points: Doubles, steps: Doubles, boxes: Doubles) -> tuple[Doubles, Doubles]:
    """Shares of ``steps`` after which a straight move enters and leaves each box, ``[..., boxes]`` (slab method)."""
    first = (boxes[:, :2] - points[..., None, :]) / steps[..., None, :]
    second = (boxes[:, 2:] - points[..., None, :]) / steps[..., None, :]
    return np.minimum(first, second).max(-1), np.maximum(first, second).min(-1)
