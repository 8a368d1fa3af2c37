"""Randomness from (seed, epoch, sample) alone, by the counter-based SplitMix64 (Steele, Lea and Flood, OOPSLA 2014).

A draw depends on the sample's seed, the stream and the position, never on the batch, the device or the process.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from itertools import count

import torch
from torch import Tensor

_GAMMA = 0x9E3779B97F4A7C15
_VIEWS_STREAM = 911
_MIX_1 = 0xBF58476D1CE4E5B9
_MIX_2 = 0x94D049BB133111EB
_BITS_64 = 0xFFFFFFFFFFFFFFFF


def sample_seed(seed: int, epoch: int, sample_id: str) -> int:
    """A 63-bit seed of one sample in one epoch; equal on every machine and Python version."""
    digest = hashlib.blake2b(f"{seed}\x1f{epoch}\x1f{sample_id}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def _signed(value: int) -> int:
    """The int64 with the same bits as ``value`` modulo 2^64."""
    value &= _BITS_64
    return value - (1 << 64) if value >= (1 << 63) else value


def _shift_right(x: Tensor, bits: int) -> Tensor:
    """Logical shift: torch shifts int64 arithmetically, so the copies of the sign bit are cut off."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def splitmix64(state: Tensor) -> Tensor:
    """SplitMix64's output function of int64 states (bits read as unsigned); the caller adds the increment."""
    state = (state ^ _shift_right(state, 30)) * _signed(_MIX_1)
    state = (state ^ _shift_right(state, 27)) * _signed(_MIX_2)
    return state ^ _shift_right(state, 31)


def random_keys(seeds: Tensor, n: int, stream: int) -> Tensor:
    """``n`` non-negative random int64 for each seed.

    Args:
        seeds: int64 ``[B]``.
        n: draws for each seed; the first m of n draws are the same for every n >= m.
        stream: names the purpose; draws of different streams are independent.

    Returns:
        int64 ``[B, n]`` in ``[0, 2^63)``; the same bits on every device.
    """
    if seeds.dtype != torch.int64 or seeds.ndim != 1:
        raise ValueError(f"seeds must be int64 [B], got {seeds.dtype} {list(seeds.shape)}: use seeds.long().flatten()")
    start_B = splitmix64(splitmix64(seeds + _signed(_GAMMA)) + _signed(_GAMMA * (stream + 1)))
    counter_N = torch.arange(1, n + 1, device=seeds.device) * _signed(_GAMMA)
    return _shift_right(splitmix64(start_B[:, None] + counter_N), 1)


def uniform(seeds: Tensor, n: int, stream: int) -> Tensor:
    """Uniform float32 ``[B, n]`` in ``[0, 1)`` on the grid of 2^-24, for int64 ``seeds`` ``[B]``."""
    return _shift_right(random_keys(seeds, n, stream), 39).to(torch.float32) * 2.0**-24


def permutation(seeds: Tensor, n: int, stream: int) -> Tensor:
    """A random order of ``0..n-1`` for each seed, int64 ``[B, n]``."""
    return torch.argsort(random_keys(seeds, n, stream), dim=1, stable=True)


def draws(seed: int, stream: int) -> Iterator[float]:
    """The numbers of :func:`uniform` for one seed, one after the other and without tensors.

    A loader that needs a few numbers for each sample gets them some twenty times faster than through a tensor.
    """
    start = _mixed(_mixed(seed + _GAMMA) + _GAMMA * (stream + 1))
    for place in count(1):
        yield (_mixed(start + place * _GAMMA) >> 40) * 2.0**-24


def _mixed(state: int) -> int:
    """:func:`splitmix64` of one Python number."""
    state &= _BITS_64
    state = (state ^ (state >> 30)) * _MIX_1 & _BITS_64
    state = (state ^ (state >> 27)) * _MIX_2 & _BITS_64
    return state ^ (state >> 31)


def seeds_of_views(seeds: Tensor, views: int) -> Tensor:
    """Seeds ``[V * B]`` of the views of samples with ``seeds`` ``[B]``: all first views, then all second ones.

    The first view keeps the sample's own.
    """
    further = random_keys(seeds, views - 1, _VIEWS_STREAM) if views > 1 else seeds.new_empty(len(seeds), 0)
    return torch.cat([seeds[:, None], further], dim=1).T.flatten()
