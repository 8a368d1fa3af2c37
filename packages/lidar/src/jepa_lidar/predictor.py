"""The predictor on the bird's-eye map: three convolutions (AD-L-JEPA 2501.04969, section on the predictor)."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from jepa_core.contracts import Condition, Sites, Tokens
from jepa_core.nn.norm import JointBatchNorm

InputScale = Literal["unit", "sqrt_width"]
LastLayer = Literal["plain", "bn_relu"]


class BevPredictor(nn.Module):
    """Lays the context on the map, fills hidden cells with the mask token, normalises each cell, convolves.

    Args:
        width: feature width of the tokens, in and out.
        hidden: widths between the convolutions; the paper's is ``(width, width)``.
        input_scale: length of each cell's vector after normalising: ``unit`` as published, ``sqrt_width`` for
            entries of order one, which trains faster in few steps.
        last: ``bn_relu`` as published: predictions are then never negative, which bounds the cosine to a token with
            signs; ``plain`` drops batch norm and ReLU from the last convolution.
        out: width of the predictions; None = ``width``.
    """

    def __init__(
        self,
        width: int,
        hidden: tuple[int, ...],
        input_scale: InputScale,
        last: LastLayer,
        out: int | None = None,
    ) -> None:
        super().__init__()
        if any(wide < 1 for wide in hidden):
            raise ValueError(f"lidar.predictor.hidden: expected widths of at least 1, got {list(hidden)}")
        self.mask_token = nn.Parameter(torch.randn(width))
        self.scale = math.sqrt(width) if input_scale == "sqrt_width" else 1.0
        widths = (width, *hidden, out or width)
        layers: list[nn.Module] = []
        for index, (narrow, wide) in enumerate(zip(widths, widths[1:], strict=False)):
            layers.append(nn.Conv2d(narrow, wide, kernel_size=3, padding=1))
            if index < len(widths) - 2 or last == "bn_relu":
                layers += [JointBatchNorm(wide), nn.ReLU()]
        self.layers = nn.Sequential(*layers)

    def compile_blocks(self) -> None:
        """Compiles the convolutions in place; state-dict keys stay. Batch norm, which may join processes, stays out."""
        for layer in self.layers:
            if isinstance(layer, nn.Conv2d):
                layer.compile()

    def forward(self, context: Tokens, targets: Sites, condition: Condition | None, mask_index: int = 0) -> Tensor:
        """Predictions ``[B, K, M, D]`` at ``targets``; every target block and every mask sees the same map."""
        assert condition is None, "the bird's-eye predictor takes no condition"
        rows, columns = context.lattice.sizes
        # The token follows the features' type, so that mixed precision does not fall back to float32 here.
        map_BND = context.dense(self.mask_token.to(context.features.dtype))
        map_BND = F.normalize(map_BND, dim=-1) * self.scale
        map_BDYX = map_BND.transpose(1, 2).unflatten(2, (rows, columns))
        predicted_BND = self.layers(map_BDYX).flatten(2).transpose(1, 2)
        whole = Sites.whole(context.lattice, len(map_BND), map_BND.device)
        return Tokens(predicted_BND, whole, context.lattice).at(targets)
