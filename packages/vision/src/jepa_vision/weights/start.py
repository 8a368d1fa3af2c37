"""Starting a run from weights: they fill encoder, moving average and predictor, or are refused with what differs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from typing import Any, cast

import torch
from torch import Tensor

from jepa_core.lattice import Lattice
from jepa_core.methods.masked import MaskedPrediction
from jepa_core.targets import EmaTarget
from jepa_core.weights import start
from jepa_core.weights.start import fill_method
from jepa_vision.encoder import VisionTransformer
from jepa_vision.positions import resize_table
from jepa_vision.settings import VisionSettings
from jepa_vision.weights.contents import Family, Weights, WeightsError
from jepa_vision.weights.facts import Facts, facts_from_settings
from jepa_vision.weights.official import Hints
from jepa_vision.weights.read import has_copies, read_weights


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
    state = _on_lattice(weights, cast(VisionTransformer, method.encoder).lattice)
    fill_method(method, weights, options.weights_parts, state)


def choice(options: VisionSettings) -> list[tuple[str, str, str]]:
    """The row of a run's table of choices; none without weights."""
    return start.choice(options, options.weights is not None and has_copies(options.weights))


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
        return start.untrained_rows(untrained, None, config.seed, device)

    def fresh() -> MaskedPrediction:
        built = cast(MaskedPrediction, build(replace(config, vision=replace(config.vision, weights=None))))
        if config.vision.encoder.positions == "stored":
            # A fixed table is nothing that is learned: without it the encoder would not know where a patch lies.
            _copy_table(untrained, built)
        return built

    return start.untrained_rows(untrained, fresh, config.seed, device)


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
    rows = start.differences("vision.encoder", _encoder_values(mine), _encoder_values(weights.facts))
    if options.weights_parts == "all":
        # Which row of the tokens is used, and how sequences are made up, are choices of the run.
        rows += start.predictor_differences("vision", weights, mine.predictor, ("token", "sequences"))
    start.refuse_differences("vision", weights, rows)


def _encoder_values(facts: Facts) -> dict[str, Any]:
    size = {f"size ({key})": value for key, value in asdict(facts.size).items()}
    patch = {"tubelet": facts.patch[0]} if facts.is_video else {}
    rest = {"stem": facts.stem, "positions": facts.positions, "norm_eps": facts.norm_eps}
    # Rounded, since values may have been through float32.
    scale = {"mean": _rounded(facts.mean), "std": _rounded(facts.std)}
    return {**size, **patch, "patch": facts.patch[-2:], **rest, **scale}


def _rounded(values: Sequence[float]) -> tuple[float, ...]:
    return tuple(round(value, 5) for value in values)
