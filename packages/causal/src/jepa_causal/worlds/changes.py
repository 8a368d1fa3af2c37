"""Interventions in a world of discs: what is changed between two steps, before the future is simulated again."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from jepa_causal.worlds.disc_state import DiscState, appearance


class Change(Protocol):
    """One intervention."""

    def apply(self, state: DiscState) -> None:
        """Changes ``state`` in place.

        Raises:
            ValueError: it cannot be done: one line that says why.
        """


@dataclass(frozen=True)
class Remove:
    """Takes one object out of the world. ``object`` is its place along N."""

    object: int

    def apply(self, state: DiscState) -> None:
        """Leaves the place empty. Raises ValueError where nothing is."""
        state.check_there(self.object, "Remove")
        for values in (state.exact, state.present, state.touched, state.attributes):
            values[self.object] = 0


@dataclass(frozen=True)
class Add:
    """Puts a new object in the first empty place.

    Attributes:
        x, y: of its centre, in widths of the box, y upwards.
        vx, vy: its velocity in widths a frame.
        colour: index into the palette, that of no other object.
    """

    x: float
    y: float
    vx: float
    vy: float
    colour: int

    def apply(self, state: DiscState) -> None:
        """Fills the place. Raises ValueError for no empty place, a colour in use, an overlap or one out of the box."""
        if state.present.all():
            raise ValueError(
                f"Add: all {len(state.present)} places are taken: remove one first, or record with a greater `most`"
            )
        _check_finite("Add", self.vx, self.vy)
        place = int(np.argmin(state.present))
        row = appearance(self.colour, state.radius, state.mass)
        state.check_colour(self.colour, place, "Add")
        state.check_room(self.x, self.y, "Add")
        state.exact[place] = (self.x, self.y, self.vx, self.vy)
        state.attributes[place] = row
        state.present[place], state.touched[place] = True, False


@dataclass(frozen=True)
class Push:
    """Adds (dvx, dvy), in widths a frame, to the velocity of one object."""

    object: int
    dvx: float
    dvy: float

    def apply(self, state: DiscState) -> None:
        """Changes the velocity. Raises ValueError where nothing is."""
        state.check_there(self.object, "Push")
        _check_finite("Push", self.dvx, self.dvy)
        state.exact[self.object, 2:] += (self.dvx, self.dvy)


@dataclass(frozen=True)
class Recolour:
    """Gives one object another colour of the palette: seen by an encoder, without effect on the motion."""

    object: int
    colour: int

    def apply(self, state: DiscState) -> None:
        """Changes the attributes. Raises ValueError where nothing is, and for a colour in use or unknown."""
        state.check_there(self.object, "Recolour")
        row = appearance(self.colour, state.radius, state.mass)
        state.check_colour(self.colour, self.object, "Recolour")
        state.attributes[self.object] = row


def _check_finite(wish: str, *values: float) -> None:
    if not all(math.isfinite(value) for value in values):
        raise ValueError(f"{wish}: expected a finite velocity in widths a frame, got {values}")
