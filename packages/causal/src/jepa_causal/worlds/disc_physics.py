"""Elastic discs in a box by pymunk, one frame at a time, each frame a function of positions and velocities alone."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pymunk

Row = tuple[float, float, float, float]
"""x, y, vx, vy of one disc, in widths of the box and frames."""

DISC = 1
"""pymunk's collision type of discs; walls keep 0."""

_WALL = 1.0  # Half the thickness of a wall, in widths: no disc crosses it within a sub-step.
_NEAR = 1e-6  # Taken for contact with a wall: more than the rounding of pymunk's own test, and harmless when wrong.
_AWAY = 100.0  # Out of the box, where discs forget: in widths, and between two discs there.
_ITERATIONS = 30  # Of the solver: several contacts at once settle, and energy with them.


@dataclass(frozen=True)
class Physics:
    """What the motion depends on besides the state.

    Attributes:
        radius: of every disc, in widths of the box.
        mass: of every disc.
        sub_steps: solver steps a frame.
        repulsion: strength s of the acceleration s / d**2 between two centres at distance d; 0 = none.
    """

    radius: float
    mass: float
    sub_steps: int
    repulsion: float


def on_contact(space: Any, first: int, second: int, report: Callable[[Any, Any, Any], None]) -> None:
    """Calls ``report(arbiter, space, data)`` at every solved contact of two collision types, in pymunk 6 and 7."""
    if hasattr(space, "on_collision"):
        space.on_collision(first, second, post_solve=report)
    else:
        space.add_collision_handler(first, second).post_solve = report


class DiscBox:
    """A box of width 1 with elastic discs.

    A solver remembers: the impulses of lasting contacts, the correction of overlaps, the order of its search tree. All
    three are kept from crossing a frame, so that a frame can be computed again from its stored state with the same
    bits: overlaps are left to the elastic rebound (no correction), candidates come from a grid (their order depends
    on positions alone), and contacts are forgotten as soon as they end: after a frame that ends in one, by a step
    apart. Discs have no friction and an infinite moment of inertia: there are no angles and no spin.

    Args:
        rows: the state of each disc.
        physics: constants of the motion.
    """

    def __init__(self, rows: list[Row], physics: Physics) -> None:
        import pymunk

        self.physics = physics
        self._touched: set[int] = set()
        self._space = space = pymunk.Space()
        space.iterations = _ITERATIONS
        space.collision_bias = 1.0  # The share of an overlap left after a unit of time: all of it.
        space.collision_slop = 0.0
        space.collision_persistence = 1
        space.use_spatial_hash(2.5 * physics.radius, 256)
        self._bodies = [self._disc(row) for row in rows]
        self._add_walls()
        index = {body: place for place, body in enumerate(self._bodies)}

        def report(arbiter: Any, space: Any, data: Any) -> None:
            self._touched.update(index[shape.body] for shape in arbiter.shapes)

        on_contact(space, DISC, DISC, report)

    def frame(self) -> tuple[list[Row], set[int]]:
        """One frame on: the new state of each disc, and the indices of those that touched another meanwhile."""
        touched: set[int] = set()
        self._kick(0.5)
        for left in reversed(range(self.physics.sub_steps)):
            self._touched.clear()
            self._space.step(1 / self.physics.sub_steps)
            touched |= self._touched
            self._kick(1.0 if left else 0.5)
        rows = self._rows()
        if self._touched or self._at_wall(rows):
            self._forget(rows)
        return rows, touched

    def _forget(self, rows: list[Row]) -> None:
        """Drops the solver's contacts: a step with all discs far apart, then back to their places."""
        for place, body in enumerate(self._bodies):
            body.position = _AWAY * (place + 1), _AWAY
        self._space.step(1 / self.physics.sub_steps)
        for body, (x, y, _, _) in zip(self._bodies, rows, strict=True):
            body.position = x, y

    def _disc(self, row: Row) -> pymunk.Body:
        import pymunk

        body = pymunk.Body(self.physics.mass, math.inf)
        body.position, body.velocity = row[:2], row[2:]
        shape = pymunk.Circle(body, self.physics.radius)
        shape.elasticity, shape.friction, shape.collision_type = 1.0, 0.0, DISC
        self._space.add(body, shape)
        return body

    def _add_walls(self) -> None:
        import pymunk

        low, high = -_WALL, 1 + _WALL
        for start, end in (
            ((low, low), (high, low)),
            ((low, high), (high, high)),
            ((low, low), (low, high)),
            ((high, low), (high, high)),
        ):
            wall = pymunk.Segment(self._space.static_body, start, end, _WALL)
            wall.elasticity, wall.friction = 1.0, 0.0
            self._space.add(wall)

    def _rows(self) -> list[Row]:
        return [(*body.position, *body.velocity) for body in self._bodies]

    def _at_wall(self, rows: list[Row]) -> bool:
        low, high = self.physics.radius + _NEAR, 1 - self.physics.radius - _NEAR
        return any(not (low < x < high and low < y < high) for x, y, _, _ in rows)

    def _kick(self, share: float) -> None:
        """Adds the repulsion of ``share`` of a sub-step to the velocities (kick-drift-kick: symplectic)."""
        if self.physics.repulsion == 0 or len(self._bodies) < 2:
            return
        strength = share * self.physics.repulsion / self.physics.sub_steps
        places = [tuple(body.position) for body in self._bodies]
        gains = [[0.0, 0.0] for _ in places]
        for (first, (x, y)), (second, (other_x, other_y)) in combinations(enumerate(places), 2):
            dx, dy = x - other_x, y - other_y
            scale = strength / (dx * dx + dy * dy) ** 1.5
            gains[first][0] += scale * dx
            gains[first][1] += scale * dy
            gains[second][0] -= scale * dx
            gains[second][1] -= scale * dy
        for body, (gain_x, gain_y) in zip(self._bodies, gains, strict=True):
            vx, vy = body.velocity
            body.velocity = vx + gain_x, vy + gain_y
