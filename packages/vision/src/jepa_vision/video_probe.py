"""The frozen-encoder probe of video: which class is this clip? Logistic regression and nearest neighbours.

Two readouts: the mean of all tokens, and the means of the time steps side by side. The attentive probe reads all
tokens. Controls: the same encoder untrained with the same readouts, the frames themselves at 16 x 16 pixels, and their
mean, which shows no motion.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional as F

from jepa_core.contracts import BadSample, Measurement, ProbeTable
from jepa_core.evaluate.attentive import TokenSet
from jepa_core.evaluate.heads import (
    ATTENTIVE,
    COLUMNS,
    compress,
    measure,
    measure_tokens,
    note_of_heads,
    reads_pooled,
    token_set,
)
from jepa_core.methods.frozen import frozen_tokens
from jepa_core.methods.masked import MaskedPrediction
from jepa_vision.readouts import each_step, mean_token
from jepa_vision.video_settings import VideoProbeSettings
from jepa_vision.video_sources import ProbeSide, ProbeSplit

MEAN, STEPS = "", ", time"
RAW, STILL = "raw", "mean frame"
RAW_SIDE, RAW_PARTS, PARTS = 16, 150, 512

Describe = Callable[[Tensor], Mapping[str, Tensor]]
"""Clips uint8 ``[B, 3, T, H, W]`` to features ``[B, D]`` by readout."""


@dataclass(frozen=True)
class Described:
    """Features of the clips of one side of the split that can be read.

    Attributes:
        features: ``[N, D]`` by row and readout.
        places: int64 ``[N]``, which clips of the side these are.
        labels: ``[N]``.
        groups: ``[N]`` or None.
        unreadable: clips that were left out.
    """

    features: Mapping[tuple[str, str], Tensor]
    places: Tensor
    labels: Tensor
    groups: Tensor | None
    unreadable: int


def raw_frames(clips: Tensor) -> Mapping[str, Tensor]:
    """All frames at 16 x 16 pixels, ``[B, T * 768]``."""
    return {MEAN: _small(clips).flatten(1)}


def mean_frame(clips: Tensor) -> Mapping[str, Tensor]:
    """The mean of the frames at 16 x 16 pixels, ``[B, 768]``."""
    return {MEAN: _small(clips).mean(1).flatten(1)}


def _small(clips: Tensor) -> Tensor:
    frames = clips.cpu().transpose(1, 2).float() / 255
    return F.adaptive_avg_pool2d(frames.flatten(0, 1), RAW_SIDE).unflatten(0, frames.shape[:2])


def describe_side(side: ProbeSide, rows: Mapping[str, Describe], batch_size: int, device: torch.device) -> Described:
    """Each clip is read once and described for every row."""
    parts: dict[tuple[str, str], list[Tensor]] = {}
    kept: list[int] = []
    for places, clips in _batches(side, batch_size):
        kept += places
        on_device = clips.to(device)
        for name, describe in rows.items():
            for readout, rows_BD in describe(on_device).items():
                parts.setdefault((name, readout), []).append(rows_BD.cpu())
    if not kept:
        raise ValueError(f"probe: expected labelled clips that can be read, got none of {len(side.labels)}")
    features = {key: torch.cat(found) for key, found in parts.items()}
    groups = None if side.groups is None else side.groups[kept]
    return Described(features, torch.tensor(kept), side.labels[kept], groups, len(side.labels) - len(kept))


def _batches(side: ProbeSide, size: int) -> Iterator[tuple[list[int], Tensor]]:
    """Indices and clips of what can be read."""
    for start in range(0, len(side.labels), size):
        places, loaded = [], []
        for index in range(start, min(start + size, len(side.labels))):
            try:
                loaded.append(side.source.load(index, 0))
            except (BadSample, OSError):
                continue
            places.append(index)
        if places:
            yield places, side.source.collate(loaded)


def of_encoder(method: MaskedPrediction, which: str, layer: int = -1) -> Describe:
    """The readouts of a method's frozen encoder; arguments as in :func:`jepa_core.methods.frozen.frozen_tokens`."""

    def describe(clips: Tensor) -> Mapping[str, Tensor]:
        tokens = frozen_tokens(method, which, clips, layer)
        return {MEAN: mean_token(tokens), STEPS: each_step(tokens)}

    return describe


def tokens_of(
    side: ProbeSide, described: Described, method: MaskedPrediction, settings: VideoProbeSettings, device: torch.device
) -> TokenSet:
    """All tokens of the clips of a side that were described; where they are not kept, clips are read anew each time."""

    def encode(places: Tensor) -> Tensor:
        loaded = [side.source.load(index, 0) for index in described.places[places].tolist()]
        clips = side.source.collate(loaded).to(device)
        return frozen_tokens(method, settings.encoder, clips, settings.layer).features

    return token_set(encode, described.labels, settings.batch_size, described.groups)


def probe_table(
    split: ProbeSplit, encoders: Mapping[str, MaskedPrediction], settings: VideoProbeSettings, device: torch.device
) -> ProbeTable:
    """The table of the encoders by row name, and of the controls without one."""
    rows: dict[str, Describe] = {
        name: of_encoder(method, settings.encoder, settings.layer) for name, method in encoders.items()
    }
    rows |= {RAW: raw_frames, STILL: mean_frame}
    # The attentive probe alone needs to know which clips can be read, and no more.
    wanted = rows if reads_pooled(settings.heads) else {}
    train, test = (describe_side(side, wanted, settings.batch_size, device) for side in (split.train, split.test))
    found: dict[str, dict[str, Measurement]] = {name: {} for name in rows}
    for name, readout in train.features:
        figures = _measure_pooled((name, readout), train, test, settings)
        found[name] |= {f"{metric}{readout}": figure for metric, figure in figures.items()}
    if "attentive" in settings.heads:
        for name, method in encoders.items():
            fitted = tokens_of(split.train, train, method, settings, device)
            tested = tokens_of(split.test, test, method, settings, device)
            found[name][ATTENTIVE] = measure_tokens(cast(Any, method.encoder).size.heads, fitted, tested, device)
    return ProbeTable(COLUMNS[settings.heads[0]], found, len(test.labels), _note(train, test, settings, split.note))


def _measure_pooled(
    key: tuple[str, str], train: Described, test: Described, settings: VideoProbeSettings
) -> dict[str, Measurement]:
    """The figures of one row and readout."""
    most = RAW_PARTS if key[0] in (RAW, STILL) else PARTS
    fitted, tested = compress(train.features[key], test.features[key], most)
    groups = train.groups, test.groups
    return measure((fitted, train.labels), (tested, test.labels), settings.neighbours, groups, settings.heads)


def _note(train: Described, test: Described, settings: VideoProbeSettings, chosen: str) -> str:
    share = test.labels.bincount().max().item() / len(test.labels)
    left_out = train.unreadable + test.unreadable
    note = (
        f"accuracy on {len(test.labels)} clips ({chosen}), fitted on {len(train.labels)}; the most frequent class "
        f"is {share:.3f} of them{note_of_heads(settings, 'clips')}"
    )
    if reads_pooled(settings.heads):
        note += (
            f"; time: the means of the time steps side by side; raw: the frames at {RAW_SIDE} x {RAW_SIDE} pixels, "
            f"mean frame: their mean, the first {RAW_PARTS} principal components; other features wider than {PARTS} "
            f"too are their first {PARTS}"
        )
    return f"{note}; {left_out} unreadable clips left out" if left_out else note
