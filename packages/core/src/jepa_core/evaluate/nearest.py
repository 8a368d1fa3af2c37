"""What ``jepa neighbours`` does: the nearest samples of a sample in anybody's embedding table, and their labels."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from jepa_core.checks import hint
from jepa_core.errors import ConfigError, DataError, value_errors_are_users
from jepa_core.evaluate.tables import EmbeddingTable, read_table

OPTIONS = ("table", "of", "k", "layer", "pooling", "metric", "groups", "out")
METRICS = ("cosine", "euclidean")
GROUPS = ("any", "other")
SHOWN = 5
"""Samples whose neighbours are shown where none are named."""
STDOUT = "-"
_CHUNK = 1024


@dataclass(frozen=True)
class Neighbour:
    """One neighbour of a sample.

    Attributes:
        sample_id, label, group: as the table has them.
        distance: ``1 - cosine``, or Euclidean.
    """

    sample_id: str
    label: Any
    group: Any
    distance: float


@dataclass(frozen=True)
class Wanted:
    """What the command line asks for.

    Attributes:
        of: samples by name; empty = the first few.
        k: neighbours of each.
        metric: ``cosine`` or ``euclidean``.
        groups: ``any``, or ``other``: a sample's own recording, drive or speaker does not count.
    """

    of: tuple[str, ...]
    k: int
    metric: str
    groups: str


def nearest(table: EmbeddingTable, queries: Sequence[int], wanted: Wanted) -> tuple[Tensor, Tensor]:
    """Places and distances of the nearest rows, ``[Q, k]`` both; the row itself is none of them.

    Where a row has fewer than k others, what is left has an infinite distance.
    """
    vectors = table.tensor().float()
    if wanted.metric == "cosine":
        vectors = torch.nn.functional.normalize(vectors, dim=1)
    groups = table.group_numbers() if wanted.groups == "other" else None
    places, distances = [], []
    for chunk in torch.tensor(queries, dtype=torch.long).split(_CHUNK):
        own = vectors[chunk]
        distance = 1 - own @ vectors.T if wanted.metric == "cosine" else torch.cdist(own, vectors)
        distance[torch.arange(len(chunk)), chunk] = torch.inf
        if groups is not None:
            distance = distance.masked_fill(groups[chunk][:, None] == groups[None], torch.inf)
        found = distance.topk(min(wanted.k, len(vectors) - 1), largest=False)
        places.append(found.indices)
        # Cosines a little above 1 are rounding.
        distances.append(found.values.clamp(min=0))
    return torch.cat(places), torch.cat(distances)


def neighbours_of(table: EmbeddingTable, queries: Sequence[int], wanted: Wanted) -> list[list[Neighbour]]:
    """The neighbours of each query, the nearest first."""
    places, distances = nearest(table, queries, wanted)

    def entry(place: int, distance: float) -> Neighbour:
        label = None if table.label is None else table.label[place]
        group = None if table.group is None else table.group[place]
        return Neighbour(str(table.sample_id[place]), label, group, distance)

    return [
        [entry(place, distance) for place, distance in zip(*row, strict=True) if distance != float("inf")]
        for row in zip(places.tolist(), distances.tolist(), strict=True)
    ]


def same_label(table: EmbeddingTable, wanted: Wanted) -> tuple[float, float] | None:
    """Share of the labelled samples' ``wanted.k`` nearest neighbours with the sample's label, and that of chance.

    Neighbours are looked for among samples with a label. Chance is the share among all samples that count as
    neighbours of a sample: with ``groups=other`` those of its own group do not. None without labels or neighbours.
    """
    known = [] if table.label is None else [place for place, label in enumerate(table.label) if label is not None]
    if len(known) < 2:
        return None
    labelled = table.rows(torch.tensor(known).numpy())
    classes, _ = labelled.classes()
    places, distances = nearest(labelled, range(len(labelled)), wanted)
    there = torch.isfinite(distances)
    if not bool(there.any()):
        return None
    same = classes[places] == classes[:, None]
    groups = labelled.group_numbers() if wanted.groups == "other" else None
    return float(same[there].double().mean()), _chance(classes, groups)


def _chance(classes: Tensor, groups: Tensor | None) -> float:
    """Mean over rows of the share with the row's class among the rows that are not of its group."""
    own = torch.arange(len(classes)) if groups is None else groups
    others = len(classes) - _how_many(own)
    alike = _how_many(classes) - _how_many(classes * (int(own.max()) + 1) + own)
    return float((alike[others > 0].double() / others[others > 0]).mean())


def _how_many(numbers: Tensor) -> Tensor:
    """How many rows have each row's number."""
    _, place, counts = numbers.unique(return_inverse=True, return_counts=True)
    return counts[place]


# --------------------------------------------------------------------------------------------------------------------
# The command
# --------------------------------------------------------------------------------------------------------------------


def parse(given: Mapping[str, str]) -> Wanted:
    """The command's arguments, checked.

    Raises:
        ConfigError: no table, an unknown metric or choice of groups, a ``k`` that is no number above 0.
    """
    if "table" not in given:
        raise ConfigError("table: expected jepa neighbours <table>.parquet, got none")
    for name, known in (("metric", METRICS), ("groups", GROUPS)):
        if given.get(name, known[0]) not in known:
            raise ConfigError(
                f"{name}: expected one of {', '.join(known)}, got {given[name]!r}{hint(given[name], known)}"
            )
    k = given.get("k", "5")
    if not k.isdecimal() or int(k) < 1:
        raise ConfigError(f"k: expected a whole number from 1, got {k!r}")
    out = given.get("out", STDOUT)
    if out != STDOUT and Path(out).suffix != ".json":
        raise ConfigError(f"out: expected a file name that ends in .json, or - for standard output, got {out!r}")
    of = tuple(name.strip() for name in given.get("of", "").split(",") if name.strip())
    return Wanted(of, int(k), given.get("metric", METRICS[0]), given.get("groups", GROUPS[0]))


def run_neighbours(given: Mapping[str, str]) -> int:
    """Shows tables on the console, or writes JSON where ``out`` is given; returns the exit code.

    Raises:
        UserError: see :func:`parse` and :func:`jepa_core.evaluate.tables.read_table`; an unknown sample.
    """
    wanted = parse(given)
    table = read_table(given["table"], given.get("layer"), given.get("pooling"))
    table.check_one_row_each()
    if len(table) < 2:
        raise DataError(f"{table.origin}: expected at least 2 samples, got {len(table)}")
    queries = _places(table, wanted.of)
    with value_errors_are_users(DataError):
        found = neighbours_of(table, queries, wanted)
        shares = same_label(table, replace(wanted, k=1))
    if "out" in given:
        _write(_as_json(given["table"], table, queries, found, wanted, shares), given["out"])
    else:
        _show(table, queries, found, wanted, shares)
    return 0


def _places(table: EmbeddingTable, of: Sequence[str]) -> list[int]:
    place = {str(name): index for index, name in enumerate(table.sample_id)}
    unknown = next((name for name in of if name not in place), None)
    if unknown is not None:
        near = hint(unknown, list(place)[:5000])
        raise ConfigError(f"of: expected names of samples in {table.origin}, got {unknown!r}{near}")
    return [place[name] for name in of] or list(range(min(SHOWN, len(table))))


def _as_json(
    path: str,
    table: EmbeddingTable,
    queries: Sequence[int],
    found: Sequence[Sequence[Neighbour]],
    wanted: Wanted,
    shares: tuple[float, float] | None,
) -> dict[str, Any]:
    entries = [
        {
            "sample_id": str(table.sample_id[place]),
            "label": None if table.label is None else table.label[place],
            "neighbours": [vars(neighbour) for neighbour in each],
        }
        for place, each in zip(queries, found, strict=True)
    ]
    share, chance = shares or (None, None)
    head = {"table": path, "metric": wanted.metric, "groups": wanted.groups, "samples": len(table)}
    return {**head, "same_label": share, "same_label_by_chance": chance, "of": entries}


def _write(content: Mapping[str, Any], out: str) -> None:
    text = json.dumps(content, indent=1, ensure_ascii=False, default=str)
    if out == STDOUT:
        print(text)
        return
    Path(out).parent.mkdir(parents=True, exist_ok=True)
    Path(out).write_text(text + "\n", encoding="utf-8")
    print(out, file=sys.stderr)


def _show(
    table: EmbeddingTable,
    queries: Sequence[int],
    found: Sequence[Sequence[Neighbour]],
    wanted: Wanted,
    shares: tuple[float, float] | None,
) -> None:
    from jepa_core.monitor.console import Console
    from jepa_core.settings import LoggingSettings

    console = Console(1, LoggingSettings(), enabled=True)
    for place, each in zip(queries, found, strict=True):
        label = "" if table.label is None or table.label[place] is None else f", {table.label[place]}"
        rows = [
            [n.sample_id, "" if n.label is None else str(n.label), n.group or "", f"{n.distance:.4f}"] for n in each
        ]
        console.table(
            f"{table.sample_id[place]}{label}", ["neighbour", "label", "group", f"{wanted.metric} distance"], rows
        )
    if shares is not None:
        other = " in another group" if wanted.groups == "other" else ""
        console.message(
            f"The nearest neighbour{other} has the sample's label in {shares[0]:.3f} of the labelled samples; "
            f"by chance it would in {shares[1]:.3f}."
        )
