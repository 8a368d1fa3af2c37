"""Numbers that break: found before the next step, whatever is logged, and never saved over a good checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from test_trainer import settings, trainer
from toy import ToyJepa

from jepa_core.contracts import Batch, Losses
from jepa_core.errors import ConfigError, DivergenceError
from jepa_core.train import checkpoint as checkpoints
from jepa_core.train.control import Control
from jepa_core.train.limits import check_settings
from jepa_core.train.trainer import Trainer
from jepa_core.train.watch import FiniteWatch

BAD = 5
"""The step that breaks."""


class Broken(ToyJepa):
    """The toy with a fault in its forward pass at one step."""

    fault: Callable[[ToyJepa, Losses], torch.Tensor]

    def forward(self, batch: Batch, step: int) -> Losses:
        losses = super().forward(batch, step)
        total = type(self).fault(self, losses) if step == BAD else losses.total
        return Losses(total, losses.terms, losses.monitor)


def _loss(method: ToyJepa, losses: Losses) -> torch.Tensor:
    return losses.total * float("inf")


def _gradient(method: ToyJepa, losses: Losses) -> torch.Tensor:
    return losses.total + (method.encoder[0].weight.sum() * 0).sqrt()  # value 0, gradient infinity times zero


def _half(method: ToyJepa, losses: Losses) -> torch.Tensor:
    return losses.total + (losses.total.bfloat16() * 3e38 * 3e38).float()


def faulty(fault: Callable[[ToyJepa, Losses], torch.Tensor]) -> ToyJepa:
    return type("Faulty", (Broken,), {"fault": staticmethod(fault)})()


def run_into(run: Trainer, words: str) -> str:
    with pytest.raises(DivergenceError, match=words) as caught:
        run.train()
    return str(caught.value)


@pytest.mark.parametrize(
    ("fault", "words"), [(_loss, "the loss of step 5"), (_gradient, "the gradient of step 5"), (_half, "the loss of")]
)
def test_found_before_the_next_step_and_nothing_of_it_is_saved(
    tmp_path: Path, fault: Callable[[ToyJepa, Losses], torch.Tensor], words: str
) -> None:
    run = trainer(settings(max_steps=50, log_every=50, checkpoint_every=2), tmp_path, faulty(fault))
    said = run_into(run, words)
    assert run.step == BAD and "step-4" in said and "toy-" in said
    assert checkpoints.newest(tmp_path, print).name == "step-4"
    assert all(bool(value.isfinite().all()) for value in checkpoints.load(run.last_checkpoint).model.values())


def test_a_checkpoint_that_is_due_at_the_bad_step_is_not_written(tmp_path: Path) -> None:
    run = trainer(settings(max_steps=50, log_every=50, checkpoint_every=BAD), tmp_path, faulty(_gradient))
    run_into(run, "Last good checkpoint: none")
    assert not checkpoints.has_checkpoint(tmp_path)


def test_a_learning_rate_that_jumps_is_found_by_the_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from jepa_core.train import optim

    apply = optim.apply_rates

    def spiking(optimizer: torch.optim.Optimizer, rates: object) -> None:
        apply(optimizer, rates)
        if run.step + 1 == BAD:
            for group in optimizer.param_groups:
                group["lr"] *= 1e4

    monkeypatch.setattr(optim, "apply_rates", spiking)
    config = settings(max_steps=50, log_every=50, checkpoint_every=BAD)
    config.optimizer.warmup = 0
    run = trainer(config, tmp_path)
    said = run_into(run, "step 5 made the weights .* times as large")
    assert run.step == BAD and "max_weight_growth=1.25" in said and not checkpoints.has_checkpoint(tmp_path)
    config.trainer.max_weight_growth, config.trainer.max_steps = 0, 8
    run = trainer(config, tmp_path / "allowed")
    assert run.train()


def test_a_target_that_is_not_finite_is_not_saved(tmp_path: Path) -> None:
    class Spoilt(ToyJepa):
        def after_step(self, step: int) -> None:
            super().after_step(step)
            if step == BAD:
                next(self.target.parameters())[0, 0] = float("nan")

    run = trainer(settings(max_steps=50, log_every=50, checkpoint_every=BAD), tmp_path, Spoilt())
    run_into(run, "after step 5 not all values are finite in target.0.weight: not saved")
    assert not checkpoints.has_checkpoint(tmp_path)


def test_growth_is_measured_against_the_step_before() -> None:
    watch = FiniteWatch(Control(), torch.tensor(1.0), 2.0)
    batch = Batch(torch.zeros(1), torch.zeros(1, dtype=torch.int64), ("a",))

    def note(step: int, weights: float) -> bool:
        watch.note(step, [torch.tensor(0.0)], torch.tensor(1.0), torch.tensor(weights), [batch])
        return watch.is_broken()

    assert [note(step, weights) for step, weights in ((1, 1.9), (2, 3.7), (3, 0.1), (4, 0.2), (5, 0.5))] == [
        *(False,) * 4,
        True,
    ]
    with pytest.raises(DivergenceError, match="step 5 made the weights 2.5 times"):
        watch.check("none")


@pytest.mark.parametrize("value", [-1.0, 0.5, 1.0])
def test_a_growth_that_every_step_exceeds_is_refused(value: float) -> None:
    with pytest.raises(ConfigError, match="trainer.max_weight_growth"):
        check_settings(settings(max_weight_growth=value))
