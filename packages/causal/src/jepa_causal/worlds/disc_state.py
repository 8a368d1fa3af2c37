"""All discs of one frame, and how what does not change about them is numbered and coloured."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Doubles = NDArray[np.float64]

DISC_ATTRIBUTES = ("colour", "red", "green", "blue", "radius", "mass")
"""The columns of ``Episode.attributes`` in the world of discs: index into ``PALETTE``, its colour from 0 to 1, radius
in widths of the box, mass. A row of zeros where no object is."""

COLOUR_NAMES = ("red", "green", "blue", "yellow", "magenta", "cyan", "orange", "white")

PALETTE: NDArray[np.float32] = np.array(
    [
        (0.90, 0.16, 0.16),
        (0.18, 0.72, 0.22),
        (0.20, 0.38, 0.95),
        (0.96, 0.86, 0.16),
        (0.86, 0.24, 0.86),
        (0.16, 0.82, 0.86),
        (0.98, 0.54, 0.10),
        (0.92, 0.92, 0.92),
    ],
    dtype=np.float32,
)
"""float32 ``[8, 3]``: the colours of discs, red, green, blue from 0 to 1, in the order of ``COLOUR_NAMES``."""


def appearance(colour: int, radius: float, mass: float) -> NDArray[np.float32]:
    """One row of attributes, float32 ``[F]``.

    Raises:
        ValueError: the palette has no such colour.
    """
    if not 0 <= colour < len(PALETTE):
        raise ValueError(f"colour {colour}: expected 0 to {len(PALETTE) - 1}, an index into the palette of discs")
    return np.array([colour, *PALETTE[colour], radius, mass], dtype=np.float32)


@dataclass
class DiscState:
    """The discs at one step; interventions change it in place.

    Attributes:
        exact: float64 ``[N, 4]``: x, y in widths of the box, velocity in widths a frame; zeros where no object is.
        present: bool ``[N]``.
        touched: bool ``[N]``: the objects in contact with another since the step before.
        attributes: float32 ``[N, F]``, the columns of ``DISC_ATTRIBUTES``.
        radius: of every disc, in widths of the box.
        mass: of every disc.
    """

    exact: Doubles
    present: NDArray[np.bool_]
    touched: NDArray[np.bool_]
    attributes: NDArray[np.float32]
    radius: float
    mass: float = 1.0

    def check_there(self, place: int, wish: str) -> None:
        """Raises ValueError unless an object is at ``place``; ``wish`` names what was to be done with it."""
        if not 0 <= place < len(self.present):
            raise ValueError(f"{wish}: expected an object from 0 to {len(self.present) - 1}, got {place}")
        if not self.present[place]:
            there = np.flatnonzero(self.present).tolist()
            raise ValueError(f"{wish}: object {place} is not there: choose one of {there}")

    def check_colour(self, colour: int, place: int, wish: str) -> None:
        """Raises ValueError where another object than ``place`` has the colour: colours tell the objects apart."""
        same = self.present & (self.attributes[:, 0] == colour)
        same[place] = False
        if same.any():
            used = sorted(int(value) for value in self.attributes[self.present, 0])
            raise ValueError(
                f"{wish}: colour {colour} is that of object {int(same.argmax())}: choose one other than {used}"
            )

    def check_room(self, x: float, y: float, wish: str) -> None:
        """Raises ValueError unless a disc at (x, y) is inside the box and overlaps no other."""
        low, high = self.radius, 1 - self.radius
        if not (low <= x <= high and low <= y <= high):
            raise ValueError(f"{wish}: expected x and y from {low:g} to {high:g}, inside the box, got ({x:g}, {y:g})")
        away = np.hypot(self.exact[:, 0] - x, self.exact[:, 1] - y)
        overlaps = self.present & (away < 2 * self.radius)
        if overlaps.any():
            place = int(overlaps.argmax())
            raise ValueError(
                f"{wish}: a disc at ({x:g}, {y:g}) overlaps object {place}, whose centre is {away[place]:.3f} away:"
                f" expected {2 * self.radius:g} or more"
            )
