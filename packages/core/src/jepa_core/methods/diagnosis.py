"""What a masked method can tell of itself while it trains: does the predictor beat a constant, does it use its context,
does the target move, do views of a sample agree?

A few detached rows of the last micro-batch are kept; all else is computed only when a monitor asks, without gradient,
without random numbers and without a change of any module's state.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from jepa_core.contracts import Condition, Energy, Sites, Tokens
from jepa_core.distributed import drawn_rows, first_samples, joint_norm, world
from jepa_core.drawn import Drawn
from jepa_core.monitor.metrics import lidar_rank

SAMPLES = 8
"""Samples of the joined batch that are compared site by site."""
USED = 2
"""Samples of the joined batch whose predictions are made anew from another sample's context."""
SITES = 256
"""Sites at which samples are compared."""
VIEWED = 128
"""Samples of the joined batch whose views are compared: the whitening costs D^3, the rest grows with the samples."""

Figures = Mapping[str, Mapping[str, Tensor]]


@dataclass(frozen=True)
class Seen:
    """What a micro-batch leaves behind.

    Attributes:
        context: tokens of the first samples.
        targets: ``[b, K, M]`` of the same samples.
        condition: of the same samples.
        rows: predicted and target features of the same target sites side by side, ``[R, 2D]``, as the energy compares
            them.
        views: ``[B, V, D]`` mean context features where samples have several views.
        whole: target features ``[b, S, D]`` of the first samples at the same sites, and which are valid ``[b, S]``.
    """

    context: Tokens
    targets: Sites
    condition: Condition | None
    rows: Drawn
    views: Tensor | None = None
    whole: tuple[Tensor, Tensor] | None = None


@torch.no_grad()
def keep(
    context: Tokens,
    target: Tokens,
    targets: Sites,
    condition: Condition | None,
    rows: Drawn,
    views: int,
) -> Seen:
    """Copies the little that is needed, so that the activations of the whole batch can go."""
    # Rows are all first views, then all second ones: those of the first are one a sample.
    count = len(context.features) // views
    few = min(USED, count)
    tokens = Tokens(context.features[:few].detach().clone(), first_rows(context.sites, few), context.lattice)
    pooled = _mean_of_views(context, views) if views > 1 else None
    whole = _some_sites(target, min(SAMPLES, count)) if target.sites.complete else None
    return Seen(tokens, first_rows(targets, few), _first_condition(condition, few), rows, pooled, whole)


def _some_sites(target: Tokens, few: int) -> tuple[Tensor, Tensor]:
    stride = -(-target.lattice.count // SITES)
    valid = target.sites.valid_mask()[:few, ::stride]
    return target.features[:few, ::stride].detach().float().clone(), valid.clone()


def first_rows(sites: Sites, count: int) -> Sites:
    """The sites of the first samples."""

    def cut(x: Tensor | None) -> Tensor | None:
        return None if x is None else x[:count]

    return replace(sites, ids=sites.ids[:count], valid=cut(sites.valid), kind=cut(sites.kind))


def _first_condition(condition: Condition | None, count: int) -> Condition | None:
    if condition is None:
        return None
    at, valid = (None if x is None else x[:count] for x in (condition.at, condition.valid))
    return Condition(condition.features[:count], at, valid)


def _mean_of_views(context: Tokens, views: int) -> Tensor:
    weight = context.sites.valid_mask().unsqueeze(-1)
    mean = torch.where(weight, context.features.detach().float(), 0.0).sum(1) / weight.sum(1).clamp(min=1)
    return mean.reshape(views, -1, mean.shape[-1]).transpose(0, 1)


@torch.no_grad()
def diagnose(seen: Seen, predictor: nn.Module, energy: Energy) -> dict[str, dict[str, Tensor]]:
    """Figures of the kept rows; the same on every process.

    Returns:
        ``prediction/relative_error`` (energy of the predictions over that of always predicting the batch's mean target;
        1 = no better), ``prediction/context_use`` (see :func:`context_use`), ``samples/share`` where the target encoder
        sees everything (see :func:`sample_share`), and ``views/lidar_rank`` where there are views (arXiv 2312.04000).
    """
    predicted, target = drawn_rows(seen.rows).chunk(2, dim=1)
    figures = {"prediction": {"relative_error": relative_error(energy, predicted, target)}}
    first = _first_of_all(seen)
    if len(first.context.features) > 1:
        figures["prediction"]["context_use"] = context_use(first, predictor)
        if seen.whole is not None:
            features, valid = (first_samples(each, SAMPLES) for each in seen.whole)
            figures["samples"] = {"share": sample_share(features, valid)}
    if seen.views is not None:
        views = first_samples(seen.views, VIEWED)
        if len(views) > 1:
            figures["views"] = {"lidar_rank": lidar_rank(views)}
    return figures


def _first_of_all(seen: Seen) -> Seen:
    """With context, targets and condition of the first samples of the joined batch."""
    if world() == 1:
        return seen
    context = Tokens(first_samples(seen.context.features, USED), _first_sites(seen.context.sites), seen.context.lattice)
    condition = seen.condition
    if condition is not None:
        at, valid = (None if x is None else first_samples(x, USED) for x in (condition.at, condition.valid))
        condition = Condition(first_samples(condition.features, USED), at, valid)
    return replace(seen, context=context, targets=_first_sites(seen.targets), condition=condition)


def _first_sites(sites: Sites) -> Sites:
    valid = first_samples(sites.valid_mask(), USED)
    kind = None if sites.kind is None else first_samples(sites.kind, USED)
    # Lists that are all real on each process, but not of one length, have been filled up.
    whole = sites.valid is None and bool(valid.all())
    return replace(sites, ids=first_samples(sites.ids, USED), valid=None if whole else valid, kind=kind)


def relative_error(energy: Energy, predicted: Tensor, target: Tensor) -> Tensor:
    """Mean energy of ``predicted`` over that of the mean target, ``[R, D]`` both."""
    wide = target.float()
    mean = wide.sum(0) / len(wide)
    own = energy(predicted.float(), wide).sum()
    trivial = energy(mean.expand_as(wide), wide).sum()
    return own / trivial.clamp(min=torch.finfo(torch.float32).tiny)


def sample_share(features: Tensor, valid: Tensor) -> Tensor:
    """Share of the variance that lies between samples at the same site, of ``[b, S, D]``: 0 = the input tells nothing.

    Features that depend on the site alone have spread and rank, and no spread between samples.
    """
    weight = valid.unsqueeze(-1).float()
    shared = weight.sum(0, keepdim=True)
    weight = weight * (shared > 1)
    count = weight.sum().clamp(min=1)
    here = (features * weight).sum(0, keepdim=True) / shared.clamp(min=1)
    everywhere = (features * weight).sum((0, 1)) / count
    between = ((features - here).square() * weight).sum() / count
    total = ((features - everywhere).square() * weight).sum() / count
    floor = torch.finfo(torch.float32).eps ** 2 * (features.square() * weight).sum() / count
    return torch.where(between > floor, between / total.clamp(min=torch.finfo(torch.float32).tiny), 0.0)


def context_use(seen: Seen, predictor: nn.Module) -> Tensor:
    """How much predictions at the same sites change when the context is another sample's, 0 = not at all.

    The mean squared change over twice the variance of all predictions: 1 where samples differ and sites do not.
    """
    kind = next((p.dtype for p in predictor.parameters() if p.is_floating_point()), torch.float32)
    context = seen.context.with_features(seen.context.features.to(kind))
    modes = [(module, module.training) for module in predictor.modules()]
    predictor.eval()
    try:
        with torch.autocast(context.features.device.type, enabled=False):
            # Both in one pass: on few samples a pass costs more than what it computes.
            both = predictor(_and_rolled(context), _twice(seen.targets), _condition_twice(seen.condition), 0).float()
            own, other = both.chunk(2)
    finally:
        for module, mode in modes:
            module.training = mode
    weight = seen.targets.kind_mask(0).unsqueeze(-1).float()
    count = weight.sum().clamp(min=1)
    mean = (own * weight).sum((0, 1, 2)) / count
    variance = ((own - mean).square() * weight).sum() / count
    change = ((own - other).square() * weight).sum() / count
    # Below the resolution of float32 a change is rounding, and constant predictions have no variance to share.
    floor = torch.finfo(torch.float32).eps ** 2 * (own.square() * weight).sum() / count
    return torch.where(change > floor, change / (2 * variance).clamp(min=torch.finfo(torch.float32).tiny), 0.0)


def _and_rolled(tokens: Tokens) -> Tokens:
    """The samples, then each once more with the tokens and sites of the one before."""

    def add(x: Any) -> Any:
        return None if x is None else torch.cat([x, x.roll(1, 0)])

    sites = tokens.sites
    sites = replace(sites, ids=add(sites.ids), valid=add(sites.valid), kind=add(sites.kind))
    return Tokens(add(tokens.features), sites, tokens.lattice)


def _twice(sites: Sites) -> Sites:
    return replace(sites, **{name: _double(getattr(sites, name)) for name in ("ids", "valid", "kind")})


def _condition_twice(condition: Condition | None) -> Condition | None:
    if condition is None:
        return None
    return Condition(*(_double(x) for x in (condition.features, condition.at, condition.valid)))


def _double(x: Any) -> Any:
    return None if x is None else torch.cat([x, x])


@torch.no_grad()
def target_motion(target: nn.Module, online: nn.Module, momentum: float) -> dict[str, Tensor]:
    """How far a moving average is from what it follows, and how far its last update took it.

    Args:
        target, online: encoders with the same parameters.
        momentum: of the last update; NaN where there was none.

    Returns:
        ``distance``: ``|online - target| / |online|`` over all weights; ``moved``: ``|step of the target| / |online|``,
        which follows from the distance, as ``target - old = (1 - m) / m (online - target)``.
    """
    pairs = list(zip(online.parameters(), target.parameters(), strict=True))
    apart = joint_norm([mine.detach() - own for mine, own in pairs])
    size = joint_norm([mine.detach() for mine, _ in pairs])
    distance = apart / size.clamp(min=torch.finfo(torch.float32).tiny)
    share = 0.0 if math.isnan(momentum) else (1 - momentum) / max(momentum, 1e-6)
    # A target that is the online encoder (momentum 0, or before the first step) moves as far as that does: as ever.
    return {"distance": distance, "moved": torch.where(distance > 0, distance * share, torch.ones_like(distance))}
