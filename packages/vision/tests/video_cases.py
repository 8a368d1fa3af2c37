"""Films whose frames tell their own number, for the tests of video data."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from jepa_vision.video_data import Clips
from jepa_vision.video_files import VideoRecord

FIRST, STEP = 20, 5
SIZE = (48, 64)


@dataclass(frozen=True)
class Film:
    """A film whose frame i is gray of the level 20 + 5 i, so that a decoded frame tells its number."""

    codec: str = "libx264"
    container: str = "mp4"
    frames: int = 40
    pixels: str = "yuv420p"
    options: dict[str, str] = field(default_factory=dict)
    pts: Sequence[int] | None = None
    group: int = 12
    turn: int = 0
    paint: Callable[[int], NDArray[np.uint8]] | None = None

    def encoded(self) -> bytes:
        buffer = io.BytesIO()
        with av.open(buffer, "w", format=self.container) as out:
            stream: Any = out.add_stream(self.codec, rate=25, options=dict(self.options))
            stream.height, stream.width = SIZE
            stream.pix_fmt, stream.codec_context.gop_size = self.pixels, self.group
            if self.turn:
                stream.set_display_rotation(self.turn)
            for number in range(self.frames):
                level = np.full((*SIZE, 3), FIRST + STEP * number, np.uint8)
                picture = self.paint(number) if self.paint else level
                source = "rgba" if picture.shape[-1] == 4 else "rgb24"
                frame = av.VideoFrame.from_ndarray(picture, source).reformat(format=self.pixels)
                frame.pts = number if self.pts is None else self.pts[number]
                out.mux(stream.encode(frame))
            out.mux(stream.encode(None))
        return buffer.getvalue()

    def index_first(self, folder: Path) -> bytes:
        """As MP4 with its index before the frames, so that a part of it can still be opened."""
        path = folder / "index_first.mp4"
        with (
            av.open(io.BytesIO(self.encoded()), "r") as source,
            av.open(path, "w", options={"movflags": "faststart"}) as out,
        ):
            frames = source.streams.video[0]
            stream = out.add_stream_from_template(frames)
            for packet in source.demux(frames):
                if packet.size:
                    packet.stream = stream
                    out.mux(packet)
        return path.read_bytes()


def sound(container: str = "mp4") -> bytes:
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=container) as out:
        stream: Any = out.add_stream("aac", rate=16000, layout="mono")
        for start in range(0, 8192, 1024):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
            frame.sample_rate, frame.pts = 16000, start
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return buffer.getvalue()


def numbers(clip: NDArray[np.uint8]) -> list[int]:
    """Which frames of a film these are."""
    return [round((float(frame.mean()) - FIRST) / STEP) for frame in clip]


def clips(content: object, frames: int = 8, fps: float = 0, stride: int = 4, **options: Any) -> Clips:
    record = VideoRecord("v", lambda: content)  # type: ignore[arg-type, return-value]
    return Clips([record], options.pop("size", SIZE), frames, fps, stride, **options)
