"""Generated clips: a real photo of a hand sign moves over a background, and the class is what moves how.

A clip has a place, an angle and a size; one of them changes, in one of two directions, and the motion is the class.
All three are periodic (what leaves on one side comes in on the other, sizes start anew) and begin anywhere with equal
chance. So each single frame looks the same for every class, and the mean frame tells at most which axis moves, never the
direction. A clip is a pure function of its seed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
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

# Shares of a period that are gone through from the first frame to the last: of the width or height, of a full turn, of
# the way from the smallest size to the largest.
_TRAVEL = {"place": (0.25, 0.6), "angle": (0.15, 0.4), "size": (0.5, 0.9)}
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
    """Where the photo is in one frame, each from 0 to 1 around its period: x, y, angle, size."""

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


def path_of(motion: str, start: State, travel: float, frames: int) -> list[State]:
    """The states of a clip whose ``motion`` goes through ``travel`` of its period, in equal steps."""
    steps = np.linspace(0.0, travel, frames) if frames > 1 else np.zeros(1)
    forward = motion in MOTIONS[::2]
    moved = [float(step if forward else -step) for step in steps]
    x, y, angle, size = ([value] * frames for value in (start.x, start.y, start.angle, start.size))
    if motion in ("right", "left"):
        x = [(start.x + step) % 1 for step in moved]
    elif motion in ("down", "up"):
        y = [(start.y + step) % 1 for step in moved]
    elif motion in ("clockwise", "counterclockwise"):
        angle = [(start.angle + step) % 1 for step in moved]
    else:
        size = [(start.size + step) % 1 for step in moved]
    return [State(*values) for values in zip(x, y, angle, size, strict=True)]


def _travel_of(motion: str) -> tuple[float, float]:
    kind = "place" if motion in MOTIONS[:4] else "angle" if motion in MOTIONS[4:6] else "size"
    return _TRAVEL[kind]


def draw_frame(disc: Image.Image, background: NDArray[np.uint8], state: State) -> NDArray[np.uint8]:
    """One frame, uint8 ``[H, W, 3]``: the disc over the background; what leaves on one side comes in on the other."""
    height, width = background.shape[:2]
    small, large = _SIZES
    diameter = min(height, width) * small * (large / small) ** state.size
    x, y = state.x * width, state.y * height
    # Drawn in the middle, with the part of a pixel, then rolled by whole pixels.
    rolled = (round(y - height / 2), round(x - width / 2))
    middle = (x - rolled[1], y - rolled[0])
    scale, turn = disc.width / diameter, 2 * math.pi * state.angle
    a, b = scale * math.cos(turn), scale * math.sin(turn)
    half = disc.width / 2
    # Pillow asks for the way from a pixel of the result to one of the photo.
    matrix = (a, b, half - a * middle[0] - b * middle[1], -b, a, half + b * middle[0] - a * middle[1])
    drawn = disc.transform((width, height), Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR)
    layer = np.roll(np.asarray(drawn), rolled, axis=(0, 1))
    alpha = layer[..., 3:].astype(np.uint16)
    mixed = (layer[..., :3] * alpha + background * (255 - alpha) + 127) // 255
    return mixed.astype(np.uint8)


def draw_clip(photos: Photos, motion: str, seed: int, frames: int, size: tuple[int, int]) -> NDArray[np.uint8]:
    """A clip, uint8 ``[T, H, W, 3]``; photo, background, start and speed come from ``seed``, never from the motion."""
    rng = np.random.Generator(np.random.PCG64(seed))
    disc = photos.discs[int(rng.integers(len(photos.discs)))]
    behind, blurred, plain = int(rng.integers(len(photos.colours))), rng.random(), rng.integers(0, 256, 3)
    start, speed = State(*(float(value) for value in rng.random(4))), rng.random()
    if blurred < _BLURRED:
        colours = Image.fromarray(photos.colours[behind])
        background = np.asarray(colours.resize((size[1], size[0]), Image.Resampling.BICUBIC)).astype(np.uint16)
    else:
        background = np.broadcast_to(plain.astype(np.uint16), (*size, 3))
    slow, fast = _travel_of(motion)
    path = path_of(motion, start, slow + (fast - slow) * speed, frames)
    return np.stack([draw_frame(disc, background, state) for state in path])


class SpriteClips:
    """Clips made when they are asked for; keeps the contract ``SampleSource``.

    Clip ``i`` has motion ``i % 8``. With ``fixed`` None a clip follows from the loader's seed, so that each epoch brings
    new ones; else from ``fixed`` and its index alone.

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
