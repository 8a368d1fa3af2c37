"""Finding images: folders, tar shards, arrays and tables, with known classes and splits; nothing is decoded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jepa_core.data.archives import read_npz
from jepa_core.data.find import find_media
from jepa_core.data.media import Columns
from jepa_core.data.media_folders import files_of
from jepa_core.data.records import RecordPacker, split_of, unnamed_classes
from jepa_core.data.saved_datasets import records_of_dataset
from jepa_core.data.shards import shards_of
from jepa_vision.image_records import EXTENSIONS, IMAGES, ImageList


def find_images(root: str | Path) -> ImageList:
    """The images of a root.

    - a folder with tar shards (``<split>-0000.tar``, ``.tar.gz``): images with ``<key>.cls`` beside them, class names
      in ``classes.txt``;
    - an ``.npz`` file, or a folder of them (``<split>.npz``): ``images`` uint8 ``[N, H, W]`` or ``[N, H, W, 3]`` and
      perhaps ``labels`` ``[N]``;
    - a ``.parquet`` file, or a folder of them (``<split>-*.parquet``), see
      :func:`jepa_core.data.tables.list_parquet`;
    - a folder that ``Dataset.save_to_disk`` of the package ``datasets`` wrote;
    - any other folder: every image file below it. A first folder named train, val, validation or test is its split;
      classes are those of ``labels.csv`` (columns ``file``, ``label``, perhaps ``split``), ``metadata.csv`` or
      ``meta.csv``, or the folders that hold the images where every image lies in one and there are at least two; see
      :func:`jepa_core.data.media_folders.labelled`;
    - one image file.

    Raises:
        ValueError: no such folder or file, or no image in it.
    """
    path = Path(root)
    if not path.exists():
        raise ValueError(
            f"data.root: expected a folder of images, tar shards, an .npz or a .parquet file, got {str(root)!r}: none"
        )
    arrays = [] if shards_of(path) else files_of(path, lambda name: name.endswith(".npz"))
    found = _list_arrays(arrays) if arrays else find_media(path, IMAGES, Columns())
    if not found.records:
        raise ValueError(
            f"data.root: expected images ({', '.join(sorted(EXTENSIONS))}), tar shards, .npz or .parquet files in "
            f"{str(root)!r}, got none"
        )
    return found


def images_from_dataset(
    dataset: Any, split: str = "", image_column: str = "image", label_column: str = "label"
) -> ImageList:
    """The images of a ``datasets.Dataset`` in memory, for :class:`jepa_vision.image_data.Images`.

    ``Images(images_from_dataset(dataset).records, (224, 224), Augment())`` is a source of training views; a run from
    the command line takes a folder that ``dataset.save_to_disk`` wrote as ``data.root``.

    Args:
        dataset: has ``len``, ``dataset[i]`` (a mapping by column) and ``features``. Image features are read without
            their own decoding, so that the rules of :mod:`jepa_vision.image_data` hold; a format or transform that was
            set on the dataset is not applied.
        split: name of the split, ``train``, ``validation`` or ``test``; others count as training data.
        image_column: images as a feature, as encoded bytes, as uint8 arrays or as pictures of Pillow's.
        label_column: whole numbers (-1 = not known), named by a ClassLabel where it is one, or strings; a dataset
            without the column ``label`` has no classes.

    Raises:
        ValueError: no such column.
    """
    columns = Columns() if label_column == "label" else Columns.of(label_column)
    return records_of_dataset(dataset, IMAGES, columns, split, image_column)


# --------------------------------------------------------------------------------------------------------------------
# Arrays
# --------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Row:
    """One picture of an array."""

    images: NDArray[np.uint8]
    place: int

    def __call__(self) -> NDArray[np.uint8]:
        return self.images[self.place]


@dataclass(frozen=True)
class _Rows:
    """The pictures of arrays.

    Attributes:
        images: of each array.
        ends: int64 ``[A]``, pictures up to the end of each.
    """

    images: tuple[NDArray[np.uint8], ...]
    ends: NDArray[np.int64]

    def reader(self, row: int, sample_id: str) -> _Row:
        """What reads a picture, counted over all arrays."""
        place = int(np.searchsorted(self.ends, row, side="right"))
        return _Row(self.images[place], row - (int(self.ends[place - 1]) if place else 0))


def _list_arrays(files: Sequence[Path]) -> ImageList:
    packer, found = RecordPacker(), []
    for path in files:
        images, labels = _load_arrays(path)
        found.append(images)
        for place in range(len(images)):
            label = None if labels is None else int(labels[place])
            packer.add(f"{path.stem}/{place:08d}", split_of(path.stem), label)
    records = packer.packed(_Rows(tuple(found), np.cumsum([len(images) for images in found])))
    return ImageList(records, unnamed_classes(records.labels, str(files[0].parent)), "arrays")


def _load_arrays(path: Path) -> tuple[NDArray[np.uint8], NDArray[np.int64] | None]:
    found = read_npz(path, lambda name: name in ("images", "labels"))
    images = found.get("images")
    if (
        images is None
        or images.dtype != np.uint8
        or not (images.ndim == 3 or (images.ndim == 4 and images.shape[3] == 3))
    ):
        got = "none" if images is None else f"{images.dtype} {list(images.shape)}"
        raise ValueError(f"{path}: expected images uint8 [N, H, W] or [N, H, W, 3], got {got}")
    labels = found.get("labels")
    if labels is None:
        return images, None
    if labels.shape != (len(images),) or labels.dtype.kind not in "iu" or (len(labels) and labels.min() < 0):
        raise ValueError(
            f"{path}: expected labels as whole numbers [{len(images)}] from 0, got {labels.dtype} {list(labels.shape)}"
        )
    return images, labels.astype(np.int64)
