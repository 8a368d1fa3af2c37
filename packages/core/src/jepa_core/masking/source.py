"""What draws a configuration's masks, without the networks that they are for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from jepa_core.contracts import Batch, Grid, Mask, Masker
from jepa_core.masking.curriculum import Curriculum
from jepa_core.seeds import seeds_of_views


@dataclass(frozen=True)
class MaskSource:
    """Front end and masker of a method.

    Attributes:
        front_end: raw inputs and seeds to what an encoder takes and what is known of each site.
        masker: see :class:`jepa_core.contracts.Masker`.
        views: V, of each sample; the inputs hold them one after the other.
    """

    front_end: Callable[[Any, Tensor], tuple[Any, Grid]]
    masker: Masker
    views: int = 1

    def rows(self, seeds: Tensor) -> Tensor:
        """A seed for each row of the inputs: for each view of each sample."""
        return seeds if self.views == 1 else seeds_of_views(seeds, self.views)

    def draw(self, grid: Grid, seeds: Tensor, batch_seed: int, step: int = 1) -> tuple[Mask, ...]:
        """Masks at an optimiser step counted from 1; ``seeds`` are those of :meth:`rows`."""
        masker = self.masker.at(step - 1) if isinstance(self.masker, Curriculum) else self.masker
        return masker(grid, seeds, batch_seed)

    def masks(self, batch: Batch) -> tuple[Grid, tuple[Mask, ...]]:
        """The masks this batch would be trained on, as the method's own ``masks``."""
        seeds = self.rows(batch.seeds)
        _, grid = self.front_end(batch.inputs, seeds)
        return grid, self.draw(grid, seeds, batch.batch_seed, batch.step)


@runtime_checkable
class MakesMasks(Protocol):
    """A modality that can draw masks without its networks, which may be huge, and whose samples all have one grid.

    For ``jepa masks`` its ``pictures`` are given the source in the place of a method, and a batch with the seeds of all
    samples but the inputs of the first few.
    """

    def masking(self, config: Any) -> MaskSource:
        """Front end and masker of this configuration."""
        ...
