"""One run, one writer: process 0 holds a lock on the run folder for as long as it lives."""

from __future__ import annotations

import fcntl
import os
import platform
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import TextIO

from jepa_core.errors import ConfigError

FILE = ".lock"


class FolderLock:
    """A POSIX record lock: the system gives it back when the process ends, however it ends.

    Loader processes do not inherit it, so that one which outlives its parent by seconds keeps nobody out.
    """

    def __init__(self) -> None:
        self._file: TextIO | None = None

    def take(self, run_dir: Path, warn: Callable[[str], None]) -> None:
        """Takes the lock of a run folder.

        Raises:
            ConfigError: another process is training in it.
        """
        path = run_dir / FILE
        # Not truncated: until the lock is ours the text is of the process that has it.
        file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o666), "r+", encoding="utf-8")
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            holder = file.read().strip() or "another process"
            file.close()
            raise ConfigError(
                f"resume: {run_dir} is being trained by {holder}: wait for its end, or give this run another name"
            ) from None
        except OSError as error:  # a file system without locks
            file.close()
            warn(f"{run_dir} cannot be locked ({error.strerror}): nothing else may train in it meanwhile")
            return
        file.truncate(0)
        file.write(f"process {os.getpid()} on {platform.node()}\n")
        file.flush()
        self._file = file

    def __enter__(self) -> FolderLock:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
