"""Sounds as evaluation sees them: whole clips of a split, with class names and groups."""

from __future__ import annotations

from jepa_audio.front_ends import sample_rate_of
from jepa_audio.settings import AudioRun
from jepa_audio.sources import HELD_BACK_ONE_IN, Splits, plain_source, sounds_of, split_sounds
from jepa_core.data.records import class_names, groups_of
from jepa_core.evaluation_source import Labelled, Split


def splits_of(config: AudioRun) -> Splits:
    """Trained on and held back; a run without a probe holds back only what the data themselves hold back."""
    return split_sounds(sounds_of(config.data), config.data, HELD_BACK_ONE_IN if config.probe.enabled else 0)


def labelled_sounds(config: AudioRun, split: Split) -> Labelled | None:
    """Clips of a split; ``all`` holds those of a validation split too. None where the split is empty."""
    sounds = sounds_of(config.data)
    splits = splits_of(config)
    records = {"train": splits.train, "test": splits.test, "all": sounds.records}[split]
    if not records:
        return None
    source = plain_source(config.data, records, sample_rate_of(config.audio.frontend))
    return Labelled(source, class_names(records.labels, sounds.classes), groups_of(records))
