"""Joins two tables on their samples, and says what limits a comparison of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from jepa_core.compare.arrays import Array, centred, row_norms_squared
from jepa_core.compare.groups import LEAST_GROUPS, Codes, codes_of
from jepa_core.compare.inputs import Column, Features
from jepa_core.errors import DataError

UNPAIRED = (
    "CKA, kNN, Procrustes, CCA, RSA need the same samples in both tables: pass sample_id columns that overlap, or use "
    "mode='class' or mode='spectrum'"
)
OUTLIER_SHARE = 0.1
EXPECTED_METADATA = ("run", "weights_sha256", "encoder", "split")


class UnpairedError(DataError):
    """The tables have no samples in common, so that no paired measure means anything."""


def join(a: Features, b: Features, row_aligned: bool, ids: str = "exact") -> tuple[Features, Features, list[str]]:
    """The samples both tables have, in the order of the first: row i of both is the same sample.

    Args:
        a, b: the tables.
        row_aligned: the user's word that row i of both is the same sample; needed where a table names no samples.
        ids: ``exact``, or ``stem``: names without folder and ending, so that ``image/7.jpg`` is ``points/7.npz``.

    Returns:
        Both tables, and warnings.

    Raises:
        UnpairedError: no sample in common, or no names and no such word.
        DataError: a sample has several rows; row counts differ.
    """
    if a.sample_id is None or b.sample_id is None:
        return _aligned(a, b, row_aligned)
    if ids == "stem":
        a, b = _by_stem(a), _by_stem(b)
    places = [_places(table, table.sample_id) for table in (a, b) if table.sample_id is not None]
    shared = [name for name in places[0] if name in places[1]]
    if not shared:
        firsts = [next(iter(place), "none") for place in places]
        stems = len(set(map(stem_of, places[0])) & set(map(stem_of, places[1])))
        hint = f"; {stems} agree without folder and ending: ids=stem" if stems else ""
        raise UnpairedError(f"{UNPAIRED}; the first samples are {firsts[0]!r} and {firsts[1]!r}{hint}")
    rows = [np.array([place[name] for name in shared], dtype=np.intp) for place in places]
    said = []
    if len(shared) < max(len(a), len(b)):
        said.append(f"{len(shared)} samples are in both tables, of {len(a)} and {len(b)}; the others are left out")
    return a.rows(rows[0]), b.rows(rows[1]), said


def stem_of(name: str) -> str:
    """A sample's name without folder and ending."""
    return PurePosixPath(name).stem


def _by_stem(table: Features) -> Features:
    names = None if table.sample_id is None else [stem_of(name) for name in table.sample_id.tolist()]
    return table if names is None else replace(table, sample_id=np.array([*names, None], dtype=object)[:-1])


def _places(table: Features, names: Column) -> dict[str, int]:
    found = {name: row for row, name in enumerate(names.tolist())}
    if len(found) < len(names):
        raise DataError(f"{table.name}: expected one row a sample, got {len(names)} rows of {len(found)} samples")
    return found


def _aligned(a: Features, b: Features, row_aligned: bool) -> tuple[Features, Features, list[str]]:
    unnamed = " and ".join(table.name for table in (a, b) if table.sample_id is None)
    if not row_aligned:
        raise UnpairedError(
            f"{UNPAIRED}; no sample_id: {unnamed}: if row i of both is the same sample, say so with assume_row_aligned"
        )
    if len(a) != len(b):
        raise DataError(f"expected as many rows in both tables to pair them by row, got {len(a)} and {len(b)}")
    return a, b, [f"no sample_id: {unnamed}: rows are paired by their order, as was said"]


def find_groups(a: Features, b: Features, wanted: Any) -> tuple[Codes | None, list[str]]:
    """Group of each row, None where rows are exchangeable, and warnings.

    Args:
        a, b: joined tables.
        wanted: ``auto``: the tables' groups, where a group has several rows; ``none``: rows are exchangeable;
            anything else: N groups.
    """
    held = a.group if a.group is not None else b.group
    grouped = held is not None and any(name is not None for name in held)
    if isinstance(wanted, str) and wanted == "none":
        timed = a.timed or b.timed
        if grouped or timed:
            what = "groups" if grouped else "times"
            return None, [
                f"the tables have {what}, and rows are permuted one by one: p-values are too small if they depend on "
                "each other"
            ]
        return None, []
    if isinstance(wanted, str) and wanted != "auto":
        raise DataError(f"groups: expected auto, none or a group for each row, got {wanted!r}")
    names = held if isinstance(wanted, str) else np.array([*wanted, None], dtype=object)[:-1]
    if names is None or (isinstance(wanted, str) and not grouped):
        text = "the tables have times and no groups: if rows follow one another, p-values are too small; add a group"
        return None, [text] if a.timed or b.timed else []
    if len(names) != len(a):
        raise DataError(f"groups: expected {len(a)} groups, one for each joined row, got {len(names)}")
    codes = codes_of(names.tolist())
    count = int(codes.max()) + 1
    if count == len(codes):
        return None, []
    said = [f"rows of a group depend on each other: {count} groups change places as a whole (groups=none: rows)"]
    if count < LEAST_GROUPS:
        said = [f"no p-value: {count} groups, expected at least {LEAST_GROUPS}; rows of one group are not exchangeable"]
    return codes, said


def describe(a: Features, b: Features) -> tuple[tuple[tuple[str, str, str], ...], list[str]]:
    """What made either table, key by key, and warnings about what differs or is not known."""
    keys = [key for key in dict.fromkeys([*a.metadata, *b.metadata]) if key not in ("config", "format")]
    rows = tuple((key, str(a.metadata.get(key, "-")), str(b.metadata.get(key, "-"))) for key in keys)
    said = []
    lacking = [key for key in EXPECTED_METADATA if key not in a.metadata or key not in b.metadata]
    if lacking:
        said.append(f"not both tables say their {', '.join(lacking)}: that they were made alike is not known")
    for key in ("split", "encoder"):
        values = [table.metadata.get(key) for table in (a, b)]
        if None not in values and values[0] != values[1]:
            said.append(f"{key} differs: {values[0]} and {values[1]}")
    return rows, said


def check_layer(name: str, x: Array) -> list[str]:
    """Warnings about one layer: rows that outweigh all others, duplicates, more features than rows."""
    said = []
    weight = row_norms_squared(centred(x))
    total = float(weight.sum())
    if total > 0 and len(x) > 20 and float(weight.max()) > OUTLIER_SHARE * total:
        share = float(weight.max()) / total
        said.append(
            f"{name}: row {int(weight.argmax())} holds {share:.0%} of all variance: CKA speaks of it alone; "
            "use normalise=l2"
        )
    copies = len(x) - len(np.unique(x, axis=0))
    if copies:
        said.append(f"{name}: {copies} rows are exact copies of others: neighbours among copies are arbitrary")
    return said


def unit_of(x: Array) -> Array:
    """Rows of length 1."""
    from jepa_core.compare.arrays import unit_rows

    return unit_rows(x)


PREPARATIONS: Mapping[str, Any] = {"none": lambda x: x, "l2": unit_of}
"""What may be done to the features before anything is computed; it is recorded."""
