"""Clips of videos as a data set: which frames, one view for the whole clip, all from the sample's seed.

Rules, besides those of ``video_decode`` on what is read and what is refused:

- with ``fps`` F, frame k of a clip is the video frame whose presentation time is nearest to that of the clip's first
  frame plus k / F seconds, the earlier of two that are as near: right for variable rates too, and frames come twice
  where the video has fewer than F. With ``fps`` 0, frame k is the video frame ``stride`` times k after the first,
  whatever the times;
- a clip starts at any frame that leaves room for all of it; training draws one of them evenly, evaluation takes the
  middle one or several spread evenly from the first to the last;
- a clip longer than the video starts at its first frame and repeats its last one; a single image is a still clip;
- a frame folder without ``fps.txt`` has no times: ``fps`` above 0 refuses it;
- of each frame only the region is used; at its edge, as at that of every cut, the filter reads a pixel or two beyond;
- crop, flip, colour and blur are drawn once and hold for all frames, which must be of one size;
- a clip depends on the file, the settings and the seed alone; nothing is kept from one clip to the next.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from jepa_core.contracts import BadSample
from jepa_core.data.records import Records
from jepa_core.seeds import draws
from jepa_vision.augment import Augment, Box, centre_box, colour, flips, random_box
from jepa_vision.video_decode import Footage, open_footage
from jepa_vision.video_files import VideoRecord

# Stream of the sample seeds.
_START_STREAM = 321
# Times that differ by less are equal; far below a frame, far above the rounding of a sum.
_SLACK_SECONDS = 1e-6


class Clips:
    """Clips of a list of videos, as training views or as plain centre cuts; keeps the contract ``SampleSource``.

    Args:
        records: which.
        size: ``(height, width)`` of what is loaded.
        frames: T, frames of a clip.
        fps: frames per second of a clip; 0 = every ``stride``-th video frame instead.
        stride: video frames from one clip frame to the next, with ``fps`` 0.
        augment: None = the clip in the middle, the centre cut.
        region: left, top, right and bottom edge of what is used of a frame, as shares of its width and height.
    """

    def __init__(
        self,
        records: Sequence[VideoRecord],
        size: tuple[int, int],
        frames: int,
        fps: float,
        stride: int,
        augment: Augment | None = None,
        region: Box = (0.0, 0.0, 1.0, 1.0),
    ) -> None:
        if not records:
            raise ValueError("videos: expected at least one, got none; look at data.root and its splits")
        self.records, self.size, self.augment = Records.of(records), size, augment
        self.frames, self.fps, self.stride, self.region = frames, fps, stride, region

    def __len__(self) -> int:
        return len(self.records)

    def sample_id(self, index: int) -> str:
        """The same on every machine."""
        return self.records.sample_id(index)

    def load(self, index: int, seed: int) -> NDArray[np.uint8]:
        """uint8 ``[T, H, W, 3]``; all randomness from ``seed``. Raises :class:`BadSample`."""
        augment = self.augment
        if augment is None:
            return self.load_at(index, 0.5)
        share = next(draws(seed, _START_STREAM))
        wanted = self.size[1] / self.size[0]
        with self._footage(index) as footage:
            places = self._places(index, footage, lambda starts: int(share * starts))
            clip = self._read(index, footage, places, lambda w, h: random_box(w, h, wanted, augment, seed))
        if flips(augment, seed):
            clip = np.ascontiguousarray(clip[:, :, ::-1])
        return colour(clip, augment, seed)

    def load_at(self, index: int, start: float) -> NDArray[np.uint8]:
        """The centre cut of the clip at ``start``, from 0 (the first that fits) to 1 (the last).

        Returns:
            uint8 ``[T, H, W, 3]``.
        """
        return self._centre(index, (start,))[0]

    def evaluation_clips(self, index: int, count: int) -> NDArray[np.uint8]:
        """``count`` centre cuts of clips spread evenly over the video, from the first to the last; one = the middle.

        Returns:
            uint8 ``[count, T, H, W, 3]``.
        """
        if count < 1:
            raise ValueError(f"evaluation_clips: expected at least one clip, got {count}")
        return self._centre(index, [place / (count - 1) for place in range(count)] if count > 1 else (0.5,))

    def collate(self, samples: Sequence[NDArray[np.uint8]]) -> Tensor:
        """uint8 ``[B, 3, T, H, W]``."""
        return torch.from_numpy(np.stack(samples)).permute(0, 4, 1, 2, 3).contiguous()

    @contextmanager
    def _footage(self, index: int) -> Iterator[Footage]:
        record = self.records[index]
        try:
            content = record.read()
        except (OSError, ValueError) as error:
            raise BadSample(f"{record.sample_id}: {error}") from None
        with open_footage(content, record.sample_id) as footage:
            yield footage

    def _centre(self, index: int, shares: Sequence[float]) -> NDArray[np.uint8]:
        if not all(0 <= share <= 1 for share in shares):
            raise ValueError(f"start: expected a share of the video from 0 to 1, got {list(shares)}")
        wanted = self.size[1] / self.size[0]

        def place(share: float) -> Callable[[int], int]:
            return lambda starts: int(share * (starts - 1) + 0.5)

        with self._footage(index) as footage:
            places = np.stack([self._places(index, footage, place(share)) for share in shares])
            return self._read(index, footage, places, lambda w, h: centre_box(w, h, wanted))

    def _places(self, index: int, footage: Footage, choose: Callable[[int], int]) -> NDArray[np.int64]:
        if self.fps == 0:
            return stride_places(footage.count, self.frames, self.stride, choose)
        if footage.times is None:
            raise BadSample(
                f"{self.sample_id(index)}: frames of no known rate, expected one for data.fps={self.fps:g}; write it "
                "into fps.txt beside them, or take data.fps=0 data.stride=n"
            )
        return timed_places(footage.times, self.frames, self.fps, choose)

    def _read(
        self, index: int, footage: Footage, places: NDArray[np.int64], box_of: Callable[[int, int], Box]
    ) -> NDArray[np.uint8]:
        """The frames at ``places``, each decoded and cut once, uint8 ``[*places.shape, H, W, 3]``."""
        unique, inverse = np.unique(places, return_inverse=True)
        views: list[NDArray[np.uint8]] = []
        first: tuple[int, int] | None = None
        for picture in footage.pictures(unique.tolist()):
            if first is None:
                first = picture.size
                box = box_within(self.region, *first, box_of)
            if picture.size != first:
                raise BadSample(f"{self.sample_id(index)}: frames of {first} and {picture.size}, expected one size")
            views.append(picture.cut(box, self.size))
        return np.stack(views)[inverse.reshape(places.shape)]


def box_within(region: Box, width: int, height: int, box_of: Callable[[int, int], Box]) -> Box:
    """The box that ``box_of`` chooses in a region of a frame, in pixels of the frame; whole pixels, one at least."""
    left, top, right, bottom = region
    x, y = min(round(left * width), width - 1), min(round(top * height), height - 1)
    wide, tall = max(round(right * width) - x, 1), max(round(bottom * height) - y, 1)
    box = box_of(wide, tall)
    return box[0] + x, box[1] + y, box[2] + x, box[3] + y


def stride_places(count: int, frames: int, stride: int, choose: Callable[[int], int]) -> NDArray[np.int64]:
    """Frame numbers of a clip of every ``stride``-th frame.

    Args:
        count: frames of the video.
        frames: frames of the clip, T.
        stride: from one to the next.
        choose: which of so many starts.

    Returns:
        int64 ``[T]``, not falling.
    """
    start = choose(max(1, count - (frames - 1) * stride))
    return np.minimum(start + stride * np.arange(frames, dtype=np.int64), count - 1)


def timed_places(
    times: NDArray[np.float64], frames: int, fps: float, choose: Callable[[int], int]
) -> NDArray[np.int64]:
    """Frame numbers of a clip of ``fps`` frames per second.

    Args:
        times: when each frame of the video is shown, seconds, rising.
        frames: frames of the clip, T.
        fps: of the clip, above 0.
        choose: which of so many starts.

    Returns:
        int64 ``[T]``, not falling.
    """
    latest = times[-1] - (frames - 1) / fps + _SLACK_SECONDS
    start = choose(max(1, int(np.searchsorted(times, latest, side="right"))))
    wanted = times[start] + np.arange(frames) / fps
    middles = (times[1:] + times[:-1]) / 2
    return np.searchsorted(middles, wanted - _SLACK_SECONDS).astype(np.int64)
