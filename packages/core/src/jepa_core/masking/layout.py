"""Blocks on a lattice: their sides, their places, the sites they hold, and lists of equal length cut from them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from jepa_core.seeds import random_keys, uniform

Edges = Literal["inside", "wrap"]
Fit = Literal["clipped", "fitted"]

_LAST = torch.iinfo(torch.int64).max


def block_sides(area: int, aspect: float, rows: int, columns: int) -> tuple[int, int]:
    """Rows and columns of a block of about ``area`` sites whose rows / columns is ``aspect``, at most the grid's."""
    return min(round(math.sqrt(area * aspect)), rows), min(round(math.sqrt(area / aspect)), columns)


def fitted_sides(area: int, aspect: float, rows: int, columns: int) -> tuple[int, int]:
    """As :func:`block_sides`, but what one side of the grid cuts off goes to the other, so that the area stays."""
    high, wide = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
    if wide > columns:
        return min(round(area / columns), rows), columns
    if high > rows:
        return rows, min(round(area / rows), columns)
    return high, wide


SIDES = {"clipped": block_sides, "fitted": fitted_sides}
"""Rows and columns of a block by how it is made to fit the grid."""


def between(bounds: tuple[float, float], fraction: float) -> float:
    """The point this fraction of the way from the lower to the upper bound."""
    return bounds[0] + fraction * (bounds[1] - bounds[0])


def batch_draws(batch_seed: int, n: int, stream: int) -> list[float]:
    """``n`` uniform draws of a batch, on the CPU: they set shapes, and the device need not be asked."""
    return [float(x) for x in uniform(torch.tensor([batch_seed]), n, stream)[0]]


def draw_places(seeds: Tensor, shape: tuple[int, ...], ranges: Sequence[int], stream: int) -> Tensor:
    """First sites of blocks, int64 ``[B, *shape, axes]``, each uniform in ``0 .. range - 1``."""
    axes = len(ranges)
    keys = random_keys(seeds, math.prod(shape) * axes, stream).view(len(seeds), *shape, axes)
    return torch.stack([keys[..., axis] % ranges[axis] for axis in range(axes)], dim=-1)


def place_ranges(sizes: Sequence[int], sides: Sequence[int], edges: Edges) -> list[int]:
    """How many places a block of ``sides`` has along each axis of a lattice of ``sizes``."""
    return list(sizes) if edges == "wrap" else [size - side + 1 for size, side in zip(sizes, sides, strict=True)]


def cover(places: Tensor, sides: Sequence[int], sizes: Sequence[int]) -> Tensor:
    """Which sites of a lattice of ``sizes`` blocks at ``places [..., axes]`` hold, bool ``[..., N]``.

    The modulo wraps what leaves the lattice.
    """
    inside = torch.ones(*places.shape[:-1], 1, dtype=torch.bool, device=places.device)
    for axis, (size, side) in enumerate(zip(sizes, sides, strict=True)):
        along = (torch.arange(size, device=places.device) - places[..., axis, None]) % size < side
        inside = (inside[..., :, None] & along[..., None, :]).flatten(-2)
    return inside


def covered_by_any(places: Tensor, sides: Sequence[int], sizes: Sequence[int]) -> Tensor:
    """Which sites any of the blocks at ``places [..., blocks, axes]`` holds, bool ``[..., N]``."""
    if len(sizes) > 1 and sides[0] == sizes[0]:
        # Blocks as long as the first axis are alike all along it.
        across = covered_by_any(places[..., 1:], sides[1:], sizes[1:])
        return across[..., None, :].expand(*across.shape[:-1], sizes[0], -1).flatten(-2)
    return cover(places, sides, sizes).any(-2)


def block_ids(places: Tensor, sides: Sequence[int], sizes: Sequence[int]) -> Tensor:
    """Ids of the sites of blocks at ``places [..., axes]``, ``[..., prod(sides)]``."""
    ids = torch.zeros(*places.shape[:-1], 1, dtype=torch.long, device=places.device)
    for axis, (size, side) in enumerate(zip(sizes, sides, strict=True)):
        along = (places[..., axis, None] + torch.arange(side, device=places.device)) % size
        ids = (ids[..., :, None] * size + along[..., None, :]).flatten(-2)
    return ids


def lowest_of(among_BN: Tensor, count: int) -> Tensor:
    """The ``count`` lowest ids of each row's True entries, ``[B, count]``."""
    return among_BN.to(torch.uint8).argsort(dim=1, descending=True, stable=True)[:, :count]


def some_of(among_BN: Tensor, count: int, seeds: Tensor, stream: int) -> Tensor:
    """``count`` ids of each row's True entries, uniformly at random, ascending; fewer entries are repeated in turn."""
    keys = random_keys(seeds, among_BN.shape[1], stream).masked_fill(~among_BN, _LAST)
    order = keys.argsort(dim=1, stable=True)
    turn = torch.arange(count, device=order.device) % among_BN.sum(1, keepdim=True).clamp(min=1)
    return order.gather(1, turn).sort(1).values


def shortest(among_BN: Tensor) -> int:
    """Fewest True entries of a row; waits for the device."""
    return int(among_BN.sum(1).min())


def first_true(good_BT: Tensor) -> Tensor:
    """Index ``[B]`` of each row's first True entry; the last one counts as True."""
    last = torch.zeros_like(good_BT)
    last[:, -1] = True
    return (good_BT | last).to(torch.uint8).argmax(1)


def roomiest(room_BT: Tensor) -> Tensor:
    """Index ``[B]`` of the first layout with room for all sites wanted (1 or more), else of the one with most."""
    room_BT = room_BT.clamp(max=1)
    return first_true(room_BT >= room_BT.amax(1, keepdim=True))


def take_layout(x_BT: Tensor, index_B: Tensor) -> Tensor:
    """``[B, T, ...]`` at one T each, ``[B, ...]``."""
    return x_BT[torch.arange(len(x_BT), device=x_BT.device), index_B]
