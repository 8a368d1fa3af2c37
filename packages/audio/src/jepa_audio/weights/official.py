"""The released checkpoint of Audio-JEPA (arXiv 2507.02915): ``.ckpt`` of Lightning with both encoders and predictor.

Its ``state_dict`` has ``encoder.`` (the student, which hears the context), ``target_encoder.`` (the teacher, its moving
average) and ``predictor.``. Facts about the layout (LudovicTuncay/Audio-JEPA, MIT licence): attention is named
``qkv`` and ``proj``, or, since its authors took flash-attn's module, ``Wqkv`` and ``out_proj``, with the same layout
inside; the encoder of the default configuration has no biases of queries, keys and values and layer norms with epsilon
1e-5, while its named sizes have biases and 1e-6; the convolution's axes are (time, frequency); position tables are
stored though they are fixed, frequency's channels first. Which filter bank fed it no tensor tells but by the number of
positions.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from jepa_audio.presets import preset
from jepa_audio.weights.contents import Weights
from jepa_audio.weights.facts import Facts, PredictorFacts
from jepa_core.lattice import Lattice
from jepa_core.nn.patch_encoder import Size
from jepa_core.nn.position import sin_cos_table
from jepa_core.weights import Copy, KeyTable, Parts, WeightsError, first, read_lightning, read_state, refuse_misfits
from jepa_core.weights.keys import tensors_of
from jepa_core.weights.layouts import PLAIN, Names, Place, Shapes, places, read

COPIES: Mapping[Copy, str] = {"teacher": "target_encoder.", "student": "encoder."}
PRESETS_BY_POSITIONS: Mapping[int, str] = {128: "audio_jepa", 192: "audio_jepa_repo"}
"""The published grid of 16 x 8 tiles, and that of the default configuration, 32 x 6."""
HEADS: Mapping[int, int] = {192: 3, 384: 6, 768: 12, 1024: 16, 1280: 16}
PREDICTOR_HEADS = 12
TOLERANCE = 1e-4
"""Of position tables: the teacher's is averaged with the student's at each step, which rounds, up to 3e-5 or so."""
_COMPILED = "_orig_mod."
_FLASH = PLAIN | {"attn.qkv": ("attn.Wqkv",), "attn.proj": ("attn.out_proj",)}
_ENCODER = {"patch_embed.proj": "patch_embed.proj", "transformer.norm": "norm"}
_PREDICTOR = {"embed": "predictor_embed", "transformer.norm": "predictor_norm", "project": "predictor_proj"}


@dataclass(frozen=True)
class Hints:
    """What the caller knows of a released checkpoint; None = published, or told from the file.

    Attributes:
        preset: the front end that it was trained with, by its name in :data:`jepa_audio.presets.PRESETS`.
        heads, predictor_heads: attention heads.
        norm_eps: of the layer norms.
    """

    preset: str | None = None
    heads: int | None = None
    predictor_heads: int | None = None
    norm_eps: float | None = None


def read_official(
    path: str | os.PathLike[str], which: Copy, *, parts: Parts = "all", hints: Hints | None = None
) -> Weights:
    """Reads a released checkpoint; nothing in it is run, see :func:`jepa_core.weights.read_lightning`.

    Args:
        path: ``.ckpt``; or ``.pt``, ``.pth`` or ``.safetensors`` with the same state dict.
        which: ``teacher`` (``target_encoder``) or ``student`` (``encoder``).
        parts: ``all`` (with the predictor) or ``encoder``.
        hints: what the caller knows.

    Raises:
        WeightsError: a key is missing, left over or wrongly shaped, or a fact cannot be told.
        ValueError: the file cannot be read.
    """
    origin, state = str(path), _state(Path(path))
    prefixes = {"encoder": COPIES[which], **({"predictor": "predictor."} if parts == "all" else {})}
    tables = {part: KeyTable(prefix) for part, prefix in prefixes.items()}
    found = {part: _part(state, prefix) for part, prefix in prefixes.items()}
    for part, tensors in found.items():
        if not tensors:
            raise WeightsError(f"{origin}: expected {prefixes[part]}* in it, got {first(sorted(state))}", tables)
    tables["encoder"].outside = sorted(key for key in state if not key.startswith(tuple(prefixes.values())))
    facts = _facts(origin, found, hints or Hints())
    lattice, shapes = facts.lattice, facts.shapes()
    taken = {}
    for part, tensors in found.items():
        _check_table(origin, tensors, part, lattice, tables[part])
        taken[part] = _taken(tensors, part, facts, shapes[part], tables[part])
    refuse_misfits(origin, tables, "" if parts == "encoder" else "; parts=encoder takes the encoder alone")
    level = preset(_preset_of(origin, found["encoder"], hints or Hints()))
    assert level.mean is not None and level.std is not None
    front_end = {"mean": torch.tensor(level.mean), "std": torch.tensor(level.std)}
    notes = [] if _has_biases(found["encoder"]) else ["queries, keys and values have no biases: zeros stand for them"]
    notes.append(f"epsilon {facts.norm_eps:g} of the layer norms is not in the file")
    return Weights(origin, "official", facts, taken["encoder"], taken.get("predictor"), tables, which, notes, front_end)


def _state(path: Path) -> dict[str, Tensor]:
    if path.suffix == ".ckpt":
        return read_lightning(path)
    state = read_state(path)
    return tensors_of(state.get("state_dict", state), str(path))


def _part(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    inside = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    return {key.removeprefix(_COMPILED): value for key, value in inside.items()}


def _has_biases(state: Mapping[str, Tensor]) -> bool:
    return any(key.endswith(("attn.qkv.bias", "attn.Wqkv.bias")) for key in state)


def _preset_of(origin: str, encoder: Mapping[str, Tensor], hints: Hints) -> str:
    count = _tensor(origin, encoder, "pos_embed", 3).shape[1]
    name = hints.preset or PRESETS_BY_POSITIONS.get(count)
    if name is None:
        known = ", ".join(f"{count} ({name})" for count, name in PRESETS_BY_POSITIONS.items())
        raise WeightsError(f"{origin}: expected {known} positions, got {count}: say which front end, preset=<name>")
    if preset(name).mean is None:
        raise WeightsError(f"{origin}: preset: expected one whose mean and std are known, got {name}")
    return name


def _facts(origin: str, parts: Mapping[str, Mapping[str, Tensor]], hints: Hints) -> Facts:
    encoder = parts["encoder"]
    chosen = preset(_preset_of(origin, encoder, hints))
    width, channels, *patch = _tensor(origin, encoder, "patch_embed.proj.weight", 4).shape
    heads = hints.heads or HEADS.get(width)
    if channels != 1 or heads is None:
        raise WeightsError(
            f"{origin}: expected a convolution of 1 channel to one of the widths {', '.join(map(str, HEADS))}, got "
            f"{channels} to {width}; of other widths say heads=<number>"
        )
    hidden = _tensor(origin, encoder, "blocks.0.mlp.fc1.weight", 2).shape[0]
    facts = Facts(
        chosen.settings,
        Size(width, _depth(encoder, "blocks."), heads, hidden),
        round(chosen.crop_s * chosen.settings.sample_rate_hz),
        (patch[0], patch[1]),
        chosen.frames,
        positions="sin_cos_ft",
        norm_eps=hints.norm_eps or (1e-6 if _has_biases(encoder) else 1e-5),
    )
    if "predictor" not in parts:
        return facts
    inner = parts["predictor"]
    embed = _tensor(origin, inner, "predictor_embed.weight", 2)
    return replace(
        facts,
        predictor=PredictorFacts(
            embed.shape[0],
            _depth(inner, "predictor_blocks."),
            hints.predictor_heads or PREDICTOR_HEADS,
            _tensor(origin, inner, "predictor_blocks.0.mlp.fc1.weight", 2).shape[0],
            _tensor(origin, inner, "predictor_proj.weight", 2).shape[0],
        ),
    )


def _check_table(origin: str, state: Mapping[str, Tensor], part: str, lattice: Lattice, table: KeyTable) -> None:
    """Refuses a stored position table that is not the one computed here."""
    key = "pos_embed" if part == "encoder" else "predictor_pos_embed"
    stored = _tensor(origin, state, key, 3)[0]
    if len(stored) != lattice.count:
        raise WeightsError(f"{origin}: {part}: {key}: expected {lattice.sizes} positions, got {len(stored)}")
    difference = float((stored.float() - sin_cos_table(lattice, stored.shape[1], lattice.axes[::-1])).abs().max())
    if not difference <= TOLERANCE:
        raise WeightsError(
            f"{origin}: {part}: {key}: expected the sine-cosine table of a grid of {lattice.sizes} (time, frequency), "
            f"got one that differs by {difference:.1e}: is it of another front end? Say which, preset=<name>"
        )
    table.ignored[key] = f"computed instead, it is sin_cos_ft (largest difference {difference:.1e})"


def _taken(state: Mapping[str, Tensor], part: str, facts: Facts, shapes: Shapes, table: KeyTable) -> dict[str, Tensor]:
    """Our tensors of a part; zeros for the biases of an attention that has none."""
    inside = _FLASH if any(".attn.Wqkv." in key for key in state) else PLAIN
    if part == "encoder":
        weight = (facts.size.width, 1, *facts.patch)
        special = {"patch_embed.proj.weight": Place(("patch_embed.proj.weight",), weight)}
        names = Names("blocks.", inside, _ENCODER)
    else:
        assert facts.predictor is not None
        special = {"mask_tokens": Place(("mask_token",), (1, 1, facts.predictor.width))}
        names = Names("predictor_blocks.", inside, _PREDICTOR)
    absent = set() if _has_biases(state) else {key for key in shapes if key.endswith("attn.qkv.bias")}
    there = {key: shape for key, shape in shapes.items() if key not in absent}
    found = read(state, places(there, names, special), there, table)
    return found | {key: torch.zeros(shapes[key]) for key in absent}


def _tensor(origin: str, state: Mapping[str, Tensor], key: str, dimensions: int) -> Tensor:
    if key not in state or state[key].ndim != dimensions:
        got = f"of shape {tuple(state[key].shape)}" if key in state else f"keys {first(sorted(state))}"
        raise WeightsError(f"{origin}: expected {key} with {dimensions} dimensions, got {got}")
    return state[key]


def _depth(state: Mapping[str, Tensor], prefix: str) -> int:
    numbers = [key[len(prefix) :].split(".")[0] for key in state if key.startswith(prefix)]
    return 1 + max((int(number) for number in numbers if number.isdigit()), default=0)
