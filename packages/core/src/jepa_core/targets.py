"""Target encoders: what makes the features to predict (EMA copy, frozen copy, stop-gradient, raw input).

The EMA rule is t <- m t + (1 - m) s, once per optimiser step (BYOL 2006.07733, I-JEPA 2301.08243 section 3).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol, cast, get_args

import torch
from torch import Tensor, nn

from jepa_core.contracts import Sites, Tokens
from jepa_core.distributed import sum_over_processes

Buffers = Literal["follow", "own"]
BlockNorm = Literal["instance", "layer", "none"]


@dataclass(frozen=True)
class MomentumSchedule:
    """EMA momentum as a function of the optimiser step alone, so that a resumed run continues it.

    Attributes:
        start: momentum of the first update.
        end: momentum of the last update.
        steps: optimiser steps of the whole run.
        shape: ``linear`` or ``cosine`` between the two.
    """

    start: float
    end: float
    steps: int
    shape: Literal["linear", "cosine"] = "linear"

    def __post_init__(self) -> None:
        if not (0 <= self.start <= 1 and 0 <= self.end <= 1):
            raise ValueError(f"MomentumSchedule: start and end must lie in 0..1, got {self.start} and {self.end}")

    def __call__(self, step: int) -> float:
        """Momentum of the update after optimiser step ``step``, counted from 1."""
        progress = min(max((step - 1) / max(self.steps - 1, 1), 0.0), 1.0)
        if self.shape == "cosine":
            progress = (1 - math.cos(math.pi * progress)) / 2
        return self.start + (self.end - self.start) * progress


class TargetReadout(Protocol):
    """Which of a target encoder's features are the target."""

    def __call__(self, encoder: nn.Module, inputs: Any, keep: Sites | None) -> Tokens: ...


class LastOutput:
    """What the encoder gives."""

    def __call__(self, encoder: nn.Module, inputs: Any, keep: Sites | None) -> Tokens:
        """Tokens of the target view."""
        return cast(Tokens, encoder(inputs, keep))


class MeanOfBlocks:
    """The mean of the outputs of the last blocks, each normalised by itself (data2vec 2202.03555, section 3.3).

    Instance norm sets each channel to mean 0 and variance 1 over the sample's valid tokens: what all of them share is
    gone, so that what changes within the sample is left. A sample that is alike everywhere has targets near 0.

    Args:
        blocks: how many of the last.
        norm: ``instance`` (over the tokens of a sample), ``layer`` (over the channels of a token) or ``none``.
        eps: added to the variance.
    """

    def __init__(self, blocks: int, norm: BlockNorm = "instance", eps: float = 1e-5) -> None:
        if blocks < 1:
            raise ValueError(f"MeanOfBlocks: expected at least 1 block, got {blocks}")
        if norm not in get_args(BlockNorm):
            raise ValueError(f"MeanOfBlocks: norm must be one of {', '.join(get_args(BlockNorm))}, got {norm!r}")
        self.blocks, self.norm, self.eps = blocks, norm, eps

    def __call__(self, encoder: nn.Module, inputs: Any, keep: Sites | None) -> Tokens:
        """Tokens of the target view; the encoder must have ``forward_layers``."""
        found = cast(Any, encoder).forward_layers(inputs, keep, tuple(range(-self.blocks, 0)))
        normed = [self._normed(_wide(x), found.sites) for x in found.layers.values()]
        return cast(Tokens, found.with_features(torch.stack(normed).mean(0)))

    def _normed(self, x_BND: Tensor, sites: Sites) -> Tensor:
        if self.norm == "none":
            return x_BND
        if self.norm == "layer":
            return nn.functional.layer_norm(x_BND, x_BND.shape[-1:])
        weight = sites.valid_mask().unsqueeze(-1).to(x_BND.dtype)
        count = weight.sum(1, keepdim=True).clamp(min=1)
        centred = x_BND - (x_BND * weight).sum(1, keepdim=True) / count
        variance = (centred.square() * weight).sum(1, keepdim=True) / count
        return centred * torch.rsqrt(variance + self.eps)


class EmaTarget(nn.Module):
    """A moving average of the online encoder; no gradient, not in the optimiser.

    Args:
        online: copied, never registered here.
        buffers: ``follow`` averages the online buffers (batch-norm statistics) with the same momentum and runs in
            eval mode; ``own`` runs the copy in train mode on its own batches, with statistics of its own (what the
            released AD-L-JEPA code does).
        schedule: momentum per optimiser step.
        readout: which of its features are the target; None = what it gives.
    """

    policy = "ema"

    def __init__(
        self, online: nn.Module, buffers: Buffers, schedule: MomentumSchedule, readout: TargetReadout | None = None
    ) -> None:
        super().__init__()
        self.readout = readout or LastOutput()
        self.encoder = copy.deepcopy(online).requires_grad_(False)
        self.buffers_policy = buffers
        self.schedule = schedule
        self.train(self.training)

    def train(self, mode: bool = True) -> EmaTarget:
        """Train mode reaches the copy only when it keeps buffers of its own."""
        super().train(mode)
        self.encoder.train(mode and self.buffers_policy == "own")
        return self

    @torch.no_grad()
    def encode(self, inputs: Any, keep: Sites | None) -> Tokens:
        """Tokens of the target view."""
        return self.readout(self.encoder, inputs, keep)

    @torch.no_grad()
    def update(self, online: nn.Module, step: int) -> float:
        """Moves towards ``online`` after optimiser step ``step`` (from 1); returns the momentum used."""
        momentum = self.schedule(step)
        mine: list[Tensor] = list(self.encoder.parameters())
        theirs: list[Tensor] = list(online.parameters())
        assert len(mine) == len(theirs), "target and online encoder have different parameters"
        if mine:  # frozen slots have none
            torch._foreach_lerp_(mine, theirs, 1 - momentum)
        if self.buffers_policy == "follow":
            self._follow_buffers(online, momentum)
        return momentum

    def _follow_buffers(self, online: nn.Module, momentum: float) -> None:
        for mine, theirs in zip(self.encoder.buffers(), online.buffers(), strict=True):
            if mine.is_floating_point():
                mine.lerp_(theirs, 1 - momentum)
            else:
                mine.copy_(theirs)


class FrozenTarget(nn.Module):
    """A given encoder that never changes, in eval mode."""

    policy = "frozen"

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder.requires_grad_(False)
        self.train(False)

    def train(self, mode: bool = True) -> FrozenTarget:
        """Stays in eval mode."""
        super().train(mode)
        self.encoder.eval()
        return self

    @torch.no_grad()
    def encode(self, inputs: Any, keep: Sites | None) -> Tokens:
        """Tokens of the target view."""
        return cast(Tokens, self.encoder(inputs, keep))


class StopGradientTarget(nn.Module):
    """The online encoder itself behind a stop-gradient (SimSiam 2011.10566)."""

    policy = "stop_gradient"

    def __init__(self, online: nn.Module, readout: TargetReadout | None = None) -> None:
        super().__init__()
        self.readout = readout or LastOutput()
        # In a tuple, so that its parameters are not registered a second time.
        self._online = (online,)

    @torch.no_grad()
    def encode(self, inputs: Any, keep: Sites | None) -> Tokens:
        """Tokens of the target view."""
        return self.readout(self._online[0], inputs, keep)


class RawTarget(nn.Module):
    """The raw input itself as the target: with patches this is MAE (2111.06377), the control of every recipe.

    Args:
        describe: ``(inputs, keep) -> Tokens`` of raw values; it has no parameters.
    """

    policy = "raw"

    def __init__(self, describe: Callable[[Any, Sites | None], Tokens]) -> None:
        super().__init__()
        self.describe = describe

    @torch.no_grad()
    def encode(self, inputs: Any, keep: Sites | None) -> Tokens:
        """Raw values of the target view."""
        return self.describe(inputs, keep)


# --------------------------------------------------------------------------------------------------------------------
# Normalising the features at the target sites
# --------------------------------------------------------------------------------------------------------------------


def _wide(x: Tensor) -> Tensor:
    """At least float32: statistics of half-precision features lose their small differences."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


class LayerNormalise:
    """Each target vector to mean 0 and variance 1 over its D channels (data2vec 2202.03555, I-JEPA code)."""

    def __call__(self, features_BKMD: Tensor, targets: Sites) -> Tensor:
        """``[B, K, M, D]`` to the same shape, float32."""
        return nn.functional.layer_norm(_wide(features_BKMD), features_BKMD.shape[-1:])


class CentredLayerNormalise:
    """As :class:`LayerNormalise`, after the mean over the sample's valid targets is taken off.

    What all targets of a sample share (who speaks, the light) is easily predicted from any part of the context. Without
    it what remains to be predicted is where and when features differ. data2vec's instance norm (2202.03555, section
    3.3) takes it off too, but also makes each channel as large as every other, noise included.
    """

    def __call__(self, features_BKMD: Tensor, targets: Sites) -> Tensor:
        """``[B, K, M, D]`` to the same shape, float32."""
        x = _wide(features_BKMD)
        weight = targets.valid_mask().unsqueeze(-1).to(x.dtype)
        mean = (x * weight).sum((1, 2), keepdim=True) / weight.sum((1, 2), keepdim=True).clamp(min=1)
        return nn.functional.layer_norm(x - mean, x.shape[-1:])


class Standardise:
    """Each channel to mean 0 and variance 1 over the batch's valid target sites of one kind, over all processes.

    Sites of other kinds are scaled by the same numbers.

    Args:
        kind: index of the kind whose statistics are taken.
        eps: added to the variance.
    """

    def __init__(self, kind: int = 0, eps: float = 1e-6) -> None:
        self.kind = kind
        self.eps = eps

    def __call__(self, features_BKMD: Tensor, targets: Sites) -> Tensor:
        """``[B, K, M, D]`` to the same shape, float32."""
        x = _wide(features_BKMD)
        weight = targets.kind_mask(self.kind).unsqueeze(-1).to(x.dtype)
        count = sum_over_processes(weight.sum()).clamp(min=1)
        mean = sum_over_processes((x * weight).sum((0, 1, 2))) / count
        variance = sum_over_processes(((x - mean).square() * weight).sum((0, 1, 2))) / count
        return (x - mean) * torch.rsqrt(variance + self.eps)


class Whiten:
    """Directions of little variance are made larger, so that a predictor cannot do well on the strongest few alone.

    With C the covariance of the batch's valid target sites of one kind, over all processes, the centred features are
    multiplied by ``C^-power``: 0.5 whitens wholly (W-MSE, arXiv 2007.06346, section 3), 0.25 goes half of the way, so
    that directions that are mostly noise stay small. Sites of other kinds are mapped by the same matrix.

    The eigenvalues are taken on the device; on CUDA that waits for the device once a step.

    Args:
        power: of the inverse covariance, 0 < power <= 0.5.
        kind: index of the kind whose statistics are taken.
        eps: added to the eigenvalues as a fraction of their mean.
    """

    def __init__(self, power: float, kind: int = 0, eps: float = 1e-5) -> None:
        if not 0 < power <= 0.5:
            raise ValueError(f"Whiten: power must lie above 0 and at most at 0.5, got {power}")
        self.power = power
        self.kind = kind
        self.eps = eps

    def __call__(self, features_BKMD: Tensor, targets: Sites) -> Tensor:
        """``[B, K, M, D]`` to the same shape, float32."""
        # A covariance in bf16 has no small eigenvalues left.
        with torch.autocast(features_BKMD.device.type, enabled=False):
            x = _wide(features_BKMD)
            weight = targets.kind_mask(self.kind).unsqueeze(-1).to(x.dtype)
            count = sum_over_processes(weight.sum()).clamp(min=1)
            mean = sum_over_processes((x * weight).sum((0, 1, 2))) / count
            centred_RD = ((x - mean) * weight).flatten(0, 2)
            covariance_DD = sum_over_processes(centred_RD.T @ centred_RD) / count
            # A diverged run must reach the trainer's own check of the loss, not an error of the eigenvalues: what is
            # not finite still comes through x.
            identity_DD = torch.eye(x.shape[-1], dtype=x.dtype, device=x.device)
            covariance_DD = torch.where(torch.isfinite(covariance_DD).all(), covariance_DD, identity_DD)
            values_D, vectors_DD = torch.linalg.eigh(covariance_DD)
            floor = self.eps * values_D.mean() + torch.finfo(x.dtype).tiny
            scale_D = (values_D.clamp(min=0) + floor).pow(-self.power)
            return (x - mean) @ (vectors_DD * scale_D) @ vectors_DD.T
