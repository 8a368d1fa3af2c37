"""Sounds for tests: noise that is smooth enough for lossy codecs, written by soundfile."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

from jepa_audio.sound_files import SoundRecord

# What each format is written as: (format, subtype).
FORMATS = {
    "wav": ("WAV", "PCM_16"),
    "flac": ("FLAC", "PCM_16"),
    "ogg": ("OGG", "VORBIS"),
    "opus": ("OGG", "OPUS"),
    "mp3": ("MP3", "MPEG_LAYER_III"),
    "aiff": ("AIFF", "PCM_16"),
}


def noise(frames: int, channels: int = 1, seed: int = 0) -> NDArray[np.float32]:
    """Filtered noise ``[frames, channels]`` within -0.9..0.9."""
    white = np.random.default_rng(seed).standard_normal((frames + 16, channels))
    smooth = np.apply_along_axis(lambda x: np.convolve(x, np.hanning(9), "same"), 0, white)
    return (0.9 * smooth / np.abs(smooth).max()).astype(np.float32)[:frames]


def encoded(samples: NDArray[np.generic], rate_hz: int, kind: str = "wav", subtype: str | None = None) -> bytes:
    """A file's bytes."""
    buffer = io.BytesIO()
    name, usual = FORMATS[kind]
    soundfile.write(buffer, samples, rate_hz, format=name, subtype=subtype or usual)
    return buffer.getvalue()


def decoded(content: bytes) -> NDArray[np.float32]:
    """All frames ``[n, channels]``."""
    samples: NDArray[np.float32] = soundfile.read(io.BytesIO(content), dtype="float32", always_2d=True)[0]
    return samples


def record(content: bytes | Path, name: str = "s") -> SoundRecord:
    """A record of a file or its bytes."""
    return SoundRecord(name, Held(content))


class Held:
    """Gives what it was given; unlike a lambda it can be sent to a process."""

    def __init__(self, content: bytes | Path) -> None:
        self.content = content

    def __call__(self) -> bytes | Path:
        return self.content
