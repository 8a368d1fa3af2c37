"""Where the data of a run lie, and what of them is held back: what modalities of recorded files have in common."""

from __future__ import annotations

import os
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Generic, TypeVar

from jepa_core.data.records import Record

C = TypeVar("C")


@dataclass(frozen=True)
class Choice:
    """Where the data come from, and why."""

    root: Path
    reason: str


def choose_root(root: str | None, place: str, sample: Path, what: str) -> Choice:
    """``data.root``, then a folder of ``JEPA_DATA``, then the sample in the package.

    Args:
        root: the setting ``data.root``.
        place: folder below ``JEPA_DATA``, such as ``images/clothing10``.
        sample: what the package brings.
        what: the sample in words.
    """
    if root is not None:
        return Choice(Path(root), "data.root")
    folder = Path(os.environ.get("JEPA_DATA", "")) / place
    if os.environ.get("JEPA_DATA") and folder.is_dir():
        return Choice(folder, "found through the environment variable JEPA_DATA")
    return Choice(sample, f"no data.root and no JEPA_DATA: {what} that the package brings")


@dataclass(frozen=True)
class Splits(Generic[C]):
    """Which samples are trained on and which are held back.

    Attributes:
        train: for pre-training and for fitting the probe.
        test: never trained on; empty without classes.
        note: how they were chosen.
    """

    train: tuple[Record[C], ...]
    test: tuple[Record[C], ...]
    note: str


def is_held_back(record: Record[C], one_in: int) -> bool:
    """One group in so many, by a hash of its name; a record without a group is its own."""
    name = record.group or record.sample_id
    return int.from_bytes(blake2b(name.encode(), digest_size=8).digest(), "little") % one_in == 0
