"""Masks that go forward in time: the first steps are seen, what comes after them is predicted."""

from __future__ import annotations

import torch
from torch import Tensor

from jepa_core.contracts import Grid, Mask, Sites
from jepa_core.lattice import Lattice
from jepa_core.masking.random import random_order

_CONTEXT_STREAM, _TARGET_STREAM = 151, 152


class FutureMasker:
    """Some sites of the first time steps are context, some of all later ones are targets, drawn for each sample.

    A place of the future can be told only from what moves, where a place hidden now can be told from what is beside it.
    V-JEPA's released code can keep the context to the first frames too (arXiv 2404.08471); its targets are tubes.

    The first axis of the lattice is time. Where every site is present, lengths are fixed; otherwise lists are padded to
    the longest possible and ``valid`` tells.

    Args:
        past: share of the time steps that is seen, at least one step; at least one is left to predict.
        context_share: share of the sites of those steps that is given.
        target_share: share of the sites of the later steps that is predicted.
    """

    def __init__(self, past: float = 0.5, context_share: float = 1.0, target_share: float = 1.0) -> None:
        if not 0 < past < 1:
            raise ValueError(f"FutureMasker: past must lie between 0 and 1, got {past}")
        for name, share in (("context_share", context_share), ("target_share", target_share)):
            if not 0 < share <= 1:
                raise ValueError(f"FutureMasker: {name} must lie above 0 and at most at 1, got {share}")
        self.past, self.context_share, self.target_share = past, context_share, target_share

    def check(self, lattice: Lattice) -> None:
        """Refuses a lattice without a future."""
        if lattice.sizes[0] < 2:
            raise ValueError(
                f"FutureMasker: expected at least 2 time steps, got {lattice.sizes[0]} of {lattice.axes[0]}; take "
                "longer or finer samples"
            )

    def __call__(self, grid: Grid, seeds: Tensor, batch_seed: int) -> tuple[Mask, ...]:
        """One mask a sample, targets ``[B, 1, M]``; see :class:`jepa_core.contracts.Masker`."""
        self.check(grid.lattice)
        steps, count = grid.lattice.sizes[0], grid.lattice.count
        seen = min(max(round(self.past * steps), 1), steps - 1) * (count // steps)
        context = self._some(grid, seeds, (0, seen), self.context_share, _CONTEXT_STREAM)
        targets = self._some(grid, seeds, (seen, count), self.target_share, _TARGET_STREAM)
        blocks = Sites(targets.ids.unsqueeze(1), None if targets.valid is None else targets.valid.unsqueeze(1))
        return (Mask("future", context, blocks, targets),)

    def _some(self, grid: Grid, seeds: Tensor, part: tuple[int, int], share: float, stream: int) -> Sites:
        """A share of the present sites from the first to before the second number of ``part``."""
        start, end = part
        length = max(round(share * (end - start)), 1)
        if grid.present is None:
            everything = torch.ones(len(seeds), end - start, dtype=torch.bool, device=seeds.device)
            return Sites(random_order(everything, seeds, stream)[:, :length] + start)
        present = grid.present[:, start:end]
        total = present.sum(1, keepdim=True)
        wanted = torch.minimum((share * total).round().long().clamp(min=1), total)
        order = random_order(present, seeds, stream)[:, :length]
        return Sites(order + start, valid=torch.arange(length, device=seeds.device) < wanted)
