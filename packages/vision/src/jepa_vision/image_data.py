"""Images as a data set: decoding by stated rules, training views from the sample's seed, centre cuts for probes.

What becomes of a file, whatever its name says; every refusal is a ``BadSample`` and goes to quarantine:

- RGB stays; grayscale and two-coloured pictures are repeated over three channels; palettes are looked up;
- transparency is laid on white; CMYK, YCbCr, Lab and HSV are converted by Pillow without a colour profile;
- 16-bit gray keeps its upper 8 bits; the camera's orientation tag is applied;
- a JPEG of which the cut is at least four times as large as what is wanted, in both directions, is decoded at a half, a
  quarter or an eighth of its size, so that the cut stays at least twice as large;
- refused: what is no image or is truncated, animations and files of several pages, 32-bit integers and floats (their
  range is not known), pictures of over 89 million pixels, and sides longer than 32 times the other.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from jepa_core.contracts import BadSample
from jepa_core.data import splits
from jepa_core.data.records import Records
from jepa_core.data.splits import held_back
from jepa_vision.augment import Augment, Box, centre_box, colour, cut, flips, random_box
from jepa_vision.image_records import Content, ImageList, Record

_MOST_ELONGATED = 32
# How much larger than wanted a cut stays when a JPEG is decoded smaller than it is.
_SPARE = 2


# --------------------------------------------------------------------------------------------------------------------
# Decoding
# --------------------------------------------------------------------------------------------------------------------


def decode(content: Content, name: str) -> Image.Image:
    """An RGB picture of a file's bytes, an array or a picture; BadSample names what is wrong (see the file's head)."""
    with _strict_warnings():
        return _pixels(_open(content, name), name)


def decode_cut(
    content: Content, name: str, choose: Callable[[int, int], Box], size: tuple[int, int]
) -> NDArray[np.uint8]:
    """A cut of :func:`decode` in the wanted size, without decoding more of a large JPEG than that needs.

    Args:
        content, name: as for :func:`decode`.
        choose: ``(width, height)`` of the upright picture to the cut's box in its pixels.
        size: ``(height, width)`` wanted.

    Returns:
        uint8 ``[height, width, 3]``.
    """
    with _strict_warnings():
        image = _open(content, name)
        upright = _upright(image, name)
        box = choose(upright.width, upright.height)
        part = _shrink(image, box, size) if isinstance(content, bytes) else 1
        return _cut_part(_pixels(image, name), upright, box, part, size)


@contextmanager
def _strict_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        # A picture so large that Pillow warns of it is refused before it is unpacked.
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        warnings.filterwarnings("ignore", category=UserWarning, module="PIL")
        yield


@contextmanager
def _bad_samples(name: str) -> Iterator[None]:
    try:
        yield
    except BadSample:
        raise
    except UnidentifiedImageError:
        raise BadSample(f"{name}: no image that can be read") from None
    # A broken file can make a decoder raise nearly anything.
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise BadSample(f"{name}: broken or truncated: {reason}") from None


def _open(content: Content, name: str) -> Image.Image:
    """The picture before its pixels are decoded, unless it is one that is refused."""
    with _bad_samples(name):
        if isinstance(content, bytes):
            image: Image.Image = Image.open(io.BytesIO(content))
        else:
            image = Image.fromarray(content) if isinstance(content, np.ndarray) else content
        _refuse(image, name)
        # Somebody else's picture is not to be turned upright in place: this is a copy.
        return ImageOps.exif_transpose(image) if isinstance(content, Image.Image) else image


def _refuse(image: Image.Image, name: str) -> None:
    frames = getattr(image, "n_frames", 1)
    # A photograph with an embedded preview (MPO) is a photograph.
    if frames > 1 and image.format != "MPO":
        raise BadSample(f"{name}: an animation or several pages ({frames} pictures), expected one picture")
    # Pillow gives a PGM of 16 bits as 32, of which the lower 16 are used.
    if image.mode in ("I", "F") and (image.mode, image.format) != ("I", "PPM"):
        raise BadSample(f"{name}: pixels of 32 bits ({image.mode}), expected 8 or 16: their range is not known")
    short, long = sorted(image.size)
    if short < 1 or long > _MOST_ELONGATED * short:
        raise BadSample(f"{name}: {image.size[0]} x {image.size[1]} pixels, expected sides of at most 32 to 1")


@dataclass(frozen=True)
class _Upright:
    """A picture as it will be when the orientation tag is applied.

    Attributes:
        width, height: of the upright picture in pixels.
        tag: 1 to 8; 1 where there is none.
    """

    width: int
    height: int
    tag: int


def _upright(image: Image.Image, name: str) -> _Upright:
    with _bad_samples(name):
        tag = image.getexif().get(ExifTags.Base.Orientation, 1)
    lies = tag in (5, 6, 7, 8)
    return _Upright(image.height, image.width, tag) if lies else _Upright(image.width, image.height, tag)


def _cut_part(picture: Image.Image, upright: _Upright, box: Box, part: int, size: tuple[int, int]) -> NDArray[np.uint8]:
    """The cut of a picture decoded at 1 / ``part`` of its size; ``box`` is in pixels of the whole one.

    A side that ``part`` does not divide is rounded up, and the spare pixel lies at the file's right and bottom: at the
    left or the top once the picture is turned.
    """
    if part == 1:
        return cut(picture, box, size)
    x = picture.width - upright.width / part if upright.tag in (2, 3, 6, 7) else 0.0
    y = picture.height - upright.height / part if upright.tag in (3, 4, 7, 8) else 0.0
    left, top, right, bottom = (edge / part for edge in box)
    return cut(picture, (left + x, top + y, right + x, bottom + y), size)


def _shrink(image: Image.Image, box: Box, size: tuple[int, int]) -> int:
    """Has a large JPEG decoded at 1/2, 1/4 or 1/8 of its size where the cut allows it; the divisor, 1 for whole."""
    left, top, right, bottom = box
    room = min((bottom - top) / size[0], (right - left) / size[1]) / _SPARE
    part = next((part for part in (8, 4, 2) if part <= room), 1)
    if part == 1 or image.format not in ("JPEG", "MPO"):
        return 1
    # A box measured on the upright picture and a size of the one that may lie: the divisor is the same in both axes.
    before = image.width
    image.draft(None, (image.width // part, image.height // part))
    return part if image.width < before else 1


def _pixels(image: Image.Image, name: str) -> Image.Image:
    with _bad_samples(name):
        image.load()
        ImageOps.exif_transpose(image, in_place=True)
        return _to_rgb(image)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode.startswith("I"):
        upper = (np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8)
        return Image.fromarray(upper).convert("RGB")
    if image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")


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
        self.records, self.size, self.augment = Records.of(records), size, augment

    def __len__(self) -> int:
        return len(self.records)

    def sample_id(self, index: int) -> str:
        """The same on every machine."""
        return self.records.sample_id(index)

    def load(self, index: int, seed: int) -> NDArray[np.uint8]:
        """uint8 ``[H, W, 3]``; all randomness from ``seed``."""
        record, augment = self.records[index], self.augment
        wanted = self.size[1] / self.size[0]

        def choose(width: int, height: int) -> Box:
            if augment is None:
                return centre_box(width, height, wanted)
            return random_box(width, height, wanted, augment, seed)

        view = decode_cut(record.read(), record.sample_id, choose, self.size)
        if augment is None:
            return view
        if flips(augment, seed):
            view = np.ascontiguousarray(view[:, ::-1])
        return colour(view, augment, seed)

    def collate(self, samples: Sequence[NDArray[np.uint8]]) -> Tensor:
        """uint8 ``[B, 3, H, W]``."""
        return torch.from_numpy(np.stack(samples)).permute(0, 3, 1, 2).contiguous()


Splits = splits.Splits[Content]


def split_images(images: ImageList, one_in: int) -> Splits:
    """The data's own test split if they have one; else, where classes are known, one image in ``one_in`` (0 = none).

    A test split without a single label cannot be tested on and is left out, as if the data had none. Images of a
    validation split are in neither: they are there to choose settings with.
    """
    test = images.records.where(images.records.in_split("test"))
    train = images.records.where(images.records.in_split("train", ""))
    if not train:
        raise ValueError("data.root: expected images to train on, got a test or validation split alone")
    if test and (not images.classes or bool((test.labels >= 0).any())):
        return Splits(train, test, "the data's own test split")
    if not images.classes or not one_in:
        return Splits(train, train[:0], "nothing is held back")
    held = held_back(train, one_in)
    return Splits(train.where(~held), train.where(held), f"one image in {one_in}, by a hash of its name")
