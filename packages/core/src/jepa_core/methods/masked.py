"""Masked prediction: predict the features of hidden sites of a sample from its visible ones.

I-JEPA (2301.08243), V-JEPA (2404.08471), Audio-JEPA, A-JEPA, AD-L-JEPA (2501.04969) and Causal-JEPA are this class
with other parts; with raw values as the target it is MAE (2111.06377).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from jepa_core.contracts import (
    AntiCollapse,
    Batch,
    Condition,
    Drawn,
    Embedding,
    Energy,
    Grid,
    Losses,
    Mask,
    Masker,
    ParameterGroup,
    Sites,
    TargetEncoder,
    Tokens,
)
from jepa_core.energy import reduce_energy
from jepa_core.masking.source import MaskSource
from jepa_core.methods import diagnosis
from jepa_core.methods.agreement import ViewAgreement
from jepa_core.methods.close_up import close_up
from jepa_core.methods.groups import decay_groups
from jepa_core.seeds import random_keys
from jepa_core.targets import EmaTarget

TargetView = Literal["full", "targets"]
_MONITOR_STREAM = 907


class FrontEnd(Protocol):
    """Batched and on the device: raw inputs to what the encoder takes, and what is known of each site."""

    def __call__(self, inputs: Any, seeds: Tensor) -> tuple[Any, Grid]: ...


class TargetNormaliser(Protocol):
    """Normalises features ``[B, K, M, D]`` at the target sites."""

    def __call__(self, features_BKMD: Tensor, targets: Sites) -> Tensor: ...


class Matcher(Protocol):
    """Reorders target features ``[B, K, M, D]`` so that each is compared with the prediction it belongs to.

    For targets that are sets, such as slots that may swap objects. What is not valid must stay in its place.
    """

    def __call__(self, predicted_BKMD: Tensor, target_BKMD: Tensor, targets: Sites) -> Tensor: ...


@dataclass(frozen=True)
class Regulariser:
    """An anti-collapse term and what it acts on.

    Attributes:
        term: the term.
        on: ``context`` (online tokens) or ``prediction``.
        kind: only sites of this kind count.
        weight: its share in the total loss; at 0 it is only logged.
        l2_normalise: whether features are L2-normalised first.
    """

    term: AntiCollapse
    on: Literal["context", "prediction"]
    kind: int
    weight: float
    l2_normalise: bool


class KindToken(nn.Module):
    """A trained token that stands for every site of one kind, for example an empty bird's-eye cell.

    An encoder says almost nothing about a site without evidence, and normalising almost nothing is ill-conditioned.

    Args:
        width: feature width.
        kind: index of the kind it stands for.
    """

    def __init__(self, width: int, kind: int) -> None:
        super().__init__()
        self.kind = kind
        self.token = nn.Parameter(torch.randn(width))

    def forward(self, features: Tensor, sites: Sites) -> Tensor:
        """``[..., D]`` features with the token at every site of its kind."""
        here = sites.kind_mask(self.kind).unsqueeze(-1)
        return torch.where(here, self.token.to(features.dtype), features)


class MaskedPrediction(nn.Module):
    """A JEPA on masks.

    Args:
        front_end: see :class:`FrontEnd`; may be an ``nn.Module``.
        encoder: online encoder, an ``nn.Module`` that keeps the contract ``Encoder``. If it has a method
            ``with_layers(inputs, keep)``, that one fills ``Tokens.layers`` for :meth:`embed`.
        target: see ``jepa_core.targets``.
        masker: see ``jepa_core.contracts.Masker``.
        predictor: an ``nn.Module`` that keeps the contract ``Predictor``.
        energy: distance of prediction and target.
        coefficients: weight of each kind of target by name; None = 1 for all.
        regularisers: anti-collapse terms.
        kind_token: replaces the features of one kind, on both sides; detached in the target, since a trained token
            there would pull the target towards what is easy to predict.
        normaliser: applied to the target features before the kind token.
        target_view: ``full`` (the target encoder sees everything) or ``targets`` (only what is hidden).
        condition: reads what the predictor is told from what the front end gives; None = ``Batch.condition``.
        matcher: reorders the targets before they are compared; None = each belongs to its site.
        views: V, of each sample; the inputs hold them one after the other, ``[V * B, ...]``, each masked for itself.
        agreement: of the views.
        monitor_rows: rows drawn for the collapse monitor from each micro-batch, joined over processes.
    """

    def __init__(
        self,
        *,
        front_end: FrontEnd,
        encoder: nn.Module,
        target: TargetEncoder,
        masker: Masker,
        predictor: nn.Module,
        energy: Energy,
        coefficients: Mapping[str, float] | None = None,
        regularisers: Sequence[Regulariser] = (),
        kind_token: KindToken | None = None,
        normaliser: TargetNormaliser | None = None,
        target_view: TargetView = "full",
        condition: Callable[[Any], Condition | None] | None = None,
        matcher: Matcher | None = None,
        views: int = 1,
        agreement: ViewAgreement | None = None,
        monitor_rows: int = 512,
    ) -> None:
        super().__init__()
        self.front_end = front_end
        self.encoder = encoder
        self.target = target
        self.masker = masker
        self.predictor = predictor
        self.energy = energy
        self.coefficients = coefficients
        self.regularisers = tuple(regularisers)
        self.kind_token = kind_token
        self.normaliser = normaliser
        self.target_view = target_view
        self.condition = condition
        self.matcher = matcher
        self.views = views if agreement is None else agreement.views
        self.agreement = agreement
        self.monitor_rows = monitor_rows
        self.momentum_now = float("nan")
        self.watched = True
        self._seen: diagnosis.Seen | None = None

    # ---------------------------------------------------------------------------------------------- training

    def forward(self, batch: Batch, step: int) -> Losses:
        """Losses of one micro-batch; the total is the mean over the masks of a sample."""
        source = self.mask_source()
        seeds = source.rows(batch.seeds)
        inputs, grid = self.front_end(batch.inputs, seeds)
        target_inputs = inputs
        if batch.target_inputs is not None:
            target_inputs, _ = self.front_end(batch.target_inputs, seeds)
        condition = batch.condition if self.condition is None else self.condition(inputs)
        masks = source.draw(grid, seeds, batch.batch_seed, step)
        whole = self.target.encode(target_inputs, None) if self.target_view == "full" else None
        parts = []
        for index, mask in enumerate(masks):
            target = whole if whole is not None else self.target.encode(target_inputs, mask.target_union)
            counts = None if batch.joint_counts is None else batch.joint_counts[index]
            context = self._fill(cast(Tokens, self.encoder(inputs, mask.context)))
            parts.append(self._one_mask(batch, condition, seeds, step, index, mask, context, target, counts))
        return _mean_of_losses(masks, parts)

    def _one_mask(
        self,
        batch: Batch,
        condition: Condition | None,
        seeds: Tensor,
        step: int,
        index: int,
        mask: Mask,
        context: Tokens,
        target: Tokens,
        counts: Tensor | None,
    ) -> Losses:
        predicted_BKMD = self.predictor(context, mask.targets, condition, index)
        raw_BKMD = target.at(mask.targets)
        target_BKMD = self._target_features(raw_BKMD, mask.targets)
        if self.matcher is not None:
            target_BKMD = self.matcher(predicted_BKMD.detach(), target_BKMD, mask.targets)
        distance_BKM = self.energy(predicted_BKMD, target_BKMD)
        total, terms = reduce_energy(distance_BKM, mask.targets, self.coefficients, counts, batch.micro_batches)
        for regulariser in self.regularisers:
            extra, named = self._regularise(regulariser, context, predicted_BKMD, mask, step)
            total, terms = total + extra, {**terms, **named}
        if self.agreement is not None:
            named = self.agreement(context, step)
            total, terms = total + torch.stack(list(named.values())).sum(), {**terms, **named}
        monitor: dict[str, Drawn] = {}
        if self.watched and index == 0:
            features = (raw_BKMD, predicted_BKMD, target_BKMD)
            monitor = self._watch(context, target, mask.targets, condition, features, seeds)
        return Losses(total, {name: value.detach() for name, value in terms.items()}, monitor)

    @torch.no_grad()
    def _watch(
        self,
        context: Tokens,
        target: Tokens,
        targets: Sites,
        condition: Condition | None,
        features: tuple[Tensor, Tensor, Tensor],
        seeds: Tensor,
    ) -> dict[str, Drawn]:
        """Rows for the monitor, and what :meth:`diagnose` needs; ``features``: target, predicted, target compared."""
        places, keys = self._picks(targets.flat(), seeds)
        raw, predicted, compared = (_taken(each.flatten(1, 2), places) for each in features)
        pairs = Drawn(torch.cat([predicted, compared], dim=1), keys, self.monitor_rows)
        self._seen = diagnosis.keep(context, target, targets, condition, pairs, self.views)
        own, own_keys = self._picks(context.sites, seeds)
        of_context = Drawn(_taken(context.features, own), own_keys, self.monitor_rows)
        return {"context": of_context, "target": Drawn(raw, keys, self.monitor_rows)}

    def _fill(self, tokens: Tokens) -> Tokens:
        if self.kind_token is None:
            return tokens
        return tokens.with_features(self.kind_token(tokens.features, tokens.sites))

    def _target_features(self, features_BKMD: Tensor, targets: Sites) -> Tensor:
        with torch.no_grad():
            if self.normaliser is not None:
                features_BKMD = self.normaliser(features_BKMD, targets)
            if self.kind_token is not None:
                features_BKMD = self.kind_token(features_BKMD, targets)
        return features_BKMD

    def _regularise(
        self, regulariser: Regulariser, context: Tokens, predicted_BKMD: Tensor, mask: Mask, step: int
    ) -> tuple[Tensor, dict[str, Tensor]]:
        on_context = regulariser.on == "context"
        features_BND = context.features if on_context else predicted_BKMD.flatten(1, 2)
        sites = context.sites if on_context else mask.targets.flat()
        features_BND, counted_BN = close_up(features_BND, sites.kind_mask(regulariser.kind))
        if regulariser.l2_normalise:
            features_BND = F.normalize(features_BND.float(), dim=-1)
        named = regulariser.term(features_BND, counted_BN, step)
        total = torch.stack(list(named.values())).sum() * regulariser.weight
        return total, {f"{name}/{regulariser.on}": value for name, value in named.items()}

    @torch.no_grad()
    def _picks(self, sites: Sites, seeds: Tensor) -> tuple[Tensor, Tensor]:
        """Random places of the first kind among ``B N``, at most ``[monitor_rows]``, and the keys of the draw."""
        valid_BN = sites.kind_mask(0)
        keys = random_keys(seeds, valid_BN.shape[1], _MONITOR_STREAM).masked_fill(~valid_BN, -1).flatten()
        drawn = keys.topk(min(self.monitor_rows, keys.numel()))
        return drawn.indices, drawn.values

    @torch.no_grad()
    def target_counts(self, batch: Batch) -> Tensor | None:
        """Valid targets ``[masks, kinds]`` of this process's micro-batch; None where every batch has the same."""
        _, masks = self.masks(batch)
        if all(mask.targets.valid is None and mask.targets.kind is None for mask in masks):
            return None
        return torch.stack([_kind_counts(mask.targets) for mask in masks])

    def after_step(self, step: int) -> None:
        """Moves an EMA target once per optimiser step."""
        if isinstance(self.target, EmaTarget):
            self.momentum_now = self.target.update(self.encoder, step)

    def diagnose(self) -> dict[str, dict[str, Tensor]]:
        """Figures of the last micro-batch for the monitor, see :mod:`jepa_core.methods.diagnosis`; all call."""
        if self._seen is None:
            return {}
        figures = diagnosis.diagnose(self._seen, self.predictor, self.energy)
        if isinstance(self.target, EmaTarget) and any(True for _ in self.encoder.parameters()):
            figures["weights"] = diagnosis.target_motion(self.target.encoder, self.encoder, self.momentum_now)
        return figures

    def compile_blocks(self) -> None:
        """Compiles what encoder and predictor offer for it (``torch.compile``); dynamic index maps stay outside."""
        offered = [part for part in (self.encoder, self.predictor) if hasattr(part, "compile_blocks")]
        if not offered:
            raise ValueError(
                "trainer.compile: expected blocks that can be compiled, this method has none; set it false"
            )
        for part in offered:
            cast(Any, part).compile_blocks()

    # ---------------------------------------------------------------------------------------------- use

    def parameter_groups(self) -> tuple[ParameterGroup, ...]:
        """Matrices with weight decay; norms, biases and tokens without."""
        return decay_groups(self)

    def masks(self, batch: Batch) -> tuple[Grid, tuple[Mask, ...]]:
        """The masks this batch would be trained on, for pictures and statistics."""
        return self.mask_source().masks(batch)

    def mask_source(self) -> MaskSource:
        """What draws its masks, without the networks."""
        return MaskSource(self.front_end, self.masker, self.views)

    @torch.no_grad()
    def embed(
        self, batch: Batch, layers: Sequence[int] = (), encoder: Literal["online", "target"] = "online"
    ) -> dict[str, Embedding]:
        """Features of the whole sample: ``tokens``, and further layers.

        Args:
            batch: to embed.
            layers: blocks of an encoder that has ``forward_layers(inputs, keep, layers)``, counted from 0: block 2 is
                named ``block_2``. Without any, each further layer that the encoder offers by itself.
            encoder: the trained one, or the target's copy of it.

        Raises:
            ValueError: the encoder has no such blocks, or the target has no encoder of its own.
        """
        part = self.encoder if encoder == "online" else self._target_encoder()
        was_training = self.training
        self.eval()
        try:
            inputs, _ = self.front_end(batch.inputs, batch.seeds)
            tokens = _all_tokens(part, inputs, layers)
        finally:
            self.train(was_training)
        # A batch of views is embedded by the first of each sample.
        count = len(batch)
        sites = tokens.sites if len(tokens.sites.ids) == count else diagnosis.first_rows(tokens.sites, count)
        found = {name: Embedding(features[:count], sites) for name, features in tokens.layers.items()}
        return {"tokens": Embedding(tokens.features[:count], sites), **found}

    def _target_encoder(self) -> nn.Module:
        found = getattr(self.target, "encoder", None)
        if not isinstance(found, nn.Module):
            raise ValueError(
                f"encoder: target needs a target with an encoder of its own (ema, frozen), got {self.target.policy}; "
                "use online"
            )
        return found


def _all_tokens(encoder: Any, inputs: Any, layers: Sequence[int]) -> Tokens:
    """Tokens at every site, with the chosen blocks, or with what the encoder offers by itself."""
    if not layers:
        return cast(Tokens, getattr(encoder, "with_layers", encoder)(inputs, None))
    if not hasattr(encoder, "forward_layers"):
        raise ValueError(f"layers: expected an encoder with blocks to choose from, got {type(encoder).__name__}")
    return cast(Tokens, encoder.forward_layers(inputs, None, tuple(layers)))


def _taken(features_BND: Tensor, places: Tensor) -> Tensor:
    """Rows ``[R, D]``, detached."""
    return features_BND.detach().flatten(0, 1)[places].float()


def _kind_counts(targets: Sites) -> Tensor:
    return torch.stack([targets.kind_mask(kind).sum() for kind in range(len(targets.kinds))]).float()


def _mean_of_losses(masks: Sequence[Mask], parts: Sequence[Losses]) -> Losses:
    if len(parts) == 1:
        return parts[0]
    total = torch.stack([part.total for part in parts]).mean()
    terms = {f"{mask.name}/{k}": v for mask, part in zip(masks, parts, strict=True) for k, v in part.terms.items()}
    return Losses(total, terms, parts[0].monitor)
