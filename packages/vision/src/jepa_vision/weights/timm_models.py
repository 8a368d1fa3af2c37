"""``timm`` vision transformers with the same blocks: no class token, a position table, tokens normed then averaged."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from jepa_core.weights import KeyTable
from jepa_core.weights.folders import CONFIG, WEIGHTS, read_json
from jepa_vision.encoder import Size
from jepa_vision.frontend import IMAGENET_MEAN, IMAGENET_STD
from jepa_vision.positions import position_table
from jepa_vision.weights import layouts
from jepa_vision.weights.contents import Weights, WeightsError, refuse_misfits
from jepa_vision.weights.facts import NORM_EPS, Facts, ratio_of
from jepa_vision.weights.tables import recognise

# The architecture under whose name timm builds any plain vision transformer.
ARCHITECTURE = "vit_base_patch16_224"


def arguments_of(facts: Facts) -> dict[str, Any]:
    """Arguments of ``timm.models.VisionTransformer`` that make the same encoder.

    Raises:
        ValueError: timm's blocks compute something else.
    """
    wrong = [
        (facts.is_video, "pictures, got clips"),
        (facts.stem != "linear", "the stem linear, got mlp"),
        (facts.positions.startswith("rotary"), f"a position table, got {facts.positions}"),
        (facts.norm_eps != NORM_EPS, f"layer norms with epsilon {NORM_EPS}, got {facts.norm_eps}"),
        (len(set(facts.patch)) > 1, f"square patches, got {facts.patch}"),
    ]
    for is_wrong, message in wrong:
        if is_wrong:
            raise ValueError(f"timm: expected {message}: its vision transformer has no such block")
    size = facts.size
    return {
        "img_size": list(facts.input_size),
        "patch_size": facts.patch[0],
        "embed_dim": size.width,
        "depth": size.depth,
        "num_heads": size.heads,
        "mlp_ratio": ratio_of(size.mlp_hidden, size.width),
        "class_token": False,
        "global_pool": "avg",
        "fc_norm": False,
        "num_classes": 0,
    }


def to_state(weights: Weights) -> dict[str, Tensor]:
    """The state dict of that timm model."""
    facts = weights.facts
    arguments_of(facts)
    computed = {"table": position_table(facts.positions, facts.lattice, facts.size.width)}
    tensors = computed | dict(weights.encoder)
    shapes = {key: tuple(value.shape) for key, value in tensors.items()}
    return layouts.write(tensors, layouts.official_encoder(facts, shapes))


def to_config(facts: Facts) -> dict[str, Any]:
    """``config.json`` of a folder that ``timm.create_model("local-dir:<folder>", pretrained=True)`` takes."""
    arguments = arguments_of(facts)
    return {
        "architecture": ARCHITECTURE,
        "num_classes": 0,
        "num_features": facts.size.width,
        "global_pool": "avg",
        "model_args": {key: value for key, value in arguments.items() if key != "num_classes"},
        "pretrained_cfg": {
            "input_size": [len(facts.mean), *facts.input_size],
            "fixed_input_size": True,
            "interpolation": "bicubic",
            "crop_pct": 1.0,
            "mean": list(facts.mean),
            "std": list(facts.std),
            "num_classes": 0,
            "first_conv": "patch_embed.proj",
            "classifier": "head",
        },
    }


def build(weights: Weights) -> nn.Module:
    """A ``timm.models.VisionTransformer`` with these weights, in eval mode."""
    from timm.models import VisionTransformer

    model = VisionTransformer(**arguments_of(weights.facts), weight_init="skip")
    model.load_state_dict(to_state(weights))
    return cast(nn.Module, model.eval())


def is_timm(config: Mapping[str, Any]) -> bool:
    """Whether a ``config.json`` is timm's."""
    return "architecture" in config and "model_type" not in config


def read_timm(folder: Path) -> Weights:
    """Reads a folder that timm wrote, with ``model.safetensors``; timm builds the model and this reads it.

    Raises:
        WeightsError: its blocks are not those of this encoder.
        ValueError: a file is missing or timm cannot build it.
    """
    read_json(folder / CONFIG)
    if not (folder / WEIGHTS).is_file():
        # timm would go on to files that are pickled.
        raise ValueError(f"{folder / WEIGHTS}: no such file; a timm folder is read from safetensors alone")
    import timm

    try:
        model = timm.create_model(f"local-dir:{folder}", pretrained=True)
    except (RuntimeError, ValueError, TypeError, OSError) as error:
        raise ValueError(f"{folder}: timm cannot build it: {' '.join(str(error).split())[:300]}") from None
    return from_model(model, str(folder))


def from_model(model: nn.Module, origin: str = "timm model") -> Weights:
    """Takes a timm vision transformer that is in memory.

    Raises:
        WeightsError: it is none, or its blocks are not those of this encoder.
    """
    from timm.models import VisionTransformer

    if not isinstance(model, VisionTransformer):
        raise WeightsError(f"{origin}: expected a timm VisionTransformer, got {type(model).__name__}")
    any_model = cast(Any, model)
    _check(any_model, origin)
    state = dict(model.state_dict())
    pretrained = getattr(model, "pretrained_cfg", None) or {}
    grid, patch = any_model.patch_embed.grid_size, tuple(any_model.patch_embed.patch_size)
    block = any_model.blocks[0]
    table = KeyTable("", outside=[key for key in state if key.startswith(("head.", "fc_norm.", "attn_pool."))])
    stored = recognise(state["pos_embed"][0], 2, grid) if "pos_embed" in state else None
    if stored is not None:
        reason = f"computed instead, it is {stored.positions} (largest difference {stored.difference:.1e})"
        table.ignored["pos_embed"] = reason
    facts = Facts(
        Size(any_model.embed_dim, len(any_model.blocks), block.attn.num_heads, block.mlp.fc1.out_features),
        patch,
        tuple(count * step for count, step in zip(grid, patch, strict=True)),
        positions="stored" if stored is None else stored.positions,
        norm_eps=any_model.norm.eps,
        mean=tuple(pretrained.get("mean", IMAGENET_MEAN)),
        std=tuple(pretrained.get("std", IMAGENET_STD)),
    )
    shapes = facts.shapes()["encoder"]
    found = layouts.read(state, layouts.official_encoder(facts, shapes), shapes, table)
    refuse_misfits(origin, {"encoder": table})
    return Weights(origin, "timm", facts, found, None, {"encoder": table})


def _check(model: Any, origin: str) -> None:
    """Refuses what no key tells: other activations, norms elsewhere, a class token."""
    if getattr(model, "num_prefix_tokens", 0) or model.pos_embed is None:
        raise WeightsError(f"{origin}: expected a position table and neither class nor register tokens")
    if not isinstance(model.norm, nn.LayerNorm):
        raise WeightsError(f"{origin}: expected a layer norm of the tokens before they are averaged (fc_norm=False)")
    if not hasattr(model.blocks[0], "attn") or not hasattr(model.blocks[0], "mlp"):
        raise WeightsError(f"{origin}: expected blocks of attention and an MLP, got {type(model.blocks[0]).__name__}")
    for block in model.blocks:
        activation = getattr(block.mlp, "act", None)
        exact = isinstance(activation, nn.GELU) and activation.approximate == "none"
        if not exact:
            raise WeightsError(f"{origin}: expected the exact GELU, got {activation}")
        if not isinstance(block.norm1, nn.LayerNorm) or not torch.is_tensor(block.norm1.weight):
            raise WeightsError(f"{origin}: expected layer norms with weights, got {block.norm1}")
