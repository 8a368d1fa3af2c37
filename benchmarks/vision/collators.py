"""Masks of the collators released with I-JEPA and V-JEPA, run from clones, and of this library."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from jepa_core.contracts import Grid, Mask, Masker
from jepa_core.lattice import Lattice
from jepa_core.masking.block import MultiBlockMasker, TubeMasker, Tubes

PATCH = 16
Sizes = tuple[int, ...]
Draw = tuple[Sizes, Tensor, Tensor]
"""Block sizes of a batch, and which sites are context and targets, bool ``[B, N]``."""


def load(file: Path) -> Any:
    """A module from a file, without its package."""
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None and spec.loader is not None, f"no Python file {file}"
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def on_sites(ids: Sequence[Tensor], count: int) -> Tensor:
    """Lists of ids ``[B, n]`` to bool ``[B, count]``: in any of them."""
    out = torch.zeros(len(ids[0]), count, dtype=torch.bool)
    for one in ids:
        out.scatter_(1, one, True)
    return out


def recorded(generator: Any) -> list[Sizes]:
    """The list that ``generator`` from now on writes the sizes it draws into."""
    sizes: list[Sizes] = []
    draw: Callable[..., Sizes] = generator._sample_block_size

    def and_note(**arguments: Any) -> Sizes:
        sizes.append(draw(**arguments))
        return sizes[-1]

    generator._sample_block_size = and_note
    return sizes


def released_images(folder: Path, side: int, batch: int) -> Iterator[Draw]:
    """I-JEPA's collator with the values of its recipes."""
    collator = load(folder / "src/masks/multiblock.py").MaskCollator(
        input_size=side * PATCH, patch_size=PATCH, enc_mask_scale=(0.85, 1.0), pred_mask_scale=(0.15, 0.2),
        aspect_ratio=(0.75, 1.5), nenc=1, npred=4, min_keep=10,
    )  # fmt: skip
    sizes = recorded(collator)
    while True:
        sizes.clear()
        _, context, targets = collator([0] * batch)
        yield (*sizes[0], *sizes[1]), on_sites(context, side * side), on_sites(targets, side * side)


def released_clips(folder: Path, tubes: Tubes, batch: int) -> Iterator[Draw]:
    """V-JEPA's collator with the values of its recipes, one of its two sets."""
    module = load(folder / "src/masks/multiblock3d.py")
    wanted = {
        "spatial_scale": tubes.scale, "temporal_scale": tubes.time_scale,
        "aspect_ratio": tubes.aspect, "num_blocks": tubes.blocks,
    }  # fmt: skip
    collator = module.MaskCollator([wanted], crop_size=14 * PATCH, num_frames=16, patch_size=PATCH)
    sizes = recorded(collator.mask_generators[0])
    while True:
        _, context, targets = collator([0] * batch)
        yield sizes[-1], on_sites(context, 1568), on_sites(targets, 1568)


def lattice(*sizes: int) -> Lattice:
    """A lattice of 2 or 3 axes."""
    n = len(sizes)
    return Lattice(("t", "y", "x")[-n:], sizes, (1.0,) * n, ("px",) * n, (0.0,) * n)


def size_of(masker: Masker, where: Lattice, batch_seed: int) -> Sizes:
    """Block sizes of a batch."""
    if isinstance(masker, TubeMasker):
        return masker.sides(0, where, batch_seed)
    assert isinstance(masker, MultiBlockMasker)
    target, context = masker.sides(where, batch_seed)
    return (*target, *context)


def masks(masker: Masker, where: Lattice, batch: int) -> Iterator[tuple[int, Mask]]:
    """Batch seeds and the first mask of endless batches."""
    batch_seed = 0
    while True:
        batch_seed += 1
        seeds = torch.arange(batch) + batch_seed * batch
        yield batch_seed, masker(Grid(where), seeds, batch_seed)[0]


def ours(masker: Masker, where: Lattice, batch: int) -> Iterator[Draw]:
    """The same of this library."""
    for batch_seed, mask in masks(masker, where, batch):
        on = (mask.context.on_lattice(where.count), mask.targets.on_lattice(where.count))
        yield size_of(masker, where, batch_seed), *on
