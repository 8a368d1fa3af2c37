"""The project's own format: ``config.json`` with the facts and a checksum, ``model.safetensors`` with the tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic

from torch import Tensor

from jepa_core.weights import layouts
from jepa_core.weights.contents import F, Parts, Weights, WeightsError, refuse_misfits
from jepa_core.weights.folders import CONFIG, WEIGHTS, read_json, read_tensors, sha256, write_json, write_tensors
from jepa_core.weights.keys import KeyTable, first


@dataclass(frozen=True)
class OwnFormat(Generic[F]):
    """The format of one modality.

    Attributes:
        name: stands in ``config.json``.
        version: that is written; older ones are read.
        package: what to install a newer version of.
        facts_from_json: makes the facts of what ``as_json`` gave.
    """

    name: str
    version: int
    package: str
    facts_from_json: Callable[[Mapping[str, Any]], F]

    def is_own(self, config: Mapping[str, Any]) -> bool:
        """Whether a ``config.json`` is of this format."""
        return config.get("format") == self.name

    def write(self, folder: Path, facts: F, tensors: Mapping[str, Tensor]) -> None:
        """Writes both files.

        Args:
            folder: is made where there is none.
            facts: of the model.
            tensors: ``<part>.<name>`` of each part.
        """
        write_tensors(folder, tensors)
        # Last, so that an interrupted writing is told by its checksum.
        checksum = sha256(folder / WEIGHTS)
        config = {"format": self.name, "format_version": self.version, "sha256": checksum, "model": facts.as_json()}
        write_json(folder / CONFIG, config)

    def read(self, folder: Path, *, parts: Parts = "all") -> Weights[F]:
        """Reads both files and checks the sum.

        Raises:
            WeightsError: the format is newer, the sum differs, or a key is missing, left over or wrongly shaped.
            ValueError: a file cannot be read.
        """
        config = read_json(folder / CONFIG)
        version = config.get("format_version")
        if not self.is_own(config) or not isinstance(version, int):
            raise WeightsError(f"{folder / CONFIG}: expected the format {self.name}, got {config.get('format')!r}")
        if version > self.version:
            raise WeightsError(
                f"{folder}: format {version} is newer than {self.version} here: install a newer {self.package}"
            )
        if sha256(folder / WEIGHTS) != config.get("sha256"):
            raise WeightsError(f"{folder / WEIGHTS} differs from its checksum in {CONFIG}: copy or download both again")
        facts = self.facts_from_json(config.get("model", {}))
        found = sorted_into_parts(facts, read_tensors(folder), str(folder), "jepakit", parts)
        if parts == "all" and found.tables["encoder"].outside:
            raise WeightsError(
                f"{folder / WEIGHTS}: keys of no part: {first(found.tables['encoder'].outside)}", found.tables
            )
        return found


def sorted_into_parts(
    facts: F, state: Mapping[str, Tensor], origin: str, kind: str, parts: Parts, encoder: str = "encoder."
) -> Weights[F]:
    """Tensors by our own names, of which ``encoder`` is the prefix of the wanted encoder's.

    Raises:
        WeightsError: a key is missing, left over or wrongly shaped.
    """
    if parts == "encoder":
        facts = facts.without_predictor()
    found: dict[str, dict[str, Tensor]] = {}
    tables: dict[str, KeyTable] = {}
    every = facts.shapes()
    prefixes = {part: encoder if part == "encoder" else f"{part}." for part in every}
    for part, shapes in every.items():
        inside = {k.removeprefix(prefixes[part]): v for k, v in state.items() if k.startswith(prefixes[part])}
        tables[part] = KeyTable(prefixes[part])
        wanted = {key: layouts.Place((key,), shape) for key, shape in shapes.items()}
        found[part] = layouts.read(inside, wanted, shapes, tables[part])
    tables["encoder"].outside = [key for key in state if not key.startswith(tuple(prefixes.values()))]
    refuse_misfits(origin, tables)
    front_end = found.get("front_end", {})
    return Weights(origin, kind, facts, found["encoder"], found.get("predictor"), tables, front_end=front_end)
