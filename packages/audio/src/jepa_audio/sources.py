"""Which sounds a run trains on and which it holds back for the probe."""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from jepa_audio.data_settings import AudioDataSettings
from jepa_audio.sound_data import Crop, Sounds, Whole
from jepa_audio.sound_files import FOLD_COLUMN, Content, SoundList, SoundRecord, find_sounds
from jepa_core.data import splits
from jepa_core.data.records import Records
from jepa_core.data.splits import Choice, held_back

Splits = splits.Splits[Content]

SAMPLE = "esc10"
HELD_BACK_ONE_IN = 5
"""Where the data name no fold and no test split, one group in this many is held back, by a hash of its name."""


def choose_root(data: AudioDataSettings) -> Choice:
    """``data.root``, then ``JEPA_DATA``/audio/esc10, then the sample in the package."""
    sample = Path(str(files("jepa_audio") / "samples" / SAMPLE))
    return splits.choose_root(data.root, f"audio/{SAMPLE}", sample, "real sounds of ten kinds")


def sounds_of(data: AudioDataSettings) -> SoundList:
    """What the root holds."""
    return find_sounds(choose_root(data).root, data.label, data.fold, data.group)


def training_source(data: AudioDataSettings, records: Sequence[SoundRecord], rate_hz: int) -> Sounds:
    """Training views of records at the rate of the front end."""
    return Sounds(records, rate_hz, Crop(data.seconds, data.views, data.gain_db), data.channels, data.keep_mib)


def plain_source(data: AudioDataSettings, records: Sequence[SoundRecord], rate_hz: int) -> Sounds:
    """Whole clips of records at the rate of the front end, for probes and tables."""
    return Sounds(records, rate_hz, Whole(data.max_seconds), data.channels)


# --------------------------------------------------------------------------------------------------------------------
# Splits
# --------------------------------------------------------------------------------------------------------------------


def split_sounds(sounds: SoundList, data: AudioDataSettings, one_in: int) -> Splits:
    """What is trained on and what is held back, by the first of these that the data allow.

    1. With folds, the sounds of ``data.test_fold``, else of the last fold in order (2 before 10).
    2. The data's own test split.
    3. One group in ``one_in`` by a hash of its name; a sound without a group is its own.

    Without classes, and with ``one_in`` 0, nothing is held back but a fold that is named or the data's own test split.
    Sounds of a validation split are in neither part: they are there to choose settings with.

    Raises:
        ValueError: no such fold, or nothing left to train on.
    """
    records = sounds.records.where(~sounds.records.in_split("validation"))
    column = data.fold or FOLD_COLUMN
    folds = folds_of(records, column)
    if data.test_fold is not None and data.test_fold not in folds:
        raise ValueError(
            f"data.test_fold: expected one of {', '.join(folds) or f'the values of a column {column}: there is none'}, "
            f"got {data.test_fold!r}"
        )
    wanted = bool(sounds.classes and one_in)
    if data.test_fold is not None or (wanted and len(folds) > 1):
        return split_by_fold(records, column, data.test_fold or folds[-1])
    own = records.in_split("test")
    if own.any():
        return _parted(records, own, "the data's own test split")
    if not wanted:
        return _parted(records, own, "nothing is held back")
    what = "group" if records.groups.used() else "sound"
    return _parted(records, held_back(records, one_in), f"one {what} in {one_in}, by a hash of its name")


def folds_of(records: Records[Content], column: str = FOLD_COLUMN) -> tuple[str, ...]:
    """The folds there are, numbers in them sorted by their value."""
    return tuple(sorted(set(records.field(column).used()) - {""}, key=_natural))


def _natural(name: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name) if part]


def split_by_fold(records: Records[Content], column: str, fold: str) -> Splits:
    """The sounds of one fold against the rest."""
    said = records.field(column)
    wanted = [code for code, value in enumerate(said.values) if value == fold]
    return _parted(records, np.isin(said.codes, wanted), f"fold {fold}, {column} in the label table")


def _parted(records: Records[Content], held: NDArray[np.bool_], note: str) -> Splits:
    if held.all():
        raise ValueError("data.root: expected sounds to train on, got held back or validation ones alone")
    return Splits(records.where(~held), records.where(held), note)
