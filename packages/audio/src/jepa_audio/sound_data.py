"""Sounds as a data set: random crops for training, whole clips for probes, all randomness from the sample's seed.

Rules, besides those of ``sound_decode`` on what is read and what is refused:

- a crop starts at any sample that leaves room for all of it, each as likely as the others (up to the 2^24 steps of a
  draw); the views of one sample are drawn one by one and may overlap;
- a clip shorter than the crop is used whole, all views then being the same but for the gain, and zeros follow it;
- a gain in dB is drawn for each view and the result is not limited to -1..1;
- for evaluation a clip is used from its start, as far as ``max_seconds`` goes;
- what is loaded depends on the file, the settings and the seed alone. With ``keep_mib`` clips are decoded whole, and
  kept in each process for as long as they fit: for data sets of minutes to hours, which are read again and again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from jepa_audio.sound_decode import Channels, Sound, open_sound
from jepa_audio.sound_files import SoundRecord
from jepa_audio.waveforms import Waveforms
from jepa_core.contracts import BadSample
from jepa_core.data.records import Records
from jepa_core.seeds import draws

# Streams of the sample seeds.
_START_STREAM, _GAIN_STREAM = 331, 332


@dataclass(frozen=True)
class Crop:
    """Training views.

    Attributes:
        seconds: length of a view.
        views: V, of each clip.
        gain_db: each view is made louder or softer by up to this; 0 = as it is.
    """

    seconds: float
    views: int = 1
    gain_db: float = 0.0

    def __post_init__(self) -> None:
        if self.seconds <= 0 or self.views < 1 or self.gain_db < 0:
            raise ValueError(f"crop: expected seconds above 0, one view or more and a gain from 0 dB, got {self}")


@dataclass(frozen=True)
class Whole:
    """The plain view.

    Attributes:
        max_seconds: what lies behind is not read; None = all of every clip.
    """

    max_seconds: float | None = None

    def __post_init__(self) -> None:
        if self.max_seconds is not None and self.max_seconds <= 0:
            raise ValueError(f"whole clips: expected max_seconds above 0 or None, got {self.max_seconds}")


@dataclass(frozen=True)
class Views:
    """One sample, loaded.

    Attributes:
        samples: float32 ``[V, S]``.
        length: how many of the S are the clip's; zeros follow.
    """

    samples: NDArray[np.float32]
    length: int


class Sounds:
    """Sounds of a list, as training crops or whole; keeps the contract ``SampleSource``.

    Args:
        records: which.
        rate_hz: sample rate of what is loaded.
        view: what is taken of each clip.
        channels: what becomes of several, see :mod:`jepa_audio.sound_decode`.
        keep_mib: of decoded clips that a process keeps at most; 0 = crops are read by seeking and nothing is kept.
    """

    def __init__(
        self,
        records: Sequence[SoundRecord],
        rate_hz: int,
        view: Crop | Whole,
        channels: Channels = "mean",
        keep_mib: int = 0,
    ) -> None:
        if not records:
            raise ValueError("sounds: expected at least one, got none; look at data.root and its splits")
        self.records, self.rate_hz, self.view, self.channels = Records.of(records), rate_hz, view, channels
        self.keep_mib = keep_mib
        self._kept: dict[int, NDArray[np.float32]] = {}
        self._room = keep_mib * 2**20
        seconds = view.seconds if isinstance(view, Crop) else view.max_seconds
        self._count = None if seconds is None else round(seconds * rate_hz)
        if self._count == 0:
            raise ValueError(f"sounds: expected at least one sample of {rate_hz} Hz, got {seconds} s")

    def __len__(self) -> int:
        return len(self.records)

    def __getstate__(self) -> dict[str, Any]:
        """Nothing that is kept goes to a loader process."""
        return {**self.__dict__, "_kept": {}, "_room": self.keep_mib * 2**20}

    def sample_id(self, index: int) -> str:
        """The same on every machine."""
        return self.records.sample_id(index)

    def load(self, index: int, seed: int) -> Views:
        """``[V, S]`` crops or the whole clip ``[1, S]``; all randomness from ``seed``. Raises :class:`BadSample`."""
        if self.keep_mib and isinstance(self.view, Crop):
            samples = self._decoded(index)
            return self._cut(len(samples), lambda start, count: samples[start : start + count], self.view, seed)
        with self._open(index) as sound:
            if not isinstance(self.view, Crop):
                return self._whole(sound)
            total = sound.info.samples_at(self.rate_hz)
            return self._cut(total, lambda a, n: sound.part(self.rate_hz, a, n, self.channels), self.view, seed)

    def _decoded(self, index: int) -> NDArray[np.float32]:
        """The whole clip, kept where there is room."""
        if index not in self._kept:
            with self._open(index) as sound:
                samples = sound.whole(self.rate_hz, self.channels)
            if samples.nbytes > self._room:
                return samples
            self._kept[index], self._room = samples, self._room - samples.nbytes
        return self._kept[index]

    @contextmanager
    def _open(self, index: int) -> Iterator[Sound]:
        record = self.records[index]
        try:
            content = record.read()
        except OSError as error:
            raise BadSample(f"{record.sample_id}: {error}") from None
        with open_sound(content, record.sample_id) as sound:
            if not sound.info.samples_at(self.rate_hz):
                raise BadSample(f"{sound.info.frames} frames at {sound.info.rate_hz} Hz, expected a sample at least")
            yield sound

    def collate(self, samples: Sequence[Views]) -> Waveforms:
        """``[V * B, S]``, the first view of every sample first, filled up with zeros to the longest."""
        longest = max(views.samples.shape[1] for views in samples)
        count = samples[0].samples.shape[0]
        joined = torch.zeros(count, len(samples), longest)
        for place, views in enumerate(samples):
            joined[:, place, : views.samples.shape[1]] = torch.from_numpy(views.samples)
        lengths = [views.length for views in samples]
        full = all(length == longest for length in lengths)
        return Waveforms(joined.flatten(0, 1), None if full else torch.tensor(lengths).repeat(count))

    def _cut(self, total: int, part: Callable[[int, int], NDArray[np.float32]], crop: Crop, seed: int) -> Views:
        """Crops of a clip of so many samples; ``part`` gives those from a start, so many."""
        assert self._count is not None, "a crop has a length"
        length = min(total, self._count)
        views = np.zeros((crop.views, self._count), np.float32)
        gains = draws(seed, _GAIN_STREAM)
        for view, share in zip(views, islice(draws(seed, _START_STREAM), crop.views), strict=True):
            view[:length] = part(int(share * (total - length + 1)), length)
            if crop.gain_db:
                view *= np.float32(10 ** (crop.gain_db * (2 * next(gains) - 1) / 20))
        return Views(views, length)

    def _whole(self, sound: Sound) -> Views:
        if self._count is None:
            samples = sound.whole(self.rate_hz, self.channels)
        else:
            samples = sound.part(self.rate_hz, 0, self._count, self.channels)
        return Views(samples[None], len(samples))
