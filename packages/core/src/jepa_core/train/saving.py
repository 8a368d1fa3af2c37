"""When checkpoints are written: while training waits, or from a copy while it goes on; and which one is the best."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from jepa_core.errors import ConfigError, UserError
from jepa_core.settings import RunSettings
from jepa_core.train import checkpoint as checkpoints
from jepa_core.train.checkpoint import Checkpoint

AUTOMATIC = "probe/linear"
"""The figure that ``trainer.keep_best=auto`` goes by: a loss says little of features, it falls as they collapse."""

_FIGURES = ("loss/", "probe/", "monitor/")


def best_figure(config: RunSettings) -> str:
    """The logged figure that names the best checkpoint; empty where none does.

    Raises:
        ConfigError: ``trainer.keep_best`` names what no run logs.
    """
    name = config.trainer.keep_best
    if name == "none" or (name == "auto" and not config.probe.every):
        return ""
    if name == "auto":
        return AUTOMATIC
    if name != "loss" and not name.startswith(_FIGURES):
        raise ConfigError(
            f"trainer.keep_best: expected auto, none, loss, or a figure of metrics.jsonl that begins with "
            f"{', '.join(_FIGURES)}; got {name!r}"
        )
    if name.startswith("probe/") and not config.probe.every:
        raise ConfigError(f"trainer.keep_best: {name} is not measured with probe.every=0; set probe.every")
    return name


@dataclass
class Best:
    """Which checkpoint has the best mean of a figure, over what was logged since the checkpoint before it.

    Attributes:
        figure: name in ``metrics.jsonl``; empty = nothing is looked for.
        step: of the best checkpoint so far.
        value: its mean.
    """

    figure: str
    step: int | None = None
    value: float | None = None
    _seen: list[float] = field(default_factory=list)

    def note(self, figures: Mapping[str, float]) -> None:
        """Takes one line of figures."""
        value = figures.get(self.figure)
        if value is not None and math.isfinite(value):
            self._seen.append(value)

    def settle(self, step: int) -> float | None:
        """Closes the span that ends with the checkpoint of ``step``; its mean, None where nothing was logged."""
        if not self._seen:
            return None
        mean = sum(self._seen) / len(self._seen)
        self._seen = []
        sign = -1 if self.figure.startswith("loss") else 1
        if self.value is None or sign * mean > sign * self.value:
            self.step, self.value = step, mean
        return mean

    def state_dict(self) -> dict[str, Any]:
        """JSON-able; kept in the checkpoint."""
        return {"figure": self.figure, "step": self.step, "value": self.value}

    def load_state_dict(self, stored: Mapping[str, Any], run_dir: Path) -> None:
        """Goes on from a checkpoint, unless it sought another figure or its best is no longer there.

        Raises:
            ValueError: it holds no step and number.
        """
        step, value = stored.get("step"), stored.get("value")
        if not isinstance(step, int | None) or not isinstance(value, int | float | None):
            raise ValueError(f"best: expected a step and a number, got {step!r} and {value!r}")
        if stored.get("figure") == self.figure and (run_dir / "checkpoints" / f"step-{step}").is_dir():
            self.step, self.value = step, value


class Saver:
    """Writes on process 0 while training waits.

    Args:
        run_dir: the run folder.
        keep: newest checkpoints to keep; 0 = all.

    Attributes:
        last: the newest checkpoint that is known to be whole.
    """

    def __init__(self, run_dir: Path, keep: int) -> None:
        self.run_dir, self.keep = run_dir, keep
        self.last: Path | None = None

    def save(self, checkpoint: Checkpoint, best: int | None) -> None:
        """Takes a checkpoint; raises StorageError where the disk does not."""
        self.last = checkpoints.save(self.run_dir, checkpoint, self.keep, best)

    def failure(self) -> UserError | None:
        """What went wrong since the last call of any method; asked each step, never waits."""
        return None

    def wait(self) -> None:
        """Returns when all that was taken is on disk; raises StorageError where it is not."""


class BackgroundSaver(Saver):
    """Copies what it is given and writes the copy from a thread.

    One copy at most: a second checkpoint waits for the first. The thread writes beside and renames as any other
    checkpoint is written, so that a kill at any moment leaves whole checkpoints.
    """

    def __init__(self, run_dir: Path, keep: int) -> None:
        super().__init__(run_dir, keep)
        self._thread = ThreadPoolExecutor(1, "checkpoint")
        self._writing: Future[Path] | None = None

    def save(self, checkpoint: Checkpoint, best: int | None) -> None:
        """Copies and returns; an error of the checkpoint before is raised here at the latest."""
        self.wait()
        copy = _copied(checkpoint)
        self._writing = self._thread.submit(checkpoints.save, self.run_dir, copy, self.keep, best)

    def failure(self) -> UserError | None:
        """What the thread met, once."""
        if self._writing is None or not self._writing.done():
            return None
        try:
            self.wait()
        except UserError as error:
            return error
        return None

    def wait(self) -> None:
        """Returns when the copy is on disk."""
        writing, self._writing = self._writing, None
        if writing is not None:
            self.last = writing.result()


def _copied(checkpoint: Checkpoint) -> Checkpoint:
    """The same with tensors of its own: on the CPU a state dict is the live weights."""

    def own(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name: tensor.clone() for name, tensor in tensors.items()}

    processes = [own(part) for part in checkpoint.processes]
    return replace(checkpoint, model=own(checkpoint.model), optimizer=own(checkpoint.optimizer), processes=processes)


def wait_quietly(saver: Saver, warn: Callable[[str], None]) -> None:
    """On the way out of a run that failed otherwise: its error counts, one of the disk is only told."""
    try:
        saver.wait()
    except UserError as error:
        warn(str(error))
