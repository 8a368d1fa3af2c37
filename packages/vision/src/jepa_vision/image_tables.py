"""Finding images in tables: Parquet files as the Hugging Face Hub has them, ``datasets`` objects and folders."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from jepa_core.contracts import BadSample
from jepa_vision.image_records import Content, ImageList, Record, split_of

HELD_BYTES = 256 * 2**20
"""Row groups that a process keeps after reading them."""
LARGEST_GROUP_BYTES = 2**30
_SAVED_ONE, _SAVED_MANY = "dataset_info.json", "dataset_dict.json"

Label = int | str | None


# --------------------------------------------------------------------------------------------------------------------
# Parquet
# --------------------------------------------------------------------------------------------------------------------


def parquet_files(path: Path) -> list[Path]:
    """A ``.parquet`` file, or those of a folder and of its folders (``data/``, ``train/``), less metadata.parquet."""
    if path.is_dir():
        found = [*path.glob("*.parquet"), *path.glob("*/*.parquet")]
        return sorted(file for file in found if file.name != "metadata.parquet")
    return [path] if path.suffix == ".parquet" else []


def list_parquet(root: Path, files: Sequence[Path]) -> ImageList:
    """The images of Parquet files; only their labels are read.

    - The image is the column ``image``, else the only one whose feature is an image: a struct with ``bytes``, or
      binary. The label is the column ``label``, else the only one that is a ClassLabel.
    - Labels are whole numbers (-1 = not known), named by the ClassLabel in the schema where there is one, or strings.
    - A split is the first word of the file's name or, where that is none, the name of its folder.

    An image is read with the whole row group it lies in, of which each process keeps 256 MiB (at least one group): sets
    within that are read from the disk once. Larger ones are read again and again, one group for each image: write them
    with small groups, or as tar shards or by ``Dataset.save_to_disk``, where an image is read alone.

    Raises:
        ValueError: a file that cannot be read, without such columns, or with a row group above 1 GiB.
    """
    groups = RowGroups()
    tables = [_open_table(file) for file in files]
    names = {table.names for table in tables}
    if len(names) > 1:
        raise ValueError(f"{root}: expected the same class names in all Parquet files, got {len(names)} lists")
    labels = [label for table in tables for label in table.labels()]
    classes, numbers = number_labels(labels, next(iter(names)), str(root))
    places = (place for table in tables for place in table.places(root, groups))
    records = [
        Record(sample_id, row, split, label) for (sample_id, split, row), label in zip(places, numbers, strict=True)
    ]
    return ImageList(tuple(records), classes, "Parquet tables")


@dataclass(frozen=True)
class _Table:
    """One Parquet file.

    Attributes:
        path: the file.
        groups: rows of each row group.
        image: what to read of it, ``image.bytes`` of a struct.
        label: column; None = there is none.
        names: class names; None = not known.
    """

    path: Path
    groups: tuple[int, ...]
    image: str
    label: str | None
    names: tuple[str, ...] | None

    def labels(self) -> list[Label]:
        """Of each row."""
        if self.label is None:
            return [None] * sum(self.groups)
        import pyarrow.parquet

        with pyarrow.parquet.ParquetFile(self.path) as file:
            found: list[Label] = file.read(columns=[self.label], use_threads=False).column(0).to_pylist()
        return found

    def places(self, root: Path, groups: RowGroups) -> Iterator[tuple[str, str, _Row]]:
        """Sample id, split and place of each row."""
        split = split_of(self.path.name)
        folder = self.path.parent.name if self.path.parent != root else ""
        inside = self.path.relative_to(root).with_suffix("") if root.is_dir() else Path(self.path.stem)
        count = 0
        for group, rows in enumerate(self.groups):
            for row in range(rows):
                yield f"{inside.as_posix()}/{count:08d}", split or split_of(folder), _Row(groups, self, group, row)
                count += 1


class RowGroups:
    """Reads row groups and keeps the last ones, up to :data:`HELD_BYTES` and at least one; a process has its own."""

    def __init__(self) -> None:
        self._held: OrderedDict[tuple[Path, int], Any] = OrderedDict()
        self._footers: dict[Path, Any] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Nothing that is held goes to a loader process."""
        return {"_held": OrderedDict(), "_footers": {}}

    def column(self, table: _Table, group: int) -> Any:
        """The images of a row group, an Arrow column."""
        key = (table.path, group)
        if key not in self._held:
            import pyarrow.parquet

            with pyarrow.parquet.ParquetFile(table.path, metadata=self._footers.get(table.path)) as file:
                self._footers[table.path] = file.metadata
                self._held[key] = file.read_row_group(group, columns=[table.image], use_threads=False).column(0)
            while len(self._held) > 1 and sum(column.nbytes for column in self._held.values()) > HELD_BYTES:
                self._held.popitem(last=False)
        self._held.move_to_end(key)
        return self._held[key]


@dataclass(frozen=True)
class _Row:
    """One image of a Parquet file."""

    groups: RowGroups
    table: _Table
    group: int
    row: int

    def __call__(self) -> bytes:
        import pyarrow

        try:
            value = self.groups.column(self.table, self.group)[self.row].as_py()
        except (OSError, pyarrow.ArrowException) as error:
            raise BadSample(f"{self.table.path}, row group {self.group}: cannot be read: {error}") from None
        content = value.get("bytes") if isinstance(value, dict) else value
        if content is None:
            raise BadSample(f"{self.table.path}, row group {self.group}, row {self.row}: no image bytes in the table")
        return bytes(content)


def _open_table(path: Path) -> _Table:
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            metadata, schema = file.metadata, file.schema_arrow
        features = _features(schema.metadata)
    except (OSError, ValueError, pyarrow.ArrowException) as error:
        raise ValueError(f"{path}: expected a whole Parquet file, got {error}; copy it again") from None
    groups = [metadata.row_group(group) for group in range(metadata.num_row_groups)]
    for size in (group.total_byte_size for group in groups):
        if size > LARGEST_GROUP_BYTES:
            raise ValueError(
                f"{path}: expected row groups of at most 1 GiB, got {size / 2**30:.1f} GiB: an image is read with its "
                "whole group; write the file again with row_group_size=100"
            )
    image = _only_column(path, features, schema.names, "image", "Image")
    if image is None:
        raise ValueError(f"{path}: expected a column image, got {', '.join(schema.names) or 'no column'}")
    label = _only_column(path, features, schema.names, "label", "ClassLabel")
    names = features.get(label or "", {}).get("names")
    return _Table(
        path,
        tuple(group.num_rows for group in groups),
        _bytes_of(path, schema.field(image)),
        label,
        None if names is None else tuple(names),
    )


def _features(metadata: Mapping[bytes, bytes] | None) -> dict[str, dict[str, Any]]:
    """What ``datasets`` wrote into the schema: feature by column."""
    written = json.loads((metadata or {}).get(b"huggingface", b"{}"))
    features = written.get("info", {}).get("features", {})
    return {name: feature for name, feature in features.items() if isinstance(feature, dict)}


def _only_column(
    path: Path, features: Mapping[str, Mapping[str, Any]], columns: Sequence[str], usual: str, kind: str
) -> str | None:
    if usual in columns:
        return usual
    found = [name for name in columns if features.get(name, {}).get("_type") == kind]
    if len(found) > 1:
        raise ValueError(f"{path}: expected a column {usual} or one {kind} feature, got {', '.join(found)}; rename one")
    return found[0] if found else None


def _bytes_of(path: Path, field: Any) -> str:
    from pyarrow import types

    def binary(kind: Any) -> bool:
        return bool(types.is_binary(kind) or types.is_large_binary(kind))

    if types.is_struct(field.type):
        parts = {part.name: part.type for part in field.type}
        if "bytes" in parts and binary(parts["bytes"]):
            return f"{field.name}.bytes"
    elif binary(field.type):
        return str(field.name)
    raise ValueError(f"{path}: expected {field.name} as a struct with bytes or as binary, got {field.type}")


# --------------------------------------------------------------------------------------------------------------------
# Hugging Face datasets
# --------------------------------------------------------------------------------------------------------------------


def is_saved_dataset(path: Path) -> bool:
    """Whether ``Dataset.save_to_disk`` or ``DatasetDict.save_to_disk`` wrote this folder."""
    return (path / _SAVED_MANY).is_file() or ((path / _SAVED_ONE).is_file() and (path / "state.json").is_file())


def list_saved_dataset(root: Path) -> ImageList:
    """The images of a folder that ``save_to_disk`` wrote, memory-mapped: columns ``image`` and, if any, ``label``.

    Raises:
        ValueError: the package ``datasets`` is missing, or the folder cannot be read or has no such column.
    """
    try:
        import datasets  # type: ignore[import-untyped]
    except ImportError:
        raise ValueError(
            f"data.root: {str(root)!r} was written by Dataset.save_to_disk, which needs the package datasets: pip "
            "install datasets"
        ) from None
    try:
        found = datasets.load_from_disk(str(root))
    except Exception as error:  # whatever Arrow, JSON or the package itself make of a broken folder
        raise ValueError(f"{root}: expected a folder of Dataset.save_to_disk, got {error}; save it again") from None
    if not isinstance(found, datasets.DatasetDict):
        return images_from_dataset(found, str(found.split or ""))
    return join_lists([images_from_dataset(part, split) for split, part in found.items()])


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
    columns = dataset.features
    if image_column not in columns:
        raise ValueError(f"dataset: expected a column {image_column}, got {', '.join(columns)}; set image_column")
    if label_column not in columns and label_column != "label":
        raise ValueError(f"dataset: expected a column {label_column}, got {', '.join(columns)}; set label_column")
    labels: Sequence[Label] = [None] * len(dataset)
    names = None
    if label_column in columns:
        names = getattr(columns[label_column], "names", None)
        labels = _labels(dataset, label_column)
    classes, numbers = number_labels(labels, None if names is None else tuple(names), "dataset")
    pictures = _undecoded(dataset, image_column)
    records = [
        Record(f"{split or 'dataset'}/{place:08d}", _Item(pictures, place, image_column), split_of(split), label)
        for place, label in enumerate(numbers)
    ]
    return ImageList(tuple(records), classes, "a dataset")


def join_lists(lists: Sequence[ImageList]) -> ImageList:
    """Several splits of one data set, ``[train, test]``, as one.

    Raises:
        ValueError: they have different classes.
    """
    classes = {part.classes for part in lists if part.classes}
    if len(classes) > 1:
        raise ValueError(f"dataset: expected the same classes in all splits, got {len(classes)} lists")
    records = tuple(record for part in lists for record in part.records)
    return ImageList(records, next(iter(classes), ()), lists[0].kind if lists else "a dataset")


@dataclass(frozen=True)
class _Item:
    """One image of a dataset."""

    dataset: Any
    place: int
    column: str

    def __call__(self) -> Content:
        value = self.dataset[self.place][self.column]
        if isinstance(value, Mapping):
            if value.get("bytes") is not None:
                return bytes(value["bytes"])
            # Datasets of local folders hold the files' names alone.
            if value.get("path"):
                return Path(value["path"]).read_bytes()
        if isinstance(value, bytes | Image.Image) or (isinstance(value, np.ndarray) and value.dtype == np.uint8):
            return value
        raise BadSample(f"row {self.place}, column {self.column}: expected an image, got {type(value).__name__}")


def _labels(dataset: Any, column: str) -> Sequence[Label]:
    if not hasattr(dataset, "select_columns"):
        return [dataset[place][column] for place in range(len(dataset))]
    found: Sequence[Label] = list(dataset.with_format(None).select_columns([column])[:][column])
    return found


def _undecoded(dataset: Any, column: str) -> Any:
    """The image column alone, as it is stored."""
    if not hasattr(dataset, "select_columns"):
        return dataset
    alone = dataset.with_format(None).select_columns([column])
    feature = alone.features[column]
    return alone.cast_column(column, type(feature)(decode=False)) if getattr(feature, "decode", False) else alone


# --------------------------------------------------------------------------------------------------------------------
# Labels
# --------------------------------------------------------------------------------------------------------------------


def number_labels(
    labels: Sequence[Label], names: Sequence[str] | None, where: str
) -> tuple[tuple[str, ...], list[int | None]]:
    """Class names, and the number of each label's class; None where it is not known.

    Args:
        labels: whole numbers or strings; None and -1 are not known.
        names: of the numbers; None = the different labels, in order, are the classes.
        where: for messages.
    """
    known = {label for label in labels if label is not None and label != -1}
    if names is None:
        if not (all(isinstance(label, int) for label in known) or all(isinstance(label, str) for label in known)):
            kinds = ", ".join(sorted({type(label).__name__ for label in known}))
            raise ValueError(f"{where}: expected labels that are whole numbers or strings, got {kinds}")
        values: list[Any] = sorted(known)
        number = {label: place for place, label in enumerate(values)}
        return tuple(str(label) for label in values), [number.get(label) for label in labels]
    wrong = [label for label in known if not isinstance(label, int) or not 0 <= label < len(names)]
    if wrong:
        raise ValueError(
            f"{where}: expected labels from 0 to {len(names) - 1}, one for each class name, got {wrong[0]!r}"
        )
    return tuple(names), [label if isinstance(label, int) and label != -1 else None for label in labels]
