"""The quarantine: which samples could not be used and why, and when there are too many of them to go on."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path

from jepa_core.errors import ConfigError, DataError, disk_errors_are_users
from jepa_core.plain_json import parse_json

Gather = Callable[[object], list]


def gather_alone(value: object) -> list:
    """The gather of a single process."""
    return [value]


class Quarantine:
    """Bad samples of a run, each written once to a JSON-lines file ``{"sample_id", "reason", "step"}``.

    The run stops when the distinct bad samples are more than ``max_fraction`` of the data set; one is always allowed,
    unless ``max_fraction`` is 0: then none is.

    Args:
        path: the file; lines of an earlier part of the run are read back.
        total: samples in the data set.
        max_fraction: see above.
        gather: takes an object of each process and returns the list of all, the same on every process.
        rank: only process 0 writes.
    """

    def __init__(
        self, path: Path, total: int, max_fraction: float, gather: Gather = gather_alone, rank: int = 0
    ) -> None:
        if not 0 <= max_fraction <= 1:
            raise ConfigError(f"data.max_bad_fraction: expected a fraction from 0 to 1, got {max_fraction}")
        self.path, self.total, self.max_fraction = path, total, max_fraction
        self._gather, self._rank = gather, rank
        # Process 0 alone reads: the folder of another machine may lag behind.
        self.bad: dict[str, str] = gather(_read(path) if rank == 0 else {})[0]
        self._waiting: dict[str, tuple[str, int]] = {}
        # A kill may have left a line without its end: the next one must not be written into it.
        self._lead = "\n" if rank == 0 and _is_torn(path) else ""

    @property
    def allowed(self) -> int:
        """Distinct bad samples the run may meet."""
        if self.max_fraction == 0:
            return 0
        return max(1, math.floor(self.max_fraction * self.total + 1e-9))

    @property
    def waiting(self) -> int:
        """Bad samples of this process that the other processes do not know yet."""
        return len(self._waiting)

    def add(self, rejected: Sequence[tuple[str, str]], step: int) -> None:
        """Notes (sample_id, reason) pairs of this process; nothing is sent or written before :meth:`join`."""
        for sample_id, reason in rejected:
            if sample_id not in self.bad:
                self._waiting.setdefault(sample_id, (reason, step))

    def join(self) -> dict[str, str]:
        """Joins what the processes found; all must call it.

        Returns:
            sample_id to reason of what is new.

        Raises:
            DataError: on every process, when there are now too many.
        """
        new: dict[str, tuple[str, int]] = {}
        for part in self._gather(self._waiting):
            for sample_id, found in part.items():
                if sample_id not in self.bad:
                    new.setdefault(sample_id, found)
        self._waiting = {}
        self.bad.update({sample_id: reason for sample_id, (reason, _) in new.items()})
        if self._rank == 0 and new:
            self._write(new)
        self._check()
        return {sample_id: reason for sample_id, (reason, _) in new.items()}

    def _write(self, new: dict[str, tuple[str, int]]) -> None:
        lines = [json.dumps({"sample_id": name, "reason": why, "step": step}) for name, (why, step) in new.items()]
        with disk_errors_are_users(self.path), self.path.open("a", encoding="utf-8") as file:
            file.write(self._lead + "".join(line + "\n" for line in lines))
        self._lead = ""

    def _check(self) -> None:
        if len(self.bad) <= self.allowed:
            return
        sample_id, reason = next(reversed(self.bad.items()))
        raise DataError(
            f"{len(self.bad)} of {self.total} samples cannot be used, allowed are {self.allowed} "
            f"(data.max_bad_fraction={self.max_fraction}); the last is {sample_id}: {reason}. All are in {self.path}"
        )


def _is_torn(path: Path) -> bool:
    return path.exists() and not path.read_bytes().endswith((b"\n",)) and path.stat().st_size > 0


def _read(path: Path) -> dict[str, str]:
    if not path.exists():
        return {}
    bad: dict[str, str] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        try:
            entry = parse_json(line)
        except ValueError:  # a line torn by a kill: the sample is found and written again
            continue
        if not isinstance(entry, dict) or not all(isinstance(entry.get(key), str) for key in ("sample_id", "reason")):
            raise DataError(f"{path}, line {number}: expected an object with sample_id and reason; mend or delete it")
        bad[entry["sample_id"]] = entry["reason"]
    return bad
