"""What a recipe says as shipped, kept with a run as ``recipe.json``, and how settings differ from it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import OmegaConf

from jepa_core.config import compose, recipe_layers
from jepa_core.plugins import find_recipe, origin
from jepa_core.settings import RunSettings

if TYPE_CHECKING:  # contracts import torch, which takes seconds
    from jepa_core.contracts import Modality

FILE = "recipe.json"
PLACE = ("modality", "recipe", "name", "runs_dir", "resume", "dry_run")
"""Settings that say which run this is and where it lies; no recipe chooses them."""
SHOWN = 6
"""More differences than this are counted at the start of a run and listed in its report only."""


@dataclass(frozen=True)
class Difference:
    """A key with two values as text; a dash where one side lacks it."""

    key: str
    before: str
    after: str


def describe_recipe(modality: Modality, config: RunSettings) -> dict[str, Any]:
    """The recipe of a run without what the command line changed, and the defaults under it, as nested JSON values.

    Raises:
        ConfigError: the modality has no such recipe (any more), or it cannot be read.
    """
    file = find_recipe(modality, config.recipe)
    named = [f"modality={config.modality}", f"recipe={config.recipe}"]
    return {
        "recipe": config.recipe,
        "origin": origin(modality),
        "layers": [layer.origin for layer in recipe_layers(file)] if file is not None else [],
        "settings": plain(compose(modality.schema, file, named)),
        "defaults": plain(modality.schema()),
    }


def plain(settings: RunSettings) -> dict[str, Any]:
    """Settings as nested plain values."""
    values = OmegaConf.to_container(OmegaConf.structured(settings))
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()}


def write_recipe(run_dir: Path, described: Mapping[str, Any]) -> None:
    """``recipe.json`` of a run folder."""
    (run_dir / FILE).write_text(json.dumps(described, indent=1), encoding="utf-8")


def flat(value: Any, prefix: str = "") -> list[tuple[str, str]]:
    """Nested values as (dotted name, text) pairs; a list of plain values is one text."""
    if isinstance(value, Mapping):
        return [pair for key, inner in value.items() for pair in flat(inner, f"{prefix}.{key}" if prefix else str(key))]
    if isinstance(value, list) and not any(isinstance(item, dict | list) for item in value):
        return [(prefix, ", ".join(map(str, value)))]
    return [(prefix, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))]


def differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[Difference]:
    """Keys whose values differ, in the order of ``after``, then those only ``before`` has; not those of PLACE."""
    first, second = dict(flat(before)), dict(flat(after))
    keys = [key for key in [*second, *(key for key in first if key not in second)] if key not in PLACE]
    found = [Difference(key, first.get(key, "–"), second.get(key, "–")) for key in keys]
    return [entry for entry in found if entry.before != entry.after]


def choice_row(name: str, found: Sequence[Difference]) -> tuple[str, str, str]:
    """(what, choice, reason) for the table a run begins with."""
    if not found:
        return "recipe", name, "as shipped"
    count = f"{name}, {len(found)} {'key' if len(found) == 1 else 'keys'} changed"
    if len(found) > SHOWN:
        return "recipe", count, "listed in the report"
    return "recipe", count, ", ".join(f"{entry.key}={entry.after} ({entry.before})" for entry in found)
