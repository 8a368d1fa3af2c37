"""Media in objects of the package ``datasets``, in memory or as ``save_to_disk`` wrote them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from jepa_core.contracts import BadSample
from jepa_core.data.media import Columns, Media
from jepa_core.data.records import (
    Content,
    Label,
    RecordList,
    RecordPacker,
    Records,
    first_of,
    number_labels,
    split_of,
)
from jepa_core.data.tables import BROKEN
from jepa_core.plain_json import parse_json

_SAVED_ONE, _SAVED_MANY, _STATE = "dataset_info.json", "dataset_dict.json", "state.json"


def is_saved_dataset(path: Path) -> bool:
    """Whether ``Dataset.save_to_disk`` or ``DatasetDict.save_to_disk`` wrote this folder."""
    return (path / _SAVED_MANY).is_file() or ((path / _SAVED_ONE).is_file() and (path / _STATE).is_file())


def list_saved_dataset(root: Path, media: Media[Content], columns: Columns) -> RecordList[Any]:
    """The samples of a folder that ``save_to_disk`` wrote, memory-mapped; see :func:`records_of_dataset`.

    The folder may come from a stranger: it is its own files alone, and they are looked through before a row is read.

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
        for folder in _folders(root):
            _check_folder(folder)
        found = datasets.load_from_disk(str(root))
        parts = found if isinstance(found, datasets.DatasetDict) else {str(found.split or ""): found}
        own = replace(media, file=_RefusedFile)
        return join_lists([records_of_dataset(part, own, columns, split) for split, part in parts.items()])
    except MissingColumnError:
        raise
    except Exception as error:  # whatever Arrow, JSON or the package itself make of a broken folder
        raise ValueError(f"{root}: expected a folder of Dataset.save_to_disk, got {error}; save it again") from None


def _folders(root: Path) -> list[Path]:
    """Of the splits, or the folder itself."""
    if not (root / _SAVED_MANY).is_file():
        return [root]
    names = parse_json((root / _SAVED_MANY).read_bytes())["splits"]
    return [_own(root, name) for name in dict.fromkeys(names)]


def _own(folder: Path, name: object) -> Path:
    """A file or folder of this name inside ``folder``; a name that leads elsewhere is refused."""
    if not isinstance(name, str) or name in ("", ".", "..") or Path(name).name != name or (folder / name).is_symlink():
        raise ValueError(f"a name that leads out of the folder: {name!r}")
    return folder / name


def _check_folder(folder: Path) -> None:
    """Refuses Arrow files that claim what they have not: reading on would end the process, not the file."""
    for described in (_SAVED_ONE, _STATE):
        parse_json(_own(folder, described).read_bytes())
    for data_file in parse_json((folder / _STATE).read_bytes())["_data_files"]:
        _check_arrow(_own(folder, data_file["filename"]))


def _check_arrow(path: Path) -> None:
    """Offsets, texts and lengths of every batch; bytes of media are not looked at."""
    import pyarrow

    rows, most = 0, path.stat().st_size
    with pyarrow.memory_map(str(path)) as source, pyarrow.ipc.open_stream(source) as batches:
        for batch in batches:
            batch.validate(full=True)
            rows += batch.num_rows
            # A column without content costs a file nothing, however many rows it claims.
            if rows > most:
                raise ValueError(f"{rows} rows in {most} bytes of {path.name}")


class MissingColumnError(ValueError):
    """A sound data set without a column that is asked for."""


@dataclass(frozen=True)
class _RefusedFile:
    """Stands for a file that a row of a saved data set names: ``save_to_disk`` packs the bytes into its own files."""

    path: Path

    def __call__(self) -> Any:
        raise BadSample(f"expected bytes in the row, got the name of a file, {str(self.path)!r}: save it again")


def records_of_dataset(
    dataset: Any, media: Media[Content], columns: Columns, split: str = "", column: str | None = None
) -> RecordList[Any]:
    """The samples of a ``datasets.Dataset``.

    Args:
        dataset: has ``len``, ``dataset[i]`` (a mapping by column) and ``features``. Features of media are read without
            their own decoding, so that a modality's rules hold; a format or transform that was set on the dataset is
            not applied.
        media: what is looked for.
        columns: the first label that is there is the class: whole numbers (-1 = not known), named by a ClassLabel where
            it is one, or strings. Label, group and ``others`` become fields.
        split: name of the split, ``train``, ``validation`` or ``test``; others count as training data.
        column: of the media; None = ``media.column``.

    Raises:
        ValueError: no such column.
    """
    features, column = dataset.features, column or media.column
    if column not in features:
        listed = ", ".join(features)
        raise MissingColumnError(f"dataset: expected a column {column}, got {listed}; set {media.column}_column")
    label = next((name for name in columns.label if name in features), None)
    if label is None and columns.label_is_named:
        listed = ", ".join(features)
        raise MissingColumnError(f"dataset: expected a column {columns.label[0]}, got {listed}; set label_column")
    names = getattr(features[label], "names", None) if label else None
    labels = _values(dataset, label) if label else [None] * len(dataset)
    classes, numbers = number_labels(labels, None if names is None else tuple(names), "dataset")
    fields = _fields(dataset, columns, label, [None if number is None else classes[number] for number in numbers])
    packer, first = RecordPacker(), split or "dataset"
    for place, (number, said) in enumerate(zip(numbers, fields, strict=True)):
        packer.add(f"{first}/{place:08d}", split_of(split), number, first_of(columns.group, said), said)
    return RecordList(packer.packed(_Items(_undecoded(dataset, column), column, media)), classes, "a dataset")


def join_lists(lists: Sequence[RecordList[Content]]) -> RecordList[Content]:
    """Several splits of one data set, ``[train, test]``, as one.

    Raises:
        ValueError: they have different classes.
    """
    classes = {part.classes for part in lists if part.classes}
    if len(classes) > 1:
        raise ValueError(f"dataset: expected the same classes in all splits, got {len(classes)} lists")
    records = Records.joined([part.records for part in lists])
    return RecordList(records, next(iter(classes), ()), lists[0].kind if lists else "a dataset")


@dataclass(frozen=True)
class _Items:
    """The rows of a dataset."""

    dataset: Any
    column: str
    media: Media[Any]

    def reader(self, row: int, sample_id: str) -> _Item:
        """What reads a row."""
        return _Item(self.dataset, row, self.column, self.media)


@dataclass(frozen=True)
class _Item:
    """One row of a dataset."""

    dataset: Any
    place: int
    column: str
    media: Media[Any]

    def __call__(self) -> Any:
        value = self._value()
        if isinstance(value, Mapping):
            if value.get("bytes") is not None:
                return bytes(value["bytes"])
            # Datasets of local folders hold the files' names alone.
            if value.get("path"):
                return self.media.file(Path(value["path"]))()
        if isinstance(value, bytes) or self.media.is_content(value):
            return value
        name = type(value).__name__
        raise BadSample(f"row {self.place}, column {self.column}: expected {self.media.one}, got {name}")

    def _value(self) -> Any:
        import pyarrow

        try:
            return self.dataset[self.place][self.column]
        except (OSError, *BROKEN, pyarrow.ArrowException) as error:
            raise BadSample(f"row {self.place}, column {self.column}: cannot be read: {error}") from None


def _fields(
    dataset: Any, columns: Columns, label: str | None, class_names: Sequence[str | None]
) -> list[dict[str, str]]:
    wanted = dict.fromkeys((*columns.group, *columns.others, *([label] if label else [])))
    rows: list[dict[str, str]] = [{} for _ in class_names]
    for name in (name for name in wanted if name in dataset.features):
        values = class_names if name == label else _values(dataset, name)
        for row, value in zip(rows, values, strict=True):
            if value is not None:
                row[name] = str(value)
    return rows


def _values(dataset: Any, column: str) -> Sequence[Label]:
    if not hasattr(dataset, "select_columns"):
        return [dataset[place][column] for place in range(len(dataset))]
    found: Sequence[Label] = list(dataset.with_format(None).select_columns([column])[:][column])
    return found


def _undecoded(dataset: Any, column: str) -> Any:
    """The column of media alone, as it is stored."""
    if not hasattr(dataset, "select_columns"):
        return dataset
    alone = dataset.with_format(None).select_columns([column])
    feature = alone.features[column]
    return alone.cast_column(column, type(feature)(decode=False)) if getattr(feature, "decode", False) else alone
