"""Which images a run trains on and which it holds back for the probe."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from jepa_core.data import splits
from jepa_core.data.splits import Choice
from jepa_vision.augment import Augment
from jepa_vision.image_data import Images, Splits, split_images
from jepa_vision.image_files import find_images
from jepa_vision.image_records import ImageList
from jepa_vision.settings import VisionRun

SAMPLE = "clothing10"
HELD_BACK_ONE_IN = 5
"""Where the data name no test split, one image in this many is held back, by a hash of its name."""


def choose_root(config: VisionRun) -> Choice:
    """``data.root``, then ``JEPA_DATA``/images/clothing10, then the sample in the package."""
    sample = Path(str(files("jepa_vision") / "samples" / SAMPLE))
    return splits.choose_root(config.data.root, f"images/{SAMPLE}", sample, "real photos of clothes")


def images_of(config: VisionRun) -> ImageList:
    """What the root holds."""
    return find_images(choose_root(config).root)


def splits_of(config: VisionRun, images: ImageList) -> Splits:
    """Trained on and held back; where the data name no test split, nothing is held back from a run without a probe."""
    return split_images(images, HELD_BACK_ONE_IN if config.probe.enabled else 0)


def training_source(config: VisionRun) -> Images:
    """The training views of a run."""
    train = splits_of(config, images_of(config)).train
    return Images(train, size_of(config), Augment.of(config.data.augment))


def size_of(config: VisionRun) -> tuple[int, int]:
    """Height and width of the input in pixels."""
    return config.data.height, config.data.width
