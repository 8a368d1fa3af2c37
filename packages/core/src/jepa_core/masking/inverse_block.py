"""Inverse block masks: a few blocks of neighbours stay visible, the rest is hidden (EAT, arXiv 2401.03497).

The blocks and the several masks of a sample that share one pass of the target encoder come from data2vec 2.0
(arXiv 2212.07525, sections 3.2 and 3.3).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from jepa_core.contracts import Grid, Mask, Sites
from jepa_core.lattice import Lattice
from jepa_core.masking.padded import keep_one_of_both, padded_mask, part_of
from jepa_core.masking.random import random_order
from jepa_core.seeds import random_keys

# Two streams of the sample seeds for each mask: its centres, and the sites that make counts equal.
_STREAM = 3001


class InverseBlockMasker:
    """Keeps blocks around random centres, cut at the edges of the lattice, and hides the rest.

    As released: ``(1 - mask_prob + adjust) N / length^2`` centres are drawn, rounded down. Blocks overlap and are cut,
    so their union is not of one size: sites drawn from it are dropped, or from outside it added, until exactly
    ``(1 - mask_prob) N`` are visible. Unlike there, centres are drawn without replacement.

    Where every site is present, lengths are fixed; otherwise each sample keeps its own share, lists are padded and
    ``valid`` tells; a padded clip of a lattice with time outermost then has the mask that it has alone.

    Args:
        mask_prob: share of the sites that is hidden.
        adjust: what is added to the share of visible sites when centres are counted, for overlaps and edges.
        length: sites of a block along both axes.
        masks: masks of a sample, drawn independently; EAT has 16.
    """

    def __init__(self, mask_prob: float = 0.8, adjust: float = 0.07, length: int = 5, masks: int = 16) -> None:
        if not 0 < mask_prob < 1:
            raise ValueError(f"InverseBlockMasker: mask_prob must lie between 0 and 1, got {mask_prob}")
        if not 0 <= adjust <= mask_prob:
            raise ValueError(f"InverseBlockMasker: adjust must lie between 0 and mask_prob {mask_prob}, got {adjust}")
        if length < 1 or masks < 1:
            raise ValueError(f"InverseBlockMasker: length, masks: expected 1 or more, got {length} and {masks}")
        self.mask_prob, self.adjust, self.length, self.masks = mask_prob, adjust, length, masks

    def check(self, lattice: Lattice) -> None:
        """Refuses a lattice that is not of two axes or smaller than a block."""
        if len(lattice.sizes) != 2 or min(lattice.sizes) < self.length:
            raise ValueError(
                f"InverseBlockMasker: expected a lattice of 2 axes of at least length {self.length}, got "
                f"{lattice.sizes} of {lattice.axes}; lower length or take smaller patches"
            )

    def __call__(self, grid: Grid, seeds: Tensor, batch_seed: int) -> tuple[Mask, ...]:
        """``masks`` masks a sample, targets ``[B, 1, M]``; see :class:`jepa_core.contracts.Masker`."""
        self.check(grid.lattice)
        return tuple(self._one(place, grid, seeds) for place in range(self.masks))

    def _one(self, place: int, grid: Grid, seeds: Tensor) -> Mask:
        name, stream = f"inverse_block_{place + 1}" if place else "inverse_block", _STREAM + 2 * place
        count = grid.lattice.count
        kept = count - part_of(count, self.mask_prob)
        if grid.present is None:
            everything = torch.ones(len(seeds), count, dtype=torch.bool, device=seeds.device)
            order = self._order(everything, grid.lattice, seeds, stream)
            context, targets = order[:, :kept].sort(1).values, order[:, kept:].sort(1).values
            return Mask(name, Sites(context), Sites(targets.unsqueeze(1)), Sites(targets))
        total_B = grid.present.sum(1)
        order = self._order(grid.present, grid.lattice, seeds, stream)
        first = torch.arange(count, device=order.device) < (total_B - part_of(total_B, self.mask_prob))[:, None]
        context_BN = torch.zeros_like(first).scatter(1, order, first) & grid.present
        targets_BKN = (grid.present & ~context_BN)[:, None]
        context_BN, targets_BKN = keep_one_of_both(context_BN, targets_BKN, grid.present, seeds)
        return padded_mask(name, context_BN, targets_BKN, grid.lattice, kept, count - kept)

    def _order(self, present_BN: Tensor, lattice: Lattice, seeds: Tensor, stream: int) -> Tensor:
        """Present sites of the blocks in random order, then the other present ones, then the absent, ``[B, N]``."""
        seen_BN = self._blocks(present_BN, lattice, seeds, stream)
        keys = random_keys(seeds, lattice.count, stream + 1) >> 2
        rank = torch.where(present_BN, (~seen_BN).long(), 2)
        return (keys + (rank << 61)).argsort(dim=1, stable=True)

    def _blocks(self, present_BN: Tensor, lattice: Lattice, seeds: Tensor, stream: int) -> Tensor:
        """The union of the blocks, bool ``[B, N]``."""
        share = (1 - self.mask_prob + self.adjust) / self.length**2
        most = max(1, math.floor(lattice.count * share + 1e-4))
        centres_BC2 = lattice.coordinates(random_order(present_BN, seeds, stream)[:, :most])
        # Fewer centres in a shorter clip. A small excess keeps what is a whole number but for rounding.
        wanted_B = (present_BN.sum(1) * share + 1e-4).floor().clamp(min=1)
        drawn_BC = torch.arange(most, device=present_BN.device) < wanted_B[:, None]
        before = self.length // 2
        lines = []
        for axis, size in enumerate(lattice.sizes):
            from_start = torch.arange(size, device=present_BN.device) - centres_BC2[..., axis, None] + before
            lines.append((from_start >= 0) & (from_start < self.length))
        blocks_BCN = (lines[0][..., :, None] & lines[1][..., None, :]).flatten(2)
        return (blocks_BCN & drawn_BC[..., None]).any(1)
