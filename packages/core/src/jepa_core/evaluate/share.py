"""A process's share of an embedding table: its samples in order, loaded, embedded and written in bounded memory."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from jepa_core.contracts import BadSample, Batch, Embedding, Method
from jepa_core.data.move import to_device
from jepa_core.evaluate.features import TOKENS, layer_embeddings, pool
from jepa_core.evaluate.table_writer import Rows, TableWriter, table_schema
from jepa_core.evaluation_source import LabelledSource
from jepa_core.seeds import sample_seed

POOLED = "sample"
"""What the column ``pooling`` says of features that the method itself gives as one vector a sample."""


@dataclass(frozen=True)
class Wanted:
    """Which features.

    Attributes:
        layers: see :func:`jepa_core.evaluate.features.layer_embeddings`.
        pooling: of ``mean``, ``max`` and ``tokens`` (a row for each valid site).
        encoder: ``online`` or ``target``.
    """

    layers: tuple[str, ...] = ("last",)
    pooling: tuple[str, ...] = ("mean",)
    encoder: str = "online"


@dataclass(frozen=True)
class Job:
    """What all processes work on.

    Attributes:
        method: with its weights, on ``device``.
        source: all samples of the table.
        wanted: which features.
        device: where they are computed.
        seed: of the run; a front end that draws at random draws from it and the sample's name.
        batch_size: samples computed at a time.
        workers: loader processes.
        metadata: of the table.
    """

    method: Method
    source: LabelledSource
    wanted: Wanted
    device: torch.device
    seed: int
    batch_size: int
    workers: int
    metadata: Mapping[str, str]


def share_of(total: int, rank: int, world: int, batch_size: int) -> range:
    """The samples of a process: shares follow one another and differ by at most one batch.

    Their batches are those of one process, so that every vector has the bits that it has there: products of matrices
    round by how many rows they have.
    """
    batches = -(-total // batch_size)
    first, last = (batches * place // world * batch_size for place in (rank, rank + 1))
    return range(min(first, total), min(last, total))


def labels_are_numbers(source: LabelledSource) -> bool:
    """Whether the first label that is known is a whole number; text otherwise. Nothing is decoded."""
    labels = (source.label(index) for index in range(len(source)))
    return isinstance(next((label for label in labels if label is not None), None), int)


class Share:
    """Embeds samples into a Parquet file; call :meth:`advance` until it has gone through all, then :meth:`close`.

    Args:
        job: what all processes work on.
        indices: the samples of this process.
        part: the file; it is made with the first vectors, and not at all where no sample can be read.

    Attributes:
        samples: embedded so far.
        rows: vectors written.
        unreadable: (sample_id, reason) of samples that were left out.
    """

    def __init__(self, job: Job, indices: range, part: Path) -> None:
        self.job, self.part = job, part
        self.samples, self.rows = 0, 0
        self.unreadable: list[tuple[str, str]] = []
        self._writer: TableWriter | None = None
        self._numbered = labels_are_numbers(job.source)
        self._batches: Iterator[Loaded] | None = iter(_loader(job, indices))

    def advance(self, batches: int) -> None:
        """Goes through at most so many batches."""
        assert self._batches is not None, "the share is closed"
        for loaded in islice(self._batches, batches):
            self.unreadable += loaded.unreadable
            if loaded.batch is not None:
                self._embed(loaded.batch, loaded.indices)

    @torch.inference_mode()
    def _embed(self, batch: Batch, indices: Sequence[int]) -> None:
        wanted = self.job.wanted
        found = layer_embeddings(self.job.method, to_device(batch, self.job.device), wanted.layers, wanted.encoder)
        for layer, embedding in found.items():
            for pooling in wanted.pooling:
                self._add(self._rows(batch, indices, layer, pooling, embedding))
        self.samples += len(batch)

    def _rows(self, batch: Batch, indices: Sequence[int], layer: str, pooling: str, embedding: Embedding) -> Rows:
        source, site = self.job.source, None
        place = list(range(len(batch)))
        if pooling == TOKENS:
            if embedding.sites is None:
                raise ValueError(
                    f"pooling: expected features of sites for tokens, layer {layer} is one vector a sample"
                )
            valid = embedding.sites.valid_mask().cpu()
            vectors = embedding.features.float().cpu()[valid].numpy()
            site = embedding.sites.ids.cpu()[valid].to(torch.int32).numpy()
            place = valid.nonzero()[:, 0].tolist()
        else:
            pooling = POOLED if embedding.features.dim() == 2 else pooling
            vectors = pool(embedding, pooling).cpu().numpy()
        return Rows(
            sample_id=[batch.sample_id[k] for k in place],
            group=[source.group(indices[k]) for k in place],
            label=[source.label(indices[k]) for k in place],
            layer=layer,
            pooling=pooling,
            vectors=vectors,
            site=site,
        )

    def _add(self, rows: Rows) -> None:
        if self._writer is None:
            with_sites = TOKENS in self.job.wanted.pooling
            schema = table_schema(rows.vectors.shape[1], self._numbered, with_sites, self.job.metadata)
            self._writer = TableWriter(self.part, schema)
        self._writer.add(rows)
        self.rows += len(rows.vectors)

    def close(self, metadata: Mapping[str, str]) -> None:
        """Ends the loader and writes the file's end, with further metadata."""
        self._batches = None
        if self._writer is not None:
            self._writer.annotate(metadata)
            self._writer.close()
            self._writer = None


# --------------------------------------------------------------------------------------------------------------------
# Loading
# --------------------------------------------------------------------------------------------------------------------


@dataclass
class Loaded:
    """A batch without its bad samples; None where all were bad."""

    batch: Batch | None
    indices: tuple[int, ...]
    unreadable: list[tuple[str, str]] = field(default_factory=list)


class Chunks(Dataset):
    """Runs of samples, each as one batch."""

    def __init__(self, source: LabelledSource, indices: Sequence[int], batch_size: int, seed: int) -> None:
        self.source, self.indices, self.batch_size, self.seed = source, indices, batch_size, seed

    def __len__(self) -> int:
        return -(-len(self.indices) // self.batch_size)

    def __getitem__(self, chunk: int) -> Loaded:
        samples, kept, seeds = [], [], []
        unreadable: list[tuple[str, str]] = []
        for index in self.indices[chunk * self.batch_size : (chunk + 1) * self.batch_size]:
            sample_id = self.source.sample_id(index)
            seed = sample_seed(self.seed, 0, sample_id)
            try:
                samples.append(self.source.load(index, seed))
            except (BadSample, OSError) as error:
                unreadable.append((sample_id, str(error) or type(error).__name__))
                continue
            kept.append(index)
            seeds.append(seed)
        if not kept:
            return Loaded(None, (), unreadable)
        names = tuple(self.source.sample_id(index) for index in kept)
        batch = Batch(self.source.collate(samples), torch.tensor(seeds, dtype=torch.int64), names)
        return Loaded(batch, tuple(kept), unreadable)


def _loader(job: Job, indices: range) -> DataLoader:
    chunks = Chunks(job.source, indices, job.batch_size, job.seed)
    generator = torch.Generator()  # without one of its own the loader would draw from the global one
    return DataLoader(
        chunks,
        batch_size=None,
        num_workers=job.workers,
        collate_fn=_unchanged,
        worker_init_fn=_deaf_to_ctrl_c,
        generator=generator,
    )


def _unchanged(loaded: Any) -> Any:
    return loaded


def _deaf_to_ctrl_c(worker: int) -> None:
    """Ctrl-C reaches the whole terminal group; workers end with the process that asked for them."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
