"""Where the data of a run lie, and what of them is held back: what modalities of recorded files have in common."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from pathlib import Path
from typing import Any, Generic

import numpy as np
from numpy.typing import NDArray

from jepa_core.data.records import Content, Records


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
class Splits(Generic[Content]):
    """Which samples are trained on and which are held back.

    Attributes:
        train: for pre-training and for fitting the probe.
        test: never trained on; empty without classes.
        note: how they were chosen.
    """

    train: Records[Content]
    test: Records[Content]
    note: str


@lru_cache(maxsize=2)  # a run asks three times for the same, and a million hashes take a second
def held_back(records: Records[Any], one_in: int) -> NDArray[np.bool_]:
    """Which are held back: one group in so many, by a hash of its name; a record without a group is its own.

    Returns:
        bool ``[N]``.
    """
    groups = records.groups
    of_group = [_is_held_back(name, one_in) for name in groups.values]
    held = np.array([*of_group, False])[groups.codes]  # the last, which -1 leads to, is looked at below
    for row in np.flatnonzero(groups.codes < 0).tolist():
        held[row] = _is_held_back(records.sample_id(row), one_in)
    return held


def _is_held_back(name: str, one_in: int) -> bool:
    return int.from_bytes(blake2b(name.encode(), digest_size=8).digest(), "little") % one_in == 0
