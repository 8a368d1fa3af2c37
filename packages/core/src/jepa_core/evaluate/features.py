"""Frozen features by name: which layers of which encoder, and how the sites of a sample become one vector."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from jepa_core.checks import hint
from jepa_core.contracts import Batch, Embedding, Method

LAST = "last"
ALL = "all"
TOKENS = "tokens"
POOLINGS = ("mean", "max", TOKENS)
ENCODERS = ("online", "target")
_BLOCK = re.compile(r"block_(\d+)")


def probed_features(probe: Any) -> tuple[str, str]:
    """Encoder and layer that the settings ``probe`` name; the online encoder's last where they name none."""
    layer = getattr(probe, "layer", -1)
    return getattr(probe, "encoder", "online"), LAST if layer < 0 else f"block_{layer}"


def layer_embeddings(
    method: Method, batch: Batch, layers: Sequence[str] = (LAST,), encoder: str = "online"
) -> dict[str, Embedding]:
    """Features of chosen layers.

    Args:
        method: as :class:`jepa_core.contracts.Method`; for blocks or the target encoder its ``embed`` must take
            ``layers`` and ``encoder``, as that of :class:`jepa_core.methods.masked.MaskedPrediction` does.
        batch: on the method's device.
        layers: ``last`` (what the method calls ``tokens``, or its only output), ``block_<k>`` counted from 0, another
            name that the method gives, or ``all``: every block and the last layer, without blocks all that the method
            gives.
        encoder: ``online`` or ``target``.

    Raises:
        ValueError: the method has no such layer or encoder.
    """
    if ALL in layers:
        named = [f"block_{k}" for k in range(depth_of(method, encoder))]
        layers = [*named, LAST] if named else [LAST if key == "tokens" else key for key in method.embed(batch)]
    blocks = [int(found[1]) for name in layers if (found := _BLOCK.fullmatch(name))]
    outputs = _embed(method, batch, blocks, encoder)
    return {name: outputs[_key(name, outputs)] for name in layers}


def depth_of(method: Method, encoder: str = "online") -> int:
    """Blocks of an encoder that can give their outputs; 0 where it has none."""
    owner = method if encoder == "online" else getattr(method, "target", None)
    found = getattr(owner, "encoder", None)
    return int(getattr(getattr(found, "size", None), "depth", 0)) if hasattr(found, "forward_layers") else 0


def _embed(method: Method, batch: Batch, blocks: Sequence[int], encoder: str) -> Mapping[str, Embedding]:
    if not blocks and encoder == "online":
        return method.embed(batch)
    taken = inspect.signature(method.embed).parameters
    wanted: dict[str, Any] = {"layers": blocks, "encoder": encoder}
    if missing := [name for name in wanted if name not in taken]:
        raise ValueError(
            f"{missing[0]}: expected a method whose embed() takes it, got {type(method).__name__}; use layers=last and "
            "encoder=online"
        )
    return method.embed(batch, **wanted)


def _key(name: str, outputs: Mapping[str, Embedding]) -> str:
    if name in outputs:
        return name
    if name == LAST and "tokens" in outputs:
        return "tokens"
    if name == LAST and len(outputs) == 1:
        return next(iter(outputs))
    names = [LAST if known == "tokens" else known for known in outputs]
    raise ValueError(
        f"layers: expected block_<k> where the encoder has blocks, or one of {', '.join(names)}, got {name!r}"
        f"{hint(name, names)}"
    )


def pool(embedding: Embedding, pooling: str) -> Tensor:
    """One vector a sample, float32 ``[B, D]``; features ``[B, D]`` are taken as they are.

    Args:
        embedding: of a layer.
        pooling: ``mean`` or ``max`` over the valid sites; zeros where a sample has none.
    """
    x = embedding.features.float()
    if x.dim() == 2:
        return x
    valid = None if embedding.sites is None else embedding.sites.valid
    if valid is None:
        return x.mean(1) if pooling == "mean" else x.amax(1)
    weight = valid.unsqueeze(-1)
    if pooling == "mean":
        return torch.where(weight, x, 0.0).sum(1) / weight.sum(1).clamp(min=1)
    return torch.where(weight.any(1), x.masked_fill(~weight, float("-inf")).amax(1), 0.0)
