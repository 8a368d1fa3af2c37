"""Recognising a stored position table: which code on which grid it is, if any."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from jepa_core.nn.position import sin_cos
from jepa_vision.frontend import patch_lattice
from jepa_vision.positions import Positions, channel_order, channel_split

TOLERANCE = 1e-5
_PROBED_ROWS = 48


@dataclass(frozen=True)
class Recognised:
    """What a table is.

    Attributes:
        positions: the name of the code.
        grid: sites along each axis.
        difference: the largest between stored and computed values.
    """

    positions: Positions
    grid: tuple[int, ...]
    difference: float


def recognise(table: Tensor, axes: int, grid: Sequence[int] | None = None) -> Recognised | None:
    """The sine-cosine code that equals a table ``[N, D]`` within 1e-5; None where there is none.

    Args:
        table: of a picture (2 axes) or clip (3).
        axes: how many.
        grid: sites along each axis; None = any that have N sites are tried, square ones first.
    """
    if table.shape[1] % 2 or not table.is_floating_point():
        return None
    grids = [tuple(grid)] if grid is not None else list(_grids(len(table), axes))
    for sizes in grids:
        for positions in _codes(axes, table.shape[1]):
            difference = _difference(table, positions, sizes)
            if difference is not None:
                return Recognised(positions, sizes, difference)
    return None


def _codes(axes: int, width: int) -> tuple[Positions, ...]:
    if axes == 2:
        return ("sin_cos_xy", "sin_cos_yx")
    return ("sin_cos_yx", "sin_cos_half_time", "sin_cos_xy") if width % 8 == 0 else ("sin_cos_yx", "sin_cos_xy")


def _grids(count: int, axes: int) -> Iterator[tuple[int, ...]]:
    """Grids of so many sites; of pictures and frames the squarest come first."""
    for frames in [1] if axes == 2 else [n for n in range(1, count + 1) if count % n == 0]:
        area = count // frames
        rows = sorted((n for n in range(1, area + 1) if area % n == 0), key=lambda n: abs(math.log(n * n / area)))
        for side in rows:
            yield (side, area // side) if axes == 2 else (frames, side, area // side)


def _difference(table: Tensor, positions: Positions, grid: tuple[int, ...]) -> float | None:
    """The largest difference if it is small; a few rows are looked at first, since most codes fail there."""
    lattice, width = patch_lattice(grid, (1,) * len(grid)), table.shape[1]
    if lattice.count != len(table):
        return None
    code = sin_cos(lattice, width, channel_order(positions, lattice), channel_split(positions, lattice, width))
    few = torch.linspace(0, len(table) - 1, min(len(table), _PROBED_ROWS)).long()
    # A table kept in half precision is only as close as that.
    allowed = max(TOLERANCE, torch.finfo(table.dtype).eps)
    largest = 0.0
    for ids in (few, torch.arange(len(table))):
        expected = code(lattice.coordinates(ids).double())
        largest = float((table[ids].double() - expected).abs().max())
        if not largest <= allowed:
            return None
    return largest
