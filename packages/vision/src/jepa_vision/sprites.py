"""Generated clips: a real photo of a hand sign moves over a background, and the class is what moves how.

A clip has a place, an angle and a size; one of them changes, in one of two directions, and the motion is the class. A
clip of one class played backwards is a clip of the opposite class, equally likely: no frame, mean of frames or other
set of frames without their order tells the two apart. A clip is a pure function of its seed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib.resources import files
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from jepa_core.seeds import sample_seed
from jepa_vision.image_data import decode
from jepa_vision.image_files import find_images

SAMPLE = "sign_digits"
MOTIONS = ("right", "left", "down", "up", "clockwise", "counterclockwise", "grow", "shrink")
"""The classes, in pairs of opposite directions."""

# What is gone through from the first frame to the last: shares of the range of places and sizes, and of a full turn.
_TRAVEL = {"place": (0.4, 0.9), "angle": (0.15, 0.4), "size": (0.5, 1.0)}
_PLACES = (0.2, 0.8)  # of the photo's centre, as shares of width and height
_SIZES = (0.4, 0.9)  # diameter of the photo's disc as a share of the shorter side
_BLURRED = 0.5  # share of clips with a blurred photo behind, the others have a plain colour
_SOFT = 0.12  # width of the disc's soft rim as a share of its radius


@dataclass(frozen=True)
class Photos:
    """What clips are made of.

    Attributes:
        discs: RGBA, each photo with a soft round rim.
        colours: ``[P, 4, 4, 3]`` uint8, each photo blurred down to 4 x 4.
    """

    discs: tuple[Image.Image, ...]
    colours: NDArray[np.uint8]


@dataclass(frozen=True)
class State:
    """Where the photo is in one frame: x, y and size from 0 to 1 within their ranges, the angle in turns."""

    x: float
    y: float
    angle: float
    size: float


@lru_cache(maxsize=2)
def load_photos(split: str) -> Photos:
    """The photos of one side of the package's sample: ``train`` or ``test`` (mostly of other persons)."""
    records = find_images(Path(str(files("jepa_vision") / "samples" / SAMPLE))).records
    images = [decode(record.read(), record.sample_id) for record in records if record.split == split]
    small = [np.asarray(image.resize((4, 4), Image.Resampling.BOX)) for image in images]
    return Photos(tuple(_disc(image) for image in images), np.stack(small))


def _disc(image: Image.Image) -> Image.Image:
    """The photo inside its circle, transparent outside."""
    side = min(image.size)
    along = (np.arange(side) + 0.5) / side * 2 - 1
    radius = np.hypot(along[:, None], along[None, :])
    alpha = np.clip((1 - radius) / _SOFT, 0, 1)
    disc = image.crop((0, 0, side, side))
    disc.putalpha(Image.fromarray((alpha * 255).astype(np.uint8)))
    return disc


def path_of(motion: str, middle: State, travel: float, frames: int) -> list[State]:
    """The states of a clip whose ``motion`` goes through ``travel`` in equal steps, half of it before ``middle``."""
    steps = np.linspace(-travel / 2, travel / 2, frames) * (1 if motion in MOTIONS[::2] else -1)
    changing = _changing(motion)
    return [replace(middle, **{changing: getattr(middle, changing) + float(step)}) for step in steps]


def _changing(motion: str) -> str:
    return {"right": "x", "left": "x", "down": "y", "up": "y", "grow": "size", "shrink": "size"}.get(motion, "angle")


def _draw_path(motion: str, rng: np.random.Generator, frames: int) -> list[State]:
    """A path that stays within the ranges, anywhere in them."""
    at = dict(zip(("x", "y", "angle", "size"), rng.random(4).tolist(), strict=True))
    changing = _changing(motion)
    slow, fast = _TRAVEL["place" if changing in "xy" else changing]
    travel = slow + (fast - slow) * rng.random()
    if changing != "angle":
        at[changing] = travel / 2 + at[changing] * (1 - travel)
    return path_of(motion, State(**at), travel, frames)


def draw_frame(disc: Image.Image, background: NDArray[np.uint8], state: State) -> NDArray[np.uint8]:
    """One frame, uint8 ``[H, W, 3]``: the disc over the background."""
    height, width = background.shape[:2]
    small, large = _SIZES
    diameter = min(height, width) * small * (large / small) ** state.size
    x, y = (side * _within(_PLACES, at) for side, at in ((width, state.x), (height, state.y)))
    scale, turn = disc.width / diameter, 2 * math.pi * state.angle
    a, b = scale * math.cos(turn), scale * math.sin(turn)
    half = disc.width / 2
    # Pillow asks for the way from a pixel of the result to one of the photo.
    matrix = (a, b, half - a * x - b * y, -b, a, half + b * x - a * y)
    layer = np.asarray(disc.transform((width, height), Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR))
    alpha = layer[..., 3:].astype(np.uint16)
    mixed = (layer[..., :3] * alpha + background * (255 - alpha) + 127) // 255
    return mixed.astype(np.uint8)


def _within(bounds: tuple[float, float], share: float) -> float:
    return bounds[0] + share * (bounds[1] - bounds[0])


def draw_clip(photos: Photos, motion: str, seed: int, frames: int, size: tuple[int, int]) -> NDArray[np.uint8]:
    """A clip, uint8 ``[T, H, W, 3]``; photo and background follow from ``seed`` alone, never from the motion."""
    rng = np.random.Generator(np.random.PCG64(seed))
    disc = photos.discs[int(rng.integers(len(photos.discs)))]
    behind, blurred, plain = int(rng.integers(len(photos.colours))), rng.random(), rng.integers(0, 256, 3)
    if blurred < _BLURRED:
        colours = Image.fromarray(photos.colours[behind])
        background = np.asarray(colours.resize((size[1], size[0]), Image.Resampling.BICUBIC))
    else:
        background = np.broadcast_to(plain.astype(np.uint8), (*size, 3))
    return np.stack([draw_frame(disc, background, state) for state in _draw_path(motion, rng, frames)])


class SpriteClips:
    """Clips made when they are asked for; keeps the contract ``SampleSource``.

    Clip ``i`` has motion ``i % 8``. With ``fixed`` None a clip follows from the loader's seed, so that each epoch
    brings new ones; else from ``fixed`` and its index alone.

    Args:
        count: clips of an epoch.
        size: ``(height, width)``.
        frames: of a clip.
        split: whose photos: ``train`` or ``test``.
        fixed: names a set of clips that stays the same, for probes.
    """

    def __init__(
        self, count: int, size: tuple[int, int], frames: int, split: str = "train", fixed: str | None = None
    ) -> None:
        self.count, self.size, self.frames, self.split, self.fixed = count, size, frames, split, fixed

    def __len__(self) -> int:
        return self.count

    def sample_id(self, index: int) -> str:
        """The same on every machine."""
        return f"generated-{self.fixed or self.split}-{index:06d}"

    def label(self, index: int) -> int:
        """Index into :data:`MOTIONS`."""
        return index % len(MOTIONS)

    def load(self, index: int, seed: int) -> NDArray[np.uint8]:
        """uint8 ``[T, H, W, 3]``."""
        own = seed if self.fixed is None else sample_seed(0, 0, self.sample_id(index))
        return draw_clip(load_photos(self.split), MOTIONS[self.label(index)], own, self.frames, self.size)

    def collate(self, samples: Sequence[NDArray[np.uint8]]) -> Tensor:
        """uint8 ``[B, 3, T, H, W]``."""
        return torch.from_numpy(np.stack(samples)).permute(0, 4, 1, 2, 3).contiguous()
