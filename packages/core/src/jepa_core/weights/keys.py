"""Reading weights of other projects: what became of every key, and files of tensors of which nothing is unpickled."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

_SHOWN = 5
_TORCH_SUFFIXES = (".pth", ".pt", ".tar")


@dataclass
class KeyTable:
    """What became of every key.

    Attributes:
        prefix: where the part was found in the file.
        loaded: keys that were (or can be) taken.
        converted: those of them that came in another layout.
        conversion: which, for the table.
        missing: keys of the model that the file lacks.
        unexpected: keys of the file, under the prefix, that the model lacks.
        wrong_shape: (key, shape in the model, shape in the file).
        outside: keys of the file that belong to other parts.
        ignored: keys of the file that are left out on purpose, each with the reason.
    """

    prefix: str
    loaded: list[str] = field(default_factory=list)
    converted: list[str] = field(default_factory=list)
    conversion: str = "converted from another layout"
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    wrong_shape: list[tuple[str, tuple[int, ...], tuple[int, ...]]] = field(default_factory=list)
    outside: list[str] = field(default_factory=list)
    ignored: dict[str, str] = field(default_factory=dict)

    @property
    def complete(self) -> bool:
        """Every key of the model is filled and none is left over."""
        return not (self.missing or self.unexpected or self.wrong_shape)

    def problems(self) -> str:
        """Counts and first offenders in one line."""
        shapes = [f"{key} (model {want}, file {got})" for key, want, got in self.wrong_shape]
        groups = (("missing", self.missing), ("unexpected", self.unexpected), ("of wrong shape", shapes))
        return "; ".join(f"{len(keys)} {what}: {first(keys)}" for what, keys in groups if keys)

    def __str__(self) -> str:
        shapes = [f"{key}: model {want}, file {got}" for key, want, got in self.wrong_shape]
        rows = [
            (f"loaded (under {self.prefix!r})", self.loaded),
            (f"of these {self.conversion}", self.converted),
            ("missing in the file", self.missing),
            ("unexpected in the file", self.unexpected),
            ("wrong shape", shapes),
            ("other parts of the file, not read", self.outside),
        ]
        rows += [(f"ignored: {reason}", [key]) for key, reason in self.ignored.items()]
        width = max(len(name) for name, _ in rows)
        return "\n".join(f"{name:<{width}}  {len(keys):>4}  {first(keys)}".rstrip() for name, keys in rows)


def first(keys: Sequence[str]) -> str:
    """The first keys of many, for messages."""
    return ", ".join(keys[:_SHOWN]) + (", ..." if len(keys) > _SHOWN else "")


def read_state(path: Path) -> Mapping[str, object]:
    """What a ``.safetensors``, ``.pth``, ``.pt`` or ``.pth.tar`` file holds, on the CPU.

    Tensors of a newer torch file stay on disk until they are looked at, so that an optimiser inside costs nothing.

    Raises:
        ValueError: no such file, damaged, more than tensors and plain values in it, or no mapping.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such file")
    if path.suffix == ".safetensors":
        try:
            return dict(load_file(path))
        except (SafetensorError, ValueError, TypeError, OverflowError, MemoryError, RuntimeError) as error:
            raise ValueError(f"{path}: not a readable safetensors file: {_line(error)}") from None
    if path.suffix not in _TORCH_SUFFIXES:
        raise ValueError(f"{path}: expected a .pth, .pt, .pth.tar or .safetensors file, got {path.suffix!r}")
    return _loaded(path)


class _Inert:
    """Stands for a class that a checkpoint names: takes whatever it is given, keeps and does nothing."""

    def __init__(self, *arguments: object, **named: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass


def read_lightning(path: Path) -> dict[str, Tensor]:
    """The ``state_dict`` of a checkpoint of PyTorch Lightning (``.ckpt``), on the CPU.

    Beside it such files hold settings as pickled objects (``hyper_parameters``: optimiser classes and the like). Their
    classes are neither imported nor run: each is read as an object that does nothing, and thrown away.

    Raises:
        ValueError: no such file, damaged, or without a ``state_dict`` of tensors.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such file")
    if not _is_zip(path):
        raise ValueError(f"{path}: refused: expected a file of torch 1.6 or newer; save its tensors as .safetensors")
    try:
        names = torch.serialization.get_unsafe_globals_in_checkpoint(str(path))
    except Exception as error:  # as below
        raise ValueError(f"{path}: refused: it is damaged ({_line(error)})") from None
    # Objects of classes by another name each: torch looks classes up by name, and tells them apart by identity.
    stand_ins: list[Any] = [(type("Inert", (_Inert,), {}), name) for name in names]
    with torch.serialization.safe_globals(stand_ins):
        state = _loaded(path)
    if "state_dict" not in state:
        raise ValueError(
            f"{path}: expected state_dict in it, as Lightning saves it, got {first(sorted(map(str, state)))}"
        )
    return tensors_of(state["state_dict"], f"{path}: state_dict")


def _loaded(path: Path) -> Mapping[str, object]:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=_is_zip(path))
    except Exception as error:  # a broken or hostile file can fail in any way; none of it may run
        raise ValueError(
            f"{path}: refused: it is damaged or holds more than tensors ({_line(error)}); "
            "save its tensors as .safetensors where you trust it"
        ) from None
    if not isinstance(state, Mapping):
        raise ValueError(f"{path}: expected a state dict, got {type(state).__name__}")
    return state


def _is_zip(path: Path) -> bool:
    try:
        return zipfile.is_zipfile(path)
    except zipfile.BadZipFile:  # several disks
        return False


def tensors_of(state: object, name: str) -> dict[str, Tensor]:
    """A state dict, checked to hold tensors alone.

    Raises:
        ValueError: it is none, or holds anything else; ``name`` is what the message calls it.
    """
    if not isinstance(state, Mapping):
        raise ValueError(f"{name}: expected a state dict, got {type(state).__name__}")
    tensors = {str(key): value for key, value in state.items() if isinstance(value, Tensor)}
    if len(tensors) != len(state):
        others = [str(key) for key, value in state.items() if not isinstance(value, Tensor)]
        raise ValueError(f"{name}: {len(others)} entries are no tensors: {first(others)}")
    return tensors


def _line(error: Exception) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0][:120]}" if text else type(error).__name__
