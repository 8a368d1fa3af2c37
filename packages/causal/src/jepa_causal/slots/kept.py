"""Whether a kept slot encoder is the one a run would train: by its settings, frames, code and weights."""

from __future__ import annotations

import hashlib
import inspect
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import cache
from pathlib import Path

from jepa_causal.episodes import Episode
from jepa_causal.slots import attention, pixels, training, video
from jepa_causal.slots.storage import frames_hash, load_encoder
from jepa_causal.slots.training import SlotTraining
from jepa_core import seeds
from jepa_core.nn import transformer
from jepa_core.train import schedule
from jepa_core.weights.folders import CONFIG, read_json

# All that decides which weights a training ends with.
_CODE = (attention, pixels, training, video, seeds, transformer, schedule)


def origin(settings: SlotTraining, episodes: Sequence[Episode], seed: int) -> dict[str, str]:
    """What the weights of an encoder come from, by name; :func:`save_encoder` keeps it in ``config.json``.

    Args:
        settings: see :class:`SlotTraining`. How often it reports does not count.
        episodes: that it is trained on, with frames.
        seed: of :func:`train_slots`.
    """
    facts = {name: value for name, value in asdict(settings).items() if name != "log_every"}
    return {
        "settings": json.dumps(facts, sort_keys=True),
        "seed": str(seed),
        "frames": frames_hash(episodes),
        "code": code_hash(),
    }


@cache
def code_hash() -> str:
    """A name for the source text of model and training, hexadecimal.

    The text and not a version number, which whoever changes the code would have to remember; that a changed comment
    costs one training is the price.
    """
    digest = hashlib.sha256()
    for module in _CODE:
        digest.update(inspect.getsource(module).encode())
    return digest.hexdigest()


def why_not(folder: str | os.PathLike[str], wanted: Mapping[str, str]) -> str | None:
    """Why the encoder in a folder is not the wanted one; empty where there is none at all, None where it is.

    Args:
        folder: as :func:`save_encoder` wrote it, or anything else.
        wanted: of :func:`origin`.
    """
    path = Path(folder) / CONFIG
    if not path.is_file():
        return ""
    try:
        load_encoder(folder)
        found = read_json(path).get("trained_from")
    except ValueError as error:
        return str(error)
    if not (isinstance(found, dict) and found):
        return f"{CONFIG} does not say what it was trained from"
    changed = [name for name in wanted if found.get(name) != wanted[name]]
    return f"it was trained from other {' and '.join(changed)}" if changed else None
