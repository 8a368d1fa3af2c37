"""What a run leaves of its held-back samples: who their neighbours are and a map of them, for the report.

It reads the encoders and changes nothing: modes, generators and weights stay as they were, and where it fails the run
goes on with one line that says so.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from jepa_core.contracts import Modality
from jepa_core.evaluate import nearest
from jepa_core.evaluate.features import probed_features
from jepa_core.evaluate.labelled import frozen_rows
from jepa_core.evaluate.projection import project
from jepa_core.evaluate.sample_rows import (
    Drawn,
    SampleRows,
    choose_queries,
    counts_other_groups,
    draw_places,
    draw_samples,
    embed_samples,
    largest_group,
)
from jepa_core.evaluate.share import Chunks
from jepa_core.evaluate.tables import EmbeddingTable
from jepa_core.evaluation_source import Evaluable, LabelledSource
from jepa_core.settings import RunSettings
from jepa_core.train import outcome
from jepa_core.train.online_probe import undisturbed

FILE, FOLDER = "samples.json", "pictures/samples"
SPLIT = "test"
QUERIES, NEIGHBOURS = 6, 5
FEWEST = 3
"""Samples below which there is nothing to show."""

TRAINED, BEFORE = "trained", "before training"


@dataclass(frozen=True)
class Encoders:
    """What embeds the samples, both on ``device``: the run's method, and the same before training."""

    trained: Any
    before: Any
    device: torch.device


def write_samples(
    config: RunSettings, modality: Modality, encoders: Encoders, run_dir: Path, warn: Callable[[str], None]
) -> None:
    """``samples.json`` and ``pictures/samples/``; neither where nothing is held back, or no probe is wanted.

    Args:
        config: of the run; ``report.samples`` says how many samples, ``probe`` of which layer.
        modality: whose samples and pictures.
        encoders: see there.
        run_dir: of the run; what an earlier end of it left is removed.
        warn: is told what failed, in one line.
    """
    (run_dir / FILE).unlink(missing_ok=True)
    shutil.rmtree(run_dir / FOLDER, ignore_errors=True)
    if not config.report.samples or not getattr(config.probe, "enabled", True) or not isinstance(modality, Evaluable):
        return
    try:
        with undisturbed(encoders.trained), undisturbed(encoders.before):
            _write(config, modality, encoders, run_dir, warn)
    except Exception as error:  # whatever a plug-in raises: the run is done, and its result must not be lost
        outcome.write_json(run_dir / FILE, {"error": _one_line(error)})
        warn(f"the report shows no samples: {_one_line(error)}")


def _write(
    config: RunSettings, modality: Modality, encoders: Encoders, run_dir: Path, warn: Callable[[str], None]
) -> None:
    start_s = time.perf_counter()
    found = _found(config, modality, encoders, run_dir)
    if found is None:
        return
    if reason := found.get("pictures_error"):
        warn(f"the report has no pictures of samples: {reason}")
    outcome.write_json(run_dir / FILE, {**found, "seconds": round(time.perf_counter() - start_s, 2)})


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _found(config: RunSettings, modality: Any, encoders: Encoders, run_dir: Path) -> dict[str, Any] | None:
    source: LabelledSource | None = modality.evaluation(config, SPLIT)
    if source is None or not len(source):
        return None
    encoder, layer = probed_features(config.probe)
    places = draw_places(len(source), config.report.samples, config.seed)
    readers = {TRAINED: frozen_rows(encoders.trained, encoder, layer)}
    if any(source.label(place) is not None for place in places):  # else there is no share to compare
        readers[BEFORE] = frozen_rows(encoders.before, encoder, layer)
    rows = embed_samples(source, _chunks(config, source, places), readers, encoders.device)
    if len(rows.places) < FEWEST:
        raise ValueError(f"expected {FEWEST} or more held-back samples that can be read, got {len(rows.places)}")
    facts = {
        "split": SPLIT,
        "samples": len(rows.places),
        "of": len(source),
        "unreadable": rows.unreadable,
        "seed": config.seed,
        "encoder": encoder,
        "layer": layer,
    }
    shown = _neighbours(rows, config.seed)
    drawn, reason = _drawn(config, modality, source, _places_shown(rows, shown["queries"]))
    _add_pictures(shown["queries"], drawn, run_dir)
    return {**facts, "neighbours": shown, "map": _map(rows.tables[TRAINED], config.seed), **reason, "how": drawn.how}


def _chunks(config: RunSettings, source: LabelledSource, places: Sequence[int]) -> Chunks:
    return Chunks(source, places, getattr(config.probe, "batch_size", config.trainer.batch_size), config.seed)


# --------------------------------------------------------------------------------------------------------------------
# Neighbours
# --------------------------------------------------------------------------------------------------------------------


def _neighbours(rows: SampleRows, seed: int) -> dict[str, Any]:
    """The queries with their neighbours, and how often neighbours have the same label."""
    table = rows.tables[TRAINED]
    k = min(NEIGHBOURS, len(table) - 1)
    groups = _column(table.group)
    wanted = nearest.Wanted((), k, "cosine", "other" if counts_other_groups(groups, k) else "any")
    queries = choose_queries(_column(table.label), groups, QUERIES, seed)
    found = nearest.neighbours_of(table, queries, wanted)
    shares = {name: nearest.same_label(each, wanted) for name, each in rows.tables.items()}
    trained, before = shares[TRAINED], shares.get(BEFORE)
    return {
        "k": k,
        "groups": wanted.groups,
        "grouped": largest_group(groups) > 1,
        "same_label": None if trained is None else trained[0],
        "by_chance": None if trained is None else trained[1],
        "before_training": None if before is None else before[0],
        "queries": [
            {**_named(table, place), "neighbours": [{**vars(near), "picture": None} for near in each]}
            for place, each in zip(queries, found, strict=True)
        ],
    }


def _column(values: Any) -> list[Any]:
    return [] if values is None else list(values)


def _named(table: EmbeddingTable, row: int) -> dict[str, Any]:
    assert table.label is not None and table.group is not None, "made with both"
    return {
        "sample_id": str(table.sample_id[row]),
        "label": table.label[row],
        "group": table.group[row],
        "picture": None,
    }


def _map(table: EmbeddingTable, seed: int) -> dict[str, Any]:
    """The plane and what each point is; the reason where there is none."""
    try:
        projection = project(table.vectors, seed)
    except ValueError as error:
        return {"error": _one_line(error)}
    return {
        "method": projection.method,
        "xy": projection.xy.round(4).tolist(),
        "sample_id": [str(name) for name in table.sample_id],
        "label": _column(table.label),
        "group": _column(table.group),
    }


# --------------------------------------------------------------------------------------------------------------------
# Pictures
# --------------------------------------------------------------------------------------------------------------------


def _places_shown(rows: SampleRows, queries: Sequence[dict[str, Any]]) -> list[int]:
    """Places in the source of the queries and their neighbours."""
    shown = {entry["sample_id"] for query in queries for entry in (query, *query["neighbours"])}
    names = _column(rows.tables[TRAINED].sample_id)
    return [place for place, name in zip(rows.places, names, strict=True) if name in shown]


def _drawn(
    config: RunSettings, modality: Any, source: LabelledSource, places: Sequence[int]
) -> tuple[Drawn, dict[str, str]]:
    """Pictures; where drawing fails the samples are shown by name alone."""
    try:
        return draw_samples(modality, config, _chunks(config, source, places)), {}
    except Exception as error:  # of a plug-in's drawing
        return Drawn({}), {"pictures_error": _one_line(error)}


def _add_pictures(queries: Sequence[dict[str, Any]], drawn: Drawn, run_dir: Path) -> None:
    """Writes each sample's picture once and names it wherever the sample stands."""
    folder, files = run_dir / FOLDER, dict[str, str]()
    if drawn.png:
        folder.mkdir(parents=True, exist_ok=True)
    for entry in (entry for query in queries for entry in (query, *query["neighbours"])):
        name = entry["sample_id"]
        if name not in drawn.png:
            continue
        if name not in files:
            files[name] = f"{len(files) + 1:02d}.png"
            (folder / files[name]).write_bytes(drawn.png[name])
        entry["picture"] = files[name]
