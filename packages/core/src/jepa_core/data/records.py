"""Media that are not yet read: one of them, any number of them in a few arrays, and what a root holds."""

from __future__ import annotations

import re
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Generic, Protocol, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

from jepa_core.data.texts import Column, ColumnPacker, TextPacker, Texts

SPLITS = {"train": "train", "val": "validation", "valid": "validation", "validation": "validation", "test": "test"}
_SPLIT_NAMES = ("", "train", "validation", "test")
_SPLIT_CODE = {name: code for code, name in enumerate(_SPLIT_NAMES)}
_NO_LABEL = -1
LARGEST_LABEL = 2**31 - 1
MOST_CLASSES = 1_000_000
"""Without names: a file may claim any number, and each below it would be a class."""
MOST_FIELDS = 256
"""Of all samples together: each is a column, and one file of strange names must not make a thousand."""

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


class Readers(Protocol[Content]):
    """What reads the samples of a table; it holds arrays, no object for each sample."""

    def reader(self, row: int, sample_id: str) -> Callable[[], Content]:
        """What reads the sample of a row."""
        ...


@dataclass(frozen=True)
class ListedReaders(Generic[Content]):
    """Readers that are there already, one for each row: for lists that somebody made by hand."""

    readers: Sequence[Callable[[], Content]]

    def reader(self, row: int, sample_id: str) -> Callable[[], Content]:
        """The one that was given."""
        return self.readers[row]


@dataclass(frozen=True)
class JoinedReaders(Generic[Content]):
    """Those of several tables, one after the other."""

    parts: Sequence[Records[Content]]

    def reader(self, row: int, sample_id: str) -> Callable[[], Content]:
        """What reads a row, counted over all tables."""
        for part in self.parts:
            if row < len(part):
                break
            row -= len(part)
        return part[row].read


@dataclass(frozen=True)
class RecordTable(Generic[Content]):
    """N records by column.

    Attributes:
        sample_ids: N of them.
        readers: of the samples.
        splits: int8 ``[N]``: no split, train, validation, test.
        labels: int32 ``[N]``; -1 = not known.
        groups: N, none where it is not known.
        fields: columns of N.
    """

    sample_ids: Texts
    readers: Readers[Content]
    splits: NDArray[np.int8]
    labels: NDArray[np.int32]
    groups: Column
    fields: Mapping[str, Column]

    def record(self, row: int) -> Record[Content]:
        """One of them."""
        label, name = int(self.labels[row]), self.sample_ids[row]
        said = {column: text for column, texts in self.fields.items() if (text := texts.at(row)) is not None}
        read, split = self.readers.reader(row, name), _SPLIT_NAMES[self.splits[row]]
        return Record(name, read, split, None if label == _NO_LABEL else label, self.groups.at(row) or "", said)


class Records(Sequence[Record[Content]]):
    """Records in a fixed order: all of a table, or some; an element is made when it is asked for.

    Args:
        table: where they are.
        rows: which of it, int64 ``[N]``; None = all.
    """

    def __init__(self, table: RecordTable[Content], rows: NDArray[np.int64] | None = None) -> None:
        self.table = table
        self.rows = np.arange(len(table.sample_ids)) if rows is None else rows

    @classmethod
    def of(cls, records: Iterable[Record[Content]]) -> Records[Content]:
        """These, as a table; what is one already stays as it is."""
        if isinstance(records, Records):
            return records
        packer, readers = RecordPacker(), []
        for record in records:
            packer.add_record(record)
            readers.append(record.read)
        return packer.packed(ListedReaders(readers))

    @classmethod
    def joined(cls, parts: Sequence[Records[Content]]) -> Records[Content]:
        """All of these, one after the other."""
        packer = RecordPacker()
        for record in (record for part in parts for record in part):
            packer.add_record(record)
        return packer.packed(JoinedReaders(parts))

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, place: int) -> Record[Content]: ...
    @overload
    def __getitem__(self, place: slice) -> Records[Content]: ...
    def __getitem__(self, place: int | slice) -> Record[Content] | Records[Content]:
        if isinstance(place, slice):
            return Records(self.table, self.rows[place])
        return self.table.record(int(self.rows[place]))

    def sample_id(self, place: int) -> str:
        """That of one record, without the rest of it."""
        return self.table.sample_ids[int(self.rows[place])]

    def sample_ids(self) -> Iterator[str]:
        """Those of all."""
        return (self.table.sample_ids[row] for row in self.rows.tolist())

    def where(self, wanted: NDArray[np.bool_]) -> Records[Content]:
        """Those at which ``wanted`` ``[N]`` is true."""
        return Records(self.table, self.rows[wanted])

    def in_split(self, *names: str) -> NDArray[np.bool_]:
        """Which are of one of these splits, bool ``[N]``."""
        return np.isin(self.table.splits[self.rows], [_SPLIT_CODE[name] for name in names])

    @property
    def labels(self) -> NDArray[np.int32]:
        """Class numbers ``[N]``; -1 = not known."""
        return self.table.labels[self.rows]

    @property
    def groups(self) -> Column:
        """Groups; none where it is not known."""
        return self.table.groups.take(self.rows)

    @property
    def field_names(self) -> tuple[str, ...]:
        """Fields that the table has."""
        return tuple(self.table.fields)

    def field(self, name: str) -> Column:
        """What a field says of each; nothing where there is no such field."""
        found = self.table.fields.get(name)
        return found.take(self.rows) if found else Column(np.full(len(self), -1, np.int32), Texts.of(()))

    def relabelled(self, labels: Sequence[int | None]) -> Records[Content]:
        """The same with these class numbers; of a whole table."""
        numbers = np.array([_NO_LABEL if label is None else label for label in labels], np.int32)
        if len(numbers) != len(self.table.labels) or len(self) != len(numbers):
            raise ValueError(f"relabelled: expected {len(self.table.labels)} labels, got {len(numbers)}")
        return Records(replace(self.table, labels=numbers), self.rows)


class RecordPacker:
    """Packs records as they are found."""

    def __init__(self) -> None:
        self._names, self._splits, self._labels = TextPacker(), array("b"), array("i")
        self._groups, self._fields = ColumnPacker(), dict[str, ColumnPacker]()

    def __len__(self) -> int:
        return len(self._names)

    def add(
        self,
        sample_id: str,
        split: str = "",
        label: int | None = None,
        group: str = "",
        fields: Mapping[str, str] | None = None,
    ) -> None:
        """One more; see :class:`Record`.

        Raises:
            ValueError: a class number that is none, or too many different fields.
        """
        if label is not None and not 0 <= label <= LARGEST_LABEL:
            raise ValueError(f"{sample_id}: expected a class number from 0, got {label}")
        row = len(self._names)
        self._names.add(sample_id)
        self._splits.append(_SPLIT_CODE[split])
        self._labels.append(_NO_LABEL if label is None else label)
        if group:
            self._groups.set(row, group)
        for name, text in (fields or {}).items():
            self._field(name, sample_id).set(row, text)

    def add_record(self, record: Record[Any]) -> None:
        """What is known of a record; not what reads it."""
        self.add(record.sample_id, record.split, record.label, record.group, record.fields)

    def _field(self, name: str, sample_id: str) -> ColumnPacker:
        found = self._fields.get(name)
        if found is None:
            if len(self._fields) == MOST_FIELDS:
                raise ValueError(
                    f"{sample_id}: expected at most {MOST_FIELDS} different fields in all, got {name[:40]!r} besides"
                )
            found = self._fields[name] = ColumnPacker()
        return found

    def packed(self, readers: Readers[Content]) -> Records[Content]:
        """All of them; nothing can be added after this."""
        rows = len(self._names)
        table = RecordTable(
            self._names.packed(),
            readers,
            np.frombuffer(self._splits, np.int8),
            np.frombuffer(self._labels, np.int32),
            self._groups.packed(rows),
            {name: packer.packed(rows) for name, packer in self._fields.items()},
        )
        return Records(table)


@dataclass(frozen=True)
class RecordList(Generic[Content]):
    """What a root holds.

    Attributes:
        records: in a fixed order.
        classes: class names by number; empty without labels.
        kind: how they lie there, for messages.
    """

    records: Records[Content]
    classes: tuple[str, ...]
    kind: str

    def require(self, column: str, setting: str = "data.label") -> Column:
        """What the field ``column`` says of each record.

        Args:
            column: of the label table, or field of the ``.json`` beside a file.
            setting: who asks, for the message.

        Raises:
            ValueError: no record has it.
        """
        values = self.records.field(column)
        if not any(values.used()):
            known = ", ".join(sorted(self.records.field_names))
            missing = "they have none: write a labels.csv or a .json beside each"
            raise ValueError(
                f"{setting}: expected one of the fields that the records have ({known or missing}), got {column!r}"
            )
        return values

    def values_of(self, column: str, setting: str = "data.label") -> tuple[str | None, ...]:
        """:meth:`require`, as texts; None = nothing."""
        values = self.require(column, setting)
        return tuple(values.at(row) for row in range(len(values)))


def split_of(name: str) -> str:
    """The split that a shard, file or folder is named after, or empty."""
    return SPLITS.get(re.split(r"[-_.]", name.lower())[0], "")


def first_of(names: Sequence[str], fields: Mapping[str, str]) -> str:
    """The value of the first of ``names`` that is a field, or empty."""
    return next((fields[name] for name in names if name in fields), "")


def first_fields(records: Records[Any], names: Sequence[str]) -> list[str | None]:
    """Of each record the value of the first of ``names`` that it has a field of, None or empty where there is none."""
    found: list[str | None] = [None] * len(records)
    for name in reversed(names):
        column = records.field(name)
        for row in np.flatnonzero(column.codes >= 0).tolist():
            found[row] = column.at(row)
    return found


def unnamed_classes(labels: NDArray[np.int32], where: str) -> tuple[str, ...]:
    """The numbers up to the highest as names; none where no label is known.

    Raises:
        ValueError: more than :data:`MOST_CLASSES`.
    """
    highest = int(labels.max(initial=_NO_LABEL))
    if highest >= MOST_CLASSES:
        raise ValueError(f"{where}: expected class numbers below {MOST_CLASSES}, got {highest}")
    return tuple(str(number) for number in range(highest + 1))


def class_names(labels: NDArray[np.int32], classes: Sequence[str]) -> list[str | None]:
    """The name of each class number; None where it is -1, not known."""
    return [None if label < 0 else classes[label] for label in labels.tolist()]


def groups_of(records: Records[Any]) -> list[str | None]:
    """The group of each record; None where it is not known."""
    groups = records.groups
    names = list(groups.values)
    return [None if code < 0 else names[code] for code in groups.codes.tolist()]


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
