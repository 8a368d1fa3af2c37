"""Energies: distances of predicted and target features, and their mean over each kind of target site.

The sum over kinds with own means and coefficients is the loss of AD-L-JEPA (arXiv 2501.04969, eq. 2); with one kind it
is the plain mean of I-JEPA (arXiv 2301.08243, section 3) and V-JEPA (arXiv 2404.08471, eq. 1).
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from jepa_core.contracts import Energy, Sites
from jepa_core.distributed import sum_over_processes


def _wide(x: Tensor) -> Tensor:
    """At least float32: distances of half-precision features lose their small differences."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


@dataclass(frozen=True)
class L1:
    """Mean over D of ``|p - t|`` (V-JEPA)."""

    def __call__(self, predicted: Tensor, target: Tensor) -> Tensor:
        """``[..., D]``, ``[..., D]`` to float32 ``[...]`` (float64 for float64 features)."""
        return (_wide(predicted) - _wide(target)).abs().mean(-1)


@dataclass(frozen=True)
class L2:
    """Mean over D of ``(p - t)^2``, without a factor 1/2."""

    def __call__(self, predicted: Tensor, target: Tensor) -> Tensor:
        """``[..., D]``, ``[..., D]`` to float32 ``[...]`` (float64 for float64 features)."""
        return (_wide(predicted) - _wide(target)).square().mean(-1)


@dataclass(frozen=True)
class SmoothL1:
    """Mean over D of Huber's function divided by ``beta``: ``d^2 / (2 beta)`` below ``beta``, ``|d| - beta/2`` above.

    I-JEPA's released code uses it with ``beta`` 1; ``beta`` is in the unit of the features.
    """

    beta: float = 1.0

    def __post_init__(self) -> None:
        if self.beta <= 0:
            raise ValueError(f"SmoothL1: beta must be above 0, got {self.beta}; for no quadratic part use energy l1")

    def __call__(self, predicted: Tensor, target: Tensor) -> Tensor:
        """``[..., D]``, ``[..., D]`` to float32 ``[...]`` (float64 for float64 features)."""
        loss = functional.smooth_l1_loss(_wide(predicted), _wide(target), reduction="none", beta=self.beta)
        return loss.mean(-1)


@dataclass(frozen=True)
class Cosine:
    """``1 - cos(p, t)``: 0 for equal directions, 2 for opposite ones; not divided by D.

    Each length is ``sqrt(|x|^2 + eps^2)``, so that a zero vector has energy 1 and a finite gradient.
    """

    eps: float = 1e-4

    def __call__(self, predicted: Tensor, target: Tensor) -> Tensor:
        """``[..., D]``, ``[..., D]`` to float32 ``[...]`` (float64 for float64 features)."""
        predicted, target = _wide(predicted), _wide(target)
        # Lengths divide the product, not the vectors: a third of the memory is written, forward and backward.
        return 1 - (predicted * target).sum(-1) * self._one_over_length(predicted) * self._one_over_length(target)

    def _one_over_length(self, x: Tensor) -> Tensor:
        return torch.rsqrt(torch.linalg.vector_norm(x, dim=-1).square() + self.eps**2)


@dataclass(frozen=True)
class BinaryCrossEntropy:
    """Mean over D of the cross entropy of logits ``p`` and occupancies ``t`` in ``[0, 1]``.

    For raw occupancy targets (masked autoencoding of voxels), not for features. ``positive_weight`` multiplies the
    occupied part: most voxels are empty.
    """

    positive_weight: float = 1.0

    def __call__(self, predicted: Tensor, target: Tensor) -> Tensor:
        """Logits ``[..., D]``, occupancies ``[..., D]`` to float32 ``[...]`` (float64 for float64 logits)."""
        logits = _wide(predicted)
        weight = logits.new_full((), self.positive_weight)
        loss = functional.binary_cross_entropy_with_logits(
            logits, target.to(logits.dtype), pos_weight=weight, reduction="none"
        )
        return loss.mean(-1)


ENERGIES: Mapping[str, Callable[..., Energy]] = {
    "l1": L1,
    "l2": L2,
    "smooth_l1": SmoothL1,
    "cosine": Cosine,
    "binary_cross_entropy": BinaryCrossEntropy,
}


def build_energy(name: str, **options: Any) -> Energy:
    """The energy of this name; options are the fields of its class.

    Raises:
        ValueError: an unknown name or option, with the nearest valid one.
    """
    if name not in ENERGIES:
        raise ValueError(f"energy: expected one of {', '.join(ENERGIES)}, got {name!r}{_nearest(name, ENERGIES)}")
    kind = ENERGIES[name]
    valid = {field.name: field for field in fields(kind)}  # type: ignore[arg-type]  # every entry is a dataclass
    for option in options:
        if option not in valid:
            expected = ", ".join(valid) or "no options"
            raise ValueError(f"energy {name}: expected {expected}, got {option!r}{_nearest(option, valid)}")
    return kind(**options)


def _nearest(name: str, known: Mapping[str, Any]) -> str:
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else ""


def _counts(targets: Sites) -> Tensor:
    """float32 ``[kinds]``: this process's valid targets of each kind."""
    return torch.stack([targets.kind_mask(kind).sum() for kind in range(len(targets.kinds))]).float()


@torch.no_grad()
def count_targets(targets: Sites) -> Tensor:
    """Valid targets of each kind over all processes, float32 ``[kinds]``."""
    return sum_over_processes(_counts(targets))


def reduce_energy(
    distance: Tensor,
    targets: Sites,
    coefficients: Mapping[str, float] | None = None,
    joint_counts: Tensor | None = None,
    micro_batches: int = 1,
) -> tuple[Tensor, dict[str, Tensor]]:
    """One mean for each kind of target site over the joined batch, and their weighted sum.

    Args:
        distance: ``[B, K, M]``, from an energy.
        targets: the sites of ``distance``; what is not valid counts nowhere, whatever its distance.
        coefficients: factor of each kind, all kinds named; None = 1 each.
        joint_counts: ``[kinds]``, valid targets over all processes and all micro-batches of the optimiser step. A
            kind's value is then ``micro_batches * sum / joint_count``: the mean over the micro-batches, which
            accumulation takes, is the mean over the joint batch. None: the counts of this micro-batch.
        micro_batches: of this optimiser step; only used with ``joint_counts``.

    Returns:
        The total, equal on all processes, and detached ``energy/<kind>`` terms. A kind without a target is 0.
    """
    if distance.shape != targets.ids.shape:
        raise ValueError(
            f"reduce_energy: expected a distance for each target {list(targets.ids.shape)}, got {list(distance.shape)}"
        )
    factors = _factors(targets.kinds, coefficients)
    wide = _wide(distance)
    sums = [torch.where(targets.kind_mask(kind), wide, 0.0).sum() for kind in range(len(factors))]
    # One collective for sums and counts.
    joined = sum_over_processes(torch.cat([torch.stack(sums), _counts(targets).to(wide.dtype)]))
    sums_K, counts_K = joined[: len(factors)], joined[len(factors) :].detach()
    if joint_counts is not None:
        sums_K, counts_K = sums_K * micro_batches, joint_counts.to(sums_K)
    means_K = sums_K / counts_K.clamp(min=1)
    total = torch.stack([factor * mean for factor, mean in zip(factors, means_K, strict=True)]).sum()
    return total, {f"energy/{kind}": means_K[i].detach() for i, kind in enumerate(targets.kinds)}


def _factors(kinds: tuple[str, ...], coefficients: Mapping[str, float] | None) -> list[float]:
    if coefficients is None:
        return [1.0] * len(kinds)
    if set(coefficients) != set(kinds):
        raise ValueError(f"coefficients: expected one for each of {', '.join(kinds)}, got {', '.join(coefficients)}")
    return [float(coefficients[kind]) for kind in kinds]
