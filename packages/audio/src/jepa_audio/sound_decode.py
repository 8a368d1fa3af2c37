"""Decoding a sound, or only a part of it: one channel, float32, at the sample rate of the run.

What becomes of a file, whatever its name says; every refusal is a ``BadSample`` and goes to quarantine:

- integers of 8, 16, 24 and 32 bits become -1..1 (16 bits are divided by 32768); floating-point files keep their values,
  those above 1 too;
- channels are joined before anything else: their ``mean``, the ``first``, or the ``loudest``, the one with the greatest
  energy in what is decoded;
- other sample rates, from 1 to 768 kHz, are resampled by soxr at its quality HQ (that of librosa's ``soxr_hq``); n
  frames become round(n * rate / own rate) samples;
- a part is found by seeking and nothing but it is decoded, with 512 periods of the lower rate at both sides, so that
  the resampler's edges stay outside: it equals that part of the whole within the rounding of float32. So it is for
  every format without loss. Vorbis, Opus and MP3 of up to a minute are decoded whole, as libsndfile's seeking is not
  exact in all of them; in longer ones a part of an Opus may differ by about a thousandth of full scale;
- the length of an MP3 without a table of contents is an estimate by libsndfile: what it leaves out is not read, and up
  to 4 608 frames that it has too many are silence;
- silence is kept as it is: zeros;
- a header may claim what it likes: no more memory is taken than for the frames that come;
- refused: what is no sound; no frames, or fewer than make one sample; NaN and infinity in the part that is read; a WAV
  or AIFF whose header names more data than there are (0xFFFFFFFF, the mark of a stream, is taken for what comes); a
  part that ends before its time or cannot be decoded, which is how a truncated FLAC or MP3 shows; a length that the
  header does not tell, as of a streamed FLAC. A truncated Ogg is a shorter sound and cannot be told from one.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import ceil, gcd
from pathlib import Path
from typing import Any, Literal

import numpy as np
import soundfile
import soxr  # type: ignore[import-untyped]
from numpy.typing import NDArray

from jepa_core.contracts import BadSample

Channels = Literal["mean", "first", "loudest"]
LOWEST_HZ, HIGHEST_HZ = 1_000, 768_000
_MARGIN_PERIODS = 512
_BLOCK_VALUES = 2**21
_MP3_SPARE_FRAMES = 4 * 1152
_LOSSY = ("VORBIS", "OPUS", "MPEG_LAYER_I", "MPEG_LAYER_II", "MPEG_LAYER_III")
_DECODED_WHOLE_SECONDS = 60
# libsndfile 1.2.2 takes the start of a Vorbis file's last page for an earlier one. A page has at most 255 packets, of
# 1024 frames each as encoders write them.
_VORBIS_PAGE_FRAMES = 255 * 1024
# libsndfile gives the largest number it has, or close to it, where a header tells no length.
_NO_LENGTH = 2**62
# A writer that cannot seek back leaves all bits set, or nearly all, where the size of the data belongs.
_STREAMED = 0xFFFFFF00
_CLAIM = re.compile(r"^\s*(?:data|SSND)\s*:\s*(\d+) \(should be (\d+)\)", re.MULTILINE)


@dataclass(frozen=True)
class SoundInfo:
    """What a file's header says.

    Attributes:
        frames: its length in its own rate.
        rate_hz: its own sample rate.
        channels: how many.
        format, subtype: ``WAV`` and ``PCM_16``.
    """

    frames: int
    rate_hz: int
    channels: int
    format: str
    subtype: str

    def samples_at(self, rate_hz: int) -> int:
        """Its length at another rate; 0 where a frame is shorter than half a sample."""
        return resampled_length(self.frames, self.rate_hz, rate_hz)


def resampled_length(frames: int, own_hz: int, rate_hz: int) -> int:
    """round(frames * rate_hz / own_hz), halves up, in whole numbers."""
    return (2 * frames * rate_hz + own_hz) // (2 * own_hz)


def sound_info(content: bytes | Path, name: str) -> SoundInfo:
    """What the header says; nothing is decoded. ``name`` is for the messages."""
    with open_sound(content, name) as sound:
        return sound.info


@contextmanager
def open_sound(content: bytes | Path, name: str) -> Iterator[Sound]:
    """A file or its bytes, open until the end of the block; every trouble with it is a ``BadSample``."""
    with _bad_samples(name):
        if isinstance(content, Path) and not content.is_file():
            raise BadSample(f"no such file: {content}")
        with soundfile.SoundFile(io.BytesIO(content) if isinstance(content, bytes) else content) as file:
            yield Sound(file)


@contextmanager
def _bad_samples(name: str) -> Iterator[None]:
    try:
        yield
    except BadSample as bad:
        raise BadSample(f"{name}: {bad}") from None
    except soundfile.LibsndfileError as error:
        raise BadSample(f"{name}: no sound that can be read, or truncated: {error.error_string}") from None
    # A broken file can make a decoder raise nearly anything.
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise BadSample(f"{name}: broken or truncated: {reason}") from None


class Sound:
    """A sound that is open. Its own frames are counted from 0 to ``info.frames``.

    Args:
        file: an open ``soundfile.SoundFile``.
    """

    def __init__(self, file: Any) -> None:
        self.info = SoundInfo(file.frames, file.samplerate, file.channels, file.format, file.subtype)
        self._file = file
        self._held: dict[Channels, NDArray[np.float32]] = {}
        if file.frames == 0:
            raise BadSample("no frames, expected at least one")
        if not LOWEST_HZ <= file.samplerate <= HIGHEST_HZ:
            raise BadSample(f"a sample rate of {file.samplerate} Hz, expected {LOWEST_HZ} to {HIGHEST_HZ}")
        if file.frames >= _NO_LENGTH:
            raise BadSample(f"a {file.format} file whose header tells no length; write it again with soundfile or sox")
        for claimed, there in _CLAIM.findall(file.extra_info):
            if int(there) < int(claimed) < _STREAMED:
                raise BadSample(f"truncated: {there} bytes of data, the header names {claimed}")

    def part(self, rate_hz: int, start: int, count: int, channels: Channels = "mean") -> NDArray[np.float32]:
        """A part of the resampled sound, without decoding the rest.

        Args:
            rate_hz: wanted sample rate.
            start, count: which of the ``info.samples_at(rate_hz)`` samples; both are cut at its end.
            channels: see the head of this file.

        Returns:
            float32 ``[count]``, less where the sound ends before.
        """
        own = self.info.rate_hz
        count = max(0, min(count, self.info.samples_at(rate_hz) - start))
        if own == rate_hz:
            return self._frames(start, count, channels)
        first, last = _own_part(own, rate_hz, start, count, self.info.frames)
        resampled = resample(self._frames(first, last - first, channels), own, rate_hz)
        # The first frame of the part lies on both grids: this is exact.
        skipped = start - first * rate_hz // own
        return resampled[skipped : skipped + count]

    def whole(self, rate_hz: int, channels: Channels = "mean") -> NDArray[np.float32]:
        """All of it, resampled: float32 ``[S]``."""
        return resample(self._frames(0, self.info.frames, channels), self.info.rate_hz, rate_hz)

    def _frames(self, start: int, count: int, channels: Channels) -> NDArray[np.float32]:
        """One channel of its own frames."""
        frames = self.info.frames
        if self.info.subtype not in _LOSSY or frames > _DECODED_WHOLE_SECONDS * self.info.rate_hz:
            return self._decoded(start, count, channels)
        if channels not in self._held:
            self._held[channels] = self._decoded(0, frames, channels)
        return self._held[channels][start : start + count]

    def _decoded(self, start: int, count: int, channels: Channels) -> NDArray[np.float32]:
        self._go_to(start)
        blocks, missing = [], count
        # Block by block: a header may name a million times the frames that there are.
        for block in self._blocks(missing):
            blocks.append(block)
            missing -= len(block)
        if missing:
            if missing > (_MP3_SPARE_FRAMES if self.info.subtype.startswith("MPEG") else 0):
                raise BadSample(f"truncated: {missing} of {count} frames from frame {start} on are not there")
            blocks.append(np.zeros((missing, self.info.channels), np.float32))
        return _checked(_joined(blocks, channels))

    def _go_to(self, start: int) -> None:
        place = start
        if self.info.subtype == "VORBIS":
            place = max(0, min(start, self.info.frames - _VORBIS_PAGE_FRAMES))
        self._file.seek(place)
        for _ in self._blocks(start - place):
            pass

    def _blocks(self, count: int) -> Iterator[NDArray[np.float32]]:
        """The next ``count`` frames, or what there is of them, in blocks ``[n, C]``."""
        step = max(1, _BLOCK_VALUES // self.info.channels)
        while count > 0:
            block = self._file.read(min(step, count), dtype="float32", always_2d=True)
            if not len(block):
                return
            count -= len(block)
            yield block


def _joined(blocks: list[NDArray[np.float32]], channels: Channels) -> NDArray[np.float32]:
    """``[n, C]`` blocks to one channel ``[N]``."""
    if not blocks:
        return np.zeros(0, np.float32)
    place = 0
    if channels == "loudest":
        place = int(np.argmax(sum(np.square(block, dtype=np.float64).sum(0) for block in blocks)))
    if channels == "mean":
        return np.concatenate([block.mean(1) for block in blocks])
    return np.concatenate([block[:, place] for block in blocks])


def _checked(samples: NDArray[np.float32]) -> NDArray[np.float32]:
    if not np.isfinite(samples).all():
        raise BadSample("NaN or infinite samples")
    return samples


def _own_part(own_hz: int, rate_hz: int, start: int, count: int, frames: int) -> tuple[int, int]:
    """First and last frame + 1 to read for a part: a frame that lies on both grids, and a margin at both sides."""
    margin = ceil(_MARGIN_PERIODS * own_hz / min(own_hz, rate_hz))
    shared = own_hz // gcd(own_hz, rate_hz)
    first = max(0, start * own_hz // rate_hz - margin) // shared * shared
    last = ceil((start + count) * own_hz / rate_hz) + margin
    return first, min(last, frames)


def resample(samples: NDArray[np.float32], own_hz: int, rate_hz: int) -> NDArray[np.float32]:
    """``[n]`` to ``[resampled_length(n)]``; soxr itself may give a sample more or less."""
    if own_hz == rate_hz:
        return samples
    length = resampled_length(len(samples), own_hz, rate_hz)
    found: NDArray[np.float32] = soxr.resample(samples, own_hz, rate_hz, quality="HQ")[:length]
    return np.pad(found, (0, length - len(found))) if len(found) < length else found
