"""Names of vision encoders in the files of others.

Facts about the layouts: the released I-JEPA, V-JEPA and V-JEPA 2 checkpoints, ``transformers`` (IJepaModel,
VJEPA2Model) and ``timm`` (VisionTransformer).
"""

from __future__ import annotations

from jepa_core.weights.layouts import PLAIN, Names, Place, Shapes, places
from jepa_core.weights.layouts import read as read
from jepa_core.weights.layouts import write as write
from jepa_vision.weights.facts import Facts

_VJEPA2 = PLAIN | {
    "attn.qkv": ("attention.query", "attention.key", "attention.value"),
    "attn.proj": ("attention.proj",),
}

OFFICIAL_ENCODER = Names("blocks.", PLAIN, {"patch_embed.proj": "patch_embed.proj", "transformer.norm": "norm"})
OFFICIAL_PREDICTOR = Names(
    "predictor_blocks.",
    PLAIN,
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
