"""The vision transformer of I-JEPA (arXiv 2301.08243), V-JEPA (2404.08471) and V-JEPA 2 (2506.09985): pre-norm, no
class token, fixed sine-cosine or rotary positions.
"""

from __future__ import annotations

from functools import partial
from typing import Literal

from torch import Tensor

from jepa_core.lattice import Lattice
from jepa_core.nn.patch_encoder import SIZES as SIZES
from jepa_core.nn.patch_encoder import PatchEmbedding as PatchEmbedding
from jepa_core.nn.patch_encoder import PatchEncoder
from jepa_core.nn.patch_encoder import Size as Size
from jepa_core.nn.patch_encoder import Stem as Stem
from jepa_vision.positions import Positions, pairing_of, position_table, resize_table


class VisionTransformer(PatchEncoder):
    """An encoder of patches of pictures or clips.

    Args:
        size: row of :data:`SIZES`.
        channels: width of a flattened patch.
        lattice: that is usual; its position table is computed once.
        stem: see :class:`PatchEmbedding`.
        positions: ``sin_cos_xy`` (the first channels are the column's, as I-JEPA has it), ``sin_cos_yx`` (axes in
            their own order, as V-JEPA has it in two and three dimensions), ``sin_cos_half_time`` (half of the channels
            for time), ``rotary_interleaved`` or ``rotary_tiled`` (see :func:`jepa_core.nn.position.rotary`), or
            ``stored`` (a fixed table that comes with the weights, and is resized for other lattices).
        drop_path: rate of the last block, growing from 0.
        recompute: activation checkpointing.
        scale_residuals: ``constant`` (I-JEPA, V-JEPA) or ``by_depth`` (V-JEPA 2), see
            :func:`jepa_core.nn.transformer.scale_residuals_by_depth`.
    """

    def __init__(
        self,
        size: Size,
        channels: int,
        lattice: Lattice,
        stem: Stem = "linear",
        positions: Positions = "sin_cos_xy",
        drop_path: float = 0.0,
        recompute: bool = False,
        scale_residuals: Literal["constant", "by_depth"] = "constant",
    ) -> None:
        self.positions = positions
        super().__init__(
            size,
            channels,
            lattice,
            partial(position_table, positions, width=size.width),
            pairing_of(positions) if positions.startswith("rotary") else None,
            positions == "stored",
            stem,
            drop_path,
            recompute,
            scale_residuals,
        )

    def codes_on(self, lattice: Lattice) -> Tensor:
        """Position codes of a lattice; a stored table is resized."""
        if self.positions == "stored" and lattice.sizes != self.lattice.sizes:
            return resize_table(self.table, self.lattice, lattice)
        return super().codes_on(lattice)
