"""A trained slot encoder on disk, the slots it finds in episodes, and a cache of them named after what made them."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from jepa_causal.episodes import Episode, Floats
from jepa_causal.slots.pixels import SlotAutoencoder, SlotSettings
from jepa_causal.slots.training import check_frames
from jepa_core.errors import DataError
from jepa_core.weights.folders import CONFIG, WEIGHTS, read_json, read_tensors, sha256, write_json, write_tensors

FORMAT, FORMAT_VERSION = "jepakit-slots", 1


def save_encoder(
    model: SlotAutoencoder, folder: str | os.PathLike[str], trained_from: Mapping[str, str] | None = None
) -> None:
    """Writes ``config.json`` (settings, format version, the weights' SHA-256) and ``model.safetensors``.

    Args:
        model: in any mode, on any device.
        folder: made where there is none.
        trained_from: of :func:`jepa_causal.slots.kept.origin`, for a folder that is looked into again.

    Raises:
        ValueError: the folder cannot be written to.
    """
    place = Path(folder)
    write_tensors(place, model.state_dict())
    # Last, so that an interrupted writing is told by its checksum.
    facts = {"format": FORMAT, "format_version": FORMAT_VERSION, "sha256": sha256(place / WEIGHTS)}
    write_json(place / CONFIG, facts | {"trained_from": dict(trained_from or {}), "model": asdict(model.settings)})


def load_encoder(folder: str | os.PathLike[str]) -> SlotAutoencoder:
    """What :func:`save_encoder` wrote, on the CPU, in eval mode.

    Raises:
        ValueError: no such folder, another or a newer format, damaged files, or weights of another model.
    """
    place = Path(folder)
    config = read_json(place / CONFIG)
    version = config.get("format_version")
    if config.get("format") != FORMAT or not isinstance(version, int):
        raise ValueError(f"{place / CONFIG}: expected the format {FORMAT}, got {config.get('format')!r}")
    if version > FORMAT_VERSION:
        raise ValueError(f"{place}: format {version} is newer than {FORMAT_VERSION} here: install a newer jepa-causal")
    if sha256(place / WEIGHTS) != config.get("sha256"):
        raise ValueError(f"{place / WEIGHTS} differs from its checksum in {CONFIG}: copy both again")
    model = SlotAutoencoder(_settings(config.get("model"), place / CONFIG))
    try:
        model.load_state_dict(read_tensors(place))
    except RuntimeError as error:
        raise ValueError(f"{place}: weights of another model: {' '.join(str(error).split())}") from None
    return model.eval()


def _settings(values: Any, path: Path) -> SlotSettings:
    names = {field.name for field in fields(SlotSettings)}
    if not isinstance(values, dict) or set(values) - names:
        extra = sorted(set(values) - names) if isinstance(values, dict) else values
        raise ValueError(f"{path}: model: expected the settings {', '.join(sorted(names))}, got {extra!r}")
    try:
        return SlotSettings(**values)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: model: {error}") from None


def weights_hash(model: SlotAutoencoder) -> str:
    """A name for the settings and weights of a model, hexadecimal; the same on every device."""
    digest = hashlib.sha256(json.dumps(asdict(model.settings), sort_keys=True).encode())
    for name, value in sorted(model.state_dict().items()):
        digest.update(f"\x1f{name}{list(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def frames_hash(episodes: Iterable[Episode]) -> str:
    """A name for the ids and frames of episodes in this order, hexadecimal."""
    digest = hashlib.sha256()
    for episode in episodes:
        assert episode.frames is not None
        digest.update(f"\x1f{episode.episode_id}\x1f{list(episode.frames.shape)}".encode())
        digest.update(np.ascontiguousarray(episode.frames).data)
    return digest.hexdigest()


def encode_episodes(model: SlotAutoencoder, episodes: Sequence[Episode], frames_at_once: int = 512) -> list[Episode]:
    """The same episodes with ``slots`` float32 ``[T, K, D]``, without noise and each by itself.

    Args:
        model: on its device; its own mode is left as it is.
        episodes: with frames, of any lengths.
        frames_at_once: about how many frames are on the device together (one episode at least).

    Raises:
        DataError: an episode without frames.
    """
    check_frames(episodes, 1)
    device = next(model.parameters()).device
    found: list[Episode] = []
    with torch.inference_mode():
        for group in _alike(episodes, frames_at_once):
            frames = torch.from_numpy(np.stack([e.frames for e in group if e.frames is not None]))
            slots = model.encode(frames.to(device)).float().cpu().numpy()
            found += [replace(episode, slots=one) for episode, one in zip(group, slots, strict=True)]
    return found


def _alike(episodes: Sequence[Episode], frames_at_once: int) -> Iterator[list[Episode]]:
    """Neighbours whose frames have one shape, few enough to be encoded together."""
    group: list[Episode] = []
    for episode in episodes:
        assert episode.frames is not None
        full = (len(group) + 1) * len(episode.frames) > frames_at_once
        if group and (full or group[0].frames is None or group[0].frames.shape != episode.frames.shape):
            yield group
            group = []
        group.append(episode)
    if group:
        yield group


def cached_slots(
    model: SlotAutoencoder, episodes: Sequence[Episode], folder: str | os.PathLike[str], split: str
) -> list[Episode]:
    """As :func:`encode_episodes`, from a file where these weights have seen these frames before.

    The file ``<split>-<hash of weights and frames>.safetensors`` is written as a whole: a process that reads meanwhile
    finds all of it or nothing. One that cannot be read is made again.

    Args:
        model: see :func:`encode_episodes`.
        episodes: likewise.
        folder: of the cache; made where there is none.
        split: a word for the name of the file, such as train.

    Raises:
        DataError: an episode without frames, or a folder that cannot be written to.
    """
    check_frames(episodes, 1)
    key = hashlib.sha256(f"{weights_hash(model)}\x1f{frames_hash(episodes)}".encode()).hexdigest()
    path = Path(folder) / f"{split}-{key[:24]}.safetensors"
    slots = _read_cache(path, key)
    if slots is None:
        encoded = encode_episodes(model, episodes)
        _write_cache(path, key, [e.slots for e in encoded if e.slots is not None])
        return encoded
    return [replace(episode, slots=one) for episode, one in zip(episodes, slots, strict=True)]


def _read_cache(path: Path, key: str) -> list[Floats] | None:
    """The slots of a file, in the order of the episodes; None where there is no whole file of this key."""
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="numpy") as file:
            if (file.metadata() or {}).get("key") != key:
                return None
            return [file.get_tensor(name) for name in sorted(file.keys())]
    except (SafetensorError, OSError):
        return None


def _write_cache(path: Path, key: str, slots: Sequence[Floats]) -> None:
    from safetensors.numpy import save_file

    part: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # A name of its own for each process: two that encode the same episodes must not write into one file.
        handle, name = tempfile.mkstemp(prefix=f".{path.stem}-", suffix=".part", dir=path.parent)
        os.close(handle)
        part = Path(name)
        save_file({f"{i:08d}": np.ascontiguousarray(one) for i, one in enumerate(slots)}, part, {"key": key})
        os.replace(part, path)
    except OSError as error:
        raise DataError(f"{path}: the cache of slots cannot be written: {error.strerror or error}") from None
    finally:
        if part is not None:
            part.unlink(missing_ok=True)
