"""Sparse 3-D backbones over voxels: VoxelBackBone8x and VoxelResBackBone8x as OpenPCDet lays them out (the former is
the encoder of AD-L-JEPA, arXiv 2501.04969), and a small one for coarse grids and one CPU core.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import cast

import torch
from torch import Tensor, nn

from jepa_core.nn.norm import JointBatchNorm
from jepa_lidar.sparse.layers import SparseConv3d, SubmanifoldConv3d
from jepa_lidar.sparse.maps import Geometry, output_shape
from jepa_lidar.sparse.tensor import Size3, SparseTensor

Norm = Callable[[int], nn.Module]
# Stages a readout pools beside the bird's-eye map.
READOUT_STAGES = ("conv1", "conv2", "conv3")


@dataclass(frozen=True)
class Stage:
    """A stride-2 convolution (if ``padding`` is set), then submanifold convolutions or residual blocks."""

    width: int
    layers: int
    padding: Size3 | None = (1, 1, 1)


@dataclass(frozen=True)
class BackboneSpec:
    """A backbone as a table.

    Attributes:
        stem: width of the first submanifold convolution.
        stages: in order; the i-th is the module ``conv<i>``.
        out_width: width of the last convolution, which halves the depth.
        residual: stages are made of residual blocks of two convolutions with bias instead of single convolutions.
        momentum: of the batch norms.
    """

    stem: int
    stages: tuple[Stage, ...]
    out_width: int
    residual: bool
    momentum: float

    @property
    def stride(self) -> int:
        """Voxels along y and x in one bird's-eye cell."""
        return 2 ** sum(stage.padding is not None for stage in self.stages)


SPECS: Mapping[str, BackboneSpec] = MappingProxyType(
    {
        "voxel_backbone_8x": BackboneSpec(
            stem=16,
            stages=(Stage(16, 1, None), Stage(32, 2), Stage(64, 2), Stage(64, 2, (0, 1, 1))),
            out_width=128,
            residual=False,
            momentum=0.01,
        ),
        "voxel_res_backbone_8x": BackboneSpec(
            stem=16,
            stages=(Stage(16, 2, None), Stage(32, 2), Stage(64, 2), Stage(128, 2, (0, 1, 1))),
            out_width=128,
            residual=True,
            momentum=0.01,
        ),
        "small_backbone_4x": BackboneSpec(
            stem=16,
            stages=(Stage(16, 1, None), Stage(32, 1), Stage(64, 2)),
            out_width=64,
            residual=False,
            momentum=0.1,
        ),
    }
)


@dataclass(frozen=True)
class BackboneOutput:
    """What a backbone gives.

    Attributes:
        bev: ``[B, C * Z, Y, X]``, channel = c * Z + z, zero at cells no site reached; in memory cell by cell.
        stages: the output of each stage ``conv1``, ``conv2``, ... by name.
    """

    bev: Tensor
    stages: Mapping[str, SparseTensor]


class SparseSequential(nn.Sequential):
    """Runs sparse layers on the tensor and every other layer on its rows."""

    def forward(self, x: SparseTensor) -> SparseTensor:
        """``x`` through all layers."""
        for layer in self:
            if isinstance(layer, SubmanifoldConv3d | SparseConv3d | ResidualBlock | SparseSequential):
                x = layer(x)
            else:
                x = x.with_features(layer(x.features))
        return x


class ResidualBlock(nn.Module):
    """Submanifold conv, norm, ReLU, submanifold conv, norm, add the input, ReLU. Convs with bias, as OpenPCDet's.

    Args:
        width: channels in and out.
        key: index map.
        backend: ``torch`` or ``spconv``.
        norm: makes the norm of a width.
    """

    def __init__(self, width: int, key: str, backend: str, norm: Norm) -> None:
        super().__init__()
        self.conv1 = SubmanifoldConv3d(width, width, 3, key, bias=True, backend=backend)
        self.bn1 = norm(width)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = SubmanifoldConv3d(width, width, 3, key, bias=True, backend=backend)
        self.bn2 = norm(width)

    def forward(self, x: SparseTensor) -> SparseTensor:
        """Same sites, same width."""
        hidden = self.conv1(x)
        hidden = self.conv2(hidden.with_features(self.relu(self.bn1(hidden.features))))
        return hidden.with_features(self.relu(self.bn2(hidden.features) + x.features))


class SparseBackbone(nn.Module):
    """A sparse 3-D backbone; its modules are named as OpenPCDet names them, so state-dict keys match.

    A batch without any voxel, an empty scan and a single voxel in train mode are all legal.

    Args:
        spec: one of ``SPECS``.
        in_channels: features of a voxel.
        shape: sparse grid (z, y, x), z one more than the voxels; y and x must be multiples of the spec's stride.
        backend: ``torch`` or ``spconv``; see :func:`jepa_lidar.sparse.choose_backend`.
        norm: makes the norm of a width, on rows ``[V, C]``; None = batch norm joined over processes, eps 1e-3.

    Raises:
        ValueError: unknown spec or backend, or a grid the strides do not fit.
    """

    def __init__(
        self, spec: str, in_channels: int, shape: Size3, backend: str = "torch", norm: Norm | None = None
    ) -> None:
        super().__init__()
        if spec not in SPECS:
            raise ValueError(f"backbone: expected one of {', '.join(SPECS)}, got {spec!r}")
        self.spec = SPECS[spec]
        self.shape = _checked_shape(spec, self.spec.stride, shape)
        make_norm = norm or functools.partial(JointBatchNorm, eps=1e-3, momentum=self.spec.momentum)
        stem = SubmanifoldConv3d(in_channels, self.spec.stem, 3, "subm1", backend=backend)
        self.conv_input = _normed(stem, make_norm)
        width = self.spec.stem
        for number, stage in enumerate(self.spec.stages, 1):
            setattr(self, f"conv{number}", _stage(self.spec, number, width, backend, make_norm))
            width = stage.width
        out = SparseConv3d(width, self.spec.out_width, *_OUT, key="down_out", backend=backend)
        self.conv_out = _normed(out, make_norm)

    @property
    def depths(self) -> tuple[int, ...]:
        """Sites along z at the input, after each convolution with a stride, and in the output."""
        shapes = [self.shape]
        for stage in self.spec.stages:
            if stage.padding is not None:
                shapes.append(output_shape(shapes[-1], Geometry((3, 3, 3), (2, 2, 2), stage.padding, False)))
        shapes.append(output_shape(shapes[-1], Geometry(*_OUT, False)))
        return tuple(shape[0] for shape in shapes)

    @property
    def bev_shape(self) -> tuple[int, int]:
        """Bird's-eye cells along (y, x)."""
        return self.shape[1] // self.spec.stride, self.shape[2] // self.spec.stride

    @property
    def bev_channels(self) -> int:
        """Channels of the bird's-eye map: width times the depth left."""
        return self.spec.out_width * self.depths[-1]

    def forward(self, x: SparseTensor) -> BackboneOutput:
        """Bird's-eye map and stages of voxels ``x``."""
        if tuple(x.shape) != self.shape:
            raise ValueError(f"backbone: expected voxels on a grid {self.shape}, got {tuple(x.shape)}")
        stages: dict[str, SparseTensor] = {}
        x = self.conv_input(x)
        for number in range(1, len(self.spec.stages) + 1):
            x = stages[f"conv{number}"] = cast(SparseSequential, getattr(self, f"conv{number}"))(x)
        columns = self.conv_out(x).columns()
        return BackboneOutput(columns.unflatten(1, self.bev_shape).permute(0, 3, 1, 2), stages)


def stage_features(output: BackboneOutput, cells: tuple[int, int]) -> Tensor:
    """The "stages" readout ``[B, D, Y, X]``: bird's-eye map, then stages 1 to 3 max-pooled over each cell's column.

    Args:
        output: of a backbone.
        cells: bird's-eye cells (y, x), those of ``output.bev``.
    """
    if tuple(output.bev.shape[-2:]) != tuple(cells):
        raise ValueError(f"stage_features: expected the {tuple(output.bev.shape[-2:])} cells of the map, got {cells}")
    pooled = [_pool_columns(output.stages[name], cells).to(output.bev.dtype) for name in READOUT_STAGES]
    return torch.cat([output.bev, *pooled], dim=1)


def _pool_columns(x: SparseTensor, cells: tuple[int, int]) -> Tensor:
    """``[B, C, Y, X]``: maximum over the sites of each cell's column; zero where there is none."""
    (rows, columns), channels = cells, x.features.shape[1]
    batch, _, y, column = x.coordinates.unbind(1)
    row = torch.div(y, x.shape[1] // rows, rounding_mode="floor")
    column = torch.div(column, x.shape[2] // columns, rounding_mode="floor")
    cell = (batch * rows + row) * columns + column
    # Stages end in a ReLU, so a maximum that starts at zero is the maximum over the sites.
    pooled = x.features.new_zeros(x.batch_size * rows * columns, channels)
    pooled = pooled.scatter_reduce(0, cell[:, None].expand(-1, channels), x.features, "amax")
    return pooled.view(x.batch_size, rows, columns, channels).permute(0, 3, 1, 2)


# Kernel, stride and padding of the last convolution: it halves the depth and leaves y and x alone.
_OUT: tuple[Size3, Size3, Size3] = ((3, 1, 1), (2, 1, 1), (0, 0, 0))


def _stage(spec: BackboneSpec, number: int, width: int, backend: str, norm: Norm) -> SparseSequential:
    """The module ``conv<number>``, from ``width`` channels."""
    stage = spec.stages[number - 1]
    blocks: list[nn.Module] = []
    if stage.padding is not None:
        down = SparseConv3d(width, stage.width, 3, 2, stage.padding, f"down{number}", backend=backend)
        blocks.append(_normed(down, norm))
        width = stage.width
    for _ in range(stage.layers):
        if spec.residual:
            blocks.append(ResidualBlock(width, f"subm{number}", backend, norm))
        else:
            conv = SubmanifoldConv3d(width, stage.width, 3, f"subm{number}", backend=backend)
            blocks.append(_normed(conv, norm))
        width = stage.width
    return SparseSequential(*blocks)


def _normed(conv: SubmanifoldConv3d | SparseConv3d, norm: Norm) -> SparseSequential:
    """A convolution without bias, norm, ReLU: keys ``0.weight``, ``1.*``."""
    return SparseSequential(conv, norm(conv.weight.shape[0]), nn.ReLU(inplace=True))


def _checked_shape(spec: str, stride: int, shape: Size3) -> Size3:
    z, y, x = shape
    if y % stride or x % stride:
        raise ValueError(f"backbone {spec}: y and x of the grid must be multiples of {stride}, got {tuple(shape)}")
    return z, y, x
