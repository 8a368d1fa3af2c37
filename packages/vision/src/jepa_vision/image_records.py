"""One image that is not yet read, and a list of them: the records of the core with pictures for content."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from jepa_core.data.media import Media, read_whole
from jepa_core.data.records import Record as AnyRecord
from jepa_core.data.records import RecordList as AnyRecordList

# A file's bytes, a picture [H, W] or [H, W, 3], or a picture of Pillow's.
Content = bytes | NDArray[np.uint8] | Image.Image
Record = AnyRecord[Content]
ImageList = AnyRecordList[Content]

EXTENSIONS = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"})


def is_picture(value: Any) -> bool:
    """Whether a row of a table holds a picture that needs no reading."""
    return isinstance(value, Image.Image) or (isinstance(value, np.ndarray) and value.dtype == np.uint8)


IMAGES: Media[Content] = Media(
    one="an image",
    many="images",
    extensions=EXTENSIONS,
    file=read_whole,
    column="image",
    feature="Image",
    beside=frozenset({".cls"}),
    is_content=is_picture,
)
