"""What ``jepa probe <table>.parquet`` does: heads on anybody's embedding tables, held against each other.

With one split (``test=``) or by cross-validation that keeps groups whole. Further tables of the same samples, such as
those of an untrained encoder or of raw features, are rows of the same figure, each with its difference to the first.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from jepa_core.checks import hint
from jepa_core.errors import ConfigError, DataError, value_errors_are_users
from jepa_core.evaluate.linear import group_folds
from jepa_core.evaluate.protocols import CrossValidation, Fold, Head, cross_validate, leave_one_group_out
from jepa_core.evaluate.tables import EmbeddingTable, read_table

if TYPE_CHECKING:
    from jepa_core.evaluate.probes import Estimate

OPTIONS = ("test", "folds", "heads", "layer", "pooling", "out")
HEADS: tuple[Head, ...] = ("linear", "knn", "knn_standardised")
EACH_GROUP = "groups"
FOLDS = 5


@dataclass(frozen=True)
class Wanted:
    """What the command line asks for.

    Attributes:
        tables: the first is what is judged, the others are its controls.
        test: tables of the test split, one for each of ``tables``; empty = cross-validation.
        folds: how many, or ``groups``: each group is held out once.
        heads: what reads the vectors.
        layer, pooling: rows that are read; None = all, which must be one a sample.
        out: file for the figures; None = the console alone.
    """

    tables: tuple[str, ...]
    test: tuple[str, ...] = ()
    folds: str = str(FOLDS)
    heads: tuple[Head, ...] = ("linear", "knn")
    layer: str | None = None
    pooling: str | None = None
    out: str | None = None


@dataclass(frozen=True)
class Labelled:
    """What the tables hold in common, N samples.

    Attributes:
        features: float32 ``[N, D]`` by the name of the table.
        labels: int64 ``[N]``.
        classes: what each number stands for.
        groups: int64 ``[N]``; None where no sample has one.
        folds: divisions of the samples.
        left_out: rows of the first table that have no label or are missing in another one.
    """

    features: Mapping[str, Tensor]
    labels: Tensor
    classes: tuple[str | int, ...]
    groups: Tensor | None
    folds: tuple[Fold, ...]
    left_out: int


def parse(tables: Sequence[str], given: Mapping[str, str]) -> Wanted:
    """The command's arguments, checked.

    Raises:
        ConfigError: an unknown head, folds that are no number from 2, test tables that do not pair with the others.
    """

    def names(key: str) -> tuple[str, ...]:
        return tuple(part.strip() for part in given.get(key, "").split(",") if part.strip())

    known: dict[str, Head] = {head: head for head in HEADS}
    heads = names("heads") or Wanted.heads
    for head in heads:
        if head not in known:
            raise ConfigError(f"heads: expected some of {', '.join(HEADS)}, got {head!r}{hint(head, HEADS)}")
    folds = given.get("folds", str(FOLDS))
    if folds != EACH_GROUP and (not folds.isdecimal() or int(folds) < 2):
        raise ConfigError(f"folds: expected a whole number from 2, or {EACH_GROUP}, got {folds!r}")
    test = names("test")
    if test and len(test) != len(tables):
        raise ConfigError(f"test: expected a table for each of the {len(tables)} tables, got {len(test)}")
    if test and "folds" in given:
        raise ConfigError(f"folds: expected none beside test=, got {folds!r}; with a test split there is one fold")
    out = given.get("out")
    if out is not None and Path(out).suffix != ".json":
        raise ConfigError(f"out: expected a file name that ends in .json, got {out!r}")
    kinds = given.get("layer"), given.get("pooling")
    return Wanted(tuple(tables), test, folds, tuple(known[head] for head in heads), *kinds, out)


def run_table_probe(tables: Sequence[str], given: Mapping[str, str]) -> int:
    """Prints the figures and writes them as JSON where ``out`` is given; returns the exit code.

    Raises:
        UserError: see :func:`parse` and :func:`jepa_core.evaluate.tables.read_table`; too few classes or groups.
    """
    wanted = parse(tables, given)
    with value_errors_are_users(DataError):
        read = read_labelled(wanted)
        found = cross_validate(
            read.features, read.labels, read.folds, read.groups, wanted.heads, choose_from=[next(iter(read.features))]
        )
    if wanted.out is not None:
        Path(wanted.out).parent.mkdir(parents=True, exist_ok=True)
        Path(wanted.out).write_text(json.dumps(as_json(wanted, read, found), indent=1) + "\n", encoding="utf-8")
        print(wanted.out, file=sys.stderr)
    _show(wanted, read, found)
    return 0


def read_labelled(wanted: Wanted) -> Labelled:
    """Reads the tables and divides what they hold in common.

    Raises:
        ValueError: fewer than two classes, or groups on both sides of the split.
        DataError: no row has a label, samples of the test split are among those to train on.
    """
    sides = [_joined(paths, wanted) for paths in (wanted.tables, wanted.test) if paths]
    if len(sides) > 1:
        both = set(sides[0][0][0].sample_id) & set(sides[1][0][0].sample_id)
        if both:
            raise DataError(
                f"test: expected samples that are not in {wanted.tables[0]} too, got {len(both)}, such as {min(both)!r}"
            )
    together = [_below(*parts) for parts in zip(*(tables for tables, _ in sides), strict=True)]
    labels, classes = together[0].classes()
    groups = together[0].group_numbers()
    names = _short_names(wanted.tables)
    features = {name: table.tensor() for name, table in zip(names, together, strict=True)}
    folds = _folds(wanted, labels, groups, len(sides[0][0][0]))
    return Labelled(features, labels, classes, groups, folds, sum(left_out for _, left_out in sides))


Side = tuple[list[EmbeddingTable], int]


def _joined(paths: Sequence[str], wanted: Wanted) -> Side:
    """The labelled samples that all tables hold, in one order, and how many of the first are left out."""
    tables = [read_table(path, wanted.layer, wanted.pooling) for path in paths]
    for table in tables:
        table.check_one_row_each()
    first = tables[0]
    if first.label is None or all(label is None for label in first.label):
        raise DataError(f"{first.origin}: expected labels, got a table without; embed data that has them")
    kept = first.rows(np.array([label is not None for label in first.label]))
    for table in tables[1:]:
        kept, _ = kept.join(table)
    return [kept, *(kept.join(table)[1] for table in tables[1:])], len(first) - len(kept)


def _below(*parts: EmbeddingTable) -> EmbeddingTable:
    """The rows of both sides of a split as one table."""
    if len(parts) == 1:
        return parts[0]
    if len({part.vectors.shape[1] for part in parts}) > 1:
        raise DataError(
            f"test: expected vectors of one length, got {parts[0].vectors.shape[1]} in {parts[0].origin} and "
            f"{parts[1].vectors.shape[1]} in {parts[1].origin}"
        )

    def column(name: str) -> Any:
        empty = [np.full(len(part), None, dtype=object) for part in parts]
        found = [getattr(part, name) for part in parts]
        return np.concatenate([blank if each is None else each for each, blank in zip(found, empty, strict=True)])

    return replace(
        parts[0],
        vectors=np.concatenate([part.vectors for part in parts]),
        **{name: column(name) for name in ("sample_id", "label", "group", "layer", "pooling", "site")},
    )


def _short_names(paths: Sequence[str]) -> list[str]:
    """File names without their ending; whole paths where those are not different."""
    short = [Path(path).stem for path in paths]
    return short if len(set(short)) == len(short) else list(paths)


def _folds(wanted: Wanted, labels: Tensor, groups: Tensor | None, to_train: int) -> tuple[Fold, ...]:
    rows = torch.arange(len(labels))
    if wanted.test:
        return (Fold("test", rows[:to_train], rows[to_train:]),)
    if wanted.folds == EACH_GROUP:
        if groups is None:
            raise DataError(f"folds: expected groups in {wanted.tables[0]}, got none; give a number of folds")
        return leave_one_group_out(groups)
    found = group_folds(labels, groups, int(wanted.folds))
    return tuple(Fold(str(k), torch.from_numpy(fit), torch.from_numpy(held)) for k, (fit, held) in enumerate(found, 1))


# --------------------------------------------------------------------------------------------------------------------
# Figures
# --------------------------------------------------------------------------------------------------------------------


def differences(read: Labelled, found: CrossValidation, head: Head) -> dict[str, Estimate]:
    """The first table's accuracy minus that of each control, under the same draws of groups."""
    first, *controls = read.features
    return {control: found.difference(first, control, head) for control in controls}


def as_json(wanted: Wanted, read: Labelled, found: CrossValidation) -> dict[str, Any]:
    """Everything that is shown, and what each fold chose."""
    rows = [
        {
            "table": score.readout,
            "head": score.head,
            "accuracy": score.mean,
            "stderr": score.by_groups,
            "stderr_of_folds": None if len(found.folds) == 1 else score.by_folds,
            "folds": list(score.values),
            "chosen": list(score.chosen),
        }
        for score in found.scores
    ]
    apart = [
        {"head": head, "control": control, "difference": estimate.value, "stderr": estimate.stderr}
        for head in wanted.heads
        for control, estimate in differences(read, found, head).items()
    ]
    return {
        "tables": list(wanted.tables),
        "test": list(wanted.test),
        "samples": len(read.labels),
        "classes": [str(name) for name in read.classes],
        "groups": None if read.groups is None else len(read.groups.unique()),
        "left_out": read.left_out,
        "rows": rows,
        "differences": apart,
    }


def _show(wanted: Wanted, read: Labelled, found: CrossValidation) -> None:
    from jepa_core.monitor.console import Console
    from jepa_core.settings import LoggingSettings

    console = Console(1, LoggingSettings(), enabled=True)
    rows = [[name, *(_figure(found, name, head) for head in wanted.heads)] for name in read.features]
    console.table("Accuracy", ["table", *wanted.heads], rows)
    console.message(f"{_protocol(wanted, read)}.")
    first = next(iter(read.features))
    for head in wanted.heads:
        for control, apart in differences(read, found, head).items():
            level = abs(apart.value) <= 2 * apart.stderr
            relation = "level with" if level else "ahead of" if apart.value > 0 else "behind"
            console.message(f"{head}: {first} is {relation} {control} ({apart.value:+.3f} ± {apart.stderr:.3f}).")
    if read.left_out:
        console.message(f"{read.left_out} samples have no label or are not in all tables; they are left out.")


def _figure(found: CrossValidation, name: str, head: Head) -> str:
    score = found.score(name, head)
    return f"{score.mean:.3f} ± {score.by_groups:.3f}"


def _protocol(wanted: Wanted, read: Labelled) -> str:
    tested = sum(len(fold.test) for fold in read.folds)
    groups = "" if read.groups is None else f" of {len(read.groups.unique())} groups, none on both sides"
    how = "Test split" if wanted.test else f"{len(read.folds)} folds"
    return f"{how}, {tested} samples tested{groups}, {len(read.classes)} classes"
