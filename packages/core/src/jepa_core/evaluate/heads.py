"""What reads frozen features at the end of a run: linear, kNN and attentive heads by name, and their figures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from jepa_core.checks import hint
from jepa_core.contracts import Measurement
from jepa_core.evaluate.attentive import AttentiveSettings, TokenSet, attentive_probe_accuracy
from jepa_core.evaluate.probes import knn_accuracy, linear_probe_accuracy
from jepa_core.settings import OnlineProbeSettings

HEADS = ("linear", "knn", "attentive")
LINEAR, KNN, ATTENTIVE = "linear", "kNN", "attentive"
COLUMNS = {"linear": LINEAR, "knn": KNN, "attentive": ATTENTIVE}
"""Columns of a probe's table by the name of what reads the features."""
ATTENTIVE_LRS, ATTENTIVE_SEED = (3e-3, 1e-3, 3e-4), 0
ATTENTIVE_FOLDS = 5
"""The learning rate is chosen on one part in this many of the training samples."""
ATTENTIVE_STEPS, ATTENTIVE_BATCHES = 16, (8, 256)
"""Steps of an epoch that a small training side is cut into, and the bounds of the batch; with large batches throughout,
the 20 epochs of a few hundred samples are over before anything is learned."""
MOST_TOKEN_BYTES = 2 * 2**30
"""Tokens of one side of the split that take more than this are not kept."""


@dataclass
class ProbeSettings(OnlineProbeSettings):
    """The probe on frozen features of whole samples.

    Attributes:
        enabled: whether the run ends with the probe (it needs classes).
        encoder: ``online`` or ``target`` (the moving average, which the papers evaluate).
        layer: the block whose output is probed, counted from 0, before any norm; -1 = the last one after its norm.
        heads: what reads the features: ``linear`` and ``knn`` (pooled tokens), ``attentive`` (V-JEPA's probe, on all
            tokens). The first leads the table.
        batch_size: samples embedded at a time.
    """

    enabled: bool = True
    encoder: Literal["online", "target"] = "online"
    layer: int = -1
    heads: list[str] = field(default_factory=lambda: ["linear", "knn"])
    batch_size: int = 64

    def validate(self) -> None:
        """Names that are no head of a probe, and none at all."""
        if not self.heads:
            raise ValueError(f"heads: expected some of {', '.join(HEADS)}, got none")
        for name in self.heads:
            if name not in HEADS:
                raise ValueError(f"heads: expected some of {', '.join(HEADS)}, got {name!r}{hint(name, HEADS)}")


def compress(train: Tensor, test: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """The first ``most`` principal components of the training rows ``[N, D]``; all of D where it is no more than that.

    Wide rows make a converged fit slow without telling it more than the training rows span.
    """
    if train.shape[1] <= most:
        return train, test
    mean = train.double().mean(0)
    centred = train.double() - mean
    # Of the smaller of the two products, so that neither many rows nor many columns cost much.
    if len(train) <= train.shape[1]:
        values, left = torch.linalg.eigh(centred @ centred.T)
        keep = values.argsort(descending=True)[: min(most, len(train) - 1)]
        axes = centred.T @ left[:, keep] / values[keep].clamp_min(1e-12).sqrt()
    else:
        values, axes = torch.linalg.eigh(centred.T @ centred)
        axes = axes[:, values.argsort(descending=True)[:most]]
    return (centred @ axes).float(), ((test.double() - mean) @ axes).float()


def measure(
    train: tuple[Tensor, Tensor],
    test: tuple[Tensor, Tensor],
    neighbours: int,
    groups: tuple[Tensor | None, Tensor | None] = (None, None),
    heads: Sequence[str] = ("linear", "knn"),
) -> dict[str, Measurement]:
    """Logistic regression and nearest neighbours on features ``[N, D]`` with labels ``[N]``.

    Args:
        train, test: features and labels.
        neighbours: k, at most the training rows.
        groups: recording of each training and each test row; None = each row is its own.
        heads: which of the two; other names are passed over.
    """
    found = {}
    if "linear" in heads:
        linear = linear_probe_accuracy(*train, *test, *groups).accuracy
        found[LINEAR] = Measurement(linear.value, linear.stderr)
    if "knn" in heads:
        knn = knn_accuracy(*train, *test, k=min(neighbours, len(train[0])), test_groups=groups[1])
        found[KNN] = Measurement(knn.value, knn.stderr)
    return found


def reads_pooled(heads: Sequence[str]) -> bool:
    """Whether any of the heads reads pooled tokens."""
    return any(head != "attentive" for head in heads)


def token_set(
    encode: Callable[[Tensor], Tensor], labels: Tensor, batch_size: int, groups: Tensor | None = None
) -> TokenSet:
    """All tokens of one side of a split: kept where they fit into memory, else computed each time they are asked for.

    Args:
        encode: places int64 ``[B]`` on the CPU, at most ``batch_size`` of them, to tokens ``[B, N, D]``.
        labels: ``[S]``.
        batch_size: samples encoded at a time.
        groups: ``[S]`` recording of each sample; None = each is its own.
    """

    def compute(places: Tensor) -> Tensor:
        return torch.cat([encode(chunk).float() for chunk in places.cpu().split(batch_size)])

    one = compute(torch.zeros(1, dtype=torch.long))
    if one.nbytes * len(labels) > MOST_TOKEN_BYTES:
        return TokenSet(compute, labels, groups)
    every = torch.arange(len(labels)).split(batch_size)
    return TokenSet(torch.cat([compute(places).cpu() for places in every]), labels, groups)


def measure_tokens(heads: int, train: TokenSet, test: TokenSet, device: torch.device) -> Measurement:
    """V-JEPA's attentive probe on all tokens of an encoder, with as many attention heads as that has."""
    apart = len(train.labels) if train.groups is None else len(train.groups.unique())
    # Few recordings are as many parts: what is held back is at least one of them.
    folds = max(2, min(ATTENTIVE_FOLDS, apart))
    fewest, most = ATTENTIVE_BATCHES
    settings = AttentiveSettings(
        heads,
        lrs=ATTENTIVE_LRS,
        batch_size=min(most, max(fewest, len(train.labels) // ATTENTIVE_STEPS)),
        validation=1 / folds,
        seed=ATTENTIVE_SEED,
    )
    found = attentive_probe_accuracy(train, test, settings, device).accuracy
    return Measurement(found.value, found.stderr)


def note_of_heads(settings: ProbeSettings, inputs: str) -> str:
    """What a table's note says of its heads and of the layer; ``inputs`` are ``images``, ``clips`` or ``sounds``."""
    note = f"; kNN with {settings.neighbours} neighbours" if "knn" in settings.heads else ""
    if "attentive" in settings.heads:
        rates = ", ".join(f"{lr:g}" for lr in ATTENTIVE_LRS)
        note += f"; attentive: V-JEPA's probe, the learning rate ({rates}) chosen on a part of the training {inputs}"
    if settings.layer >= 0:
        note += f"; features are the output of block {settings.layer}, before any norm"
    return note
