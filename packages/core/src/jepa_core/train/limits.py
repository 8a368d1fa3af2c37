"""Settings that no run can have, told before it begins."""

from __future__ import annotations

from jepa_core.errors import ConfigError
from jepa_core.settings import RunSettings
from jepa_core.train import optim
from jepa_core.train.saving import best_figure
from jepa_core.train.schedule import rates_at


def check_settings(config: RunSettings) -> None:
    """Refuses impossible trainer and optimiser settings by name."""
    least = {"max_steps": 1, "batch_size": 1, "accumulation": 1, "log_every": 1, "checkpoint_every": 0}
    for name, minimum in {**least, "keep_checkpoints": 0, "clip_norm": 0, "max_weight_growth": 0}.items():
        if getattr(config.trainer, name) < minimum:
            raise ConfigError(f"trainer.{name}: expected at least {minimum}, got {getattr(config.trainer, name)}")
    if 0 < config.trainer.max_weight_growth <= 1:
        raise ConfigError(
            f"trainer.max_weight_growth: expected a number above 1, or 0, got {config.trainer.max_weight_growth}"
        )
    best_figure(config)
    if config.monitor.every < 0:
        raise ConfigError(f"monitor.every: expected at least 0, got {config.monitor.every}")
    if config.report.samples < 0:
        raise ConfigError(f"report.samples: expected at least 0, got {config.report.samples}")
    if config.monitor.stop_on_collapse and config.monitor.every == 0:
        raise ConfigError("monitor.stop_on_collapse: nothing is measured with monitor.every=0; set it to 1 or more")
    if config.dry_run and config.resume is not None:
        raise ConfigError(f"dry_run: shows a run from its start, got resume={config.resume} too; leave one out")
    optim.check_settings(config.optimizer)
    rates_at(1, config.trainer.max_steps, config.optimizer)  # refuses a warm-up longer than the run
