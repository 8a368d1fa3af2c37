"""What a checkpoint must hold before a run goes on from it: one that fits, of values that training could have saved.

Checksums tell a torn checkpoint, not one that somebody made. What is wrong here is refused before anything is changed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from jepa_core.train.checkpoint import BROKEN, Checkpoint, CheckpointError

MOST = 2**62
"""Samples and steps: what is beyond is no count."""
_MOMENTS = ("exp_avg", "exp_avg_sq")
_KEYS_OF_NUMPY, _WORDS_OF_PYTHON = 624, 625


@contextmanager
def fitting(stored: Checkpoint) -> Iterator[None]:
    """Whatever a checkpoint makes the block raise is one line that names it."""
    try:
        yield
    except (*BROKEN, RuntimeError, IndexError) as error:
        raise CheckpointError(
            f"{stored.path} cannot be gone on from: {type(error).__name__}: {error}; resume from another checkpoint"
        ) from error


def check(stored: Checkpoint, method: nn.Module, optimizer: torch.optim.Optimizer, rank: int) -> None:
    """Looks through all that :meth:`jepa_core.train.trainer.Trainer.restore` takes over.

    Args:
        stored: as read.
        method: of the run that goes on; the strict load before this has told of names and shapes.
        optimizer: its parameter groups have ``names``.
        rank: this process; its random state is looked at where there is one.

    Raises:
        ValueError: with what was expected and what was found.
    """
    _check_position(stored)
    _check_model(stored.model, method)
    _check_optimizer(stored, optimizer)
    if rank < len(stored.processes):
        check_random_state(stored.processes[rank])
        _check_buffers(stored.processes[rank], method)


def _check_position(stored: Checkpoint) -> None:
    state = stored.state
    _count(stored.step, "step")
    _count(state["global_position"], "global_position")
    seconds = state["seconds"]
    if not _is_number(seconds) or not 0 <= seconds < math.inf:
        raise ValueError(f"seconds: expected a number of at least 0, got {seconds!r}")
    known = state["shape"].items()
    if not all(isinstance(value, int | float | str) for _, value in known):
        raise ValueError(f"shape: expected numbers and texts, got {state['shape']!r}")


def _count(value: object, name: str) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= MOST:
        raise ValueError(f"{name}: expected a whole number from 0 to 2^62, got {value!r}")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _check_model(model: Mapping[str, Tensor], method: nn.Module) -> None:
    parameters = dict(method.named_parameters())
    for name, own in method.state_dict().items():
        if name in model:
            _check_like(name, model[name], own.dtype, None)
            (_check_finite if name in parameters else _check_no_nan)(name, model[name])


def _check_like(name: str, value: Tensor, dtype: torch.dtype, shape: Sequence[int] | None) -> None:
    """Dtype and shape; None = any."""
    if value.dtype != dtype or (shape is not None and list(value.shape) != list(shape)):
        wanted = f"{dtype}{'' if shape is None else f' {list(shape)}'}"
        raise ValueError(f"{name}: expected {wanted}, got {value.dtype} {list(value.shape)}")


def _check_finite(name: str, value: Tensor) -> None:
    if not value.isfinite().all():
        raise ValueError(f"{name}: expected finite values")


def _check_no_nan(name: str, value: Tensor) -> None:
    """Of buffers, which may hold infinities."""
    if value.isnan().any():
        raise ValueError(f"{name}: expected no NaN")


def _check_optimizer(stored: Checkpoint, optimizer: torch.optim.Optimizer) -> None:
    """Of AdamW: two moments shaped as the parameter, and a count of steps; nothing else, and all or none of them."""
    if stored.optimizer_scalars["state"]:
        raise ValueError(f"optimizer.json: expected tensors alone in the state, got {list(stored.optimizer_scalars)}")
    held: dict[str, set[str]] = {}
    for key in stored.optimizer:
        name, _, entry = key.rpartition("/")
        held.setdefault(name, set()).add(entry)
    for group in optimizer.param_groups:
        for name, parameter in zip(group["names"], group["params"], strict=True):
            entries = held.get(name, set())
            if entries and entries != {*_MOMENTS, "step"}:
                raise ValueError(
                    f"optimiser state of {name}: expected exp_avg, exp_avg_sq, step, got {sorted(entries)}"
                )
            if entries:
                _check_moments(stored, name, parameter)


def _check_moments(stored: Checkpoint, name: str, parameter: Tensor) -> None:
    for entry in _MOMENTS:
        _check_like(f"{name}/{entry}", stored.optimizer[f"{name}/{entry}"], parameter.dtype, parameter.shape)
        _check_finite(f"{name}/{entry}", stored.optimizer[f"{name}/{entry}"])
    if (stored.optimizer[f"{name}/exp_avg_sq"] < 0).any():
        raise ValueError(f"{name}/exp_avg_sq: expected no value below 0")
    steps = stored.optimizer[f"{name}/step"]
    _check_like(f"{name}/step", steps, torch.float32, [])
    if not 0 <= steps <= stored.step:
        raise ValueError(f"{name}/step: expected 0 to {stored.step}, got {steps.item():g}")


def check_random_state(state: Mapping[str, Tensor]) -> None:
    """Refuses what generators would take and then read beyond their end.

    Raises:
        ValueError: of the wrong size or out of range.
    """
    lengths = {"python": _WORDS_OF_PYTHON + 1, "numpy": _KEYS_OF_NUMPY, "numpy_place": 2, "numpy_gauss": 1}
    for name, length in lengths.items():
        dtype = torch.float64 if name.endswith("gauss") else torch.int64
        _check_like(name, state[name], dtype, [length])
    gauss = state["python_gauss"]
    _check_like("python_gauss", gauss, torch.float64, [min(gauss.numel(), 1)])
    _check_finite("random state", torch.cat([gauss, state["numpy_gauss"]]))
    words, keys = state["python"][1:], state["numpy"]
    place, has_gauss = state["numpy_place"].tolist()
    sound = int(words.min()) >= 0 and int(words.max()) < 2**32 and int(keys.min()) >= 0 and int(keys.max()) < 2**32
    if not sound or int(words[-1]) > _KEYS_OF_NUMPY or not 0 <= place <= _KEYS_OF_NUMPY or has_gauss not in (0, 1):
        raise ValueError("random state: expected 32-bit words and a place among them")


def _check_buffers(own: Mapping[str, Tensor], method: nn.Module) -> None:
    buffers = dict(method.named_buffers())
    for key, value in own.items():
        name = key.removeprefix("buffer/")
        if name == key:
            continue
        if name not in buffers:
            raise ValueError(f"{key}: this method has no such buffer")
        _check_like(key, value, buffers[name].dtype, buffers[name].shape)
        _check_no_nan(key, value)
