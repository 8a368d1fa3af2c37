"""The model of the attentive probe: a small transformer with one learned query reads frozen tokens.

V-JEPA (arXiv 2404.08471, appendix) has the cross-attention block alone: ``q = q + CA(q, LN(x))``,
``q = q + MLP(LN(q))``, then a linear layer; the attention has no output projection. V-JEPA 2 (2506.09985) puts three
self-attention blocks before it.

Several probes answer in one pass over the tokens. With P probes of H heads each, the query, its projection and that of
the keys are one vector a head, so that the scores are one product of the tokens with ``[D, P * H]``; and since the
weights of a head sum to 1, tokens are averaged first and projected to values afterwards. Nothing is approximated.
Letters: P probes, B batch, N sites, D width, H heads, C = D / H.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

EPS = 1e-6

Stacked = Mapping[str, Tensor]
"""Parameters of P probes by name, each ``[P, ...]``."""


class _Mlp(nn.Module):
    """Linear, exact GELU, Linear."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)


class _SelfBlock(nn.Module):
    """``x += Attn(LN(x))``, then ``x += MLP(LN(x))``."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.q, self.k, self.v = (nn.Linear(width, width) for _ in range(3))
        self.proj = nn.Linear(width, width)
        self.mlp = _Mlp(width)


class AttentiveProbe(nn.Module):
    """One probe. Linear weights and the query are drawn from N(0, 0.02) cut at 2, biases are 0.

    Args:
        width: D of the tokens.
        classes: of the answer.
        heads: see :class:`AttentiveSettings`.
        blocks: see there.
        generator: of the first weights; None = the global one.
    """

    def __init__(
        self, width: int, classes: int, heads: int, blocks: int = 0, generator: torch.Generator | None = None
    ) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"attentive probe: expected heads that divide the width {width}, got {heads}")
        self.heads = heads
        self.blocks = nn.ModuleList(_SelfBlock(width) for _ in range(blocks))
        self.query = nn.Parameter(torch.zeros(1, width))
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        # A bias of the keys would add the same to every score, which the softmax does not see.
        self.q, self.k, self.v = nn.Linear(width, width), nn.Linear(width, width, bias=False), nn.Linear(width, width)
        self.mlp = _Mlp(width)
        self.classifier = nn.Linear(width, classes)
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                if parameter.dim() == 2:
                    # On the CPU, so that the draws are the same on every device.
                    drawn = nn.init.trunc_normal_(torch.empty(parameter.shape), std=0.02, generator=generator)
                    parameter.copy_(drawn)
                elif name.endswith("bias"):
                    parameter.zero_()

    def pool(self, x: Tensor, valid: Tensor | None = None) -> Tensor:
        """Tokens ``[B, N, D]`` to ``[B, D]``; ``valid`` bool ``[B, N]``."""
        return _pool(stack([self]), x, valid, self.heads, len(self.blocks))[0]

    def forward(self, x: Tensor, valid: Tensor | None = None) -> Tensor:
        """Tokens ``[B, N, D]`` to class scores ``[B, classes]``."""
        return joint_scores([self], x, valid)[0]


def stack(probes: Sequence[AttentiveProbe]) -> dict[str, Tensor]:
    """Parameters of equal probes, ``[P, ...]`` each; gradients reach each probe's own."""
    named = [dict(probe.named_parameters()) for probe in probes]
    return {name: torch.stack([parameters[name] for parameters in named]) for name in named[0]}


def joint_scores(probes: Sequence[AttentiveProbe], x: Tensor, valid: Tensor | None = None) -> Tensor:
    """Class scores of several probes of the same shape in one pass, ``[P, B, classes]``."""
    parameters = stack(probes)
    pooled = _pool(parameters, x, valid, probes[0].heads, len(probes[0].blocks))
    return _linear(parameters, "classifier", pooled)


def _linear(parameters: Stacked, name: str, x: Tensor) -> Tensor:
    """``[P, R, in]`` to ``[P, R, out]``."""
    return torch.baddbmm(parameters[f"{name}.bias"].unsqueeze(1), x, parameters[f"{name}.weight"].transpose(1, 2))


def _normed(x: Tensor) -> Tensor:
    """Mean 0 and variance 1 over the last dimension: a layer norm before its learned scale."""
    return F.layer_norm(x, x.shape[-1:], eps=EPS)


def _norm(parameters: Stacked, name: str, x: Tensor) -> Tensor:
    """A layer norm of ``[P, R, D]``."""
    return _normed(x) * parameters[f"{name}.weight"].unsqueeze(1) + parameters[f"{name}.bias"].unsqueeze(1)


def _mlp(parameters: Stacked, name: str, x: Tensor) -> Tensor:
    """``[P, R, D]`` to the same shape."""
    return _linear(parameters, f"{name}.fc2", F.gelu(_linear(parameters, f"{name}.fc1", x)))


def _pool(parameters: Stacked, x: Tensor, valid: Tensor | None, heads: int, blocks: int) -> Tensor:
    """``[B, N, D]`` to ``[P, B, D]``."""
    if valid is not None:
        x = torch.where(valid.unsqueeze(-1), x, 0.0)  # weight 0 times infinity would still be NaN
    tokens = x.unsqueeze(0)  # [1, B, N, D]: as long as no probe has changed them, one copy serves all
    if blocks:
        tokens = tokens.expand(len(parameters["query"]), *x.shape)
    for number in range(blocks):
        tokens = _self_block(parameters, f"blocks.{number}", tokens, valid, heads)
    query_PBD = parameters["query"] + _cross_attention(parameters, tokens, valid, heads)
    return query_PBD + _mlp(parameters, "mlp", _norm(parameters, "norm2", query_PBD))


def _self_block(parameters: Stacked, name: str, x: Tensor, valid: Tensor | None, heads: int) -> Tensor:
    """``[P, B, N, D]`` to the same shape."""
    probes, batch, sites, width = x.shape
    rows = x.flatten(1, 2)
    normed = _norm(parameters, f"{name}.norm1", rows)

    def split(part: str) -> Tensor:
        projected = _linear(parameters, f"{name}.{part}", normed)
        return projected.reshape(probes * batch, sites, heads, width // heads).transpose(1, 2)

    mask = None if valid is None else (valid | ~valid.any(1, keepdim=True)).repeat(probes, 1)[:, None, None]
    out = F.scaled_dot_product_attention(split("q"), split("k"), split("v"), attn_mask=mask)
    rows = rows + _linear(parameters, f"{name}.proj", out.transpose(1, 2).reshape(probes, batch * sites, width))
    rows = rows + _mlp(parameters, f"{name}.mlp", _norm(parameters, f"{name}.norm2", rows))
    return rows.view_as(x)


def _cross_attention(parameters: Stacked, tokens: Tensor, valid: Tensor | None, heads: int) -> Tensor:
    """What the query reads of tokens ``[1 or P, B, N, D]``, ``[P, B, D]``; see the head of this file."""
    probes, width = len(parameters["query"]), tokens.shape[-1]
    scale, shift = parameters["norm1.weight"].unsqueeze(1), parameters["norm1.bias"].unsqueeze(1)
    query_PHC = _linear(parameters, "q", parameters["query"]).view(probes, heads, 1, -1)
    key_PHCD = parameters["k.weight"].view(probes, heads, -1, width)
    # The shift of the norm, like a bias of the keys, adds the same to every score.
    seeker_PHD = (query_PHC @ key_PHCD).squeeze(2) * scale * (width // heads) ** -0.5
    normed_GBND = _normed(tokens)
    groups = len(normed_GBND)
    scores_GBQN = torch.einsum("gbnd,gqd->gbqn", normed_GBND, seeker_PHD.reshape(groups, -1, width))
    if valid is not None:
        readable = valid | ~valid.any(1, keepdim=True)
        scores_GBQN = scores_GBQN.masked_fill(~readable[None, :, None], float("-inf"))
    mean_GBQD = scores_GBQN.softmax(-1) @ normed_GBND
    mean_PHBD = mean_GBQD.transpose(1, 2).reshape(probes, heads, -1, width) * scale.unsqueeze(1) + shift.unsqueeze(1)
    value_PHCD = parameters["v.weight"].view(probes, heads, -1, width)
    read_PHBC = mean_PHBD @ value_PHCD.transpose(2, 3)
    return read_PHBC.permute(0, 2, 1, 3).flatten(2) + parameters["v.bias"].unsqueeze(1)
