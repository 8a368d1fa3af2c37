"""Small pictures of samples: images, strips of frames and lines as PNG, and files made small enough for a page."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from jepa_core.results import SamplePictures, picture_format

SIDE = 128
"""Pixels of a picture's longer side, at most; a strip is as long as its frames take."""

FRAME_SIDE = 64
STRIP_FRAMES = 3
STRIP_GAP = 2
MOST_LANES = 8
"""Channels that are drawn, at most: the first."""

LANES = "A lane for each channel, time to the right; each lane is stretched over its own range."
FIRST_LANES = f"Lanes of the first {MOST_LANES} channels, time to the right; each is stretched over its own range."

# Of the lanes, in turn; each is dark enough to be seen on white.
_LANE_COLOURS = ("#0072b2", "#d55e00", "#00795a", "#8d55d6")
_SUPERSAMPLED = 3
_LINE_SHADES = 64
_MOST_PIXELS = 2**26  # a picture of a run has thousands; what has more is none of its
_MOST_PLAIN_BYTES = 12 * 1024
"""A PNG file of more bytes is put into a page as JPEG."""
_JPEG_QUALITY = 85

Bytes = NDArray[np.uint8]


def image_png(image: NDArray[Any], side: int = SIDE) -> bytes:
    """A PNG of an image uint8 ``[H, W, 3]`` or ``[H, W]``; small ones grow by a whole factor, pixels stay pixels."""
    return _png(_fitted(image, side))


def strip_png(frames: NDArray[Any]) -> bytes:
    """A PNG of frames uint8 ``[T, H, W, 3]`` side by side: the first, the last and what lies evenly between."""
    chosen = np.unique(np.linspace(0, len(frames) - 1, min(STRIP_FRAMES, len(frames))).round().astype(int))
    return joined_png([frames[place] for place in chosen])


def joined_png(frames: Sequence[NDArray[Any]]) -> bytes:
    """A PNG of frames uint8 ``[H, W, 3]`` of one size side by side."""
    from PIL import Image

    small = [_fitted(frame, FRAME_SIDE) for frame in frames]
    step = small[0].width + STRIP_GAP
    strip = Image.new("RGB", (step * len(small) - STRIP_GAP, small[0].height), "white")
    for place, frame in enumerate(small):
        strip.paste(frame, (place * step, 0))
    return _png(strip)


def lines_png(values: NDArray[Any]) -> bytes:
    """A PNG of channels ``[C, T]`` below each other; what is not finite is left out."""
    from PIL import Image, ImageDraw

    lanes = values[:MOST_LANES].astype(np.float64)
    width, height = SIDE * _SUPERSAMPLED, 3 * SIDE // 4 * _SUPERSAMPLED
    image = Image.new("RGB", (width, height), "white")
    draw, lane_height = ImageDraw.Draw(image), height / len(lanes)
    for place, lane in enumerate(lanes):
        finite = np.isfinite(lane)
        if not finite.any():
            continue
        low, high = lane[finite].min(), lane[finite].max()
        level = (lane[finite] - low) / (high - low) if high > low else np.full(int(finite.sum()), 0.5)
        x = np.flatnonzero(finite) / max(1, len(lane) - 1) * (width - 1)
        y = (place + 0.92 - 0.84 * level) * lane_height
        colour = _LANE_COLOURS[place % len(_LANE_COLOURS)]
        draw.line(list(zip(x.tolist(), y.tolist(), strict=True)), fill=colour, width=_SUPERSAMPLED)
    small = image.resize((width // _SUPERSAMPLED, height // _SUPERSAMPLED), Image.Resampling.LANCZOS)
    return _png(small.quantize(_LINE_SHADES))


def tensor_pictures(inputs: Any, count: int) -> SamplePictures:
    """Pictures of inputs that are one tensor: lines of ``[B, C, T]``, images of ``[B, 1 or 3, H, W]``.

    Args:
        inputs: of a batch; whatever else they are, nothing is drawn.
        count: B.
    """
    shape = tuple(inputs.shape) if isinstance(inputs, Tensor) else ()
    if len(shape) == 3 and min(shape) > 0:
        how = LANES if shape[1] <= MOST_LANES else FIRST_LANES
        return SamplePictures([lines_png(sample.float().cpu().numpy()) for sample in inputs], how)
    if len(shape) == 4 and shape[1] in (1, 3) and min(shape) > 0:
        return SamplePictures([image_png(_as_bytes(sample.cpu().numpy())) for sample in inputs])
    return SamplePictures([None] * count)


def _as_bytes(image: NDArray[Any]) -> Bytes:
    """``[1 or 3, H, W]`` to uint8 ``[H, W, 3]``: 0 to 1 is black to white, any other range of numbers its own."""
    levels = image.astype(np.float32).repeat(3 // image.shape[0], axis=0).transpose(1, 2, 0)
    if image.dtype == np.uint8:
        return levels.astype(np.uint8)
    levels = np.nan_to_num(levels, posinf=0.0, neginf=0.0)
    low, high = min(0.0, float(levels.min())), float(levels.max())
    high = max(high, 1.0) if low == 0 else high
    return ((levels - low) / (high - low) * 255).round().astype(np.uint8)


def _fitted(image: NDArray[Any], side: int) -> Any:
    from PIL import Image

    found = Image.fromarray(np.ascontiguousarray(image, dtype=np.uint8)).convert("RGB")
    factor = side // max(found.size)
    if factor > 1:
        return found.resize((found.width * factor, found.height * factor), Image.Resampling.NEAREST)
    found.thumbnail((side, side), Image.Resampling.LANCZOS)
    return found


def _png(image: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


# --------------------------------------------------------------------------------------------------------------------
# Inside a page
# --------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Inlined:
    """A picture inside a page.

    Attributes:
        url: a data URL.
        width, height: in pixels.
    """

    url: str
    width: int
    height: int


def inlined(data: bytes, side: int) -> Inlined | None:
    """A picture file, its longer side at most ``side`` pixels; None where it cannot be read.

    A small PNG file stays as it is, all else becomes JPEG.
    """
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data)) as image:
            size = image.size
            if picture_format(data) == "png" and len(data) <= _MOST_PLAIN_BYTES and max(size) <= side:
                image.verify()
                return Inlined(_url("png", data), *size)
            if size[0] * size[1] > _MOST_PIXELS:
                return None
            small = image.convert("RGB")
    # A broken file can make a decoder raise nearly anything, and a large one is refused by an exception of its own.
    except Exception:
        return None
    small.thumbnail((side, side))
    stream = io.BytesIO()
    small.save(stream, "JPEG", quality=_JPEG_QUALITY)
    return Inlined(_url("jpeg", stream.getvalue()), *small.size)


def _url(kind: str, data: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
