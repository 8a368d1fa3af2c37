"""Clips of grid-s1 as shards of video and shards of sound: whole, and with the timing of speech taken out.

    python benchmarks/compare/grid_clips.py --data grid-s1 --out clips

Writes ``<out>/<kind>/video`` and ``<out>/<kind>/sound``, each ``<split>-0000.tar``, with the names and fields of the
original. ``whole``: the sound as it is, and 26 frames from the first on, 8.5 a second. ``speech``: of every clip only
what lies from the start of its first word to the end of its last one; 26 frames spread evenly over it, and its sound
stretched to 1.45 s, the median, at the same pitch. Neither then says when speech starts, when it ends or how long it
takes; when each word comes within the sentence stays.
"""

from __future__ import annotations

import argparse
import io
import json
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import librosa
import numpy as np
import soundfile
from numpy.typing import NDArray

KINDS = ("whole", "speech")
FRAMES, FPS = 26, 8.5
RATE_HZ = 16_000
SPEECH_S = 1.45


@dataclass(frozen=True)
class Clip:
    """One clip as it was recorded.

    Attributes:
        split, name: ``train``, ``val`` or ``test``, and its id.
        fields: what the data say of it, and ``start_s``, ``end_s`` of its speech.
        frames: uint8 ``[T, H, W, 3]``.
        times_s: of the frames, ``[T]``.
        sound: mono, ``[samples]`` at 16 kHz.
    """

    split: str
    name: str
    fields: dict[str, Any]
    frames: NDArray[np.uint8]
    times_s: NDArray[np.float64]
    sound: NDArray[np.float32]

    def speech(self) -> tuple[float, float]:
        """Start of the first and end of the last word, seconds."""
        return self.fields["start_s"], self.fields["end_s"]


def clips(folder: Path, splits: tuple[str, ...] = ("train", "val", "test")) -> Iterator[Clip]:
    """The clips of the shards, in their order."""
    for split in splits:
        for shard in sorted(folder.glob(f"{split}-*.tar")):
            with tarfile.open(shard) as members:
                held = {member.name: members.extractfile(member).read() for member in members if member.isfile()}  # type: ignore[union-attr]  # files only
            for name in (Path(entry).stem for entry in held if entry.endswith(".mp4")):
                fields = json.loads(held[f"{name}.json"])
                times = {"start_s": fields["words"][0][1], "end_s": fields["words"][-1][2]}
                yield Clip(split, name, {**fields, **times}, *decode(held[f"{name}.mp4"]))


def decode(content: bytes) -> tuple[NDArray[np.uint8], NDArray[np.float64], NDArray[np.float32]]:
    """Frames, their times and the sound of an mp4 file."""
    with av.open(io.BytesIO(content)) as container:
        found = [(frame.to_ndarray(format="rgb24"), float(frame.time or 0)) for frame in container.decode(video=0)]
    with av.open(io.BytesIO(content)) as container:
        resampler = av.AudioResampler("flt", "mono", RATE_HZ)
        blocks = [part for frame in container.decode(audio=0) for part in resampler.resample(frame)]
    sound = np.concatenate([block.to_ndarray()[0] for block in blocks])
    return np.stack([frame for frame, _ in found]), np.array([time for _, time in found]), sound


def frames_at(clip: Clip, times_s: NDArray[np.float64]) -> NDArray[np.uint8]:
    """The frames nearest to these times, ``[len(times_s), H, W, 3]``."""
    return clip.frames[np.abs(clip.times_s[None] - times_s[:, None]).argmin(1)]


def chosen_frames(clip: Clip, kind: str) -> NDArray[np.uint8]:
    """The 26 frames of a kind."""
    if kind == "whole":
        return frames_at(clip, clip.times_s[0] + np.arange(FRAMES) / FPS)
    return frames_at(clip, np.linspace(*clip.speech(), FRAMES))


def chosen_sound(clip: Clip, kind: str) -> NDArray[np.float32]:
    """The sound of a kind; speech has the same number of samples in every clip."""
    if kind == "whole":
        return clip.sound
    start, end = (round(time * RATE_HZ) for time in clip.speech())
    wanted = round(SPEECH_S * RATE_HZ)
    cut = clip.sound[start:end]
    return librosa.util.fix_length(librosa.effects.time_stretch(cut, rate=len(cut) / wanted), size=wanted)


def encoded_video(frames: NDArray[np.uint8]) -> bytes:
    """An mp4 file of JPEG frames, quick to read at any place."""
    stream = io.BytesIO()
    with av.open(stream, "w", format="mp4") as container:
        video = container.add_stream("mjpeg", rate=17)  # whole numbers only: every frame counts twice
        video.width, video.height, video.pix_fmt = frames.shape[2], frames.shape[1], "yuvj420p"
        video.options = {"qmin": "2", "qmax": "2"}
        for place, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts = 2 * place
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
    return stream.getvalue()


def encoded_sound(sound: NDArray[np.float32]) -> bytes:
    """A FLAC file."""
    stream = io.BytesIO()
    soundfile.write(stream, np.clip(sound, -1, 1), RATE_HZ, format="FLAC")
    return stream.getvalue()


class Shards:
    """Open shards by kind, medium and split; members are added to them."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.open: dict[Path, tarfile.TarFile] = {}

    def add(self, kind: str, medium: str, clip: Clip, suffix: str, content: bytes) -> None:
        """A clip's file and what is known of it."""
        path = self.out / kind / medium / f"{clip.split}-0000.tar"
        if path not in self.open:
            path.parent.mkdir(parents=True, exist_ok=True)
            self.open[path] = tarfile.open(path, "w")  # noqa: SIM115  # closed below, with the others
        for name, data in ((f"{clip.name}{suffix}", content), (f"{clip.name}.json", json.dumps(clip.fields).encode())):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            self.open[path].addfile(member, io.BytesIO(data))

    def close(self) -> None:
        """Ends all of them."""
        for shard in self.open.values():
            shard.close()


def write(data: Path, out: Path, splits: tuple[str, ...] = ("train", "val", "test")) -> int:
    """All shards; returns the number of clips."""
    shards, count = Shards(out), 0
    for clip in clips(data, splits):
        for kind in KINDS:
            shards.add(kind, "video", clip, ".mp4", encoded_video(chosen_frames(clip, kind)))
            shards.add(kind, "sound", clip, ".flac", encoded_sound(chosen_sound(clip, kind)))
        count += 1
    shards.close()
    return count


def main() -> None:
    """Writes the shards."""
    parser = argparse.ArgumentParser(description="Clips of grid-s1, whole and without the timing of speech.")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    print(f"{write(arguments.data, arguments.out)} clips in {arguments.out}")


if __name__ == "__main__":
    main()
