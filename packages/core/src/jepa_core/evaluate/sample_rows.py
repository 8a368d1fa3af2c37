"""A few hundred samples of a split, drawn once: their embeddings by several encoders, their pictures, examples of them.

Samples need no label. Each is decoded once for all encoders.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from jepa_core.data.move import to_device
from jepa_core.evaluate.labelled import ToRows
from jepa_core.evaluate.share import Chunks
from jepa_core.evaluate.tables import EmbeddingTable
from jepa_core.evaluation_source import DrawsSamples, Evaluable, LabelledSource
from jepa_core.settings import RunSettings


@dataclass(frozen=True)
class SampleRows:
    """Embedded samples; row i of every table is of the sample at ``places[i]``.

    Attributes:
        places: in the source, rising.
        tables: by the name of the encoder, with labels and groups.
        unreadable: samples that were drawn and could not be read.
    """

    places: tuple[int, ...]
    tables: Mapping[str, EmbeddingTable]
    unreadable: int


def draw_places(total: int, most: int, seed: int) -> list[int]:
    """At most so many of the places 0 to ``total`` - 1, drawn by the seed, rising."""
    return sorted(random.Random(seed).sample(range(total), min(most, total)))


def embed_samples(
    source: LabelledSource, chunks: Chunks, readers: Mapping[str, ToRows], device: torch.device
) -> SampleRows:
    """Embeds samples by each of the readers.

    Args:
        source: of the labels and groups.
        chunks: batches of its samples.
        readers: a batch on ``device`` to vectors ``[B, D]``, by the name of the encoder.
        device: where they are computed.

    Raises:
        ValueError: none of the samples can be read, or a feature is not finite.
    """
    places: list[int] = []
    found: dict[str, list[Tensor]] = {name: [] for name in readers}
    for loaded in (chunks[place] for place in range(len(chunks))):
        if loaded.batch is None:
            continue
        batch = to_device(loaded.batch, device)
        for name, to_rows in readers.items():
            found[name].append(to_rows(batch).float().cpu())
        places += loaded.indices
    if not places:
        raise ValueError(f"expected samples that can be read, got none of {len(chunks.indices)}")
    vectors = {name: torch.cat(rows) for name, rows in found.items()}
    if broken := [name for name, rows in vectors.items() if not bool(torch.isfinite(rows).all())]:
        raise ValueError(f"expected finite features, got NaN or infinity from the {broken[0]} encoder")
    tables = {name: _table(source, places, rows) for name, rows in vectors.items()}
    return SampleRows(tuple(places), tables, len(chunks.indices) - len(places))


def _table(source: LabelledSource, places: Sequence[int], vectors: Tensor) -> EmbeddingTable:
    def column(values: Sequence[Any]) -> Any:
        # An empty array first: numpy would make numbers of numbers.
        held = np.empty(len(values), dtype=object)
        held[:] = values
        return held

    return EmbeddingTable(
        column([source.sample_id(place) for place in places]),
        vectors.numpy(),
        label=column([source.label(place) for place in places]),
        group=column([source.group(place) for place in places]),
    )


# --------------------------------------------------------------------------------------------------------------------
# Examples
# --------------------------------------------------------------------------------------------------------------------


def choose_queries(labels: Sequence[Hashable], groups: Sequence[Hashable], count: int, seed: int) -> list[int]:
    """Rows to show, drawn by the seed alone: in turn one of each label, in an order that the seed draws too.

    Args:
        labels: of each row, None = not known. Where none is known, ``groups`` stand for them; a row without a label
            (or without a group) is then one of its own.
        groups: of each row, None = the row stands alone.
        count: how many, at most.
        seed: of the draw.
    """
    labelled = any(label is not None for label in labels)
    kinds = labels if labelled else [f"row {row}" if group is None else group for row, group in enumerate(groups)]
    rows_of: dict[Hashable, list[int]] = {}
    for row, kind in enumerate(kinds):
        if kind is not None:
            rows_of.setdefault(kind, []).append(row)
    draw = random.Random(seed)
    order = sorted(rows_of, key=str)
    draw.shuffle(order)
    for kind in order:
        draw.shuffle(rows_of[kind])
    longest = max(map(len, rows_of.values()), default=0)
    turns = [rows_of[kind][turn] for turn in range(longest) for kind in order if turn < len(rows_of[kind])]
    return turns[:count]


def largest_group(groups: Sequence[Hashable]) -> int:
    """Samples of the largest group; 1 where no two samples share one."""
    return max(Counter(group for group in groups if group is not None).values(), default=1)


def counts_other_groups(groups: Sequence[Hashable], k: int) -> bool:
    """Whether neighbours are looked for in other groups: some share one, and k samples are outside of the largest."""
    largest = largest_group(groups)
    return largest > 1 and len(groups) - largest >= k


# --------------------------------------------------------------------------------------------------------------------
# Pictures
# --------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Drawn:
    """Pictures of samples.

    Attributes:
        png: by sample id, of the samples that could be drawn.
        how: see :class:`jepa_core.results.SamplePictures`.
    """

    png: Mapping[str, bytes]
    how: str = ""


def draw_samples(modality: Any, config: Any, chunks: Chunks) -> Drawn:
    """Pictures of samples; none where the modality does not draw (see :class:`DrawsSamples`).

    Raises:
        ValueError: the modality draws another number of pictures than there are samples.
    """
    if not isinstance(modality, DrawsSamples):
        return Drawn({})
    png: dict[str, bytes] = {}
    how = ""
    for loaded in (chunks[place] for place in range(len(chunks))):
        if loaded.batch is None:
            continue
        found = modality.sample_pictures(config, loaded.batch)
        if len(found.png) != len(loaded.batch):
            raise ValueError(f"sample_pictures: expected {len(loaded.batch)} pictures, got {len(found.png)}")
        png |= {name: data for name, data in zip(loaded.batch.sample_id, found.png, strict=True) if data is not None}
        how = found.how or how
    return Drawn(png, how)


def draw_by_name(modality: Any, config: RunSettings, split: Any, wanted: Callable[[str], bool]) -> Drawn:
    """Pictures of the wanted samples of a split; none where the modality has no such split.

    Args:
        modality, config: of a run.
        split: see :data:`jepa_core.evaluation_source.Split`.
        wanted: whether a sample id is.
    """
    source = modality.evaluation(config, split) if isinstance(modality, Evaluable) else None
    if source is None:
        return Drawn({})
    places = [place for place in range(len(source)) if wanted(source.sample_id(place))]
    return draw_samples(modality, config, Chunks(source, places, config.trainer.batch_size, config.seed))
