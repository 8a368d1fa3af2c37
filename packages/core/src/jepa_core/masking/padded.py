"""Lists of unequal length: from which sites are seen and hidden to padded lists of which ``valid`` tells what is real.

For clips that end before the lattice does and for sets whose size is drawn. Every sample keeps at least one site of
both, as far as it has two.
"""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor

from jepa_core.contracts import Mask, Sites
from jepa_core.lattice import Lattice
from jepa_core.seeds import random_keys

_Count = TypeVar("_Count", int, Tensor)

_BITS = 20  # of a share: whole numbers round alike on the host and on every device, floats need not
_LAST = torch.iinfo(torch.int64).max
_CONTEXT_STREAM, _TARGET_STREAM = 197, 198


def share_of(total: _Count, share: float) -> _Count:
    """This share of a number of sites, rounded to whole ones; int, or int64 of any shape."""
    return (total * round(share * (1 << _BITS)) + (1 << (_BITS - 1))) >> _BITS


def part_of(total: _Count, share: float) -> _Count:
    """:func:`share_of`, at least 1 and less than ``total``; 0 of a total of 1."""
    part = share_of(total, share)
    if isinstance(part, int):
        return min(max(part, 1), total - 1)
    return torch.minimum(part.clamp(min=1), (total - 1).clamp(min=0))


def listed(among: Tensor, length: int) -> Sites:
    """The first ``length`` ids of the True entries of bool ``[..., N]``, ascending, as ``[..., length]``."""
    order = among.to(torch.uint8).argsort(dim=-1, descending=True, stable=True)[..., :length]
    return Sites(order, among.gather(-1, order))


def some_among(among_BN: Tensor, wanted_B: Tensor, seeds: Tensor, stream: int) -> Tensor:
    """``wanted_B`` of each row's True entries uniformly at random, all where there are fewer, bool ``[B, N]``."""
    keys = random_keys(seeds, among_BN.shape[1], stream).masked_fill(~among_BN, _LAST)
    order = keys.argsort(dim=1, stable=True)
    first = torch.arange(among_BN.shape[1], device=order.device) < wanted_B[:, None]
    return torch.zeros_like(among_BN).scatter(1, order, first) & among_BN


def keep_one_of_both(
    context_BN: Tensor, targets_BKN: Tensor, present_BN: Tensor, seeds: Tensor
) -> tuple[Tensor, Tensor]:
    """Gives one site, drawn at random, to a side that has none.

    A context without sites takes one that no target holds, else one of the targets'. Targets without sites take one
    that the context does not hold, else one of its, into the first block. A lone site stays context: there is nothing
    to predict from nothing.

    Args:
        context_BN, targets_BKN: bool, disjoint, within ``present_BN``.
        present_BN: which sites there are.
        seeds: int64 ``[B]``.
    """
    one = torch.ones_like(seeds)
    free_BN = _else(present_BN & ~targets_BKN.any(1), present_BN)
    taken_BN = some_among(free_BN, one, seeds, _CONTEXT_STREAM) & ~context_BN.any(1, keepdim=True)
    context_BN, targets_BKN = context_BN | taken_BN, targets_BKN & ~taken_BN[:, None]
    spare_BN = context_BN & (context_BN.sum(1, keepdim=True) > 1)
    free_BN = _else(present_BN & ~context_BN, spare_BN)
    taken_BN = some_among(free_BN, one, seeds, _TARGET_STREAM) & ~targets_BKN.any(1).any(1, keepdim=True)
    targets_BKN = torch.cat([targets_BKN[:, :1] | taken_BN[:, None], targets_BKN[:, 1:]], dim=1)
    return context_BN & ~taken_BN, targets_BKN


def _else(first_BN: Tensor, second_BN: Tensor) -> Tensor:
    """The first where a row has a True entry, else the second."""
    return torch.where(first_BN.any(1, keepdim=True), first_BN, second_BN)


def padded_mask(
    name: str, context_BN: Tensor, targets_BKN: Tensor, lattice: Lattice, context_length: int, target_length: int
) -> Mask:
    """A mask of padded lists, bool ``[B, N]`` and ``[B, K, N]`` cut to so many sites each."""
    whole = Sites.whole(lattice, len(context_BN), context_BN.device)
    targets = listed(targets_BKN, target_length)
    union = Sites(whole.ids, targets.on_lattice(lattice.count), complete=True)
    return Mask(name, listed(context_BN, context_length), targets, union)
