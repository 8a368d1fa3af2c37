"""The LiDAR encoder behind the common contract: a sparse backbone on the voxels of kept cells, one token a cell."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from jepa_core.contracts import Sites, Tokens
from jepa_lidar.encoder import BackboneOutput, SparseBackbone, stage_features
from jepa_lidar.geometry import VoxelGrid
from jepa_lidar.masking import EMPTY, KINDS, OCCUPIED
from jepa_lidar.sparse.tensor import SparseTensor
from jepa_lidar.voxels import Voxels, bev_cells


class BevEncoder(nn.Module):
    """Tokens of bird's-eye cells; a dropped cell's voxels never enter the backbone.

    A kernel spills into neighbouring cells, so the dense map has values at cells that hold nothing; ``valid`` and
    ``kind`` say which cells the tokens stand for.

    Args:
        backbone: sparse 3-D backbone.
        grid: voxel grid; its cells must be those of the backbone's map.
    """

    def __init__(self, backbone: SparseBackbone, grid: VoxelGrid) -> None:
        super().__init__()
        if backbone.bev_shape != grid.bev_shape:
            raise ValueError(
                f"grid {grid.name}: its {grid.bev_shape} bird's-eye cells must be the backbone's {backbone.bev_shape}; "
                "choose lidar.backbone and data.grid with the same stride (small: small_backbone_4x, others: 8x)"
            )
        self.backbone = backbone
        self.grid = grid
        self.lattice = grid.bev_lattice

    @property
    def width(self) -> int:
        """Feature width of a token."""
        return self.backbone.bev_channels

    def forward(self, inputs: Voxels, keep: Sites | None) -> Tokens:
        """Tokens ``[B, cells, D]`` over the whole map; valid at ``keep`` (everywhere when None)."""
        output, sites = self._run(inputs, keep)
        return Tokens(_by_cell(output.bev), sites, self.lattice)

    def with_layers(self, inputs: Voxels, keep: Sites | None) -> Tokens:
        """The same with ``layers["stages"]``: the map beside the max-pooled earlier stages of each cell."""
        output, sites = self._run(inputs, keep)
        stages = _by_cell(stage_features(output, self.backbone.bev_shape))
        return Tokens(_by_cell(output.bev), sites, self.lattice, {"stages": stages})

    def _run(self, inputs: Voxels, keep: Sites | None) -> tuple[BackboneOutput, Sites]:
        cells = bev_cells(inputs.coordinates, self.grid)
        features, coordinates = inputs.features, inputs.coordinates
        if keep is None:
            sites = self._all_sites(inputs, cells)
        else:
            assert keep.complete, "the LiDAR encoder takes kept cells as a whole map (Sites.complete)"
            sites = keep
            kept = keep.valid_mask()[coordinates[:, 0], cells].nonzero().squeeze(1)
            features, coordinates = features[kept], coordinates[kept]
        tensor = SparseTensor(features, coordinates, self.grid.sparse_shape, inputs.batch_size)
        return self.backbone(tensor), sites

    def _all_sites(self, inputs: Voxels, cells: Tensor) -> Sites:
        whole = Sites.whole(self.lattice, inputs.batch_size, cells.device)
        kind = torch.full_like(whole.ids, EMPTY)
        kind[inputs.coordinates[:, 0], cells] = OCCUPIED
        return Sites(whole.ids, None, kind, KINDS, complete=True)


def _by_cell(map_BDYX: Tensor) -> Tensor:
    return map_BDYX.flatten(2).transpose(1, 2)
