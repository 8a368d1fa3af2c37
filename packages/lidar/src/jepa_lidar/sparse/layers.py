"""The two sparse convolution layers; both backends share one parameter layout, so checkpoints do not depend on them."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional

from jepa_lidar.sparse import spconv_backend, torch_backend
from jepa_lidar.sparse.maps import Geometry
from jepa_lidar.sparse.tensor import Size3, SparseTensor

_CONVOLVE = {"torch": torch_backend.convolve, "spconv": spconv_backend.convolve}


class _SparseConv(nn.Module):
    def __init__(
        self, in_channels: int, out_channels: int, geometry: Geometry, key: str, bias: bool, backend: str
    ) -> None:
        super().__init__()
        if backend not in _CONVOLVE:
            raise ValueError(
                f"sparse backend: expected torch or spconv, got {backend!r}; choose_backend resolves 'auto'"
            )
        self.geometry = geometry
        self.key = key
        self.backend = backend
        self.weight = nn.Parameter(torch.empty(out_channels, *geometry.kernel, in_channels))
        self.bias = nn.Parameter(torch.empty(out_channels)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Uniform within 1 / sqrt(fan in), as torch's convolutions start."""
        bound = 1 / math.sqrt(self.geometry.volume * self.weight.shape[-1])
        nn.init.uniform_(self.weight, -bound, bound)
        if self.bias is not None:
            nn.init.uniform_(self.bias, -bound, bound)

    def forward(self, x: SparseTensor) -> SparseTensor:
        """Convolves ``x``; its channels must be the layer's."""
        if x.features.shape[1] != self.weight.shape[-1]:
            raise ValueError(f"{self}: expected {self.weight.shape[-1]} channels, got {x.features.shape[1]}")
        out = self._convolve(x)
        # Added here for both backends: spconv refuses a bias on the CPU.
        return out if self.bias is None else out.with_features(out.features + self.bias.to(out.features.dtype))

    def _convolve(self, x: SparseTensor) -> SparseTensor:
        # A kernel of one site meets nobody, and spconv 2.3.8 multiplies by its weight untransposed.
        if self.geometry.pointwise:
            return x.with_features(functional.linear(x.features, self.weight.flatten(1)))
        return _CONVOLVE[self.backend](x, self.weight, self.key, self.geometry)

    def extra_repr(self) -> str:
        """Arguments, for printing."""
        out, *kernel, channels = self.weight.shape
        return f"{channels}, {out}, kernel={tuple(kernel)}, key={self.key!r}, backend={self.backend!r}"


class SubmanifoldConv3d(_SparseConv):
    """Convolution whose output sites are its input sites (arXiv 1711.10275): no spreading, shape unchanged.

    Args:
        in_channels, out_channels: widths.
        kernel: odd sizes (z, y, x), or one for all three.
        key: layers with the same key, kernel and sites share one index map.
        bias: add a bias.
        backend: ``torch`` or ``spconv``.

    Attributes:
        weight: ``[out, kz, ky, kx, in]``, the layout of spconv 2 and of OpenPCDet's checkpoints.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int | Size3,
        key: str,
        bias: bool = False,
        backend: str = "torch",
    ) -> None:
        sizes = _three(kernel)
        if any(size % 2 == 0 for size in sizes):
            raise ValueError(f"SubmanifoldConv3d: kernel sizes must be odd, got {sizes}")
        padding = (sizes[0] // 2, sizes[1] // 2, sizes[2] // 2)
        super().__init__(in_channels, out_channels, Geometry(sizes, (1, 1, 1), padding, True), key, bias, backend)


class SparseConv3d(_SparseConv):
    """Convolution whose output sites are all that an input reaches.

    Args:
        in_channels, out_channels: widths.
        kernel, stride, padding: (z, y, x), or one for all three.
        key: name of its index map.
        bias: add a bias (at the output sites only).
        backend: ``torch`` or ``spconv``.

    Attributes:
        weight: ``[out, kz, ky, kx, in]``.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int | Size3,
        stride: int | Size3,
        padding: int | Size3,
        key: str,
        bias: bool = False,
        backend: str = "torch",
    ) -> None:
        geometry = Geometry(_three(kernel), _three(stride), _three(padding), False)
        if min(*geometry.kernel, *geometry.stride) < 1 or min(geometry.padding) < 0:
            raise ValueError(f"SparseConv3d: kernel and stride must be positive, padding not negative, got {geometry}")
        super().__init__(in_channels, out_channels, geometry, key, bias, backend)


def _three(value: int | Size3) -> Size3:
    return (value, value, value) if isinstance(value, int) else (value[0], value[1], value[2])
