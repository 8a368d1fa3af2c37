"""``transformers`` models: IJepaModel (pictures, no predictor) and VJEPA2Model (clips, with predictor), both ways.

Their weights name no copy: those that were converted from the releases are said to be the student's encoder.

Mask tokens of VJEPA2Model: a release has ten rows; V-JEPA 2's training only ever uses row 0, while the inference of
``transformers`` takes row 1 (of a single row, that one). All rows are carried over unchanged, both ways, and row 0 is
the one that our predictor uses; set ``predictor.token = 1`` to predict as ``transformers`` does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from jepa_core.weights import KeyTable
from jepa_core.weights.folders import CONFIG, read_json, read_tensors
from jepa_vision.encoder import Size
from jepa_vision.frontend import IMAGENET_MEAN, IMAGENET_STD
from jepa_vision.positions import position_table
from jepa_vision.weights import layouts
from jepa_vision.weights.contents import Parts, Weights, WeightsError, refuse_misfits
from jepa_vision.weights.facts import Facts, PredictorFacts, ratio_of
from jepa_vision.weights.tables import recognise

_PROCESSORS = ("preprocessor_config.json", "video_preprocessor_config.json")
# Parts of models that are built around an encoder.
_OTHER_PARTS = ("pooler.", "classifier.")


def read_huggingface(folder: Path, *, parts: Parts = "all") -> Weights:
    """Reads a folder of ``config.json`` and ``model.safetensors`` (or shards of it).

    Raises:
        WeightsError: a key is missing, left over or wrongly shaped, or the model computes something else.
        ValueError: a file cannot be read.
    """
    config = read_json(folder / CONFIG)
    for name in _PROCESSORS:
        if (folder / name).is_file():
            config = config | _normalisation(read_json(folder / name))
    return from_config(config, read_tensors(folder), str(folder), parts=parts)


def from_config(
    config: Mapping[str, Any], state: Mapping[str, Tensor], origin: str, *, parts: Parts = "all"
) -> Weights:
    """As :func:`read_huggingface`, from values: ``model.config.to_dict()`` and ``model.state_dict()``."""
    kind = config.get("model_type")
    if kind not in ("ijepa", "vjepa2"):
        raise WeightsError(f"{origin}: model_type: expected ijepa or vjepa2, got {kind!r}")
    _check(config, origin, {"hidden_act": "gelu", "qkv_bias": True})
    prefix = f"{kind}." if any(key.startswith(f"{kind}.") for key in state) else ""
    # A classifier lies beside a prefixed model, so that only names under the prefix are cut.
    state = {key.removeprefix(prefix): value for key, value in state.items()}
    read = _read_ijepa if kind == "ijepa" else _read_vjepa2
    return read(config, state, origin, KeyTable(prefix), parts)


def _read_ijepa(
    config: Mapping[str, Any], state: dict[str, Tensor], origin: str, table: KeyTable, parts: Parts
) -> Weights:
    _check(config, origin, {"num_channels": 3})
    patch, size = _pair(config, "patch_size", origin), _pair(config, "image_size", origin)
    facts = Facts(
        Size(*(_number(config, key, origin) for key in _IJEPA_SIZE)),
        patch,
        size,
        positions="stored",
        norm_eps=float(config.get("layer_norm_eps", 1e-12)),
        mean=tuple(config.get("image_mean", IMAGENET_MEAN)),
        std=tuple(config.get("image_std", IMAGENET_STD)),
    )
    table.outside = [key for key in state if key.startswith(_OTHER_PARTS)]
    if "embeddings.mask_token" in state:
        table.ignored["embeddings.mask_token"] = "unused, this encoder leaves hidden patches out"
    facts = _named_positions(facts, state, table)
    names = layouts.HF_IJEPA_IN_MEMORY if "layers.0.attention.q_proj.weight" in state else layouts.HF_IJEPA
    shapes = facts.shapes()["encoder"]
    found = layouts.read(state, layouts.huggingface_ijepa(facts, shapes, names), shapes, table)
    refuse_misfits(origin, {"encoder": table})
    return Weights(origin, "huggingface", facts, found, None, {"encoder": table})


_IJEPA_SIZE = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
_POSITIONS = "embeddings.position_embeddings"


def _named_positions(facts: Facts, state: Mapping[str, Tensor], table: KeyTable) -> Facts:
    """With the name of the stored table, if it is a known one."""
    stored = state.get(_POSITIONS)
    if stored is None or tuple(stored.shape) != (1, facts.lattice.count, facts.size.width):
        return facts  # the key table will tell
    found = recognise(stored[0], 2, facts.lattice.sizes)
    if found is None:
        return facts
    table.ignored[_POSITIONS] = f"computed instead, it is {found.positions} (largest difference {found.difference:.1e})"
    return replace(facts, positions=found.positions)


def _read_vjepa2(
    config: Mapping[str, Any], state: dict[str, Tensor], origin: str, table: KeyTable, parts: Parts
) -> Weights:
    _check(config, origin, {"in_chans": 3})
    facts = _vjepa2_facts(config, origin)
    shapes, inner = facts.shapes(), KeyTable(table.prefix)
    theirs = {key: value for key, value in state.items() if key.startswith("predictor.")}
    ours = {key: value for key, value in state.items() if key not in theirs}
    table.outside = [key for key in ours if key.startswith(_OTHER_PARTS)]
    encoder = layouts.read(ours, layouts.huggingface_vjepa2(facts, shapes["encoder"]), shapes["encoder"], table)
    if parts == "encoder":
        table.outside += list(theirs)
        refuse_misfits(origin, {"encoder": table})
        return Weights(origin, "huggingface", facts.without_predictor(), encoder, None, {"encoder": table})
    wanted = layouts.huggingface_vjepa2_predictor(facts, shapes["predictor"])
    predictor = layouts.read(theirs, wanted, shapes["predictor"], inner)
    tables = {"encoder": table, "predictor": inner}
    refuse_misfits(origin, tables, "; parts=encoder takes the encoder alone")
    return Weights(origin, "huggingface", facts, encoder, predictor, tables)


def _vjepa2_facts(config: Mapping[str, Any], origin: str) -> Facts:
    width, inner = _number(config, "hidden_size", origin), _number(config, "pred_hidden_size", origin)
    side, tubelet = _number(config, "crop_size", origin), _number(config, "tubelet_size", origin)
    patch = _pair(config, "patch_size", origin)
    frames = _number(config, "frames_per_clip", origin)
    heads = _number(config, "num_attention_heads", origin), _number(config, "pred_num_attention_heads", origin)
    return Facts(
        Size(
            width,
            _number(config, "num_hidden_layers", origin),
            heads[0],
            int(width * _ratio(config, "mlp_ratio", origin)),
        ),
        (tubelet, *patch),
        (frames, side, side),
        positions="rotary_tiled",
        norm_eps=float(config.get("layer_norm_eps", 1e-6)),
        mean=tuple(config.get("image_mean", IMAGENET_MEAN)),
        std=tuple(config.get("image_std", IMAGENET_STD)),
        predictor=PredictorFacts(
            inner,
            _number(config, "pred_num_hidden_layers", origin),
            heads[1],
            int(inner * _ratio(config, "pred_mlp_ratio", origin)),
            width,
            _number(config, "pred_num_mask_tokens", origin),
            0,
            "rotary_tiled",
        ),
    )


def _normalisation(processor: Mapping[str, Any]) -> dict[str, Any]:
    """Mean and deviation that a processor's configuration has switched on."""
    if not processor.get("do_normalize", True):
        raise WeightsError("preprocessor: expected do_normalize true, got false: this front end always normalises")
    return {key: processor[key] for key in ("image_mean", "image_std") if processor.get(key) is not None}


def _check(config: Mapping[str, Any], origin: str, wanted: Mapping[str, Any]) -> None:
    for key, value in wanted.items():
        if config.get(key, value) != value:
            raise WeightsError(f"{origin}: {key}: expected {value!r}, which this encoder computes, got {config[key]!r}")


def _number(config: Mapping[str, Any], key: str, origin: str) -> int:
    value = config.get(key)
    if not isinstance(value, int) or value < 1:
        raise WeightsError(f"{origin}: {key}: expected a number above 0 in {CONFIG}, got {value!r}")
    return value


def _ratio(config: Mapping[str, Any], key: str, origin: str) -> float:
    value = config.get(key)
    if not isinstance(value, int | float) or value <= 0:
        raise WeightsError(f"{origin}: {key}: expected a number above 0 in {CONFIG}, got {value!r}")
    return float(value)


def _pair(config: Mapping[str, Any], key: str, origin: str) -> tuple[int, int]:
    value = config.get(key)
    if isinstance(value, list | tuple) and len(value) == 2:
        return int(value[0]), int(value[1])
    side = _number(config, key, origin)
    return side, side


# --------------------------------------------------------------------------------------------------------------------
# Writing
# --------------------------------------------------------------------------------------------------------------------


def to_config(weights: Weights) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """``config.json`` and the tensors of ``model.safetensors``, as ``transformers`` reads them.

    Raises:
        ValueError: no model of ``transformers`` computes what this one does.
    """
    return _write_vjepa2(weights) if weights.facts.is_video else _write_ijepa(weights)


def processor_config(facts: Facts) -> tuple[str, dict[str, Any]]:
    """Name and values of the file that makes their processor resize and normalise as this model wants it."""
    normalise = {"do_normalize": True, "image_mean": list(facts.mean), "image_std": list(facts.std)}
    common = {"do_resize": True, "do_rescale": True, "rescale_factor": 1 / 255, "resample": 3, **normalise}
    height, width = facts.input_size[-2:]
    if not facts.is_video:
        size = {"height": height, "width": width}
        return _PROCESSORS[0], {"image_processor_type": "ViTImageProcessor", "size": size, **common}
    cut = {"do_center_crop": True, "crop_size": {"height": height, "width": width}}
    size = {"shortest_edge": int(height * 256 / 224)}
    return _PROCESSORS[1], {"video_processor_type": "VJEPA2VideoProcessor", "size": size, **cut, **common}


def _write_ijepa(weights: Weights) -> tuple[dict[str, Any], dict[str, Tensor]]:
    facts = weights.facts
    _refuse(facts.stem != "linear", "IJepaModel: expected the stem linear, got mlp")
    _refuse(facts.positions.startswith("rotary"), f"IJepaModel: expected a position table, got {facts.positions}")
    config = {
        "architectures": ["IJepaModel"],
        "model_type": "ijepa",
        "hidden_act": "gelu",
        "image_size": _plain(facts.input_size),
        "patch_size": _plain(facts.patch),
        "num_channels": len(facts.mean),
        "qkv_bias": True,
        "layer_norm_eps": facts.norm_eps,
        **dict(zip(_IJEPA_SIZE, vars(facts.size).values(), strict=True)),
    }
    computed = {"table": position_table(facts.positions, facts.lattice, facts.size.width)}
    tensors = computed | dict(weights.encoder)
    shapes = {key: tuple(value.shape) for key, value in tensors.items()}
    return config, layouts.write(tensors, layouts.huggingface_ijepa(facts, shapes))


def _write_vjepa2(weights: Weights) -> tuple[dict[str, Any], dict[str, Tensor]]:
    facts, inner = weights.facts, weights.facts.predictor
    _refuse(facts.stem != "linear", "VJEPA2Model: expected the stem linear, got mlp")
    _refuse(
        facts.positions != "rotary_tiled", f"VJEPA2Model: expected the positions rotary_tiled, got {facts.positions}"
    )
    square = facts.input_size[1] == facts.input_size[2] and facts.patch[1] == facts.patch[2]
    _refuse(not square, f"VJEPA2Model: expected square frames, got {facts.input_size[1:]} in patches {facts.patch[1:]}")
    if inner is None or weights.predictor is None:
        raise ValueError("VJEPA2Model: expected a predictor, which it always has, got an encoder alone")
    _refuse(inner.sequences != "per_block", "VJEPA2Model: expected a predictor of sequences per_block, got packed")
    _refuse(inner.positions != "rotary_tiled", f"VJEPA2Model: expected a rotary_tiled predictor, got {inner.positions}")
    _refuse(
        inner.output_width != facts.size.width,
        "VJEPA2Model: expected a predictor of the encoder's features, got pixels",
    )
    shapes = facts.shapes()
    tensors = layouts.write(weights.encoder, layouts.huggingface_vjepa2(facts, shapes["encoder"]))
    predictor = layouts.write(weights.predictor, layouts.huggingface_vjepa2_predictor(facts, shapes["predictor"]))
    return _vjepa2_config(facts, inner), tensors | predictor


def _vjepa2_config(facts: Facts, inner: PredictorFacts) -> dict[str, Any]:
    return {
        "architectures": ["VJEPA2Model"],
        "model_type": "vjepa2",
        "hidden_act": "gelu",
        "crop_size": facts.input_size[1],
        "frames_per_clip": facts.input_size[0],
        "patch_size": facts.patch[1],
        "tubelet_size": facts.patch[0],
        "in_chans": len(facts.mean),
        "qkv_bias": True,
        "layer_norm_eps": facts.norm_eps,
        "hidden_size": facts.size.width,
        "num_hidden_layers": facts.size.depth,
        "num_attention_heads": facts.size.heads,
        "mlp_ratio": ratio_of(facts.size.mlp_hidden, facts.size.width),
        "pred_hidden_size": inner.width,
        "pred_num_hidden_layers": inner.depth,
        "pred_num_attention_heads": inner.heads,
        "pred_mlp_ratio": ratio_of(inner.mlp_hidden, inner.width),
        "pred_num_mask_tokens": inner.mask_tokens,
    }


def _plain(sizes: tuple[int, ...]) -> int | list[int]:
    return sizes[0] if len(set(sizes)) == 1 else list(sizes)


def _refuse(wrong: bool, message: str) -> None:
    if wrong:
        raise ValueError(message)
