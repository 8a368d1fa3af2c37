"""Typed recipes: dataclass defaults, then a recipe's YAML, then ``a.b=c`` of the command line; one-line errors."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, TypeVar

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from jepa_core.checks import LONGEST_NAME, RULES, hint, validate_run
from jepa_core.errors import ConfigError
from jepa_core.plain_yaml import check_yaml
from jepa_core.schema import Key, keys
from jepa_core.settings import RunSettings

Settings = TypeVar("Settings", bound=RunSettings)
COMMAND_LINE = "command line"
BASE = "base"  # the one key of a recipe that is no setting: the recipe it starts from
REFERENCE = "${"  # OmegaConf would put another setting, or a variable of the environment, in its place


def compose(schema: type[Settings], recipe: Traversable | None, overrides: Sequence[str]) -> Settings:
    """Defaults of ``schema``, then ``recipe`` (after the recipes it is based on), then ``overrides``, checked.

    Args:
        schema: dataclass of the modality.
        recipe: YAML file; None = the defaults alone.
        overrides: ``a.b=c`` each; of two with one key the last counts (see :func:`repeated_keys`).

    Raises:
        ConfigError: unknown key, wrong type or impossible value.
    """
    known = known_keys(schema)
    config = OmegaConf.structured(schema)
    for layer in recipe_layers(recipe) if recipe is not None else []:
        for path, value in layer.values.items():
            _assign(config, known, path, value, layer.origin)
    for path, text in map(split_override, overrides):
        _assign(config, known, path, _parse_value(text, known.get(path), path), COMMAND_LINE)
    try:
        settings: Settings = OmegaConf.to_object(config)  # type: ignore[assignment]  # the schema's own class
    except (OmegaConfBaseException, ValueError) as error:
        where = f"{error.full_key}: " if isinstance(error, OmegaConfBaseException) and error.full_key else ""
        raise ConfigError(where + str(error).partition("\n")[0]) from error
    validate_run(settings)
    return settings


def known_keys(schema: type) -> dict[str, Key]:
    """Every key of ``schema`` by path, with the few values it may take where there are such."""
    return {path: key.with_choices(RULES[path].choices) if path in RULES else key for path, key in keys(schema).items()}


def to_yaml(settings: RunSettings) -> str:
    """All settings as YAML; :func:`compose` reads it back to the same settings."""
    return OmegaConf.to_yaml(OmegaConf.structured(settings))


def save_config(settings: RunSettings, path: Path) -> None:
    """Writes :func:`to_yaml`."""
    path.write_text(to_yaml(settings), encoding="utf-8")


# --------------------------------------------------------------------------------------------------------------------
# Recipes
# --------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Layer:
    """The values of one file, and what errors call it."""

    origin: str
    values: Mapping[str, Any]


def recipe_layers(recipe: Traversable) -> list[Layer]:
    """The recipe and those it is based on, the most basic first.

    Raises:
        ConfigError: unreadable, a base that is not there, a circle of bases.
    """
    layers: list[Layer] = []
    seen: list[str] = []
    current: Traversable | None = recipe
    while current is not None:
        if current.name in seen:
            raise ConfigError(f"recipe {recipe.name}: its bases form a circle: {' -> '.join([*seen, current.name])}")
        seen.append(current.name)
        values = _read_recipe(current)
        base = values.pop(BASE, None)
        layers.insert(0, Layer(f"recipe {current.name}", values))
        current = None if base is None else _sibling(current, str(base))
    return layers


def _read_recipe(recipe: Traversable) -> dict[str, Any]:
    try:
        text = recipe.read_text(encoding="utf-8")
        check_yaml(text)
        values = OmegaConf.to_container(OmegaConf.create(text), resolve=False)
    # A ValueError is bytes that are no text, a number of thousands of digits, or what check_yaml refuses.
    except (OSError, ValueError, TypeError, RecursionError, yaml.YAMLError, OmegaConfBaseException) as error:
        raise ConfigError(f"recipe {recipe.name}: expected a YAML file, got {error}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"recipe {recipe.name}: expected keys and values, got a list")
    return {str(key): value for key, value in values.items()}


def _sibling(recipe: Traversable, name: str) -> Traversable:
    folder: Traversable = recipe.parent  # type: ignore[attr-defined]  # a Path and a path within a zip both have it
    names = sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml"))
    if name not in names:
        raise ConfigError(
            f"base (recipe {recipe.name}): expected one of {', '.join(names)}, got {name!r}{hint(name, names)}"
        )
    return folder / f"{name}.yaml"


# --------------------------------------------------------------------------------------------------------------------
# Command line
# --------------------------------------------------------------------------------------------------------------------


def split_override(argument: str) -> tuple[str, str]:
    """``a.b=c`` to ``("a.b", "c")``.

    Raises:
        ConfigError: there is no key or no ``=``.
    """
    path, equals, text = argument.partition("=")
    if not equals or not path.strip():
        raise ConfigError(f"expected key=value, for example trainer.max_steps=100, got {argument!r}")
    return path.strip(), text


def repeated_keys(overrides: Iterable[str]) -> dict[str, str]:
    """Keys given more than once, each with the value that counts: the last."""
    last: dict[str, str] = {}
    repeated: dict[str, str] = {}
    for path, text in map(split_override, overrides):
        if path in last:
            repeated[path] = text
        last[path] = text
    return repeated


def _parse_value(text: str, key: Key | None, path: str) -> Any:
    """The value as YAML reads it; a text setting takes it as it stands, so that ``name=007`` stays ``007``."""
    _refuse_references(text, path, COMMAND_LINE)
    try:
        value = OmegaConf.to_container(OmegaConf.from_dotlist([f"value={text}"]))
    except yaml.YAMLError as error:
        reason = getattr(error, "problem", None) or "no YAML"
        raise ConfigError(f"{path} ({COMMAND_LINE}): expected a value, got {text!r}: {reason}") from error
    except ValueError:  # what looks like a number to YAML and is none, such as 0b_
        return text
    assert isinstance(value, dict)
    parsed = value["value"]
    as_it_stands = key is not None and key.is_text and parsed is not None and not isinstance(parsed, str)
    return text if as_it_stands else parsed


# --------------------------------------------------------------------------------------------------------------------
# Setting one key
# --------------------------------------------------------------------------------------------------------------------


def _assign(config: DictConfig, known: Mapping[str, Key], path: str, value: Any, origin: str) -> None:
    """Sets one key of ``config``, or every key of a section."""
    if any(name.startswith(f"{path}.") for name in known):
        if not isinstance(value, Mapping):
            inner_names = ", ".join(_names_in(known, path))
            raise ConfigError(f"{path} ({origin}): expected a section with {inner_names}, got {value!r}")
        for name, inner in value.items():
            _assign(config, known, f"{path}.{name}", inner, origin)
        return
    parent, _, last = path.rpartition(".")
    if parent in known and known[parent].is_mapping:
        path, value = parent, {last: value}
    if path not in known:
        raise ConfigError(f"{path} ({origin}): unknown key{_did_you_mean(path, known)}")
    _set(config, known[path], value, origin)


def _refuse_references(value: Any, path: str, origin: str) -> None:
    """A recipe may come from a stranger, and what it makes of the environment would stand in reports and model cards.

    One rule for all origins: a command line has the shell's own ``$NAME``.
    """
    if isinstance(value, str) and REFERENCE in value:
        raise ConfigError(
            f"{path} ({origin}): expected a value that is written out, got {value!r}: references such as "
            f'${{oc.env:NAME}} are not resolved; on the command line the shell does it: {path}="$NAME"'
        )
    if isinstance(value, Mapping | list):
        for inner in [*value, *value.values()] if isinstance(value, Mapping) else value:
            _refuse_references(inner, path, origin)


def _set(config: DictConfig, key: Key, value: Any, origin: str) -> None:
    _refuse_references(value, key.path, origin)
    # OmegaConf takes any number as true; 2 is a mistake.
    possible = key.hint is not bool or not isinstance(value, int | float) or value in (0, 1)
    try:
        if possible:
            OmegaConf.update(config, key.path, value, merge=True)
    except (OmegaConfBaseException, ValueError):
        possible = False
    if not possible:
        wish = hint(str(value), key.choices)
        raise ConfigError(f"{key.path} ({origin}): expected {key.expected}, got {value!r}{wish}")


def _names_in(known: Iterable[str], section: str) -> list[str]:
    start = len(section) + 1
    return list(dict.fromkeys(name[start:].split(".")[0] for name in known if name.startswith(f"{section}.")))


def nearest_key(path: str, known: Iterable[str]) -> str | None:
    """The known key most like ``path``, None when none is near; ``max_steps`` finds ``trainer.max_steps``."""

    def likeness(candidate: str) -> float:
        whole = difflib.SequenceMatcher(None, path, candidate).ratio()
        tail = difflib.SequenceMatcher(None, path.rpartition(".")[2], candidate.rpartition(".")[2]).ratio()
        return max(whole, 0.95 * tail)

    if len(path) > LONGEST_NAME:
        return None
    best = max(known, key=likeness, default=None)
    return best if best is not None and likeness(best) >= 0.6 else None


def _did_you_mean(path: str, known: Iterable[str]) -> str:
    best = nearest_key(path.lstrip("-"), known)
    if best is not None:
        return f"; did you mean {best}?"
    return f"; expected one of {', '.join(dict.fromkeys(name.split('.')[0] for name in known))} (--help lists all keys)"
