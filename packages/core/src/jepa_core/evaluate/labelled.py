"""Whole labelled samples read by a frozen encoder, one vector each, for probes that every modality has."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from jepa_core.contracts import Batch, Measurement, Method, ProbeTable
from jepa_core.data.move import to_device
from jepa_core.evaluate.features import LAST, layer_embeddings, pool
from jepa_core.evaluate.heads import LINEAR, measure
from jepa_core.evaluate.linear import linear_predictions
from jepa_core.evaluate.probes import clustered_accuracy
from jepa_core.evaluate.share import Chunks
from jepa_core.evaluation_source import Label, LabelledSource

ToRows = Callable[[Batch], Tensor]
"""A batch on the device to one vector a sample, ``[B, D]``."""


class LabelledSamples:
    """Samples of a source that have a label, chosen once; they are decoded each time that they are read.

    Args:
        source: its labels are read, nothing is decoded.
        most: how many, drawn by ``seed``; None = all.
        batch_size: samples embedded at a time.
        seed: of the draw, and of front ends that draw from a sample's own seed.
    """

    def __init__(self, source: LabelledSource, most: int | None, batch_size: int, seed: int) -> None:
        places = [index for index in range(len(source)) if source.label(index) is not None]
        if most is not None and most < len(places):
            places = sorted(random.Random(seed).sample(places, most))
        self.source, self.places, self.batch_size, self.seed = source, places, batch_size, seed

    def __len__(self) -> int:
        return len(self.places)

    def batches(self) -> Iterator[tuple[Batch, tuple[int, ...]]]:
        """Batches with the places of their samples in the source; samples that cannot be read are left out."""
        chunks = Chunks(self.source, self.places, self.batch_size, self.seed)
        for loaded in (chunks[place] for place in range(len(chunks))):
            if loaded.batch is not None:
                yield loaded.batch, loaded.indices


@dataclass(frozen=True)
class LabelledRows:
    """What was read.

    Attributes:
        features: float32 ``[S, D]``, on the CPU.
        labels: one a row.
        groups: recording or speaker of each row; a sample without one is its own.
    """

    features: Tensor
    labels: tuple[Label, ...]
    groups: tuple[str, ...]


def read_rows(samples: LabelledSamples, to_rows: ToRows, device: torch.device) -> LabelledRows:
    """Reads all of the samples.

    Raises:
        ValueError: none of them can be read.
    """
    features: list[Tensor] = []
    labels: list[Label] = []
    groups: list[str] = []
    for batch, places in samples.batches():
        features.append(to_rows(to_device(batch, device)).float().cpu())
        for place in places:
            label = samples.source.label(place)
            assert label is not None
            labels.append(label)
            groups.append(samples.source.group(place) or samples.source.sample_id(place))
    if not features:
        raise ValueError(f"probe: expected labelled samples that can be read, got none of {len(samples)}")
    return LabelledRows(torch.cat(features), tuple(labels), tuple(groups))


def frozen_rows(method: Method, encoder: str = "online", layer: str = LAST) -> ToRows:
    """Mean tokens of a layer; see :func:`jepa_core.evaluate.features.layer_embeddings`."""

    def to_rows(batch: Batch) -> Tensor:
        return pool(layer_embeddings(method, batch, (layer,), encoder)[layer], "mean")

    return to_rows


def measure_rows(
    train: LabelledRows, test: LabelledRows, neighbours: int, l2: float | None = None
) -> tuple[dict[str, Measurement], int]:
    """Linear and kNN accuracy, and on how many test samples: those of a class that the training side has.

    Args:
        train, test: see there.
        neighbours: k of the vote, at most the training rows.
        l2: penalty of the linear probe; None = chosen on folds of the training side, which takes many times as long.

    Raises:
        ValueError: the training side has one class only, or no test sample is of its classes.
    """
    classes = {label: place for place, label in enumerate(sorted(set(train.labels), key=str))}
    kept = [place for place, label in enumerate(test.labels) if label in classes]
    if len(classes) < 2 or not kept:
        raise ValueError(
            f"probe: expected at least 2 classes and test samples of them, got {len(classes)} classes and {len(kept)}"
        )
    numbers = torch.tensor([classes[label] for label in train.labels])
    wanted = torch.tensor([classes[test.labels[place]] for place in kept])
    fitted, tested = (train.features, numbers), (test.features[kept], wanted)
    groups = _numbers(train.groups), _numbers([test.groups[place] for place in kept])
    if l2 is None:
        few = len(groups[0].unique()) < FEWEST_GROUPS  # then its own folds go through groups
        return measure(fitted, tested, neighbours, (None if few else groups[0], groups[1])), len(kept)
    found = measure(fitted, tested, neighbours, groups, heads=("knn",))
    right = linear_predictions(*fitted, tested[0], l2) == wanted
    linear = clustered_accuracy(right, groups[1])
    return {LINEAR: Measurement(linear.value, linear.stderr), **found}, len(kept)


FEWEST_GROUPS = 8
"""Training groups below which the linear probe chooses its penalty on folds of rows."""


def _numbers(names: Sequence[str]) -> Tensor:
    number = {name: place for place, name in enumerate(sorted(set(names)))}
    return torch.tensor([number[name] for name in names])


def probe_table(
    sides: tuple[LabelledSamples, LabelledSamples], readers: dict[str, ToRows], neighbours: int, device: torch.device
) -> ProbeTable:
    """The probe at the end of a run.

    Args:
        sides: to fit on and to test on.
        readers: a row of the table by name: ``trained``, ``untrained``, ``raw``.
        neighbours: k of the vote.
        device: where features are computed.
    """
    rows, count, fitted = {}, 0, 0
    for name, to_rows in readers.items():
        train, test = (read_rows(side, to_rows, device) for side in sides)
        rows[name], count = measure_rows(train, test, neighbours)
        fitted = len(train.labels)
    note = f"accuracy on {count} held-back samples, fitted on {fitted}; mean token; kNN with {neighbours} neighbours"
    return ProbeTable(LINEAR, rows, count, note)
