"""Parts of masked prediction that recipes of every modality choose by the same words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from jepa_core.anticollapse import Covariance, PooledVariance, VarianceHinge
from jepa_core.methods.masked import Regulariser, TargetNormaliser
from jepa_core.targets import CentredLayerNormalise, LayerNormalise

NORMALISERS: Mapping[str, TargetNormaliser | None] = {
    "layer": LayerNormalise(),
    "centred_layer": CentredLayerNormalise(),
    "none": None,
}
"""What is done to target features."""


def variance_terms(weight: float, of: Literal["samples", "tokens"]) -> list[Regulariser]:
    """Variance hinge and covariance of context features (VICReg, arXiv 2105.04906), none at weight 0.

    Args:
        weight: of the hinge; the covariance has a 25th of it, as in the paper.
        of: ``samples`` (the mean features of the samples of the batch) or ``tokens`` (those within each sample).
    """
    pooled = PooledVariance()
    if not weight:
        return []
    if of == "samples":
        return [Regulariser(pooled, "context", 0, weight, l2_normalise=False)]
    return [
        Regulariser(VarianceHinge(scope="sample"), "context", 0, weight, l2_normalise=False),
        Regulariser(Covariance(scope="sample"), "context", 0, weight * pooled.covariance, l2_normalise=False),
    ]
