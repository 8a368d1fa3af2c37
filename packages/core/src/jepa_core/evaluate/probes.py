"""Probes on frozen features: logistic, ridge, kNN and multiclass linear, with errors that resample whole units.

Nothing here is tuned on the test split, and a probe never decides what it is compared with: controls (an untrained
encoder, raw features) are probed by the same calls and stand beside it as rows.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from jepa_core.evaluate.linear import L2S, choose_l2, float64, linear_predictions, logistic_model
from jepa_core.evaluate.linear import TOLERANCE as TOLERANCE
from jepa_core.evaluate.linear import Standardiser as Standardiser

WeightedMetric = Callable[[Tensor, Tensor, Tensor], Tensor]
"""``(scores [N], labels [N], weights [W, N]) -> [W]``: a metric under W weightings of the rows at once."""


class Estimate(NamedTuple):
    """A figure and its standard error."""

    value: float
    stderr: float


def _check_rows(what: str, features: Tensor, labels: Tensor) -> None:
    if features.ndim != 2 or len(features) != len(labels) or len(labels) == 0:
        raise ValueError(
            f"{what}: expected features [N, D] and labels [N] with N > 0, got {list(features.shape)} and "
            f"{list(labels.shape)}; flatten sites to rows first"
        )
    if not bool(torch.isfinite(features).all()):
        raise ValueError(f"{what}: features hold NaN or infinity; drop those rows or look at the encoder first")


@dataclass(frozen=True)
class LogisticProbe:
    """A fitted two-class probe; call it on features ``[N, D]`` for scores ``[N]`` (log odds, float64).

    Attributes:
        standardiser: fitted on the training rows.
        weight: ``[D]``, of standardised features.
        bias: log odds at the training mean.
        iterations: Newton or L-BFGS steps it took.
    """

    standardiser: Standardiser
    weight: Tensor
    bias: float
    iterations: int

    def __call__(self, features_ND: Tensor) -> Tensor:
        return self.standardiser(features_ND) @ self.weight + self.bias


def fit_logistic(features: Tensor, labels: Tensor, l2: float = 1e-3, class_weighted: bool = True) -> LogisticProbe:
    """Logistic regression, run to convergence.

    Minimises ``mean_i c_i log(1 + exp(-y_i f_i)) + l2 / 2 |w|^2`` with class weights ``c`` that give both classes the
    same total (mean 1), the bias free.

    Args:
        features: ``[N, D]``, any float type and device.
        labels: ``[N]``, 0 or 1.
        l2: weight penalty, above 0: without one, separable rows have no optimum.
        class_weighted: whether the rarer class is weighted up to the same total.

    Raises:
        ValueError: wrong shapes, non-finite features, labels other than both 0 and 1, ``l2`` not positive.
    """
    _check_rows("fit_logistic", features, labels)
    if l2 <= 0:
        raise ValueError(f"fit_logistic: expected l2 > 0, got {l2}")
    if set(labels.unique().tolist()) != {0, 1}:
        raise ValueError(f"fit_logistic: expected labels 0 and 1, both present, got {labels.unique().tolist()[:5]}")
    standardiser = Standardiser.fit(features)
    model = logistic_model(l2, len(labels), features.shape[1], "balanced" if class_weighted else None, TOLERANCE)
    model.fit(standardiser(features).numpy(), labels.cpu().numpy().astype(np.int64))
    weight = torch.from_numpy(model.coef_[0].astype(np.float64))
    return LogisticProbe(standardiser, weight, float(model.intercept_[0]), int(np.max(model.n_iter_)))


def average_precision(scores: Tensor, labels: Tensor, weights: Tensor | None = None) -> Tensor:
    """Average precision, ``sum_n (recall_n - recall_{n-1}) precision_n`` over distinct thresholds (as scikit-learn).

    Args:
        scores: ``[N]``, higher means more likely positive.
        labels: ``[N]``, 0 or 1.
        weights: of rows, ``[N]`` or ``[W, N]`` for W weightings at once (one sort serves all); None = 1.

    Returns:
        float64 ``[]`` or ``[W]``; NaN where the positives have no weight.
    """
    order = torch.argsort(scores, descending=True, stable=True)
    sorted_scores, positive = scores[order], labels[order].to(torch.float64)
    # Rows of equal score are one threshold: only the last of each run counts.
    ends = torch.nonzero(torch.diff(sorted_scores) != 0).flatten()
    ends = torch.cat([ends, ends.new_tensor([len(scores) - 1])])
    if weights is None:
        weights = torch.ones_like(scores, dtype=torch.float64)
    weights_sorted = weights[..., order].to(torch.float64)
    true = (weights_sorted * positive).cumsum(-1)[..., ends]
    predicted = weights_sorted.cumsum(-1)[..., ends]
    precision = torch.where(predicted > 0, true / predicted.clamp_min(1e-300), 0.0)
    gained = torch.diff(true, dim=-1, prepend=torch.zeros_like(true[..., :1]))
    return (gained * precision).sum(-1) / true[..., -1]


def bootstrap_stderr(
    metric: WeightedMetric, scores: Tensor, labels: Tensor, units: Tensor, draws: int = 200, seed: int = 0
) -> Estimate:
    """A metric and its standard error when whole units are drawn again with replacement.

    Args:
        metric: for example :func:`average_precision`.
        scores, labels: ``[N]``.
        units: ``[N]`` which scan, block or speaker a row belongs to. Rows of one unit resemble each other, so drawing
            rows alone would make the error too small.
        draws: bootstrap draws.
        seed: of the draws.

    Raises:
        ValueError: fewer than two units, or a metric that is undefined in more than half of the draws.
    """
    drawn = _bootstrap(lambda weights: metric(scores, labels, weights), units, draws, seed)
    ones = torch.ones(1, len(scores), dtype=torch.float64)
    return Estimate(float(metric(scores, labels, ones)[0]), float(drawn.std()))


def paired_bootstrap(
    metric: WeightedMetric,
    scores_a: Tensor,
    scores_b: Tensor,
    labels: Tensor,
    units: Tensor,
    draws: int = 200,
    seed: int = 0,
) -> Estimate:
    """``metric(a) - metric(b)`` and its standard error, both under the same draws of whole units.

    Both were measured on the same rows, so what makes a draw easy or hard cancels in the difference. Arguments and
    errors as in :func:`bootstrap_stderr`.
    """

    def difference(weights: Tensor) -> Tensor:
        return metric(scores_a, labels, weights) - metric(scores_b, labels, weights)

    drawn = _bootstrap(difference, units, draws, seed)
    ones = torch.ones(1, len(labels), dtype=torch.float64)
    return Estimate(float(difference(ones)[0]), float(drawn.std()))


def _bootstrap(metric: Callable[[Tensor], Tensor], units: Tensor, draws: int, seed: int) -> Tensor:
    """The metric under ``draws`` weightings of the rows: how often each row's unit was drawn."""
    _, unit_of_row = units.cpu().unique(return_inverse=True)
    count = int(unit_of_row.max()) + 1
    if count < 2:
        raise ValueError("bootstrap: expected at least 2 units to draw from, got 1; split the test set into blocks")
    generator = torch.Generator().manual_seed(seed)
    picks = torch.randint(count, (draws, count), generator=generator)
    times_drawn = torch.zeros(draws, count, dtype=torch.float64).scatter_add_(
        1, picks, torch.ones_like(picks, dtype=torch.float64)
    )
    values = torch.cat([metric(chunk[:, unit_of_row]) for chunk in times_drawn.split(16)])
    defined = values[torch.isfinite(values)]
    if len(defined) * 2 < draws or len(defined) < 2:
        raise ValueError(
            f"bootstrap: the metric is undefined in {draws - len(defined)} of {draws} draws; too few units"
        )
    if len(defined) < draws:
        warnings.warn(f"bootstrap: left out {draws - len(defined)} of {draws} draws without positives", stacklevel=3)
    return defined


def clustered_accuracy(correct: Tensor, groups: Tensor | None = None) -> Estimate:
    """Share of correct answers with its standard error; rows of one group may depend on each other.

    Without groups this is the binomial error; with them the cluster-robust one,
    ``sqrt(G / (G - 1) sum_g (sum_{i in g} (correct_i - mean))^2) / N``.

    Args:
        correct: bool ``[N]``.
        groups: ``[N]`` recording, drive or speaker of each row.
    """
    hits = float64(correct)
    mean = float(hits.mean())
    if groups is None:
        return Estimate(mean, math.sqrt(mean * (1 - mean) / len(hits)))
    _, group_of_row = groups.cpu().unique(return_inverse=True)
    count = int(group_of_row.max()) + 1
    if count < 2:
        raise ValueError("accuracy: expected at least 2 groups for an error between groups, got 1; pass groups=None")
    sums = torch.zeros(count, dtype=torch.float64).scatter_add_(0, group_of_row, hits - mean)
    return Estimate(mean, math.sqrt(count / (count - 1) * float(sums.square().sum())) / len(hits))


def ridge_r2(train_x: Tensor, train_y: Tensor, test_x: Tensor, test_y: Tensor, l2: float = 1e-3) -> float:
    """Test R^2 of ridge regression in closed form, float64.

    Minimises ``mean_i |y_i - f_i|^2 + l2 |w|^2`` on standardised features; the bias is free.

    Args:
        train_x, test_x: ``[N, D]``.
        train_y, test_y: ``[N]`` or ``[N, K]``; of K outputs the plain mean is given.

    Raises:
        ValueError: wrong shapes, non-finite features, or a test target that does not vary.
    """
    _check_rows("ridge_r2 (train)", train_x, train_y)
    _check_rows("ridge_r2 (test)", test_x, test_y)
    standardiser = Standardiser.fit(train_x)
    x_ND = standardiser(train_x)
    offset_D = x_ND.mean(0)  # clipping may have moved the mean off zero
    y_NK = float64(train_y).reshape(len(train_y), -1)
    target_NK = float64(test_y).reshape(len(test_y), -1)
    mean_K = y_NK.mean(0)
    x_ND = x_ND - offset_D
    gram_DD = x_ND.T @ x_ND / len(x_ND) + l2 * torch.eye(x_ND.shape[1], dtype=torch.float64)
    weight_DK = torch.linalg.solve(gram_DD, x_ND.T @ (y_NK - mean_K) / len(x_ND))
    residual_K = (target_NK - mean_K - (standardiser(test_x) - offset_D) @ weight_DK).square().sum(0)
    total_K = (target_NK - target_NK.mean(0)).square().sum(0)
    if bool((total_K <= 0).any()):
        raise ValueError("ridge_r2: the test target is constant, so R^2 is undefined; choose a target that varies")
    return float((1 - residual_K / total_K).mean())


def knn_accuracy(
    train_features: Tensor,
    train_labels: Tensor,
    test_features: Tensor,
    test_labels: Tensor,
    k: int = 20,
    temperature: float = 0.07,
    test_groups: Tensor | None = None,
) -> Estimate:
    """Accuracy of the k nearest neighbours by cosine, votes weighted by ``exp(cosine / temperature)``.

    The weighting of instance discrimination (Wu et al. 2018), as DINO evaluates it.

    Args:
        train_features, test_features: ``[N, D]``.
        train_labels, test_labels: ``[N]`` class ids from 0.
        k: neighbours, at most the training rows there are.
        test_groups: see :func:`clustered_accuracy`.
    """
    _check_rows("knn_accuracy (train)", train_features, train_labels)
    _check_rows("knn_accuracy (test)", test_features, test_labels)
    predicted = knn_predictions(train_features, train_labels, test_features, k, temperature)
    return clustered_accuracy(predicted == test_labels.cpu(), test_groups)


def knn_predictions(
    train_features: Tensor, train_labels: Tensor, test_features: Tensor, k: int = 10, temperature: float = 0.07
) -> Tensor:
    """Classes of the k nearest neighbours, int64 ``[N]`` on the CPU; arguments as in :func:`knn_accuracy`.

    Features are L2-normalised and neither centred nor scaled, and votes are weighted in proportion to
    ``softmax(cosine / temperature)`` over the k neighbours: with these defaults, the kNN of X-ARES (Interspeech 2025).
    """
    if not 1 <= k <= len(train_features):
        raise ValueError(f"kNN: expected k from 1 to the {len(train_features)} training rows, got {k}")
    bank = torch.nn.functional.normalize(train_features.detach().float(), dim=1)
    labels, classes = train_labels.long().to(bank.device), int(train_labels.max()) + 1
    predicted = [
        _vote(torch.nn.functional.normalize(chunk.detach().float(), dim=1) @ bank.T, labels, classes, k, temperature)
        for chunk in test_features.to(bank.device).split(2048)
    ]
    return torch.cat(predicted).cpu()


def _vote(cosine_QN: Tensor, labels_N: Tensor, classes: int, k: int, temperature: float) -> Tensor:
    nearest, index = cosine_QN.topk(k, dim=1)
    votes = torch.zeros(len(cosine_QN), classes, device=cosine_QN.device)
    # Cosines are at most 1: taking it off first keeps exp() from overflowing at small temperatures.
    votes.scatter_add_(1, labels_N[index], ((nearest - 1) / temperature).exp())
    return votes.argmax(1)


@dataclass(frozen=True)
class LinearProbeResult:
    """Outcome of :func:`linear_probe_accuracy`.

    Attributes:
        accuracy: on the test split, with standard error.
        l2: the penalty that cross-validation inside the training split chose.
        validation: accuracy of each penalty tried, over the training split's own folds.
    """

    accuracy: Estimate
    l2: float
    validation: dict[float, float]


def linear_probe_accuracy(
    train_features: Tensor,
    train_labels: Tensor,
    test_features: Tensor,
    test_labels: Tensor,
    train_groups: Tensor | None = None,
    test_groups: Tensor | None = None,
    l2s: Sequence[float] = L2S,
    folds: int = 4,
) -> LinearProbeResult:
    """Converged multinomial logistic regression; its penalty is chosen inside the training split.

    Args:
        train_features, test_features: ``[N, D]``.
        train_labels, test_labels: ``[N]`` class ids.
        train_groups: ``[N]`` recording or speaker: a group never lies on both sides of a fold, otherwise the fold
            rewards recognising it. None = each row is its own.
        test_groups: see :func:`clustered_accuracy`.
        l2s: penalties tried, as in :func:`fit_logistic`.
        folds: of the cross-validation.

    Raises:
        ValueError: wrong shapes, non-finite features, one class only, or fewer groups than folds.
    """
    _check_rows("linear_probe_accuracy (train)", train_features, train_labels)
    _check_rows("linear_probe_accuracy (test)", test_features, test_labels)
    chosen, validation = choose_l2(train_features, train_labels, train_groups, l2s, folds)
    predicted = linear_predictions(train_features, train_labels, test_features, chosen)
    return LinearProbeResult(clustered_accuracy(predicted == test_labels.cpu(), test_groups), chosen, validation)
