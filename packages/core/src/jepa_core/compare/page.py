"""Writes ``compare.html``: one file that opens offline; verdict, scores, layers, neighbours side by side."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jepa_core.compare.charts import curve_chart, score_chart
from jepa_core.compare.scores import Example, Findings, LayerMap, figure, interval_text, p_text, score_name
from jepa_core.compare.verdict import judge
from jepa_core.report.page import environment, page_chart
from jepa_core.thumbnails import inlined

Pictures = Path | Mapping[str, bytes]
"""A folder with one picture a sample, ``<sample_id>.png`` or ``.jpg``, or picture files by sample id."""

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
SIDE = 200
"""Pixels of a thumbnail's longer side."""


def render(found: Findings, pictures: Sequence[Pictures | None] = (None, None)) -> str:
    """The page.

    Args:
        found: what to show.
        pictures: of the samples of either table, see :data:`Pictures`; None = names only.
    """
    tone, sentence = judge(found)
    charts = [chart for chart in (score_chart(found.scores), curve_chart(found)) if chart is not None]
    template = environment("jepa_core.compare").get_template("page.html")
    return template.render(
        found=found,
        tone=tone,
        sentence=sentence,
        rows=[_row(score) for score in found.scores],
        charts=[page_chart(chart) for chart in charts],
        maps=[_map(layers) for layers in found.layer_maps],
        examples=[_example(example, pictures) for example in found.examples],
        figures=[(name, figure(value)) for name, value in found.figures.items()],
        settings=[
            (key, ", ".join(map(str, v)) if isinstance(v, tuple) else str(v)) for key, v in found.settings.items()
        ],
        invariances=_invariances(found),
    )


def _row(score: Any) -> dict[str, Any]:
    expected = score.null_mean if math.isfinite(score.null_mean) else score.chance
    return {
        "name": score_name(score).replace("->", "→"),
        "above": math.isfinite(score.p_value) and score.value > score.tau,
        "value": figure(score.value),
        "interval": interval_text(score),
        "chance": figure(expected),
        "p": p_text(score),
        "calibrated": figure(score.calibrated),
        "n": score.n,
        "how": f"{score.estimator}; null: {score.null}; interval: {score.interval}",
        "warnings": score.warnings,
    }


def _map(layers: LayerMap) -> dict[str, Any]:
    """A heat map whose cells are filled by how far they are above the threshold of the maximum."""
    top = max((value for line in layers.values for value in line if math.isfinite(value)), default=1.0)
    floor = layers.tau if math.isfinite(layers.tau) else 0.0
    return {
        "title": layers.title,
        "columns": layers.columns,
        "lines": [
            {
                "name": name,
                "cells": [{"text": figure(v, 2), "inside": not v > floor, "fill": _fill(v, floor, top)} for v in line],
            }
            for name, line in zip(layers.rows, layers.values, strict=True)
        ],
        "note": _map_note(layers),
    }


def _fill(value: float, floor: float, top: float) -> int:
    if not value > floor or top <= floor:
        return 0
    return round(15 + 60 * (value - floor) / (top - floor))


def _map_note(layers: LayerMap) -> str:
    if not math.isfinite(layers.p_value):
        return f"No p-value. n = {layers.n}."
    return (
        f"Highest: {layers.best[0]} with {layers.best[1]}, p = {p_text(layers)} against the highest of each of "
        f"{layers.permutations} permutations (these: {figure(layers.null_mean)} ± {figure(layers.null_std)}). Grey: "
        f"inside the null band, up to {figure(layers.tau)}. n = {layers.n}."
    )


def _example(example: Example, pictures: Sequence[Pictures | None]) -> dict[str, Any]:
    sides = []
    for near, folder in zip((example.first, example.second), pictures, strict=True):
        cards = [
            {"name": n.sample_id, "label": n.label, "shared": n.shared, "image": thumbnail(folder, n.sample_id)}
            for n in near
        ]
        sides.append({"query": thumbnail(folder, example.sample_id), "cards": cards})
    return {"name": example.sample_id, "label": example.label, "overlap": example.overlap, "sides": sides}


def thumbnail(pictures: Pictures | None, sample_id: str) -> str:
    """A sample's picture, made small, as a data URL; empty where there is none."""
    if pictures is None:
        return ""
    data = _of_folder(pictures, sample_id) if isinstance(pictures, Path) else pictures.get(sample_id)
    small = None if data is None else inlined(data, SIDE)
    return "" if small is None else small.url


def _of_folder(folder: Path, sample_id: str) -> bytes | None:
    base = folder.resolve()
    for suffix in SUFFIXES:
        path = (base / f"{sample_id}{suffix}").resolve()
        # Names may come from anybody's file: they must not pull other files into a page people send around.
        if path.is_relative_to(base) and path.is_file():
            return path.read_bytes()
    return None


def _invariances(found: Findings) -> list[tuple[str, str, str]]:
    """What each measure ignores and what chance gives, for the measures shown."""
    from jepa_core.compare.registry import MEASURES

    names = dict.fromkeys(score.measure for score in found.scores)
    shown = [MEASURES[name] for name in names if name in MEASURES]
    return [(m.title, "; ".join(m.invariances), m.chance_text) for m in shown]
