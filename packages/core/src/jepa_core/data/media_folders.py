"""Finding media files in folders, with the classes, groups and splits of a label table or of the folders' names."""

from __future__ import annotations

import csv
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic

from jepa_core.data.kept_lists import Listing, Stamps, kept_or_listed, stamps_of
from jepa_core.data.media import Columns, Media
from jepa_core.data.records import (
    SPLITS,
    Content,
    Readers,
    RecordList,
    RecordPacker,
    Records,
    first_fields,
    first_of,
    numbered,
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


@dataclass(frozen=True)
class FolderReaders(Generic[Content]):
    """Files below a folder, named by their paths relative to it."""

    root: Path
    file: Callable[[Path], Callable[[], Content]]

    def reader(self, row: int, sample_id: str) -> Callable[[], Content]:
        """What reads the file of that name."""
        return self.file(self.root / sample_id)


def list_folder(root: Path, media: Media[Content], columns: Columns) -> RecordList[Content]:
    """Every file of a kind below a folder, names that begin with a dot passed over.

    A first folder named train, val, validation or test is the split; for the rest see :func:`labelled`.

    Raises:
        ValueError: a folder that cannot be listed, and what :func:`labelled` refuses.
    """
    readers = FolderReaders(root, media.file)

    def listing() -> Listing[Content]:
        tables = stamps_of([root / name for name in LABEL_TABLES])
        names, folders = _files_below(root, media.extensions)
        names.sort(key=by_folder)
        return Listing(labelled(root, names, readers, media.many, columns), {}, {**tables, **folders})

    return kept_or_listed(("folder", sorted(media.extensions), columns), root, listing, lambda places: readers)


def _files_below(root: Path, extensions: frozenset[str]) -> tuple[list[str], Stamps]:
    """Paths relative to ``root``, and the folders; links to folders are not followed: they may lead in circles."""
    found, waiting, stamps = list[str](), [""], dict[str, tuple[int, int] | None]()
    while waiting:
        inside = waiting.pop()
        stamps |= stamps_of([root / inside])
        try:
            with os.scandir(root / inside) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        if not entry.name.startswith("."):
                            waiting.append(f"{inside}{entry.name}/")
                    elif has_extension(entry.name, extensions) and entry.is_file():
                        found.append(inside + entry.name)
        except OSError as error:
            raise ValueError(f"{root / inside}: expected a folder that can be listed, got {error.strerror}") from None
    return found, stamps


def by_folder(name: str) -> str:
    """Sorts paths folder by folder: ``a/b`` before ``a-b``, though ``-`` is before ``/``."""
    return name.replace("/", "\0")


def labelled(
    root: Path, names: Sequence[str], readers: Readers[Content], many: str, columns: Columns
) -> RecordList[Content]:
    """The samples of a folder with what is known of them.

    - ``labels.csv``, else ``metadata.csv``, else ``meta.csv`` in the root: the file is in the column ``file``,
      ``filename``, ``file_name`` or ``path``, relative to the root or to the one folder right below it that has the
      files; the class, the group and perhaps the ``split`` are in columns; all columns become fields. The last two
      names are used for much: such a table without a column of files, or of labels, is no table of labels, unless
      ``columns`` names one.
    - Without labels in a table, classes are the folders that hold the files, where every file lies in one and there
      are at least two.

    Args:
        root: where the table lies.
        names: sample ids, paths relative to it; the first folder may name the split.
        readers: of them, in this order.
        many: what they are, for messages.
        columns: names to try.

    Raises:
        ValueError: a table without the columns, or with a row that no sample belongs to.
    """
    table = _label_table(root, names, columns)
    if table is None:
        return _labelled_by_folder(_packed(names, {}, columns).packed(readers), many)
    told = _packed(names, table.fields, columns).packed(readers)
    column = next((name for name in columns.label if name in table.columns), None)
    if column is None:
        return _labelled_by_folder(told, many)
    classes, labels = numbered(first_fields(told, (column,)))
    return RecordList(told.relabelled(labels), classes, f"{many} with {table.path.name}")


def _packed(names: Sequence[str], told: Mapping[str, Mapping[str, str]], columns: Columns) -> RecordPacker:
    packer, nothing = RecordPacker(), dict[str, str]()
    for name in names:
        fields = told.get(name, nothing)
        split = SPLITS.get(fields["split"].lower(), "") if "split" in fields else ""
        packer.add(name, split or _split_of_folder(name), None, first_of(columns.group, fields), fields)
    return packer


def _split_of_folder(name: str) -> str:
    first, slash, _ = name.partition("/")
    return SPLITS.get(first.lower(), "") if slash else ""


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


def _labelled_by_folder(records: Records[Content], many: str) -> RecordList[Content]:
    splits = records.in_split("train", "validation", "test").tolist()
    classes, labels = class_folders(list(zip(records.sample_ids(), splits, strict=True)))
    return RecordList(records.relabelled(labels), classes, "class folders" if classes else many)


def class_folders(samples: Sequence[tuple[str, bool]]) -> tuple[tuple[str, ...], list[int | None]]:
    """Classes and their numbers from the first folder, below that of the split, of (relative path, has a split).

    No classes where a sample lies in no such folder, or where there are fewer than two.
    """

    def folder(name: str, has_split: bool) -> str:
        parts = name.split("/")[:-1]
        return parts[1 if has_split else 0] if len(parts) > has_split else ""

    folders = [folder(*sample) for sample in samples]
    if len(set(folders)) < 2 or "" in folders:
        return (), [None] * len(folders)
    return numbered(folders)
