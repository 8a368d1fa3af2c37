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

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from jepa_core.contracts import Grid, Mask, Sites
from jepa_core.lattice import Lattice
from jepa_core.masking.extent import Boxes, Layouts, box, draw_layout, extents, sides_within
from jepa_core.masking.layout import (
    SIDES,
    Edges,
    Fit,
    batch_draws,
    between,
    block_ids,
    block_sides,
    cover,
    covered_by_any,
    draw_places,
    first_true,
    lowest_of,
    place_ranges,
    roomiest,
    shortest,
    some_of,
    take_layout,
)
from jepa_core.masking.padded import keep_one_of_both, padded_mask, share_of, some_among

Truncate = Literal["random", "prefix"]

# Streams of the sample seeds; tube sets take three each.
_TARGET_STREAM, _CONTEXT_STREAM, _CUT_STREAM, _TUBE_STREAM = 111, 112, 113, 121
# Streams of the batch seed.
_SIZE_STREAM, _TUBE_SIZE_STREAM = 141, 151

LAYOUTS, TUBE_LAYOUTS = 8, 32
"""Layouts drawn for each sample; the first with room for both lists is taken, otherwise the one with most. The last
puts all blocks in one place, which leaves most context. Wrapped tubes overlap least: less than half of the layouts of
V-JEPA's long ones leave its context."""

RELEASED_TRIES = 20
"""I-JEPA's released collator draws the context block this often before it lets go of one target's complement."""

_STEPS = 128  # how finely all draws of a size are gone through, to refuse settings that some batch could not keep to


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


def _steps() -> list[float]:
    return [step / _STEPS for step in range(_STEPS)]


def _mask(name: str, context_BN: Tensor, targets_BKM: Tensor, lattice: Lattice) -> Mask:
    targets = Sites(targets_BKM)
    whole = Sites.whole(lattice, len(context_BN), context_BN.device)
    union = Sites(whole.ids, targets.on_lattice(lattice.count), complete=True)
    return Mask(name, Sites(context_BN), targets, union)


# --------------------------------------------------------------------------------------------------------------------
# Two dimensions
# --------------------------------------------------------------------------------------------------------------------


class MultiBlockMasker:
    """Several target blocks; the context is one large block without what the targets hold.

    One uniform number a batch sets a block's scale and its aspect together, as in the released code, so that a 14 x 14
    grid has target blocks of 30, 35, 36 or 40 sites.

    Where sites are absent, blocks and counts are in proportion to each sample's extent, lists are padded and ``valid``
    tells; only with ``random``.

    Args:
        blocks: K target blocks.
        target_scale: share of the grid of a target block.
        target_aspect: rows / columns of a target block.
        context_scale: share of the grid of the context block, which is square.
        truncate, edges: see the head of this file.
        fit: of blocks longer than a side of the grid: ``clipped`` loses what is cut off, as published for square grids;
            ``fitted`` gives it to the other side. On 64 x 8 a clipped context block has 21 x 8 sites, a fitted one 54.
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
        fit: Fit = "clipped",
    ) -> None:
        _check_modes(truncate, edges)
        if fit not in SIDES:
            raise ValueError(f"fit: expected clipped or fitted, got {fit!r}")
        _check_bounds("target_scale", target_scale, 0, 1)
        _check_bounds("target_aspect", target_aspect, 0, math.inf)
        _check_bounds("context_scale", context_scale, 0, 1)
        if blocks < 1 or context_tokens < 0:
            raise ValueError(f"blocks, context_tokens: expected 1 and 0 or more, got {blocks} and {context_tokens}")
        self.blocks, self.truncate, self.edges = blocks, truncate, edges
        self.target_scale, self.target_aspect, self.context_scale = target_scale, target_aspect, context_scale
        self.context_tokens, self.min_keep, self.fit = context_tokens, min_keep, fit
        self._checked: set[tuple[int, ...]] = set()

    def __call__(self, grid: Grid, seeds: Tensor, batch_seed: int) -> tuple[Mask, ...]:
        """One mask a sample, targets ``[B, blocks, M]``; see :class:`jepa_core.contracts.Masker`."""
        lattice = grid.lattice
        if lattice.sizes not in self._checked:
            self.check(lattice)
            self._checked.add(lattice.sizes)
        if grid.present is not None:
            return (self._padded(lattice, grid.present, seeds, batch_seed),)
        target, context = self.sides(lattice, batch_seed)
        if self.truncate == "prefix":
            return (self._released(lattice, seeds, target, context),)
        return (self._fixed(lattice, seeds, target, context),)

    def sides(self, lattice: Lattice, batch_seed: int) -> tuple[tuple[int, int], tuple[int, int]]:
        """Rows and columns of this batch's target blocks and of its context block."""
        for_target, for_context = batch_draws(batch_seed, 2, _SIZE_STREAM)
        return self._target(lattice, for_target), self._context(lattice, for_context)

    def check(self, lattice: Lattice) -> None:
        """Refuses a lattice on which some batch could not be masked, whatever sizes it draws."""
        _check_axes(lattice, 2, "MultiBlockMasker")
        targets = [math.prod(self._target(lattice, step)) for step in _steps()]
        contexts = [math.prod(self._context(lattice, step)) for step in _steps()]
        smallest, largest, left = min(targets), max(targets), lattice.count - max(targets)
        if min(smallest, *contexts) < 1 or left < 1:
            raise ValueError(
                f"MultiBlockMasker: expected blocks of 1 site up to less than the grid {lattice.sizes}, got targets of "
                f"{smallest} to {largest} and contexts from {min(contexts)}; change target_scale or take a finer grid"
            )
        if self.truncate == "prefix" and min(smallest, *contexts) <= self.min_keep:
            raise ValueError(
                f"min_keep: expected less than the {smallest} sites of a target block and the {min(contexts)} of the "
                f"context block on the grid {lattice.sizes}, got {self.min_keep}"
            )
        if self.truncate == "random" and self._wanted(lattice) > left:
            raise ValueError(
                f"context_tokens: expected at most {left}, what the largest target block leaves of {lattice.count} "
                f"sites, got {self._wanted(lattice)}"
            )

    def _limit(self, lattice: Lattice) -> tuple[int, int]:
        """Most rows and columns of a block: the released code lets none span a whole side."""
        rows, columns = lattice.sizes
        return (rows - 1, columns - 1) if self.truncate == "prefix" else (rows, columns)

    def _target(self, lattice: Lattice, draw: float) -> tuple[int, int]:
        area = int(lattice.count * between(self.target_scale, draw))
        return SIDES[self.fit](area, between(self.target_aspect, draw), *self._limit(lattice))

    def _context(self, lattice: Lattice, draw: float) -> tuple[int, int]:
        return SIDES[self.fit](int(lattice.count * between(self.context_scale, draw)), 1.0, *self._limit(lattice))

    def _wanted(self, lattice: Lattice) -> int:
        return self.context_tokens or max(1, round(lattice.count * 2 / 7))

    def _fixed(self, lattice: Lattice, seeds: Tensor, target: tuple[int, int], context: tuple[int, int]) -> Mask:
        wanted = self._wanted(lattice)
        ranges = place_ranges(lattice.sizes, target, self.edges)
        places_BTKA = draw_places(seeds, (LAYOUTS, self.blocks), ranges, _TARGET_STREAM)
        places_BTKA[:, -1] = places_BTKA[:, -1, :1]
        corners_BTA = draw_places(seeds, (LAYOUTS,), place_ranges(lattice.sizes, context, self.edges), _CONTEXT_STREAM)
        hidden_BTN = covered_by_any(places_BTKA, target, lattice.sizes)
        seen_BTN = cover(corners_BTA, context, lattice.sizes) & ~hidden_BTN
        chosen_B = roomiest(seen_BTN.sum(-1) / wanted)
        context_BN = some_of(take_layout(seen_BTN, chosen_B), wanted, seeds, _CUT_STREAM)
        return _mask(
            "multiblock", context_BN, block_ids(take_layout(places_BTKA, chosen_B), target, lattice.sizes), lattice
        )

    def _padded(self, lattice: Lattice, present_BN: Tensor, seeds: Tensor, batch_seed: int) -> Mask:
        if self.truncate == "prefix":
            raise ValueError(
                "truncate: prefix is the released layout, for grids without absent sites, got some; use random"
            )
        for_target, for_context = batch_draws(batch_seed, 2, _SIZE_STREAM)
        extent_BA = extents(present_BN, lattice.sizes)
        scale, aspect = between(self.target_scale, for_target), between(self.target_aspect, for_target)
        target_BA = sides_within(scale, aspect, extent_BA, self.fit)
        context_BA = sides_within(between(self.context_scale, for_context), 1.0, extent_BA, self.fit)
        wanted = self._wanted(lattice)
        wanted_B = share_of(present_BN.sum(1), wanted / lattice.count).clamp(min=1)
        layouts = Layouts(self.blocks, LAYOUTS, self.edges, _TARGET_STREAM, _CONTEXT_STREAM)
        boxes = Boxes(extent_BA, target_BA, context_BA)
        seen_BN, targets_BKN = draw_layout(present_BN, lattice.sizes, seeds, boxes, layouts, box, wanted_B)
        seen_BN = some_among(seen_BN, wanted_B, seeds, _CUT_STREAM)
        context_BN, targets_BKN = keep_one_of_both(seen_BN, targets_BKN, present_BN, seeds)
        most = math.prod(self._target(lattice, for_target))
        return padded_mask("multiblock", context_BN, targets_BKN, lattice, wanted, most)

    def _released(self, lattice: Lattice, seeds: Tensor, target: tuple[int, int], context: tuple[int, int]) -> Mask:
        # An upper bound that is left out, as in the released code: the last row and column are never used.
        target_ranges = [size - side for size, side in zip(lattice.sizes, target, strict=True)]
        context_ranges = [size - side for size, side in zip(lattice.sizes, context, strict=True)]
        places_BKA = draw_places(seeds, (self.blocks,), target_ranges, _TARGET_STREAM)
        # Level l leaves the last l targets out of account.
        corners_BLRA = draw_places(seeds, (self.blocks + 1, RELEASED_TRIES), context_ranges, _CONTEXT_STREAM)
        outside_BKN = ~cover(places_BKA, target, lattice.sizes)
        everywhere = torch.ones_like(outside_BKN[:, :1])
        allowed_BLN = torch.cat([everywhere, outside_BKN.to(torch.uint8).cumprod(1).bool()], dim=1).flip(1)
        seen_BTN = (cover(corners_BLRA, context, lattice.sizes) & allowed_BLN[:, :, None]).flatten(1, 2)
        seen_BN = take_layout(seen_BTN, first_true(seen_BTN.sum(-1) > self.min_keep))
        context_BN = lowest_of(seen_BN, shortest(seen_BN))
        return _mask("multiblock", context_BN, block_ids(places_BKA, target, lattice.sizes), lattice)


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
        context_share, target_share: lengths with ``truncate=random``, as shares of all sites. Those of
            :data:`SHORT` and :data:`LONG` are near what the released collator leaves at its batch of 24 (23.3 and
            47.8 %, 6.2 and 70.4 %).
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

    def lengths(self, lattice: Lattice) -> tuple[int, int]:
        """Context and target sites with ``truncate=random``."""
        context, target = (max(1, round(share * lattice.count)) for share in (self.context_share, self.target_share))
        return context, target

    def sides(self, lattice: Lattice, for_time: float, for_scale: float, for_aspect: float) -> tuple[int, int, int]:
        """Time steps, rows and columns of the blocks that these draws, 0 to 1, give."""
        steps, rows, columns = lattice.sizes
        area = int(rows * columns * between(self.scale, for_scale))
        high, wide = block_sides(area, between(self.aspect, for_aspect), rows, columns)
        return max(1, int(steps * between(self.time_scale, for_time))), high, wide


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
        self._checked: set[tuple[int, ...]] = set()

    def __call__(self, grid: Grid, seeds: Tensor, batch_seed: int) -> tuple[Mask, ...]:
        """A mask for each set, targets ``[B, 1, M]``; see :class:`jepa_core.contracts.Masker`."""
        if grid.lattice.sizes not in self._checked:
            self.check(grid.lattice)
            self._checked.add(grid.lattice.sizes)
        return tuple(self._one(place, grid.lattice, seeds, batch_seed) for place in range(len(self.sets)))

    def sides(self, place: int, lattice: Lattice, batch_seed: int) -> tuple[int, int, int]:
        """Time steps, rows and columns of this batch's blocks of one set."""
        # As in the released code, one draw serves all sets: where short tubes are upright, long ones are.
        return self.sets[place].sides(lattice, *batch_draws(batch_seed, 3, _TUBE_SIZE_STREAM))

    def check(self, lattice: Lattice) -> None:
        """Refuses a lattice on which some batch could not be masked, whatever sizes it draws."""
        _check_axes(lattice, 3, "TubeMasker")
        for tubes in self.sets:
            # Sizes grow with the draws for time and area: only their ends count.
            ends = itertools.product((0.0, 1.0), (0.0, 1.0), _steps())
            sizes = [math.prod(tubes.sides(lattice, *draws)) for draws in ends]
            smallest, left = min(sizes), lattice.count - max(sizes)
            if smallest < 1 or left < 1:
                raise ValueError(
                    f"TubeMasker: expected blocks of 1 site up to less than the grid {lattice.sizes}, got {smallest} "
                    f"to {max(sizes)} for {tubes.name}; change its scale or take a finer grid"
                )
            context, target = tubes.lengths(lattice)
            if self.truncate == "random" and (context > left or target > tubes.blocks * smallest):
                raise ValueError(
                    f"{tubes.name}: expected at most {left} context sites, what the largest block leaves, and "
                    f"{tubes.blocks * smallest} targets, what {tubes.blocks} of the smallest hold, got {context} and "
                    f"{target} of {lattice.count}; change context_share, target_share or scale"
                )

    def _one(self, place: int, lattice: Lattice, seeds: Tensor, batch_seed: int) -> Mask:
        tubes, sides = self.sets[place], self.sides(place, lattice, batch_seed)
        stream = _TUBE_STREAM + 3 * place
        context, target = tubes.lengths(lattice)
        ranges = place_ranges(lattice.sizes, sides, self.edges)
        places_BTKA = draw_places(seeds, (TUBE_LAYOUTS, tubes.blocks), ranges, stream)
        places_BTKA[:, -1] = places_BTKA[:, -1, :1]
        hidden_BTN = covered_by_any(places_BTKA, sides, lattice.sizes)
        if self.truncate == "prefix":
            hidden_BN = take_layout(hidden_BTN, first_true(~hidden_BTN.all(-1)))
            context_BN = lowest_of(~hidden_BN, shortest(~hidden_BN))
            return _mask(tubes.name, context_BN, lowest_of(hidden_BN, shortest(hidden_BN))[:, None], lattice)
        count_BT = hidden_BTN.sum(-1)
        room_BT = torch.minimum(count_BT / target, (lattice.count - count_BT) / context)
        hidden_BN = take_layout(hidden_BTN, roomiest(room_BT))
        targets_BM = some_of(hidden_BN, target, seeds, stream + 1)
        return _mask(tubes.name, some_of(~hidden_BN, context, seeds, stream + 2), targets_BM[:, None], lattice)
