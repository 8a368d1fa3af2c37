"""Frozen features of a source of samples as a table in memory: what ``jepa embed`` writes, from Python."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from typing import Any, cast

import numpy as np
import torch
from torch import nn

from jepa_core.contracts import Batch, Method
from jepa_core.data.move import to_device
from jepa_core.errors import DataError
from jepa_core.evaluate.features import TOKENS, layer_embeddings, pool
from jepa_core.evaluate.share import Chunks, Wanted
from jepa_core.evaluate.tables import EmbeddingTable
from jepa_core.evaluation_source import LabelledSource


def embed_samples(
    method: Method,
    source: LabelledSource,
    wanted: Wanted | None = None,
    batch_size: int = 32,
    metadata: Mapping[str, str] | None = None,
) -> EmbeddingTable:
    """A row for each sample, layer and pooling, in the order of the source.

    Args:
        method: trained or not, on any device; it is put into eval mode.
        source: such as ``modality.evaluation(config, "all")``.
        wanted: layers and poolings of one vector a sample; None = the mean of the last layer.
        batch_size: samples computed at a time.
        metadata: of the table, such as ``{"run": ..., "split": ...}``.

    Raises:
        ValueError: ``pooling=tokens``, or a layer that the method has not.
        DataError: no sample can be read. Those that cannot be read are left out with a warning.
    """
    wanted = wanted or Wanted()
    if TOKENS in wanted.pooling:
        raise ValueError("pooling: expected mean or max, one vector a sample, got tokens: use jepa embed")
    cast(nn.Module, method).eval()
    parts: list[dict[str, Any]] = []
    unreadable: list[tuple[str, str]] = []
    chunks = Chunks(source, range(len(source)), batch_size, 0)
    for loaded in (chunks[place] for place in range(len(chunks))):
        unreadable += loaded.unreadable
        if loaded.batch is not None:
            known = [(source.group(index), source.label(index)) for index in loaded.indices]
            parts += [{**part, "known": known} for part in _embed(method, loaded.batch, wanted)]
    if unreadable:
        name, reason = unreadable[0]
        said = f"{len(unreadable)} of {len(source)} samples could not be read; the first is {name}: {reason}"
        if not parts:
            raise DataError(said)
        warnings.warn(said, stacklevel=2)
    return _joined(parts, dict(metadata or {}))


@torch.inference_mode()
def _embed(method: Method, batch: Batch, wanted: Wanted) -> Iterator[dict[str, Any]]:
    device = next((p.device for p in cast(nn.Module, method).parameters()), torch.device("cpu"))
    found = layer_embeddings(method, to_device(batch, device), wanted.layers, wanted.encoder)
    for layer, embedding in found.items():
        for pooling in wanted.pooling:
            yield {
                "ids": batch.sample_id,
                "layer": layer,
                "pooling": pooling,
                "vectors": pool(embedding, pooling).cpu().numpy(),
            }


def _joined(parts: list[dict[str, Any]], metadata: dict[str, str]) -> EmbeddingTable:
    def column(values: list[Any]) -> Any:
        return np.array([*values, None], dtype=object)[:-1]

    known = [pair for part in parts for pair in part["known"]]
    return EmbeddingTable(
        column([name for part in parts for name in part["ids"]]),
        np.concatenate([part["vectors"] for part in parts]),
        layer=column([part["layer"] for part in parts for _ in part["ids"]]),
        pooling=column([part["pooling"] for part in parts for _ in part["ids"]]),
        group=column([group for group, _ in known]),
        label=column([label for _, label in known]),
        metadata=metadata,
        origin=metadata.get("run", "embedding table"),
    )
