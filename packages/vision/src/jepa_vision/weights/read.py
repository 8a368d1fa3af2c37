"""Reading weights of whatever kind: the kind is told from the file or folder."""

from __future__ import annotations

import os
from pathlib import Path

from jepa_core.weights.folders import CONFIG, read_json
from jepa_vision.weights.contents import Copy, Parts, Weights, WeightsError
from jepa_vision.weights.huggingface import read_huggingface
from jepa_vision.weights.official import Hints, read_official
from jepa_vision.weights.own import OWN
from jepa_vision.weights.runs import is_run, read_run
from jepa_vision.weights.timm_models import is_timm, read_timm

KINDS = (
    "a released .pth.tar or .pt file, a folder of transformers, timm or jepakit with config.json and "
    "model.safetensors, or the folder of a run or checkpoint"
)


def read_weights(
    path: str | os.PathLike[str],
    which: Copy | None = None,
    *,
    parts: Parts = "all",
    hints: Hints | None = None,
    fallback: Hints | None = None,
) -> Weights:
    """Reads weights of any kind.

    Args:
        path: see :data:`KINDS`.
        which: ``teacher`` or ``student``; needed where the file has both (a release, a run). Of a kind that has but
            one encoder that one is taken.
        parts: ``all`` (with the predictor where there is one) or ``encoder``.
        hints, fallback: see :func:`jepa_vision.weights.official.read_official`; other kinds do not need them.

    Raises:
        WeightsError: no known kind, or the keys are not what they should be.
        ValueError: a file cannot be read.
    """
    place = Path(path)
    if place.is_dir() and not is_run(place):
        return read_folder(place, parts=parts)
    if not place.exists():
        raise WeightsError(f"{place}: no such file or folder; expected {KINDS}")
    if which is None:
        raise WeightsError(f"{place}: it has two encoders: say which, teacher (moving average) or student")
    if place.is_dir():
        return read_run(place, which, parts=parts)
    return read_official(place, which, parts=parts, hints=hints, fallback=fallback)


def has_copies(path: str | os.PathLike[str]) -> bool:
    """Whether weights at this place have a teacher and a student to choose from: files and runs do, folders do not."""
    place = Path(path)
    return place.is_file() or is_run(place)


def read_folder(folder: Path, *, parts: Parts = "all") -> Weights:
    """Reads a folder of transformers, timm or this project, told by its ``config.json``.

    Raises:
        WeightsError: it is none of these, or the keys are not what they should be.
        ValueError: a file cannot be read.
    """
    if not (folder / CONFIG).is_file():
        raise WeightsError(f"{folder}: no {CONFIG} in it; expected {KINDS}")
    config = read_json(folder / CONFIG)
    if OWN.is_own(config):
        return OWN.read(folder, parts=parts)
    if is_timm(config):
        return read_timm(folder)
    if "model_type" in config:
        return read_huggingface(folder, parts=parts)
    raise WeightsError(f"{folder / CONFIG}: expected that of transformers, timm or jepakit, got keys {sorted(config)}")
