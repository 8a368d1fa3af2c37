"""Mean and standard deviation of log energies over a data set: what a front end normalises by."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch

from jepa_audio.framing import FilterBank
from jepa_audio.waveforms import Waveforms
from jepa_core.errors import DataError


@torch.no_grad()
def measure_statistics(bank: FilterBank, batches: Iterable[Waveforms]) -> tuple[float, float]:
    """Mean and standard deviation of all bins of all frames that belong to a clip, in float64.

    They depend on the clips and their order alone: a batch joined or split differently gives the same to the last
    digits of float64.

    Args:
        bank: a filter bank, which gives log energies as they are.
        batches: clips to measure; they are moved to the device of the bank.

    Raises:
        DataError: there is no clip, or every value is the same (digital silence).
    """
    device = next(bank.buffers()).device
    count, total, squares = 0.0, torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    for batch in batches:
        lengths = None if batch.lengths is None else batch.lengths.to(device)
        spectrogram = bank(Waveforms(batch.samples.to(device), lengths))
        # Around the floor and not around 0, so that a small spread far from 0 keeps its digits.
        above = spectrogram.values.double() - bank.silence
        if spectrogram.lengths is not None:
            own = torch.arange(above.shape[1], device=device) < spectrogram.lengths[:, None]
            count += float(spectrogram.lengths.sum()) * bank.bins
            above = above * own[..., None]
        else:
            count += above.numel()
        total, squares = total + above.sum().cpu(), squares + above.square().sum().cpu()
    if count == 0:
        raise DataError("statistics: expected at least one clip to measure mean and std on, got none")
    mean = float(total) / count
    std = math.sqrt(max(0.0, float(squares) / count - mean**2))
    if not std > 1e-6:
        raise DataError(f"statistics: every one of {count:g} values is {mean + bank.silence:.4f}: the clips are silent")
    return mean + bank.silence, std
