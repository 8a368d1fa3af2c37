"""Agreements between processes over small host values, apart from the gradient traffic.

They run on a gloo group of their own: a decision of the host (stop, data failed) then never waits for a GPU.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from jepa_core.distributed import rank, world
from jepa_core.errors import UserError

Result = TypeVar("Result")


class Control:
    """Small agreements; with one process each is the identity. All processes must call each in the same order.

    Args:
        timeout_s: seconds after which processes that do not answer are taken for lost.
    """

    def __init__(self, timeout_s: int = 1800) -> None:
        self.world, self.rank = world(), rank()
        patience = timedelta(seconds=timeout_s)
        self._group = dist.new_group(backend="gloo", timeout=patience) if self.world > 1 else None

    def total(self, values: Sequence[int]) -> list[int]:
        """Sum over processes, entry by entry."""
        if self._group is None:
            return list(values)
        joined = torch.tensor(list(values), dtype=torch.int64)
        dist.all_reduce(joined, group=self._group)
        return [int(value) for value in joined]

    def gather(self, value: object) -> list:
        """The values of all processes, in order of rank, on every process."""
        if self._group is None:
            return [value]
        values: list = [None] * self.world
        dist.all_gather_object(values, value, group=self._group)
        return values

    def broadcast(self, value: Any) -> Any:
        """The value of process 0."""
        if self._group is None:
            return value
        values = [value]
        dist.broadcast_object_list(values, src=0, group=self._group)
        return values[0]

    def first(self, work: Callable[[], Result]) -> Result:
        """Runs ``work`` on process 0 alone; all get its result, or all raise its error."""
        outcome: Any = None
        if self.rank == 0:
            outcome = _attempt(work)
        outcome = self.broadcast(outcome)
        if isinstance(outcome, UserError):
            raise outcome
        return outcome

    def agree(self, work: Callable[[], Result]) -> Result:
        """Runs ``work`` everywhere; when it fails anywhere, all raise the first error, with its process named."""
        outcome = _attempt(work)
        errors = self.gather(outcome if isinstance(outcome, UserError) else None)
        for process, error in enumerate(errors):
            if error is not None:
                where = "" if process == 0 else f" (process {process})"
                raise type(error)(f"{error}{where}", error.exit_code)
        return outcome


def _attempt(work: Callable[[], Result]) -> Any:
    """The result, or the error that the user can mend: a process that raised alone would leave the others waiting."""
    try:
        return work()
    except UserError as error:
        return error
    except OSError as error:
        return UserError(f"{type(error).__name__}: {error}")
