"""The training loop: one wrapped method, gradient accumulation, schedules, checkpoints; it never looks inside a batch.

A step takes ``accumulation`` micro-batches on every process. Each loss is divided by their number, and the wrapper
averages gradients over processes: a method's loss must be the mean over the micro-batch joined over processes.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from jepa_core.contracts import Batch, Losses, SampleSource
from jepa_core.data.loader import Loader, choose_workers
from jepa_core.data.move import to_device
from jepa_core.data.quarantine import Quarantine
from jepa_core.data.sampler import Sampler
from jepa_core.distributed import sum_over_processes
from jepa_core.errors import CollapseError, ConfigError, DataError
from jepa_core.monitor.collapse import CollapseMonitor
from jepa_core.monitor.console import Console
from jepa_core.monitor.verdict import TOTAL
from jepa_core.settings import RunSettings
from jepa_core.train import checkpoint as checkpoints
from jepa_core.train import optim, resumable, state
from jepa_core.train.blocks import compile_blocks, joined_batch_warning
from jepa_core.train.checkpoint import Checkpoint
from jepa_core.train.launch import Choice, Launch
from jepa_core.train.meter import Meter
from jepa_core.train.online_probe import OnlineProbe
from jepa_core.train.parallel import layout
from jepa_core.train.recorder import Recorder
from jepa_core.train.resume import Shape, shape, tell_differences
from jepa_core.train.saving import BackgroundSaver, Best, Saver, best_figure, wait_quietly
from jepa_core.train.schedule import rates_at
from jepa_core.train.stop import StopRequest
from jepa_core.train.watch import FiniteWatch


@dataclass(frozen=True)
class Parts:
    """What a trainer works with.

    Attributes:
        method: on the CPU, in float32; moved and wrapped here.
        source: the training data.
        config: the run's settings.
        config_text: the same as YAML, kept in each checkpoint.
        launch: processes and device.
        run_dir: the run folder.
        console: talks on process 0 only.
        probe: reads the frozen encoder every ``probe.every`` steps; None = none does.
    """

    method: Any
    source: SampleSource
    config: RunSettings
    config_text: str
    launch: Launch
    run_dir: Path
    console: Console
    probe: OnlineProbe | None = None


class Trainer:
    """Trains a method to ``trainer.max_steps``; :meth:`restore` first to go on from a checkpoint."""

    def __init__(self, parts: Parts) -> None:
        self.config, self.launch, self.console = parts.config, parts.launch, parts.console
        self.run_dir, self.method, self._config_text = parts.run_dir, parts.method, parts.config_text
        self._source, self._probe = parts.source, parts.probe
        settings, launch = parts.config.trainer, parts.launch
        self._layout = layout(launch, settings)
        self._layout.place(self.method.train())
        self.groups = list(self.method.parameter_groups())
        optim.check_groups(self.method, self.groups)
        self.optimizer, kernel, reason = optim.build_optimizer(self.groups, parts.config.optimizer, launch.device)
        self.workers, workers_reason = choose_workers(parts.config.data.workers, launch.local_world)
        self.choices: list[Choice] = [
            ("optimiser", kernel, reason),
            ("loader workers", str(self.workers), workers_reason),
        ]
        self.step, self.seconds = 0, 0.0
        self._position = 0
        self.monitor = CollapseMonitor(parts.config.monitor)
        self.quarantine = Quarantine(
            parts.run_dir / "quarantine.jsonl",
            len(parts.source),
            parts.config.data.max_bad_fraction,
            launch.control.gather,
            launch.rank,
        )
        self.samples_per_step = settings.batch_size * settings.accumulation * launch.world
        self.last_batch: Batch | None = None
        saver = BackgroundSaver if settings.save_in_background else Saver
        self._saver = saver(parts.run_dir, settings.keep_checkpoints)
        self.best = Best(best_figure(parts.config))
        state.seed_everything(parts.config.seed, 0, launch.rank)
        if warning := joined_batch_warning(self.method, settings.accumulation, launch.world):
            self.console.warn(warning)

    # ------------------------------------------------------------------------------------------- resume and save

    def restore(self, stored: Checkpoint) -> None:
        """Goes on from a checkpoint; what cannot be exact is said.

        Raises:
            ConfigError, CheckpointError: another seed, or it does not fit; nothing on the disk is changed.
        """
        with resumable.fitting(stored):
            self._take_over(stored)

    def _take_over(self, stored: Checkpoint) -> None:
        if stored.state["seed"] != self.config.seed:
            raise ConfigError(
                f"seed: this run began with {stored.state['seed']}, got {self.config.seed}; keep it to resume"
            )
        checkpoints.load_into(self.method, stored.model, str(stored.path))
        resumable.check(stored, self.method, self.optimizer, self.launch.rank)
        state.load_optimizer(self.optimizer, stored.optimizer, stored.optimizer_scalars)
        self.step, self.seconds = stored.step, stored.state["seconds"]
        self._position = stored.state["global_position"]
        self.monitor.load_state_dict(stored.state["monitor"])
        self.best.load_state_dict(stored.state.get("best", {}), self.run_dir)
        self._saver.last = stored.path
        if len(stored.processes) == self.launch.world:
            state.load_random_state(stored.processes[self.launch.rank])
            state.load_buffers(self.method, stored.processes[self.launch.rank])
        else:
            state.seed_everything(self.config.seed, self.step, self.launch.rank)
        tell_differences(stored.state["shape"], self._shape(), self.console.warn)

    def save(self) -> None:
        """Takes a checkpoint of the present step; all processes must call it.

        Raises:
            DivergenceError: something in it is not finite; nothing is written.
            StorageError: the disk did not take it, or not the one before.
        """
        control = self.launch.control
        self._watch.check(str(self.last_checkpoint or "none"))
        # What is known of bad samples up to here must not be lost with the process: they are not met again.
        self._meet_bad_samples()
        buffers = state.own_buffers(self.method) if control.world > 1 else {}
        everywhere = control.gather({**state.random_state(), **buffers})
        own = [state.without_equal(part, everywhere[0]) if rank else part for rank, part in enumerate(everywhere)]
        own[0] = {name: value for name, value in own[0].items() if name not in buffers}
        last_good = control.broadcast(self.last_checkpoint)
        control.agree(lambda: state.check_finite(self.method, self.step, last_good))
        collected = self._layout.collect(self.method, self.optimizer)
        control.first(lambda: self._saver.save(self._checkpoint(own, collected), self.best.step))

    def _checkpoint(self, processes: list[dict[str, Tensor]], collected: checkpoints.Collected) -> Checkpoint:
        score = self.best.settle(self.step)
        values = {
            "global_position": self._position,
            "seed": self.config.seed,
            "shape": dict(self._shape()),
            "seconds": self.seconds,
            "monitor": self.monitor.state_dict(),
            "score": score,
            "best": self.best.state_dict(),
        }
        return Checkpoint(self.step, *collected, processes, values, self._config_text)

    def _shape(self) -> Shape:
        return shape(self.config, self.launch, len(self._source))

    @property
    def last_checkpoint(self) -> Path | None:
        """The newest checkpoint that is known to be whole; on process 0 (elsewhere the one resumed from)."""
        return self._saver.last

    # ------------------------------------------------------------------------------------------------ the loop

    def train(self) -> bool:
        """Runs to the last step.

        Returns:
            True when all steps are done; False when a signal stopped the run after saving.

        Raises:
            DataError, DivergenceError, CollapseError, StorageError: on all processes.
        """
        if self.step >= self.config.trainer.max_steps:
            return True
        self._open()
        try:
            if self.step == 0 and self._probe is not None:
                self._recorder.write(0, self._probed(self._probe), "")
            with StopRequest() as stop:
                done = self._loop(stop)
        finally:
            wait_quietly(self._saver, self.console.warn)
            self._loader.close()
            self._layout.close()
        return done

    def assemble(self, build: Callable[[], Any]) -> None:
        """After training: on process 0 the method works alone; all processes must call it, ``build`` makes another."""
        self.method = self._layout.assemble(self.method, build)

    def _open(self) -> None:
        """What exists only while training: the wrapped method, the loader, the files."""
        config, launch = self.config, self.launch
        if config.trainer.compile:
            compile_blocks(self.method)
        self._forward = self._layout.open(self.method, self.optimizer)
        sampler = Sampler(
            len(self._source), config.seed, config.trainer.batch_size, launch.rank, launch.world, self._position
        )
        self._loader = Loader(self._source, sampler, config.seed, self.workers, pin=launch.device.type == "cuda")
        self._recorder = Recorder(
            launch.accelerator, self.console, self.run_dir, config.logging.trackers, after_step=self.step
        )
        self._gradients = optim.GradientCheck(self.groups, self._layout.silent_steps)
        weights, floor = optim.weight_norm(self.groups), optim.usual_norm(self.groups)
        self._watch = FiniteWatch(launch.control, weights, config.trainer.max_weight_growth, floor)
        self._meter = Meter(self.samples_per_step, launch.device)

    def _loop(self, stop: StopRequest) -> bool:
        start_s, before_s = time.perf_counter(), self.seconds
        while self.step < self.config.trainer.max_steps:
            with self._meter.waiting():
                window, stopping = self._fetch(stop)
            losses, norm = self._take_step(window)
            self.seconds = before_s + time.perf_counter() - start_s
            self._after_step(window, losses, norm)
            if self._checkpoint_is_due() or stopping:
                self.save()
            if stopping and self.step < self.config.trainer.max_steps:
                self._settle()
                self.console.message(f"{stop.name or 'a signal'}: saved {self.last_checkpoint}; go on with resume=auto")
                return False
        self._settle()
        return True

    def _settle(self) -> None:
        """Nothing is left open: bad samples are noted, figures and checkpoints are on disk."""
        self._meet_bad_samples()
        self.launch.control.first(self._saver.wait)
        self.launch.control.first(self._recorder.check)

    def _fetch(self, stop: StopRequest) -> tuple[list[Batch], bool]:
        """The micro-batches of the coming step, and whether any process was asked to stop."""
        window: list[Batch] = []
        failure = self._saver.failure() or self._recorder.failure
        try:
            for _ in range(self.config.trainer.accumulation):
                window.append(self._loader.next())
        except DataError as error:
            failure = error
        # One agreement a step: a process that stopped or failed alone would leave the others waiting for ever.
        here = [bool(stop.name), failure is not None, self._watch.is_broken()]
        stopping, failed, broken = self.launch.control.total([int(flag) for flag in here])
        if broken:
            self._watch.check(str(self.last_checkpoint or "none"))
        if failed:
            raise next(filter(None, self.launch.control.gather(failure)))
        for batch in window:
            self.quarantine.add(batch.rejected, self.step + 1)
            batch.step = self.step + 1
        return [to_device(batch, self.launch.device) for batch in window], bool(stopping)

    def _take_step(self, window: list[Batch]) -> tuple[list[Losses], Tensor]:
        """Forward, backward, clip, optimiser, target update; no host synchronisation."""
        step, settings = self.step + 1, self.config.trainer
        rates = rates_at(step, settings.max_steps, self.config.optimizer)
        optim.apply_rates(self.optimizer, rates)
        self._join_counts(window)
        self.method.watched = self._is_measured(step)
        losses = []
        for k, batch in enumerate(window):
            last = k == len(window) - 1
            with contextlib.nullcontext() if last else self._layout.without_exchange():
                out = self._forward(batch, step)
                self._layout.backward(out.total, len(window))
            losses.append(out)
        self._tell_silent_parameters()
        if self._watch.allows(step, optim.differing_rate(self.optimizer, rates), window):
            norm = self._layout.update(self.groups, self.optimizer, settings.clip_norm)
        else:  # the run ends before the next one
            norm = torch.zeros((), device=self.launch.device)
        self.method.after_step(step)
        self.step, self._position = step, self._loader.global_position
        self._meter.step()
        return losses, norm

    @torch.no_grad()
    def _join_counts(self, window: list[Batch]) -> None:
        """Target counts over all processes and micro-batches, where they differ between micro-batches."""
        if len(window) == 1:
            return  # a method joins a single micro-batch over processes by itself
        counts = [self.method.target_counts(batch) for batch in window]
        joint = None if counts[0] is None else sum_over_processes(torch.stack(counts).sum(0))
        for batch in window:
            batch.joint_counts, batch.micro_batches = joint, len(window)

    def _tell_silent_parameters(self) -> None:
        silent = self._gradients.observe()
        if silent is not None and self.launch.world > 1:
            silent = sorted({name for part in self.launch.control.gather(silent) for name in part})
            if silent:
                raise ConfigError(
                    f"parameters that got no gradient: {', '.join(silent)}; with {self.launch.world} processes each "
                    f"needs one in every step: freeze them, or train on one process"
                )
        if silent:
            self.console.warn(f"parameters that got no gradient in the first steps: {', '.join(silent)}")

    # ------------------------------------------------------------------------------------------------- figures

    def _after_step(self, window: list[Batch], losses: list[Losses], norm: Tensor) -> None:
        """Notes, measures, logs; then the checks that may end the run, at the same steps on all processes."""
        self.last_batch = window[-1]
        self._watch.note(self.step, [loss.total for loss in losses], norm, optim.weight_norm(self.groups), window)
        log = self.step == 1 or self.step % self.config.trainer.log_every == 0 or self._is_last()
        measure = self._is_measured(self.step)
        probed = self._probed(self._probe) if self._probe is not None and self._probe.is_due(self.step) else {}
        if not (log or measure or probed):
            return
        terms = self._joined_terms(losses)
        measured = self.monitor.observe(self.step, losses[-1].monitor, terms, self._diagnosis()) if measure else {}
        verdict = self.monitor.verdict()
        metrics = {**terms, **(self._figures(norm) if log else {}), **measured, **probed}
        self.best.note(metrics)
        self._recorder.write(self.step, metrics, verdict.headline if self.config.monitor.every else "")
        if log:
            self._meet_bad_samples()
            self._watch.check(str(self.last_checkpoint or "none"))
        if self.config.monitor.stop_on_collapse and self._anywhere(verdict.state == TOTAL):
            self.save()
            self._settle()
            raise CollapseError(
                f"{verdict.sentence} Stopped by monitor.stop_on_collapse at step {self.step}; "
                f"saved {self.last_checkpoint}"
            )

    def _is_measured(self, step: int) -> bool:
        every = self.config.monitor.every
        return every > 0 and step % every == 0

    def _diagnosis(self) -> Mapping[str, Mapping[str, Tensor]]:
        diagnose = getattr(self.method, "diagnose", None)
        return {} if diagnose is None else diagnose()

    def _probed(self, probe: OnlineProbe) -> Mapping[str, float]:
        with self._meter.pausing():
            return self.launch.control.agree(lambda: probe.measure(self.method))

    def _anywhere(self, here: bool) -> bool:
        """Whether it holds on any process: figures near a limit may round differently on another GPU."""
        return self.launch.control.total([int(here)])[0] > 0

    def _is_last(self) -> bool:
        return self.step == self.config.trainer.max_steps

    def _joined_terms(self, losses: list[Losses]) -> dict[str, float]:
        """Loss and terms, averaged over micro-batches and processes, with one host synchronisation."""
        names = list(losses[0].terms)
        rows = [torch.stack([loss.total.detach(), *(loss.terms[name] for name in names)]).float() for loss in losses]
        joined = sum_over_processes(torch.stack(rows).mean(0)) / self.launch.world
        return dict(zip(("loss", *(f"loss/{name}" for name in names)), joined.tolist(), strict=True))

    def _figures(self, norm: Tensor) -> dict[str, float]:
        rates = rates_at(self.step, self.config.trainer.max_steps, self.config.optimizer)
        figures = {"lr": rates.lr, "weight_decay": rates.weight_decay, "beta1": rates.beta1, "grad_norm": norm.item()}
        momentum = getattr(self.method, "momentum_now", None)
        if momentum is not None and math.isfinite(momentum):
            figures["ema_momentum"] = float(momentum)
        return {**figures, **self._meter.read()}

    def _meet_bad_samples(self) -> None:
        """Joins the quarantine when any process found something new."""
        if not self.launch.control.total([self.quarantine.waiting])[0]:
            return
        for sample_id, reason in self.quarantine.join().items():
            self.console.warn(f"quarantine: {sample_id}: {reason}; another sample took its place")

    def _checkpoint_is_due(self) -> bool:
        every = self.config.trainer.checkpoint_every
        return self._is_last() or (every > 0 and self.step % every == 0)

    def summary(self) -> Mapping[str, float]:
        """Steps, seconds, and mean samples a second over the whole run, resumes included."""
        speed = self.step * self.samples_per_step / self.seconds if self.seconds else 0.0
        return {"steps": self.step, "seconds": self.seconds, "samples_per_s": speed}
