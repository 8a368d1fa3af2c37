"""The project's own format: ``config.json`` with the facts and a checksum, ``model.safetensors`` with the tensors."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from jepa_core.weights import KeyTable, first
from jepa_vision.weights import layouts
from jepa_vision.weights.contents import Parts, Weights, WeightsError, refuse_misfits
from jepa_vision.weights.facts import Facts, facts_from_json
from jepa_vision.weights.files import CONFIG, WEIGHTS, read_json, read_tensors, sha256, write_json, write_tensors

FORMAT, VERSION = "jepakit-vision", 1


def is_own(config: Mapping[str, Any]) -> bool:
    """Whether a ``config.json`` is of this format."""
    return config.get("format") == FORMAT


def write_own(folder: Path, facts: Facts, tensors: Mapping[str, Tensor]) -> None:
    """Writes both files.

    Args:
        folder: is made where there is none.
        facts: of the model.
        tensors: ``encoder.<name>`` and ``predictor.<name>``.
    """
    write_tensors(folder, tensors)
    # Last, so that an interrupted writing is told by its checksum.
    checksum = sha256(folder / WEIGHTS)
    config = {"format": FORMAT, "format_version": VERSION, "sha256": checksum, "model": facts.as_json()}
    write_json(folder / CONFIG, config)


def read_own(folder: Path, *, parts: Parts = "all") -> Weights:
    """Reads both files and checks the sum.

    Raises:
        WeightsError: the format is newer, the sum differs, or a key is missing, left over or wrongly shaped.
        ValueError: a file cannot be read.
    """
    config = read_json(folder / CONFIG)
    version = config.get("format_version")
    if not is_own(config) or not isinstance(version, int):
        raise WeightsError(f"{folder / CONFIG}: expected the format {FORMAT}, got {config.get('format')!r}")
    if version > VERSION:
        raise WeightsError(f"{folder}: format {version} is newer than {VERSION} here: install a newer jepa-vision")
    if sha256(folder / WEIGHTS) != config.get("sha256"):
        raise WeightsError(f"{folder / WEIGHTS} differs from its checksum in {CONFIG}: copy or download both again")
    facts = facts_from_json(config.get("model", {}))
    found = sorted_into_parts(facts, read_tensors(folder), str(folder), "jepakit", parts)
    if parts == "all" and found.tables["encoder"].outside:
        raise WeightsError(
            f"{folder / WEIGHTS}: keys of no part: {first(found.tables['encoder'].outside)}", found.tables
        )
    return found


def sorted_into_parts(
    facts: Facts, state: Mapping[str, Tensor], origin: str, kind: str, parts: Parts, encoder: str = "encoder."
) -> Weights:
    """Tensors by our own names, of which ``encoder`` is the prefix of the wanted encoder's.

    Raises:
        WeightsError: a key is missing, left over or wrongly shaped.
    """
    if parts == "encoder":
        facts = facts.without_predictor()
    found: dict[str, dict[str, Tensor]] = {}
    tables: dict[str, KeyTable] = {}
    prefixes = {"encoder": encoder, "predictor": "predictor."}
    for part, shapes in facts.shapes().items():
        inside = {k.removeprefix(prefixes[part]): v for k, v in state.items() if k.startswith(prefixes[part])}
        tables[part] = KeyTable(prefixes[part])
        wanted = {key: layouts.Place((key,), shape) for key, shape in shapes.items()}
        found[part] = layouts.read(inside, wanted, shapes, tables[part])
    used = tuple(prefixes[part] for part in tables)
    tables["encoder"].outside = [key for key in state if not key.startswith(used)]
    refuse_misfits(origin, tables)
    return Weights(origin, kind, facts, found["encoder"], found.get("predictor"), tables)
