"""What masks look like in numbers: lengths, use of sites, repeats; for pictures, tests and ``jepa masks``."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import torch
from torch import Tensor

from jepa_core.contracts import Mask, Sites
from jepa_core.lattice import Lattice


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
    return MaskStatistics(
        name=mask.name,
        sites=sites,
        context=float(context.sum(1).float().mean()),
        blocks=mask.targets.ids.shape[1],
        block=float(mask.targets.valid_mask().sum(-1).float().mean()),
        union=float(union.sum(1).float().mean()),
        repeated=repeated_samples(mask),
    )


def repeated_samples(mask: Mask) -> int:
    """Samples in whose context, or in one of whose target blocks, a valid site stands twice."""
    return int((_repeats(mask.context) | _repeats(mask.targets)).sum())


def _repeats(sites: Sites) -> Tensor:
    """Bool ``[B]``: a valid site stands twice in one list, the last dimension."""
    # Entries that are not real get names of their own.
    own = -1 - torch.arange(sites.ids.shape[-1], device=sites.ids.device)
    ids = torch.where(sites.valid_mask(), sites.ids, own).sort(-1).values
    return (ids[..., 1:] == ids[..., :-1]).flatten(1).any(1)


def coverage(lists: Sequence[Sites], sites: int) -> Tensor:
    """Share of samples that hold each site, float64 ``[sites]``, over several batches."""
    held = torch.cat([one.on_lattice(sites) for one in lists])
    return held.double().mean(0)


# --------------------------------------------------------------------------------------------------------------------
# Over many batches
# --------------------------------------------------------------------------------------------------------------------


class Lengths:
    """Mean, least and most of what is added."""

    def __init__(self) -> None:
        self.total, self.count, self.least, self.most = 0, 0, math.inf, -math.inf

    def add(self, values: Tensor) -> None:
        """Whole numbers of any shape."""
        if values.numel():
            self.total, self.count = self.total + int(values.sum()), self.count + values.numel()
            self.least, self.most = min(self.least, int(values.min())), max(self.most, int(values.max()))

    def cells(self) -> list[str]:
        """Mean, least, most."""
        return [f"{self.total / max(self.count, 1):.1f}", f"{self.least:.0f}", f"{self.most:.0f}"]


class SiteUse:
    """How often each site of a lattice was in a list, of the samples in which it was there at all."""

    def __init__(self, lattice: Lattice) -> None:
        self.lattice = lattice
        self.held = torch.zeros(lattice.count, dtype=torch.float64)
        self.there = torch.zeros(lattice.count, dtype=torch.float64)

    def add(self, held_BN: Tensor, present_BN: Tensor | None) -> None:
        """One batch, bool both; None = every site is there."""
        self.held = self.held + held_BN.sum(0).cpu()
        self.there = self.there + (len(held_BN) if present_BN is None else present_BN.sum(0).cpu())

    def relative(self) -> Tensor:
        """Use of each site against the mean, ``[N]``; NaN at sites that were never there."""
        share = torch.where(self.there > 0, self.held / self.there, math.nan)
        return share / (self.held.sum() / self.there.sum())

    def by_chance(self) -> float:
        """Greatest deviation from 1 that even use would show: the median over repeated draws of as many samples."""
        share = float(self.held.sum() / self.there.sum())
        if not 0 < share < 1:
            return 0.0
        samples = float(self.there[self.there > 0].mean())
        greatest = NormalDist().inv_cdf((1 + 0.5 ** (1 / self.lattice.count)) / 2)
        return greatest * math.sqrt((1 - share) / share / samples)

    def cells(self) -> list[str]:
        """Least and most used site, chance, and the first and last line of each axis."""
        relative = self.relative()
        there = relative[~relative.isnan()]
        maps = relative.view(self.lattice.sizes)
        lines = []
        for axis, size in enumerate(self.lattice.sizes):
            ends = [float(maps.select(axis, place).nanmean()) for place in (0, size - 1)]
            lines.append(" ".join("-" if math.isnan(end) else f"{end:.2f}" for end in ends))
        return [f"{float(there.min()):.2f}", f"{float(there.max()):.2f}", f"{self.by_chance():.2f}", *lines]


class MaskTally:
    """One mask of a sample over many batches: lengths, use of sites, repeats."""

    def __init__(self, name: str, lattice: Lattice) -> None:
        self.name, self.lattice = name, lattice
        self.batches = self.samples = self.repeated = self.blocks = 0
        self.context, self.block, self.union = Lengths(), Lengths(), Lengths()
        self.seen, self.hidden = SiteUse(lattice), SiteUse(lattice)

    @torch.no_grad()
    def add(self, mask: Mask, present: Tensor | None) -> None:
        """One batch; ``present`` as in :class:`jepa_core.contracts.Grid`."""
        context, union = mask.context.on_lattice(self.lattice.count), mask.targets.on_lattice(self.lattice.count)
        self.batches, self.samples, self.blocks = (
            self.batches + 1,
            self.samples + len(context),
            mask.targets.ids.shape[1],
        )
        self.repeated += repeated_samples(mask)
        self.context.add(context.sum(1))
        self.block.add(mask.targets.valid_mask().sum(-1))
        self.union.add(union.sum(1))
        self.seen.add(context, present)
        self.hidden.add(union, present)

    def lines(self) -> list[str]:
        """A small table."""
        sizes, axes = " x ".join(map(str, self.lattice.sizes)), ", ".join(self.lattice.axes)
        title = f"{self.name}: {self.batches} batches of {self.samples // self.batches} on {sizes} sites ({axes})"
        ends = [f"ends of {axis}" for axis in self.lattice.axes]
        blocks = "target block" if self.blocks == 1 else f"{self.blocks} target blocks, each"
        rows = [
            ["", "mean", "least", "most", "least used", "most used", "by chance +-", *ends],
            ["context", *self.context.cells(), *self.seen.cells()],
            [blocks, *self.block.cells()],
            ["targets together", *self.union.cells(), *self.hidden.cells()],
        ]
        repeated = f"  repeated sites in {self.repeated} of {self.samples} samples: their lists had too little room"
        return [title, *_aligned(rows), *([repeated] if self.repeated else [])]


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Columns of equal width: the first to the left, the others to the right."""
    most = max(map(len, rows))
    full = [[*row, *[""] * (most - len(row))] for row in rows]
    widths = [max(len(row[column]) for row in full) for column in range(most)]
    return [
        "  "
        + "  ".join(
            c.ljust(w) if k == 0 else c.rjust(w) for k, (c, w) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in full
    ]
