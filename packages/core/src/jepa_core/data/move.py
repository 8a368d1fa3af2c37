"""Moving nested inputs between devices: tensors, dataclasses, dicts, lists, and anything with its own ``.to``."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor


def _rebuild(value: Any, change: Callable[[Any], Any]) -> Any:
    """The same container with ``change`` applied to its items; what is no container stays as it is."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: change(getattr(value, field.name)) for field in dataclasses.fields(value) if field.init}
        return dataclasses.replace(value, **fields)
    kind: Any = type(value)
    if isinstance(value, Mapping):
        return kind({key: change(item) for key, item in value.items()})
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return kind(*(change(item) for item in value))
    if isinstance(value, (list, tuple)):
        return kind(change(item) for item in value)
    return value


def map_tensors(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """The same structure with ``change`` applied to every tensor in it."""
    if isinstance(value, Tensor):
        return change(value)
    return _rebuild(value, lambda item: map_tensors(item, change))


def to_device(value: Any, device: torch.device) -> Any:
    """``value`` on ``device``; an object that has its own ``.to(device)`` is asked first."""
    if isinstance(value, Tensor):
        return value.to(device, non_blocking=True)
    if hasattr(value, "to") and not isinstance(value, type):
        return value.to(device)
    return _rebuild(value, lambda item: to_device(item, device))


def describe(value: Any, name: str = "inputs") -> list[tuple[str, str, str]]:
    """(name, shape, dtype) of every tensor in a nested value, for the dry run."""
    if isinstance(value, Tensor):
        return [(name, str(list(value.shape)), str(value.dtype).removeprefix("torch."))]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        parts = [(field.name, getattr(value, field.name)) for field in dataclasses.fields(value)]
    elif isinstance(value, Mapping):
        parts = [(str(key), item) for key, item in value.items()]
    elif isinstance(value, (list, tuple)):
        parts = [(str(k), item) for k, item in enumerate(value)]
    else:
        return []
    return [row for key, item in parts for row in describe(item, f"{name}.{key}")]
