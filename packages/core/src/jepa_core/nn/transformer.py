"""The transformer of ViT (arXiv 2010.11929, eq. 2 to 4): blocks, a stack of them, and its initialisation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from jepa_core.nn.attention import Attention, Packing
from jepa_core.nn.position import Rotation

NormPlace = Literal["pre", "post"]
Init = Literal["normal", "xavier", "torch"]


class Mlp(nn.Module):
    """Linear, exact GELU, Linear; ``[..., D]`` to ``[..., D]``."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """``[..., D]`` to ``[..., D]``."""
        return self.fc2(self.act(self.fc1(x)))


class LayerScale(nn.Module):
    """A learned factor for each channel, near zero at first (CaiT, arXiv 2103.17239, eq. 3)."""

    def __init__(self, width: int, initial: float) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((width,), initial))

    def forward(self, x: Tensor) -> Tensor:
        """``[..., D]`` to ``[..., D]``."""
        return x * self.gamma


class DropPath(nn.Module):
    """Drops a residual branch for whole samples in training (stochastic depth, arXiv 1603.09382)."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        if not 0 <= rate < 1:
            raise ValueError(f"drop_path: expected a rate in [0, 1), got {rate}")
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        """``[B, N, D]`` to ``[B, N, D]``; what is kept is divided by the chance to be kept."""
        if not self.training or self.rate == 0:
            return x
        kept = x.new_empty(x.shape[0], 1, 1).bernoulli_(1 - self.rate)
        return x * kept / (1 - self.rate)


class Block(nn.Module):
    """``x += Attn(LN(x))``, then ``x += MLP(LN(x))``.

    Args:
        width: D.
        heads: attention heads.
        mlp_hidden: width inside the MLP; None = 4 D.
        head_width: channels of a head; None = D / heads.
        qkv_bias: learn a bias for queries, keys and values.
        layer_scale: first value of the factors on both branches; None = no factors.
        drop_path: chance that a branch is dropped for a sample.
        eps: of the layer norms.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        mlp_hidden: int | None = None,
        head_width: int | None = None,
        qkv_bias: bool = True,
        layer_scale: float | None = None,
        drop_path: float = 0.0,
        eps: float = 1e-6,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=eps)
        self.attn = Attention(width, heads, head_width, qkv_bias)
        self.ls1 = nn.Identity() if layer_scale is None else LayerScale(width, layer_scale)
        self.norm2 = nn.LayerNorm(width, eps=eps)
        self.mlp = Mlp(width, 4 * width if mlp_hidden is None else mlp_hidden)
        self.ls2 = nn.Identity() if layer_scale is None else LayerScale(width, layer_scale)
        self.drop_path = DropPath(drop_path)

    def forward(
        self,
        x: Tensor,
        valid: Tensor | None = None,
        rotation: Rotation | None = None,
        wanted: slice | None = None,
        packing: Packing | None = None,
    ) -> Tensor:
        """``[B, N, D]`` to ``[B, N, D]``, or to ``[B, n, D]`` of the wanted tokens; see :meth:`Attention.forward`."""
        attended = self.ls1(self.attn(self.norm1(x), valid, rotation, wanted, packing))
        x = _some(x, wanted) + self.drop_path(attended)
        return x + self.drop_path(self.ls2(self.mlp(self.norm2(x))))


class PostNormBlock(Block):
    """``x = LN(x + Attn(x))``, then ``x = LN(x + MLP(x))`` (arXiv 1706.03762, section 3.1); arguments of ``Block``."""

    def forward(
        self,
        x: Tensor,
        valid: Tensor | None = None,
        rotation: Rotation | None = None,
        wanted: slice | None = None,
        packing: Packing | None = None,
    ) -> Tensor:
        """As :meth:`Block.forward`."""
        x = self.norm1(_some(x, wanted) + self.drop_path(self.ls1(self.attn(x, valid, rotation, wanted, packing))))
        return self.norm2(x + self.drop_path(self.ls2(self.mlp(x))))


class Transformer(nn.Module):
    """A stack of blocks and a final layer norm.

    Args:
        width, heads, mlp_hidden, head_width, qkv_bias, layer_scale, eps: of each :class:`Block`.
        depth: number of blocks.
        drop_path: rate of the last block; it grows linearly from 0.
        recompute: keep no activations inside a block and compute them again in backward: less memory, same result.
        norm: ``pre``, or ``post``: the blocks are :class:`PostNormBlock`.
    """

    def __init__(
        self,
        width: int,
        depth: int,
        heads: int,
        mlp_hidden: int | None = None,
        head_width: int | None = None,
        qkv_bias: bool = True,
        layer_scale: float | None = None,
        drop_path: float = 0.0,
        eps: float = 1e-6,
        recompute: bool = False,
        norm: NormPlace = "pre",
    ) -> None:
        super().__init__()
        block = Block if norm == "pre" else PostNormBlock
        rates = [drop_path * i / max(1, depth - 1) for i in range(depth)]
        self.blocks = nn.ModuleList(
            block(width, heads, mlp_hidden, head_width, qkv_bias, layer_scale, rate, eps) for rate in rates
        )
        self.norm = nn.LayerNorm(width, eps=eps)
        self.recompute = recompute
        self.apply(init_linear)

    def forward(
        self,
        x: Tensor,
        valid: Tensor | None = None,
        rotation: Rotation | None = None,
        wanted: slice | None = None,
        packing: Packing | None = None,
    ) -> Tensor:
        """Tokens ``[B, N, D]`` to normalised tokens ``[B, N, D]``.

        Args:
            x: tokens, positions added already unless they are rotary.
            valid: bool ``[B, N]``; tokens that are not valid influence no valid one. None = all are.
            rotation: rotary positions.
            wanted: the tokens that are asked for, ``[B, n, D]``: nothing that only others need is computed in the last
                block. None = all.
            packing: who attends to whom; None = all to all.
        """
        x = clean(x, valid)
        last = len(self.blocks) - 1
        for number, block in enumerate(self.blocks):
            x = self._run(block, x, valid, rotation, wanted if number == last else None, packing)
        return self.norm(x if self.blocks else _some(x, wanted))

    def forward_layers(
        self, x: Tensor, layers: Sequence[int], valid: Tensor | None = None, rotation: Rotation | None = None
    ) -> tuple[Tensor, dict[int, Tensor]]:
        """As :meth:`forward`, and the outputs of chosen blocks before any norm.

        Args:
            x, valid, rotation: as in :meth:`forward`.
            layers: blocks counted from 0, or from the end when negative.
        """
        depth = len(self.blocks)
        for layer in layers:
            if not -depth <= layer < depth:
                raise ValueError(f"layers: expected {-depth} to {depth - 1}, got {layer}")
        x = clean(x, valid)
        outputs = []
        for block in self.blocks:
            x = self._run(block, x, valid, rotation)
            outputs.append(x)
        return self.norm(x), {layer: outputs[layer] for layer in layers}

    def _run(self, block: nn.Module, *inputs: Tensor | Rotation | slice | Packing | None) -> Tensor:
        if not (self.recompute and self.training and torch.is_grad_enabled()):
            return cast(Tensor, block(*inputs))
        return cast(Tensor, checkpoint(block, *inputs, use_reentrant=False))


def _some(x: Tensor, wanted: slice | None) -> Tensor:
    return x if wanted is None else x[:, wanted]


def clean(x: Tensor, valid: Tensor | None) -> Tensor:
    """Tokens ``[B, N, D]`` with zeros where not valid: weight 0 times infinity would still be NaN."""
    return x if valid is None else torch.where(valid[..., None], x, 0.0)


def init_linear(module: nn.Module) -> None:
    """Weights of a linear layer from N(0, 0.02) cut at 2, biases 0. For ``module.apply``."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def draw_linear(module: nn.Module, init: Init) -> None:
    """Draws every linear layer within ``module`` anew; with ``normal`` they stay as they were drawn at first.

    A standard deviation of 0.02 suits widths of 768 and more. In narrow layers it is far below what keeps the size of
    activations, so that blocks start as little more than the identity, and short runs end before they are much else.

    Args:
        module: an encoder, a predictor.
        init: ``normal`` (N(0, 0.02) cut at 2; ViT, I-JEPA, V-JEPA), ``xavier`` (uniform, by both widths of a layer;
            MAE, M2D) or ``torch`` (what layers have when they are made; the released code of Audio-JEPA).
    """
    for layer in module.modules():
        if init == "normal" or not isinstance(layer, nn.Linear):
            continue
        if init == "torch":
            layer.reset_parameters()
            continue
        nn.init.xavier_uniform_(layer.weight)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)


@torch.no_grad()
def scale_residuals_by_depth(transformer: Transformer) -> None:
    """Divides the output weights of both branches of block l, counted from 1, by ``sqrt(2 l)``.

    V-JEPA 2 trains from it. I-JEPA and V-JEPA define it too, but their training scripts draw all linear layers again
    afterwards, so models comparable with theirs leave it out.
    """
    for number, block in enumerate(transformer.blocks, start=1):
        assert isinstance(block, Block)
        block.attn.proj.weight.div_((2 * number) ** 0.5)
        block.mlp.fc2.weight.div_((2 * number) ** 0.5)
