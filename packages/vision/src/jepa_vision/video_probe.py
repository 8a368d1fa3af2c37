"""The frozen-encoder probe of video: which class is this clip? Logistic regression and nearest neighbours.

Two readouts: the mean of all tokens, and the means of the time steps side by side. Controls: the same encoder untrained
with the same readouts, the frames themselves at 16 x 16 pixels, and their mean, which shows no motion.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from jepa_core.contracts import BadSample, Measurement, ProbeTable
from jepa_core.methods.masked import MaskedPrediction
from jepa_vision.readouts import LINEAR, compress, each_step, frozen_tokens, mean_token, measure
from jepa_vision.video_settings import VideoProbeSettings
from jepa_vision.video_sources import ProbeSide, ProbeSplit

MEAN, STEPS = "", ", time"
RAW, STILL = "raw", "mean frame"
RAW_SIDE, RAW_PARTS, PARTS = 16, 150, 512

Describe = Callable[[Tensor], Mapping[str, Tensor]]
"""Clips uint8 ``[B, 3, T, H, W]`` to features ``[B, D]`` by readout."""


@dataclass(frozen=True)
class Described:
    """Features of one side of the split.

    Attributes:
        features: ``[N, D]`` by row and readout.
        labels: ``[N]``.
        groups: ``[N]`` or None.
        unreadable: clips that were left out.
    """

    features: Mapping[tuple[str, str], Tensor]
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
    return Described(features, side.labels[kept], groups, len(side.labels) - len(kept))


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


def of_encoder(method: MaskedPrediction, which: str) -> Describe:
    """The readouts of a method's frozen encoder, ``online`` or ``target``."""

    def describe(clips: Tensor) -> Mapping[str, Tensor]:
        tokens = frozen_tokens(method, which, clips)
        return {MEAN: mean_token(tokens), STEPS: each_step(tokens)}

    return describe


def probe_table(
    split: ProbeSplit, encoders: Mapping[str, MaskedPrediction], settings: VideoProbeSettings, device: torch.device
) -> ProbeTable:
    """The table of the encoders by row name, and of the controls without one."""
    rows: dict[str, Describe] = {name: of_encoder(method, settings.encoder) for name, method in encoders.items()}
    rows |= {RAW: raw_frames, STILL: mean_frame}
    train, test = (describe_side(side, rows, settings.batch_size, device) for side in (split.train, split.test))
    found: dict[str, dict[str, Measurement]] = {name: {} for name in rows}
    for name, readout in train.features:
        parts = compress(
            train.features[name, readout], test.features[name, readout], RAW_PARTS if name in (RAW, STILL) else PARTS
        )
        figures = measure(
            (parts[0], train.labels), (parts[1], test.labels), settings.neighbours, (train.groups, test.groups)
        )
        found[name] |= {f"{metric}{readout}": figure for metric, figure in figures.items()}
    return ProbeTable(LINEAR, found, len(test.labels), _note(split, train, test, settings))


def _note(split: ProbeSplit, train: Described, test: Described, settings: VideoProbeSettings) -> str:
    share = test.labels.bincount().max().item() / len(test.labels)
    left_out = train.unreadable + test.unreadable
    note = (
        f"accuracy on {len(test.labels)} clips ({split.note}), fitted on {len(train.labels)}; the most frequent class "
        f"is {share:.3f} of them; kNN with {settings.neighbours} neighbours; time: the means of the time steps side by "
        f"side; raw: the frames at {RAW_SIDE} x {RAW_SIDE} pixels, mean frame: their mean, the first {RAW_PARTS} "
        f"principal components; other features wider than {PARTS} too are their first {PARTS}"
    )
    return f"{note}; {left_out} unreadable clips left out" if left_out else note
