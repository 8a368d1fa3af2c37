"""Slots of many episodes in one ``.npz`` or ``.safetensors`` file: what is inside, and one episode read at a time."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from jepa_core.contracts import BadSample
from jepa_core.data.archives import BROKEN, array_members, check_member
from jepa_core.errors import DataError

PARTS = ("slots", "actions", "proprio", "present")
"""What an episode may have; ``slots`` it must."""

Arrays = dict[str, NDArray[Any]]
Shapes = Mapping[str, Mapping[str, tuple[int, ...]]]


class Container(Protocol):
    """A file of episodes."""

    @property
    def path(self) -> Path:
        """The file."""
        ...

    @property
    def shapes(self) -> Shapes:
        """Of each part of each episode, as far as they are known before it is read."""
        ...

    def read(self, episode_id: str) -> Arrays:
        """The parts of one episode.

        Raises:
            BadSample: it cannot be read, the others may be.
        """
        ...


class PerProcess:
    """An open file, opened anew in each process: those forked from this one would share its position.

    Args:
        opener: gives the open file of a path; a function of a module, so that a data loader can send it along.
        path: the file.
    """

    def __init__(self, opener: Callable[[Path], Any], path: Path) -> None:
        self._opener, self._path = opener, path
        self._file: Any = None
        self._owner = 0

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_file": None, "_owner": 0}

    def __call__(self) -> Any:
        """The open file."""
        if self._file is None or self._owner != os.getpid():
            self._file, self._owner = self._opener(self._path), os.getpid()
        return self._file


class NpzFile:
    """A file of ``np.savez``; arrays of objects, which are pickles, are refused.

    Args:
        path: of the file.

    Raises:
        DataError: no such file, damaged, or keys that are no parts of episodes.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = PerProcess(_open_npz, path)
        self._keys, self.shapes = sorted_into_episodes(path, _npy_shapes(self._file(), path))

    def read(self, episode_id: str) -> Arrays:
        """See :class:`Container`."""
        try:
            return {part: _array(self._file(), key) for part, key in self._keys[episode_id].items()}
        except BROKEN as error:
            raise BadSample(f"{episode_id} of {self.path.name}: damaged: {one_line(error)}") from None


def _open_npz(path: Path) -> Any:
    try:
        return zipfile.ZipFile(path)
    except BROKEN as error:
        raise DataError(
            f"{path}: expected a file of numpy.savez, got another or a part of one ({error}); write it again"
        ) from None


def _npy_shapes(archive: zipfile.ZipFile, path: Path) -> dict[str, tuple[int, ...]]:
    """The shapes of the members from their headers; nothing else of them is read."""
    try:
        return {key: check_member(archive, info) for key, info in array_members(archive).items()}
    except BROKEN as error:
        raise DataError(f"{path}: refused: expected arrays of float32 [T, K, D], got {error}") from None


def _array(archive: zipfile.ZipFile, key: str) -> NDArray[Any]:
    with archive.open(f"{key}.npy") as file:
        found: NDArray[Any] = np.lib.format.read_array(file, allow_pickle=False)
    return found


class SafetensorsFile:
    """A ``.safetensors`` file, mapped into memory: what is not read costs nothing.

    Args:
        path: of the file.

    Raises:
        DataError: no such file, damaged, or keys that are no parts of episodes.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = PerProcess(_open_safetensors, path)
        found = self._file()
        shapes = {key: tuple(found.get_slice(key).get_shape()) for key in found.keys()}  # noqa: SIM118
        self._keys, self.shapes = sorted_into_episodes(path, shapes)

    def read(self, episode_id: str) -> Arrays:
        """See :class:`Container`."""
        from safetensors import SafetensorError

        try:
            tensors = {part: self._file().get_tensor(key) for part, key in self._keys[episode_id].items()}
        except (SafetensorError, *BROKEN) as error:
            raise BadSample(f"{episode_id} of {self.path.name}: damaged: {one_line(error)}") from None
        # numpy knows no bfloat16.
        return {part: (t.float() if t.is_floating_point() else t).numpy() for part, t in tensors.items()}


def _open_safetensors(path: Path) -> Any:
    from safetensors import SafetensorError, safe_open

    try:
        return safe_open(path, framework="pt")
    except (SafetensorError, *BROKEN) as error:
        raise DataError(f"{path}: expected a safetensors file, got {one_line(error)}") from None


def sorted_into_episodes(path: Path, shapes: Mapping[str, tuple[int, ...]]) -> tuple[dict[str, dict[str, str]], Shapes]:
    """Keys and shapes of the parts of each episode; how keys are named is told in :mod:`jepa_causal.slots.files`.

    Raises:
        DataError: no key, or a part of an episode without slots.
    """
    keys: dict[str, dict[str, str]] = {}
    for key in shapes:
        before, _, last = key.rpartition("/")
        name, part = (before or path.stem, last) if last in PARTS else (key, "slots")
        if part in keys.setdefault(name, {}):
            raise DataError(f"{path}: expected the {part} of {name} once, got {keys[name][part]} and {key}")
        keys[name][part] = key
    for name, parts in keys.items():
        if "slots" not in parts:
            raise DataError(f"{path}: expected slots of {name} beside {', '.join(parts.values())}, got none")
    if not keys:
        raise DataError(f"{path}: expected slots of episodes, got an empty file")
    return keys, {name: {part: shapes[key] for part, key in parts.items()} for name, parts in keys.items()}


def one_line(error: Exception) -> str:
    """What an error says, for messages."""
    return " ".join(str(error).split()) or type(error).__name__
