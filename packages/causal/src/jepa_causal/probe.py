"""Where an object is, read linearly from its slot: a ridge probe, and which slot belongs to which object."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

FOLDS = 4
PENALTIES = tuple(10.0**power for power in range(-9, 1))
"""Of the squared weights, as a share of the number of rows; features are standardised."""

MOST_ROWS = 20_000
NO_SLOT = -1
"""The slot of an object that has none."""


@dataclass(frozen=True)
class PositionProbe:
    """An affine map from a slot to a position.

    Attributes:
        weight: float64 ``[D, 2]``.
        bias: float64 ``[2]``.
        penalty: chosen by cross-validation over training episodes, out of :data:`PENALTIES`.
        rmse: root mean squared distance on the training episodes left out in turn, in widths of the world.
    """

    weight: Tensor
    bias: Tensor
    penalty: float
    rmse: float

    def __call__(self, slots: Tensor) -> Tensor:
        """Positions float64 ``[..., 2]`` of slots ``[..., D]``, on the CPU."""
        return slots.detach().cpu().double() @ self.weight + self.bias


def fit_position_probe(
    slots_RD: Tensor, xy_R2: Tensor, episode_R: Tensor, penalties: Sequence[float] = PENALTIES
) -> PositionProbe:
    """Ridge regression in float64; the penalty is chosen by a cross-validation that keeps episodes whole.

    Args:
        slots_RD: slots of training episodes, ``[R, D]``; of more than :data:`MOST_ROWS` an even selection is used.
        xy_R2: true positions, in widths of the world.
        episode_R: which episode a row is of.
        penalties: tried, as shares of the number of rows.

    Raises:
        ValueError: fewer episodes than two, unequal lengths, or rows that are not finite.
    """
    _check(slots_RD, xy_R2, episode_R)
    weight, bias, penalty, error = fit_ridge(slots_RD, xy_R2, episode_R, penalties)
    # scikit-learn takes the mean over both coordinates; a distance is the root of their sum.
    return PositionProbe(weight, bias, penalty, float(np.sqrt(2 * error)))


def fit_ridge(
    x_RF: Tensor, y_RP: Tensor, episode_R: Tensor, penalties: Sequence[float] = PENALTIES
) -> tuple[Tensor, Tensor, float, float]:
    """An affine map from x to y by ridge regression, as :func:`fit_position_probe` has it.

    Returns:
        Weight ``[F, P]`` and bias ``[P]`` in float64, the penalty, and the mean squared error on the episodes left out.
    """
    from sklearn.linear_model import Ridge
    from sklearn.model_selection import GridSearchCV, GroupKFold
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    chosen = torch.linspace(0, len(x_RF) - 1, min(len(x_RF), MOST_ROWS)).long()
    x, y = (rows.detach().cpu()[chosen].double().numpy() for rows in (x_RF, y_RP))
    groups = episode_R.cpu()[chosen].numpy()
    search = GridSearchCV(
        make_pipeline(StandardScaler(), Ridge(solver="svd" if len(x) <= x.shape[1] else "cholesky")),
        {"ridge__alpha": [penalty * len(x) for penalty in penalties]},
        scoring="neg_mean_squared_error",
        cv=GroupKFold(min(FOLDS, len(np.unique(groups)))),
    ).fit(x, y, groups=groups)
    scaler, ridge = search.best_estimator_.named_steps.values()
    weight = (ridge.coef_ / scaler.scale_).T
    bias = ridge.intercept_ - scaler.mean_ @ weight
    penalty = search.best_params_["ridge__alpha"] / len(x)
    return torch.from_numpy(weight), torch.from_numpy(bias), penalty, -float(search.best_score_)


def _check(slots_RD: Tensor, xy_R2: Tensor, episode_R: Tensor) -> None:
    if not len(slots_RD) == len(xy_R2) == len(episode_R) or slots_RD.ndim != 2:
        raise ValueError(
            f"position probe: expected slots [R, D], positions [R, 2] and episodes [R], got {list(slots_RD.shape)}, "
            f"{list(xy_R2.shape)} and {list(episode_R.shape)}"
        )
    if len(episode_R.unique()) < 2:
        raise ValueError("position probe: expected slots of at least 2 training episodes; raise data.episodes")
    if not (bool(torch.isfinite(slots_RD).all()) and bool(torch.isfinite(xy_R2).all())):
        raise ValueError("position probe: slots or positions hold NaN or infinity; look at the slot encoder first")


# --------------------------------------------------------------------------------------------------------------------
# Which slot is which object's
# --------------------------------------------------------------------------------------------------------------------


def match_by_position(found_BK2: Tensor, xy_BN2: Tensor, present_BN: Tensor) -> Tensor:
    """The slot whose probed position lies nearest to each object, one to one; int64 ``[B, N]``.

    Args:
        found_BK2: what the probe reads from each slot.
        xy_BN2: true positions.
        present_BN: which objects are there; the others get :data:`NO_SLOT`.
    """
    distance_BNK = (xy_BN2[:, :, None].double() - found_BK2[:, None].double()).square().sum(-1)
    return _assign(distance_BNK.cpu().numpy(), present_BN.cpu().numpy())


def _assign(cost_BNK: NDArray[np.float64], wanted_BN: NDArray[np.bool_]) -> Tensor:
    """The cheapest one-to-one assignment of wanted objects to slots, for each sample by itself."""
    from scipy.optimize import linear_sum_assignment

    found = np.full(wanted_BN.shape, NO_SLOT, dtype=np.int64)
    for row, (cost_NK, wanted_N) in enumerate(zip(cost_BNK, wanted_BN, strict=True)):
        objects = np.flatnonzero(wanted_N)
        rows, slots = linear_sum_assignment(cost_NK[objects])
        found[row, objects[rows]] = slots
    return torch.from_numpy(found)
