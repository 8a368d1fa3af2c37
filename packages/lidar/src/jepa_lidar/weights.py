"""Backbone weights in OpenPCDet's names and layout: read, checked key by key, written; nothing is ever unpickled."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from jepa_lidar.encoder import SparseBackbone

# Where a backbone lies in a checkpoint: a detector's, an AD-L-JEPA pre-training's, a bare encoder's, a bare backbone's.
PREFIXES = ("backbone_3d.encoder.", "backbone_3d.", "encoder.", "")
_SHOWN = 5


@dataclass
class KeyTable:
    """What became of every key.

    Attributes:
        prefix: where the backbone was found in the file.
        loaded: keys of the model that were (or can be) filled.
        converted: those of them that came in the layout of spconv 1.x.
        missing: keys of the model that the file lacks.
        unexpected: keys of the file, under the prefix, that the model lacks.
        wrong_shape: (key, shape in the model, shape in the file).
        outside: keys of the file that do not lie under the prefix: other parts of a detector.
    """

    prefix: str
    loaded: list[str] = field(default_factory=list)
    converted: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    wrong_shape: list[tuple[str, tuple[int, ...], tuple[int, ...]]] = field(default_factory=list)
    outside: list[str] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        """Every key of the model is filled and none is left over."""
        return not (self.missing or self.unexpected or self.wrong_shape)

    def problems(self) -> str:
        """Counts and first offenders in one line."""
        shapes = [f"{key} (model {want}, file {got})" for key, want, got in self.wrong_shape]
        groups = (("missing", self.missing), ("unexpected", self.unexpected), ("of wrong shape", shapes))
        return "; ".join(f"{len(keys)} {what}: {_first(keys)}" for what, keys in groups if keys)

    def __str__(self) -> str:
        shapes = [f"{key}: model {want}, file {got}" for key, want, got in self.wrong_shape]
        rows = (
            (f"loaded (under {self.prefix!r})", self.loaded),
            ("of these converted from spconv 1.x layout", self.converted),
            ("missing in the file", self.missing),
            ("unexpected in the file", self.unexpected),
            ("wrong shape", shapes),
            ("other parts of the file, not read", self.outside),
        )
        width = max(len(name) for name, _ in rows)
        return "\n".join(f"{name:<{width}}  {len(keys):>4}  {_first(keys)}".rstrip() for name, keys in rows)


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
    state = _tensors(path_or_state if isinstance(path_or_state, Mapping) else _read(Path(path_or_state)))
    own = model.state_dict()
    prefix = max(PREFIXES, key=lambda p: sum(p + key in state for key in own))
    table = KeyTable(prefix)
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


def _read(path: Path) -> Mapping[str, object]:
    if not path.is_file():
        raise ValueError(f"{path}: no such file")
    if path.suffix == ".safetensors":
        try:
            return dict(load_file(path))
        except SafetensorError as error:
            raise ValueError(f"{path}: not a readable safetensors file: {_line(error)}") from None
    if path.suffix not in (".pth", ".pt"):
        raise ValueError(f"{path}: expected a .pth or .safetensors file, got {path.suffix!r}")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a broken or hostile file can fail in any way; none of it may run
        raise ValueError(
            f"{path}: refused: it is damaged or holds more than tensors ({_line(error)}); "
            f"save its model_state as .safetensors where you trust it"
        ) from None
    if not isinstance(state, Mapping):
        raise ValueError(f"{path}: expected a state dict, got {type(state).__name__}")
    return state


def _tensors(state: Mapping[str, object]) -> dict[str, Tensor]:
    inner = state.get("model_state", state)
    if not isinstance(inner, Mapping):
        raise ValueError(f"OpenPCDet weights: model_state must be a state dict, got {type(inner).__name__}")
    tensors = {str(key): value for key, value in inner.items() if isinstance(value, Tensor)}
    if len(tensors) != len(inner):
        others = [str(key) for key, value in inner.items() if not isinstance(value, Tensor)]
        raise ValueError(f"OpenPCDet weights: {len(others)} entries are no tensors: {_first(others)}")
    return tensors


def _line(error: Exception) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0][:120]}" if text else type(error).__name__


def _first(keys: list[str]) -> str:
    return ", ".join(keys[:_SHOWN]) + (", ..." if len(keys) > _SHOWN else "")
