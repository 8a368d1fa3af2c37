"""Where a run's figures go: ``metrics.jsonl``, the trackers, the console; written by process 0 alone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from accelerate import Accelerator
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, filter_trackers, get_available_trackers

from jepa_core.errors import ConfigError, DataError, UserError, disk_errors_are_users, value_errors_are_users
from jepa_core.monitor.console import Console
from jepa_core.monitor.loggers import MetricsFile


def check_trackers(names: Sequence[str]) -> None:
    """Refuses trackers that Accelerate does not know or that are not installed: it would leave them out silently."""
    installed = sorted(str(name) for name in get_available_trackers())
    for name in names:
        if name not in LOGGER_TYPE_TO_CLASS:
            known = ", ".join(sorted(LOGGER_TYPE_TO_CLASS))
            raise ConfigError(f"logging.trackers: expected some of {known}, got {name!r}")
        if name not in installed:
            raise ConfigError(
                f"logging.trackers: {name} is not installed; install it, or leave it out "
                f"(installed: {', '.join(installed) or 'none'}; logging.trackers=[] for none)"
            )


class Recorder:
    """Takes figures on all processes, writes them on process 0.

    Args:
        run_dir: the run folder.
        trackers: names that :func:`check_trackers` has let pass.
        after_step: lines of later steps, from before a resume, are dropped.

    Attributes:
        failure: why figures could not be written; told to the other processes by the trainer, which asks each step.
    """

    def __init__(
        self, accelerator: Accelerator, console: Console, run_dir: Path, trackers: Sequence[str], after_step: int
    ) -> None:
        self._accelerator, self._console = accelerator, console
        self.failure: UserError | None = None
        self._file: MetricsFile | None = None
        if accelerator.is_main_process:
            self._file = MetricsFile(run_dir / "metrics.jsonl")
            with value_errors_are_users(DataError):
                self._file.truncate_after(after_step)
        # The run folder is known only after the processes agreed on it, hence after the Accelerator was made.
        accelerator.project_configuration.set_directories(str(run_dir))
        accelerator.log_with = filter_trackers(list(trackers), str(run_dir))
        # TensorBoard files are never rewritten: it is told from where on older ones no longer count.
        accelerator.init_trackers(
            "trackers",
            init_kwargs={"tensorboard": {"purge_step": after_step + 1}, "wandb": {"name": run_dir.name}},
        )

    def write(self, step: int, metrics: Mapping[str, float], headline: str) -> None:
        """One step's figures and the monitor's headline."""
        if self._file is None:
            return
        try:
            with disk_errors_are_users(self._file.path):
                self._file.append(step, metrics)
                self._accelerator.log({name: x for name, x in metrics.items() if math.isfinite(x)}, step=step)
        except UserError as error:
            self.failure = error
        self._console.update(step, metrics, headline)

    def check(self) -> None:
        """Raises what :attr:`failure` holds."""
        if self.failure is not None:
            raise self.failure
