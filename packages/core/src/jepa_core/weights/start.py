"""Starting a run from weights: they fill encoder, moving average and predictor, or are refused with what differs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn

from jepa_core.methods.masked import MaskedPrediction
from jepa_core.targets import EmaTarget
from jepa_core.weights.contents import Copy, Parts, Weights, WeightsError

AS_LOADED, UNTRAINED = "as loaded", "untrained"


class StartSettings(Protocol):
    """The settings of a method that can start from weights; ``target.policy`` is read too.

    Attributes:
        weights: where they lie; None = random weights.
        weights_copy: of weights that have both, whose encoder.
        weights_parts: ``all`` or ``encoder``.
    """

    weights: str | None
    weights_copy: Copy
    weights_parts: Parts

    @property
    def target(self) -> Any:
        """Its ``policy`` says whether there is a moving average."""
        ...


def fill_method(
    method: MaskedPrediction, weights: Weights[Any], parts: Parts, encoder: Mapping[str, Tensor] | None = None
) -> None:
    """Fills encoder, moving average and, with ``all``, predictor; a front end where the weights have one.

    Args:
        method: as built from settings that the weights fit.
        weights: what was read.
        parts: ``all`` or ``encoder``.
        encoder: the encoder's tensors where they had to be changed; None = those of ``weights``.
    """
    state = dict(weights.encoder if encoder is None else encoder)
    method.encoder.load_state_dict(state)
    if isinstance(method.target, EmaTarget):
        method.target.encoder.load_state_dict(state)
    if weights.predictor is not None and parts == "all":
        method.predictor.load_state_dict(dict(weights.predictor))
    if weights.front_end:
        cast(nn.Module, method.front_end).load_state_dict(dict(weights.front_end))


def choice(options: StartSettings, has_copies: bool) -> list[tuple[str, str, str]]:
    """The row of a run's table of choices; none without weights."""
    if options.weights is None:
        return []
    filled = ["encoder", *(["moving average"] if options.target.policy == "ema" else [])]
    rest = "the predictor is random" if options.weights_parts == "encoder" else "the predictor is filled too"
    copy = f"the {options.weights_copy}'s" if has_copies else "its only"
    return [("weights", options.weights, f"{copy} encoder fills {' and '.join(filled)}; {rest}")]


def untrained_rows(
    untrained: MaskedPrediction, build: Callable[[], Any] | None, seed: int, device: torch.device
) -> dict[str, MaskedPrediction]:
    """What a probe compares the trained encoder with, by the names of its rows.

    The method that the trainer builds a second time has the weights that training started from too: that one is the row
    ``as loaded``, and ``untrained`` is one with random weights.

    Args:
        untrained: as the trainer hands it to ``Modality.probe``.
        build: of the same method with random weights; None where training started from them.
        seed: of the run.
        device: where features are computed.
    """
    if build is None:
        return {UNTRAINED: untrained}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        fresh = cast(MaskedPrediction, build())
    return {AS_LOADED: untrained, UNTRAINED: fresh.to(device).eval()}


def refuse_differences(section: str, weights: Weights[Any], rows: Sequence[str]) -> None:
    """One line with every setting that differs; ``section`` is the modality's.

    Raises:
        WeightsError: there are such rows.
    """
    if rows:
        raise WeightsError(
            f"{section}.weights: {weights.origin} does not fit this recipe: {'; '.join(rows)}", weights.tables
        )


def predictor_differences(section: str, weights: Weights[Any], mine: Any, without: Sequence[str] = ()) -> list[str]:
    """As :func:`differences`, of the predictor's facts but for the names in ``without``.

    Raises:
        WeightsError: there is no predictor on one side.
    """
    theirs = weights.facts.predictor
    if theirs is None or mine is None:
        raise WeightsError(
            f"{section}.weights: {weights.origin} has no predictor; {section}.weights_parts=encoder starts a random "
            "one",
            weights.tables,
        )
    values = [{k: v for k, v in asdict(facts).items() if k not in without} for facts in (mine, theirs)]
    return differences(f"{section}.predictor", *values)


def differences(section: str, mine: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[str]:
    """What the recipe has and what the weights have, for each key in which they differ."""
    keys = list(dict.fromkeys([*mine, *theirs]))
    missing = "none"
    return [
        f"{section}.{key}: here {mine.get(key, missing)}, in the weights {theirs.get(key, missing)}"
        for key in keys
        if mine.get(key, missing) != theirs.get(key, missing)
    ]
