"""What an exact resume must keep, and what is said where it was not kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from jepa_core.settings import RunSettings
from jepa_core.train.launch import Launch

Shape = Mapping[str, float | str]


def shape(config: RunSettings, launch: Launch, samples: int) -> Shape:
    """What decides the bits of a run besides its recipe and seed; ``samples``: of the data set."""
    return {
        "processes": launch.world,
        "device": launch.device.type,
        "sharding": launch.sharding,
        "precision": launch.accelerator.mixed_precision,
        "samples of the data set": samples,
        "trainer.batch_size": config.trainer.batch_size,
        "trainer.accumulation": config.trainer.accumulation,
        "trainer.max_steps": config.trainer.max_steps,
        "optimizer.lr": config.optimizer.lr,
    }


def tell_differences(before: Shape, now: Shape, warn: Callable[[str], None]) -> None:
    """One warning for each difference."""
    for name, value in now.items():
        stored = before.get(name, value)
        if value != stored:
            warn(
                f"resumed with {name}={value} instead of {stored}: the position in the data goes on, "
                f"but the run is no longer bit for bit the one that was interrupted"
            )
