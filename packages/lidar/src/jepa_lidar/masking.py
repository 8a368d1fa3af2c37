"""Masks on the bird's-eye grid: AD-L-JEPA (2501.04969) hides half of the occupied and half of the empty cells."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from jepa_core.contracts import Grid, Mask, Sites
from jepa_core.seeds import random_keys, uniform

KINDS = ("occupied", "empty")
OCCUPIED, EMPTY = 0, 1

_OCCUPIED_STREAM, _EMPTY_STREAM = 211, 212
_LAST = torch.iinfo(torch.int64).max


class BevMasker:
    """Random single cells: a fixed share of the occupied cells is context, each empty cell is kept by a coin.

    Deviation from the paper: the share holds in every scan, so that a scan's mask does not depend on its neighbours
    in the batch. ``scope="batch"`` restores the paper's draw, one permutation over the occupied cells of the whole
    batch of a process; it then depends on the batch composition and on the number of processes.

    Args:
        ratio: fraction of cells that become targets, 0 < ratio < 1.
        scope: ``scan`` or ``batch``.
    """

    def __init__(self, ratio: float, scope: Literal["scan", "batch"]) -> None:
        if not 0 < ratio < 1:
            raise ValueError(f"BevMasker: ratio must lie between 0 and 1, got {ratio}")
        self.ratio = ratio
        self.scope = scope

    def __call__(self, grid: Grid, seeds: Tensor, batch_seed: int) -> tuple[Mask, ...]:
        """One mask a scan, as whole-lattice sites: ``context`` ``[B, N]``, ``targets`` ``[B, 1, N]``."""
        assert grid.occupied is not None, "BevMasker needs to know which cells are occupied"
        occupied_BN = grid.occupied
        kept_BN = torch.where(
            occupied_BN, self._kept_occupied(occupied_BN, seeds), self._kept_empty(occupied_BN, seeds)
        )
        whole = Sites.whole(grid.lattice, len(seeds), seeds.device)
        kind_BN = torch.where(occupied_BN, OCCUPIED, EMPTY)
        context = Sites(whole.ids, kept_BN, kind_BN, KINDS, complete=True)
        union = Sites(whole.ids, ~kept_BN, kind_BN, KINDS, complete=True)
        targets = Sites(whole.ids.unsqueeze(1), ~kept_BN.unsqueeze(1), kind_BN.unsqueeze(1), KINDS, complete=True)
        return (Mask("bev", context, targets, union),)

    def _kept_occupied(self, occupied_BN: Tensor, seeds: Tensor) -> Tensor:
        keys_BN = random_keys(seeds, occupied_BN.shape[1], _OCCUPIED_STREAM).masked_fill(~occupied_BN, _LAST)
        if self.scope == "batch":
            flat = keys_BN.reshape(1, -1)
            return _first_share(flat, occupied_BN.reshape(1, -1), 1 - self.ratio).reshape(occupied_BN.shape)
        return _first_share(keys_BN, occupied_BN, 1 - self.ratio)

    def _kept_empty(self, occupied_BN: Tensor, seeds: Tensor) -> Tensor:
        return uniform(seeds, occupied_BN.shape[1], _EMPTY_STREAM) >= self.ratio


def _first_share(keys_RN: Tensor, among_RN: Tensor, share: float) -> Tensor:
    """Bool ``[R, N]``: the entries with the smallest keys, ``int(share * count)`` of each row of ``among``."""
    rank_RN = keys_RN.argsort(dim=1, stable=True).argsort(dim=1, stable=True)
    # The small addition keeps 0.7 * 10 at 7 in binary arithmetic.
    wanted_R1 = (among_RN.sum(1, keepdim=True) * share + 1e-6).long()
    return rank_RN < wanted_R1
