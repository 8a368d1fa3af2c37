"""Starting a run from weights: they fill the method, or are refused with what differs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any, cast

import torch

from jepa_audio.presets import PRESETS
from jepa_audio.settings import AudioRun, AudioSettings
from jepa_audio.weights.facts import Facts, facts_from_settings
from jepa_audio.weights.official import HEADS, PREDICTOR_HEADS, PRESETS_BY_POSITIONS, Hints
from jepa_audio.weights.read import has_copies, read_weights
from jepa_core.methods.masked import MaskedPrediction
from jepa_core.weights import start


def fill(method: MaskedPrediction, options: AudioSettings, samples: int) -> None:
    """Fills a method with the weights that ``options.weights`` names: front end, encoder, moving average, predictor.

    Clips of another length than the weights' own are possible. The level of the log energies is the weights', whatever
    was measured.

    Args:
        method: as built from the same settings.
        options: see there.
        samples: of a training clip.

    Raises:
        ValueError: the weights cannot be read, or are not those of this front end, encoder and predictor; the method is
            unchanged.
    """
    assert options.weights is not None
    mine = facts_from_settings(options, samples)
    copy = options.weights_copy if has_copies(options.weights) else None
    weights = read_weights(options.weights, copy, parts=options.weights_parts, hints=_assumed(options, mine))
    rows = start.differences("audio.frontend", _input_values(mine), _input_values(weights.facts))
    rows += start.differences("audio.encoder", _encoder_values(mine), _encoder_values(weights.facts))
    wanted = {"mean": options.frontend.mean, "std": options.frontend.std}
    rows += [
        f"audio.frontend.{key}: here {value}, in the weights {float(weights.front_end[key]):.6g}; leave it out"
        for key, value in wanted.items()
        if value is not None and abs(value - float(weights.front_end.get(key, torch.tensor(value)))) > 1e-5
    ]
    if options.weights_parts == "all":
        rows += start.predictor_differences("audio", weights, mine.predictor)
    start.refuse_differences("audio", weights, rows)
    start.fill_method(method, weights, options.weights_parts)


def choice(options: AudioSettings) -> list[tuple[str, str, str]]:
    """The row of a run's table of choices; none without weights."""
    return start.choice(options, options.weights is not None and has_copies(options.weights))


def untrained_rows(
    config: AudioRun, untrained: MaskedPrediction, build: Callable[[AudioRun], Any], device: torch.device
) -> dict[str, MaskedPrediction]:
    """See :func:`jepa_core.weights.start.untrained_rows`."""
    if config.audio.weights is None:
        return start.untrained_rows(untrained, None, config.seed, device)

    def fresh() -> MaskedPrediction:
        return cast(MaskedPrediction, build(replace(config, audio=replace(config.audio, weights=None))))

    return start.untrained_rows(untrained, fresh, config.seed, device)


def _assumed(options: AudioSettings, mine: Facts) -> Hints:
    """What is taken from the recipe where neither the file nor what was published tells it."""
    name, inner = options.frontend.preset, mine.predictor
    known = name in PRESETS and PRESETS[name].mean is not None and name not in PRESETS_BY_POSITIONS.values()
    heads = None if mine.size.width in HEADS else mine.size.heads
    inner_heads = None if inner is None or inner.width % PREDICTOR_HEADS == 0 else inner.heads
    return Hints(name if known else None, heads, inner_heads)


def _input_values(facts: Facts) -> dict[str, Any]:
    return {"kind": facts.kind, **asdict(facts.input), "patch": facts.patch, "frames": facts.frames}


def _encoder_values(facts: Facts) -> dict[str, Any]:
    size = {f"size ({key})": value for key, value in asdict(facts.size).items()}
    rest = {key: getattr(facts, key) for key in ("stem", "positions", "norm", "norm_eps", "longest")}
    return {**size, **rest}
