"""The frozen-encoder probe: which class is this image? Logistic regression and nearest neighbours on pooled tokens.

Two readouts: the mean of all tokens, and the means of the four quarters of the image side by side. The attentive probe
reads all tokens. Controls: the same encoder untrained with the same readouts, and the picture itself at 16 x 16 pixels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from jepa_core.contracts import BadSample, Measurement, ProbeTable, Tokens
from jepa_core.evaluate.attentive import TokenSet
from jepa_core.evaluate.heads import (
    ATTENTIVE,
    COLUMNS,
    measure,
    measure_tokens,
    note_of_heads,
    reads_pooled,
    token_set,
)
from jepa_core.methods.frozen import frozen_tokens
from jepa_core.methods.masked import MaskedPrediction
from jepa_vision.image_data import Images, Splits
from jepa_vision.image_records import Record
from jepa_vision.readouts import mean_token, quarters
from jepa_vision.settings import VisionProbeSettings

MEAN, QUARTERS = "", ", 2x2"
RAW_SIDE = 16

Features = Mapping[str, Tensor]


@dataclass(frozen=True)
class Side:
    """Images of one side of the split, decoded once.

    Attributes:
        pictures: uint8 ``[N, H, W, 3]``, centre cuts at the input size.
        small: uint8 ``[N, 16, 16, 3]``.
        labels: ``[N]``.
        unreadable: images that were left out.
    """

    pictures: NDArray[np.uint8]
    small: NDArray[np.uint8]
    labels: Tensor
    unreadable: int


def load_side(records: Sequence[Record], size: tuple[int, int], most: int) -> Side:
    """At most ``most`` labelled images (0 = all), evenly spread over the list."""
    labelled = [record for record in records if record.label is not None]
    places = np.linspace(0, len(labelled) - 1, min(most or len(labelled), len(labelled))).round().astype(int)
    chosen = [labelled[place] for place in np.unique(places)]
    pictures, small, labels = [], [], []
    for record in chosen:
        try:
            pictures.append(Images([record], size).load(0, 0))
        except (BadSample, OSError):
            continue
        small.append(Images([record], (RAW_SIDE, RAW_SIDE)).load(0, 0))
        labels.append(cast(int, record.label))
    if not labels:
        raise ValueError(f"probe: expected labelled images that can be read, got none of {len(records)}")
    return Side(np.stack(pictures), np.stack(small), torch.tensor(labels), len(chosen) - len(labels))


class ImageProbe:
    """Fits and tests the probes of one split.

    Args:
        splits: labelled images.
        size: ``(height, width)`` of the encoder's input.
        settings: see there.
        device: where features are computed.
    """

    def __init__(
        self, splits: Splits, size: tuple[int, int], settings: VisionProbeSettings, device: torch.device
    ) -> None:
        self.settings, self.device, self.note = settings, device, splits.note
        self.train = load_side(splits.train, size, settings.train_images)
        self.test = load_side(splits.test, size, settings.test_images)
        self.rows: dict[str, dict[str, Measurement]] = {}

    def add(self, name: str, method: MaskedPrediction) -> None:
        """The row of an encoder."""
        if reads_pooled(self.settings.heads):
            train, test = self._features(method, self.train), self._features(method, self.test)
            for readout in (MEAN, QUARTERS):
                self._measure(name, readout, train[readout], test[readout])
        if "attentive" in self.settings.heads:
            sides = self._tokens(method, self.train), self._tokens(method, self.test)
            heads = cast(Any, method.encoder).size.heads
            self.rows.setdefault(name, {})[ATTENTIVE] = measure_tokens(heads, *sides, self.device)

    def add_raw(self) -> None:
        """The row of the pictures themselves."""
        train, test = (torch.from_numpy(side.small).flatten(1).float() / 255 for side in (self.train, self.test))
        self._measure("raw", MEAN, train, test)

    def _measure(self, name: str, readout: str, train: Tensor, test: Tensor) -> None:
        found = measure(
            (train, self.train.labels), (test, self.test.labels), self.settings.neighbours, heads=self.settings.heads
        )
        row = self.rows.setdefault(name, {})
        row.update({f"{metric}{readout}": figure for metric, figure in found.items()})

    def _features(self, method: MaskedPrediction, side: Side) -> Features:
        parts: dict[str, list[Tensor]] = {MEAN: [], QUARTERS: []}
        for places in torch.arange(len(side.labels)).split(self.settings.batch_size):
            tokens = self._encode(method, side, places)
            parts[MEAN].append(mean_token(tokens).cpu())
            parts[QUARTERS].append(quarters(tokens).cpu())
        return {readout: torch.cat(found) for readout, found in parts.items()}

    def _encode(self, method: MaskedPrediction, side: Side, places: Tensor) -> Tokens:
        images = torch.from_numpy(side.pictures[places.numpy()]).permute(0, 3, 1, 2).to(self.device)
        return frozen_tokens(method, self.settings.encoder, images, self.settings.layer)

    def _tokens(self, method: MaskedPrediction, side: Side) -> TokenSet:
        return token_set(
            lambda places: self._encode(method, side, places).features, side.labels, self.settings.batch_size
        )

    def table(self) -> ProbeTable:
        """All rows so far."""
        share = self.test.labels.bincount().max().item() / len(self.test.labels)
        left_out = self.train.unreadable + self.test.unreadable
        note = (
            f"accuracy on {len(self.test.labels)} images ({self.note}), fitted on {len(self.train.labels)}; the most "
            f"frequent class is {share:.3f} of them; raw is the image at {RAW_SIDE} x {RAW_SIDE} pixels"
            f"{note_of_heads(self.settings, 'images')}"
        )
        if left_out:
            note += f"; {left_out} unreadable images left out"
        return ProbeTable(COLUMNS[self.settings.heads[0]], self.rows, len(self.test.labels), note)
