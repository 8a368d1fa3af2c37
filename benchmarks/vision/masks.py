"""Block masks against the collators that were released with I-JEPA and V-JEPA, and how evenly the default masks lie.

    python benchmarks/vision/masks.py --reference <clone of ijepa> --reference-vjepa <clone of jepa>

Block sizes are drawn once a batch, so lengths differ much more between batches than within one size. Both sides are
therefore measured size by size and joined with the same weights, the probabilities of the sizes. Writes ``MASKS.md``.
"""

from __future__ import annotations

import argparse
import logging
import math
import subprocess
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from collators import Draw, Sizes, lattice, ours, released_clips, released_images, size_of
from torch import Tensor

from jepa_core.contracts import Masker
from jepa_core.lattice import Lattice
from jepa_core.masking.block import LONG, SHORT, MultiBlockMasker, TubeMasker

HERE = Path(__file__).parent
SIZE_DRAWS = 40_000


@dataclass
class OneSize:
    """What batches of one block size came to.

    Attributes:
        context, targets: lengths of each batch: sites of the context, sites in any target.
        context_sites, target_sites: how often each site was in them, a sample's mean, summed over batches; ``[N]``.
    """

    context: list[float] = field(default_factory=list)
    targets: list[float] = field(default_factory=list)
    context_sites: Tensor | float = 0.0
    target_sites: Tensor | float = 0.0

    def add(self, context_BN: Tensor, targets_BN: Tensor) -> None:
        """One batch, bool each."""
        seen, hidden = context_BN.double().mean(0), targets_BN.double().mean(0)
        self.context.append(float(seen.sum()))
        self.targets.append(float(hidden.sum()))
        self.context_sites, self.target_sites = self.context_sites + seen, self.target_sites + hidden


@dataclass(frozen=True)
class Figures:
    """One side of a row.

    Attributes:
        context, targets: mean length and its standard error.
        context_sites, target_sites: mean use of each site, ``[N]``.
        by_size: mean context length of each block size.
    """

    context: tuple[float, float]
    targets: tuple[float, float]
    context_sites: Tensor
    target_sites: Tensor
    by_size: tuple[float, ...]


def measured(draws: Iterator[Draw], batches: int) -> dict[Sizes, OneSize]:
    """``batches`` batches, sorted by block size."""
    found: dict[Sizes, OneSize] = defaultdict(OneSize)
    for _, (size, context, targets) in zip(range(batches), draws, strict=False):
        found[size].add(context, targets)
    return found


def joined(found: dict[Sizes, OneSize], weights: dict[Sizes, float]) -> Figures:
    """Means over sizes with these weights."""

    def length(key: str) -> tuple[float, float]:
        rows = [(weight, torch.tensor(getattr(found[size], key))) for size, weight in weights.items()]
        mean = sum(weight * float(x.mean()) for weight, x in rows)
        return mean, math.sqrt(sum(weight**2 * float(x.var()) / len(x) for weight, x in rows))

    def sites(key: str) -> Tensor:
        parts = [weight * getattr(found[size], key) / len(found[size].context) for size, weight in weights.items()]
        return torch.stack(parts).sum(0)

    by_size = tuple(float(torch.tensor(found[size].context).mean()) for size in weights)
    return Figures(length("context"), length("targets"), sites("context_sites"), sites("target_sites"), by_size)


# --------------------------------------------------------------------------------------------------------------------
# Parity
# --------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """One setting, and what an earlier run of a few hundred batches of the released collator gave."""

    title: str
    masker: Masker
    where: Lattice
    batch: int
    released: Iterator[Draw]
    earlier: str


@dataclass(frozen=True)
class Compared:
    """A row and what both sides came to."""

    row: Row
    released: Figures
    ours: Figures


def rows(images: Path, clips: Path) -> list[Row]:
    """Everything that is compared."""
    found = []
    for side, earlier in ((14, {8: "64.2", 32: "56.6", 128: "50.3"}), (16, {8: "86.2", 32: "76.7", 128: "67.2"})):
        masker, where = MultiBlockMasker(truncate="prefix", edges="inside"), lattice(side, side)
        for batch, length in earlier.items():
            draws = released_images(images, side, batch)
            found.append(Row(f"I-JEPA {side} x {side}", masker, where, batch, draws, length))
    short = {1: "37.7 / 62.3 %", 2: "34 / 58 %", 24: "23.6 / 47.9 %"}
    long = {1: "19.6 / 80.4 %", 2: "17 / 77 %", 24: "6.8 / 70.0 %"}
    for tubes, shares in ((SHORT, short), (LONG, long)):
        tube_masker = TubeMasker((tubes,), truncate="prefix", edges="inside")
        for batch, share in shares.items():
            draws = released_clips(clips, tubes, batch)
            found.append(Row(f"V-JEPA {tubes.name}", tube_masker, lattice(8, 14, 14), batch, draws, share))
    return found


def compare(row: Row, samples: int) -> Compared:
    """Both sides on about ``samples`` samples, at the same probabilities of block sizes."""
    torch.manual_seed(0)
    batches = min(max(samples // row.batch, 400), 5000)
    theirs = measured(row.released, batches)
    mine = measured(ours(row.masker, row.where, row.batch), batches)
    drawn = Counter(size_of(row.masker, row.where, seed) for seed in range(SIZE_DRAWS))
    # A size that hardly ever comes has no error of its own.
    both = [size for size in drawn if min(len(theirs[size].context), len(mine[size].context)) > 4]
    total = sum(drawn[size] for size in both)
    assert total > 0.98 * SIZE_DRAWS, "the two sides draw different sizes"
    weights = {size: drawn[size] / total for size in both}
    return Compared(row, joined(theirs, weights), joined(mine, weights))


def parity_lines(found: Sequence[Compared]) -> list[str]:
    """Lengths of both sides."""
    lines = [
        "| setting | batch | context, earlier | released | ours | ratio | targets together, released | ours | ratio |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for one in found:
        cells = [one.row.title, str(one.row.batch), one.row.earlier]
        for key in ("context", "targets"):
            theirs, mine = getattr(one.released, key), getattr(one.ours, key)
            error = mine[0] / theirs[0] * math.hypot(mine[1] / mine[0], theirs[1] / theirs[0])
            cells += [in_sites(theirs, one.row), in_sites(mine, one.row)]
            cells.append(f"{mine[0] / theirs[0]:.4f} ± {error:.4f}")
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def in_sites(length: tuple[float, float], row: Row) -> str:
    """A length with its error: sites of an image, percent of a clip."""
    if len(row.where.sizes) == 2:
        return f"{length[0]:.2f} ± {length[1]:.2f}"
    scale = 100 / row.where.count
    return f"{length[0] * scale:.2f} ± {length[1] * scale:.2f} %"


def along(sites: Tensor, where: Lattice, axis: int) -> Tensor:
    """Share of each line of an axis in all that is used, in percent."""
    others = [other for other in range(len(where.sizes)) if other != axis]
    lines = sites.view(where.sizes).sum(others)
    return 100 * lines / lines.sum()


def place_lines(found: Sequence[Compared]) -> list[str]:
    """Where contexts and targets lie."""
    lines = [
        "| setting | batch | side | top row | last three rows | last row and column |",
        "|---|---|---|---|---|---|",
    ]
    for one in found:
        if len(one.row.where.sizes) == 3:
            continue
        for side, figures in (("released", one.released), ("ours", one.ours)):
            by_row = along(figures.context_sites, one.row.where, 0)
            cells = [f"{float(by_row[0]):.2f} %", f"{float(by_row[-3:].sum()):.2f} %", border(figures, one.row.where)]
            lines.append("| " + " | ".join([one.row.title, str(one.row.batch), side, *cells]) + " |")
    lines += ["", "Context and targets by tubelet, the first to the last, in percent:", ""]
    lines += ["| setting | batch | side | context | targets |", "|---|---|---|---|---|"]
    for one in found:
        if len(one.row.where.sizes) == 2 or one.row.batch == 1:
            continue
        for side, figures in (("released", one.released), ("ours", one.ours)):
            shares = (figures.context_sites, figures.target_sites)
            cells = [" ".join(f"{x:.1f}" for x in along(sites, one.row.where, 0).tolist()) for sites in shares]
            lines.append("| " + " | ".join([one.row.title, str(one.row.batch), side, *cells]) + " |")
    return lines


def border(figures: Figures, where: Lattice) -> str:
    """Whether the last row and column are ever used."""
    both = torch.stack([figures.context_sites, figures.target_sites]).view(2, *where.sizes)
    used = float(both[:, -1].sum() + both[:, :, -1].sum())
    return "never used" if used == 0 else f"{used:.3f} sites an image"


# --------------------------------------------------------------------------------------------------------------------
# Evenness
# --------------------------------------------------------------------------------------------------------------------


def evenness_lines(chance: float) -> list[str]:
    """Least and most used site of masks of fixed length, from enough samples for chance alone to do no more."""
    lines = [
        "| masks | grid | edges | samples | context: least, most used | chance | targets: least, most used | chance |",
        "|---|---|---|---|---|---|---|---|",
    ]
    grids = {"images": [(14, 14), (16, 16), (10, 24)], "clips": [(8, 14, 14), (4, 6, 10)]}
    for edges in ("wrap", "inside"):
        for sizes in grids["images"]:
            lines.append(evenness("multiblock", MultiBlockMasker(edges=edges), lattice(*sizes), chance))
        for tubes in (SHORT, LONG):
            for sizes in grids["clips"]:
                lines.append(evenness(tubes.name, TubeMasker((tubes,), edges=edges), lattice(*sizes), chance))
    return lines


def evenness(name: str, masker: MultiBlockMasker | TubeMasker, where: Lattice, chance: float) -> str:
    """One line of the table."""
    batch = 1024 if where.count < 400 else 256
    shares = [float(here.double().mean()) for here in next(ours(masker, where, batch))[1:]]
    # What is inside deviates by tens of percent: no need to be as sure.
    wanted = chance if masker.edges == "wrap" else 0.05
    batches = math.ceil(max((1 - p) / p for p in shares) * (greatest_of(where.count) / wanted) ** 2 / batch)
    used = [torch.zeros(where.count, dtype=torch.float64) for _ in range(2)]
    for _, (_, context, targets) in zip(range(batches), ours(masker, where, batch), strict=False):
        for total, here in zip(used, (context, targets), strict=True):
            total += here.double().mean(0) / batches
    cells = [name, " x ".join(map(str, where.sizes)), masker.edges, str(batches * batch)]
    for share in used:
        relative = share / share.mean() - 1
        error = math.sqrt(float((1 - share.mean()) / share.mean()) / (batches * batch))
        cells.append(f"{100 * float(relative.min()):+.2f}, {100 * float(relative.max()):+.2f} %")
        cells.append(f"± {100 * error * greatest_of(where.count):.2f} %")
    return "| " + " | ".join(cells) + " |"


def greatest_of(sites: int) -> float:
    """Half of all samples of so many normal draws deviate by more than this many errors somewhere, by chance alone."""
    normal = torch.distributions.Normal(0.0, 1.0)
    return float(normal.icdf(torch.tensor((1 + 0.5 ** (1 / sites)) / 2, dtype=torch.float64)))


# --------------------------------------------------------------------------------------------------------------------
# The page
# --------------------------------------------------------------------------------------------------------------------

PAGE = """# Block masks

`python benchmarks/vision/masks.py --reference <clone of ijepa> --reference-vjepa <clone of jepa>`,
{samples} samples a row and side, but 400 batches at least and 5000 at most;
seed 0, torch {torch}, {minutes:.0f} min on one shared CPU core.
Released collators: facebookresearch/ijepa {ijepa}, facebookresearch/jepa {jepa}.

Figures are mean ± standard error. Block sizes are drawn once a batch and move lengths more than everything else: the
same collator gives contexts of {least:.0f} sites or of {most:.0f} (I-JEPA, 14 x 14, batch 32), depending on the sizes
drawn. Both sides are therefore measured size by size and joined with the probabilities of the sizes. The column
"earlier" is a run of a few hundred batches without that: where it differs from the released collator measured here, it
was too short.

## `truncate=prefix edges=inside` against the released collators

Lengths in sites of an image, percent of a clip of 8 x 14 x 14 (context / targets).

{parity}

Share of the context's sites in the top row and the last three rows, and use of the last row and column on either side.

{places}
"""


EVENNESS = """
## How evenly the masks of fixed length lie (`truncate=random`)

Use of the least and the most used site against the mean, over the grid. `wrap`, the default, has no preferred place:
what is left is chance, whose greatest deviation over the grid is beside it (its median). `inside` is as published:
the border is in fewer blocks. This part alone: `python benchmarks/vision/masks.py --evenness`.

{evenness}
"""


def commit(folder: Path) -> str:
    """The commit a clone is at."""
    call = ["git", "-C", str(folder), "rev-parse", "--short=12", "HEAD"]
    return subprocess.run(call, capture_output=True, text=True, check=True).stdout.strip()


def main() -> None:
    """Measures and writes the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reference", type=Path, help="clone of facebookresearch/ijepa")
    parser.add_argument("--reference-vjepa", type=Path, help="clone of facebookresearch/jepa")
    parser.add_argument("--evenness", action="store_true", help="that part alone, written anew into the page")
    parser.add_argument(
        "--samples", type=int, default=200_000, help="of each parity row and side, within 400 to 5000 batches"
    )
    parser.add_argument("--chance", type=float, default=0.025, help="samples of evenness: until chance does no more")
    parser.add_argument("--out", type=Path, default=HERE / "MASKS.md")
    chosen = parser.parse_args()
    if not chosen.evenness and not (chosen.reference and chosen.reference_vjepa):
        parser.error("expected --reference and --reference-vjepa, or --evenness")
    # The released collator warns whenever it draws a context block again.
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    page = chosen.out.read_text(encoding="utf-8").split("\n## How evenly")[0] if chosen.evenness else parity(chosen)
    evenly = "\n".join(evenness_lines(chosen.chance))
    chosen.out.write_text(page + EVENNESS.format(evenness=evenly), encoding="utf-8")
    print(chosen.out)


def parity(chosen: argparse.Namespace) -> str:
    """The page down to evenness."""
    start, found = time.perf_counter(), []
    for row in rows(chosen.reference, chosen.reference_vjepa):
        found.append(compare(row, chosen.samples))
        print("\n".join(parity_lines(found[-1:])[2:]), flush=True)
    return PAGE.format(
        samples=chosen.samples, torch=torch.__version__, minutes=(time.perf_counter() - start) / 60,
        ijepa=commit(chosen.reference), jepa=commit(chosen.reference_vjepa),
        least=min(found[1].released.by_size), most=max(found[1].released.by_size),
        parity="\n".join(parity_lines(found)), places="\n".join(place_lines(found)),
    )  # fmt: skip


if __name__ == "__main__":
    main()
