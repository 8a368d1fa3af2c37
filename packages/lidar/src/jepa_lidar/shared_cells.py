"""A 3x3 convolution over a map of which most cells hold one of a few vectors: only the other cells are multiplied."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from jepa_lidar.sparse.maps import Geometry
from jepa_lidar.sparse.tensor import SparseTensor, coordinates_of
from jepa_lidar.sparse.torch_backend import convolve

_GEOMETRY = Geometry((1, 3, 3), (1, 1, 1), (0, 1, 1), False)


def convolve_shared(
    rows_RD: Tensor, cells_R: Tensor, common_BTYX: Tensor, vectors_TD: Tensor, weight: Tensor, bias: Tensor
) -> Tensor:
    """``conv2d`` with padding 1 of a map ``[B, D, Y, X]`` that is never laid out, to ``[B, O, Y, X]``.

    Convolution is linear: the cells that share a vector give one product of it with the kernel, placed wherever they
    are; cells with vectors of their own are a sparse map.

    Args:
        rows_RD: vectors of the cells that have their own.
        cells_R: increasing numbers ``(b * Y + y) * X + x`` of those cells.
        common_BTYX: 1 where a cell holds the t-th shared vector, else 0.
        vectors_TD: the shared vectors.
        weight: ``[O, D, 3, 3]``.
        bias: ``[O]``.
    """
    batch, _, height, width = common_BTYX.shape
    around = functional.unfold(common_BTYX, 3, padding=1).transpose(1, 2).flatten(0, 1)
    kernel = (vectors_TD @ weight.flatten(2).permute(2, 1, 0)).transpose(0, 1).flatten(0, 1)
    out = torch.addmm(bias.to(kernel.dtype), around.to(kernel.dtype), kernel)
    own = SparseTensor(rows_RD, coordinates_of(cells_R, (1, height, width)), (1, height, width), batch)
    reached = convolve(own, weight.permute(0, 2, 3, 1).unsqueeze(1), "own", _GEOMETRY)
    out = out.index_add(0, reached.keys(), reached.features.to(out.dtype))
    return out.view(batch, height, width, -1).permute(0, 3, 1, 2)
