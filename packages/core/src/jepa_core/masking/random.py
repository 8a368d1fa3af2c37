"""Unstructured random masks, per sample, with equal counts: the masker of MAE (2111.06377) and a baseline."""

from __future__ import annotations

import torch
from torch import Tensor

from jepa_core.contracts import Grid, Mask, Sites
from jepa_core.masking.layout import batch_draws, between
from jepa_core.seeds import random_keys

# Fixed stream numbers keep these draws apart from every other draw made from the same sample seeds; further masks of a
# sample count on from the second.
_STREAM, _FURTHER_STREAM, _RATIO_STREAM = 101, 1001, 103


def random_order(present: Tensor, seeds: Tensor, stream: int) -> Tensor:
    """A random order of the sites of each sample, present ones first.

    Args:
        present: bool ``[B, N]``.
        seeds: int64 ``[B]``.
        stream: which of the sample's random streams to draw from.

    Returns:
        int64 ``[B, N]``: site ids.
    """
    keys = random_keys(seeds, present.shape[1], stream)
    keys = keys.masked_fill(~present, torch.iinfo(torch.int64).max)
    return keys.argsort(dim=1, stable=True)


class RandomMasker:
    """Hides a random subset of the present sites; the rest is context.

    Where every site is present, lengths are fixed; otherwise they are padded to the lattice and ``valid`` tells.

    Args:
        ratio: fraction of the present sites that become targets, 0 < ratio < 1; two bounds: drawn between them for
            each batch, so that lengths are equal within it (Audio-JEPA, arXiv 2507.02915).
        masks: masks of a sample, drawn independently; they share what the target encoder computes (data2vec 2.0,
            arXiv 2212.07525).
    """

    def __init__(self, ratio: float | tuple[float, float], masks: int = 1) -> None:
        if masks < 1:
            raise ValueError(f"RandomMasker: masks must be 1 or more, got {masks}")
        low, high = (ratio, ratio) if isinstance(ratio, (int, float)) else ratio
        if not 0 < low <= high < 1:
            raise ValueError(f"RandomMasker: ratio must lie between 0 and 1, got {ratio}")
        self.bounds, self.masks = (low, high), masks

    def __call__(self, grid: Grid, seeds: Tensor, batch_seed: int) -> tuple[Mask, ...]:
        """``masks`` masks a sample; see :class:`jepa_core.contracts.Masker`."""
        low, high = self.bounds
        ratio = low if low == high else between(self.bounds, batch_draws(batch_seed, 1, _RATIO_STREAM)[0])
        return tuple(self._one(place, grid, seeds, ratio) for place in range(self.masks))

    def _one(self, place: int, grid: Grid, seeds: Tensor, ratio: float) -> Mask:
        name, stream = ("random", _STREAM) if place == 0 else (f"random_{place + 1}", _FURTHER_STREAM + place)
        if grid.present is None:
            return self._fixed(name, grid, seeds, stream, ratio)
        return self._padded(name, grid.present, seeds, stream, ratio)

    def _fixed(self, name: str, grid: Grid, seeds: Tensor, stream: int, ratio: float) -> Mask:
        count = grid.lattice.count
        hidden = min(max(round(ratio * count), 1), count - 1)
        everything = torch.ones(len(seeds), count, dtype=torch.bool, device=seeds.device)
        order = random_order(everything, seeds, stream)
        targets, context = order[:, :hidden], order[:, hidden:]
        return Mask(name, Sites(context), Sites(targets.unsqueeze(1)), Sites(targets))

    def _padded(self, name: str, present: Tensor, seeds: Tensor, stream: int, ratio: float) -> Mask:
        order = random_order(present, seeds, stream)
        total = present.sum(1, keepdim=True)
        hidden = (ratio * total).round().long().clamp(min=1)
        hidden = torch.minimum(hidden, (total - 1).clamp(min=0))
        place = torch.arange(present.shape[1], device=present.device).expand_as(order)
        targets = Sites(order, valid=place < hidden)
        context = Sites(order, valid=(place >= hidden) & (place < total))
        blocks = Sites(order.unsqueeze(1), valid=targets.valid_mask().unsqueeze(1))
        return Mask(name, context, blocks, targets)
