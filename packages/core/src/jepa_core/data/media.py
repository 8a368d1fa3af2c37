"""Kinds of media: which files are of a kind, what reads one of them, and which columns say what of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic

from jepa_core.data.records import Content


def _never(value: Any) -> bool:
    return False


@dataclass(frozen=True)
class Media(Generic[Content]):
    """A kind of files, and how one of them is read.

    Attributes:
        one, many: words for messages, ``an image`` and ``images``.
        extensions: of the files, in small letters with the dot.
        file: a file of a folder to what reads it.
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
