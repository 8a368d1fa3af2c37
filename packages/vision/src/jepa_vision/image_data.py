"""Images as a data set: decoding by stated rules, random resized crops from the sample's seed, views for probes.

What becomes of a file, whatever its name says; every refusal is a ``BadSample`` and goes to quarantine:

- RGB stays; grayscale and two-coloured pictures are repeated over three channels; palettes are looked up;
- transparency is laid on white; CMYK, YCbCr, Lab and HSV are converted by Pillow without a colour profile;
- 16-bit gray keeps its upper 8 bits; the camera's orientation tag is applied;
- refused: what is no image or is truncated, animations and files of several pages, 32-bit integers and floats (their
  range is not known), pictures of over 178 million pixels, and sides longer than 32 times the other.
"""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from jepa_core.contracts import BadSample
from jepa_core.seeds import uniform
from jepa_vision.image_files import ImageList, Record

# Streams of the sample seeds.
_CROP_STREAM, _FLIP_STREAM = 311, 312
_CROP_TRIES = 10
_MOST_ELONGATED = 32

Box = tuple[float, float, float, float]


# --------------------------------------------------------------------------------------------------------------------
# Decoding
# --------------------------------------------------------------------------------------------------------------------


def decode(content: bytes | NDArray[np.uint8], name: str) -> Image.Image:
    """An RGB picture of a file's bytes or of an array; BadSample names what is wrong (see the head of this file)."""
    if isinstance(content, np.ndarray):
        return Image.fromarray(content).convert("RGB")
    try:
        with warnings.catch_warnings():
            # A picture so large that Pillow warns of it is refused before it is unpacked.
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            warnings.filterwarnings("ignore", category=UserWarning, module="PIL")
            with Image.open(io.BytesIO(content)) as image:
                _refuse(image, name)
                image.load()
                return _to_rgb(ImageOps.exif_transpose(image))
    except BadSample:
        raise
    except UnidentifiedImageError:
        raise BadSample(f"{name}: no image that can be read ({len(content)} bytes)") from None
    # A broken file can make a decoder raise nearly anything.
    except Exception as error:
        raise BadSample(f"{name}: broken or truncated: {type(error).__name__}: {error}") from None


def _refuse(image: Image.Image, name: str) -> None:
    frames = getattr(image, "n_frames", 1)
    # A photograph with an embedded preview (MPO) is a photograph.
    if frames > 1 and image.format != "MPO":
        raise BadSample(f"{name}: an animation or several pages ({frames} pictures), expected one picture")
    if image.mode in ("I", "F"):
        raise BadSample(f"{name}: pixels of 32 bits ({image.mode}), expected 8 or 16: their range is not known")
    short, long = sorted(image.size)
    if short < 1 or long > _MOST_ELONGATED * short:
        raise BadSample(f"{name}: {image.size[0]} x {image.size[1]} pixels, expected sides of at most 32 to 1")


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):
        upper = (np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8)
        return Image.fromarray(upper).convert("RGB")
    if image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")


# --------------------------------------------------------------------------------------------------------------------
# Views
# --------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Augment:
    """A random resized crop (arXiv 1409.4842) and flip.

    Attributes:
        scale: share of the picture's area that is cut out.
        aspect: width / height of the cut, times that of the wanted size.
        flip: chance of a left-right flip.
    """

    scale: tuple[float, float] = (0.3, 1.0)
    aspect: tuple[float, float] = (3 / 4, 4 / 3)
    flip: float = 0.0


def random_box(width: int, height: int, wanted: float, augment: Augment, seed: int) -> Box:
    """The cut ``(left, top, right, bottom)`` in pixels of a picture; ``wanted`` is the target's width / height.

    The first of ten draws that fits; if none does, the largest centred cut with an allowed aspect.
    """
    draws = uniform(torch.tensor([seed]), 4 * _CROP_TRIES, _CROP_STREAM)[0].view(_CROP_TRIES, 4).tolist()
    low, high = math.log(augment.aspect[0]), math.log(augment.aspect[1])
    for for_area, for_aspect, for_left, for_top in draws:
        area = width * height * (augment.scale[0] + for_area * (augment.scale[1] - augment.scale[0]))
        aspect = wanted * math.exp(low + for_aspect * (high - low))
        wide, tall = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < wide <= width and 0 < tall <= height:
            left, top = int(for_left * (width - wide + 1)), int(for_top * (height - tall + 1))
            return left, top, left + wide, top + tall
    return centre_box(width, height, min(max(width / height, wanted * augment.aspect[0]), wanted * augment.aspect[1]))


def centre_box(width: int, height: int, aspect: float) -> Box:
    """The largest centred cut whose width / height is ``aspect``."""
    wide, tall = min(width, height * aspect), min(height, width / aspect)
    left, top = (width - wide) / 2, (height - tall) / 2
    return left, top, left + wide, top + tall


def cut(image: Image.Image, box: Box, size: tuple[int, int]) -> NDArray[np.uint8]:
    """The cut resized to ``(height, width)`` with a smoothing bicubic filter, uint8 ``[H, W, 3]``."""
    return np.asarray(image.resize((size[1], size[0]), Image.Resampling.BICUBIC, box=box))


# --------------------------------------------------------------------------------------------------------------------
# The data set
# --------------------------------------------------------------------------------------------------------------------


class Images:
    """Images of a list, as training views or as plain centre cuts; keeps the contract ``SampleSource``.

    Args:
        records: which.
        size: ``(height, width)`` of what is loaded.
        augment: None = the centre cut.
    """

    def __init__(self, records: Sequence[Record], size: tuple[int, int], augment: Augment | None = None) -> None:
        if not records:
            raise ValueError("images: expected at least one, got none; look at data.root and its splits")
        self.records, self.size, self.augment = tuple(records), size, augment

    def __len__(self) -> int:
        return len(self.records)

    def sample_id(self, index: int) -> str:
        """The same on every machine."""
        return self.records[index].sample_id

    def load(self, index: int, seed: int) -> NDArray[np.uint8]:
        """uint8 ``[H, W, 3]``; all randomness from ``seed``."""
        record = self.records[index]
        image = decode(record.read(), record.sample_id)
        wanted = self.size[1] / self.size[0]
        if self.augment is None:
            return cut(image, centre_box(*image.size, wanted), self.size)
        view = cut(image, random_box(*image.size, wanted, self.augment, seed), self.size)
        flipped = float(uniform(torch.tensor([seed]), 1, _FLIP_STREAM)) < self.augment.flip
        return np.ascontiguousarray(view[:, ::-1]) if flipped else view

    def collate(self, samples: Sequence[NDArray[np.uint8]]) -> Tensor:
        """uint8 ``[B, 3, H, W]``."""
        return torch.from_numpy(np.stack(samples)).permute(0, 3, 1, 2).contiguous()


@dataclass(frozen=True)
class Splits:
    """Which images are trained on and which are held back.

    Attributes:
        train: for pre-training and for fitting the probe.
        test: never trained on; empty without classes.
        note: how they were chosen.
    """

    train: tuple[Record, ...]
    test: tuple[Record, ...]
    note: str


def split_images(images: ImageList, one_in: int) -> Splits:
    """The data's own test split if they have one; else, where classes are known, one image in ``one_in`` (0 = none).

    Images of a validation split are in neither: they are there to choose settings with.
    """
    test = tuple(record for record in images.records if record.split == "test")
    train = tuple(record for record in images.records if record.split in ("train", ""))
    if not train:
        raise ValueError("data.root: expected images to train on, got a test or validation split alone")
    if test:
        return Splits(train, test, "the data's own test split")
    if not images.classes or not one_in:
        return Splits(train, (), "nothing is held back")
    held = tuple(record for record in train if _hash(record.sample_id) % one_in == 0)
    kept = tuple(record for record in train if _hash(record.sample_id) % one_in)
    return Splits(kept, held, f"one image in {one_in}, by a hash of its name")


def _hash(name: str) -> int:
    return int.from_bytes(blake2b(name.encode(), digest_size=8).digest(), "little")
