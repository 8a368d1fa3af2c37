"""Slots that others extracted: ``.npz``, ``.safetensors`` or Parquet, a file or a folder of them, read when asked for.

What is in them, with T steps, K slots, D their width:

- ``.npz`` and ``.safetensors``: the key ``<episode>`` or ``<episode>/slots`` holds numbers ``[T, K, D]``. Beside it
  may be ``<episode>/actions`` ``[T, A]`` (row t leads from step t to t + 1; also ``[T - 1, A]``; NaN = no action),
  ``<episode>/proprio`` ``[T, P]`` and ``<episode>/present`` bool ``[T, K]``. A file with the bare keys ``slots``,
  ``actions``, ``proprio`` and ``present`` is one episode with the name of the file.
- Parquet: one row a step, the rows of an episode together and in order. ``episode`` (text or number) and ``step``
  (integers that rise by 1); ``slots`` as a list of K lists of D numbers, or flat where K is told, or columns
  ``slot_0``, ``slot_1``, ... with D numbers each; ``actions``, ``proprio`` and ``present`` as lists.

Nothing is ever unpickled. A pickle ``{episode: array}``, as released code for Causal-JEPA writes it, is turned into
such a file by whoever trusts it: ``numpy.savez("slots.npz", **slots)``.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jepa_causal.episodes import Episode, Flags, Floats
from jepa_causal.slots.archives import Arrays, Container, NpzFile, SafetensorsFile
from jepa_causal.slots.tables import ParquetFile
from jepa_core.contracts import BadSample
from jepa_core.errors import DataError

SUFFIXES = (".npz", ".safetensors", ".parquet")
Trailing = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class Usable:
    """Episodes that can be used, and (episode, reason) of those that cannot."""

    episodes: list[Episode]
    rejected: list[tuple[str, str]] = field(default_factory=list)


class SlotFiles:
    """Episodes of slots in files; one is read when it is asked for.

    All episodes must have the same K and D, and actions and proprioception of one width: what most of them have, or
    what is told. The others are bad samples.

    Args:
        path: a file, or a folder with files of one kind.
        slots: K; None = as found. Parquet with flat lists needs it.
        width: D; None = as found.

    Raises:
        DataError: nothing there, a file that cannot be read, names of episodes that occur twice.
    """

    def __init__(self, path: str | os.PathLike[str], slots: int | None = None, width: int | None = None) -> None:
        self.path = Path(path)
        self._places = _places(self.path, [_container(file, slots) for file in _files(self.path)])
        self.episode_ids = tuple(self._places)
        self._common = _common(self._places)
        if len(self._common["slots"]) == 2:
            found_slots, found_width = self._common["slots"]
            self._common["slots"] = (slots or found_slots, width or found_width)

    def __len__(self) -> int:
        return len(self.episode_ids)

    @property
    def shape(self) -> tuple[int, ...]:
        """K and D."""
        return self._common["slots"]

    def load(self, index: int) -> Episode:
        """One episode.

        Raises:
            BadSample: it cannot be used; the reason names it.
        """
        name = self.episode_ids[index]
        try:
            return checked_episode(name, self._places[name].read(name), self._common)
        except ValueError as error:
            raise BadSample(f"{name}: {error}") from None

    def usable(self) -> Usable:
        """All episodes, in the order of their files.

        Raises:
            DataError: none can be used.
        """
        found = Usable([])
        for index, name in enumerate(self.episode_ids):
            try:
                found.episodes.append(self.load(index))
            except BadSample as bad:
                found.rejected.append((name, str(bad)))
        if not found.episodes:
            raise DataError(f"{self.path}: none of {len(self)} episodes can be used; the first: {found.rejected[0][1]}")
        return found


def _files(path: Path) -> list[Path]:
    if not path.exists():
        raise DataError(f"{path}: no such file or folder; expected slots as {', '.join(SUFFIXES)}")
    files = sorted(f for f in path.iterdir() if f.suffix in SUFFIXES) if path.is_dir() else [path]
    kinds = sorted({file.suffix for file in files})
    if len(kinds) != 1 or kinds[0] not in SUFFIXES:
        raise DataError(
            f"{path}: expected files of one kind of {', '.join(SUFFIXES)}, got {', '.join(kinds) or 'none'}"
        )
    return files


def _container(file: Path, slots: int | None) -> Container:
    if file.suffix == ".parquet":
        return ParquetFile(file, slots)
    return NpzFile(file) if file.suffix == ".npz" else SafetensorsFile(file)


def _places(path: Path, containers: Sequence[Container]) -> dict[str, Container]:
    places: dict[str, Container] = {}
    for container in containers:
        for name in container.shapes:
            if name in places:
                raise DataError(
                    f"{path}: expected each episode once, got {name} in {places[name].path.name} and "
                    f"{container.path.name}; rename one"
                )
            places[name] = container
    return places


def _common(places: dict[str, Container]) -> Trailing:
    """The parts that most episodes have, and their shapes without the steps."""
    kinds: Counter[tuple[tuple[str, tuple[int, ...]], ...]] = Counter()
    for name, container in places.items():
        parts = container.shapes[name]
        kinds[tuple(sorted((part, tuple(shape[1:])) for part, shape in parts.items()))] += 1
    return dict(kinds.most_common(1)[0][0])


def checked_episode(name: str, arrays: Arrays, common: Trailing) -> Episode:
    """An episode of what a file holds.

    Args:
        name: of the episode.
        arrays: its parts.
        common: parts that it must have, and their shapes without the steps.

    Raises:
        ValueError: a shape, a width or a value that cannot be.
    """
    if set(arrays) != set(common):
        raise ValueError(f"expected {', '.join(sorted(common))} as in other episodes, got {', '.join(sorted(arrays))}")
    slots = _numbers("slots", arrays["slots"])
    if slots.ndim != 3 or slots.shape[1:] != common["slots"]:
        wanted = "K, D" if len(common["slots"]) != 2 else ", ".join(map(str, common["slots"]))
        raise ValueError(f"slots: expected [T, {wanted}], got {list(slots.shape)}")
    if not slots.size:
        raise ValueError(f"slots: expected at least one step and one slot, got {list(slots.shape)}")
    if not np.isfinite(slots).all():
        raise ValueError(f"slots: expected finite numbers, got {int((~np.isfinite(slots)).sum())} that are not")
    steps = len(slots)
    actions = _rows("actions", arrays, common, steps, steps - 1)
    proprio = _rows("proprio", arrays, common, steps, steps)
    if actions is not None and np.isinf(actions).any():
        raise ValueError("actions: expected numbers, or NaN where there is none, got infinity")
    if proprio is not None and not np.isfinite(proprio).all():
        raise ValueError("proprio: expected finite numbers, got others")
    present = _present(arrays.get("present"), slots.shape[:2])
    return Episode(name, slots=slots, actions=actions, proprio=proprio, present=present)


def _numbers(part: str, values: NDArray[Any]) -> Floats:
    if values.dtype.kind not in "fiu":
        raise ValueError(f"{part}: expected numbers, got {values.dtype}")
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, and is refused as such
        return np.ascontiguousarray(values, dtype=np.float32)


def _rows(part: str, arrays: Arrays, common: Trailing, steps: int, least: int) -> Floats | None:
    """Actions or proprioception ``[T, A]``; a missing last row becomes NaN. ``[T]`` is taken as width 1."""
    if part not in arrays:
        return None
    values = _numbers(part, arrays[part])
    if values.ndim not in (1, 2) or values.shape[1:] != common[part]:
        raise ValueError(f"{part}: expected rows of shape {list(common[part])}, got {list(values.shape[1:])}")
    values = values.reshape(len(values), -1)
    if not least <= len(values) <= steps:
        raise ValueError(f"{part}: expected a row for each of {steps} steps, got {len(values)}")
    missing = np.full((steps - len(values), values.shape[1]), np.nan, dtype=np.float32)
    return np.concatenate([values, missing])


def _present(values: NDArray[Any] | None, shape: tuple[int, ...]) -> Flags | None:
    if values is None:
        return None
    if values.shape != shape or values.dtype.kind not in "biuf" or not np.isin(values, (0, 1)).all():
        raise ValueError(f"present: expected true or false [T, K] = {list(shape)}, got {values.dtype} {values.shape}")
    return values.astype(bool)
