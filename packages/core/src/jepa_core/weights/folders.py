"""Folders of a configuration and safetensors: read with one-line errors, each file written as a whole."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from jepa_core.plain_json import parse_json
from jepa_core.weights.keys import read_state, tensors_of

CONFIG, WEIGHTS = "config.json", "model.safetensors"
_INDEX = "model.safetensors.index.json"


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file that holds a mapping.

    Raises:
        ValueError: there is none, or it is no such file.
    """
    try:
        values = parse_json(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"{path}: cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise ValueError(f"{path}: expected JSON, got {error}") from None
    if not isinstance(values, dict):
        raise ValueError(f"{path}: expected a mapping, got {type(values).__name__}")
    return values


def read_tensors(folder: Path) -> dict[str, Tensor]:
    """The tensors of a folder: ``model.safetensors``, or the files that its index names.

    Raises:
        ValueError: neither is there, or one cannot be read.
    """
    if not (folder / _INDEX).is_file():
        return tensors_of(read_state(folder / WEIGHTS), str(folder / WEIGHTS))
    names = read_json(folder / _INDEX).get("weight_map", {})
    found: dict[str, Tensor] = {}
    for name in sorted(set(names.values())):
        if Path(name).name != name:
            raise ValueError(f"{folder / _INDEX}: expected names of files beside it, got {name!r}")
        found |= tensors_of(read_state(folder / name), str(folder / name))
    return found


def write_tensors(folder: Path, tensors: Mapping[str, Tensor]) -> None:
    """Writes ``model.safetensors``; the folder is made where there is none.

    Raises:
        ValueError: the folder cannot be written to.
    """
    part = folder / f".{WEIGHTS}.part"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        save_file({key: value.detach().cpu().contiguous() for key, value in tensors.items()}, part, {"format": "pt"})
        os.replace(part, folder / WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{folder}: cannot be written: {error}") from None


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Writes a JSON file.

    Raises:
        ValueError: it cannot be written.
    """
    part = path.with_name(f".{path.name}.part")
    try:
        part.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
        os.replace(part, path)
    except OSError as error:
        raise ValueError(f"{path}: cannot be written: {error.strerror}") from None


def sha256(path: Path) -> str:
    """Of a file's bytes, in hexadecimal.

    Raises:
        ValueError: there is no such file.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ValueError(f"{path}: cannot be read: {error.strerror}") from None
