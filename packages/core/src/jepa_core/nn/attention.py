"""Multi-head self-attention (arXiv 1706.03762, section 3.2) over tokens of which some may not be real."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from jepa_core.nn.position import Rotation


@dataclass(frozen=True)
class Packing:
    """Sequences of what several blocks share, followed by those blocks, all of the same length.

    Shared tokens attend to one another; the tokens of a block attend to the shared ones and to one another. As a mask
    over the sequence that would be mostly False: instead each block is a batch entry of its own, with its own keys.

    Attributes:
        shared: tokens at the head of the sequence.
        blocks: K, of ``(N - shared) / K`` tokens each.
    """

    shared: int
    blocks: int

    def attend(self, q: Tensor, k: Tensor, v: Tensor, valid: Tensor | None) -> Tensor:
        """Attention of heads ``[B, H, N, C]``; ``valid`` bool ``[B, N]``: who may be attended to, None = all.

        Queries are those of all tokens, or of the blocks alone: as many come out.
        """
        batch, heads, tokens, width = k.shape
        lengths = [self.shared, tokens - self.shared]
        (k, own_k), (v, own_v) = k.split(lengths, dim=2), v.split(lengths, dim=2)
        q, own_q = q.split([q.shape[2] - lengths[1], lengths[1]], dim=2)
        seen, among = self._valid(valid)
        own = attend(self._apart(own_q).flatten(0, 1), self._joined(k, own_k), self._joined(v, own_v), among)
        # Tokens before heads, which is how kernels leave them and what the next layer takes.
        own = own.transpose(1, 2).reshape(batch, -1, heads, width)
        if not q.shape[2]:
            return own.transpose(1, 2)
        return torch.cat([attend(q, k, v, seen).transpose(1, 2), own], dim=1).transpose(1, 2)

    def _valid(self, valid: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
        """The keys that shared tokens, and those that the tokens of each block, may attend to."""
        if valid is None:
            return None, None
        shared, own = valid[:, None, : self.shared, None], valid[:, None, self.shared :, None]
        return key_mask(shared[:, 0, :, 0]), key_mask(self._joined(shared, own)[:, 0, :, 0])

    def _apart(self, x: Tensor) -> Tensor:
        """``[B, H, K M, C]`` to ``[B, K, H, M, C]``."""
        return x.unflatten(2, (self.blocks, -1)).transpose(1, 2)

    def _joined(self, shared: Tensor, own: Tensor) -> Tensor:
        """What each block attends to: ``[B, H, S, C]`` and ``[B, H, K M, C]`` to ``[B K, H, S + M, C]``."""
        repeated = shared[:, None].expand(-1, self.blocks, -1, -1, -1)
        return torch.cat([repeated, self._apart(own)], dim=3).flatten(0, 1)


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
        self,
        x: Tensor,
        valid: Tensor | None = None,
        rotation: Rotation | None = None,
        wanted: slice | None = None,
        packing: Packing | None = None,
    ) -> Tensor:
        """Tokens ``[B, N, D]`` to ``[B, N, D]``.

        Args:
            x: tokens; those not valid must be finite.
            valid: bool ``[B, N]``, who may be attended to; None = all, without a mask tensor (fast kernels).
            rotation: rotary positions of the tokens, applied to queries and keys.
            wanted: the tokens whose output is asked for, ``[B, n, D]``; they attend as ever. None = all.
            packing: who attends to whom; None = all to all.
        """
        q, k, v = self._heads(x) if wanted is None else self._heads_for(x, wanted)
        if rotation is not None:
            q, k = (rotation if wanted is None else rotation.of(wanted))(q), rotation(k)
        out = attend(q, k, v, key_mask(valid)) if packing is None else packing.attend(q, k, v, valid)
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

    On a CPU the fused kernel's backward in bf16 is several times slower than the textbook's three operations; without a
    gradient it is the faster one there too.
    """
    slow = q.device.type == "cpu" and q.dtype == torch.bfloat16 and torch.is_grad_enabled() and q.requires_grad
    if not slow:
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
