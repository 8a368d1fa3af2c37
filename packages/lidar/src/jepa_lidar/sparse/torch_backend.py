"""Sparse convolution in plain PyTorch: gather, one matrix product for each kernel offset, sum; and its two gradients.

Two ways through the same index map, chosen by the device:

- CPU, *pairs*: for a run of rows, gather the pairs ordered by kernel offset, multiply each offset's slice by its
  matrix, and sum each row's products with ``embedding_bag`` (every row is summed by one thread in a fixed order: no
  races, same bits each time). A LiDAR site has 7 to 16 of 27 neighbours, so this does a third of the arithmetic of a
  full neighbour table and writes a third of the memory.
- other devices, *table*: gather all K neighbours of each row (a zero row where there is none) and do one matrix
  product. More arithmetic, but a few large launches instead of many small ones, deterministic, no waiting for counts.

Measured on one thread (Xeon with AVX-512, float32, submanifold 3x3x3, forward / backward in ms; four simulated scans,
34.9k sites at 16 channels, 21.4k at 32, 12.9k at 64):

====================================  ==========  ===========  ===========
way                                   16          32           64
====================================  ==========  ===========  ===========
pairs in chunks, summed by bags       4.3 / 7.6   7.8 / 14.4   17.3 / 33.5
neighbour table, rows in chunks       7.4 / -     11.0 / -     22.8 / -
pairs, index_add at each offset       10.1 / -    14.9 / -     27.5 / -
pairs all at once, summed by bags     15.5 / 25   25.5 / 23    58.7 / 101
====================================  ==========  ===========  ===========
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from jepa_lidar.sparse.maps import Chunk, Geometry, IndexMap, index_map
from jepa_lidar.sparse.tensor import SparseTensor

# Numbers a gathered table may hold at a time: 128 MiB in float32.
TABLE_ELEMENTS = 2**25


def convolve(x: SparseTensor, weight: Tensor, key: str, geometry: Geometry) -> SparseTensor:
    """Sparse convolution without bias.

    Args:
        x: input ``[V_in, C_in]``.
        weight: ``[C_out, kz, ky, kx, C_in]``.
        key: name of the index map in ``x.maps``.
        geometry: kernel, stride, padding.
    """
    found = index_map(x, key, geometry)
    features, weight = _autocast(x.features), _autocast(weight)
    out: Tensor = _SparseConvolution.apply(features, weight, found)
    return SparseTensor(out, found.sites_out, found.shape_out, x.batch_size, x.maps)


def _autocast(x: Tensor) -> Tensor:
    """In the dtype autocast asks for, as torch's own convolutions are (float64 stays)."""
    kind = x.device.type
    if not torch.is_autocast_enabled(kind) or x.dtype == torch.float64:
        return x
    return x.to(torch.get_autocast_dtype(kind))


class _SparseConvolution(torch.autograd.Function):
    """Features ``[V_in, C_in]``, weight ``[C_out, kz, ky, kx, C_in]`` to ``[V_out, C_out]``."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, weight: Tensor, index: IndexMap) -> Tensor:
        ctx.save_for_backward(features, weight)
        ctx.index = index
        with torch.autocast(features.device.type, enabled=False):
            multiply = _forward_pairs if features.device.type == "cpu" else _forward_table
            return multiply(features.contiguous(), _by_offset(weight), index)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        features, weight = ctx.saved_tensors
        need_features, need_weight = ctx.needs_input_grad[:2]
        with torch.autocast(features.device.type, enabled=False):
            differentiate = _backward_pairs if features.device.type == "cpu" else _backward_table
            to_features, to_weight_KIO = differentiate(
                features.contiguous(), _by_offset(weight), gradient.contiguous(), ctx.index, need_features, need_weight
            )
        if to_weight_KIO is None:
            return to_features, None, None
        to_weight = to_weight_KIO.permute(2, 0, 1).reshape(weight.shape).to(weight.dtype)
        return to_features, to_weight, None


def _by_offset(weight: Tensor) -> Tensor:
    """``[C_out, kz, ky, kx, C_in]`` to ``[K, C_in, C_out]``."""
    return weight.reshape(weight.shape[0], -1, weight.shape[-1]).permute(1, 2, 0).contiguous()


def _sum_type(x: Tensor) -> torch.dtype:
    """Weight gradients are summed over chunks in float32 at least."""
    return torch.promote_types(x.dtype, torch.float32)


# --------------------------------------------------------------------------------------------------------------------
# Pairs
# --------------------------------------------------------------------------------------------------------------------


def _forward_pairs(features: Tensor, weight_KIO: Tensor, index: IndexMap) -> Tensor:
    chunks = index.chunks_to_outputs()
    out = features.new_empty(len(index.sites_out), weight_KIO.shape[2])
    gathered, products = _scratch(features, chunks, weight_KIO.shape[1], weight_KIO.shape[2])
    weights = weight_KIO.unbind(0)
    for chunk in chunks:
        size = len(chunk.far)
        x_PI, y_PO = gathered[:size], products[:size]
        torch.index_select(features, 0, chunk.far, out=x_PI)
        for weight, x, y in zip(weights, x_PI.split(chunk.counts), y_PO.split(chunk.counts), strict=True):
            if len(x):
                torch.mm(x, weight, out=y)
        out[chunk.first : chunk.last] = _sum_rows(y_PO, chunk)
    return out


def _backward_pairs(
    features: Tensor, weight_KIO: Tensor, gradient: Tensor, index: IndexMap, need_features: bool, need_weight: bool
) -> tuple[Tensor | None, Tensor | None]:
    chunks, mirrored = _backward_chunks(index)
    to_weight = torch.zeros_like(weight_KIO, dtype=_sum_type(weight_KIO)) if need_weight else None
    to_features = torch.empty_like(features) if need_features else None
    weights = weight_KIO.transpose(1, 2).unbind(0)
    (scratch,) = _scratch(gradient, chunks, gradient.shape[1])
    for chunk in chunks:
        gradient_PO = scratch[: len(chunk.far)]
        torch.index_select(gradient, 0, chunk.far, out=gradient_PO)
        if to_features is not None:
            to_features[chunk.first : chunk.last] = _chunk_to_features(gradient_PO, weights, chunk, mirrored)
        if to_weight is not None:
            _add_chunk_to_weight(to_weight, features, gradient_PO, chunk, mirrored)
    return to_features, to_weight


def _backward_chunks(index: IndexMap) -> tuple[list[Chunk], bool]:
    """Chunks over input rows, and whether the kernel is to be read backwards in them."""
    if index.geometry.submanifold:
        return index.chunks_to_outputs(), True
    return index.chunks_to_inputs(), False


def _chunk_to_features(gradient_PO: Tensor, weights: tuple[Tensor, ...], chunk: Chunk, mirrored: bool) -> Tensor:
    products = gradient_PO.new_empty(len(gradient_PO), weights[0].shape[1])
    parts = zip(gradient_PO.split(chunk.counts), products.split(chunk.counts), strict=True)
    for weight, (g, y) in zip(_in_order(weights, mirrored), parts, strict=True):
        if len(g):
            torch.mm(g, weight, out=y)
    return _sum_rows(products, chunk)


def _add_chunk_to_weight(
    to_weight: Tensor, features: Tensor, gradient_PO: Tensor, chunk: Chunk, mirrored: bool
) -> None:
    x_PI = features.index_select(0, chunk.near)
    parts = zip(x_PI.split(chunk.counts), gradient_PO.split(chunk.counts), strict=True)
    for target, (x, g) in zip(_in_order(to_weight.unbind(0), mirrored), parts, strict=True):
        if len(x):
            target.add_(torch.mm(x.t(), g))


def _in_order(items: tuple[Tensor, ...], mirrored: bool) -> Iterator[Tensor]:
    return reversed(items) if mirrored else iter(items)


def _scratch(like: Tensor, chunks: list[Chunk], *widths: int) -> tuple[Tensor, ...]:
    """Buffers used again for each chunk: fresh memory costs more than the arithmetic done in it."""
    most = max((len(chunk.far) for chunk in chunks), default=0)
    return tuple(like.new_empty(most, width) for width in widths)


def _sum_rows(products: Tensor, chunk: Chunk) -> Tensor:
    """Sum of the products of each row of the chunk, zero for a row without any."""
    return functional.embedding_bag(chunk.order, products, chunk.starts, mode="sum", include_last_offset=True)


# --------------------------------------------------------------------------------------------------------------------
# Table
# --------------------------------------------------------------------------------------------------------------------


def _forward_table(features: Tensor, weight_KIO: Tensor, index: IndexMap) -> Tensor:
    return _multiply_table(features, weight_KIO, index.table_to_outputs())


def _backward_table(
    features: Tensor, weight_KIO: Tensor, gradient: Tensor, index: IndexMap, need_features: bool, need_weight: bool
) -> tuple[Tensor | None, Tensor | None]:
    to_features = to_weight = None
    if need_features:
        if index.geometry.submanifold:
            table, weight_KOI = index.table_to_outputs(), weight_KIO.flip(0).transpose(1, 2)
        else:
            table, weight_KOI = index.table_to_inputs(), weight_KIO.transpose(1, 2)
        to_features = _multiply_table(gradient, weight_KOI, table)
    if need_weight:
        to_weight = _weight_from_table(features, gradient, index.table_to_outputs())
    return to_features, to_weight


def _multiply_table(rows: Tensor, weight_KIO: Tensor, table: Tensor) -> Tensor:
    out = rows.new_empty(len(table), weight_KIO.shape[2])
    weight = weight_KIO.reshape(-1, weight_KIO.shape[2])
    for first, gathered in _gathered_tables(rows, table):
        torch.mm(gathered, weight, out=out[first : first + len(gathered)])
    return out


def _weight_from_table(features: Tensor, gradient: Tensor, table: Tensor) -> Tensor:
    shape = (table.shape[1], features.shape[1], gradient.shape[1])
    total = features.new_zeros(shape[0] * shape[1], shape[2], dtype=_sum_type(features))
    for first, gathered in _gathered_tables(features, table):
        total += torch.mm(gathered.t(), gradient[first : first + len(gathered)])
    return total.view(shape)


def _gathered_tables(rows: Tensor, table: Tensor) -> Iterator[tuple[int, Tensor]]:
    """(first row, ``[rows, K * C]``) of the table, a part at a time; the row behind the last one is zero."""
    padded = torch.cat([rows, rows.new_zeros(1, rows.shape[1])])
    width = table.shape[1] * rows.shape[1]
    step = max(1, TABLE_ELEMENTS // width)
    for first in range(0, len(table), step):
        part = table[first : first + step]
        yield first, padded.index_select(0, part.reshape(-1)).view(len(part), width)
