"""One run from settings to report: what ``jepa train`` calls, on every process."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from jepa_core.contracts import Method, Modality, ProbeTable, SampleSource
from jepa_core.data.move import to_device
from jepa_core.errors import CollapseError, ConfigError, DataError, DivergenceError, UserError, value_errors_are_users
from jepa_core.evaluation_source import DrawsFeatures
from jepa_core.monitor.console import Console
from jepa_core.monitor.loggers import replace_text
from jepa_core.monitor.verdict import PATIENCE, WARMING_UP, Verdict
from jepa_core.recipe_record import choice_row, describe_recipe, differences, plain, write_recipe
from jepa_core.settings import RunSettings
from jepa_core.train import checkpoint as checkpoints
from jepa_core.train import dry_run, launch, outcome, state
from jepa_core.train.environment import describe_environment
from jepa_core.train.folder import RunFolder, check_shared, open_folder
from jepa_core.train.launch import Choice, Launch
from jepa_core.train.limits import check_settings
from jepa_core.train.lock import FolderLock
from jepa_core.train.meter import peak_rss_mib
from jepa_core.train.online_probe import build_online_probe
from jepa_core.train.recorder import check_trackers
from jepa_core.train.samples import Encoders, write_samples
from jepa_core.train.trainer import Parts, Trainer

# A launcher ends all processes as soon as one has failed; process 0 must have told why by then.
_LAST_WORD_S = 2.0


def run_training(config: RunSettings, modality: Modality, config_text: str) -> int:
    """Trains, probes and reports.

    Args:
        config: the modality's settings.
        modality: the plug-in.
        config_text: the same settings as YAML, kept with the run.

    Returns:
        The exit code: 0 when done, or stopped by a signal after saving. Processes other than 0 return an error's code
        and leave the telling to process 0.

    Raises:
        UserError: on process 0; its ``exit_code`` is 3 for a loss, gradient or weights that are not finite, 4 for a
            collapse, 5 for a disk that takes no more.
    """
    check_settings(config)
    check_trackers(config.logging.trackers)
    started = launch.start(config.trainer)
    with value_errors_are_users():
        console = Console(config.trainer.max_steps, config.logging, enabled=started.rank == 0)
    try:
        with console, FolderLock() as lock:
            code = _run(config, modality, config_text, started, console, lock)
    except UserError as error:
        started.accelerator.end_training()
        if started.rank == 0:
            raise
        time.sleep(_LAST_WORD_S)
        return error.exit_code
    started.accelerator.end_training()
    return code


def build_method(config: RunSettings, modality: Modality) -> Any:
    """The method with the initial weights that this seed gives, on the CPU."""
    state.seed_everything(config.seed, 0, 0)
    with value_errors_are_users():
        return modality.build(config)


def _run(
    config: RunSettings, modality: Modality, config_text: str, started: Launch, console: Console, lock: FolderLock
) -> int:
    control = started.control
    # First, so that data or settings that cannot be leave no folder behind.
    source, method = control.agree(lambda: _build(config, modality))
    probe = control.agree(lambda: build_online_probe(config, modality, started.device))
    folder = control.first(lambda: open_folder(config, console.warn))
    control.first(lambda: lock.take(folder.path, console.warn))
    control.agree(lambda: check_shared(folder.path))
    parts = Parts(method, source, config, config_text, started, folder.path, console, probe)
    with value_errors_are_users():
        trainer = Trainer(parts)
    recipe = _recipe(config, modality, console)
    choices = [("run folder", str(folder.path), folder.reason)]
    if recipe is not None:
        choices.append(choice_row(config.recipe, differences(recipe["settings"], plain(config))))
    choices += [*started.choices, *trainer.choices, *modality.choices(config)]
    console.choices(choices)
    if folder.resume_from is not None:
        _resume(trainer, folder, console)
    # Only now: a checkpoint that does not fit must leave the files of its run as they were.
    if started.rank == 0:
        replace_text(folder.path / "config.yaml", config_text)
        _write_environment(folder.path, started, choices)
        if recipe is not None:
            write_recipe(folder.path, recipe)
    if config.dry_run:
        dry_run.show(trainer, parts)
        return 0
    if not _train(trainer, parts):
        return 0
    trainer.assemble(lambda: build_method(config, modality))
    # From here process 0 works alone: without a group nothing it calls can wait for processes that have left.
    started.accelerator.end_training()
    if started.rank == 0:
        _finish(config, modality, trainer, parts)
    return 0


def _build(config: RunSettings, modality: Modality) -> tuple[SampleSource, Any]:
    with value_errors_are_users():
        source = modality.sources(config)
    return source, build_method(config, modality)


def _recipe(config: RunSettings, modality: Modality, console: Console) -> dict[str, Any] | None:
    """The recipe as shipped; None where settings made in a program name one that there is not."""
    try:
        return describe_recipe(modality, config)
    except ConfigError as error:
        console.warn(f"the report will not say what differs from the recipe: {error}")
        return None


def _write_environment(run_dir: Path, started: Launch, choices: list[Choice]) -> None:
    reasons = {what: f"{choice} ({reason})" for what, choice, reason in choices}
    facts = {**describe_environment(started.world), "choices": reasons}
    replace_text(run_dir / "environment.json", json.dumps(facts, indent=1))


def _resume(trainer: Trainer, folder: RunFolder, console: Console) -> None:
    assert folder.resume_from is not None
    origin = folder.resume_from
    stored = trainer.launch.control.agree(lambda: checkpoints.load(origin))
    trainer.launch.control.agree(lambda: trainer.restore(stored))
    console.message(f"resumed {origin} at step {trainer.step}")
    for aside in trainer.launch.control.first(lambda: checkpoints.set_newer_aside(folder.path, trainer.step)):
        console.warn(f"a checkpoint beyond step {trainer.step} was set aside as {aside}")


def _train(trainer: Trainer, parts: Parts) -> bool:
    """Trains; a run that diverged or collapsed leaves a report too: there its curves are needed most."""
    try:
        return trainer.train()
    except (DivergenceError, CollapseError):  # raised on all processes together
        parts.launch.control.first(lambda: _report(parts))
        raise


def _report(parts: Parts) -> None:
    from jepa_core.report.html import write_report  # only here: plotting is slow to import

    parts.console.message(f"Report: {write_report(parts.run_dir)}")


def _finish(config: RunSettings, modality: Modality, trainer: Trainer, parts: Parts) -> None:
    """Pictures, probe, result and report; every part of it reads the trained method in eval mode."""
    console = parts.console
    trainer.method.eval()
    trainer.optimizer.zero_grad(set_to_none=True)
    outcome.release(trainer.launch.device)
    table, start_s = None, time.perf_counter()
    try:
        with value_errors_are_users(DataError):
            table = _look_at(config, modality, trainer, parts)
    finally:  # a probe that fails must not take what was trained with it
        verdict = _write_result(config, trainer, parts, table, time.perf_counter() - start_s)
        console.close()
        if table is not None:
            outcome.show_probe(console, table)
        console.message(f"Verdict: {verdict.sentence}")
        _report(parts)


def _look_at(config: RunSettings, modality: Modality, trainer: Trainer, parts: Parts) -> ProbeTable | None:
    """Draws the pictures, probes, and looks at the neighbours of held-back samples."""
    device = trainer.launch.device
    batch = dry_run.first_batch(parts) if trainer.last_batch is None else trainer.last_batch
    batch = to_device(batch, device)
    untrained: Method = build_method(config, modality).to(device).eval()
    with torch.no_grad():
        pictures = list(modality.pictures(config, trainer.method, batch))
        if isinstance(modality, DrawsFeatures):
            pictures += modality.feature_pictures(config, trainer.method, untrained, batch)
    outcome.write_pictures(parts.run_dir, pictures)
    parts.console.message("training is done, what it learned is being measured")
    table = modality.probe(config, trainer.method, untrained, device)
    encoders = Encoders(trainer.method, untrained, device)
    write_samples(config, modality, encoders, parts.run_dir, parts.console.warn)
    return table


def _write_result(
    config: RunSettings, trainer: Trainer, parts: Parts, table: ProbeTable | None, seconds: float
) -> Verdict:
    """``result.json``, and the verdict in it."""
    figures = {
        "modality": Path(config.modality).stem,
        "recipe": config.recipe,
        **trainer.summary(),
        "probe_seconds": seconds,
        "peak_rss_mib": peak_rss_mib(),
        "bad_samples": len(trainer.quarantine.bad),
        "checkpoint": str(trainer.last_checkpoint),
    }
    verdict = trainer.monitor.verdict()
    if verdict.state == WARMING_UP:
        verdict = replace(
            verdict,
            sentence=f"Too short for a verdict: it needs more than {PATIENCE} measurements, one every "
            f"{config.monitor.every} steps (monitor.every).",
        )
    if config.monitor.every == 0:
        verdict = replace(
            verdict, state="not measured", sentence="Not measured: the monitor was off (monitor.every=0)."
        )
    outcome.write_result(parts.run_dir, figures, verdict, table)
    return verdict
