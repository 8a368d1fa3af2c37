"""The watch over losses, gradients and weights: a step that broke them is found before the next one but one.

Figures stay on the device and are copied to the host beside the work. On the CPU a step is read before the next one
begins; on other devices while the next one runs, so that nothing waits.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from jepa_core.contracts import Batch
from jepa_core.errors import DivergenceError
from jepa_core.train.control import Control

_ORDER = ("loss", "gradient", "weights")


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
    """The first bad step of a process; ``what`` is one of ``loss``, ``gradient``, ``weights``."""

    step: int
    what: str
    said: str
    sample_ids: tuple[str, ...]


class FiniteWatch:
    """Looks at every step once.

    Args:
        control: for agreements between processes.
        weights: L2 norm of all weights before the first step, a scalar.
        max_growth: a step may make that norm this many times what it was; 0 = any growth.
    """

    def __init__(self, control: Control, weights: Tensor, max_growth: float) -> None:
        self._control, self._max_growth = control, max_growth
        self._weights = float(weights)
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
            f"Last good checkpoint: {last_good}. What helps: a lower optimizer.lr, a longer warm-up, "
            f"trainer.precision=fp32, trainer.clip_norm"
        )

    def _read(self, leaving: int) -> None:
        """Reads all but the newest steps, up to the first bad one."""
        while len(self._steps) > leaving:
            kept = self._steps.pop(0)
            if self._found is None:
                self._found = self._judge(kept)

    def _judge(self, kept: _Step) -> _Found | None:
        *losses, norm, weights = kept.read()
        before, self._weights = self._weights, weights
        every = tuple(name for ids in kept.sample_ids for name in ids)
        bad = [ids for loss, ids in zip(losses, kept.sample_ids, strict=True) if not math.isfinite(loss)]
        if bad:
            ids = tuple(name for part in bad for name in part)
            return _Found(kept.step, "loss", f"the loss of step {kept.step} is not finite", ids)
        if not math.isfinite(norm):
            return _Found(kept.step, "gradient", f"the gradient of step {kept.step} is not finite", every)
        if not math.isfinite(weights):
            return _Found(kept.step, "weights", f"the weights after step {kept.step} are not finite", every)
        if self._max_growth and before and weights > self._max_growth * before:
            said = (
                f"step {kept.step} made the weights {weights / before:.3g} times as large (L2 norm {before:.4g} to "
                f"{weights:.4g}, trainer.max_weight_growth={self._max_growth:g})"
            )
            return _Found(kept.step, "weights", said, every)
        return None
