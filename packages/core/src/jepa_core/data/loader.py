"""The loader: batches of a SampleSource whose content depends on (seed, position) alone, never on the worker count."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset
from torch.utils.data import Sampler as TorchSampler

from jepa_core.contracts import BadSample, Batch, SampleSource
from jepa_core.data.move import map_tensors
from jepa_core.data.sampler import Draw, MicroBatch, Sampler
from jepa_core.errors import ConfigError, DataError, UserError
from jepa_core.seeds import sample_seed

# A replacement is looked for this many places along the data set before the data are called unusable.
_MOST_REPLACEMENTS = 1000


def choose_workers(setting: str, processes: int, cores: int | None = None) -> tuple[int, str]:
    """Loader processes per training process, and why.

    Args:
        setting: ``auto`` or a number.
        processes: training processes on this machine.
        cores: CPU cores; None = those this process may use.
    """
    cores = available_cores() if cores is None else cores
    if setting != "auto":
        if not str(setting).isdigit():
            raise ConfigError(f"data.workers: expected auto or a number >= 0, got {setting!r}")
        return int(setting), "as set by data.workers"
    if cores <= 2:
        return 0, f"{cores} CPU cores: the training process needs them itself"
    return min(8, max(0, cores // processes - 1)), f"{cores} CPU cores for {processes} training processes, at most 8"


def available_cores() -> int:
    """CPU cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@dataclass
class _Loaded:
    """What one load gave: the batch, or why there is none. A class of its own so that the loader can pin it."""

    batch: Batch | None
    failure: str = ""

    def pin_memory(self) -> _Loaded:
        """The same in page-locked memory."""
        return _Loaded(map_tensors(self.batch, lambda x: x.pin_memory()), self.failure)


@dataclass
class _Rejected:
    entries: list[tuple[str, str]] = field(default_factory=list)


class BatchReader(Dataset):
    """Loads one micro-batch: the part of the loader that runs in a worker."""

    def __init__(self, source: SampleSource, seed: int) -> None:
        self.source, self.seed = source, seed

    def __getitem__(self, micro: MicroBatch) -> _Loaded:
        """One :class:`~jepa_core.contracts.Batch`, bad samples replaced."""
        rejected = _Rejected()
        try:
            samples = [self._load(draw, rejected) for draw in micro.draws]
        except UserError as error:  # an exception that crosses a worker's border arrives as a traceback in a string
            return _Loaded(None, str(error))
        return _Loaded(
            Batch(
                inputs=self.source.collate([sample for sample, _, _ in samples]),
                seeds=torch.tensor([seed for _, seed, _ in samples], dtype=torch.int64),
                sample_id=tuple(sample_id for _, _, sample_id in samples),
                batch_seed=micro.batch_seed,
                rejected=tuple(rejected.entries),
            )
        )

    def _load(self, draw: Draw, rejected: _Rejected) -> tuple[Any, int, str]:
        """(sample, seed, sample_id) of a draw, or of the sample that stands in for it."""
        total = len(self.source)
        for attempt in range(min(total, _MOST_REPLACEMENTS) + 1):
            index = draw.index if attempt == 0 else self._stand_in(draw, attempt)
            sample_id = self.source.sample_id(index)
            seed = sample_seed(self.seed, draw.epoch, sample_id)
            try:
                return self.source.load(index, seed), seed, sample_id
            except (BadSample, OSError) as error:
                rejected.entries.append((sample_id, str(error) or type(error).__name__))
        raise DataError(
            f"no usable sample in {len(rejected.entries)} tries; the last is {rejected.entries[-1][0]}: "
            f"{rejected.entries[-1][1]}. Check data.root"
        )

    def _stand_in(self, draw: Draw, attempt: int) -> int:
        """A start drawn from the bad sample's own seed, then the samples that follow: every one is tried once."""
        bad_id = self.source.sample_id(draw.index)
        start = sample_seed(self.seed, draw.epoch, f"stand-in for {bad_id}")
        return (start + attempt) % len(self.source)


class _TorchSampler(TorchSampler):
    """A :class:`Sampler` in the shape DataLoader wants."""

    def __init__(self, sampler: Sampler) -> None:
        self.sampler = sampler

    def __iter__(self) -> Iterator[MicroBatch]:
        return iter(self.sampler)


class Loader:
    """Endless batches of this process, on the CPU.

    Args:
        source: the samples.
        sampler: their order. Workers read it ahead: :attr:`global_position` here is that of what was handed out.
        seed: of the run.
        workers: loader processes.
        pin: page-locked memory, for CUDA.
    """

    def __init__(self, source: SampleSource, sampler: Sampler, seed: int, workers: int = 0, pin: bool = False) -> None:
        self.global_position = sampler.global_position
        self._reader, self._sampler = BatchReader(source, seed), sampler
        loader = DataLoader(
            self._reader,
            sampler=_TorchSampler(sampler),
            batch_size=None,
            num_workers=workers,
            collate_fn=_unchanged,
            pin_memory=pin,
            worker_init_fn=_quiet_worker,
            # Without a generator of its own the loader would draw from the global one and shift all other randomness.
            generator=torch.Generator(),
        )
        self._batches: Iterator[_Loaded] | None = iter(loader)

    def next(self) -> Batch:
        """The next batch.

        Raises:
            DataError: no usable sample was found.
        """
        assert self._batches is not None, "the loader is closed"
        batch = _unpack(next(self._batches))
        self.global_position += self._sampler.stride
        return batch

    def peek(self) -> Batch:
        """The batch at the present position, loaded here and now, without moving on."""
        return _unpack(self._reader[self._sampler.at(self.global_position)])

    def close(self) -> None:
        """Ends the workers."""
        self._batches = None


def _unpack(loaded: _Loaded) -> Batch:
    if loaded.batch is None:
        raise DataError(loaded.failure)
    return loaded.batch


def _unchanged(loaded: Any) -> Any:
    return loaded


def _quiet_worker(worker: int) -> None:
    """Ctrl-C reaches the whole terminal group, a scheduler's SIGTERM every process of the job.

    The training process alone decides what follows: it needs its workers to reach the checkpoint, and they end with it.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
