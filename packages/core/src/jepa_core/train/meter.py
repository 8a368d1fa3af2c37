"""What a run costs: steps and samples a second, the share of time spent waiting for data, and memory."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def peak_rss_mib() -> float:
    """Highest resident memory of this process so far, in MiB (loader processes not counted)."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10  # macOS counts bytes, Linux KiB


class Meter:
    """Counts between two readings.

    Args:
        samples_per_step: over all processes.
        device: for CUDA memory.
    """

    def __init__(self, samples_per_step: int, device: torch.device) -> None:
        self._samples_per_step, self._device = samples_per_step, device
        self._start_s, self._wait_s, self._steps = time.perf_counter(), 0.0, 0

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Time inside counts as waiting for data."""
        start_s = time.perf_counter()
        yield
        self._wait_s += time.perf_counter() - start_s

    @contextmanager
    def pausing(self) -> Iterator[None]:
        """Time inside does not count."""
        start_s = time.perf_counter()
        yield
        self._start_s += time.perf_counter() - start_s

    def step(self) -> None:
        """One optimiser step is done."""
        self._steps += 1

    def read(self) -> dict[str, float]:
        """Figures since the last reading; starts anew."""
        now_s = time.perf_counter()
        elapsed_s = max(now_s - self._start_s, 1e-9)
        figures = {
            "samples_per_s": self._steps * self._samples_per_step / elapsed_s,
            "steps_per_s": self._steps / elapsed_s,
            "data_wait": self._wait_s / elapsed_s,
            "peak_rss_mib": peak_rss_mib(),
        }
        if self._device.type == "cuda":
            figures["cuda_peak_mib"] = torch.cuda.max_memory_allocated(self._device) / 2**20
        self._start_s, self._wait_s, self._steps = now_s, 0.0, 0
        return figures
