"""Blocks in clips that end before the lattice does: drawn in proportion to what is there, one size for each sample.

Of each sample the smallest box from the first site of the lattice that holds all its present ones is its extent.
Letters: B batch, R layouts tried, K target blocks, A = 2 axes, N sites.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from jepa_core.masking.layout import Edges, Fit, roomiest, take_layout
from jepa_core.seeds import random_keys

Covers = Callable[[Tensor, Tensor], Tensor]
"""Rows ``[..., Y]`` and columns ``[..., X]`` of a block to sites, bool ``[..., Y * X]``: :func:`box`, :func:`cross`."""


@dataclass(frozen=True)
class Boxes:
    """What the blocks of a batch look like, int64 ``[B, A]`` each.

    Attributes:
        extent: box that holds a sample.
        target: rows and columns of its target blocks.
        context: rows and columns of its context block.
    """

    extent: Tensor
    target: Tensor
    context: Tensor


@dataclass(frozen=True)
class Layouts:
    """How blocks are laid.

    Attributes:
        blocks: K target blocks.
        tries: layouts drawn for each sample; in the last all blocks lie in one place, which leaves most context.
        edges: ``wrap`` or ``inside``, see ``block.py``; within the extent.
        target_stream, context_stream: of the sample seeds.
    """

    blocks: int
    tries: int
    edges: Edges
    target_stream: int
    context_stream: int


def extents(present_BN: Tensor, sizes: Sequence[int]) -> Tensor:
    """Extent of each sample along every axis, at least 1, int64 ``[B, A]``."""
    present = present_BN.view(len(present_BN), *sizes)
    ends = []
    for axis, size in enumerate(sizes):
        there = present.movedim(axis + 1, 1).flatten(2).any(2) if len(sizes) > 1 else present
        ends.append((there * torch.arange(1, size + 1, device=there.device)).amax(1).clamp(min=1))
    return torch.stack(ends, dim=1)


def sides_within(scale: float, aspect: float, extent_BA: Tensor, fit: Fit) -> Tensor:
    """Rows and columns of a block of ``scale`` of each extent, at least 1, int64 ``[B, A]``; ``fit``: see ``SIDES``."""
    area_B = (extent_BA.prod(1) * scale).floor()
    rows_B, columns_B = extent_BA.unbind(1)
    high_B, wide_B = (area_B * aspect).sqrt().round(), (area_B / aspect).sqrt().round()
    if fit == "fitted":
        too_wide_B, too_high_B = wide_B > columns_B, high_B > rows_B
        high_B = torch.where(too_wide_B, (area_B / columns_B).round(), high_B)
        wide_B = torch.where(too_high_B & ~too_wide_B, (area_B / rows_B).round(), wide_B)
    return torch.minimum(torch.stack([high_B, wide_B], dim=1).long().clamp(min=1), extent_BA)


def same_for_all(sides: Sequence[int], like_B: Tensor) -> Tensor:
    """The same ``sides`` for every sample, int64 ``[B, A]``, without a copy from the host."""
    return torch.stack([torch.full_like(like_B, side) for side in sides], dim=1)


def box(rows: Tensor, columns: Tensor) -> Tensor:
    """Sites in one of the rows and one of the columns, bool ``[..., Y * X]``."""
    return (rows[..., :, None] & columns[..., None, :]).flatten(-2)


def cross(rows: Tensor, columns: Tensor) -> Tensor:
    """Sites in one of the rows or one of the columns, bool ``[..., Y * X]``."""
    return (rows[..., :, None] | columns[..., None, :]).flatten(-2)


def draw_layout(
    present_BN: Tensor,
    sizes: Sequence[int],
    seeds: Tensor,
    boxes: Boxes,
    layouts: Layouts,
    hides: Covers,
    wanted_B: Tensor,
) -> tuple[Tensor, Tensor]:
    """Draws target blocks and a context block for each sample.

    Args:
        present_BN: bool, which sites there are.
        sizes: of the lattice.
        seeds: int64 ``[B]``.
        boxes, layouts: see there.
        hides: which sites a target block takes from the context.
        wanted_B: context sites that a layout should leave; the first that does is taken, otherwise the roomiest.

    Returns:
        Context ``[B, N]`` and target blocks ``[B, K, N]``, bool, present sites only.
    """
    tries, blocks = layouts.tries, layouts.blocks
    lines = _Lines(sizes, boxes.extent, layouts.edges)
    places_BRKA = lines.places(seeds, (tries, blocks), boxes.target, layouts.target_stream)
    places_BRKA[:, -1] = places_BRKA[:, -1, :1]
    held = lines.held(places_BRKA, boxes.target)
    seen = lines.held(lines.places(seeds, (tries,), boxes.context, layouts.context_stream), boxes.context)
    seen_BRN = box(*seen) & present_BN[:, None] & ~hides(*held).any(2)
    chosen_B = roomiest(seen_BRN.sum(-1) / wanted_B[:, None])
    targets_BKN = box(*(take_layout(along, chosen_B) for along in held)) & present_BN[:, None]
    return take_layout(seen_BRN, chosen_B), targets_BKN


@dataclass(frozen=True)
class _Lines:
    """Places and lines of blocks within the extents of a batch."""

    sizes: Sequence[int]
    extent_BA: Tensor
    edges: Edges

    def places(self, seeds: Tensor, shape: tuple[int, ...], sides_BA: Tensor, stream: int) -> Tensor:
        """First sites of blocks, int64 ``[B, *shape, A]``; those of ``draw_places`` where the extent is the lattice."""
        ranges = self.extent_BA if self.edges == "wrap" else self.extent_BA - sides_BA + 1
        keys = random_keys(seeds, math.prod(shape) * 2, stream).view(len(seeds), *shape, 2)
        return keys % ranges.view(-1, *(1,) * len(shape), 2)

    def held(self, places: Tensor, sides_BA: Tensor) -> tuple[Tensor, Tensor]:
        """Rows ``[B, *shape, Y]`` and columns ``[B, *shape, X]`` that blocks at ``places [B, *shape, A]`` hold."""
        rows, columns = (self._along(axis, places[..., axis, None], sides_BA[:, axis]) for axis in (0, 1))
        return rows, columns

    def _along(self, axis: int, places: Tensor, sides_B: Tensor) -> Tensor:
        ones = (1,) * (places.dim() - 1)
        extent, sides = self.extent_BA[:, axis].view(-1, *ones), sides_B.view(-1, *ones)
        at = torch.arange(self.sizes[axis], device=places.device)
        return ((at - places) % extent < sides) & (at < extent)
