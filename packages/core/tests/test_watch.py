"""Numbers that break: found before the next step, whatever is logged, and never saved over a good checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from test_trainer import settings, trainer
from toy import ToyJepa

from jepa_core.contracts import Batch, Losses, ParameterGroup
from jepa_core.errors import ConfigError, DivergenceError
from jepa_core.settings import OptimizerSettings
from jepa_core.train import checkpoint as checkpoints
from jepa_core.train import optim
from jepa_core.train.control import Control
from jepa_core.train.limits import check_settings
from jepa_core.train.schedule import Rates
from jepa_core.train.trainer import Trainer
from jepa_core.train.watch import FiniteWatch, Growth

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


@pytest.mark.parametrize("rate", [1e4, 10.0, 1.001, 0.0, float("nan")])
def test_a_rate_that_the_schedule_did_not_set_takes_no_step(
    rate: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    apply = optim.apply_rates

    def spiking(optimizer: torch.optim.Optimizer, rates: object) -> None:
        apply(optimizer, rates)
        if run.step + 1 == BAD:
            weights.extend(p.clone() for p in run.method.parameters())
            optimizer.param_groups[-1]["lr"] *= rate

    weights: list[torch.Tensor] = []
    monkeypatch.setattr(optim, "apply_rates", spiking)
    run = trainer(settings(max_steps=50, log_every=50, checkpoint_every=BAD), tmp_path)
    said = run_into(run, "step 5 was not taken: the schedule gives lr=")
    assert run.step == BAD and "param_groups" in said and not checkpoints.has_checkpoint(tmp_path)
    trained = [(p, before) for p, before in zip(run.method.parameters(), weights, strict=True) if p.requires_grad]
    assert all(torch.equal(p, before) for p, before in trained)


@pytest.mark.parametrize("name", ["weight_decay", "betas"])
def test_the_other_rates_are_compared_too(name: str) -> None:
    group = ParameterGroup("g", (("w", torch.nn.Parameter(torch.ones(2))),), True)
    optimizer, _, _ = optim.build_optimizer([group], OptimizerSettings(), torch.device("cpu"))
    rates = Rates(lr=0.1, weight_decay=0.5, beta1=0.8)
    optim.apply_rates(optimizer, rates)
    assert optim.differing_rate(optimizer, rates) is None
    optimizer.param_groups[0][name] = 0.7 if name == "weight_decay" else (0.8001, 0.9)
    assert f"the schedule gives {name}=" in str(optim.differing_rate(optimizer, rates))


def test_a_schedule_that_blows_the_weights_up_is_found_by_them(tmp_path: Path) -> None:
    config = settings(max_steps=50, log_every=50, checkpoint_every=BAD)
    config.optimizer.warmup, config.optimizer.lr = 0, 10.0
    run = trainer(config, tmp_path)
    said = run_into(run, "step 1 made the weights .* times as large")
    assert run.step == 1 and "max_weight_growth=1.25" in said and not checkpoints.has_checkpoint(tmp_path)
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


def judged(norms: list[float], limit: float = 1.25, floor: float = 0.0) -> list[str | None]:
    growth = Growth(norms[0], limit, floor)
    return [growth.judge(step, norm) for step, norm in enumerate(norms[1:], 1)]


def test_a_jump_below_the_limit_is_held_against_the_steps_before() -> None:
    calm = [100.0 + 0.01 * (step % 3) for step in range(12)]
    assert "in the 10 steps before by a factor of 1.0002 at most" in str(judged([*calm, 103.0])[-1])
    assert judged([*calm, 101.9])[-1] is None, "less than 2 %"
    assert judged([*calm[:10], 103.0])[-1] is None, "too few steps are known"
    assert judged([*calm, 103.0], limit=0)[-1] is None


def test_warm_up_decay_and_weights_that_begin_at_zero_are_no_jump() -> None:
    warm_up = [100.0]
    for step in range(1, 300):  # every step in the same direction, up to 2.9 % of the weights each
        warm_up.append(warm_up[-1] * (1 + 1e-4 * step))
    decay = [100.0 * 0.9**step for step in range(50)]
    cycles = [100.0 * (1.001 if step % 20 else 1.015) ** (step % 2) for step in range(60)]
    for healthy in (warm_up, decay, cycles):
        assert set(judged(healthy)) == {None}
    # 1 000 weights that are zero and then grow by 0.002 a step: a factor of 2 at the second.
    from_zero = [0.002 * step * 1000**0.5 for step in range(50)]
    assert set(judged(from_zero, floor=0.02 * 1000**0.5)) == {None}
    assert "1.5 times" in str(judged([100.0, 150.0], floor=0.6)[0])


@pytest.mark.parametrize("value", [-1.0, 0.5, 1.0])
def test_a_growth_that_every_step_exceeds_is_refused(value: float) -> None:
    with pytest.raises(ConfigError, match="trainer.max_weight_growth"):
        check_settings(settings(max_weight_growth=value))
