"""Composes the parts that the settings name: masker, slots as context and target, predictor."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from jepa_causal.encoder import FrozenSlots, SlotFrontEnd, slot_tokens
from jepa_causal.masking import KINDS, ObjectMasker
from jepa_causal.predictor import ReleasedTransformer, SlotPredictor
from jepa_causal.settings import CausalSettings, PredictorSettings
from jepa_causal.windows import condition_of, slot_lattice
from jepa_core.contracts import Sites
from jepa_core.energy import build_energy
from jepa_core.methods.masked import MaskedPrediction
from jepa_core.nn.transformer import Transformer, draw_linear
from jepa_core.targets import RawTarget


@dataclass(frozen=True)
class SlotShape:
    """K slots of width D, as the data have them."""

    slots: int
    width: int


def build_masker(options: CausalSettings, seed: int) -> ObjectMasker:
    """The masker that the settings name; ``seed`` is the run's."""
    wanted = options.masking
    return ObjectMasker(
        options.history,
        options.future,
        (wanted.masked_objects[0], wanted.masked_objects[1]),
        wanted.kind,
        wanted.share,
        seed if wanted.released_fixed_mask else None,
        wanted.released_anchor_in_loss,
    )


def build_transformer(wanted: PredictorSettings, width: int) -> nn.Module:
    """The transformer that the settings name, ``width`` wide."""
    hidden = wanted.mlp or 4 * width
    if wanted.released_attention:
        return ReleasedTransformer(width, wanted.depth, wanted.heads, hidden, wanted.dropout)
    return Transformer(width, wanted.depth, wanted.heads, hidden, wanted.head_width)


def build_predictor(options: CausalSettings, slot_width: int, front_end: SlotFrontEnd) -> SlotPredictor:
    """The predictor for slots of this width and the streams of this front end."""
    wanted = options.predictor
    predictor = SlotPredictor(
        slot_width,
        build_transformer(wanted, wanted.width or slot_width),
        wanted.width,
        options.history,
        options.future,
        wanted.residual,
        front_end.action_width,
        front_end.proprio_width,
    )
    draw_linear(predictor, wanted.init)
    if wanted.residual == "last_visible":
        predictor.start_from_last_visible()
    return predictor


def build_method(
    options: CausalSettings, shape: SlotShape, front_end: SlotFrontEnd, seed: int = 0, monitor_rows: int = 512
) -> MaskedPrediction:
    """The method.

    Args:
        options: see there.
        shape: of the slots.
        front_end: with the scales of the training episodes.
        seed: of the run; only the released code's masks depend on it.
        monitor_rows: see :class:`jepa_core.methods.masked.MaskedPrediction`.
    """
    masker = build_masker(options, seed)
    masker.check(slot_lattice(options.history + options.future, shape.slots))
    weights = {"future": options.future_weight, "history": options.history_weight}
    return MaskedPrediction(
        front_end=front_end,
        encoder=FrozenSlots(),
        target=RawTarget(slot_tokens),
        masker=masker,
        predictor=build_predictor(options, shape.width, front_end),
        energy=build_energy("l2"),
        coefficients={kind: weights[kind] for kind in KINDS},
        condition=condition_of,
        matcher=FutureMatcher(options.history, shape.slots) if options.matching == "hungarian" else None,
        monitor_rows=monitor_rows,
    )


class FutureMatcher:
    """Puts each future step's targets into the order that fits the prediction best; keeps ``Matcher``.

    Samples in which a slot is absent stay as they are: what is not there cannot be told from what was not found.

    Args:
        history: model steps that are not matched: their slots' identity is given by the anchor.
        slots: K.
    """

    def __init__(self, history: int, slots: int) -> None:
        self.history, self.slots = history, slots

    def __call__(self, predicted_BKMD: Tensor, target_BKMD: Tensor, targets: Sites) -> Tensor:
        """``[B, 1, T * K, D]`` to the same shape; the assignment is solved on the host for more than a few slots."""
        from jepa_causal.slots.scores import match

        assert targets.complete, "the masker lists all sites"
        first = self.history * self.slots
        predicted, target = (x[:, 0, first:].unflatten(1, (-1, self.slots)) for x in (predicted_BKMD, target_BKMD))
        whole_B = targets.valid_mask()[:, 0, first:].all(1)
        order_BTK = match(predicted.flatten(0, 1).float(), target.flatten(0, 1).float()).view(predicted.shape[:3])
        order_BTK = torch.where(whole_B[:, None, None], order_BTK, torch.arange(self.slots, device=order_BTK.device))
        matched = target.gather(2, order_BTK.unsqueeze(-1).expand_as(target)).flatten(1, 2)
        return torch.cat([target_BKMD[:, :, :first], matched[:, None]], dim=2)
