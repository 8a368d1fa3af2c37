"""Independent data give nothing: bias of every debiased figure, and p-values that are as rare as they say."""

from __future__ import annotations

import numpy as np
import pytest

from jepa_core.compare import canonical, cka
from jepa_core.compare.registry import MEASURES
from jepa_core.compare.scoring import Plan, score_layers, score_measure


def independent(seed: int, n: int, p: int, q: int) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    return generator.normal(size=(n, p)), generator.normal(size=(n, q))


def test_debiased_cka_of_independent_data_is_near_0() -> None:
    values = [cka.linear_cka(*independent(seed, 512, 768, 768)) for seed in range(6)]
    assert np.abs(values).max() < 0.02 and abs(np.mean(values)) < 0.002


def test_biased_cka_and_cca_rise_as_theory_says() -> None:
    x, y = independent(0, 256, 128, 96)
    assert cka.linear_cka_biased(x, y) == pytest.approx(np.sqrt(128 * 96 / ((256 + 128) * (256 + 96))), abs=0.01)
    x, y = independent(1, 512, 60, 40)
    squared = (canonical.canonical_correlations(x, y) ** 2).mean()
    assert squared == pytest.approx(60 / 511, abs=0.02)


def rejected(p_values: list[float]) -> float:
    return float(np.mean(np.array(p_values) <= 0.05))


def test_p_values_of_independent_rows() -> None:
    plan = Plan(permutations=99)
    found = [score_measure(MEASURES["linear_cka"], *independent(seed, 48, 8, 6), plan).p_value for seed in range(200)]
    assert 0.02 <= rejected(found) <= 0.09


def walks(seed: int, groups: int, length: int, width: int) -> np.ndarray:
    steps = np.random.default_rng(seed).normal(size=(groups, length, width))
    return steps.cumsum(1).reshape(groups * length, width)


def test_p_values_of_grouped_random_walks_hold_and_those_of_rows_do_not() -> None:
    groups = Plan(permutations=59, codes=np.repeat(np.arange(24), 12))
    by_groups, by_rows = [], []
    for seed in range(60):
        x, y = walks(2 * seed, 24, 12, 3), walks(2 * seed + 1, 24, 12, 3)
        by_groups.append(score_measure(MEASURES["linear_cka"], x, y, groups).p_value)
        by_rows.append(score_measure(MEASURES["linear_cka"], x, y, Plan(permutations=59)).p_value)
    assert rejected(by_groups) <= 0.15 and rejected(by_rows) > 0.5


def test_the_best_of_many_layers_is_no_finding() -> None:
    generator = np.random.default_rng(0)
    significant = 0
    for _ in range(20):
        first, second = ({f"block_{k}": generator.normal(size=(40, 6)) for k in range(5)} for _ in "ab")
        significant += score_layers(MEASURES["linear_cka"], first, second, Plan(permutations=39)).p_value <= 0.05
    assert significant <= 4
