"""The collapse monitor on synthetic histories: it must see what collapses and leave the rest alone."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable

import pytest
import torch
from torch import Tensor

from jepa_core.monitor.collapse import CollapseMonitor
from jepa_core.monitor.verdict import (
    DIVERGING,
    FROZEN,
    HEALTHY,
    IGNORES,
    PARTIAL,
    TOTAL,
    WARMING_UP,
    Verdict,
    judge_history,
    rank_alarm,
    rank_line_of,
)
from jepa_core.settings import MonitorSettings

WIDTH, ROWS = 32, 256
STEPS = range(10, 310, 10)


def noise(step: int, rows: int = ROWS, width: int = WIDTH) -> Tensor:
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(step))


def settling(step: int) -> Tensor:
    """ReLU features that, as they learn, lose half their rank and some spread, and then stay."""
    scale = torch.exp(-torch.arange(WIDTH) / WIDTH * 3 * min(step / 100, 1))
    return torch.relu(noise(step) * scale)


def mean_dominated(step: int) -> Tensor:
    """A young transformer: tokens share a large mean, mean cosine 0.97; nothing is getting worse."""
    return noise(step) + 5.7


def constant(step: int) -> Tensor:
    return torch.ones(ROWS, WIDTH) + 1e-4 * noise(step)


def shrinking(step: int) -> Tensor:
    return 3.0 + noise(step) * math.exp(-step / 30)


def zero(step: int) -> Tensor:
    return noise(step) if step < 100 else torch.zeros(ROWS, WIDTH)


def rank_two(step: int) -> Tensor:
    if step < 100:
        return noise(step)
    return noise(step)[:, :2] @ noise(0, 2, WIDTH)


def dying(step: int) -> Tensor:
    alive = WIDTH - min(step // 10, WIDTH - 8)
    return noise(step) * (torch.arange(WIDTH) < alive)


def falling_loss(step: int) -> float:
    return 0.3 + 0.7 * math.exp(-step / 50) + 0.02 * math.sin(step)


def run(
    features: Callable[[int], Tensor],
    loss: Callable[[int], float] = falling_loss,
    steps: Iterable[int] = STEPS,
    monitor: CollapseMonitor | None = None,
) -> list[Verdict]:
    monitor = monitor or CollapseMonitor(MonitorSettings(rows=ROWS))
    verdicts = []
    for step in steps:
        monitor.observe(step, {"target": features(step), "context": noise(step)}, {"loss": loss(step)})
        verdicts.append(monitor.verdict())
    return verdicts


@pytest.mark.parametrize("features", [noise, settling, mean_dominated])
def test_healthy_runs_never_raise_an_alarm(features: Callable[[int], Tensor]) -> None:
    verdicts = run(features)
    assert [v.state for v in verdicts[:2]] == [WARMING_UP] * 2
    assert {v.state for v in verdicts[2:]} == {HEALTHY}
    assert "spread" in verdicts[-1].sentence and "rank" in verdicts[-1].sentence and verdicts[-1].since == 10


@pytest.mark.parametrize(("features", "since"), [(constant, 10), (shrinking, None), (zero, 100)])
def test_total_collapse(features: Callable[[int], Tensor], since: int | None) -> None:
    last = run(features)[-1]
    assert last.state == TOTAL and last.alarm and last.headline == "total collapse"
    assert "spread 0.0" in last.sentence and "What usually helps" in last.sentence
    assert f"since step {last.since}" in last.sentence
    if since is not None:
        assert last.since == since


def test_rank_two_is_a_partial_collapse_that_says_how_many_dimensions() -> None:
    verdicts = run(rank_two)
    assert verdicts[STEPS.index(110)].state == HEALTHY, "two bad measurements are not a state yet"
    assert verdicts[STEPS.index(120)].state == PARTIAL
    last = verdicts[-1]
    assert last.headline == f"partial collapse in {WIDTH - 2} of {WIDTH} dimensions" and last.since == 100
    assert "rank 2.0" in last.sentence and "context" not in last.sentence


def test_gradual_death_is_seen_early_and_counted() -> None:
    verdicts = run(dying)
    first = next(v for v in verdicts if v.state == PARTIAL)
    assert verdicts.index(first) <= 8
    assert verdicts[-1].headline == f"partial collapse in {WIDTH - 8} of {WIDTH} dimensions"
    assert f"{WIDTH - 8} target dimensions no longer vary" in verdicts[-1].sentence


@pytest.mark.parametrize(
    "loss",
    [
        lambda step: falling_loss(step) * math.exp(max(step - 150, 0) / 20),
        lambda step: falling_loss(step) if step < 150 else 1.6,
        lambda step: -5.0 + falling_loss(step) + 1.5 ** max((step - 150) / 5, 0),
    ],
    ids=["exploding", "learnt and lost", "negative"],
)
def test_diverging_loss(loss: Callable[[int], float]) -> None:
    verdicts = run(noise, loss)
    assert verdicts[STEPS.index(140)].state == HEALTHY
    assert verdicts[-1].state == DIVERGING and verdicts[-1].since is not None and verdicts[-1].since >= 150
    assert "began at" in verdicts[-1].sentence


@pytest.mark.parametrize(
    "loss",
    [
        lambda step: 0.05 + 0.3 * min(step / 200, 1),
        lambda step: -3 + 1.0 * math.sin(step),
        lambda step: 0.5 + (4.0 if step in (100, 200) else 0.0),
        lambda step: 0.0,
    ],
    ids=["rises as targets spread", "negative and noisy", "single spikes", "zero"],
)
def test_losses_that_are_no_divergence(loss: Callable[[int], float]) -> None:
    assert {v.state for v in run(noise, loss)[2:]} == {HEALTHY}


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_non_finite_needs_no_patience(bad: float) -> None:
    assert run(noise, lambda step: bad, steps=[10])[-1].state == DIVERGING
    broken = noise(0)
    broken[3, 5] = bad
    monitor = CollapseMonitor(MonitorSettings(rows=ROWS))
    figures = monitor.observe(10, {"target": broken}, {"loss": 1.0})
    assert monitor.verdict().state == DIVERGING and "target features are not finite" in monitor.verdict().sentence
    assert figures["monitor/target/finite"] == 0 and math.isnan(figures["monitor/target/effective_rank"])


def test_recovery_is_noticed_after_patience() -> None:
    states = [v.state for v in run(lambda step: noise(step) if step < 100 or step >= 200 else constant(step))]
    assert states[STEPS.index(190)] == TOTAL and states[STEPS.index(210)] == TOTAL and states[-1] == HEALTHY


@pytest.mark.parametrize("features", [settling, rank_two, shrinking])
def test_resume_gives_the_same_verdicts(features: Callable[[int], Tensor]) -> None:
    whole = run(features)
    for cut in (1, 3, 11, 13):
        first = CollapseMonitor(MonitorSettings(rows=ROWS))
        run(features, steps=STEPS[:cut], monitor=first)
        second = CollapseMonitor(MonitorSettings(rows=ROWS))
        second.load_state_dict(json.loads(json.dumps(first.state_dict(), allow_nan=False)))
        assert run(features, steps=STEPS[cut:], monitor=second) == whole[cut:]


def test_recorded_run_is_judged_alike() -> None:
    monitor, rows = CollapseMonitor(MonitorSettings(rows=ROWS)), []
    for step in STEPS:
        figures = monitor.observe(step, {"target": rank_two(step)}, {"loss": falling_loss(step)})
        rows += [{"step": step, "loss": falling_loss(step), **figures}, {"step": step + 5, "loss": 0.5}]
    assert judge_history(rows) == monitor.verdict()
    assert judge_history([]).state == WARMING_UP


def test_rows_are_bounded_and_the_same_each_time() -> None:
    monitor = CollapseMonitor(MonitorSettings(rows=64))
    first = monitor.observe(1, {"target": noise(1, rows=1000)}, {})
    assert first["monitor/target/rows"] == 64 and first["monitor/target/dimensions"] == WIDTH
    assert first == CollapseMonitor(MonitorSettings(rows=64)).observe(1, {"target": noise(1, rows=1000)}, {})
    assert all(isinstance(value, float) for value in first.values())


def test_too_few_rows_are_said_not_guessed() -> None:
    monitor = CollapseMonitor(MonitorSettings())
    assert monitor.observe(1, {"target": noise(1, rows=1)}, {"loss": 1.0}) == {"monitor/target/rows": 1.0}
    with pytest.raises(ValueError, match=r"monitor\.rows"):
        CollapseMonitor(MonitorSettings(rows=1))


def test_half_precision_rank_two_is_seen() -> None:
    verdicts = run(lambda step: rank_two(step).to(torch.bfloat16))
    assert verdicts[-1].state == PARTIAL


def test_rank_line_of_a_run() -> None:
    assert rank_line_of(128, 512, 60) == pytest.approx(20)  # that of its size
    assert rank_line_of(128, 512, 28) == pytest.approx(28 / 3)  # it began low
    assert rank_line_of(128, 512, 6) == 4  # no wide features are well with less
    assert rank_line_of(8, 512, 6) == pytest.approx(1.25)  # of narrow ones that is asked only in part
    assert rank_line_of(2, 512, 2) == 1.05


def test_rank_alarm_scales() -> None:
    assert rank_alarm(128, 1024) == pytest.approx(20)
    assert rank_alarm(8, 1024) == pytest.approx(1.25)
    assert rank_alarm(512, 4096) == pytest.approx(40)
    assert rank_alarm(1024, 65) == rank_alarm(64, 4096)


def diagnosed(**figures: dict[str, float]) -> list[Verdict]:
    """Verdicts on healthy features with these figures of a method's diagnosis at every step."""
    monitor = CollapseMonitor(MonitorSettings(rows=ROWS))
    verdicts = []
    for step in range(10, 110, 10):
        given = {name: {key: torch.tensor(value) for key, value in each.items()} for name, each in figures.items()}
        monitor.observe(step, {"target": noise(step)}, {"loss": falling_loss(step)}, given)
        verdicts.append(monitor.verdict())
    return verdicts


@pytest.mark.parametrize(
    ("figures", "state", "words"),
    [
        ({"prediction": {"context_use": 0.0, "relative_error": 0.9}}, IGNORES, "another sample's context"),
        ({"prediction": {"context_use": 0.02, "relative_error": 0.9}}, HEALTHY, "keep a spread"),
        ({"samples": {"share": 0.0}, "prediction": {"context_use": 0.0}}, TOTAL, "lies between samples"),
        ({"weights": {"distance": 0.2, "moved": 0.0}}, FROZEN, "has not moved"),
        ({"weights": {"distance": 0.2, "moved": 1e-5}}, HEALTHY, "keep a spread"),
    ],
)
def test_what_a_method_tells_of_itself_is_judged(figures: dict[str, dict[str, float]], state: str, words: str) -> None:
    verdicts = diagnosed(**figures)
    assert [v.state for v in verdicts[:2]] == [WARMING_UP] * 2
    assert {v.state for v in verdicts[2:]} == {state} and words in verdicts[-1].sentence
    assert verdicts[-1].alarm == (state != HEALTHY)


def test_a_target_that_moved_once_is_not_frozen_when_its_schedule_ends() -> None:
    monitor = CollapseMonitor(MonitorSettings(rows=ROWS))
    for step in range(10, 210, 10):
        moved = {"weights": {"distance": torch.tensor(0.1), "moved": torch.tensor(1e-4 if step < 100 else 0.0)}}
        monitor.observe(step, {"target": noise(step)}, {}, moved)
        restored = CollapseMonitor(MonitorSettings(rows=ROWS))
        restored.load_state_dict(json.loads(json.dumps(monitor.state_dict())))
        monitor = restored
    assert monitor.verdict().state == HEALTHY


def test_a_predictor_that_begins_with_little_of_its_context_gets_time() -> None:
    verdicts = diagnosed(prediction={"context_use": 5e-6})
    assert [v.state for v in verdicts] == [WARMING_UP] * 2 + [HEALTHY] * 3 + [IGNORES] * 5
