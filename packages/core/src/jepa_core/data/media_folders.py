"""Finding media files in folders, with the classes, groups and splits of a label table or of the folders' names."""

from __future__ import annotations

import csv
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from jepa_core.data.records import (
    SPLITS,
    Columns,
    Content,
    Media,
    Record,
    RecordList,
    first_of,
    numbered,
    relabelled,
)

LABEL_TABLES = ("labels.csv", "metadata.csv", "meta.csv")
"""The first of them in the root is read."""
FILE_COLUMNS = ("file", "filename", "file_name", "path")


@dataclass(frozen=True)
class LabelTable:
    """The rows of a label table.

    Attributes:
        path: the file.
        fields: by sample id, every column but that of the file.
        columns: their names, in order.
    """

    path: Path
    fields: Mapping[str, Mapping[str, str]]
    columns: tuple[str, ...]


def files_of(path: Path, wanted: Callable[[str], bool]) -> list[Path]:
    """The files of a folder whose names are ``wanted``, in the order of their names; or ``path``, if it is one."""
    if path.is_dir():
        return sorted(entry for entry in path.iterdir() if entry.is_file() and wanted(entry.name))
    return [path] if wanted(path.name) else []


def has_extension(name: str, extensions: frozenset[str]) -> bool:
    """Whether a file's name ends in one of ``extensions``; one that begins with a dot never does."""
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in extensions


def list_folder(root: Path, media: Media[Content], columns: Columns) -> RecordList[Content]:
    """Every file of a kind below a folder, names that begin with a dot passed over.

    A first folder named train, val, validation or test is the split; for the rest see :func:`labelled`.
    """
    files = sorted(path for path in root.rglob("*") if has_extension(path.name, media.extensions) and path.is_file())
    records = [folder_record(path.relative_to(root).as_posix(), media.file(path)) for path in files]
    return labelled(root, records, media.many, columns)


def folder_record(name: str, read: Callable[[], Content]) -> Record[Content]:
    """A record of the path ``name`` below a root; its first folder may name the split."""
    split = SPLITS.get(name.split("/")[0].lower(), "") if "/" in name else ""
    return Record(name, read, split)


def labelled(root: Path, records: Sequence[Record[Content]], many: str, columns: Columns) -> RecordList[Content]:
    """The records of a folder with what is known of them.

    - ``labels.csv``, else ``metadata.csv``, else ``meta.csv`` in the root: the file is in the column ``file``,
      ``filename``, ``file_name`` or ``path``, relative to the root or to the one folder right below it that has the
      files; the class, the group and perhaps the ``split`` are in columns; all columns become fields. The last two
      names are used for much: such a table without a column of files, or of labels, is no table of labels, unless
      ``columns`` names one.
    - Without labels in a table, classes are the folders that hold the files, where every file lies in one and there
      are at least two.

    Args:
        root: where the table lies.
        records: their ids are paths relative to it.
        many: what they are, for messages.
        columns: names to try.

    Raises:
        ValueError: a table without the columns, or with a row that no record belongs to.
    """
    table = _label_table(root, [record.sample_id for record in records], columns)
    if table is None:
        return _labelled_by_folder(records, many)
    told = tuple(_with_fields(record, table.fields.get(record.sample_id, {}), columns) for record in records)
    column = next((name for name in columns.label if name in table.columns), None)
    if column is None:
        return _labelled_by_folder(told, many)
    classes, labels = numbered([record.fields.get(column) for record in told])
    return RecordList(relabelled(told, labels), classes, f"{many} with {table.path.name}")


def _with_fields(record: Record[Content], fields: Mapping[str, str], columns: Columns) -> Record[Content]:
    split = SPLITS.get(fields.get("split", "").lower(), record.split)
    return replace(record, split=split, group=first_of(columns.group, fields), fields=fields)


# --------------------------------------------------------------------------------------------------------------------
# Label tables
# --------------------------------------------------------------------------------------------------------------------


def _label_table(root: Path, names: Sequence[str], columns: Columns) -> LabelTable | None:
    path = next((root / name for name in LABEL_TABLES if (root / name).is_file()), None)
    if path is None:
        if columns.label_is_named and names:
            raise ValueError(
                f"data.label: expected a table {root / LABEL_TABLES[0]} with the columns file and {columns.label[0]}, "
                "got no such file"
            )
        return None
    head, rows = _read_csv(path)
    file = next((name for name in FILE_COLUMNS if name in head), None)
    label = next((name for name in columns.label if name in head), None)
    strict = path.name == LABEL_TABLES[0] or columns.label_is_named
    if strict and (file is None or label is None):
        raise ValueError(f"{path}: expected the columns file and {columns.label[0]}, got {', '.join(head)}")
    if file is None:
        return None
    others = tuple(name for name in head if name != file)
    by_file = {row[file]: {name: row[name] for name in others} for row in rows}
    folder = _folder_of(list(by_file), names)
    return LabelTable(path, _checked(path, file, {folder + name: row for name, row in by_file.items()}, names), others)


def _read_csv(path: Path) -> tuple[tuple[str, ...], list[dict[str, str]]]:
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file, restval="")
        try:
            head = tuple(reader.fieldnames or ())
            return head, [{key: value for key, value in row.items() if key is not None} for row in reader]
        except (csv.Error, ValueError) as error:
            raise ValueError(f"{path}: expected a table of comma-separated UTF-8 text, got {error}") from None


def _folder_of(files: Sequence[str], names: Sequence[str]) -> str:
    """The folder right below the root that the table's paths are relative to, with its slash; empty = the root."""
    known = set(names)
    folders = sorted({name.split("/")[0] + "/" for name in names if "/" in name})
    # The root where as many of the files are below it as below any folder.
    return max(["", *folders], key=lambda folder: sum(folder + file in known for file in files))


def _checked(
    path: Path, file: str, rows: Mapping[str, Mapping[str, str]], names: Sequence[str]
) -> Mapping[str, Mapping[str, str]]:
    missing = sorted(set(rows) - set(names))
    if missing:
        raise ValueError(
            f"{path}: expected a sample for each row, got none for {missing[0]!r} and {len(missing) - 1} "
            f"others; {file} is a path relative to the table's folder"
        )
    return rows


# --------------------------------------------------------------------------------------------------------------------
# Class folders
# --------------------------------------------------------------------------------------------------------------------


def _labelled_by_folder(records: Sequence[Record[Content]], many: str) -> RecordList[Content]:
    classes, labels = class_folders([(record.sample_id, record.split) for record in records])
    return RecordList(relabelled(records, labels), classes, "class folders" if classes else many)


def class_folders(samples: Sequence[tuple[str, str]]) -> tuple[tuple[str, ...], list[int | None]]:
    """Classes and their numbers from the first folder, below that of the split, of (relative path, split).

    No classes where a sample lies in no such folder, or where there are fewer than two.
    """

    def folder(name: str, split: str) -> str:
        parts = name.split("/")[:-1]
        return parts[1 if split else 0] if len(parts) > bool(split) else ""

    folders = [folder(*sample) for sample in samples]
    if len(set(folders)) < 2 or "" in folders:
        return (), [None] * len(folders)
    return numbered(folders)
