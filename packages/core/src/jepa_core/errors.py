"""What goes wrong in a way the user can mend: one clean line on stderr and an exit code, no traceback."""

from __future__ import annotations

import errno
import os
import re
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from jepa_core.one_line import one_line

# What a disk answers that is full, over its quota, read-only, broken, or no longer there.
_DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.ESTALE}

# What torch.distributed says of a peer that is gone: by the kind of error, or through gloo in a RuntimeError.
_LOST_NAMES = {"DistBackendError", "DistNetworkError", "DistStoreError"}
_LOST = re.compile(
    r"Connection (closed|reset) by peer|Timed out waiting|Broken pipe|Application timeout|heartbeat|Socket Timeout",
    re.I,
)


class UserError(Exception):
    """Something the user can mend.

    Args:
        message: one line: what, expected, got, how to mend; see :func:`jepa_core.one_line.one_line`.
        exit_code: of the command; None = the class's own.
    """

    exit_code: int = 2

    def __init__(self, message: str, exit_code: int | None = None) -> None:
        super().__init__(one_line(message))
        if exit_code is not None:
            self.exit_code = exit_code


class ConfigError(UserError):
    """A setting, recipe, modality or command that cannot be."""


class DataError(UserError):
    """Recordings that are missing, unreadable or mostly bad."""


class LaunchError(UserError):
    """Devices, processes or memory that are not there."""


class LostProcessError(UserError):
    """Another process of the run, or its machine, is gone."""

    exit_code = 6


class StorageError(UserError):
    """The disk does not take what a run must write."""

    exit_code = 5


class DivergenceError(UserError):
    """The loss, a gradient or the weights are no longer finite, or one step blew the weights up."""

    exit_code = 3


class CollapseError(UserError):
    """The features no longer depend on the input."""

    exit_code = 4


@contextmanager
def value_errors_are_users(error: type[UserError] = ConfigError) -> Iterator[None]:
    """Hands a ValueError of the block on as ``error``: for the code that builds what a configuration describes."""
    try:
        yield
    except ValueError as problem:
        raise error(str(problem)) from problem


@contextmanager
def disk_errors_are_users(path: Path, hint: str = "") -> Iterator[None]:
    """Hands an OSError of the block on as a :class:`StorageError` that names ``path``."""
    try:
        yield
    except OSError as problem:
        raise StorageError(
            f"{path} cannot be written: {problem.strerror or problem}. {hint}Free the disk or mend it, then resume=auto"
        ) from problem


def resource_error(error: Exception) -> UserError | None:
    """What this machine lacked, as an error for users: memory, a disk, a loader process; None for anything else."""
    text = f"{type(error).__name__}: {error}"
    # By name: torch is not imported for the sake of a comparison.
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" or "DefaultCPUAllocator" in text:
        return LaunchError(f"out of memory: lower trainer.batch_size, and raise trainer.accumulation instead. {text}")
    if type(error).__name__ in _LOST_NAMES or (isinstance(error, RuntimeError) and _LOST.search(str(error))):
        return LostProcessError(
            "another process of this run ended, or its machine cannot be reached; what it says stands in its own "
            f"log. Start again with resume=auto. {text}"
        )
    if str(error).startswith("DataLoader worker"):
        return LaunchError(f"a loader process died, often for want of memory: lower data.workers. {error}")
    if isinstance(error, OSError) and error.errno in _DISK_ERRORS:
        return StorageError(f"{text}: free the disk or mend it")
    return UserError(text) if isinstance(error, OSError) else None


def print_error(error: UserError) -> int:
    """Prints one line ``jepa: ...`` on stderr (the traceback too with JEPA_TRACEBACK=1); returns the exit code."""
    if os.environ.get("JEPA_TRACEBACK") == "1":
        traceback.print_exception(error)
    rank = int(os.environ.get("RANK", "0"))
    # Every process meets the same configuration error; what only one process meets must be heard from that one.
    if rank == 0:
        print(f"jepa: {error}", file=sys.stderr, flush=True)
    elif not isinstance(error, ConfigError):
        print(f"jepa (process {rank}): {error}", file=sys.stderr, flush=True)
    return error.exit_code
