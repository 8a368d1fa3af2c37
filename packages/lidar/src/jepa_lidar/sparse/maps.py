"""Index maps of sparse convolutions: which input row meets which output row under which kernel offset.

A convolution is ``out[o] = sum over k of W[k] @ in[i]`` over the pairs (i, o, k) with ``o * stride - padding + k = i``
on every axis (cross-correlation, as in torch; Graham et al., "3D Semantic Segmentation with Submanifold Sparse
Convolutional Networks", arXiv 1711.10275, for the submanifold case, where the output sites are the input sites).
"""

from __future__ import annotations

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
        far: int32 ``[P]`` rows to gather on the other side.
        near: int32 ``[P]`` rows on this side, between first and last.
        counts: pairs of each kernel offset.
        order: int32 ``[P]`` positions of the pairs, sorted by near row and then offset.
        starts: int32 ``[last - first + 1]`` where each row begins in ``order``.
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
        offset = torch.repeat_interleave(torch.tensor(self.counts)).to(near.device)
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
    hit_KV = torch.stack(hits)
    offset, row = hit_KV.nonzero(as_tuple=True)
    return row, torch.stack(positions)[offset, row], torch.bincount(offset, minlength=half).tolist()


def _strided_map(x: SparseTensor, geometry: Geometry) -> IndexMap:
    """Every output site that at least one input reaches."""
    shape = output_shape(x.shape, geometry)
    volume, count = geometry.volume, len(x.coordinates)
    at_z, at_y, at_x = (_reached(x.coordinates[:, axis + 1], geometry, axis, shape[axis]) for axis in range(3))
    hit = (at_z >= 0)[:, None, None] & (at_y >= 0)[None, :, None] & (at_x >= 0)[None, None, :]
    offset, row = hit.view(volume, count).nonzero(as_tuple=True)
    column, line = offset % geometry.kernel[2], torch.div(offset, geometry.kernel[2], rounding_mode="floor")
    plane, line = torch.div(line, geometry.kernel[1], rounding_mode="floor"), line % geometry.kernel[1]

    def pick(at: Tensor, which: Tensor) -> Tensor:
        return at.reshape(-1).index_select(0, which * count + row)

    batch = x.coordinates[:, 0].index_select(0, row)
    keys = ((batch * shape[0] + pick(at_z, plane)) * shape[1] + pick(at_y, line)) * shape[2] + pick(at_x, column)
    unique, rows_out = torch.unique(keys, return_inverse=True)
    return IndexMap(
        geometry=geometry,
        sites_in=x.coordinates,
        sites_out=coordinates_of(unique, shape),
        shape_out=shape,
        rows_in=row,
        rows_out=rows_out,
        counts=torch.bincount(offset, minlength=volume).tolist(),
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
    offset = torch.repeat_interleave(torch.tensor(counts))
    # Within an offset near rows increase, so one bisection on (offset, near row) finds every cut.
    wanted = torch.arange(len(counts))[:, None] * (rows + 1) + edges
    cuts_CK = torch.searchsorted(offset * (rows + 1) + near, wanted).t().tolist()
    limits = edges.tolist()
    far, near = far.int(), near.int()
    return [
        _one_chunk(far, near, starts, (limits[c], limits[c + 1]), list(zip(cuts_CK[c], cuts_CK[c + 1], strict=True)))
        for c in range(len(limits) - 1)
    ]


def _one_chunk(
    far: Tensor, near: Tensor, starts: Tensor, limits: tuple[int, int], parts: list[tuple[int, int]]
) -> Chunk:
    first, last = limits
    near_P = torch.cat([near[a:b] for a, b in parts])
    return Chunk(
        first=first,
        last=last,
        far=torch.cat([far[a:b] for a, b in parts]),
        near=near_P,
        counts=[b - a for a, b in parts],
        order=torch.argsort(near_P, stable=True).int(),
        starts=(starts[first : last + 1] - starts[first]).int(),
    )
