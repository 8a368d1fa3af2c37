"""The watch over losses, gradients, rates and weights: a step that broke them is found before the next one but one.

Rates are compared with the schedule before the step, which is not taken where they differ. Figures stay on the device
and are copied to the host beside the work. On the CPU a step is read before the next one begins; on other devices while
the next one runs, so that nothing waits.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass

import torch
from torch import Tensor

from jepa_core.contracts import Batch
from jepa_core.errors import DivergenceError
from jepa_core.train.control import Control

_ORDER = ("rates", "loss", "gradient", "weights")
_HELP = {"rates": "What helps: a look for what sets optimizer.param_groups; the schedule does, before each step"}
_USUAL_HELP = "What helps: a lower optimizer.lr, a longer warm-up, trainer.precision=fp32, trainer.clip_norm"

REMEMBERED = 10
"""Steps that the growth of the weights is compared with."""
JUMP, TIMES = 0.02, 20.0
"""Growth in one step that is stopped below the limit too, where it is so many times that of any remembered step.

Of healthy runs none has been seen to grow by a tenth of it: benchmarks/RELIABILITY.md.
"""


@dataclass(frozen=True)
class _Step:
    """A step until it is read: losses of its micro-batches, gradient norm, weight norm; and names of samples."""

    step: int
    figures: Tensor
    copied: torch.cuda.Event | None
    sample_ids: tuple[tuple[str, ...], ...]

    def read(self) -> list[float]:
        if self.copied is not None:
            self.copied.synchronize()
        return [float(value) for value in self.figures.tolist()]


@dataclass(frozen=True)
class _Found:
    """The first bad step of a process; ``what`` is one of ``rates``, ``loss``, ``gradient``, ``weights``."""

    step: int
    what: str
    said: str
    sample_ids: tuple[str, ...]


class Growth:
    """How the L2 norm of all weights changes from step to step.

    Args:
        weights: norm before the first step.
        limit: a step may make it this many times what it was; 0 = any growth.
        floor: a norm below which weights are not compared with themselves but with this: they began at zero.
    """

    def __init__(self, weights: float, limit: float, floor: float) -> None:
        self._weights, self._limit, self._floor = weights, limit, floor
        self._changes: deque[float] = deque(maxlen=REMEMBERED)

    def judge(self, step: int, weights: float) -> str | None:
        """Takes the norm after a step; what is wrong with it, or None."""
        before, self._weights = self._weights, weights
        if not math.isfinite(weights):
            return f"the weights after step {step} are not finite"
        base = max(before, self._floor)
        if not self._limit or not base:
            return None
        growth = 1 + (weights - before) / base
        usual = max(self._changes) if len(self._changes) == REMEMBERED else math.inf
        self._changes.append(abs(growth - 1))
        said = f"step {step} made the weights {growth:.4g} times as large (L2 norm {before:.4g} to {weights:.4g}"
        if growth > self._limit:
            return f"{said}, trainer.max_weight_growth={self._limit:g})"
        if growth - 1 > max(JUMP, TIMES * usual):
            return f"{said}, in the {REMEMBERED} steps before by a factor of {1 + usual:.5g} at most)"
        return None


class FiniteWatch:
    """Looks at every step once.

    Args:
        control: for agreements between processes.
        weights: L2 norm of all weights before the first step, a scalar.
        max_growth: a step may make that norm this many times what it was; 0 = any growth. Below it :data:`JUMP`
            counts, once :data:`REMEMBERED` steps are known.
        floor: see :class:`Growth`.
    """

    def __init__(self, control: Control, weights: Tensor, max_growth: float, floor: float = 0.0) -> None:
        self._control, self._growth = control, Growth(float(weights), max_growth, floor)
        # A value that the device is still working on is read one step later.
        self._lag = 0 if weights.device.type == "cpu" else 1
        self._steps: list[_Step] = []
        self._found: _Found | None = None

    def note(self, step: int, losses: list[Tensor], grad_norm: Tensor, weights: Tensor, window: list[Batch]) -> None:
        """Keeps a step's scalars; reads none of them."""
        ids = tuple(batch.sample_id for batch in window)
        flat = torch.stack([value.detach().float() for value in (*losses, grad_norm, weights)])
        copied = None
        if flat.device.type == "cuda":
            host = torch.empty(flat.shape, dtype=flat.dtype, pin_memory=True)
            flat, copied = host.copy_(flat, non_blocking=True), torch.cuda.Event()
            copied.record()
        self._steps.append(_Step(step, flat, copied, ids))

    def allows(self, step: int, differing: str | None, window: list[Batch]) -> bool:
        """Whether the optimiser may take this step: not with rates that differ from the schedule's."""
        if differing is not None and self._found is None:
            ids = tuple(name for batch in window for name in batch.sample_id)
            self._found = _Found(step, "rates", f"step {step} was not taken: {differing}", ids)
        return differing is None

    def is_broken(self) -> bool:
        """Whether this process has met a bad step, as far as can be told without waiting; asked before each step."""
        self._read(leaving=self._lag)
        return self._found is not None

    def check(self, last_good: str) -> None:
        """Reads all steps; all processes must call it at the same steps.

        Args:
            last_good: the newest checkpoint, for the message.

        Raises:
            DivergenceError: on every process, naming the first bad step, its samples and the checkpoint.
        """
        self._read(leaving=0)
        if not self._control.total([int(self._found is not None)])[0]:
            return
        everywhere = [found for found in self._control.gather(self._found) if found is not None]
        step = min(found.step for found in everywhere)
        here = [found for found in everywhere if found.step == step]
        # A bad loss on one process spoils the gradients of all: those that saw only the gradient are not the culprits.
        what = min((found.what for found in here), key=_ORDER.index)
        culprits = [found for found in here if found.what == what]
        ids = dict.fromkeys(sample_id for found in culprits for sample_id in found.sample_ids)
        raise DivergenceError(
            f"{culprits[0].said}; samples of this step: {', '.join(ids)}. "
            f"Last good checkpoint: {last_good}. {_HELP.get(what, _USUAL_HELP)}"
        )

    def _read(self, leaving: int) -> None:
        """Reads all but the newest steps, up to the first bad one."""
        while len(self._steps) > leaving:
            kept = self._steps.pop(0)
            if self._found is None:
                self._found = self._judge(kept)

    def _judge(self, kept: _Step) -> _Found | None:
        *losses, norm, weights = kept.read()
        grown = self._growth.judge(kept.step, weights)
        every = tuple(name for ids in kept.sample_ids for name in ids)
        bad = [ids for loss, ids in zip(losses, kept.sample_ids, strict=True) if not math.isfinite(loss)]
        if bad:
            ids = tuple(name for part in bad for name in part)
            return _Found(kept.step, "loss", f"the loss of step {kept.step} is not finite", ids)
        if not math.isfinite(norm):
            return _Found(kept.step, "gradient", f"the gradient of step {kept.step} is not finite", every)
        return None if grown is None else _Found(kept.step, "weights", grown, every)
