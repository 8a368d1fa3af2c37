"""The loop: resume to the bit, accumulation, bad samples, losses that are not finite, and collapse."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn
from toy import ToyJepa, ToyModality, ToySettings, quiet

from jepa_core.contracts import Batch, Losses
from jepa_core.errors import ConfigError, DataError, DivergenceError, UserError
from jepa_core.monitor.console import Console
from jepa_core.nn.norm import JointBatchNorm
from jepa_core.train import checkpoint as checkpoints
from jepa_core.train import launch
from jepa_core.train.blocks import batch_norms
from jepa_core.train.limits import check_settings
from jepa_core.train.trainer import Parts, Trainer

Change = Callable[[ToySettings], None]


def settings(**trainer: object) -> ToySettings:
    config = quiet(ToySettings())
    for name, value in trainer.items():
        setattr(config.trainer, name, value)
    return config


def trainer(config: ToySettings, run_dir: Path, method: torch.nn.Module | None = None) -> Trainer:
    """A trainer of the toy in a folder of its own."""
    run_dir.mkdir(exist_ok=True, parents=True)
    started = launch.start(config.trainer)
    torch.manual_seed(0)
    method = ToyModality().build(config) if method is None else method
    console = Console(config.trainer.max_steps, config.logging, enabled=True)
    return Trainer(Parts(method, ToyModality().sources(config), config, "", started, run_dir, console))


def metrics(run_dir: Path) -> list[dict]:
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


def bits(folder: Path) -> dict[str, bytes]:
    """What must agree to the bit between two courses of a run."""
    return {path.name: path.read_bytes() for path in folder.glob("*.safetensors")}


@pytest.mark.parametrize(("accumulation", "workers"), [(1, "0"), (2, "0"), (2, "2")])
def test_a_resumed_run_is_the_uninterrupted_one_to_the_bit(tmp_path: Path, accumulation: int, workers: str) -> None:
    # 23 samples, batches of 4: step 5 lies in the middle of an epoch, with and without accumulation.
    config = settings(max_steps=10, accumulation=accumulation, checkpoint_every=5)
    config.data.workers, config.bad = workers, [3]
    whole = trainer(config, tmp_path / "whole")
    assert whole.train()

    first = trainer(config, tmp_path / "parts")
    first.train()
    # What a kill after step 5 leaves: no later checkpoint, metrics that run on.
    middle = checkpoints.load(tmp_path / "parts" / "checkpoints" / "step-5")
    checkpoints.set_newer_aside(tmp_path / "parts", 5)
    torch.manual_seed(99)
    second = trainer(config, tmp_path / "parts", ToyJepa(config.dropout))
    second.restore(middle)
    assert second.train() and second.step == 10

    a, b = (tmp_path / name / "checkpoints" / "step-10" for name in ("whole", "parts"))
    assert bits(a) == bits(b) and len(bits(a)) == 3
    steps = [row["step"] for row in metrics(tmp_path / "parts")]
    assert steps == [1, 2, 3, 4, 6, 8, 9, 10]
    losses = [[row.get("loss") for row in metrics(tmp_path / name)] for name in ("whole", "parts")]
    assert losses[0] == losses[1] and None not in losses[0]


def test_accumulation_is_the_joined_batch_although_target_counts_differ(tmp_path: Path) -> None:
    finals = []
    for name, batch_size, accumulation in (("joined", 8, 1), ("two", 4, 2), ("four", 2, 4)):
        config = settings(max_steps=3, batch_size=batch_size, accumulation=accumulation)
        config.dropout = 0.0
        run = trainer(config, tmp_path / name)
        run.train()
        finals.append((torch.cat([p.flatten() for p in run.method.parameters()]), metrics(tmp_path / name)[-1]["loss"]))
    for weights, loss in finals[1:]:
        torch.testing.assert_close(weights, finals[0][0], atol=1e-6, rtol=1e-6)
        assert loss == pytest.approx(finals[0][1], abs=1e-6)


def test_the_target_moves_once_per_optimiser_step(tmp_path: Path) -> None:
    steps: list[int] = []
    config = settings(max_steps=3, accumulation=4)
    run = trainer(config, tmp_path)
    move = run.method.after_step
    run.method.after_step = lambda step: (steps.append(step), move(step))
    run.train()
    assert steps == [1, 2, 3]


def test_metrics_hold_what_a_person_asks_for(tmp_path: Path) -> None:
    config = settings(max_steps=6)
    run = trainer(config, tmp_path)
    run.train()
    row = metrics(tmp_path)[-1]
    wanted = (
        "loss loss/energy lr weight_decay beta1 ema_momentum grad_norm samples_per_s steps_per_s data_wait peak_rss_mib"
    )
    assert set(wanted.split()) <= set(row)
    assert any(name.startswith("monitor/target/") for name in row)
    assert run.last_checkpoint == tmp_path / "checkpoints" / "step-6"


def test_a_loss_that_is_not_finite_names_samples_and_the_last_good_checkpoint(tmp_path: Path) -> None:
    config = settings(max_steps=12, log_every=4, checkpoint_every=1)
    config.poison, config.total = [21], 24
    run = trainer(config, tmp_path)
    with pytest.raises(DivergenceError) as caught:
        run.train()
    assert caught.value.exit_code == 3
    said = str(caught.value)
    step = int(said.split("of step ")[1].split()[0])
    assert "the loss of" in said and "toy-21" in said and said.count("toy-") == 4
    assert checkpoints.newest(tmp_path, print).name == f"step-{step - 1}" if step > 1 else "none" in said
    for tensor in checkpoints.load(tmp_path / "checkpoints" / f"step-{step - 1}").model.values():
        assert torch.isfinite(tensor).all()


def test_a_gradient_that_is_not_finite_is_found_between_logs(tmp_path: Path) -> None:
    class Steep(ToyJepa):
        def forward(self, batch: Batch, step: int) -> Losses:
            losses = super().forward(batch, step)
            # Value 0, gradient infinity times zero.
            steep = (self.encoder[0].weight.sum() * 0).sqrt() if step == 3 else 0.0
            return Losses(losses.total + steep, losses.terms, {})

    run = trainer(settings(max_steps=9, log_every=8), tmp_path, Steep())
    with pytest.raises(DivergenceError, match="the gradient of step 3"):
        run.train()


def test_too_many_bad_samples_stop_the_run(tmp_path: Path) -> None:
    config = settings(max_steps=20)
    config.bad = [1, 2, 3]
    with pytest.raises(DataError, match="3 of 23 samples cannot be used|2 of 23 samples cannot be used"):
        trainer(config, tmp_path).train()
    assert len((tmp_path / "quarantine.jsonl").read_text().splitlines()) >= 2


def test_one_bad_sample_is_put_aside_and_the_run_goes_on(tmp_path: Path) -> None:
    config = settings(max_steps=12)
    config.bad = [4]
    run = trainer(config, tmp_path)
    assert run.train() and set(run.quarantine.bad) == {"toy-4"}


def test_collapse_stops_with_its_own_code(tmp_path: Path) -> None:
    class Constant(ToyJepa):
        def forward(self, batch: Batch, step: int) -> Losses:
            losses = super().forward(batch, step)
            constant = torch.ones(len(batch), 6) + torch.rand(len(batch), 6) * (1e-6 if step > 4 else 1.0)
            return Losses(losses.total, losses.terms, {"target": constant})

    config = settings(max_steps=40)
    config.monitor.every, config.monitor.stop_on_collapse = 1, True
    with pytest.raises(UserError, match="stop_on_collapse") as caught:
        trainer(config, tmp_path, Constant()).train()
    assert caught.value.exit_code == 4 and checkpoints.has_checkpoint(tmp_path)


def test_compile_needs_blocks(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="trainer.compile: ToyJepa has no compile_blocks"):
        trainer(settings(max_steps=1, compile=True), tmp_path).train()
    offered: list[bool] = []
    method = ToyJepa()
    method.compile_blocks = lambda: offered.append(True)
    trainer(settings(max_steps=1, compile=True), tmp_path, method).train()
    assert offered == [True]


def test_accumulation_over_batch_norm_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    method = ToyJepa()
    method.encoder[1] = torch.nn.BatchNorm1d(6)
    trainer(settings(max_steps=1), tmp_path, method)
    assert "batch norm" not in capsys.readouterr().out
    trainer(settings(max_steps=1, accumulation=2), tmp_path, method)
    assert "not the same as one larger batch" in " ".join(capsys.readouterr().out.split())


def test_joint_batch_norm_minds_accumulation_and_no_processes() -> None:
    plain, joint = (nn.Sequential(nn.Linear(2, 2), norm) for norm in (nn.BatchNorm1d(2), JointBatchNorm(2)))
    assert batch_norms(plain, across=True, accumulated=False) == ["1"]
    assert batch_norms(joint, across=True, accumulated=False) == []
    assert batch_norms(plain, across=False, accumulated=True) == batch_norms(joint, across=True, accumulated=True)


def test_a_parameter_without_gradient_is_named_and_refused_by_several_processes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    class Idle(ToyJepa):
        def __init__(self) -> None:
            super().__init__()
            self.idle = nn.Linear(2, 2)

    trainer(settings(max_steps=3), tmp_path, Idle()).train()
    assert "no gradient in the first steps: idle.weight, idle.bias" in " ".join(capsys.readouterr().out.split())
    several = trainer(settings(max_steps=3), tmp_path, Idle())
    several.launch.control.world = 2
    with pytest.raises(ConfigError, match="no gradient: idle.bias, idle.weight; with 2 processes"):
        several.train()


def test_another_seed_or_batch_size_is_told_on_resume(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trainer(settings(max_steps=2), tmp_path).train()
    stored = checkpoints.load(tmp_path / "checkpoints" / "step-2")
    trainer(settings(max_steps=2, batch_size=2), tmp_path).restore(stored)
    assert "trainer.batch_size=2 instead of 4" in " ".join(capsys.readouterr().out.split())
    more = settings(max_steps=2)
    more.total = 24
    trainer(more, tmp_path).restore(stored)
    assert "samples of the data set=24 instead of 23" in " ".join(capsys.readouterr().out.split())
    other = settings(max_steps=2)
    other.seed = 5
    with pytest.raises(ConfigError, match="seed: this run began with 0"):
        trainer(other, tmp_path).restore(stored)


def test_settings_that_would_be_ignored_are_refused() -> None:
    config = settings()
    config.monitor.every, config.monitor.stop_on_collapse = 0, True
    with pytest.raises(ConfigError, match="monitor.stop_on_collapse: nothing is measured"):
        check_settings(config)
    config = settings()
    config.dry_run, config.resume = True, "auto"
    with pytest.raises(ConfigError, match="dry_run: .* resume=auto"):
        check_settings(config)
    config = settings(max_steps=5)
    config.optimizer.warmup = 10
    with pytest.raises(ConfigError, match="optimizer.warmup"):
        check_settings(config)


@pytest.mark.parametrize("name", ["max_steps", "batch_size", "accumulation", "log_every"])
def test_impossible_settings_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=f"trainer.{name}"):
        check_settings(settings(**{name: 0}))


def test_bf16_leaves_the_method_as_it_was_built(tmp_path: Path) -> None:
    run = trainer(settings(max_steps=2, precision="bf16"), tmp_path)
    run.train()
    assert run.method.forward.__func__ is ToyJepa.forward
    assert all(p.dtype == torch.float32 for p in run.method.parameters())
