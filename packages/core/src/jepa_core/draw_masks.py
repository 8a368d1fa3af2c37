"""What ``jepa masks`` does: draws the masks of the first training batch, and counts those of many batches."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from jepa_core.contracts import Batch, Grid, Method, Modality, Picture, SampleSource
from jepa_core.data.loader import Loader
from jepa_core.data.sampler import Sampler
from jepa_core.errors import ConfigError, value_errors_are_users
from jepa_core.masking.source import MakesMasks, MaskSource
from jepa_core.masking.statistics import MaskTally
from jepa_core.methods.masked import MaskedPrediction
from jepa_core.seeds import sample_seed
from jepa_core.settings import RunSettings
from jepa_core.train.run import build_method

SHOWN = 4
"""Samples whose inputs are loaded where masks need no more."""

MOST_BATCHES = 64
MOST_ENTRIES = 12_000_000
"""Sites of all samples together that are counted: a few seconds."""


def draw_masks(settings: RunSettings, modality: Modality, out: Path) -> None:
    """Writes pictures to ``out``, several to ``<out>-1.png``, ``<out>-2.png``, ..., and prints the statistics.

    Raises:
        UserError: data or settings that cannot be, or a modality without masks.
    """
    with value_errors_are_users():
        source = modality.sources(settings)
        sampler = Sampler(len(source), settings.seed, settings.trainer.batch_size)
    if isinstance(modality, MakesMasks):
        drawer: MaskSource | Method = modality.masking(settings)
        batch = _first_samples(source, sampler, settings.seed)
    else:
        drawer = build_method(settings, modality).eval()
        batch = Loader(source, sampler, settings.seed).peek()
    for sample_id, reason in batch.rejected:
        print(f"jepa: {sample_id} was replaced: {reason}", file=sys.stderr)
    with torch.no_grad(), value_errors_are_users():
        pictures = modality.pictures(settings, cast(Method, drawer), batch)
    if not pictures:
        raise ConfigError(f"modality {modality.name}: expected mask pictures of this configuration, got none")
    _write(pictures, out)
    if isinstance(drawer, MaskSource | MaskedPrediction):
        masks = drawer if isinstance(drawer, MaskSource) else drawer.mask_source()
        _print_statistics(masks, batch, _draws(source, sampler, settings.seed))


def _first_samples(source: SampleSource, sampler: Sampler, seed: int) -> Batch:
    """The first batch with the seeds of all its samples and the inputs of the first few, which pictures show."""
    few = Sampler(sampler.total, seed, min(SHOWN, sampler.batch_size))
    shown = Loader(source, few, seed).peek()
    seeds, batch_seed = next(_draws(source, sampler, seed))
    assert batch_seed == shown.batch_seed, "a batch seed follows from where the batch begins"
    return replace(shown, seeds=torch.cat([shown.seeds, seeds[len(shown) :]]))


def _write(pictures: Sequence[Picture], out: Path) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    for number, picture in enumerate(pictures, 1):
        path = out if len(pictures) == 1 else out.with_name(f"{out.stem}-{number}{out.suffix}")
        path.write_bytes(picture.png)
        print(f"{path}: {picture.title}{'. ' if picture.caption else ''}{picture.caption}")


def _draws(source: SampleSource, sampler: Sampler, seed: int) -> Iterator[tuple[Tensor, int]]:
    """Sample seeds and batch seed of the batches that training begins with; nothing is decoded."""
    for micro in Sampler(sampler.total, seed, sampler.batch_size):
        seeds = [sample_seed(seed, draw.epoch, source.sample_id(draw.index)) for draw in micro.draws]
        yield torch.tensor(seeds, dtype=torch.int64), micro.batch_seed


@torch.no_grad()
def _print_statistics(source: MaskSource, batch: Batch, draws: Iterator[tuple[Tensor, int]]) -> None:
    _, grid = source.front_end(batch.inputs, source.rows(batch.seeds))
    tallies: dict[str, MaskTally] = {}
    for _ in range(_batches(grid, len(batch.seeds))):
        seeds, batch_seed = next(draws)
        for mask in source.draw(grid, source.rows(seeds), batch_seed):
            tallies.setdefault(mask.name, MaskTally(mask.name, grid.lattice)).add(mask, grid.present)
    for tally in tallies.values():
        print("\n" + "\n".join(tally.lines()))
    where = "" if grid.present is None and grid.occupied is None else " All are masks of the first batch's samples."
    print(f"\nLengths in sites; use of a site, and of the first and last line of an axis, against the mean.{where}")


def _batches(grid: Grid, batch: int) -> int:
    return max(1, min(MOST_BATCHES, MOST_ENTRIES // (batch * grid.lattice.count)))
