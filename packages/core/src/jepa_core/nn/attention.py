"""Multi-head self-attention (arXiv 1706.03762, section 3.2) over tokens of which some may not be real."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from jepa_core.nn.position import Rotation


class Attention(nn.Module):
    """Self-attention with fused queries, keys and values; scale is ``head_width ** -0.5``.

    Args:
        width: D of the tokens.
        heads: number of heads.
        head_width: channels of a head; None = ``width / heads``. Set it where they do not multiply to the width.
        qkv_bias: learn a bias for queries, keys and values.
    """

    def __init__(self, width: int, heads: int, head_width: int | None = None, qkv_bias: bool = True) -> None:
        super().__init__()
        if head_width is None and width % heads:
            raise ValueError(f"Attention: expected heads to divide the width {width}, got {heads}; or set head_width")
        self.heads = heads
        self.head_width = width // heads if head_width is None else head_width
        inner = heads * self.head_width
        self.qkv = nn.Linear(width, 3 * inner, bias=qkv_bias)
        self.proj = nn.Linear(inner, width)

    def forward(
        self, x: Tensor, valid: Tensor | None = None, rotation: Rotation | None = None, wanted: slice | None = None
    ) -> Tensor:
        """Tokens ``[B, N, D]`` to ``[B, N, D]``.

        Args:
            x: tokens; those not valid must be finite.
            valid: bool ``[B, N]``, who may be attended to; None = all, without a mask tensor (fast kernels).
            rotation: rotary positions of the tokens, applied to queries and keys.
            wanted: the tokens whose output is asked for, ``[B, n, D]``; they attend to all. None = all.
        """
        q, k, v = self._heads(x) if wanted is None else self._heads_for(x, wanted)
        if rotation is not None:
            q, k = (rotation if wanted is None else rotation.of(wanted))(q), rotation(k)
        out = attend(q, k, v, key_mask(valid))
        return self.proj(out.transpose(1, 2).flatten(2))

    def _heads(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values ``[B, H, N, C]``."""
        # Taken apart before tokens and heads change places: their gradients are then joined by one copy, not two.
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, self.head_width)).unbind(2)
        return q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)

    def _heads_for(self, x: Tensor, wanted: slice) -> tuple[Tensor, Tensor, Tensor]:
        """As :meth:`_heads`, with queries of the wanted tokens alone."""
        inner, bias = self.heads * self.head_width, self.qkv.bias
        of_q, of_kv = self.qkv.weight.split((inner, 2 * inner))
        bias_q, bias_kv = (None, None) if bias is None else bias.split((inner, 2 * inner))
        q = functional.linear(x[:, wanted].contiguous(), of_q, bias_q).unflatten(-1, (self.heads, self.head_width))
        k, v = functional.linear(x, of_kv, bias_kv).unflatten(-1, (2, self.heads, self.head_width)).unbind(2)
        return q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """Attention of heads ``[B, H, N, C]``; ``mask`` bool, broadcast to ``[B, H, N, N]``, True where it may look.

    On a CPU the fused kernel's backward in bf16 is several times slower than the textbook's three operations.
    """
    if q.device.type != "cpu" or q.dtype != torch.bfloat16:
        return functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    return attend_in_steps(q, k, v, mask)


def attend_in_steps(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """What the fused kernel computes, one operation after the other; in bf16 the scores are rounded to bf16.

    As there, a query that may look at nothing gives zero and has no gradient.
    """
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
    if mask is None:
        return scores.softmax(-1) @ v
    # With -inf such a query would be 0 / 0.
    weights = scores.masked_fill(~mask, torch.finfo(scores.dtype).min).softmax(-1)
    return weights.masked_fill(~mask, 0) @ v


def key_mask(valid: Tensor | None) -> Tensor | None:
    """Bool ``[B, 1, 1, N]`` of the keys that may be attended to.

    A sample without any real token attends to all: a softmax over nothing would be NaN, and nobody reads its tokens.
    """
    if valid is None:
        return None
    return (valid | ~valid.any(1, keepdim=True))[:, None, None, :]
