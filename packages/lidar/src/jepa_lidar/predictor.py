"""The predictor on the bird's-eye map: three convolutions (AD-L-JEPA 2501.04969, section on the predictor)."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from jepa_core.contracts import Condition, Sites, Tokens
from jepa_core.nn.norm import JointBatchNorm
from jepa_lidar.shared_cells import convolve_shared

InputScale = Literal["unit", "sqrt_width"]
LastLayer = Literal["plain", "bn_relu"]

# Up to this share of cells with features of their own, the first convolution multiplies only those on a CPU.
_SPARSE_UP_TO = 0.25


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
        shared_kind: context sites of this kind all hold the same features (a token's); None = there is no such kind.
    """

    def __init__(
        self,
        width: int,
        hidden: tuple[int, ...],
        input_scale: InputScale,
        last: LastLayer,
        out: int | None = None,
        shared_kind: int | None = None,
    ) -> None:
        super().__init__()
        if any(wide < 1 for wide in hidden):
            raise ValueError(f"lidar.predictor.hidden: expected widths of at least 1, got {list(hidden)}")
        self.mask_token = nn.Parameter(torch.randn(width))
        self.shared_kind = shared_kind
        self.scale = math.sqrt(width) if input_scale == "sqrt_width" else 1.0
        widths = (width, *hidden, out or width)
        layers: list[nn.Module] = []
        for index, (narrow, wide) in enumerate(zip(widths, widths[1:], strict=False)):
            layers.append(nn.Conv2d(narrow, wide, kernel_size=3, padding=1))
            if index < len(widths) - 2 or last == "bn_relu":
                # In place: a batch norm's gradient does not need what it gave.
                layers += [JointBatchNorm(wide), nn.ReLU(inplace=True)]
        self.layers = nn.Sequential(*layers)

    def compile_blocks(self) -> None:
        """Compiles the convolutions in place; state-dict keys stay. Batch norm, which may join processes, stays out."""
        for layer in self.layers:
            if isinstance(layer, nn.Conv2d):
                layer.compile()

    def forward(self, context: Tokens, targets: Sites, condition: Condition | None, mask_index: int = 0) -> Tensor:
        """Predictions ``[B, K, M, D]`` at ``targets``; every target block and every mask sees the same map."""
        assert condition is None, "the bird's-eye predictor takes no condition"
        predicted_BDYX = self.layers[1:](self._first(context))
        predicted_BND = predicted_BDYX.flatten(2).transpose(1, 2)
        whole = Sites.whole(context.lattice, len(predicted_BND), predicted_BND.device)
        return Tokens(predicted_BND, whole, context.lattice).at(targets)

    def _first(self, context: Tokens) -> Tensor:
        """The first convolution of the normalised map, ``[B, hidden, Y, X]``.

        Most cells of a scan are hidden or empty: they hold one of two tokens. Where a launch costs less than the
        arithmetic that it saves, on a CPU, the kernel meets each token once and the other cells one by one.
        """
        sites = context.sites
        if context.features.device.type == "cpu" and sites.complete and sites.valid is not None:
            shared_BN = torch.zeros_like(sites.valid) if self.shared_kind is None else sites.kind_mask(self.shared_kind)
            own_R = (sites.valid & ~shared_BN).flatten().nonzero().squeeze(1)
            if len(own_R) <= _SPARSE_UP_TO * sites.valid.numel():
                return self._first_of_few(context, shared_BN, own_R)
        # The token follows the features' type, so that mixed precision does not fall back to float32 here.
        map_BND = self._normalised(context.dense(self.mask_token.to(context.features.dtype)))
        first: Tensor = self.layers[0](map_BND.transpose(1, 2).unflatten(2, context.lattice.sizes))
        return first

    def _first_of_few(self, context: Tokens, shared_BN: Tensor, own_R: Tensor) -> Tensor:
        """The same, from the features of ``own_R`` (places in ``B N``) and the tokens of all other cells."""
        features_RD, valid_BN = context.features.flatten(0, 1), context.sites.valid
        conv = self.layers[0]
        assert isinstance(conv, nn.Conv2d) and conv.bias is not None and valid_BN is not None
        # Any cell of the shared kind will do; where there is none, the vector is placed nowhere.
        shared_1D = features_RD[shared_BN.flatten().int().argmax(0, keepdim=True)]
        vectors_TD = torch.cat([self.mask_token.to(features_RD.dtype)[None], shared_1D])
        common_BTYX = torch.stack([~valid_BN, shared_BN], 1).to(features_RD.dtype)
        return convolve_shared(
            self._normalised(features_RD.index_select(0, own_R)),
            own_R,
            common_BTYX.unflatten(2, context.lattice.sizes),
            self._normalised(vectors_TD),
            conv.weight,
            conv.bias,
        )

    def _normalised(self, features: Tensor) -> Tensor:
        return F.normalize(features, dim=-1) * self.scale
