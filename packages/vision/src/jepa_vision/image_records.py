"""One image that is not yet read, and a list of them: what every layout of files comes to."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SPLITS = {"train": "train", "val": "validation", "valid": "validation", "validation": "validation", "test": "test"}

# A file's bytes, a picture [H, W] or [H, W, 3], or a picture of Pillow's.
Content = bytes | NDArray[np.uint8] | Image.Image


@dataclass(frozen=True)
class Record:
    """One image, not yet read.

    Attributes:
        sample_id: the same on every machine: path relative to the root, or shard and key.
        read: gives the file's bytes or the picture.
        split: ``train``, ``validation``, ``test``, or empty where the data do not say.
        label: class number; None = not known.
    """

    sample_id: str
    read: Callable[[], Content]
    split: str = ""
    label: int | None = None


@dataclass(frozen=True)
class ImageList:
    """What a root holds.

    Attributes:
        records: in a fixed order.
        classes: class names by number; empty without labels.
        kind: how they lie there, for messages.
    """

    records: tuple[Record, ...]
    classes: tuple[str, ...]
    kind: str


def split_of(name: str) -> str:
    """The split that a shard, file or folder is named after, or empty."""
    return SPLITS.get(re.split(r"[-_.]", name.lower())[0], "")
