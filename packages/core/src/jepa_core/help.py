"""What ``jepa --help`` and ``jepa train modality=<name> --help`` print."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Sequence
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jepa_core import __version__
from jepa_core.config import known_keys
from jepa_core.plugins import LoadFailure, distribution, find_modality, installed, modalities, origin, recipes
from jepa_core.schema import Key
from jepa_core.settings import RunSettings

if TYPE_CHECKING:  # contracts import torch, which takes seconds
    from jepa_core.contracts import Modality


def overview(verbs: dict[str, str]) -> str:
    """The page of ``jepa --help``: verbs with their summaries, examples, modalities by name only."""
    width = max(map(len, verbs))
    lines = [f"  {name:<{width}}  {summary}" for name, summary in verbs.items()]
    names = ", ".join(installed()) or "none (pip install ./packages/core ./packages/lidar)"
    example = next(iter(installed()), "lidar")
    return "\n".join(
        [
            f"jepa {__version__}: joint-embedding predictive architectures for every sensor",
            "",
            "usage: jepa <verb> key=value ...",
            "",
            *lines,
            "",
            "examples:",
            f"  jepa train modality={example}",
            f"  jepa train modality={example} recipe=quickstart trainer.max_steps=50 name=first",
            f"  jepa train modality={example} --help      recipes and all keys",
            f"  accelerate launch -m jepa_core train modality={example}",
            "",
            f"modalities: {names}",
            "JEPA_TRACEBACK=1 shows the traceback behind an error line.",
        ]
    )


def listing(files: Sequence[str] = ()) -> str:
    """The page of ``jepa list``: modalities, recipes, probes, where each comes from, and load failures.

    Args:
        files: ``.py`` files that bring a modality, listed beside what is installed.
    """
    blocks = [f"jepa-core {__version__}  ({Path(__file__).parent})"]
    found = {**modalities(), **{name: find_modality(name) for name in files}}
    for name, modality in found.items():
        if isinstance(modality, LoadFailure):
            blocks.append(f"{name}  ({distribution(name)})\n  fails to load: {modality.error}")
        else:
            blocks.append(f"{modality.name}  ({_source(modality)})\n{recipe_lines(modality)}\n{_probe_lines(modality)}")
    if not found:
        blocks.append("no modality is installed; for example: pip install ./packages/core ./packages/lidar")
    return "\n\n".join(blocks)


def _source(modality: Modality) -> str:
    """Distribution and version, entry point or file, and where the recipes lie."""
    points = [point.value for point in installed().get(modality.name, ())]
    parts = [origin(modality), *points, f"recipes: {modality.recipes or 'its settings as they are declared'}"]
    return "; ".join(parts)


def _probe_lines(modality: Modality) -> str:
    """What the run ends with, what can be probed while it trains, each with the function that does it."""
    probe = type(modality).probe
    said = (probe.__doc__ or "").partition("\n")[0].strip().rstrip(".")
    lines = [f"  probe at the end: {said or 'not described'}  ({probe.__module__})"]
    from jepa_core.evaluation_source import Evaluable  # it imports torch, which takes seconds

    if isinstance(modality, Evaluable):
        lines.append("  probe.every, jepa embed: its evaluation()  (" + type(modality).evaluation.__module__ + ")")
    return "\n".join(lines)


def recipe_lines(modality: Modality) -> str:
    """One line a recipe: name and summary."""
    found = recipes(modality)
    width = max(map(len, found), default=0)
    return "\n".join(f"  {name:<{width}}  {recipe.summary}" for name, recipe in found.items())


def keys_page(verb: str, modality: Modality, settings: RunSettings) -> str:
    """Recipes of a modality, then every key with its value in ``settings``, its type and what it is."""
    title = f"usage: jepa {verb} modality={modality.name} [recipe=<name or file.yaml>] [key=value ...]"
    values = f"keys, with their values in recipe={settings.recipe}:"
    known = known_keys(type(settings)).values()
    entries = [_entry(key, attrgetter(key.path)(settings)) for key in known]
    return "\n".join([title, "", "recipes:", recipe_lines(modality), "", values, *entries])


def _entry(key: Key, value: Any) -> str:
    width = min(shutil.get_terminal_size((100, 24)).columns, 120)
    text = f"{key.doc} [{key.expected}]" if key.doc else f"[{key.expected}]"
    body = textwrap.fill(text, width, initial_indent="      ", subsequent_indent="      ")
    return f"  {key.path}={_as_typed(value)}\n{body}"


def _as_typed(value: Any) -> str:
    """A value as it is typed on the command line."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list | tuple):
        return f"[{','.join(map(_as_typed, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{name}: {_as_typed(inner)}' for name, inner in value.items())}}}"
    return str(value)
