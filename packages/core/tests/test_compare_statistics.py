"""Independent data give nothing: bias of every debiased figure, and p-values that are as rare as they say."""

from __future__ import annotations

import numpy as np
import pytest

from jepa_core.compare import canonical, cka, compare
from jepa_core.compare.inputs import from_array

QUICK = {"permutations": 99, "measures": ("linear_cka", "mutual_knn"), "assume_row_aligned": True}


def independent(seed: int, n: int, p: int, q: int) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    return generator.normal(size=(n, p)), generator.normal(size=(n, q))


def test_debiased_cka_of_independent_data_is_near_0() -> None:
    values = [cka.linear_cka(*independent(seed, 512, 768, 768)) for seed in range(20)]
    assert np.abs(values).max() < 0.02 and abs(np.mean(values)) < 0.002


def test_biased_cka_and_cca_rise_as_theory_says() -> None:
    x, y = independent(0, 256, 128, 96)
    assert cka.linear_cka_biased(x, y) == pytest.approx(np.sqrt(128 * 96 / ((256 + 128) * (256 + 96))), abs=0.01)
    x, y = independent(1, 512, 60, 40)
    squared = (canonical.canonical_correlations(x, y) ** 2).mean()
    assert squared == pytest.approx(60 / 511, abs=0.02)


def rejected(p_values: list[float]) -> float:
    return float(np.mean(np.array(p_values) <= 0.05))


@pytest.mark.slow
def test_p_values_of_independent_rows() -> None:
    found = [compare(*independent(seed, 48, 8, 6), permutations=99, **_one()) for seed in range(200)]
    assert 0.02 <= rejected([result["linear_cka"].p_value for result in found]) <= 0.09


def _one() -> dict[str, object]:
    return {"measures": ("linear_cka",), "assume_row_aligned": True}


def walks(seed: int, groups: int, length: int, width: int) -> np.ndarray:
    steps = np.random.default_rng(seed).normal(size=(groups, length, width))
    return steps.cumsum(1).reshape(groups * length, width)


def test_p_values_of_grouped_random_walks_hold_and_those_of_rows_do_not() -> None:
    names = [f"walk {row // 12}" for row in range(24 * 12)]
    by_groups, by_rows = [], []
    for seed in range(60):
        a = from_array(walks(2 * seed, 24, 12, 3), "a", group=names)
        b = from_array(walks(2 * seed + 1, 24, 12, 3), "b", group=names)
        by_groups.append(compare(a, b, permutations=59, **_one())["linear_cka"].p_value)
        by_rows.append(compare(a, b, permutations=59, groups="none", **_one())["linear_cka"].p_value)
    assert rejected(by_groups) <= 0.15 and rejected(by_rows) > 0.5


def test_the_best_of_many_layers_is_no_finding() -> None:
    generator = np.random.default_rng(0)
    from jepa_core.compare.inputs import Features

    significant = 0
    for _ in range(20):
        a, b = (Features({f"block_{k}": generator.normal(size=(60, 6)) for k in range(5)}, name=name) for name in "ab")
        found = compare(a, b, permutations=39, layer_measures=("linear_cka",), **_one())
        significant += found.layer_maps[0].p_value <= 0.05
    assert significant <= 4
