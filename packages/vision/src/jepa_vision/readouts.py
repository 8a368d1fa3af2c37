"""What the probes of images and of clips share: frozen encoders, pooled tokens, and the figures of a readout."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional as F

from jepa_core.contracts import Measurement, Tokens
from jepa_core.evaluate.probes import knn_accuracy, linear_probe_accuracy
from jepa_core.methods.masked import MaskedPrediction

LINEAR, KNN, ATTENTIVE = "linear", "kNN", "attentive"
COLUMNS = {"linear": LINEAR, "knn": KNN, "attentive": ATTENTIVE}
"""Columns of a probe's table by the name of what reads the features."""


@torch.no_grad()
def frozen_tokens(method: MaskedPrediction, which: str, inputs: Tensor, layer: int = -1) -> Tokens:
    """Tokens of whole inputs.

    Args:
        method: its front end and encoders are used.
        which: encoder, ``online`` or ``target``.
        inputs: uint8, on the method's device.
        layer: the block whose output is given, counted from 0, before any norm; -1 = the last one after its norm.
    """
    encoder: Any = cast(Any, method.target).encoder if which == "target" else method.encoder
    patches, _ = method.front_end(inputs, torch.zeros(len(inputs), dtype=torch.long, device=inputs.device))
    if layer < 0:
        return cast(Tokens, encoder(patches, None))
    tokens = cast(Tokens, encoder.forward_layers(patches, None, (layer,)))
    return tokens.with_features(tokens.layers[f"block_{layer}"])


def mean_token(tokens: Tokens) -> Tensor:
    """The mean of all tokens, ``[B, D]``."""
    return tokens.features.float().mean(1)


def quarters(tokens: Tokens) -> Tensor:
    """Means of the four quarters of the image, ``[B, 4 D]``."""
    rows, columns = tokens.lattice.sizes
    maps = tokens.features.float().transpose(1, 2).unflatten(2, (rows, columns))
    return F.adaptive_avg_pool2d(maps, 2).flatten(1)


def each_step(tokens: Tokens) -> Tensor:
    """The mean of each time step of a clip, side by side, ``[B, T D]``."""
    return tokens.features.float().unflatten(1, (tokens.lattice.sizes[0], -1)).mean(2).flatten(1)


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
