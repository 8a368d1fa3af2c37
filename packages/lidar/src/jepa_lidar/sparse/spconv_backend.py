"""Sparse convolution through the optional package spconv 2.3 (Yan et al., "SECOND", Sensors 2018), imported when used.

The rows of spconv's outputs come in the order of a hash table; they are sorted here, so that both backends give the
same rows and everything behind them (shared maps, dense maps, tests) is the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from jepa_lidar.sparse.maps import Geometry, check_reuse, output_shape
from jepa_lidar.sparse.tensor import Size3, SparseTensor, linear_keys


@dataclass
class _Entry:
    """What one key holds in ``SparseTensor.maps``: spconv's own index data (submanifold) or the output sites."""

    geometry: Geometry
    sites_in: Tensor
    sites_out: Tensor
    shape_out: Size3
    indices: dict[str, Any]


def convolve(x: SparseTensor, weight: Tensor, key: str, geometry: Geometry) -> SparseTensor:
    """Sparse convolution without bias, as :func:`jepa_lidar.sparse.torch_backend.convolve` does it.

    spconv's kernels know float32 and float16 only, and under autocast it would choose float16 even where bfloat16 is
    asked for, whose range training without loss scaling needs. So: float16 under float16 autocast, otherwise float32.
    """
    shape = x.shape if geometry.submanifold else output_shape(x.shape, geometry)
    if not len(x.coordinates):
        # spconv refuses to start; any product of no rows keeps both gradients alive, as zeros.
        empty = x.features.to(weight.dtype) @ weight[:, 0, 0, 0].t()
        return SparseTensor(empty, x.coordinates, shape, x.batch_size, x.maps)
    entry: _Entry | None = x.maps.get(f"spconv:{key}")
    if entry is not None:
        check_reuse(key, entry.geometry, geometry, entry.sites_in, x.coordinates)
    found = _run(x, weight, key, geometry, entry.indices if entry else {})
    features, sites = (found.features, x.coordinates) if geometry.submanifold else _sorted(found, shape)
    if entry is None:
        kept = found.indice_dict if geometry.submanifold else {}
        entry = x.maps[f"spconv:{key}"] = _Entry(geometry, x.coordinates, sites, shape, kept)
    return SparseTensor(features, entry.sites_out, shape, x.batch_size, x.maps)


def _run(x: SparseTensor, weight: Tensor, key: str, geometry: Geometry, indices: dict[str, Any]) -> Any:
    import spconv.pytorch as spconv

    kind, dtype = x.features.device.type, _number_type(x.features)
    # Its CPU code takes strides for granted: coordinates as nonzero() leaves them give wrong neighbours in silence.
    features, sites = x.features.to(dtype).contiguous(), x.coordinates.int().contiguous()
    tensor = spconv.SparseConvTensor(features, sites, list(x.shape), x.batch_size, indice_dict=indices)
    layer = _layer(weight, key, geometry, kind)
    with torch.autocast(kind, enabled=False):
        # In train mode always: in eval mode spconv takes a way that has no gradient.
        return torch.func.functional_call(layer, {"weight": weight.to(dtype).contiguous()}, (tensor,))


def _number_type(features: Tensor) -> torch.dtype:
    if features.dtype == torch.float64:
        raise ValueError("sparse backend spconv: float64 is not supported; use the torch backend")
    kind = features.device.type
    half = torch.is_autocast_enabled(kind) and torch.get_autocast_dtype(kind) == torch.float16
    return torch.float16 if half and kind == "cuda" else torch.float32


def _layer(weight: Tensor, key: str, geometry: Geometry, kind: str) -> nn.Module:
    """A shell for spconv's arithmetic; its own weight (on the meta device: no memory) is never used."""
    import spconv.pytorch as spconv

    # The default algorithm exists on CUDA only.
    algorithm = spconv.ConvAlgo.Native if kind == "cpu" else None
    channels, out = weight.shape[-1], weight.shape[0]
    with torch.device("meta"):
        layer = (
            spconv.SubMConv3d(channels, out, geometry.kernel, bias=False, indice_key=key, algo=algorithm)
            if geometry.submanifold
            else spconv.SparseConv3d(
                channels, out, geometry.kernel, geometry.stride, geometry.padding, bias=False, algo=algorithm
            )
        )
    return layer.train()


def _sorted(found: Any, shape: Size3) -> tuple[Tensor, Tensor]:
    """Features and coordinates in the order of linear keys."""
    sites = found.indices.long()
    order = torch.argsort(linear_keys(sites, shape))
    return found.features[order], sites[order]
