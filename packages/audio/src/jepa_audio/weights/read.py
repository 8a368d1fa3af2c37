"""Reading weights of whatever kind: the kind is told from the file or folder."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from jepa_audio.front_ends import sample_rate_of
from jepa_audio.weights.contents import Weights
from jepa_audio.weights.facts import Facts, facts_from_json, facts_from_settings
from jepa_audio.weights.official import Hints, read_official
from jepa_core.weights import Copy, Parts, WeightsError, runs
from jepa_core.weights.own import OwnFormat

OWN = OwnFormat("jepakit-audio", 1, "jepa-audio", facts_from_json)
KINDS = "a released .ckpt file of Audio-JEPA, a folder of jepakit with config.json and model.safetensors, or a run"


def read_weights(
    path: str | os.PathLike[str], which: Copy | None = None, *, parts: Parts = "all", hints: Hints | None = None
) -> Weights:
    """Reads weights of any kind.

    Args:
        path: see :data:`KINDS`.
        which: ``teacher`` or ``student``; needed where there are both (a release, a run).
        parts: ``all`` (with the predictor where there is one) or ``encoder``.
        hints: see :func:`jepa_audio.weights.official.read_official`; other kinds do not need them.

    Raises:
        WeightsError: no known kind, or the keys are not what they should be.
        ValueError: a file cannot be read.
    """
    place = Path(path)
    if not place.exists():
        raise WeightsError(f"{place}: no such file or folder; expected {KINDS}")
    if not has_copies(place):
        return OWN.read(place, parts=parts)
    if which is None:
        raise WeightsError(f"{place}: it has two encoders: say which, teacher (moving average) or student")
    if place.is_dir():
        return read_run(place, which, parts=parts)
    return read_official(place, which, parts=parts, hints=hints)


def has_copies(path: str | os.PathLike[str]) -> bool:
    """Whether weights at this place have a teacher and a student to choose from: files and runs do, folders do not."""
    place = Path(path)
    return place.is_file() or runs.is_run(place)


def read_run(folder: Path, which: Copy, *, parts: Parts = "all") -> Weights:
    """Reads a run (its newest whole checkpoint) or a checkpoint; see :func:`jepa_core.weights.runs.read_run`.

    Raises:
        WeightsError: it is no run of sound, or has no moving average.
        jepa_core.train.checkpoint.CheckpointError: it is torn or missing.
    """
    return runs.read_run(folder, which, ("audio",), _facts, parts=parts)


def _facts(settings: Any, folder: Path) -> Facts:
    rate = sample_rate_of(settings.audio.frontend)
    return facts_from_settings(settings.audio, round(settings.data.seconds * rate))
