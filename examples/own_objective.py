"""An objective of your own in one file: another energy and another term against collapse, on images as they are.

    jepa train modality=examples/own_objective.py
    jepa train modality=examples/own_objective.py objective.margin=0.2 vision.variance_weight=0

Data, masks, encoders, recipes, probes and reports stay those of the modality that is extended. Any part of
:class:`jepa_core.methods.masked.MaskedPrediction` can be another one: ``target``, ``masker``, ``predictor``, ...
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from jepa_core.distributed import sum_over_processes
from jepa_core.methods.masked import Regulariser
from jepa_vision.modality import VisionModality
from jepa_vision.settings import VisionRun


@dataclass
class ObjectiveSettings:
    """Settings of your own; --help shows what stands here.

    Attributes:
        margin: distance below which a prediction is good enough.
        uniformity: weight of the term that keeps samples apart.
        temperature: of that term, in units of squared distance on the sphere.
    """

    margin: float = 0.1
    uniformity: float = 0.05
    temperature: float = 0.5

    def validate(self) -> None:
        """What cannot be is one line that names the key."""
        if self.temperature <= 0:
            raise ValueError(f"temperature: expected a number above 0, got {self.temperature}")


@dataclass
class OwnRun(VisionRun):
    """A run on images: their settings and the objective's."""

    objective: ObjectiveSettings = field(default_factory=ObjectiveSettings)


@dataclass(frozen=True)
class MarginEnergy:
    """Mean over D of ``|p - t|`` beyond a margin: what is nearly right is left alone."""

    margin: float

    def __call__(self, predicted: Tensor, target: Tensor) -> Tensor:
        """``[..., D]`` twice to float32 ``[...]``, unreduced: kinds of sites have means of their own."""
        return (predicted.float() - target.float()).abs().sub(self.margin).clamp(min=0).mean(-1)


@dataclass(frozen=True)
class Uniformity:
    """Log of the mean Gaussian potential of pairs of samples (Wang and Isola, arXiv 2005.10242, eq. 2)."""

    temperature: float

    def __call__(self, features: Tensor, valid: Tensor | None, step: int) -> Mapping[str, Tensor]:
        """Features ``[B, N, D]`` of context sites; each sample is the direction of its mean feature."""
        weight = torch.ones(features.shape[:2], device=features.device) if valid is None else valid.float()
        mean = (features.float() * weight.unsqueeze(-1)).sum(1) / weight.sum(1, keepdim=True).clamp(min=1)
        unit = functional.normalize(mean, dim=-1)
        squared = (2 - 2 * unit @ unit.T).clamp(min=0)
        apart = ~torch.eye(len(unit), dtype=torch.bool, device=unit.device)
        # Summed over processes with its gradient: pairs are those of a process, their mean is that of all.
        potential = sum_over_processes((torch.exp(-squared / self.temperature) * apart).sum())
        pairs = sum_over_processes(apart.sum().float())
        return {"uniformity": torch.log(potential / pairs.clamp(min=1) + 1e-8)}


class OwnObjective(VisionModality):
    name, schema = "own_objective", OwnRun

    def build(self, config: Any) -> Any:
        method: Any = super().build(config)
        own = config.objective
        method.energy = MarginEnergy(own.margin)
        term = Regulariser(Uniformity(own.temperature), "context", 0, own.uniformity, l2_normalise=False)
        method.regularisers = (*method.regularisers, term)
        return method


MODALITY = OwnObjective()
