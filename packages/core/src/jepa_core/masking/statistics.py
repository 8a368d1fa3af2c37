"""What masks look like in numbers: lengths, coverage, repeats; for pictures, tests and ``jepa masks``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from jepa_core.contracts import Mask, Sites


@dataclass(frozen=True)
class MaskStatistics:
    """Of one mask over a batch.

    Attributes:
        name: of the mask.
        sites: of the lattice.
        context: mean number of sites in the context, repeats not counted.
        blocks: target blocks of a sample.
        block: mean number of sites of a block.
        union: mean number of sites in any target block.
        repeated: samples in whose lists a site stands twice, because no layout drawn left enough sites.
    """

    name: str
    sites: int
    context: float
    blocks: int
    block: float
    union: float
    repeated: int

    def sentence(self) -> str:
        """In one line."""
        shares = [100 * count / self.sites for count in (self.context, self.union)]
        blocks = f"{self.blocks} target block{'s' if self.blocks > 1 else ''} of {self.block:.1f} sites"
        text = f"{self.name}: context {self.context:.1f} of {self.sites} sites ({shares[0]:.0f} %), {blocks}"
        text += f", together {self.union:.1f} ({shares[1]:.0f} %)"
        return text + (f", repeated sites in {self.repeated} samples" if self.repeated else "")


@torch.no_grad()
def mask_statistics(mask: Mask, sites: int) -> MaskStatistics:
    """Statistics of a mask on a lattice of ``sites`` sites, means over the batch."""
    context, union = mask.context.on_lattice(sites), mask.targets.on_lattice(sites)
    repeated = _repeats(mask.context) | _repeats(mask.targets, across=2)
    return MaskStatistics(
        name=mask.name,
        sites=sites,
        context=float(context.sum(1).float().mean()),
        blocks=mask.targets.ids.shape[1],
        block=float(mask.targets.valid_mask().sum(-1).float().mean()),
        union=float(union.sum(1).float().mean()),
        repeated=int(repeated.sum()),
    )


def _repeats(sites: Sites, across: int = 1) -> Tensor:
    """Bool ``[B]``: a valid site stands twice in a list; lists of more dimensions are looked at one by one."""
    # Entries that are not real get names of their own.
    own = -1 - torch.arange(sites.ids.shape[-1], device=sites.ids.device)
    ids = torch.where(sites.valid_mask(), sites.ids, own).sort(-1).values
    twice = (ids[..., 1:] == ids[..., :-1]).any(-1)
    return twice.any(-1) if across == 2 else twice


def coverage(lists: Sequence[Sites], sites: int) -> Tensor:
    """Share of samples that hold each site, float64 ``[sites]``, over several batches."""
    held = torch.cat([one.on_lattice(sites) for one in lists])
    return held.double().mean(0)
