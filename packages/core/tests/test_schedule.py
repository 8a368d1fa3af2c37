"""Schedules: end points, shapes, and that they are functions of the step alone."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jepa_core.errors import UserError
from jepa_core.settings import OptimizerSettings
from jepa_core.train.schedule import one_cycle, rates_at, warmup_steps


def test_warmup_then_cosine_meets_its_end_points() -> None:
    s = OptimizerSettings(lr=1.0, lr_start=0.2, lr_end=0.01, warmup=10, weight_decay=0.04, weight_decay_end=0.4)
    assert rates_at(0, 100, s).lr == pytest.approx(0.2)
    assert rates_at(5, 100, s).lr == pytest.approx(0.6)
    assert rates_at(10, 100, s).lr == pytest.approx(1.0)
    assert rates_at(55, 100, s).lr == pytest.approx((1 + 0.01) / 2)
    assert rates_at(100, 100, s).lr == pytest.approx(0.01)
    assert rates_at(50, 100, s).weight_decay == pytest.approx(0.22)
    assert rates_at(100, 100, s).weight_decay == pytest.approx(0.4)
    assert rates_at(7, 100, s).beta1 == s.beta1


def test_a_constant_weight_decay_stays() -> None:
    assert {rates_at(k, 9, OptimizerSettings(weight_decay=0.3)).weight_decay for k in range(10)} == {0.3}


@pytest.mark.parametrize(("warmup", "total", "steps"), [(0.1, 100, 10), (0.0, 100, 0), (1, 100, 1), (40, 100, 40)])
def test_warmup_is_steps_or_a_fraction(warmup: float, total: int, steps: int) -> None:
    assert warmup_steps(warmup, total) == steps


def test_a_warmup_longer_than_the_run_is_refused() -> None:
    with pytest.raises(UserError, match="optimizer.warmup"):
        warmup_steps(200, 100)


def test_one_cycle_is_that_of_openpcdet() -> None:
    s = OptimizerSettings(name="adam_onecycle", lr=0.01, weight_decay=0.01)
    at = {step: rates_at(step, 1000, s) for step in (0, 200, 400, 700, 1000)}
    assert at[0].lr == pytest.approx(0.001) and at[0].beta1 == pytest.approx(0.95)
    assert at[200].lr == pytest.approx(0.0055) and at[200].beta1 == pytest.approx(0.90)
    assert at[400].lr == pytest.approx(0.01) and at[400].beta1 == pytest.approx(0.85)
    assert at[700].lr == pytest.approx((0.01 + 1e-7) / 2)
    assert at[1000].lr == pytest.approx(1e-7) and at[1000].beta1 == pytest.approx(0.95)


@given(step=st.integers(0, 50), total=st.integers(1, 50), name=st.sampled_from(["adamw", "adam_onecycle"]))
def test_rates_are_finite_and_never_above_the_peak(step: int, total: int, name: str) -> None:
    rates = rates_at(min(step, total), total, OptimizerSettings(name=name, lr=0.5))
    assert 0 <= rates.lr <= 0.5 * (1 + 1e-12) and math.isfinite(rates.lr)


def test_stretched_schedules_end_where_those_of_v_jepa_do() -> None:
    # V-JEPA: 300 epochs of 300 steps, 40 of them warm-up, laid out over 1.25 times the run.
    s = OptimizerSettings(
        lr=6.25e-4, lr_start=2e-4 / 6.25e-4, lr_end=1e-6 / 6.25e-4, warmup=12_000, stretch=1.25,
        weight_decay=0.04, weight_decay_end=0.4,
    )  # fmt: skip
    at = {step: rates_at(step, 90_000, s) for step in (0, 6_000, 12_000, 90_000)}
    assert [at[step].lr for step in (0, 6_000, 12_000)] == pytest.approx([2e-4, 4.125e-4, 6.25e-4])
    assert at[90_000].lr == pytest.approx(7.5e-5, rel=0.01)
    assert at[90_000].weight_decay == pytest.approx(0.366, rel=0.002)
    # A fraction of warm-up is one of the run, not of the stretched schedule.
    assert rates_at(12_000, 90_000, replace(s, warmup=12 / 90)).lr == pytest.approx(6.25e-4)
    assert rates_at(12_001, 90_000, replace(s, warmup=12 / 90)).lr < 6.25e-4


def test_a_linear_schedule_is_the_cool_down_of_v_jepa_2() -> None:
    s = OptimizerSettings(lr=5.25e-4, lr_end=1e-6 / 5.25e-4, shape="linear", warmup=0, stretch=1.25)
    assert rates_at(0, 12_000, s).lr == pytest.approx(5.25e-4)
    assert rates_at(12_000, 12_000, s).lr == pytest.approx(1.06e-4, rel=0.005)
    assert rates_at(12_000, 12_000, replace(s, stretch=1.0)).lr == pytest.approx(1e-6)
    middle = OptimizerSettings(lr=1.0, lr_start=0.5, lr_end=0.2, shape="linear", warmup=10)
    assert [rates_at(step, 110, middle).lr for step in (0, 5, 10, 60, 110)] == pytest.approx([0.5, 0.75, 1, 0.6, 0.2])
    with pytest.raises(UserError, match="optimizer.shape: expected cosine or linear"):
        rates_at(1, 2, replace(s, shape="step"))


def test_one_cycle_ends_where_it_is_told() -> None:
    assert one_cycle(10, 10, 0.0, 1.0, 0.5, 0.4) == pytest.approx(0.5)
