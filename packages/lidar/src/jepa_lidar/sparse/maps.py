"""Index maps of sparse convolutions: which input row meets which output row under which kernel offset.

A convolution is ``out[o] = sum over k of W[k] @ in[i]`` over the pairs (i, o, k) with ``o * stride - padding + k = i``
on every axis (cross-correlation, as in torch; Graham et al., "3D Semantic Segmentation with Submanifold Sparse
Convolutional Networks", arXiv 1711.10275, for the submanifold case, where the output sites are the input sites).
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from jepa_lidar.sparse.tensor import Size3, SparseTensor, coordinates_of

# Pairs handled at a time on the CPU. What one chunk gathers (32k pairs of 16 to 64 channels: 2 to 8 MB) is written
# and read again at once, so it should stay in the cache; smaller chunks pay more for calls than they gain. Measured at
# 8k / 16k / 32k / 64k / all pairs at once, forward of a submanifold layer, one thread: 16 channels 7.0 / 5.4 / 4.3 /
# 3.8 / 15.5 ms, 64 channels 20 / 18.5 / 17.3 / 17.2 / 58.7 ms (fresh memory costs more than the arithmetic).
PAIRS_PER_CHUNK = 32_768


@dataclass(frozen=True)
class Geometry:
    """What a map was built for; two layers that share a key must agree on it."""

    kernel: Size3
    stride: Size3
    padding: Size3
    submanifold: bool

    @property
    def volume(self) -> int:
        """Kernel offsets K."""
        return math.prod(self.kernel)

    @property
    def pointwise(self) -> bool:
        """One site in, the same site out."""
        return self.volume == 1 and self.stride == (1, 1, 1) and self.padding == (0, 0, 0)


@dataclass(frozen=True)
class Chunk:
    """The pairs of a run of consecutive rows, ordered by kernel offset.

    Attributes:
        first, last: the rows, last excluded.
        far: int64 ``[P]`` rows to gather on the other side.
        near: int64 ``[P]`` rows on this side, between first and last.
        counts: pairs of each kernel offset.
        order: int64 ``[P]`` positions of the pairs, sorted by near row and then offset.
        starts: int64 ``[last - first + 1]`` where each row begins in ``order``.
    """

    first: int
    last: int
    far: Tensor
    near: Tensor
    counts: list[int]
    order: Tensor
    starts: Tensor


@dataclass
class IndexMap:
    """All pairs of one convolution, sorted by kernel offset and then row, and what is derived from them on demand.

    Attributes:
        geometry: kernel, stride, padding.
        sites_in: coordinates ``[V_in, 4]`` it was built for.
        sites_out: coordinates ``[V_out, 4]`` it leads to.
        shape_out: grid of the output sites.
        rows_in, rows_out: int64 ``[P]``.
        counts: pairs of each of the K kernel offsets.
    """

    geometry: Geometry
    sites_in: Tensor
    sites_out: Tensor
    shape_out: Size3
    rows_in: Tensor
    rows_out: Tensor
    counts: list[int]
    _chunks: dict[str, list[Chunk]] = field(default_factory=dict, repr=False)
    _tables: dict[str, Tensor] = field(default_factory=dict, repr=False)

    def chunks_to_outputs(self) -> list[Chunk]:
        """Near rows are outputs, far rows inputs: what the forward pass walks through."""
        if "out" not in self._chunks:
            self._chunks["out"] = _chunk(self.rows_in, self.rows_out, self.counts, len(self.sites_out))
        return self._chunks["out"]

    def chunks_to_inputs(self) -> list[Chunk]:
        """Near rows are inputs, far rows outputs: what the backward pass walks through.

        Submanifold: a pair (i, o, k) comes with its mirror (o, i, K-1-k), so the forward chunks serve with the kernel
        read backwards, and this is not built.
        """
        assert not self.geometry.submanifold
        if "in" not in self._chunks:
            self._chunks["in"] = _chunk(self.rows_out, self.rows_in, self.counts, len(self.sites_in))
        return self._chunks["in"]

    def table_to_outputs(self) -> Tensor:
        """int64 ``[V_out, K]``: the input row under each offset; V_in where there is none."""
        if "out" not in self._tables:
            self._tables["out"] = self._table(self.rows_out, self.rows_in, len(self.sites_out), len(self.sites_in))
        return self._tables["out"]

    def table_to_inputs(self) -> Tensor:
        """int64 ``[V_in, K]``: the output row under each offset; V_out where there is none."""
        assert not self.geometry.submanifold
        if "in" not in self._tables:
            self._tables["in"] = self._table(self.rows_in, self.rows_out, len(self.sites_in), len(self.sites_out))
        return self._tables["in"]

    def _table(self, near: Tensor, far: Tensor, count: int, missing: int) -> Tensor:
        volume = self.geometry.volume
        # Only the K counts travel to the device, not an offset for every pair.
        counts = torch.tensor(self.counts, device=near.device)
        offset = torch.repeat_interleave(counts, output_size=len(near))
        table = near.new_full((count * volume,), missing)
        return table.scatter_(0, near * volume + offset, far).view(count, volume)


def index_map(x: SparseTensor, key: str, geometry: Geometry) -> IndexMap:
    """The map of this key, built at its first use and kept in ``x.maps``.

    Raises:
        ValueError: the key was used for another kernel or other sites, or the rows of ``x`` are not sorted.
    """
    name = f"torch:{key}"
    found: IndexMap | None = x.maps.get(name)
    if found is None:
        found = _submanifold_map(x, geometry) if geometry.submanifold else _strided_map(x, geometry)
        x.maps[name] = found
    check_reuse(key, found.geometry, geometry, found.sites_in, x.coordinates)
    return found


def check_reuse(key: str, built: Geometry, wanted: Geometry, built_sites: Tensor, sites: Tensor) -> None:
    """Raises ValueError when a map is about to be used for something it was not built for."""
    if built != wanted:
        raise ValueError(f"sparse convolution: key {key!r} was built for {built}, not {wanted}; give it another key")
    if built_sites is not sites:
        raise ValueError(
            f"sparse convolution: key {key!r} was built for other sites ({len(built_sites)} rows, here {len(sites)}); "
            f"give it another key, or start from a SparseTensor with maps of its own"
        )


def output_shape(shape: Size3, geometry: Geometry) -> Size3:
    """Grid after a strided convolution; ValueError where nothing is left."""
    sizes = [
        (size + 2 * pad - kernel) // stride + 1
        for size, kernel, stride, pad in zip(shape, geometry.kernel, geometry.stride, geometry.padding, strict=True)
    ]
    if min(sizes) < 1:
        raise ValueError(f"sparse convolution: a grid {tuple(shape)} is too small for {geometry}: it leaves {sizes}")
    return sizes[0], sizes[1], sizes[2]


def _submanifold_map(x: SparseTensor, geometry: Geometry) -> IndexMap:
    """Finds the neighbours under the first half of the kernel; the second half is its mirror image."""
    rows_out, rows_in, counts = _neighbours(x, geometry.kernel)
    every = torch.arange(len(x.coordinates), device=x.coordinates.device)
    near, far = list(rows_out.split(counts)), list(rows_in.split(counts))
    return IndexMap(
        geometry=geometry,
        sites_in=x.coordinates,
        sites_out=x.coordinates,
        shape_out=x.shape,
        rows_in=torch.cat([*far, every, *near[::-1]]),
        rows_out=torch.cat([*near, every, *far[::-1]]),
        counts=[*counts, len(every), *counts[::-1]],
    )


def _neighbours(x: SparseTensor, kernel: Size3) -> tuple[Tensor, Tensor, list[int]]:
    """Pairs (row, neighbour's row) under the offsets before the kernel's centre, and how many under each.

    Keys are taken on a grid widened by the kernel's radius, so that stepping over an edge leads to a site that nobody
    holds. One bisection serves a whole line of offsets along x: the next key is either the next row or not there.
    """
    reach = [size // 2 for size in kernel]
    _, tall, wide = (size + radius for size, radius in zip(x.shape, reach, strict=True))
    batch, z, y, column = x.coordinates.unbind(1)
    keys = ((batch * (x.shape[0] + reach[0]) + z) * tall + y) * wide + column
    if not bool((keys[1:] > keys[:-1]).all()):
        raise ValueError("sparse convolution: the sites are not sorted; build them with SparseTensor.from_unsorted")
    ended = torch.cat([keys, keys.new_full((1,), torch.iinfo(torch.int64).max)])
    half = math.prod(kernel) // 2
    positions, hits = [], []
    for line in range(-(-half // kernel[2])):
        dz, dy = line // kernel[1] - reach[0], line % kernel[1] - reach[1]
        wanted = keys + ((dz * tall + dy) * wide - reach[2])
        position = torch.searchsorted(keys, wanted)
        for _ in range(min(kernel[2], half - line * kernel[2])):
            hit = ended.index_select(0, position) == wanted
            positions.append(position)
            hits.append(hit)
            position, wanted = position + hit, wanted + 1
    if not positions:
        return keys[:0], keys[:0], []
    row, counts = _rows_under_each(torch.stack(hits))
    picked = [p.index_select(0, r) for p, r in zip(positions, row.split(counts), strict=True)]
    return row, torch.cat(picked), counts


def _rows_under_each(hit_KV: Tensor) -> tuple[Tensor, list[int]]:
    """Rows where each of the K lines is True, line after line, and how many in each (waits for the device)."""
    count = hit_KV.sum(1)
    line = torch.arange(len(hit_KV), device=hit_KV.device) * hit_KV.shape[1]
    flat = hit_KV.reshape(-1).nonzero().squeeze(1)
    return flat - torch.repeat_interleave(line, count, output_size=len(flat)), count.tolist()


def _strided_map(x: SparseTensor, geometry: Geometry) -> IndexMap:
    """Every output site that at least one input reaches."""
    shape = output_shape(x.shape, geometry)
    at_z, at_y, at_x = (_reached(x.coordinates[:, axis + 1], geometry, axis, shape[axis]) for axis in range(3))
    hit = (at_z >= 0)[:, None, None] & (at_y >= 0)[None, :, None] & (at_x >= 0)[None, None, :]
    row, counts = _rows_under_each(hit.view(geometry.volume, len(x.coordinates)))
    planes, lines = (x.coordinates[:, 0] * shape[0] + at_z) * (shape[1] * shape[2]), at_y * shape[2]
    parts = itertools.product(planes, lines, at_x)
    keys = [
        plane.index_select(0, r) + line.index_select(0, r) + column.index_select(0, r)
        for (plane, line, column), r in zip(parts, row.split(counts), strict=True)
    ]
    unique, rows_out = torch.unique(torch.cat(keys), return_inverse=True)
    return IndexMap(
        geometry=geometry,
        sites_in=x.coordinates,
        sites_out=coordinates_of(unique, shape),
        shape_out=shape,
        rows_in=row,
        rows_out=rows_out,
        counts=counts,
    )


def _reached(position: Tensor, geometry: Geometry, axis: int, size: int) -> Tensor:
    """``[kernel, V]``: the output each input reaches under each offset of one axis; -1 where there is none."""
    offsets = torch.arange(geometry.kernel[axis], device=position.device)[:, None]
    moved = position[None] + geometry.padding[axis] - offsets
    out = torch.div(moved, geometry.stride[axis], rounding_mode="floor")
    legal = (out * geometry.stride[axis] == moved) & (out >= 0) & (out < size)
    return torch.where(legal, out, -1)


def _chunk(far: Tensor, near: Tensor, counts: list[int], rows: int) -> list[Chunk]:
    """Cuts pairs, sorted by offset and then near row, at near rows so that each part has about PAIRS_PER_CHUNK."""
    if rows == 0:
        return []
    starts = torch.zeros(rows + 1, dtype=torch.int64)
    torch.cumsum(torch.bincount(near, minlength=rows), 0, out=starts[1:])
    inner = torch.searchsorted(starts, torch.arange(PAIRS_PER_CHUNK, max(len(near), PAIRS_PER_CHUNK), PAIRS_PER_CHUNK))
    edges = torch.unique(torch.cat([inner.new_zeros(1), inner, inner.new_full((1,), rows)]))
    limits = edges.tolist()
    # Within an offset near rows increase, so bisection finds the cuts.
    sizes_KC = [torch.searchsorted(part, edges).diff().tolist() for part in near.split(counts)]
    sizes_CK = list(zip(*sizes_KC, strict=True))
    flat = [size for sizes in sizes_KC for size in sizes]
    far_C, near_C = (_grouped(pairs.split(flat), len(sizes_CK)) for pairs in (far, near))
    return [
        _one_chunk(far_C[c], near_C[c], list(sizes_CK[c]), starts[limits[c] : limits[c + 1] + 1], limits[c])
        for c in range(len(sizes_CK))
    ]


def _grouped(parts: tuple[Tensor, ...], chunks: int) -> list[Tensor]:
    """Pieces in the order (offset, chunk), joined to one tensor for each chunk."""
    return [torch.cat(parts[chunk::chunks]) for chunk in range(chunks)]


def _one_chunk(far: Tensor, near: Tensor, counts: list[int], starts: Tensor, first: int) -> Chunk:
    order = torch.argsort(near, stable=True)
    return Chunk(first, first + len(starts) - 1, far, near, counts, order, starts - starts[0])
