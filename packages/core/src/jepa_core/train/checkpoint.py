"""Checkpoints: a folder of safetensors and JSON, written beside and renamed, checked by SHA-256 before it is believed.

``checkpoints/step-<n>/`` holds ``model.safetensors`` (the method's state dict, target encoder included),
``optimizer.safetensors`` and ``optimizer.json``, ``process-<rank>.safetensors``, ``trainer_state.json``,
``config.yaml`` and ``manifest.json`` (format version and checksums). Nothing in it is ever unpickled.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from jepa_core.distributed import spread, whole
from jepa_core.errors import UserError, disk_errors_are_users
from jepa_core.plain_json import parse_json

FORMAT_VERSION = 1
"""Of the folder: raised when an older version of this file could no longer read what this one writes."""
_MANIFEST = "manifest.json"

BROKEN = (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError, MemoryError)
"""What contents that lie make the reading of them raise."""


class CheckpointError(UserError):
    """A checkpoint that cannot be used, or none where one is needed."""


class _Torn(Exception):
    """A checkpoint that was not written to its end, or changed since."""


@dataclass
class Checkpoint:
    """All that a run needs to go on exactly.

    Attributes:
        step: optimiser steps done.
        model: the method's state dict.
        optimizer: tensors by ``<parameter name>/<entry>``.
        optimizer_scalars: what of the optimiser is no tensor.
        processes: of each process its random state, and its buffers that differ from those of process 0 (batch norm).
        state: position, monitor, counters: JSON-able.
        config_text: the run's configuration.
    """

    step: int
    model: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    optimizer_scalars: dict[str, Any]
    processes: list[dict[str, Tensor]]
    state: dict[str, Any]
    config_text: str = ""
    path: Path | None = field(default=None, compare=False)


Collected = tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Any]]
"""Of a checkpoint: the method's tensors, the optimiser's, and what of the optimiser is no tensor."""


def model_tensors(method: nn.Module) -> dict[str, Tensor]:
    """The state dict of a method, ready for safetensors.

    Tensors that share memory (tied weights) are written once under each of their names, so that any reader finds them.
    Shards are put together: of a sharded method all processes must call it.
    """
    seen: set[int] = set()
    out = {}
    for name, value in whole_tensors(method):
        tensor = value.cpu().contiguous()
        address = tensor.untyped_storage().data_ptr()
        out[name] = tensor.clone() if address in seen else tensor
        seen.add(address)
    return out


def whole_tensors(method: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Names and tensors of the state dict, detached, one whole tensor after the other."""
    for name, value in method.state_dict().items():
        if not isinstance(value, Tensor):
            raise TypeError(f"state_dict(): {name} is {type(value).__name__}, expected a tensor: nothing is pickled")
        yield name, whole(value.detach())


def save(run_dir: Path, checkpoint: Checkpoint, keep: int, best: int | None = None) -> Path:
    """Writes a checkpoint beside its place and renames it; then removes all but the newest and the best.

    Args:
        run_dir: the run folder; it exists.
        checkpoint: what to write.
        keep: newest checkpoints to keep; 0 = all.
        best: step of a checkpoint that is kept besides, and that ``checkpoints/best`` is to lead to.

    Raises:
        StorageError: the disk is full, read-only or gone; what was there before is as it was.
    """
    folder = run_dir / "checkpoints"
    final, partial = folder / f"step-{checkpoint.step}", folder / f".step-{checkpoint.step}.partial"
    with disk_errors_are_users(final, "Checkpoints before it are as they were. "):
        # Without parents: where the run folder has vanished, it must not be made anew on another disk.
        folder.mkdir(exist_ok=True)
        _remove_leftovers(folder)
        try:
            partial.mkdir()
            _write(partial, checkpoint)
            _put(partial, final)
        except OSError:  # half a checkpoint on a full disk would take the room that is needed
            shutil.rmtree(partial, ignore_errors=True)
            raise
        _sync(folder)
        _point_to_best(folder, best)
        for old in _folders(run_dir)[keep:] if keep else []:
            if old.name != f"step-{best}":
                _remove(old)
    return final


def _remove_leftovers(folder: Path) -> None:
    """What a kill in the middle of a write or of a removal left."""
    for pattern in (".step-*.partial", ".step-*.removed"):
        for left in folder.glob(pattern):
            left.unlink() if left.is_symlink() else shutil.rmtree(left)


def _put(partial: Path, final: Path) -> None:
    """Renames into place; a torn checkpoint of the same step goes only when the whole one is there."""
    removed = final.with_name(f".{final.name}.removed")
    if final.exists():
        final.rename(removed)
    partial.rename(final)
    if removed.exists():
        shutil.rmtree(removed)


def _remove(folder: Path) -> None:
    """Out of sight first: a kill half-way must not leave a torn checkpoint among the whole ones."""
    shutil.rmtree(folder.rename(folder.with_name(f".{folder.name}.removed")))


def _point_to_best(folder: Path, step: int | None) -> None:
    """Lets the link ``best`` lead to a checkpoint; a reader sees the old one or the new one."""
    link, beside = folder / "best", folder / ".best"
    if step is None or not (folder / f"step-{step}").is_dir():
        return
    # A disk without links has the step in trainer_state.json alone.
    with contextlib.suppress(PermissionError, NotImplementedError):
        beside.unlink(missing_ok=True)
        beside.symlink_to(f"step-{step}")
        beside.replace(link)


def _write(folder: Path, checkpoint: Checkpoint) -> None:
    _save_tensors(checkpoint.model, folder / "model.safetensors")
    _save_tensors(checkpoint.optimizer, folder / "optimizer.safetensors")
    for rank, own in enumerate(checkpoint.processes):
        _save_tensors(own, folder / f"process-{rank}.safetensors")
    state = {"step": checkpoint.step, "processes": len(checkpoint.processes), **checkpoint.state}
    (folder / "trainer_state.json").write_text(json.dumps(state, indent=1))
    (folder / "optimizer.json").write_text(json.dumps(checkpoint.optimizer_scalars, indent=1))
    (folder / "config.yaml").write_text(checkpoint.config_text, encoding="utf-8")
    sums = {path.name: _sha256(path) for path in sorted(folder.iterdir())}
    for name in sums:
        _sync(folder / name)
    manifest = {"format_version": FORMAT_VERSION, "step": checkpoint.step, "sha256": sums}
    (folder / _MANIFEST).write_text(json.dumps(manifest, indent=1))
    _sync(folder / _MANIFEST)
    _sync(folder)


def _save_tensors(tensors: dict[str, Tensor], path: Path) -> None:
    try:
        save_file(tensors, path)
    except SafetensorError as error:  # a full disk, for example; the library does not raise an OSError for it
        raise OSError(f"{path.name}: {error}") from error
    # The library lets nobody but the owner read what it writes; the folder has the rights that the user's umask gives.
    path.chmod(path.parent.stat().st_mode & 0o666)


def _sync(path: Path) -> None:
    """Makes a file or folder survive a power cut."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _folders(run_dir: Path) -> list[Path]:
    """Checkpoint folders, newest step first."""
    found = [
        path for path in (run_dir / "checkpoints").glob("step-*") if path.name[5:].isdecimal() and path.name.isascii()
    ]
    return sorted(found, key=lambda path: -int(path.name[5:]))


def has_checkpoint(run_dir: Path) -> bool:
    """Whether a run has any checkpoint, whole or torn."""
    return bool(_folders(run_dir))


def newest(run_dir: Path, warn: Callable[[str], None]) -> Path:
    """The newest whole checkpoint of a run; each torn one that is passed over is said.

    Raises:
        CheckpointError: there is none, or it was written by a newer version.
    """
    for folder in _folders(run_dir):
        try:
            check(folder)
        except _Torn as reason:
            warn(f"checkpoint {folder} is torn ({reason}): using the one before it")
            continue
        return folder
    raise CheckpointError(f"{run_dir}: no whole checkpoint to go on from; start a new run with resume=null")


def check(folder: Path) -> dict[str, Any]:
    """The manifest of a whole checkpoint; raises when a file is missing or changed, or the format is newer."""
    _refuse_elsewhere(folder, _MANIFEST)
    try:
        if not (folder / _MANIFEST).is_file():  # a pipe would be waited for without end
            raise FileNotFoundError
        manifest = parse_json((folder / _MANIFEST).read_text())
        version, sums = int(manifest["format_version"]), dict(manifest["sha256"])
    except (OSError, ValueError, KeyError, TypeError, OverflowError) as error:
        raise _Torn(f"{_MANIFEST} cannot be read: {type(error).__name__}") from None
    if version > FORMAT_VERSION:
        raise CheckpointError(
            f"{folder}: format {version} is newer than {FORMAT_VERSION} here: install a newer jepa-core"
        )
    _check_place(folder, manifest)
    for name, expected in sums.items():
        _refuse_elsewhere(folder, name)
        if not (folder / name).is_file():
            raise _Torn(f"{name} is missing")
        try:
            found = _sha256(folder / name)
        except OSError as error:
            raise _Torn(f"{name} cannot be read: {error.strerror}") from None
        if found != expected:
            raise _Torn(f"{name} differs from its checksum")
    _refuse_unlisted(folder, sums)
    return {**manifest, "sha256": sums}


def _check_place(folder: Path, manifest: Mapping[str, Any]) -> None:
    """A folder that is named after another step would be kept, removed and gone on from as what it is not."""
    step, named = manifest.get("step"), folder.name.removeprefix("step-")
    if folder.name != named and named.isdecimal() and int(named) != step:
        raise _Torn(f"{_MANIFEST} is of step {step}")


def _refuse_elsewhere(folder: Path, name: str) -> None:
    """A checkpoint may come from a stranger: it is its own files, and says nothing of others of this machine."""
    if Path(name).name != name or (folder / name).is_symlink():
        raise CheckpointError(f"{folder}: refused: expected files of its own in {_MANIFEST}, got {name!r}")


def _refuse_unlisted(folder: Path, sums: Mapping[str, Any]) -> None:
    """What no checksum speaks of is not believed."""
    present = {path.name for path in folder.iterdir() if path.suffix in (".safetensors", ".json", ".yaml")}
    unlisted = sorted(present - set(sums) - {_MANIFEST})
    if unlisted:
        raise _Torn(f"{unlisted[0]} has no checksum")


@contextmanager
def _readable(folder: Path) -> Iterator[None]:
    """Checksums tell a torn file, not one that somebody made; whatever it makes the reading of it raise is one line."""
    try:
        yield
    except (SafetensorError, OSError, *BROKEN) as error:
        raise CheckpointError(
            f"{folder}: its checksums are right and it cannot be read ({type(error).__name__}: {error}): it was not "
            "written by this library; use another checkpoint"
        ) from None


def load(folder: Path) -> Checkpoint:
    """Reads a checkpoint, on the CPU.

    Raises:
        CheckpointError: it is torn, or of a newer format.
    """
    try:
        check(folder)
    except _Torn as reason:
        raise CheckpointError(
            f"{folder} is torn ({reason}): resume from another checkpoint, or from the run folder"
        ) from None
    with _readable(folder):
        return _read(folder)


def _read(folder: Path) -> Checkpoint:
    state = parse_json((folder / "trainer_state.json").read_text(encoding="utf-8"))
    manifest = parse_json((folder / _MANIFEST).read_text())
    processes, step = state.pop("processes"), state.pop("step")
    if step != manifest["step"] or processes < 1:
        raise ValueError(f"step {step} of {processes} processes, and {manifest['step']} in {_MANIFEST}")
    return Checkpoint(
        step=step,
        model=load_file(folder / "model.safetensors"),
        optimizer=load_file(folder / "optimizer.safetensors"),
        optimizer_scalars=parse_json((folder / "optimizer.json").read_text()),
        processes=[load_file(folder / f"process-{rank}.safetensors") for rank in range(processes)],
        state=state,
        config_text=(folder / "config.yaml").read_text(encoding="utf-8"),
        path=folder,
    )


def load_model(folder: Path) -> dict[str, Tensor]:
    """The method's state dict alone, for embedding and probing; checked like :func:`load`."""
    try:
        check(folder)
    except _Torn as reason:
        raise CheckpointError(f"{folder} is torn ({reason}): use another checkpoint") from None
    with _readable(folder):
        return load_file(folder / "model.safetensors")


def load_into(method: nn.Module, tensors: Mapping[str, Tensor], origin: str) -> None:
    """Strict load; a difference is told by name in one line. A sharded method takes its part of each tensor."""
    own = method.state_dict()
    placed = {name: spread(value, own[name]) if name in own else value for name, value in tensors.items()}
    try:
        method.load_state_dict(placed, strict=True)
    except RuntimeError as error:
        lines = " ".join(str(error).split())
        raise CheckpointError(f"{origin} does not fit this configuration: {lines}") from None


def set_newer_aside(run_dir: Path, step: int) -> list[Path]:
    """Renames checkpoints beyond ``step`` to ``set-aside-step-<n>``, so that they are not taken for the new course."""
    moved = []
    for folder in _folders(run_dir):
        if int(folder.name[5:]) > step:
            target = folder.with_name(f"set-aside-{folder.name}")
            shutil.rmtree(target, ignore_errors=True)
            moved.append(folder.rename(target))
    best = run_dir / "checkpoints" / "best"
    if best.is_symlink() and not best.exists():
        best.unlink()
    return moved
