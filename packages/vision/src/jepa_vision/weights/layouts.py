"""Where our tensors lie in the files of others: names, shapes, and several keys for one tensor; read and written alike.

Facts about the layouts: the released I-JEPA, V-JEPA and V-JEPA 2 checkpoints, ``transformers`` (IJepaModel,
VJEPA2Model) and ``timm`` (VisionTransformer).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from jepa_core.weights import KeyTable
from jepa_vision.weights.facts import Facts

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


_PLAIN = {name: (name,) for name in ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")}
_VJEPA2 = _PLAIN | {
    "attn.qkv": ("attention.query", "attention.key", "attention.value"),
    "attn.proj": ("attention.proj",),
}

OFFICIAL_ENCODER = Names("blocks.", _PLAIN, {"patch_embed.proj": "patch_embed.proj", "transformer.norm": "norm"})
OFFICIAL_PREDICTOR = Names(
    "predictor_blocks.",
    _PLAIN,
    {"embed": "predictor_embed", "transformer.norm": "predictor_norm", "project": "predictor_proj"},
)
_IJEPA_OUTSIDE = {"patch_embed.proj": "embeddings.patch_embeddings.projection", "transformer.norm": "layernorm"}
# What is on disk, whichever version wrote it.
HF_IJEPA = Names(
    "encoder.layer.",
    {
        "norm1": ("layernorm_before",),
        "attn.qkv": ("attention.attention.query", "attention.attention.key", "attention.attention.value"),
        "attn.proj": ("attention.output.dense",),
        "norm2": ("layernorm_after",),
        "mlp.fc1": ("intermediate.dense",),
        "mlp.fc2": ("output.dense",),
    },
    _IJEPA_OUTSIDE,
)
# What a model in memory has since transformers 5.
HF_IJEPA_IN_MEMORY = Names(
    "layers.",
    {
        "norm1": ("layernorm_before",),
        "attn.qkv": ("attention.q_proj", "attention.k_proj", "attention.v_proj"),
        "attn.proj": ("attention.o_proj",),
        "norm2": ("layernorm_after",),
        "mlp.fc1": ("mlp.fc1",),
        "mlp.fc2": ("mlp.fc2",),
    },
    _IJEPA_OUTSIDE,
)
HF_VJEPA2_ENCODER = Names(
    "encoder.layer.",
    _VJEPA2,
    {"patch_embed.proj": "encoder.embeddings.patch_embeddings.proj", "transformer.norm": "encoder.layernorm"},
)
HF_VJEPA2_PREDICTOR = Names(
    "predictor.layer.",
    _VJEPA2,
    {
        "embed": "predictor.embeddings.predictor_embeddings",
        "transformer.norm": "predictor.layernorm",
        "project": "predictor.proj",
    },
)


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


def convolution(facts: Facts, key: str) -> dict[str, Place]:
    """The patch embedding as the weight of a convolution."""
    return {"patch_embed.proj.weight": Place((key,), (facts.size.width, len(facts.mean), *facts.patch))}


def stored_table(facts: Facts, key: str) -> dict[str, Place]:
    """The position table, ``[1, N, D]`` in files."""
    return {"table": Place((key,), (1, facts.lattice.count, facts.size.width))}


def official_encoder(facts: Facts, shapes: Shapes) -> dict[str, Place]:
    """The encoder in a released checkpoint, and in a timm model."""
    special = convolution(facts, "patch_embed.proj.weight") | stored_table(facts, "pos_embed")
    return places(shapes, OFFICIAL_ENCODER, special)


def official_predictor(facts: Facts, shapes: Shapes, single: bool) -> dict[str, Place]:
    """The predictor in a released checkpoint: one ``mask_token``, or a list of ``mask_tokens``."""
    assert facts.predictor is not None
    rows, width = facts.predictor.mask_tokens, facts.predictor.width
    keys = ("mask_token",) if single else tuple(f"mask_tokens.{row}" for row in range(rows))
    return places(shapes, OFFICIAL_PREDICTOR, {"mask_tokens": Place(keys, (1, 1, width))})


def huggingface_ijepa(facts: Facts, shapes: Shapes, names: Names = HF_IJEPA) -> dict[str, Place]:
    """The encoder in an IJepaModel."""
    table = stored_table(facts, "embeddings.position_embeddings")
    return places(shapes, names, convolution(facts, "embeddings.patch_embeddings.projection.weight") | table)


def huggingface_vjepa2(facts: Facts, encoder: Shapes) -> dict[str, Place]:
    """The encoder in a VJEPA2Model."""
    return places(encoder, HF_VJEPA2_ENCODER, convolution(facts, "encoder.embeddings.patch_embeddings.proj.weight"))


def huggingface_vjepa2_predictor(facts: Facts, predictor: Shapes) -> dict[str, Place]:
    """The predictor in a VJEPA2Model."""
    assert facts.predictor is not None
    shape = (facts.predictor.mask_tokens, 1, 1, facts.predictor.width)
    special = {"mask_tokens": Place(("predictor.embeddings.mask_tokens",), shape)}
    return places(predictor, HF_VJEPA2_PREDICTOR, special)


# --------------------------------------------------------------------------------------------------------------------
# Reading and writing
# --------------------------------------------------------------------------------------------------------------------


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
