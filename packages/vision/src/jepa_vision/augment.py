"""Training views of pictures and clips: random resized crops, flips, colour and blur, from the sample's seed alone."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance, ImageFilter

from jepa_core.seeds import draws
from jepa_vision.settings import AugmentSettings

# Streams of the sample seeds.
_CROP_STREAM, _FLIP_STREAM, _COLOUR_STREAM = 311, 312, 313
_CROP_TRIES = 10
_BLUR_PIXELS = (0.1, 2.0)

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Augment:
    """A random resized crop (arXiv 1409.4842), a flip, then colour and blur (SimCLR, arXiv 2002.05709, appendix A).

    Attributes:
        scale: share of the picture's area that is cut out.
        aspect: width / height of the cut, times that of the wanted size.
        flip: chance of a left-right flip.
        brightness, contrast, saturation: b gives a factor from 1 - b to 1 + b.
        hue: h turns the colours by -h to h of the circle.
        gray: chance that colours are taken away.
        blur: chance of a Gaussian blur of 0.1 to 2 pixels' width, whatever the size.
    """

    scale: tuple[float, float] = (0.3, 1.0)
    aspect: tuple[float, float] = (3 / 4, 4 / 3)
    flip: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0
    gray: float = 0.0
    blur: float = 0.0

    @classmethod
    def of(cls, wanted: AugmentSettings) -> Augment:
        """What ``data.augment`` asks for."""
        return cls(
            scale=(wanted.scale_min, wanted.scale_max),
            aspect=(wanted.aspect_min, wanted.aspect_max),
            flip=wanted.flip,
            brightness=wanted.brightness,
            contrast=wanted.contrast,
            saturation=wanted.saturation,
            hue=wanted.hue,
            gray=wanted.gray,
            blur=wanted.blur,
        )


# --------------------------------------------------------------------------------------------------------------------
# Where
# --------------------------------------------------------------------------------------------------------------------


def random_box(width: int, height: int, wanted: float, augment: Augment, seed: int) -> Box:
    """The cut ``(left, top, right, bottom)`` in pixels of a picture; ``wanted`` is the target's width / height.

    The first of ten draws that fits; if none does, the largest centred cut with an allowed aspect.
    """
    draw = draws(seed, _CROP_STREAM)
    low, high = math.log(augment.aspect[0]), math.log(augment.aspect[1])
    for _ in range(_CROP_TRIES):
        for_area, for_aspect, for_left, for_top = next(draw), next(draw), next(draw), next(draw)
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


def flips(augment: Augment, seed: int) -> bool:
    """Whether this sample is mirrored."""
    return next(draws(seed, _FLIP_STREAM)) < augment.flip


# --------------------------------------------------------------------------------------------------------------------
# Colour
# --------------------------------------------------------------------------------------------------------------------


def colour(view: NDArray[np.uint8], augment: Augment, seed: int) -> NDArray[np.uint8]:
    """A view with other colours, blurred or not; the very same one where the settings ask for neither.

    Brightness, contrast, saturation and hue come in an order that is drawn too, then gray, then blur. Contrast is
    that around the view's mean gray. All frames of a clip are changed alike.

    Args:
        view: uint8 ``[H, W, 3]`` or a clip ``[T, H, W, 3]``.
        augment: see there.
        seed: of the sample, the only source of randomness.

    Returns:
        uint8 of the same shape.
    """
    if not any((augment.brightness, augment.contrast, augment.saturation, augment.hue, augment.gray, augment.blur)):
        return view
    draw = draws(seed, _COLOUR_STREAM)
    amounts = [next(draw) for _ in range(4)]
    places = [next(draw) for _ in range(4)]
    gray, blurred, width = (next(draw) for _ in range(3))
    limits = augment.brightness, augment.contrast, augment.saturation, augment.hue
    steps = [step for step in sorted(range(4), key=places.__getitem__) if limits[step]]
    grays, blurs = gray < augment.gray, blurred < augment.blur
    if steps or grays:
        # A clip is one tall picture here, so that nothing is done to one frame alone.
        image = Image.fromarray(view.reshape(-1, *view.shape[-2:]))
        for step in steps:
            image = _STEPS[step](image, limits[step] * (2 * amounts[step] - 1))
        image = image.convert("L").convert("RGB") if grays else image
        view = np.asarray(image).reshape(view.shape)
    if blurs:
        view = _blur(view, _BLUR_PIXELS[0] + width * (_BLUR_PIXELS[1] - _BLUR_PIXELS[0]))
    return view


def _brightness(image: Image.Image, change: float) -> Image.Image:
    return ImageEnhance.Brightness(image).enhance(1 + change)


def _contrast(image: Image.Image, change: float) -> Image.Image:
    return ImageEnhance.Contrast(image).enhance(1 + change)


def _saturation(image: Image.Image, change: float) -> Image.Image:
    return ImageEnhance.Color(image).enhance(1 + change)


def _hue(image: Image.Image, turn: float) -> Image.Image:
    hue, saturation, value = image.convert("HSV").split()
    shift = round(turn * 256)
    hue = hue.point([(level + shift) % 256 for level in range(256)])
    return Image.merge("HSV", (hue, saturation, value)).convert("RGB")


_STEPS = (_brightness, _contrast, _saturation, _hue)


def _blur(view: NDArray[np.uint8], width: float) -> NDArray[np.uint8]:
    """A Gaussian of ``width`` pixels, frame by frame: it must not run from one into the next."""
    frames = view.reshape(-1, *view.shape[-3:])
    blur = ImageFilter.GaussianBlur(width)
    return np.stack([np.asarray(Image.fromarray(frame).filter(blur)) for frame in frames]).reshape(view.shape)
