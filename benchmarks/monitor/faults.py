"""Runs made to fail: what each fault does to a method, and which verdicts name it rightly."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MethodType
from typing import Any, cast

import torch
from torch import Tensor, nn

from jepa_causal.predictor import SlotPredictor
from jepa_core.contracts import Condition, Modality, SampleSource, Sites, Tokens
from jepa_core.methods.masked import MaskedPrediction
from jepa_core.monitor.verdict import DIVERGING, FROZEN, HEALTHY, IGNORES, PARTIAL, TOTAL
from jepa_core.targets import EmaTarget, MomentumSchedule, StopGradientTarget


class OpenTarget(nn.Module):
    """The online encoder itself, with its gradient: nothing keeps features from becoming one constant."""

    policy = "self"

    def __init__(self, online: nn.Module) -> None:
        super().__init__()
        self._online = (online,)

    def encode(self, inputs: Any, keep: Sites | None) -> Tokens:
        """Tokens of the target view."""
        return cast(Tokens, self._online[0](inputs, keep))


class PlaceOnly(nn.Module):
    """A predictor that knows the place and nothing else: one vector for each site of the lattice."""

    def __init__(self, sites: int, width: int) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(sites, width) * 0.02)

    def forward(
        self, context: Tokens, targets: Sites, condition: Condition | None = None, mask_index: int = 0
    ) -> Tensor:
        """``[B, K, M, D]``."""
        return self.table[targets.ids]


class SameSample:
    """A source that gives its first sample for every other."""

    def __init__(self, source: SampleSource) -> None:
        self._source = source

    def __getattr__(self, name: str) -> Any:
        return getattr(self._source, name)

    def __len__(self) -> int:
        return len(self._source)

    def load(self, index: int, seed: int) -> Any:
        """The first sample, cut the same way each time."""
        return self._source.load(0, 0)


def _healthy(method: MaskedPrediction, steps: int) -> None:
    """As the recipe has it."""


def _without_stop_gradient(method: MaskedPrediction, steps: int) -> None:
    method.target = OpenTarget(method.encoder)
    _without_help(method)

    def target_features(self: MaskedPrediction, features_BKMD: Tensor, targets: Sites) -> Tensor:
        return features_BKMD

    method._target_features = MethodType(target_features, method)  # type: ignore[method-assign]  # the fault itself


def _without_help(method: MaskedPrediction) -> None:
    """No term against collapse, and no normalisation of the target, which is one too."""
    method.regularisers, method.agreement, method.normaliser = (), None, None


def _momentum(value: float) -> Callable[[MaskedPrediction, int], None]:
    def apply(method: MaskedPrediction, steps: int) -> None:
        if not isinstance(method.target, EmaTarget):
            method.target = EmaTarget(method.encoder, "follow", MomentumSchedule(value, value, steps))
        method.target.schedule = MomentumSchedule(value, value, steps)

    return apply


def _self_target(method: MaskedPrediction, steps: int) -> None:
    method.target = StopGradientTarget(method.encoder)
    _without_help(method)


MOST_SLOTS = 1024


def _bypass(method: MaskedPrediction, steps: int) -> None:
    if isinstance(method.predictor, SlotPredictor):
        method.predictor = PlaceOnly(MOST_SLOTS, method.predictor.project.out_features)
        return
    width = getattr(method.encoder, "width", None)
    lattice = getattr(method.predictor, "lattice", None) or cast(Any, method.encoder).lattice
    method.predictor = PlaceOnly(lattice.count, int(width or cast(Any, method.encoder).channels))


@dataclass(frozen=True)
class Fault:
    """A way to make a run.

    Attributes:
        change: what is done to the method of the recipe, given the run's steps.
        named_by: verdicts that are right; empty = what the features measured at the end say.
        constant_inputs: every sample is the first one.
        settings: ``key=value`` for the run; ``{lr}`` is 100 times the recipe's rate.
        not_for: modalities that cannot have it.
    """

    change: Callable[[MaskedPrediction, int], None]
    named_by: Sequence[str] = ()
    constant_inputs: bool = False
    settings: Sequence[str] = ()
    not_for: Sequence[str] = ()


# The objects' encoder passes slots on and has no weights: there is no gradient to stop and nothing that could move.
WEIGHTLESS = ("causal",)

FAULTS: Mapping[str, Fault] = {
    "healthy": Fault(_healthy, (HEALTHY,)),
    "no stop-gradient": Fault(_without_stop_gradient, (PARTIAL, TOTAL), not_for=WEIGHTLESS),
    "momentum 0": Fault(_momentum(0.0), not_for=WEIGHTLESS),
    "stop-gradient alone": Fault(_self_target, not_for=WEIGHTLESS),
    "momentum 1": Fault(_momentum(1.0), (FROZEN,), not_for=WEIGHTLESS),
    "learning rate x 100": Fault(
        _healthy, (), settings=("optimizer.lr={lr}", "trainer.clip_norm=0", "trainer.max_weight_growth=0")
    ),
    "constant inputs": Fault(_healthy, (TOTAL, PARTIAL), constant_inputs=True),
    "predictor bypass": Fault(_bypass, (IGNORES, PARTIAL, TOTAL)),
}
"""``momentum 0``, ``stop-gradient alone`` and ``learning rate x 100`` may or may not end badly: that is measured.
With constant inputs a front end may still vary them by a sample's seed, so that features may keep some dimensions."""

COLLAPSED = (PARTIAL, TOTAL, DIVERGING)


class Faulty:
    """A modality whose method and data have a fault; it neither draws nor probes.

    Args:
        modality: keeps the contract.
        fault: see there.
        steps: of the run.
    """

    def __init__(self, modality: Modality, fault: Fault, steps: int) -> None:
        self._modality, self._fault, self._steps = modality, fault, steps

    def __getattr__(self, name: str) -> Any:
        return getattr(self._modality, name)

    def build(self, config: Any) -> Any:
        """The recipe's method with the fault."""
        method = cast(MaskedPrediction, self._modality.build(config))
        self._fault.change(method, self._steps)
        return method

    def sources(self, config: Any) -> Any:
        """The recipe's data, or one sample of it."""
        source = self._modality.sources(config)
        return SameSample(source) if self._fault.constant_inputs else source

    def probe(self, *_: Any) -> None:
        """None: a faulty run is judged by its features."""

    def pictures(self, *_: Any) -> list:
        """None."""
        return []

    feature_pictures = pictures
