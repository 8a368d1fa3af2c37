"""Backbone weights in OpenPCDet's names and layout: read, checked key by key, written; nothing is ever unpickled."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from jepa_core.weights import KeyTable, read_state, tensors_of
from jepa_lidar.encoder import SparseBackbone

# Where a backbone lies in a checkpoint: a detector's, an AD-L-JEPA pre-training's, a bare encoder's, a bare backbone's.
PREFIXES = ("backbone_3d.encoder.", "backbone_3d.", "encoder.", "")


def load_openpcdet(model: SparseBackbone, path_or_state: str | os.PathLike[str] | Mapping[str, object]) -> KeyTable:
    """Fills the model from an OpenPCDet or AD-L-JEPA checkpoint, all of it or nothing.

    Args:
        model: the backbone.
        path_or_state: a ``.pth`` or ``.safetensors`` file, a state dict, or ``{"model_state": state dict}``.

    Returns:
        The table of keys.

    Raises:
        ValueError: the file cannot be read, or a key is missing, unexpected or of wrong shape (the model is unchanged).
    """
    table, found = _matched(model, path_or_state)
    if not table.complete:
        raise ValueError(
            f"OpenPCDet weights do not fit the backbone: {table.problems()}; is it another backbone or input width? "
            f"load_matching_openpcdet takes what fits"
        )
    model.load_state_dict(found)
    return table


def load_matching_openpcdet(
    model: SparseBackbone, path_or_state: str | os.PathLike[str] | Mapping[str, object]
) -> KeyTable:
    """As :func:`load_openpcdet`, but takes the keys that fit and leaves the rest of the model; the table says which.

    Raises:
        ValueError: the file cannot be read, or no key fits.
    """
    table, found = _matched(model, path_or_state)
    if not found:
        raise ValueError(f"OpenPCDet weights: no key fits the backbone: {table.problems()}")
    model.load_state_dict(found, strict=False)
    return table


def export_openpcdet(model: SparseBackbone, path: str | os.PathLike[str]) -> None:
    """Writes the backbone under ``backbone_3d.``, as an OpenPCDet detector loads it.

    Args:
        model: the backbone.
        path: ``.pth`` (``{"model_state": ...}``, which OpenPCDet reads) or ``.safetensors``; replaced as a whole.
    """
    target = Path(path)
    state = {f"backbone_3d.{key}": value.detach().cpu().contiguous() for key, value in model.state_dict().items()}
    part = target.with_name(f".{target.name}.part")
    if target.suffix == ".pth":
        torch.save({"model_state": state}, part)
    elif target.suffix == ".safetensors":
        save_file(state, part)
    else:
        raise ValueError(f"{target}: expected a name ending in .pth or .safetensors, got {target.suffix!r}")
    os.replace(part, target)


def _matched(
    model: SparseBackbone, path_or_state: str | os.PathLike[str] | Mapping[str, object]
) -> tuple[KeyTable, dict[str, Tensor]]:
    """The table, and the tensors that fit under the model's own keys."""
    state = _tensors(path_or_state if isinstance(path_or_state, Mapping) else read_state(Path(path_or_state)))
    own = model.state_dict()
    prefix = max(PREFIXES, key=lambda p: sum(p + key in state for key in own))
    table = KeyTable(prefix, conversion="converted from spconv 1.x layout")
    found: dict[str, Tensor] = {}
    for key, current in own.items():
        if prefix + key in state:
            _match(key, tuple(current.shape), state[prefix + key], table, found)
        else:
            table.missing.append(key)
    for name in state:
        if not name.startswith(prefix):
            table.outside.append(name)
        elif name[len(prefix) :] not in own:
            table.unexpected.append(name[len(prefix) :])
    return table, found


def _match(key: str, shape: tuple[int, ...], value: Tensor, table: KeyTable, found: dict[str, Tensor]) -> None:
    if tuple(value.shape) != shape and value.ndim == 5 and tuple(value.permute(4, 0, 1, 2, 3).shape) == shape:
        # spconv 1.x keeps (kz, ky, kx, in, out). The two cannot be confused: no kernel is as large as a layer is wide.
        value = value.permute(4, 0, 1, 2, 3)
        table.converted.append(key)
    if tuple(value.shape) != shape:
        table.wrong_shape.append((key, shape, tuple(value.shape)))
        return
    table.loaded.append(key)
    found[key] = value


def _tensors(state: Mapping[str, object]) -> dict[str, Tensor]:
    return tensors_of(state.get("model_state", state), "OpenPCDet weights")
