"""Clips as a user has them: tensors of one or several lengths at any sample rate, long ones in pieces."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from jepa_audio.front_ends import FrontEnd
from jepa_audio.frontend import SpectrogramFrontEnd
from jepa_audio.sound_decode import resample
from jepa_audio.waveforms import Waveforms
from jepa_core.contracts import Sites, Tokens

Clips = Waveforms | Tensor | NDArray[Any] | Sequence[Tensor] | Sequence[NDArray[Any]]
Encode = Callable[[Waveforms], Tokens]


def as_waveforms(clips: Clips) -> Waveforms:
    """Clips of one channel, float in -1..1, as a batch.

    Args:
        clips: ``[B, S]``, one clip ``[S]``, or a sequence of ``[S_i]``, which is filled up with zeros.

    Raises:
        ValueError: other shapes, no clip or no sample, or whole numbers.
    """
    if isinstance(clips, Waveforms):
        return clips
    if isinstance(clips, Tensor | np.ndarray):
        samples = torch.as_tensor(clips)
        _check(samples, (1, 2))
        return Waveforms(samples.float()[None] if samples.ndim == 1 else samples.float())
    rows = [torch.as_tensor(clip) for clip in clips]
    if not rows:
        raise ValueError("waveforms: expected at least one clip, got none")
    for row in rows:
        _check(row, (1,))
    lengths = torch.tensor([len(row) for row in rows], device=rows[0].device)
    padded = pad_sequence([row.float() for row in rows], batch_first=True)
    return Waveforms(padded, None if len({len(row) for row in rows}) == 1 else lengths)


def _check(samples: Tensor, dimensions: tuple[int, ...]) -> None:
    if samples.ndim not in dimensions or not samples.numel() or not samples.is_floating_point():
        shapes = " or ".join({1: "[samples]", 2: "[clips, samples]"}[count] for count in dimensions)
        raise ValueError(
            f"waveforms: expected floating-point {shapes} in -1..1 with at least one sample, got {samples.dtype} "
            f"{list(samples.shape)}; mix channels down, and divide 16-bit integers by 32768"
        )


def at_rate(inputs: Waveforms, own_hz: int, wanted_hz: int) -> Waveforms:
    """Resampled by soxr, clip by clip on the CPU, as the loader of recordings does it; on the same device again.

    Raises:
        ValueError: a rate is not above 0.
    """
    if own_hz <= 0:
        raise ValueError(f"sample_rate_hz: expected a rate above 0, got {own_hz}")
    if own_hz == wanted_hz:
        return inputs
    samples = inputs.samples
    ends = [samples.shape[1]] * len(samples) if inputs.lengths is None else inputs.lengths.tolist()
    rows = [
        torch.from_numpy(resample(row[:end].cpu().numpy(), own_hz, wanted_hz))
        for row, end in zip(samples, ends, strict=True)
    ]
    lengths = None if inputs.lengths is None else torch.tensor([len(row) for row in rows], device=samples.device)
    return Waveforms(pad_sequence(rows, batch_first=True).to(samples.device), lengths)


def step_samples(front_end: FrontEnd) -> int:
    """Samples from one time step of the lattice to the next."""
    if isinstance(front_end, SpectrogramFrontEnd):
        return front_end.bank.hop * front_end.patch[0]
    return front_end.hop


def in_pieces(encode: Encode, front_end: FrontEnd, inputs: Waveforms, steps: int) -> Tokens:
    """Tokens of clips that are embedded in pieces of so many time steps, joined in time.

    Pieces follow each other without overlap, but for the samples that a piece's last frame reaches into; each is
    embedded by itself, at positions that start anew. The last piece of a clip is as long as what is left; less than
    half a step is left out. A clip has the same tokens whatever it is batched with.

    Args:
        encode: what embeds a piece.
        front_end: of the pieces.
        inputs: clips.
        steps: of a piece.
    """
    stride, samples = step_samples(front_end), inputs.samples
    length = steps * stride
    lengths = inputs.lengths
    if lengths is None:
        lengths = torch.full(samples.shape[:1], samples.shape[1], device=samples.device)
    found = []
    for start in range(0, int(lengths.max()), length):
        left = lengths - start
        part = samples[:, start : start + length + _reach_beyond(front_end)]
        tokens = encode(Waveforms(part, left.clamp(1, part.shape[1])))
        there = (2 * left >= stride) if start else torch.ones_like(left, dtype=torch.bool)
        found.append(_first_steps(tokens, steps, there))
    return _joined(found)


def _reach_beyond(front_end: FrontEnd) -> int:
    """Samples past a stretch of whole steps that its last frame needs."""
    if isinstance(front_end, SpectrogramFrontEnd):
        bank = front_end.bank
        return max(0, bank.window - bank.hop - 2 * bank.reach)
    return front_end.reach - front_end.hop


def _first_steps(tokens: Tokens, steps: int, there: Tensor) -> Tokens:
    """At most so many steps, valid only in rows that are ``there``, bool ``[B]``."""
    lattice = tokens.lattice
    kept = min(steps, lattice.sizes[0])
    small = replace(lattice, sizes=(kept, *lattice.sizes[1:]))
    whole = Sites.whole(small, len(there), there.device)
    valid = tokens.sites.valid_mask()[:, : small.count] & there[:, None]
    layers = {name: features[:, : small.count] for name, features in tokens.layers.items()}
    return Tokens(tokens.features[:, : small.count], replace(whole, valid=valid), small, layers)


def _joined(parts: Sequence[Tokens]) -> Tokens:
    """One after the other in time, which is the outermost axis."""
    first = parts[0].lattice
    lattice = replace(first, sizes=(sum(part.lattice.sizes[0] for part in parts), *first.sizes[1:]))
    features = torch.cat([part.features for part in parts], 1)
    valid = torch.cat([part.sites.valid_mask() for part in parts], 1)
    layers = {name: torch.cat([part.layers[name] for part in parts], 1) for name in parts[0].layers}
    sites = replace(Sites.whole(lattice, len(features), features.device), valid=valid)
    return Tokens(features, sites, lattice, layers)
