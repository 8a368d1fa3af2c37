"""Where our tensors lie in the files of others: names, shapes, several keys for one tensor; read and written alike."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from jepa_core.weights.keys import KeyTable

Shapes = Mapping[str, tuple[int, ...]]
_BLOCK = re.compile(r"transformer\.blocks\.(\d+)\.(.+)\.(weight|bias)")
CONVERSION = "in another layout (convolution, split queries, keys and values, added dimensions)"


@dataclass(frozen=True)
class Place:
    """Where one tensor lies.

    Attributes:
        keys: it is cut along its first axis into as many equal parts as there are keys.
        shape: of each of them in the file.
    """

    keys: tuple[str, ...]
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Names:
    """The names of one layout.

    Attributes:
        blocks: what comes before a block's number.
        inside: our modules of a block to theirs; more than one where queries, keys and values are apart.
        outside: our other modules to theirs.
    """

    blocks: str
    inside: Mapping[str, tuple[str, ...]]
    outside: Mapping[str, str]


PLAIN = {name: (name,) for name in ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")}


def places(shapes: Shapes, names: Names, special: Mapping[str, Place]) -> dict[str, Place]:
    """The place of each of our tensors (``shapes`` by our names); ``special`` are those that are no plain modules."""
    found = {}
    for key, shape in shapes.items():
        if key in special:
            found[key] = special[key]
            continue
        block = _BLOCK.fullmatch(key)
        if block is not None:
            keys = tuple(f"{names.blocks}{block[1]}.{module}.{block[3]}" for module in names.inside[block[2]])
        else:
            module, _, leaf = key.rpartition(".")
            keys = (f"{names.outside[module]}.{leaf}",)
        found[key] = Place(keys, (shape[0] // len(keys), *shape[1:]))
    return found


def read(
    state: Mapping[str, Tensor], wanted: Mapping[str, Place], shapes: Shapes, table: KeyTable
) -> dict[str, Tensor]:
    """Our tensors from a file's, as far as they fit; ``table`` gets what became of every key.

    Args:
        state: the part's tensors, without their prefix.
        wanted: where ours lie.
        shapes: of ours.
        table: keys that it already lists as outside or ignored are not unexpected.
    """
    table.conversion = CONVERSION
    found = {}
    for key, place in wanted.items():
        missing = [name for name in place.keys if name not in state]
        table.missing += missing
        misfits = [name for name in place.keys if name in state and tuple(state[name].shape) != place.shape]
        table.wrong_shape += [(name, place.shape, tuple(state[name].shape)) for name in misfits]
        table.loaded += [name for name in place.keys if name in state and name not in misfits]
        if missing or misfits:
            continue
        if len(place.keys) > 1 or place.shape != shapes[key]:
            table.converted += place.keys
        parts = [state[name].reshape(-1, *shapes[key][1:]) for name in place.keys]
        found[key] = torch.cat(parts) if len(parts) > 1 else parts[0]
    taken = {name for place in wanted.values() for name in place.keys} | set(table.outside) | set(table.ignored)
    table.unexpected += [name for name in state if name not in taken]
    return found


def write(tensors: Mapping[str, Tensor], wanted: Mapping[str, Place]) -> dict[str, Tensor]:
    """The file's tensors from ours: the inverse of :func:`read`, bit for bit."""
    state = {}
    for key, place in wanted.items():
        parts = tensors[key].detach().cpu().chunk(len(place.keys))
        for name, part in zip(place.keys, parts, strict=True):
            state[name] = part.reshape(place.shape).clone()
    return state
