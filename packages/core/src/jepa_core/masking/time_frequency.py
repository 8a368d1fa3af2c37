"""Time-frequency masks: blocks whose times and frequencies are hidden from the context all along (A-JEPA, 2311.15830).

RECONSTRUCTED from third-party notes, not from the paper: they give three targets, their scale and aspect, and a name.
That a target's rows and columns leave the context is our reading of it.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from jepa_core.contracts import Grid, Mask, Sites
from jepa_core.lattice import Lattice
from jepa_core.masking.extent import Boxes, Layouts, cross, draw_layout, extents, same_for_all, sides_within
from jepa_core.masking.layout import Edges, batch_draws, between, fitted_sides, some_of
from jepa_core.masking.padded import keep_one_of_both, listed, padded_mask, share_of, some_among

_TARGET_STREAM, _CONTEXT_STREAM, _CUT_STREAM, _SIZE_STREAM = 191, 192, 193, 194

LAYOUTS = 32
"""Layouts drawn for each sample; the first that leaves the context wanted is taken, otherwise the roomiest."""


class TimeFrequencyMasker:
    """Small target blocks; the context has neither their time steps nor their frequencies.

    So no target can be told from what sounds at its time or goes on at its frequency. On a lattice of few frequencies
    little context is left: three blocks of 5 rows leave one or two of 8.

    Sizes are drawn once a batch, places for each sample. Where every site is present, lengths are fixed; otherwise
    blocks and counts are in proportion to each sample's extent, lists are padded and ``valid`` tells.

    Args:
        blocks: K target blocks.
        target_scale: share of the grid of a target block.
        target_aspect: first axis / second axis of a target block.
        context_scale: share of the grid of the context block, square where the grid is wide enough.
        context_share: sites of the context as a share of the grid; what is more is left out uniformly at random.
        edges: ``inside`` the grid, or ``wrap`` around it, which joins the highest frequencies to the lowest.
    """

    def __init__(
        self,
        blocks: int = 3,
        target_scale: tuple[float, float] = (0.05, 0.075),
        target_aspect: tuple[float, float] = (0.75, 1.5),
        context_scale: tuple[float, float] = (0.85, 1.0),
        context_share: float = 0.125,
        edges: Edges = "inside",
    ) -> None:
        for key, low, high, most in (
            ("target_scale", *target_scale, 1.0),
            ("target_aspect", *target_aspect, math.inf),
            ("context_scale", *context_scale, 1.0),
        ):
            if not 0 < low <= high <= most:
                raise ValueError(
                    f"{key}: expected two rising numbers above 0 and at most {most:g}, got ({low}, {high})"
                )
        if blocks < 1 or not 0 < context_share < 1 or edges not in ("inside", "wrap"):
            raise ValueError(
                f"blocks, context_share, edges: expected 1 or more, a share between 0 and 1, and inside or wrap, got "
                f"{blocks}, {context_share} and {edges!r}"
            )
        self.target_scale, self.target_aspect, self.context_scale = target_scale, target_aspect, context_scale
        self.blocks, self.context_share, self.edges = blocks, context_share, edges

    def check(self, lattice: Lattice) -> None:
        """Refuses a lattice on which a block could be empty, or could leave less context than is wanted."""
        if len(lattice.sizes) != 2:
            raise ValueError(f"TimeFrequencyMasker: expected a lattice of 2 axes, got {lattice.axes}")
        sides = [self._target(lattice, step / 64) for step in range(64)]
        left = min((lattice.sizes[0] - high) * (lattice.sizes[1] - wide) for high, wide in sides)
        wanted = share_of(lattice.count, self.context_share)
        if min(map(min, sides)) < 1 or not 1 <= wanted <= left:
            raise ValueError(
                f"TimeFrequencyMasker: expected blocks of 1 site or more that leave {wanted} context sites (and at "
                f"least 1) of {lattice.sizes}, got blocks of {min(map(math.prod, sides))} and up, and {left} sites "
                "left; lower context_share or target_scale, or take smaller patches"
            )

    def __call__(self, grid: Grid, seeds: Tensor, batch_seed: int) -> tuple[Mask, ...]:
        """One mask a sample, targets ``[B, blocks, M]``; see :class:`jepa_core.contracts.Masker`."""
        self.check(grid.lattice)
        draws = batch_draws(batch_seed, 2, _SIZE_STREAM)
        if grid.present is None:
            return (self._fixed(grid.lattice, seeds, draws[0], draws[1]),)
        return (self._padded(grid.lattice, grid.present, seeds, draws[0], draws[1]),)

    def _target(self, lattice: Lattice, draw: float) -> tuple[int, int]:
        area = int(lattice.count * between(self.target_scale, draw))
        rows, columns = lattice.sizes
        return fitted_sides(area, between(self.target_aspect, draw), rows, columns)

    def _layouts(self) -> Layouts:
        return Layouts(self.blocks, LAYOUTS, self.edges, _TARGET_STREAM, _CONTEXT_STREAM)

    def _fixed(self, lattice: Lattice, seeds: Tensor, for_target: float, for_context: float) -> Mask:
        rows, columns = lattice.sizes
        target = self._target(lattice, for_target)
        context = fitted_sides(int(lattice.count * between(self.context_scale, for_context)), 1.0, rows, columns)
        boxes = Boxes(*(same_for_all(sides, seeds) for sides in (lattice.sizes, target, context)))
        everything = torch.ones(len(seeds), lattice.count, dtype=torch.bool, device=seeds.device)
        wanted = share_of(lattice.count, self.context_share)
        seen_BN, targets_BKN = draw_layout(
            everything, lattice.sizes, seeds, boxes, self._layouts(), cross, torch.full_like(seeds, wanted)
        )
        targets = Sites(listed(targets_BKN, math.prod(target)).ids)
        whole = Sites.whole(lattice, len(seeds), seeds.device)
        union = Sites(whole.ids, targets_BKN.any(1), complete=True)
        return Mask("time_frequency", Sites(some_of(seen_BN, wanted, seeds, _CUT_STREAM)), targets, union)

    def _padded(
        self, lattice: Lattice, present_BN: Tensor, seeds: Tensor, for_target: float, for_context: float
    ) -> Mask:
        extent_BA = extents(present_BN, lattice.sizes)
        scale, aspect = between(self.target_scale, for_target), between(self.target_aspect, for_target)
        boxes = Boxes(
            extent_BA,
            sides_within(scale, aspect, extent_BA, "fitted"),
            sides_within(between(self.context_scale, for_context), 1.0, extent_BA, "fitted"),
        )
        wanted_B = share_of(present_BN.sum(1), self.context_share).clamp(min=1)
        seen_BN, targets_BKN = draw_layout(present_BN, lattice.sizes, seeds, boxes, self._layouts(), cross, wanted_B)
        seen_BN = some_among(seen_BN, wanted_B, seeds, _CUT_STREAM)
        context_BN, targets_BKN = keep_one_of_both(seen_BN, targets_BKN, present_BN, seeds)
        wanted, most = share_of(lattice.count, self.context_share), math.prod(self._target(lattice, for_target))
        return padded_mask("time_frequency", context_BN, targets_BKN, lattice, wanted, most)
