"""What a command line asks for: a verb's own arguments, and the settings of a new run or of one that was made."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from jepa_core.errors import ConfigError

if TYPE_CHECKING:
    from jepa_core.contracts import Modality
    from jepa_core.settings import RunSettings


@dataclass(frozen=True)
class Request:
    """What the command line asks for."""

    modality: Modality
    settings: RunSettings


def configure(overrides: Sequence[str]) -> Request:
    """Modality and checked settings that ``key=value`` arguments name."""
    from jepa_core.config import compose, split_override
    from jepa_core.plugins import find_modality, find_recipe, installed, is_file

    given = dict(map(split_override, overrides))
    if "modality" not in given:
        names = ", ".join(installed()) or "none is installed"
        raise ConfigError(f"modality: expected modality=<name> ({names}) or modality=<file>.py, got none")
    name = given["modality"]
    modality = find_modality(name)
    # A run is probed from any folder, so a file is kept by its whole path.
    name = str(Path(name).resolve()) if is_file(name) else name
    recipe = given.get("recipe", "quickstart")
    chosen = find_recipe(modality, recipe)
    _say_repeated(overrides)
    return Request(modality, compose(modality.schema, chosen, [*overrides, f"modality={name}", f"recipe={recipe}"]))


def _say_repeated(overrides: Sequence[str]) -> None:
    from jepa_core.config import repeated_keys

    for path, value in repeated_keys(overrides).items():
        print(f"jepa: {path} is given more than once; the last, {value}, counts", file=sys.stderr)


def take(overrides: Sequence[str], *names: str) -> tuple[dict[str, str], list[str]]:
    """Splits off the arguments of the verb itself, such as ``out=``, from the settings."""
    from jepa_core.config import split_override

    taken, rest = {}, []
    for argument in overrides:
        path, text = split_override(argument)
        if path in names:
            taken[path] = text
        else:
            rest.append(argument)
    return taken, rest


def folder(own: dict[str, str], usage: str) -> Path:
    """The folder that ``run=`` names.

    Raises:
        ConfigError: none is named, or there is none.
    """
    if "run" not in own:
        raise ConfigError(f"run: expected run=<folder>, got none; usage: {usage}")
    found = Path(own["run"])
    if not found.is_dir():
        raise ConfigError(f"run: expected the folder of a run, got {str(found)!r}: no such folder")
    return found


def run_and_checkpoint(folder: Path) -> tuple[Path, Path]:
    """Run folder and checkpoint folder; of a run, its newest whole checkpoint."""
    from jepa_core.train import checkpoint as checkpoints

    if folder.resolve().parent.name == "checkpoints":
        return folder.resolve().parent.parent, folder
    return folder, checkpoints.newest(folder, lambda text: print(f"jepa: {text}", file=sys.stderr))


def configure_as(config: Path, overrides: Sequence[str]) -> Request:
    """The settings a run was made with, then ``overrides``.

    Raises:
        ConfigError: they cannot be, or would run a Python file that came with the run.
    """
    from jepa_core.config import compose, recipe_layers, split_override
    from jepa_core.plugins import find_modality, is_file

    given = dict(map(split_override, overrides))
    # A file may lie elsewhere by now: modality=<file>.py says where.
    name = str(given.get("modality", recipe_layers(config)[-1].values.get("modality")))
    if "modality" not in given and is_file(name):
        _refuse_own_code(config, Path(name))
    modality = find_modality(name)
    _say_repeated(overrides)
    return Request(modality, compose(modality.schema, config, overrides))


def _refuse_own_code(config: Path, file: Path) -> None:
    """A run may come from a stranger: the Python file it names is run only where no stranger can have put it."""
    folder = config.resolve().parent  # of a run, or of a checkpoint in it
    run = folder.parent.parent if folder.parent.name == "checkpoints" else folder
    # Our own runs keep the whole path; one that is relative leads into whatever was unpacked here.
    if not file.is_absolute() or file.resolve().is_relative_to(run):
        raise ConfigError(
            f"modality ({config}): refused to run {str(file)!r}, which came with the run; if you trust it, name it: "
            "modality=<file>.py"
        )


def show(page: str) -> None:
    """Prints a page; a reader that closes early, such as ``head``, is no error."""
    try:
        print(page, flush=True)
    except BrokenPipeError:
        # Python flushes once more when it leaves; that must find an open file.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def asks_for_help(arguments: Sequence[str]) -> bool:
    """Whether ``-h`` or ``--help`` is among the arguments."""
    return bool({"-h", "--help"} & set(arguments))


def helped(arguments: Sequence[str], usage: str) -> bool:
    """Prints how a verb is used when that is asked for; returns whether it was."""
    if asks_for_help(arguments):
        show(f"usage: {usage}")
    return asks_for_help(arguments)
