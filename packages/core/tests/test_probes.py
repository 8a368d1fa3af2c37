"""Probes: equal to scikit-learn where it has them, right errors, fast, and blind to the test split."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge
from sklearn.metrics import average_precision_score, r2_score
from torch import Tensor

from jepa_core.evaluate import linear
from jepa_core.evaluate.probes import (
    Standardiser,
    average_precision,
    bootstrap_stderr,
    clustered_accuracy,
    fit_logistic,
    knn_accuracy,
    linear_probe_accuracy,
    paired_bootstrap,
    ridge_r2,
)


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def two_classes(n: int, width: int, positives: float = 0.1, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = rng(seed)
    labels = (torch.rand(n, generator=generator) < positives).long()
    features = torch.randn(n, width, generator=generator)
    features[:, :3] += 1.2 * labels[:, None]
    return features, labels


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
def test_average_precision_equals_sklearn(ties: bool, weighted: bool) -> None:
    generator = rng(1)
    scores = torch.randn(500, generator=generator)
    scores = (scores * 3).round() if ties else scores
    labels = (torch.rand(500, generator=generator) < 0.2).long()
    weights = torch.randint(0, 4, (500,), generator=generator).double() if weighted else None
    expected = average_precision_score(labels, scores, sample_weight=None if weights is None else weights.numpy())
    assert float(average_precision(scores, labels, weights)) == pytest.approx(expected, abs=1e-12)


def test_average_precision_of_many_weightings_is_each_alone() -> None:
    scores, labels = torch.randn(80, generator=rng()).round(), torch.arange(80) % 3 == 0
    weights = torch.randint(0, 3, (7, 80), generator=rng(2)).double()
    together = average_precision(scores, labels, weights)
    alone = torch.stack([average_precision(scores, labels, row) for row in weights])
    torch.testing.assert_close(together, alone)


def test_average_precision_without_positives_is_nan() -> None:
    assert torch.isnan(average_precision(torch.randn(4), torch.zeros(4)))


def test_logistic_is_at_the_optimum_of_its_stated_objective() -> None:
    features, labels = two_classes(800, 6)
    probe = fit_logistic(features * 5 + 3, labels, l2=1e-2)
    x = probe.standardiser(features * 5 + 3)
    weight, bias = (
        probe.weight.clone().requires_grad_(),
        torch.tensor(probe.bias, dtype=torch.float64, requires_grad=True),
    )
    share = labels.double().mean()
    class_weight = torch.where(labels == 1, 0.5 / share, 0.5 / (1 - share))
    losses = torch.nn.functional.binary_cross_entropy_with_logits(
        x @ weight + bias, labels.double(), weight=class_weight, reduction="mean"
    )
    (losses + 1e-2 / 2 * weight.square().sum()).backward()
    assert weight.grad is not None and bias.grad is not None
    assert float(weight.grad.abs().max()) < 1e-5 and float(bias.grad.abs()) < 1e-5


def test_logistic_does_not_care_about_units_or_a_wild_row() -> None:
    features, labels = two_classes(2000, 5)
    scale = torch.tensor([1e-3, 1.0, 1e3, 10.0, 7.0])
    torch.testing.assert_close(
        fit_logistic(features, labels)(features),
        fit_logistic(features * scale, labels)(features * scale),
        rtol=1e-4,
        atol=1e-4,
    )
    wild = features.clone()
    wild[0] = 1e6
    assert float(Standardiser.fit(wild)(wild).abs().max()) <= 8.0


def test_constant_column_is_ignored() -> None:
    features, labels = two_classes(300, 4)
    features[:, 3] = 12345.678
    probe = fit_logistic(features, labels)
    assert float(probe.weight[3]) == pytest.approx(0.0, abs=1e-9)
    features[:, 3] += 1.0
    torch.testing.assert_close(probe(features), probe(features - torch.tensor([0, 0, 0, 1.0])))


def test_logistic_is_fast_enough() -> None:
    features, labels = two_classes(40_000, 240, positives=0.05)
    features = features @ torch.randn(240, 240, generator=rng(3)) * 0.3  # correlated, as channels are
    began = time.perf_counter()
    probe = fit_logistic(features, labels)
    assert time.perf_counter() - began < 12  # about 2 s on an idle core
    assert probe.iterations < 2000


@pytest.mark.parametrize(
    ("features", "labels", "match"),
    [
        (torch.zeros(4, 2), torch.ones(4), "both present"),
        (torch.zeros(4, 2), torch.zeros(3), r"\[N, D\]"),
        (torch.full((4, 2), torch.nan), torch.tensor([0, 1, 0, 1]), "NaN"),
    ],
)
def test_logistic_says_what_is_wrong(features: Tensor, labels: Tensor, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        fit_logistic(features, labels)


def test_ridge_equals_sklearn() -> None:
    generator = rng(4)
    x, coefficients = (
        torch.randn(300, 8, generator=generator, dtype=torch.float64),
        torch.arange(8.0, dtype=torch.float64),
    )
    y = x @ coefficients + torch.randn(300, generator=generator, dtype=torch.float64)
    standard = Standardiser.fit(x[:200])
    model = Ridge(alpha=0.05 * 200).fit(standard(x[:200]).numpy(), y[:200].numpy())
    expected = r2_score(y[200:].numpy(), model.predict(standard(x[200:]).numpy()))
    assert ridge_r2(x[:200], y[:200], x[200:], y[200:], l2=0.05) == pytest.approx(expected, abs=1e-10)
    assert ridge_r2(x[:200], torch.stack([y[:200]] * 2, 1), x[200:], torch.stack([y[200:]] * 2, 1), l2=0.05) == (
        pytest.approx(expected, abs=1e-10)
    )


def mean_metric(scores: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    return (weights * scores).sum(-1) / weights.sum(-1)


def test_bootstrap_over_units_knows_that_rows_of_a_unit_are_copies() -> None:
    per_unit = torch.randn(50, generator=rng(5), dtype=torch.float64)
    rows, units = per_unit.repeat_interleave(40), torch.arange(50).repeat_interleave(40)
    estimate = bootstrap_stderr(mean_metric, rows, rows, units, draws=2000)
    assert estimate.value == pytest.approx(float(per_unit.mean()))
    assert estimate.stderr == pytest.approx(float(per_unit.std() / 50**0.5), rel=0.1)


def test_paired_difference_cancels_what_both_share() -> None:
    shared = torch.randn(60, generator=rng(6), dtype=torch.float64).repeat_interleave(10)
    units = torch.arange(60).repeat_interleave(10)
    constant = paired_bootstrap(mean_metric, shared + 0.25, shared, shared, units)
    assert constant.value == pytest.approx(0.25) and constant.stderr < 1e-10
    value, stderr = paired_bootstrap(mean_metric, shared, shared, shared, units, seed=3)
    assert (value, stderr) == (0.0, 0.0)


def test_bootstrap_is_reproducible_and_fast() -> None:
    generator = rng(7)
    scores_a, scores_b = torch.randn(2, 60_000, generator=generator)
    labels = torch.rand(60_000, generator=generator) < 0.05
    units = torch.arange(60_000) // 1000
    began = time.perf_counter()
    first = paired_bootstrap(average_precision, scores_a + labels, scores_b, labels, units)
    assert time.perf_counter() - began < 9  # about 1 s on an idle core
    assert first == paired_bootstrap(average_precision, scores_a + labels, scores_b, labels, units)
    assert first.value > 5 * first.stderr > 0


def test_bootstrap_says_when_it_cannot() -> None:
    with pytest.raises(ValueError, match="at least 2 units"):
        bootstrap_stderr(average_precision, torch.randn(9), torch.ones(9), torch.zeros(9))
    labels, units = torch.zeros(20), torch.arange(20) // 2
    labels[0] = 1  # only one unit in ten has a positive: about a third of the draws miss it
    with pytest.warns(UserWarning, match="left out"):
        bootstrap_stderr(average_precision, torch.randn(20, generator=rng()), labels, units)


def test_clustered_error_equals_binomial_for_single_rows_and_grows_with_copies() -> None:
    correct = torch.rand(400, generator=rng(8)) < 0.7
    alone = clustered_accuracy(correct)
    assert clustered_accuracy(correct, torch.arange(400)).stderr == pytest.approx(alone.stderr, rel=0.01)
    copies = clustered_accuracy(correct.repeat_interleave(9), torch.arange(400).repeat_interleave(9))
    assert copies.stderr == pytest.approx(alone.stderr, rel=0.01)


def blobs(n: int, seed: int, classes: int = 3, width: int = 6, spread: float = 1.0) -> tuple[Tensor, Tensor]:
    centres = 3 * torch.randn(classes, width, generator=rng(99))
    labels = torch.arange(n) % classes
    return centres[labels] + spread * torch.randn(n, width, generator=rng(seed)), labels


def test_knn_and_linear_probe_find_blobs_and_not_noise() -> None:
    train, test = blobs(300, 1), blobs(150, 2)
    assert knn_accuracy(*train, *test).value > 0.95
    assert linear_probe_accuracy(*train, *test).accuracy.value > 0.95
    noise = torch.randn(300, 6, generator=rng(3)), torch.randn(150, 6, generator=rng(4))
    chance = knn_accuracy(noise[0], train[1], noise[1], test[1])
    assert abs(chance.value - 1 / 3) < 4 * chance.stderr


def test_knn_of_one_is_the_nearest_by_cosine() -> None:
    train, labels = torch.tensor([[1.0, 0.0], [0.0, 5.0]]), torch.tensor([0, 1])
    test = torch.tensor([[100.0, 1.0], [0.1, 0.2]])
    assert knn_accuracy(train, labels, test, torch.tensor([0, 1]), k=1) == (1.0, 0.0)
    with pytest.raises(ValueError, match="expected k"):
        knn_accuracy(train, labels, test, labels, k=3)


def test_penalty_is_chosen_by_groups_that_stay_whole() -> None:
    # Each recording has its own fingerprint and one label: with recordings torn apart, memorising them looks perfect.
    recordings, width = 24, 30
    group = torch.arange(recordings).repeat_interleave(10)
    fingerprint = torch.randn(recordings, width, generator=rng(1))
    features = fingerprint[group] + 0.1 * torch.randn(len(group), width, generator=rng(2))
    labels = group % 2
    honest = linear_probe_accuracy(features, labels, features[:9], labels[:9], train_groups=group)
    naive = linear_probe_accuracy(features, labels, features[:9], labels[:9])
    assert max(naive.validation.values()) > 0.95
    assert max(honest.validation.values()) < 0.8


@pytest.mark.parametrize("rank", [3, 24])
def test_penalties_are_compared_in_float32_by_nearly_the_answers_of_float64(rank: int) -> None:
    # More columns than directions: the small penalties leave an almost singular problem.
    mix = torch.randn(rank, 24, generator=rng(1))
    x = torch.randn(300, rank, generator=rng(2)) @ mix
    labels = ((x @ torch.randn(24, generator=rng(3))) > 0).long() + (x[:, 0] > 1)
    for l2 in (1e-4, 1e-3, 1e-2, 1e-1):
        quick, exact = (
            linear.linear_predictions(x[:200], labels[:200], x[200:], l2, dtype, tolerance)
            for dtype, tolerance in ((torch.float32, linear.SCREENING_TOLERANCE), (torch.float64, linear.TOLERANCE))
        )
        assert (quick == exact).double().mean() >= 0.98


def test_test_split_changes_nothing_but_the_figure() -> None:
    train, test = blobs(120, 1, spread=3.0), blobs(60, 2, spread=3.0)
    first = linear_probe_accuracy(*train, *test)
    second = linear_probe_accuracy(*train, test[0] * 0, test[1])
    assert (first.l2, first.validation) == (second.l2, second.validation)
    assert first.l2 in first.validation
    assert np.isfinite(first.accuracy.stderr)
