"""Starting a run from weights: they fill encoder, moving average and predictor, or are refused with what differs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any, cast

import torch
from torch import Tensor

from jepa_core.lattice import Lattice
from jepa_core.methods.masked import MaskedPrediction
from jepa_core.targets import EmaTarget
from jepa_vision.encoder import VisionTransformer
from jepa_vision.positions import resize_table
from jepa_vision.settings import VisionSettings
from jepa_vision.weights.contents import Family, Weights, WeightsError
from jepa_vision.weights.facts import Facts, facts_from_settings
from jepa_vision.weights.official import Hints
from jepa_vision.weights.read import has_copies, read_weights

AS_LOADED, UNTRAINED = "as loaded", "untrained"


def fill(method: MaskedPrediction, options: VisionSettings, size: Sequence[int], patch: Sequence[int]) -> None:
    """Fills a method with the weights that ``options.weights`` names.

    Inputs of another size than the weights' own are possible: tables that are computed follow the lattice, a stored one
    is resized to it.

    Args:
        method: as built from the same settings.
        options: see there.
        size, patch: ``([frames,] height, width)`` of inputs and patches.

    Raises:
        ValueError: the weights cannot be read, or are not those of this encoder and predictor; the method is unchanged.
    """
    assert options.weights is not None
    if options.encoder.timm is not None:
        raise WeightsError(f"vision.weights: expected none beside vision.encoder.timm, got {options.weights}")
    mine = facts_from_settings(options, size, patch)
    copy = options.weights_copy if has_copies(options.weights) else None
    weights = read_weights(options.weights, copy, parts=options.weights_parts, fallback=_assumed(mine))
    _refuse_differences(weights, mine, options)
    encoder = cast(VisionTransformer, method.encoder)
    state = _on_lattice(weights, encoder.lattice)
    encoder.load_state_dict(state)
    if isinstance(method.target, EmaTarget):
        method.target.encoder.load_state_dict(state)
    if weights.predictor is not None and options.weights_parts == "all":
        method.predictor.load_state_dict(dict(weights.predictor))


def choice(options: VisionSettings) -> list[tuple[str, str, str]]:
    """The row of a run's table of choices; none without weights."""
    if options.weights is None:
        return []
    filled = ["encoder", *(["moving average"] if options.target.policy == "ema" else [])]
    rest = "the predictor is random" if options.weights_parts == "encoder" else "the predictor is filled too"
    copy = f"the {options.weights_copy}'s" if has_copies(options.weights) else "its only"
    return [("weights", options.weights, f"{copy} encoder fills {' and '.join(filled)}; {rest}")]


def untrained_rows(
    config: Any, untrained: MaskedPrediction, build: Callable[[Any], Any], device: torch.device
) -> dict[str, MaskedPrediction]:
    """What a probe compares the trained encoder with, by the names of its rows.

    The method that the trainer builds a second time has the weights of ``vision.weights`` too: that one is the row
    ``as loaded``, and ``untrained`` is one with random weights.

    Args:
        config: settings of the run, with ``vision`` and ``seed``.
        untrained: as the trainer hands it to ``Modality.probe``.
        build: the modality's ``build``.
        device: where features are computed.
    """
    if config.vision.weights is None:
        return {UNTRAINED: untrained}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        fresh = cast(MaskedPrediction, build(replace(config, vision=replace(config.vision, weights=None))))
    if config.vision.encoder.positions == "stored":
        # A fixed table is nothing that is learned: without it the encoder would not know where a patch lies.
        _copy_table(untrained, fresh)
    return {AS_LOADED: untrained, UNTRAINED: fresh.to(device).eval()}


def _copy_table(source: MaskedPrediction, to: MaskedPrediction) -> None:
    table = cast(VisionTransformer, source.encoder).table.cpu()
    cast(VisionTransformer, to.encoder).table.copy_(table)
    if isinstance(to.target, EmaTarget):
        cast(VisionTransformer, to.target.encoder).table.copy_(table)


def _assumed(mine: Facts) -> Hints:
    """What a released checkpoint of another than the published sizes is read with; all of it is checked afterwards."""
    rotary = mine.positions.startswith("rotary")
    family: Family = "vjepa2" if rotary else "vjepa" if mine.is_video else "ijepa"
    inner = mine.predictor
    return Hints(family, mine.size.heads, None if inner is None else inner.heads, mine.input_size)


def _on_lattice(weights: Weights, lattice: Lattice) -> dict[str, Tensor]:
    """The encoder's tensors, a stored table resized where the run's inputs have another size."""
    state = dict(weights.encoder)
    if "table" in state and weights.facts.lattice.sizes != lattice.sizes:
        state["table"] = resize_table(state["table"], weights.facts.lattice, lattice)
    return state


def _refuse_differences(weights: Weights, mine: Facts, options: VisionSettings) -> None:
    """One line with every setting that differs: what the recipe has and what the weights have."""
    theirs = weights.facts
    rows = _differences("vision.encoder", _encoder_values(mine), _encoder_values(theirs))
    if options.weights_parts == "all":
        if theirs.predictor is None or mine.predictor is None:
            raise WeightsError(
                f"vision.weights: {weights.origin} has no predictor; vision.weights_parts=encoder starts a random one",
                weights.tables,
            )
        rows += _differences("vision.predictor", _values(mine.predictor), _values(theirs.predictor))
    if rows:
        raise WeightsError(
            f"vision.weights: {weights.origin} does not fit this recipe: {'; '.join(rows)}", weights.tables
        )


def _encoder_values(facts: Facts) -> dict[str, Any]:
    size = {f"size ({key})": value for key, value in asdict(facts.size).items()}
    patch = {"tubelet": facts.patch[0]} if facts.is_video else {}
    rest = {"stem": facts.stem, "positions": facts.positions, "norm_eps": facts.norm_eps}
    # Rounded, since values may have been through float32.
    scale = {"mean": _rounded(facts.mean), "std": _rounded(facts.std)}
    return {**size, **patch, "patch": facts.patch[-2:], **rest, **scale}


def _values(predictor: Any) -> dict[str, Any]:
    # Which row of the tokens is used is a choice of the run.
    return {key: value for key, value in asdict(predictor).items() if key != "token"}


def _differences(section: str, mine: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[str]:
    keys = list(dict.fromkeys([*mine, *theirs]))
    missing = "none"
    return [
        f"{section}.{key}: here {mine.get(key, missing)}, in the weights {theirs.get(key, missing)}"
        for key in keys
        if mine.get(key, missing) != theirs.get(key, missing)
    ]


def _rounded(values: Sequence[float]) -> tuple[float, ...]:
    return tuple(round(value, 5) for value in values)
