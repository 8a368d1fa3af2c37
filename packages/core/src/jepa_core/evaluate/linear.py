"""Converged multinomial logistic regression whose penalty is chosen inside the training rows; group-wise folds."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

# scikit-learn takes about a second to import, so what needs it imports it.

L2S = (1e-4, 1e-3, 1e-2, 1e-1)
"""Penalties tried; of ``l2 / 2 |w|^2`` beside the mean loss of a row."""

CLIP_SIGMA = 8.0
"""Standardised features are clipped here: one wild cell must not bend a linear fit."""

CONSTANT_STD = 1e-8
"""A training column whose spread is below this times its size is constant and is set to zero."""

NEWTON_UNKNOWNS = 1200
"""Above this many coefficients a Hessian costs more than it saves, and L-BFGS takes over."""

TOLERANCE, SCREENING_TOLERANCE = 1e-6, 1e-3
"""Of the gradient: of what is reported, and where penalties are only compared, in float32 (several times faster)."""


@dataclass(frozen=True)
class Standardiser:
    """Centres and scales features by the statistics of training rows, then clips at 8 sigma.

    Attributes:
        mean: float64 ``[D]``.
        scale: float64 ``[D]``: one over the spread; 0 for a constant column.
    """

    mean: Tensor
    scale: Tensor

    @classmethod
    def fit(cls, features_ND: Tensor) -> Standardiser:
        """Statistics of training features ``[N, D]``."""
        x = float64(features_ND)
        mean, std = x.mean(0), x.std(0, correction=0)
        constant = std <= CONSTANT_STD * (1 + mean.abs())
        return cls(mean, torch.where(constant, 0.0, 1.0 / std.clamp_min(1e-300)))

    def __call__(self, features_ND: Tensor) -> Tensor:
        """Standardised features, float64 ``[N, D]``."""
        return ((float64(features_ND) - self.mean) * self.scale).clamp_(-CLIP_SIGMA, CLIP_SIGMA)


def float64(x: Tensor) -> Tensor:
    """Detached, on the CPU, in float64."""
    return x.detach().to(device="cpu", dtype=torch.float64)


def logistic_model(l2: float, rows: int, unknowns: int, class_weight: str | None, tolerance: float) -> Any:
    """A ``LogisticRegression`` for so many rows and coefficients, not fitted."""
    from sklearn.linear_model import LogisticRegression

    solver = "newton-cholesky" if unknowns <= NEWTON_UNKNOWNS else "lbfgs"
    # scikit-learn sums the loss over rows and halves |w|^2; not converging is a ConvergenceWarning, never silence.
    return LogisticRegression(C=1 / (l2 * rows), solver=solver, tol=tolerance, max_iter=2000, class_weight=class_weight)


def group_folds(labels: Tensor, groups: Tensor | None, folds: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Rows to fit and rows to hold out, of each fold: stratified by label, no group on both sides, always the same.

    Args:
        labels: ``[N]`` class ids.
        groups: ``[N]``; None = each row is its own.
        folds: how many.

    Raises:
        ValueError: one class only, or fewer groups than folds.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    y = labels.cpu().numpy().astype(np.int64)
    group_of_row = np.arange(len(y)) if groups is None else groups.cpu().numpy()
    if len(np.unique(y)) < 2 or len(np.unique(group_of_row)) < folds:
        raise ValueError(
            f"cross-validation: expected at least 2 classes and {folds} groups (one a fold), got "
            f"{len(np.unique(y))} and {len(np.unique(group_of_row))}; use fewer folds or more recordings"
        )
    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=0)
    with warnings.catch_warnings():
        # A class with fewer rows than folds only means that some folds lack it.
        warnings.filterwarnings("ignore", message="The least populated class", category=UserWarning)
        return list(splitter.split(y, y, group_of_row))


def choose_l2(
    features: Tensor, labels: Tensor, groups: Tensor | None = None, l2s: Sequence[float] = L2S, folds: int = 4
) -> tuple[float, dict[float, float]]:
    """The penalty with the best accuracy in a cross-validation of the training rows, and that of each one tried.

    Args:
        features: ``[N, D]``.
        labels, groups, folds: as in :func:`group_folds`.
        l2s: penalties tried; of equally good ones the greatest is taken, the simplest fit.
    """
    splits = group_folds(labels, groups, folds)
    validation = {l2: _fold_accuracy(features, labels, splits, l2) for l2 in l2s}
    best = max(validation.values())
    return max(l2 for l2, accuracy in validation.items() if accuracy == best), validation


def _fold_accuracy(
    features: Tensor, labels: Tensor, splits: Sequence[tuple[np.ndarray, np.ndarray]], l2: float
) -> float:
    correct = 0
    y = labels.cpu()
    for fit, held in splits:
        predicted = linear_predictions(features[fit], y[fit], features[held], l2, torch.float32, SCREENING_TOLERANCE)
        correct += int((predicted == y[held]).sum())
    return correct / len(y)


def linear_predictions(
    train_features: Tensor,
    train_labels: Tensor,
    test_features: Tensor,
    l2: float,
    dtype: torch.dtype = torch.float64,
    tolerance: float = TOLERANCE,
) -> Tensor:
    """Classes that a logistic regression on standardised features predicts, int64 ``[N]`` on the CPU.

    Args:
        train_features, test_features: ``[N, D]``.
        train_labels: ``[N]`` class ids.
        l2: penalty.
        dtype, tolerance: of the fit.
    """
    labels = train_labels.cpu().numpy().astype(np.int64)
    standardiser, unknowns = Standardiser.fit(train_features), train_features.shape[1] * len(np.unique(labels))
    model = logistic_model(l2, len(labels), unknowns, None, tolerance)
    model.fit(standardiser(train_features).to(dtype).numpy(), labels)
    return torch.from_numpy(np.asarray(model.predict(standardiser(test_features).to(dtype).numpy())))
