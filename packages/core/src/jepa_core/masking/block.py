"""Block masks: I-JEPA's multi-block (arXiv 2301.08243, section 3) and V-JEPA's tubes (arXiv 2404.08471, section 3.2).

Block sizes are drawn once a batch, places for each sample. ``truncate`` says how lists get equal lengths:

- ``random`` (default): fixed lengths, so that shapes are static; what is too many is left out uniformly at random.
- ``prefix``: as the released collators do, in distribution: every list is cut to the shortest of the batch and keeps
  its lowest ids, the top of an image and the early frames of a clip. I-JEPA's never uses the last row and column.
  Lengths differ from batch to batch, and their computation waits for the device.

``edges`` says where blocks may lie: ``wrap`` (default), where a block that leaves on one side comes in on the other, so
that every site is used equally often, or ``inside`` the grid, as published: border sites are in fewer blocks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from jepa_core.contracts import Grid, Mask, Sites
from jepa_core.lattice import Lattice
from jepa_core.seeds import random_keys, uniform

Truncate = Literal["random", "prefix"]
Edges = Literal["inside", "wrap"]

# Streams of the sample seeds; tube sets count up from theirs.
_TARGET_STREAM, _CONTEXT_STREAM, _CUT_STREAM, _TUBE_STREAM = 111, 112, 113, 121
# Streams of the batch seed.
_SIZE_STREAM, _TUBE_SIZE_STREAM = 141, 151
_LAST = torch.iinfo(torch.int64).max

LAYOUTS = 8
"""Layouts drawn for each sample; the first that leaves enough context is taken. The last puts all blocks in one place,
so that it always does."""

RELEASED_TRIES = 20
"""I-JEPA's released collator draws the context block this often before it lets go of one target's complement."""


# --------------------------------------------------------------------------------------------------------------------
# Blocks on a lattice
# --------------------------------------------------------------------------------------------------------------------


def block_sides(area: int, aspect: float, rows: int, columns: int) -> tuple[int, int]:
    """Rows and columns of a block of about ``area`` sites whose rows / columns is ``aspect``, at most the grid's."""
    return min(round(math.sqrt(area * aspect)), rows), min(round(math.sqrt(area / aspect)), columns)


def _between(bounds: tuple[float, float], fraction: float) -> float:
    return bounds[0] + fraction * (bounds[1] - bounds[0])


def _batch_draws(batch_seed: int, n: int, stream: int) -> list[float]:
    """Draws on the CPU: they set shapes, and the device need not be asked."""
    return [float(x) for x in uniform(torch.tensor([batch_seed]), n, stream)[0]]


def _places(seeds: Tensor, shape: tuple[int, ...], ranges: Sequence[int], stream: int) -> Tensor:
    """First sites of blocks, int64 ``[B, *shape, axes]``, each uniform in ``0 .. range - 1``."""
    axes = len(ranges)
    keys = random_keys(seeds, math.prod(shape) * axes, stream).view(len(seeds), *shape, axes)
    return torch.stack([keys[..., axis] % ranges[axis] for axis in range(axes)], dim=-1)


def _ranges(sizes: Sequence[int], sides: Sequence[int], edges: Edges) -> list[int]:
    return list(sizes) if edges == "wrap" else [size - side + 1 for size, side in zip(sizes, sides, strict=True)]


def _cover(places: Tensor, sides: Sequence[int], lattice: Lattice) -> Tensor:
    """Which sites blocks at ``places [..., axes]`` hold, bool ``[..., N]``; the modulo wraps what leaves the grid."""
    inside = torch.ones(*places.shape[:-1], 1, dtype=torch.bool, device=places.device)
    for axis, (size, side) in enumerate(zip(lattice.sizes, sides, strict=True)):
        along = (torch.arange(size, device=places.device) - places[..., axis, None]) % size < side
        inside = (inside[..., :, None] & along[..., None, :]).flatten(-2)
    return inside


def _block_ids(places: Tensor, sides: Sequence[int], lattice: Lattice) -> Tensor:
    """Ids of the sites of blocks at ``places [..., axes]``, ``[..., prod(sides)]``."""
    ids = torch.zeros(*places.shape[:-1], 1, dtype=torch.long, device=places.device)
    for axis, (size, side) in enumerate(zip(lattice.sizes, sides, strict=True)):
        along = (places[..., axis, None] + torch.arange(side, device=places.device)) % size
        ids = (ids[..., :, None] * size + along[..., None, :]).flatten(-2)
    return ids


def _lowest(among_BN: Tensor, count: int) -> Tensor:
    """The ``count`` lowest ids of each row's True entries, ``[B, count]``."""
    return among_BN.to(torch.uint8).argsort(dim=1, descending=True, stable=True)[:, :count]


def _some(among_BN: Tensor, count: int, seeds: Tensor, stream: int) -> Tensor:
    """``count`` ids of each row's True entries, uniformly at random, ascending; fewer entries are repeated in turn."""
    keys = random_keys(seeds, among_BN.shape[1], stream).masked_fill(~among_BN, _LAST)
    order = keys.argsort(dim=1, stable=True)
    turn = torch.arange(count, device=order.device) % among_BN.sum(1, keepdim=True).clamp(min=1)
    return order.gather(1, turn).sort(1).values


def _shortest(among_BN: Tensor) -> int:
    return int(among_BN.sum(1).min())


def _first(good_BT: Tensor) -> Tensor:
    """Index ``[B]`` of each row's first True entry; the last one counts as True."""
    last = torch.zeros_like(good_BT)
    last[:, -1] = True
    return (good_BT | last).to(torch.uint8).argmax(1)


def _take(x_BT: Tensor, index_B: Tensor) -> Tensor:
    """``[B, T, ...]`` at one T each, ``[B, ...]``."""
    return x_BT[torch.arange(len(x_BT), device=x_BT.device), index_B]


def _mask(name: str, context_BN: Tensor, targets_BKM: Tensor, lattice: Lattice) -> Mask:
    targets = Sites(targets_BKM)
    whole = Sites.whole(lattice, len(context_BN), context_BN.device)
    union = Sites(whole.ids, targets.on_lattice(lattice.count), complete=True)
    return Mask(name, Sites(context_BN), targets, union)


def _check_bounds(key: str, bounds: tuple[float, float], low: float, high: float) -> None:
    if not low < bounds[0] <= bounds[1] <= high:
        raise ValueError(f"{key}: expected two rising numbers above {low:g} and at most {high:g}, got {bounds}")


def _check_modes(truncate: str, edges: str) -> None:
    if truncate not in ("random", "prefix") or edges not in ("inside", "wrap"):
        raise ValueError(
            f"truncate, edges: expected random or prefix and inside or wrap, got {truncate!r} and {edges!r}"
        )
    if truncate == "prefix" and edges == "wrap":
        raise ValueError("edges: prefix is the released layout, whose blocks lie inside; use truncate=random with wrap")


def _check_axes(lattice: Lattice, axes: int, who: str) -> None:
    if len(lattice.sizes) != axes:
        raise ValueError(f"{who}: expected a lattice of {axes} axes, got {lattice.axes}")


# --------------------------------------------------------------------------------------------------------------------
# Two dimensions
# --------------------------------------------------------------------------------------------------------------------


class MultiBlockMasker:
    """Several target blocks; the context is one large block without what the targets hold.

    One uniform number a batch sets a block's scale and its aspect together, as in the released code, so that a 14 x 14
    grid has target blocks of 30, 35, 36 or 40 sites.

    Args:
        blocks: K target blocks.
        target_scale: share of the grid of a target block.
        target_aspect: rows / columns of a target block.
        context_scale: share of the grid of the context block, which is square.
        truncate, edges: see the head of this file.
        context_tokens: length of the context with ``random``; 0 = 2/7 of the grid, 56 of 14 x 14, which is what the
            released collator leaves on average at batch 32. ``prefix`` takes what the batch leaves.
        min_keep: with ``prefix``, a context of no more sites than this is drawn again.
    """

    def __init__(
        self,
        blocks: int = 4,
        target_scale: tuple[float, float] = (0.15, 0.2),
        target_aspect: tuple[float, float] = (0.75, 1.5),
        context_scale: tuple[float, float] = (0.85, 1.0),
        truncate: Truncate = "random",
        edges: Edges = "wrap",
        context_tokens: int = 0,
        min_keep: int = 10,
    ) -> None:
        _check_modes(truncate, edges)
        _check_bounds("target_scale", target_scale, 0, 1)
        _check_bounds("target_aspect", target_aspect, 0, math.inf)
        _check_bounds("context_scale", context_scale, 0, 1)
        if blocks < 1 or context_tokens < 0:
            raise ValueError(f"blocks, context_tokens: expected 1 and 0 or more, got {blocks} and {context_tokens}")
        self.blocks, self.truncate, self.edges = blocks, truncate, edges
        self.target_scale, self.target_aspect, self.context_scale = target_scale, target_aspect, context_scale
        self.context_tokens, self.min_keep = context_tokens, min_keep

    def __call__(self, grid: Grid, seeds: Tensor, batch_seed: int) -> tuple[Mask, ...]:
        """One mask a sample, targets ``[B, blocks, M]``; see :class:`jepa_core.contracts.Masker`."""
        lattice = grid.lattice
        _check_axes(lattice, 2, "MultiBlockMasker")
        target, context = self.sides(lattice, batch_seed)
        if self.truncate == "prefix":
            return (self._released(lattice, seeds, target, context),)
        return (self._fixed(lattice, seeds, target, context),)

    def sides(self, lattice: Lattice, batch_seed: int) -> tuple[tuple[int, int], tuple[int, int]]:
        """Rows and columns of this batch's target blocks and of its context block."""
        for_target, for_context = _batch_draws(batch_seed, 2, _SIZE_STREAM)
        rows, columns = lattice.sizes
        # The released code lets no block span a whole side.
        limit = (rows - 1, columns - 1) if self.truncate == "prefix" else (rows, columns)
        area = int(lattice.count * _between(self.target_scale, for_target))
        target = block_sides(area, _between(self.target_aspect, for_target), *limit)
        area = int(lattice.count * _between(self.context_scale, for_context))
        context = block_sides(area, 1.0, *limit)
        if min(*target, *context) < 1 or math.prod(target) >= lattice.count:
            raise ValueError(
                f"MultiBlockMasker: expected blocks of 1 site up to less than the grid {lattice.sizes}, got {target} "
                f"and {context}; change target_scale or take a finer grid"
            )
        return target, context

    def _fixed(self, lattice: Lattice, seeds: Tensor, target: tuple[int, int], context: tuple[int, int]) -> Mask:
        wanted = self.context_tokens or max(1, round(lattice.count * 2 / 7))
        if wanted > lattice.count - math.prod(target):
            raise ValueError(
                f"context_tokens: expected at most {lattice.count - math.prod(target)}, what one target block leaves "
                f"of {lattice.count} sites, got {wanted}"
            )
        ranges = _ranges(lattice.sizes, target, self.edges)
        places_BTKA = _places(seeds, (LAYOUTS, self.blocks), ranges, _TARGET_STREAM)
        places_BTKA[:, -1] = places_BTKA[:, -1, :1]
        corners_BTA = _places(seeds, (LAYOUTS,), _ranges(lattice.sizes, context, self.edges), _CONTEXT_STREAM)
        hidden_BTN = _cover(places_BTKA, target, lattice).any(2)
        seen_BTN = _cover(corners_BTA, context, lattice) & ~hidden_BTN
        chosen_B = _first(seen_BTN.sum(-1) >= wanted)
        context_BN = _some(_take(seen_BTN, chosen_B), wanted, seeds, _CUT_STREAM)
        return _mask("multiblock", context_BN, _block_ids(_take(places_BTKA, chosen_B), target, lattice), lattice)

    def _released(self, lattice: Lattice, seeds: Tensor, target: tuple[int, int], context: tuple[int, int]) -> Mask:
        if min(math.prod(target), math.prod(context)) <= self.min_keep:
            raise ValueError(
                f"min_keep: expected less than the {math.prod(target)} sites of a target block and the "
                f"{math.prod(context)} of the context block on the grid {lattice.sizes}, got {self.min_keep}"
            )
        # An upper bound that is left out, as in the released code: the last row and column are never used.
        target_ranges = [size - side for size, side in zip(lattice.sizes, target, strict=True)]
        context_ranges = [size - side for size, side in zip(lattice.sizes, context, strict=True)]
        places_BKA = _places(seeds, (self.blocks,), target_ranges, _TARGET_STREAM)
        corners_BRA = _places(seeds, (RELEASED_TRIES,), context_ranges, _CONTEXT_STREAM)
        seen_BN = self._first_long_enough(_cover(corners_BRA, context, lattice), ~_cover(places_BKA, target, lattice))
        context_BN = _lowest(seen_BN, _shortest(seen_BN))
        return _mask("multiblock", context_BN, _block_ids(places_BKA, target, lattice), lattice)

    def _first_long_enough(self, block_BRN: Tensor, outside_BKN: Tensor) -> Tensor:
        """The first context of more than ``min_keep`` sites, bool ``[B, N]``: outside all targets, in any of the tries;
        then outside all but the last target, and so on."""
        # Entry l leaves l targets out of account.
        none = torch.ones_like(outside_BKN[:, :1])
        allowed_BLN = torch.cat([none, outside_BKN.to(torch.uint8).cumprod(1).bool()], dim=1).flip(1)
        # Autocast would round the counts.
        with torch.autocast(allowed_BLN.device.type, enabled=False):
            sizes_BLR = allowed_BLN.float() @ block_BRN.float().transpose(1, 2)
        index_B = _first(sizes_BLR.flatten(1) > self.min_keep)
        level_B = torch.div(index_B, block_BRN.shape[1], rounding_mode="floor")
        return _take(allowed_BLN, level_B) & _take(block_BRN, index_B % block_BRN.shape[1])


# --------------------------------------------------------------------------------------------------------------------
# Three dimensions
# --------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Tubes:
    """One set of space-time blocks: their union is the target, the rest the context.

    Attributes:
        name: of the mask.
        blocks: how many.
        scale: share of a frame's sites of a block.
        aspect: rows / columns.
        time_scale: share of the time steps; all of them makes tubes.
        context_share, target_share: lengths with ``truncate=random``, as shares of all sites. The defaults of
            :data:`SHORT` and :data:`LONG` are what the released collator leaves at its batch of 24.
    """

    name: str
    blocks: int
    scale: tuple[float, float]
    context_share: float
    target_share: float
    aspect: tuple[float, float] = (0.75, 1.5)
    time_scale: tuple[float, float] = (1.0, 1.0)

    def __post_init__(self) -> None:
        _check_bounds(f"{self.name}.scale", self.scale, 0, 1)
        _check_bounds(f"{self.name}.aspect", self.aspect, 0, math.inf)
        _check_bounds(f"{self.name}.time_scale", self.time_scale, 0, 1)
        shares = (self.context_share, self.target_share)
        if self.blocks < 1 or min(shares) <= 0 or sum(shares) > 1:
            raise ValueError(
                f"{self.name}: expected at least one block and shares above 0 of together at most 1, got "
                f"{self.blocks} and {shares}"
            )


SHORT = Tubes("short", 8, (0.15, 0.15), context_share=0.236, target_share=0.479)
LONG = Tubes("long", 2, (0.7, 0.7), context_share=0.068, target_share=0.70)


class TubeMasker:
    """V-JEPA's masks: for each set of tubes, the union of its blocks is the target and all the rest is context.

    Args:
        sets: one mask a sample for each.
        truncate, edges: see the head of this file.
    """

    def __init__(
        self, sets: Sequence[Tubes] = (SHORT, LONG), truncate: Truncate = "random", edges: Edges = "wrap"
    ) -> None:
        _check_modes(truncate, edges)
        names = [tubes.name for tubes in sets]
        if not names or len(set(names)) != len(names):
            raise ValueError(f"sets: expected at least one, each with a name of its own, got {names}")
        self.sets, self.truncate, self.edges = tuple(sets), truncate, edges

    def __call__(self, grid: Grid, seeds: Tensor, batch_seed: int) -> tuple[Mask, ...]:
        """A mask for each set, targets ``[B, 1, M]``; see :class:`jepa_core.contracts.Masker`."""
        _check_axes(grid.lattice, 3, "TubeMasker")
        return tuple(self._one(place, grid.lattice, seeds, batch_seed) for place in range(len(self.sets)))

    def sides(self, place: int, lattice: Lattice, batch_seed: int) -> tuple[int, int, int]:
        """Time steps, rows and columns of this batch's blocks of one set."""
        tubes, (steps, rows, columns) = self.sets[place], lattice.sizes
        for_time, for_scale, for_aspect = _batch_draws(batch_seed, 3, _TUBE_SIZE_STREAM + place)
        area = int(rows * columns * _between(tubes.scale, for_scale))
        high, wide = block_sides(area, _between(tubes.aspect, for_aspect), rows, columns)
        sides = max(1, int(steps * _between(tubes.time_scale, for_time))), high, wide
        if min(sides) < 1 or math.prod(sides) >= lattice.count:
            raise ValueError(
                f"TubeMasker: expected blocks of 1 site up to less than the grid {lattice.sizes}, got {sides} for "
                f"{tubes.name}; change its scale or take a finer grid"
            )
        return sides

    def _one(self, place: int, lattice: Lattice, seeds: Tensor, batch_seed: int) -> Mask:
        tubes, sides = self.sets[place], self.sides(place, lattice, batch_seed)
        stream = _TUBE_STREAM + 3 * place
        ranges = _ranges(lattice.sizes, sides, self.edges)
        places_BTKA = _places(seeds, (LAYOUTS, tubes.blocks), ranges, stream)
        places_BTKA[:, -1] = places_BTKA[:, -1, :1]
        hidden_BTN = _cover(places_BTKA, sides, lattice).any(2)
        if self.truncate == "prefix":
            hidden_BN = _take(hidden_BTN, _first(~hidden_BTN.all(-1)))
            context_BN = _lowest(~hidden_BN, _shortest(~hidden_BN))
            return _mask(tubes.name, context_BN, _lowest(hidden_BN, _shortest(hidden_BN))[:, None], lattice)
        context = max(1, round(tubes.context_share * lattice.count))
        target = max(1, round(tubes.target_share * lattice.count))
        count_BT = hidden_BTN.sum(-1)
        hidden_BN = _take(hidden_BTN, _first((count_BT >= target) & (lattice.count - count_BT >= context)))
        targets_BM = _some(hidden_BN, target, seeds, stream + 1)
        return _mask(tubes.name, _some(~hidden_BN, context, seeds, stream + 2), targets_BM[:, None], lattice)
