"""Weights of a run: its newest whole checkpoint, or a checkpoint folder, with the configuration that lies in it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from jepa_core.config import compose, recipe_layers
from jepa_core.plugins import find_modality
from jepa_core.train import checkpoint as checkpoints
from jepa_vision.weights.contents import Copy, Parts, Weights, WeightsError
from jepa_vision.weights.facts import Facts, facts_from_settings
from jepa_vision.weights.own import sorted_into_parts

_PREFIXES: dict[Copy, str] = {"student": "encoder.", "teacher": "target.encoder."}


def is_run(folder: Path) -> bool:
    """Whether a folder is a run's or a checkpoint's."""
    return (folder / "manifest.json").is_file() or checkpoints.has_checkpoint(folder)


def read_run(folder: Path, which: Copy, *, parts: Parts = "all") -> Weights:
    """Reads a checkpoint.

    Args:
        folder: of a run (its newest whole checkpoint is taken) or of a checkpoint.
        which: ``student`` (the online encoder) or ``teacher`` (its moving average).
        parts: ``all`` (with the predictor) or ``encoder``.

    Raises:
        WeightsError: it is no run of images or videos, or has no moving average.
        jepa_core.train.checkpoint.CheckpointError: it is torn or missing.
    """
    if not (folder / "manifest.json").is_file():
        folder = checkpoints.newest(folder, lambda text: print(f"jepa: {text}", file=sys.stderr))
    facts = _facts(folder)
    state = checkpoints.load_model(folder)
    prefix = _PREFIXES[which]
    if not any(key.startswith(prefix) for key in state):
        raise WeightsError(f"{folder}: expected a moving average (teacher), the run has none: take the student")
    found = sorted_into_parts(facts, state, str(folder), "run", parts, prefix)
    return Weights(found.origin, "run", found.facts, found.encoder, found.predictor, found.tables, which)


def _facts(folder: Path) -> Facts:
    config = folder / "config.yaml"
    name = str(recipe_layers(config)[-1].values.get("modality"))
    if name not in ("vision", "video"):
        raise WeightsError(f"{folder}: expected a run of vision or video, got modality {name}")
    settings: Any = compose(find_modality(name).schema, config, ())
    data, encoder = settings.data, settings.vision.encoder
    if encoder.timm is not None:
        raise WeightsError(f"{folder}: expected an encoder of this project, got vision.encoder.timm={encoder.timm}")
    frames, tubelet = ((data.frames,), (encoder.tubelet,)) if name == "video" else ((), ())
    size, patch = (*frames, data.height, data.width), (*tubelet, encoder.patch, encoder.patch)
    return facts_from_settings(settings.vision, size, patch)
