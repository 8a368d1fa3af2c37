"""The order of samples: a pure function of (seed, epoch), read by position, for any number of processes.

The position counts samples over all processes, so that a run that goes on with another number of processes goes on with
the same samples. The orders of all epochs form one endless row: the last, uneven batch of an epoch is filled from the
order of the next one, and a data set smaller than a batch gives several epochs in one batch.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from jepa_core.errors import ConfigError, DataError
from jepa_core.seeds import sample_seed


@dataclass(frozen=True)
class Draw:
    """One sample to load: its index in the source, and the epoch that seeds its augmentation."""

    index: int
    epoch: int


@dataclass(frozen=True)
class MicroBatch:
    """What one process loads of one global micro-batch.

    Attributes:
        draws: this process's samples.
        batch_seed: equal on all processes.
    """

    draws: tuple[Draw, ...]
    batch_seed: int


class Sampler:
    """Endless micro-batches of this process, starting at any global position.

    Args:
        total: samples in the data set.
        seed: of the run.
        batch_size: samples per process and micro-batch.
        rank: this process.
        world: number of processes.
        position: global samples already consumed.
    """

    def __init__(
        self, total: int, seed: int, batch_size: int, rank: int = 0, world: int = 1, position: int = 0
    ) -> None:
        if total < 1:
            raise DataError("the data set is empty, expected at least 1 sample: check data.root")
        if batch_size < 1:
            raise ConfigError(f"trainer.batch_size must be at least 1, got {batch_size}")
        assert 0 <= rank < world and position >= 0
        self.total, self.seed, self.batch_size = total, seed, batch_size
        self.rank, self.world, self.global_position = rank, world, position
        self._orders: dict[int, Tensor] = {}

    @property
    def stride(self) -> int:
        """Samples of one global micro-batch."""
        return self.batch_size * self.world

    def order(self, epoch: int) -> Tensor:
        """Sample indices of this epoch, int64 ``[total]``."""
        if epoch not in self._orders:
            generator = torch.Generator().manual_seed(sample_seed(self.seed, epoch, "order of samples"))
            # Only the newest two epochs can still be read: positions only grow.
            self._orders = {kept: self._orders[kept] for kept in (epoch - 1,) if kept in self._orders}
            self._orders[epoch] = torch.randperm(self.total, generator=generator)
        return self._orders[epoch]

    def draw(self, position: int) -> Draw:
        """The sample at a global position."""
        epoch, place = divmod(position, self.total)
        return Draw(int(self.order(epoch)[place]), epoch)

    def at(self, position: int) -> MicroBatch:
        """This process's part of the global micro-batch that starts at ``position``."""
        start = position + self.rank * self.batch_size
        draws = tuple(self.draw(start + k) for k in range(self.batch_size))
        # The start position numbers the micro-batch: unlike a running count it means the same for every world size.
        return MicroBatch(draws, sample_seed(self.seed, position, "batch"))

    def __iter__(self) -> Iterator[MicroBatch]:
        while True:
            micro = self.at(self.global_position)
            self.global_position += self.stride
            yield micro
