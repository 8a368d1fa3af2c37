"""The optimiser: AdamW (Loshchilov and Hutter, ICLR 2019), each trainable parameter in exactly one group."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from jepa_core.contracts import ParameterGroup
from jepa_core.distributed import whole
from jepa_core.errors import ConfigError
from jepa_core.settings import OptimizerSettings
from jepa_core.train import schedule
from jepa_core.train.schedule import Rates

OPTIMIZERS = ("adamw", "adam_onecycle")
# Every torch from 2.11 has a fused Adam kernel for these.
_FUSED_DEVICES = ("cuda", "cpu")
USUAL_DEVIATION = 0.02
"""Of the initial weights of transformers; smaller ones, zeros above all, may grow by any factor at first."""


def check_settings(settings: OptimizerSettings) -> None:
    """Refuses impossible values, and options that the chosen optimiser would not use."""
    if settings.name not in OPTIMIZERS:
        raise ConfigError(f"optimizer.name: expected one of {', '.join(OPTIMIZERS)}, got {settings.name!r}")
    for name in ("lr", "eps"):
        if getattr(settings, name) <= 0:
            raise ConfigError(f"optimizer.{name}: expected a number above 0, got {getattr(settings, name)}")
    for name in ("beta1", "beta2"):
        if not 0 <= getattr(settings, name) < 1:
            raise ConfigError(f"optimizer.{name}: expected 0 <= {name} < 1, got {getattr(settings, name)}")
    for name in ("lr_start", "lr_end", "warmup", "weight_decay"):
        if getattr(settings, name) < 0:
            raise ConfigError(f"optimizer.{name}: expected a number of at least 0, got {getattr(settings, name)}")
    if settings.name == "adam_onecycle":
        _check_one_cycle(settings)


def _check_one_cycle(settings: OptimizerSettings) -> None:
    """The one-cycle policy fixes its own shape: a value that differs from it would be ignored."""
    fixed = {
        "lr_start": schedule.ONE_CYCLE_START,
        "lr_end": schedule.ONE_CYCLE_END,
        "warmup": schedule.ONE_CYCLE_RISE,
        "beta1": schedule.ONE_CYCLE_BETA1_HIGH,
        "shape": "cosine",
        "stretch": 1.0,
    }
    for name, value in fixed.items():
        if getattr(settings, name) not in (value, getattr(OptimizerSettings(), name)):
            raise ConfigError(
                f"optimizer.{name}: adam_onecycle fixes it at {value}, got {getattr(settings, name)}: "
                f"leave it out, or use optimizer.name=adamw"
            )


def check_groups(method: nn.Module, groups: Sequence[ParameterGroup]) -> None:
    """Raises ValueError unless every trainable parameter of the method is in exactly one group."""
    names = {parameter: name for name, parameter in method.named_parameters()}
    counts = Counter(parameter for group in groups for _, parameter in group.parameters)
    missing = [name for parameter, name in names.items() if parameter.requires_grad and not counts[parameter]]
    repeated = [names.get(parameter, "(not of this method)") for parameter, count in counts.items() if count > 1]
    frozen = [name for parameter, name in names.items() if counts[parameter] and not parameter.requires_grad]
    foreign = [name for group in groups for name, parameter in group.parameters if parameter not in names]
    for what, found in {
        "trainable but in no group": missing,
        "in several groups": repeated,
        "in a group but frozen": frozen,
        "in a group but no parameter of the method": foreign,
    }.items():
        if found:
            raise ValueError(
                f"parameter_groups(): {what}: {', '.join(found)}; expected each trainable one exactly once"
            )


def build_optimizer(
    groups: Sequence[ParameterGroup], settings: OptimizerSettings, device: torch.device
) -> tuple[torch.optim.AdamW, str, str]:
    """The optimiser, its name for the choices table, and the reason.

    Both names are AdamW with decoupled decay; ``adam_onecycle`` differs in its schedule and in cycling beta1.
    """
    fused = device.type in _FUSED_DEVICES
    table = [
        {
            "params": [parameter for _, parameter in group.parameters],
            "name": group.name,
            "names": [name for name, _ in group.parameters],
            "decays": group.weight_decay,
            "lr_scale": group.lr_scale,
        }
        for group in groups
        if group.parameters
    ]
    optimizer = torch.optim.AdamW(
        table, lr=settings.lr, betas=(settings.beta1, settings.beta2), eps=settings.eps, weight_decay=0.0, fused=fused
    )
    choice = f"{settings.name}, {'fused' if fused else 'for-each'} kernel"
    return optimizer, choice, f"torch {'has a' if fused else 'has no'} fused AdamW for {device.type}"


def apply_rates(optimizer: torch.optim.Optimizer, rates: Rates) -> None:
    """Sets the rates of the coming step on every group."""
    for group in optimizer.param_groups:
        group.update(_rates_of(group, rates))


def differing_rate(optimizer: torch.optim.Optimizer, rates: Rates) -> str | None:
    """What of the optimiser's rates is no longer what :func:`apply_rates` set, for people; None = nothing."""
    for group in optimizer.param_groups:
        for name, wanted in _rates_of(group, rates).items():
            if group[name] != wanted:  # NaN differs from everything
                return f"the schedule gives {name}={wanted}, the optimiser has {group[name]} ({group['name']})"
    return None


def _rates_of(group: Mapping[str, Any], rates: Rates) -> dict[str, Any]:
    return {
        "lr": rates.lr * group["lr_scale"],
        "weight_decay": rates.weight_decay if group["decays"] else 0.0,
        "betas": (rates.beta1, group["betas"][1]),
    }


def weight_norm(groups: Iterable[ParameterGroup]) -> Tensor:
    """L2 norm of all trainable weights together, a scalar on their device; all processes call it."""
    weights = [parameter.detach() for group in groups for _, parameter in group.parameters]
    return whole(torch.nn.utils.get_total_norm(weights))


def clip_gradients(groups: Iterable[ParameterGroup], limit: float) -> Tensor:
    """Clips the L2 norm of all gradients together to ``limit``, 0 = not at all; returns it as it was before."""
    parameters = [parameter for group in groups for _, parameter in group.parameters]
    # An infinite limit leaves gradients as they are: the factor is clamped to 1.
    return whole(torch.nn.utils.clip_grad_norm_(parameters, limit or math.inf))


def usual_norm(groups: Iterable[ParameterGroup]) -> float:
    """What :func:`weight_norm` is of as many weights drawn with :data:`USUAL_DEVIATION`."""
    return USUAL_DEVIATION * math.sqrt(sum(parameter.numel() for group in groups for _, parameter in group.parameters))


class GradientCheck:
    """Names the parameters that got no gradient in any of the first steps."""

    def __init__(self, groups: Iterable[ParameterGroup], steps: int = 3) -> None:
        self._silent = {name: parameter for group in groups for name, parameter in group.parameters}
        self._left = steps

    def observe(self) -> list[str] | None:
        """Call after each backward pass; the names, once, after the last of the first steps, otherwise None."""
        if self._left == 0:
            return None
        self._silent = {name: parameter for name, parameter in self._silent.items() if parameter.grad is None}
        self._left -= 1
        return list(self._silent) if self._left == 0 else None
