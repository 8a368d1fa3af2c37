"""What the probes of images and of clips share: frozen encoders, pooled and single tokens, figures of a readout."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional as F

from jepa_core.contracts import Measurement, Tokens
from jepa_core.evaluate.attentive import AttentiveSettings, TokenSet, attentive_probe_accuracy
from jepa_core.evaluate.probes import knn_accuracy, linear_probe_accuracy
from jepa_core.methods.masked import MaskedPrediction
from jepa_vision.settings import ProbeSettings

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


def measure_tokens(method: MaskedPrediction, train: TokenSet, test: TokenSet, device: torch.device) -> Measurement:
    """V-JEPA's attentive probe on all tokens of a method's encoder, with as many heads as that has."""
    apart = len(train.labels) if train.groups is None else len(train.groups.unique())
    # Few recordings are as many parts: what is held back is at least one of them.
    folds = max(2, min(ATTENTIVE_FOLDS, apart))
    fewest, most = ATTENTIVE_BATCHES
    settings = AttentiveSettings(
        cast(Any, method.encoder).size.heads,
        lrs=ATTENTIVE_LRS,
        batch_size=min(most, max(fewest, len(train.labels) // ATTENTIVE_STEPS)),
        validation=1 / folds,
        seed=ATTENTIVE_SEED,
    )
    found = attentive_probe_accuracy(train, test, settings, device).accuracy
    return Measurement(found.value, found.stderr)


def note_of_heads(settings: ProbeSettings, inputs: str) -> str:
    """What a table's note says of its heads and of the layer; ``inputs`` are ``images`` or ``clips``."""
    note = f"; kNN with {settings.neighbours} neighbours" if "knn" in settings.heads else ""
    if "attentive" in settings.heads:
        rates = ", ".join(f"{lr:g}" for lr in ATTENTIVE_LRS)
        note += f"; attentive: V-JEPA's probe, the learning rate ({rates}) chosen on a part of the training {inputs}"
    if settings.layer >= 0:
        note += f"; features are the output of block {settings.layer}, before any norm"
    return note
