"""Opening a video, knowing when each of its frames is shown, and decoding only those that are asked for.

What becomes of a file, whatever its name says; every refusal is a ``BadSample`` and goes to quarantine:

- the content decides: MP4/MOV, Matroska/WebM, AVI, MPEG, FLV, ASF, Ogg and bare H.264, H.265 and MPEG-4 streams are
  opened through PyAV (FFmpeg), play lists and anything that could name other files are not;
- a file that is an image, and a folder of one, is a video of one frame (``image_data.decode`` says how it is read);
- the first video stream that FFmpeg calls the best one counts; a cover picture is no video, so sound alone is refused;
- the whole file is read once for the times of its frames and nothing is decoded for that, except where it holds no
  times (bare streams, AVI with B frames): there the frames are counted by decoding and shown at the stream's rate.
  Recordings of an hour are better cut into pieces first;
- frames become 8-bit RGB by the matrix that the file names (gray is repeated, 10 and 16 bits are rounded),
  transparency is laid on white, turns by quarters are applied, mirrored display matrices are not; pixels count as
  square, and interlaced frames stay as they are;
- refused: no frame that can be decoded, an error or a concealed error of the decoder between the key frame and the
  last frame needed, an MP4/MOV/AVI file with fewer frames than its index lists, frames of over 67 million pixels.
  Matroska and WebM have no such list: one that is broken off counts as far as it goes.

Decoding starts at the key frame before the first frame needed, in one thread: data loading has its own workers.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from jepa_core.contracts import BadSample
from jepa_vision.augment import Box, cut
from jepa_vision.image_data import decode
from jepa_vision.video_files import FrameFiles

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

# Formats that hold their frames themselves, by FFmpeg's names. A play list would make it open what it names.
_FORMATS = "mov,matroska,avi,mpegts,mpeg,flv,asf,ogg,h264,hevc,m4v"
_MOST_PIXELS = 1 << 26


class Picture(Protocol):
    """One frame, not yet brought to the wanted size.

    Attributes:
        size: (width, height) in pixels as it is shown.
    """

    @property
    def size(self) -> tuple[int, int]: ...

    def cut(self, box: Box, size: tuple[int, int]) -> NDArray[np.uint8]:
        """The cut ``(left, top, right, bottom)`` resized to ``(height, width)``, uint8 ``[H, W, 3]``."""
        ...


class Footage(Protocol):
    """An opened video.

    Attributes:
        count: frames.
        times: when each is shown, seconds from the first, float64 ``[count]``, rising; None = not known.
    """

    count: int
    times: NDArray[np.float64] | None

    def pictures(self, places: Sequence[int]) -> Iterator[Picture]:
        """The frames at ``places``, which rise."""
        ...


@contextmanager
def open_footage(content: bytes | Path | FrameFiles, name: str) -> Iterator[Footage]:
    """A video of what ``VideoRecord.read`` gave; closed at the end. ``name`` is for the messages.

    Raises:
        BadSample: see the head of this file.
    """
    from av import FFmpegError

    try:
        if isinstance(content, FrameFiles):
            yield _Folder(content, name)
        elif _is_image(content):
            yield _Still(decode(content if isinstance(content, bytes) else content.read_bytes(), name))
        else:
            video = _Video(content, name)
            try:
                yield video
            finally:
                video.close()
    except (FFmpegError, OSError) as error:
        raise BadSample(f"{name}: broken or no video: {error.strerror or error}") from None


# --------------------------------------------------------------------------------------------------------------------
# Images
# --------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Image:
    image: Image.Image

    @property
    def size(self) -> tuple[int, int]:
        return self.image.size

    def cut(self, box: Box, size: tuple[int, int]) -> NDArray[np.uint8]:
        return cut(self.image, box, size)


class _Still:
    """One picture."""

    def __init__(self, image: Image.Image) -> None:
        self._image = image
        self.count = 1
        self.times: NDArray[np.float64] | None = np.zeros(1)

    def pictures(self, places: Sequence[int]) -> Iterator[Picture]:
        return iter([_Image(self._image) for _ in places])


class _Folder:
    """One image file a frame."""

    def __init__(self, files: FrameFiles, name: str) -> None:
        self._paths, self._name = files.paths, name
        self.count = len(files.paths)
        self.times: NDArray[np.float64] | None = None
        if not files.paths:
            raise BadSample(f"{name}: no frame in the folder")
        if files.fps is not None or self.count == 1:
            self.times = np.arange(self.count) / (files.fps or 1.0)

    def pictures(self, places: Sequence[int]) -> Iterator[Picture]:
        for place in places:
            path = self._paths[place]
            yield _Image(decode(path.read_bytes(), f"{self._name}/{path.name}"))


def _is_image(content: bytes | Path) -> bool:
    try:
        with Image.open(io.BytesIO(content) if isinstance(content, bytes) else content):
            return True
    except Image.DecompressionBombError:
        return True
    except (OSError, ValueError, SyntaxError):
        return False


# --------------------------------------------------------------------------------------------------------------------
# Videos
# --------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Frame:
    """A decoded frame; made RGB when it is cut."""

    frame: VideoFrame

    @property
    def _quarters(self) -> int:
        return round(self.frame.rotation / 90) % 4

    @property
    def size(self) -> tuple[int, int]:
        sides = self.frame.width, self.frame.height
        return (sides[1], sides[0]) if self._quarters % 2 else sides

    def cut(self, box: Box, size: tuple[int, int]) -> NDArray[np.uint8]:
        """As ``augment.cut``; a cut of twice the size or more is first reduced by the whole factor, by area."""
        factor = max(1, int(min((box[2] - box[0]) / size[1], (box[3] - box[1]) / size[0])))
        image = self._image(factor)
        across, down = image.size[0] / self.size[0], image.size[1] / self.size[1]
        left, top, right, bottom = box[0] * across, box[1] * down, box[2] * across, box[3] * down
        return cut(image, (left, top, min(right, image.size[0]), min(bottom, image.size[1])), size)

    def _image(self, factor: int) -> Image.Image:
        """The whole frame as it is shown, both sides divided by ``factor``."""
        clear = any(component.is_alpha for component in self.frame.format.components)
        pixels = self.frame.reformat(
            width=math.ceil(self.frame.width / factor),
            height=math.ceil(self.frame.height / factor),
            format="rgba" if clear else "rgb24",
            interpolation="AREA" if factor > 1 else "BICUBIC",
            threads=1,
        ).to_ndarray()
        image = Image.fromarray(np.ascontiguousarray(np.rot90(pixels, self._quarters)))
        if not clear:
            return image
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, image).convert("RGB")


class _Video:
    """A file that PyAV reads.

    A frame is known by its mark: its presentation time in units of the stream, or its number where there are no times.
    """

    def __init__(self, content: bytes | Path, name: str) -> None:
        self._content, self._name = content, name
        self._container, self._stream = self._open()
        self._timed = True
        self._marks, self._keys = self._scan()
        self.count = len(self._marks)
        rate = float(self._stream.average_rate or 0)
        unit = float(self._stream.time_base or 0) if self._timed else (1 / rate if rate else 0.0)
        since = (self._marks - self._marks[0]).astype(np.float64)
        self.times: NDArray[np.float64] | None = since * unit if unit else None

    def close(self) -> None:
        """Frees the decoder and the file."""
        self._container.close()

    def pictures(self, places: Sequence[int]) -> Iterator[Picture]:
        wanted = self._marks[np.asarray(places)]
        # Where a whole group of pictures lies between two frames that are needed, it is jumped over.
        key = np.searchsorted(self._keys, wanted, side="right")
        for run in np.split(wanted, np.flatnonzero(np.diff(key) > 1) + 1):
            yield from self._pick(run.tolist())

    def _open(self) -> tuple[InputContainer, VideoStream]:
        import av

        source = io.BytesIO(self._content) if isinstance(self._content, bytes) else f"file:{self._content}"
        options = {"format_whitelist": _FORMATS, "protocol_whitelist": "file"}
        # Titles that are no UTF-8 must not make a film unreadable: PyAV 19 sees to it by itself.
        replaced: dict[str, Any] = {"metadata_errors": "replace"} if int(av.__version__.split(".")[0]) < 19 else {}
        container = av.open(source, "r", options=options, **replaced)
        stream = container.streams.best("video")
        if stream is None or stream.disposition & av.stream.Disposition.attached_pic:
            container.close()
            raise BadSample(f"{self._name}: no video stream, expected one (sound alone is no video)")
        assert isinstance(stream, av.VideoStream)
        context = stream.codec_context
        if context is None:
            container.close()
            raise BadSample(f"{self._name}: a codec that is not known, or damaged where it is named")
        if context.width * context.height > _MOST_PIXELS:
            container.close()
            raise BadSample(f"{self._name}: frames of {context.width} x {context.height}, expected at most 2^26 pixels")
        context.thread_count = 1
        context.thread_type = "NONE"
        return container, stream

    def _scan(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The marks of all frames and of the key frames, both rising."""
        if self._container.format.name == "avi" and self._stream.codec_context.has_b_frames:
            # AVI stores no presentation times; those that FFmpeg makes up are wrong where the order is changed.
            return self._count()
        listed, found = len(self._stream.index_entries), 0
        marks: list[int] = []
        keys: list[int] = []
        for packet in self._container.demux(self._stream):
            if not packet.size:
                continue
            found += 1
            if packet.pts is None:
                return self._count()
            # What an edit list cuts away is decoded but never shown.
            if not packet.is_discard:
                marks.append(packet.pts)
                keys += [packet.pts] * packet.is_keyframe
        if found < listed:
            raise BadSample(f"{self._name}: broken off: {found} frames, expected the {listed} that its index lists")
        if not marks:
            raise BadSample(f"{self._name}: no frame in the video stream")
        return np.unique(np.array(marks, np.int64)), np.unique(np.array(keys, np.int64))

    def _count(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        self._timed = False
        marks = np.array([mark for mark, _ in self._decoded(None)], np.int64)
        if not len(marks):
            raise BadSample(f"{self._name}: no frame in the video stream")
        return marks, marks[:1]

    def _pick(self, wanted: Sequence[int]) -> Iterator[Picture]:
        """The frame nearest to each mark: a packet may hold a frame that is never shown."""
        waiting = iter(wanted)
        mark = next(waiting)
        before: tuple[int, VideoFrame] | None = None
        for at, frame in self._from(mark):
            while at >= mark:
                earlier = before is not None and mark - before[0] <= at - mark
                yield _Frame(before[1] if before is not None and earlier else frame)
                following = next(waiting, None)
                if following is None:
                    return
                mark = following
            before = at, frame
        raise BadSample(f"{self._name}: broken off: the last frame that can be decoded comes before those needed")

    def _from(self, mark: int) -> Iterator[tuple[int, VideoFrame]]:
        """Frames from the key frame before ``mark``, or from the start where a jump does not lead there."""
        place = int(np.searchsorted(self._keys, mark, side="right")) - 1
        if self._timed and place >= 0:
            frames = self._decoded(int(self._keys[place]))
            first = next(frames, None)
            if first is not None and first[0] <= mark:
                return chain([first], frames)
        return self._decoded(None)

    def _decoded(self, key: int | None) -> Iterator[tuple[int, VideoFrame]]:
        """Frames with their marks from the key frame with this mark on; None = from the start of the file."""
        if key is None:
            self.close()
            self._container, self._stream = self._open()
        else:
            self._container.seek(key, stream=self._stream)
        number = -1
        for frame in self._container.decode(self._stream):
            number += 1
            mark = frame.pts if self._timed else number
            # After a jump, frames shown before the key frame may lean on some that were jumped over.
            if mark is None or (key is not None and mark < key):
                continue
            if frame.is_corrupt:
                raise BadSample(f"{self._name}: the decoder had to conceal errors in frame {mark}")
            yield mark, frame
