"""The settings of the data of a run with sound."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from jepa_core.settings import DataSettings


@dataclass
class AudioDataSettings(DataSettings):
    """Sounds. The sample rate is that of the front end: whatever the files have, they are resampled to it.

    Attributes:
        root: folder of sounds, of tar shards or of .parquet files, one that ``Dataset.save_to_disk`` wrote, or one
            sound file; None = ``JEPA_DATA``/audio/esc10, then the small copy of it in the package.
        label: column of the label table, or field of the ``.json`` beside a sound, that names the class; None =
            ``label`` or ``category``, the ``.cls`` file, or the folder.
        group: column of the recording or speaker, which no split tears apart; None = ``group``, ``recording``,
            ``speaker`` or ``src_file``, where there is one.
        fold: column of the folds of a cross-validation; None = ``fold``, where there is one.
        test_fold: the fold that is held back; None = the last.
        seconds: length of a training view in s.
        views: views of each clip in a batch.
        gain_db: each view is made louder or softer by up to this, in dB.
        channels: what becomes of several: their ``mean``, the ``first``, or the ``loudest``.
        keep_mib: memory, in MiB, in which each process keeps decoded clips, for small data sets; 0 = crops are read by
            seeking.
        max_seconds: of each clip, at most so many s are embedded and probed; None = all of it.
    """

    label: str | None = None
    group: str | None = None
    fold: str | None = None
    test_fold: str | None = None
    seconds: float = 5.0
    views: int = 1
    gain_db: float = 0.0
    channels: Literal["mean", "first", "loudest"] = "mean"
    keep_mib: int = 0
    max_seconds: float | None = None


def check_data(data: AudioDataSettings) -> None:
    """Refuses impossible values; each message names the key, what was expected and what came.

    Raises:
        ValueError: see above.
    """
    bounds = {
        "seconds": (0.01, 3600),
        "views": (1, 64),
        "gain_db": (0, 60),
        "keep_mib": (0, 1e7),
        "max_seconds": (0.01, 1e6),
    }
    for key, (low, high) in bounds.items():
        value = getattr(data, key)
        if value is not None and not low <= value <= high:
            raise ValueError(f"data.{key}: expected {low:g} to {high:g}, got {value}")
