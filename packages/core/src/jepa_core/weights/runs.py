"""Weights of a run: its newest whole checkpoint, or a checkpoint folder, with the configuration that lies in it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from jepa_core.config import compose, recipe_layers
from jepa_core.plugins import find_modality
from jepa_core.train import checkpoint as checkpoints
from jepa_core.weights.contents import Copy, F, Parts, Weights, WeightsError
from jepa_core.weights.own import sorted_into_parts

_PREFIXES: dict[Copy, str] = {"student": "encoder.", "teacher": "target.encoder."}


def is_run(folder: Path) -> bool:
    """Whether a folder is a run's or a checkpoint's."""
    return (folder / "manifest.json").is_file() or checkpoints.has_checkpoint(folder)


def read_run(
    folder: Path,
    which: Copy,
    modalities: Sequence[str],
    facts_of: Callable[[Any, Path], F],
    *,
    parts: Parts = "all",
) -> Weights[F]:
    """Reads a checkpoint.

    Args:
        folder: of a run (its newest whole checkpoint is taken) or of a checkpoint.
        which: ``student`` (the online encoder) or ``teacher`` (its moving average).
        modalities: whose runs are taken.
        facts_of: the facts of a run's settings; gets the checkpoint's folder too, for its messages.
        parts: ``all`` (with the predictor) or ``encoder``.

    Raises:
        WeightsError: it is no run of these modalities, or has no moving average.
        jepa_core.train.checkpoint.CheckpointError: it is torn or missing.
    """
    if not (folder / "manifest.json").is_file():
        folder = checkpoints.newest(folder, lambda text: print(f"jepa: {text}", file=sys.stderr))
    facts = facts_of(_settings(folder, modalities), folder)
    state = checkpoints.load_model(folder)
    prefix = _PREFIXES[which]
    if not any(key.startswith(prefix) for key in state):
        raise WeightsError(f"{folder}: expected a moving average (teacher), the run has none: take the student")
    return replace(sorted_into_parts(facts, state, str(folder), "run", parts, prefix), copy=which)


def _settings(folder: Path, modalities: Sequence[str]) -> Any:
    config = folder / "config.yaml"
    name = str(recipe_layers(config)[-1].values.get("modality"))
    if name not in modalities:
        raise WeightsError(f"{folder}: expected a run of {' or '.join(modalities)}, got modality {name}")
    return compose(find_modality(name).schema, config, ())
