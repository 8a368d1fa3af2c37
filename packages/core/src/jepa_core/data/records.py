"""One media file that is not yet read, and a list of them: what every layout of files on a disk comes to."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

SPLITS = {"train": "train", "val": "validation", "valid": "validation", "validation": "validation", "test": "test"}

Content = TypeVar("Content", covariant=True)
"""What reading gives: a file's bytes, its path, or what a modality makes of it."""

Label = int | str | None


@dataclass(frozen=True)
class Record(Generic[Content]):
    """One sample, not yet read.

    Attributes:
        sample_id: the same on every machine: path relative to the root, or shard and key, or table and row.
        read: gives the file's bytes, its path, or the content itself.
        split: ``train``, ``validation``, ``test``, or empty where the data do not say.
        label: class number; None = not known.
        group: what must not be torn apart by a split (speaker, recording); empty = not known.
        fields: what the label table, the ``.json`` beside it or its row says of it, as text.
    """

    sample_id: str
    read: Callable[[], Content]
    split: str = ""
    label: int | None = None
    group: str = ""
    fields: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class RecordList(Generic[Content]):
    """What a root holds.

    Attributes:
        records: in a fixed order.
        classes: class names by number; empty without labels.
        kind: how they lie there, for messages.
    """

    records: tuple[Record[Content], ...]
    classes: tuple[str, ...]
    kind: str

    def values_of(self, column: str, setting: str = "data.label") -> tuple[str | None, ...]:
        """What the field ``column`` says of each record; None = nothing.

        Args:
            column: of the label table, or field of the ``.json`` beside a file.
            setting: who asks, for the message.

        Raises:
            ValueError: no record has it.
        """
        values = tuple(record.fields.get(column) for record in self.records)
        if not any(values):
            known = ", ".join(sorted({name for record in self.records for name in record.fields}))
            missing = "they have none: write a labels.csv or a .json beside each"
            raise ValueError(
                f"{setting}: expected one of the fields that the records have ({known or missing}), got {column!r}"
            )
        return values


def _never(value: Any) -> bool:
    return False


@dataclass(frozen=True)
class Media(Generic[Content]):
    """A kind of files, and how one of them is read.

    Attributes:
        one, many: words for messages, ``an image`` and ``images``.
        extensions: of the files, in small letters with the dot.
        file: a file of a folder to what reads it, called when it is listed.
        column, feature: the usual column of a table, and the feature of the package ``datasets`` that marks another.
        beside: further files of a tar shard that are read with a sample: ``.cls`` (class number), ``.json`` (fields).
        is_content: whether a row of a ``datasets`` object holds something that needs no reading; bytes always are.
    """

    one: str
    many: str
    extensions: frozenset[str]
    file: Callable[[Path], Callable[[], Content]]
    column: str
    feature: str
    beside: frozenset[str]
    is_content: Callable[[Any], bool] = _never


@dataclass(frozen=True)
class Columns:
    """Which columns or fields say what; of several names the first that is there.

    Attributes:
        label: of the class.
        group: of the recording or speaker.
        others: further ones that a Parquet table is to be read for; label tables are read whole.
        label_is_named: somebody asked for this label: it must be there.
    """

    label: tuple[str, ...] = ("label",)
    group: tuple[str, ...] = ("group",)
    others: tuple[str, ...] = ()
    label_is_named: bool = False

    @classmethod
    def of(cls, label: str | None) -> Columns:
        """For a class that is named so; None = ``label``, where it is there."""
        return cls() if label is None else cls(label=(label,), label_is_named=True)


@dataclass(frozen=True)
class OpenFile:
    """Gives a file's path: its decoder opens it itself and need not read all of it."""

    path: Path

    def __call__(self) -> Path:
        return self.path


def read_whole(path: Path) -> Callable[[], bytes]:
    """Gives a file's bytes, when it is called."""
    return path.read_bytes


def split_of(name: str) -> str:
    """The split that a shard, file or folder is named after, or empty."""
    return SPLITS.get(re.split(r"[-_.]", name.lower())[0], "")


def first_of(names: Sequence[str], fields: Mapping[str, str]) -> str:
    """The value of the first of ``names`` that is a field, or empty."""
    return next((fields[name] for name in names if name in fields), "")


def relabelled(records: Sequence[Record[Content]], labels: Sequence[int | None]) -> tuple[Record[Content], ...]:
    """The records with these class numbers."""
    return tuple(replace(record, label=label) for record, label in zip(records, labels, strict=True))


def numbered(values: Sequence[str | None]) -> tuple[tuple[str, ...], list[int | None]]:
    """Sorted class names, and the number of each value among them; None and the empty string are no class."""
    classes = tuple(sorted({value for value in values if value}))
    number = {name: place for place, name in enumerate(classes)}
    return classes, [number[value] if value else None for value in values]


def number_labels(
    labels: Sequence[Label], names: Sequence[str] | None, where: str
) -> tuple[tuple[str, ...], list[int | None]]:
    """Class names, and the number of each label's class; None where it is not known.

    Args:
        labels: whole numbers or strings; None and -1 are not known.
        names: of the numbers; None = the different labels, in order, are the classes.
        where: for messages.
    """
    odd = next((label for label in labels if not isinstance(label, int | str | None)), None)
    if odd is not None:
        raise ValueError(f"{where}: expected labels that are whole numbers or strings, got {type(odd).__name__}")
    if names is not None and not all(isinstance(name, str) for name in names):
        raise ValueError(f"{where}: expected class names that are strings, got {list(names)!r}")
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
