"""Weights of a run of images or videos; see :mod:`jepa_core.weights.runs`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jepa_core.weights import runs
from jepa_core.weights.runs import is_run as is_run
from jepa_vision.weights.contents import Copy, Parts, Weights, WeightsError
from jepa_vision.weights.facts import Facts, facts_from_settings


def read_run(folder: Path, which: Copy, *, parts: Parts = "all") -> Weights:
    """Reads a run (its newest whole checkpoint) or a checkpoint; see :func:`jepa_core.weights.runs.read_run`.

    Raises:
        WeightsError: it is no run of images or videos, or has no moving average.
        jepa_core.train.checkpoint.CheckpointError: it is torn or missing.
    """
    return runs.read_run(folder, which, ("vision", "video"), _facts, parts=parts)


def _facts(settings: Any, folder: Path) -> Facts:
    data, encoder = settings.data, settings.vision.encoder
    if encoder.timm is not None:
        raise WeightsError(f"{folder}: expected an encoder of this project, got vision.encoder.timm={encoder.timm}")
    frames, tubelet = ((data.frames,), (encoder.tubelet,)) if settings.modality == "video" else ((), ())
    size, patch = (*frames, data.height, data.width), (*tubelet, encoder.patch, encoder.patch)
    return facts_from_settings(settings.vision, size, patch)
