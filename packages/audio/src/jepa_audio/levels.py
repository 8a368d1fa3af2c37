"""The level of a data set's log energies, measured once where neither settings nor preset know it."""

from __future__ import annotations

from collections.abc import Iterator

from jepa_audio.evaluation import splits_of
from jepa_audio.front_ends import chosen_preset
from jepa_audio.settings import WAVEFORM, AudioRun
from jepa_audio.sound_data import Sounds, Whole
from jepa_audio.statistics import measure_statistics
from jepa_audio.waveforms import Waveforms
from jepa_core.contracts import BadSample

MEASURED_CLIPS, MEASURED_SECONDS = 200, 10.0
"""Clips that are measured at most, evenly spread over the training clips, and how much of each."""

# A run builds its method more than once: what was measured in this process, by preset, hop, folder, channels and clips.
_known: dict[tuple[str, int, str, str, tuple[str, ...]], tuple[float, float]] = {}


def levels_of(config: AudioRun) -> tuple[float, float]:
    """Mean and standard deviation that a front end falls back on; (0, 1) where nothing needs them."""
    wanted = config.audio.frontend
    if wanted.preset == WAVEFORM:
        return 0.0, 1.0
    chosen = chosen_preset(wanted)
    mean, std = chosen.mean if wanted.mean is None else wanted.mean, chosen.std if wanted.std is None else wanted.std
    if mean is not None and std is not None:
        return mean, std
    records = splits_of(config).train
    records = records[:: max(1, len(records) // MEASURED_CLIPS)]
    key = (
        wanted.preset,
        wanted.hop_length,
        config.data.channels,
        str(config.data.root),
        tuple(record.sample_id for record in records),
    )
    if key not in _known:
        bank = chosen.bank()
        source = Sounds(records, bank.sample_rate_hz, Whole(MEASURED_SECONDS), config.data.channels)
        _known[key] = measure_statistics(bank, _clips(source))
    return _known[key]


def _clips(source: Sounds) -> Iterator[Waveforms]:
    """Each clip that can be read."""
    for index in range(len(source)):
        try:
            yield source.collate([source.load(index, 0)])
        except BadSample:
            continue
