"""Masks of whole time steps: every frequency of a hidden step is hidden, so that no neighbour in time gives it away.

Time masks are a baseline of "Design choices" (arXiv 2405.08679) and M2D's option of contiguous frames.
"""

from __future__ import annotations

import torch
from torch import Tensor

from jepa_core.contracts import Grid, Mask, Sites
from jepa_core.lattice import Lattice
from jepa_core.masking.padded import keep_one_of_both, padded_mask, part_of
from jepa_core.seeds import random_keys

_STREAM = 161


class TimeMasker:
    """Hides time steps, drawn for each sample; the rest is context.

    Spans of ``length`` steps are laid at random places, those that leave the clip included, until the hidden steps are
    as many as wanted; the last span is cut. So counts are equal, and every step begins with the same chance.

    The first axis of the lattice is time. Where every site is present, lengths are fixed; otherwise each sample hides
    its own share, lists are padded and ``valid`` tells; a padded clip then has the mask that it has alone.

    Args:
        ratio: share of the time steps that are hidden, 0 < ratio < 1; at least one is, and one is not.
        length: time steps of a span.
    """

    def __init__(self, ratio: float, length: int = 1) -> None:
        if not 0 < ratio < 1:
            raise ValueError(f"TimeMasker: ratio must lie between 0 and 1, got {ratio}")
        if length < 1:
            raise ValueError(f"TimeMasker: length must be 1 or more time steps, got {length}")
        self.ratio, self.length = ratio, length

    def check(self, lattice: Lattice) -> None:
        """Refuses a lattice whose steps cannot be both seen and hidden."""
        if lattice.sizes[0] < 2:
            raise ValueError(
                f"TimeMasker: expected at least 2 time steps, got {lattice.sizes[0]} of {lattice.axes[0]}; take longer "
                "samples or shorter steps"
            )

    def __call__(self, grid: Grid, seeds: Tensor, batch_seed: int) -> tuple[Mask, ...]:
        """One mask a sample, targets ``[B, 1, M]``; see :class:`jepa_core.contracts.Masker`."""
        self.check(grid.lattice)
        steps, count = grid.lattice.sizes[0], grid.lattice.count
        keys_BT = self._keys(seeds, steps)
        if grid.present is None:
            return (self._fixed(keys_BT, count // steps),)
        present_BTF = grid.present.view(len(seeds), steps, -1)
        hidden_BTF = self._hidden(keys_BT, present_BTF.any(2))[:, :, None] & present_BTF
        context_BN, targets_BN = (present_BTF & ~hidden_BTF).flatten(1), hidden_BTF.flatten(1)
        context_BN, targets_BKN = keep_one_of_both(context_BN, targets_BN[:, None], grid.present, seeds)
        hidden = part_of(steps, self.ratio)
        lengths = [n * (count // steps) for n in (steps - hidden, hidden)]
        return (padded_mask("time", context_BN, targets_BKN, grid.lattice, *lengths),)

    def _keys(self, seeds: Tensor, steps: int) -> Tensor:
        """When each step is first hidden, int64 ``[B, T]``: the least key of the ``length`` spans that hold it."""
        # One key for each place that a span can begin at, from length - 1 steps before the clip on.
        keys_BS = random_keys(seeds, steps + self.length - 1, _STREAM)
        return keys_BS.unfold(1, self.length, 1).amin(2)

    def _fixed(self, keys_BT: Tensor, sites: int) -> Mask:
        hidden = part_of(keys_BT.shape[1], self.ratio)
        order = keys_BT.argsort(dim=1, stable=True)
        within = torch.arange(sites, device=order.device)
        targets, context = (
            (part.sort(1).values[:, :, None] * sites + within).flatten(1)
            for part in (order[:, :hidden], order[:, hidden:])
        )
        return Mask("time", Sites(context), Sites(targets.unsqueeze(1)), Sites(targets))

    def _hidden(self, keys_BT: Tensor, present_BT: Tensor) -> Tensor:
        """Which of the present steps are hidden, bool ``[B, T]``."""
        keys_BT = keys_BT.masked_fill(~present_BT, torch.iinfo(torch.int64).max)
        wanted_B = part_of(present_BT.sum(1), self.ratio)
        first = torch.arange(keys_BT.shape[1], device=keys_BT.device) < wanted_B[:, None]
        return torch.zeros_like(present_BT).scatter(1, keys_BT.argsort(dim=1, stable=True), first)
