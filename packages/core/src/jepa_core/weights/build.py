"""What the facts of all modalities need: shapes without memory, epsilons of norms, sections of a JSON file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any

import torch
from torch import nn


def shapes_of(
    encoder: Callable[[], nn.Module],
    predictor: Callable[[], nn.Module] | None = None,
    front_end: Callable[[], nn.Module] | None = None,
) -> dict[str, dict[str, tuple[int, ...]]]:
    """Shapes of the tensors of each part that there is, by our names; parts are built without memory."""
    builders = {"encoder": encoder, "front_end": front_end, "predictor": predictor}
    with torch.device("meta"):
        parts = {part: build() for part, build in builders.items() if build is not None}
    return {
        part: {key: tuple(value.shape) for key, value in module.state_dict().items()} for part, module in parts.items()
    }


def set_norm_eps(module: nn.Module, eps: float) -> None:
    """Gives all layer norms of a module this epsilon."""
    for part in module.modules():
        if isinstance(part, nn.LayerNorm):
            part.eps = eps


def check_names(values: Any, kind: type, name: str) -> None:
    """Refuses a section of a JSON file that lacks a field of the dataclass ``kind`` or has one more.

    Raises:
        ValueError: see above; ``name`` is what the message calls the section.
    """
    if not isinstance(values, Mapping):
        raise ValueError(f"{name}: expected a section, got {values!r}")
    wanted = {field.name for field in fields(kind)}
    if set(values) != wanted:
        unknown, missing = sorted(set(values) - wanted), sorted(wanted - set(values))
        raise ValueError(f"{name}: expected {', '.join(sorted(wanted))}; unknown: {unknown}, missing: {missing}")
