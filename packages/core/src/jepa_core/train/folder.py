"""The run folder: which one a run writes to, and which checkpoint it goes on from."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from jepa_core.errors import ConfigError
from jepa_core.settings import RunSettings
from jepa_core.train import checkpoint as checkpoints


@dataclass(frozen=True)
class RunFolder:
    """Where a run lies.

    Attributes:
        path: the run folder; it exists.
        resume_from: the checkpoint to go on from; None = from the start.
        reason: for the choices table.
    """

    path: Path
    resume_from: Path | None
    reason: str


def base_name(config: RunSettings) -> str:
    """The run's name before numbering; a modality or recipe given as a path counts by its file name."""
    name = config.name or f"{Path(config.modality).stem}-{Path(config.recipe).stem}"
    if not name or Path(name).name != name:
        raise ConfigError(f"name: expected a folder name without separators, got {name!r}; use runs_dir for the place")
    return name


def open_folder(config: RunSettings, warn: Callable[[str], None]) -> RunFolder:
    """Decides and makes the folder; process 0 alone calls this."""
    if config.resume is None:
        return RunFolder(_fresh(config), None, "a new run")
    if config.resume == "auto":
        return _automatic(config, warn)
    return _named(Path(config.resume), warn)


def _fresh(config: RunSettings) -> Path:
    """``name``, or ``name-2``, ``name-3``, ... when it exists."""
    for number in itertools.count(1):
        path = Path(config.runs_dir) / (base_name(config) + (f"-{number}" if number > 1 else ""))
        try:
            path.mkdir(parents=True)
        except FileExistsError:
            continue
        except OSError as error:
            raise ConfigError(
                f"runs_dir: expected a folder that can be written to, got {config.runs_dir}: {error.strerror}"
            ) from None
        return path
    raise AssertionError("count never ends")


def _automatic(config: RunSettings, warn: Callable[[str], None]) -> RunFolder:
    name = base_name(config)
    found = [
        path
        for path in Path(config.runs_dir).glob(f"{name}*")
        if _is_of_name(path.name, name) and checkpoints.has_checkpoint(path)
    ]
    if not found:
        return RunFolder(_fresh(config), None, f"resume=auto: no run named {name} has a checkpoint, a new run")
    path = max(found, key=lambda run: (run / "checkpoints").stat().st_mtime)
    _refuse_links(path)
    return RunFolder(path, checkpoints.newest(path, warn), "resume=auto: the newest run of this name")


def _is_of_name(folder: str, name: str) -> bool:
    rest = folder.removeprefix(name)
    return rest == "" or (rest.startswith("-") and rest[1:].isdigit())


def _named(path: Path, warn: Callable[[str], None]) -> RunFolder:
    if not path.is_dir():
        raise ConfigError(
            f"resume: expected null, auto, or the folder of a run or checkpoint, got {path}: no such folder"
        )
    if path.parent.name == "checkpoints":
        whole, place = path.resolve(), path.parent.resolve()
        _refuse_links(place.parent)
        if whole.parent != place:  # checkpoints/best may lead anywhere, and its folder would be trained in
            raise ConfigError(f"resume: {path} leads out of its folder, to {whole}: name the checkpoint itself")
        return RunFolder(place.parent, whole, "as set by resume")
    _refuse_links(path)
    return RunFolder(path, checkpoints.newest(path, warn), "as set by resume: its newest whole checkpoint")


def _refuse_links(run: Path) -> None:
    """A run folder may come from a stranger: what a link in it leads to would be written over or removed."""
    for path in [*run.iterdir(), *(run / "checkpoints").glob("*")]:
        is_best = path.name == "best" and path.parent != run
        if (path.is_symlink() and not is_best) or not (path.is_file() or path.is_dir()):
            raise ConfigError(
                f"resume: expected files and folders in {run}, got the link or device {path.relative_to(run)}: "
                "put what it leads to in its place, or take it away"
            )


def check_shared(path: Path) -> None:
    """Every process must see the folder that process 0 made."""
    if not path.is_dir():
        raise ConfigError(
            f"runs_dir: process 0 made {path.resolve()}, but it is not there: machines must share runs_dir"
        )
