"""Modalities from the entry-point group ``jepa.modalities`` or from a Python file, and the recipes each brings."""

from __future__ import annotations

import importlib.util
import inspect
import sys
from dataclasses import dataclass, fields, is_dataclass
from importlib.metadata import EntryPoint, entry_points
from importlib.resources.abc import Traversable
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from jepa_core.checks import hint
from jepa_core.errors import ConfigError

if TYPE_CHECKING:  # contracts import torch, which takes seconds
    from jepa_core.contracts import Modality

GROUP = "jepa.modalities"
ATTRIBUTE = "MODALITY"
"""What a file that brings a modality calls it."""
DEFAULTS = "quickstart"
"""The only recipe of a modality without recipe files: its settings as they are declared."""


@dataclass(frozen=True)
class LoadFailure:
    """A modality that is installed and cannot be used.

    Attributes:
        name: of the entry point.
        error: why, in one line.
    """

    name: str
    error: str


@dataclass(frozen=True)
class Recipe:
    """A recipe a modality brings.

    Attributes:
        name: what ``recipe=`` takes.
        file: its YAML; None = the settings as they are declared.
        summary: the first line of the comment at its head.
    """

    name: str
    file: Traversable | None
    summary: str


def installed() -> dict[str, list[EntryPoint]]:
    """Entry points by modality name, nothing imported; more than one for a name is a conflict."""
    found: dict[str, list[EntryPoint]] = {}
    for point in sorted(entry_points(group=GROUP), key=lambda point: point.name):
        points = found.setdefault(point.name, [])
        if point.value not in [other.value for other in points]:
            points.append(point)
    return found


def modalities() -> dict[str, Modality | LoadFailure]:
    """Every installed modality, loaded; one that fails to load is there with its error."""
    return {name: _load(name, points) for name, points in installed().items()}


def is_file(name: str) -> bool:
    """Whether ``modality=`` names a Python file and no installed modality."""
    return name.endswith(".py")


def find_modality(name: str) -> Modality:
    """The modality of this name, or :data:`ATTRIBUTE` of the Python file at this path.

    Raises:
        ConfigError: not installed, no such file, or it fails to load.
    """
    if is_file(name):
        return _from_file(Path(name))
    found = installed()
    if name not in found:
        known = ", ".join(found) or "none is installed"
        raise ConfigError(
            f"modality: expected an installed one ({known}) or a .py file, got {name!r}{hint(name, list(found))}"
            + ("" if found else "; install one, for example: pip install ./packages/core ./packages/lidar")
        )
    modality = _load(name, found[name])
    if isinstance(modality, LoadFailure):
        raise ConfigError(f"modality: {name} is installed and fails to load: {modality.error}")
    return modality


def origin(modality: Modality) -> str:
    """What brings a modality: distribution and version, or the file of its class."""
    return distribution(modality.name) or str(inspect.getsourcefile(type(modality)) or "unknown")


def distribution(name: str) -> str:
    """Distribution and version that bring a modality, for example ``jepa-lidar 0.1.0``."""
    points = installed().get(name, [])
    return ", ".join(f"{point.dist.name} {point.dist.version}" for point in points if point.dist is not None)


def _load(name: str, points: list[EntryPoint]) -> Modality | LoadFailure:
    if len(points) > 1:
        return LoadFailure(name, f"two packages bring it: {' and '.join(point.value for point in points)}")
    try:
        modality = points[0].load()
    # A plug-in is foreign code: whatever its import raises must not keep the others from working.
    except Exception as error:
        return LoadFailure(name, " ".join(f"{type(error).__name__}: {error}".split()))
    problem = _contract_problem(name, modality)
    return modality if problem is None else LoadFailure(name, problem)


def _from_file(path: Path) -> Modality:
    """The modality that a file brings; the file is a module of its own name, so that loader processes find it too."""
    if not path.is_file():
        raise ConfigError(f"modality: expected an installed one or a .py file, got {str(path)!r}: no such file")
    try:
        module = _import_file(path.resolve())
    # Foreign code, as above; a file that is one long program may even leave.
    except (Exception, SystemExit) as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise ConfigError(f"modality: {path} fails to load: {reason}") from error
    modality = getattr(module, ATTRIBUTE, None)
    if modality is None:
        raise ConfigError(f"modality: expected {path} to define {ATTRIBUTE} = <its modality>, got a file without")
    problem = _contract_problem(getattr(modality, "name", ""), modality)
    if problem is not None:
        raise ConfigError(f"modality: {path} cannot be used: {problem}")
    return modality


def _import_file(path: Path) -> ModuleType:
    loaded = sys.modules.get(path.stem)
    if loaded is not None and getattr(loaded, "__file__", None) == str(path):
        return loaded
    # At the end: a file beside the plug-in must not stand in for a library of the same name.
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    found = importlib.util.find_spec(path.stem)
    if found is None or found.origin != str(path):
        where = "its name is no module's name" if found is None else f"a module of this name is {found.origin}"
        raise ImportError(f"{where}; rename the file, as my_sensor.py")
    return importlib.import_module(path.stem)


def _contract_problem(name: str, modality: Any) -> str | None:
    """What of the Modality contract is missing, None when it holds."""
    wanted = ["name", "schema", "recipes", "build", "sources", "choices", "probe", "pictures", "add_commands"]
    missing = [attribute for attribute in wanted if not hasattr(modality, attribute)]
    if missing:
        return f"{type(modality).__name__} is no Modality: it has no {', '.join(missing)}"
    if modality.name != name:
        return f"its entry point is called {name!r} and the modality itself {modality.name!r}: they must agree"
    if not is_dataclass(modality.schema) or "trainer" not in [field.name for field in fields(modality.schema)]:
        return f"its schema {modality.schema!r} is no dataclass that extends RunSettings"
    return None


# --------------------------------------------------------------------------------------------------------------------
# Recipes
# --------------------------------------------------------------------------------------------------------------------


def recipes(modality: Modality) -> dict[str, Recipe]:
    """The recipes a modality brings, by name."""
    folder: Traversable | None = modality.recipes
    if folder is None:
        return {DEFAULTS: Recipe(DEFAULTS, None, "its settings as they are declared")}
    files = sorted((file for file in folder.iterdir() if file.name.endswith(".yaml")), key=lambda file: file.name)
    found = [Recipe(file.name.removesuffix(".yaml"), file, _summary(file)) for file in files]
    return {recipe.name: recipe for recipe in found}


def find_recipe(modality: Modality, name: str) -> Traversable | None:
    """A recipe by name, or by the path of a YAML file; None = the settings as they are declared.

    Raises:
        ConfigError: there is none.
    """
    if name.endswith((".yaml", ".yml")):
        path = Path(name)
        if not path.is_file():
            raise ConfigError(f"recipe: expected a name or the path of a YAML file, got {name!r}: no such file")
        return path
    found = recipes(modality)
    if name not in found:
        names = list(found)
        raise ConfigError(
            f"recipe: expected one of {', '.join(names)} or the path of a .yaml file, got {name!r}{hint(name, names)}"
        )
    return found[name].file


def _summary(file: Traversable) -> str:
    first = file.read_text(encoding="utf-8").partition("\n")[0]
    return first.removeprefix("#").strip() if first.startswith("#") else ""
