"""The predictor of Causal-JEPA (arXiv 2602.11389, section 3): a bidirectional transformer over steps by slots."""

from __future__ import annotations

from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from jepa_core.contracts import Condition, Sites, Tokens
from jepa_core.nn.transformer import clean, init_linear

Residual = Literal["none", "last_visible"]


class SlotPredictor(nn.Module):
    """Fills in hidden slots; keeps the contract ``Predictor``.

    One sequence holds every slot of every step once. A visible one is its (projected) slot plus the code of its step; a
    hidden one is a learned vector plus the code of its step plus a linear map of its object's anchor, its first visible
    slot. There is no code of a slot's place: slots may be permuted, and identity comes from the anchor alone. Actions
    and proprioception join as one token a step. Actions of future steps are visible, proprioception of future steps is
    not; the action of the last step leads out of the window and is left out.

    Args:
        slot_width: D.
        transformer: ``(tokens [B, N, E], valid [B, N] or None) -> [B, N, E]``, with its ``blocks``.
        width: E; 0 = D, and slots are not projected (as published).
        history, future: model steps of a training window. Shorter histories take the last codes.
        residual: ``last_visible`` adds the last visible slot of the object up to that step (the anchor, where all its
            history is hidden) to what is predicted; ``none`` predicts slots themselves (as published).
        action_width, proprio_width: of a model step; 0 = none.
    """

    no_decay = ("mask_vector", "time_embed")

    def __init__(
        self,
        slot_width: int,
        transformer: nn.Module,
        width: int,
        history: int,
        future: int,
        residual: Residual = "last_visible",
        action_width: int = 0,
        proprio_width: int = 0,
    ) -> None:
        super().__init__()
        inner = width or slot_width
        self.history, self.future, self.residual = history, future, residual
        self.embed: nn.Module = nn.Linear(slot_width, inner) if width else nn.Identity()
        self.anchor = nn.Linear(slot_width, inner)
        self.mask_vector = nn.Parameter(torch.empty(inner))
        self.time_embed = nn.Parameter(torch.randn(history + future, inner))
        widths = {"action": action_width, "proprio": proprio_width}
        self.streams = nn.ModuleDict({name: nn.Linear(size, inner) for name, size in widths.items() if size})
        self.transformer = transformer
        self.project = nn.Linear(inner, slot_width)
        nn.init.trunc_normal_(self.mask_vector, std=0.02)
        for layer in (self.embed, self.anchor, *self.streams.values(), self.project):
            init_linear(layer)

    def forward(
        self, context: Tokens, targets: Sites, condition: Condition | None = None, mask_index: int = 0
    ) -> Tensor:
        """Context ``[B, N, D]``, targets ``[B, K, M]`` to predictions ``[B, K, M, D]``.

        Args:
            context: tokens of slots; a site of kind 1 (absent) is left out of the sequence.
            targets: where to read predictions.
            condition: of :func:`jepa_causal.windows.condition_of`, whose order says at which step each token is; None
                where the predictor has no streams.
            mask_index: not used, one vector stands for all masks.
        """
        steps, slots = context.lattice.sizes
        self._check(steps)
        slots_BTKD = context.dense().unflatten(1, (steps, slots))
        visible_BTK = context.sites.on_lattice(context.lattice.count).unflatten(1, (steps, slots))
        tokens = [self._slot_tokens(slots_BTKD, visible_BTK)]
        valid = [_there(context)]
        if self.streams or condition is not None:
            extra, extra_valid = self._stream_tokens(condition, steps)
            tokens, valid = tokens + extra, valid + extra_valid
        hidden_BNE = self.transformer(torch.cat(tokens, dim=1), _joined(tokens, valid))
        found_BND = self.project(hidden_BNE[:, : steps * slots])
        if self.residual == "last_visible":
            found_BND = found_BND + last_visible(slots_BTKD, visible_BTK).flatten(1, 2)
        whole = Sites.whole(context.lattice, len(found_BND), found_BND.device)
        return Tokens(found_BND, whole, context.lattice).at(targets)

    @torch.no_grad()
    def start_from_last_visible(self) -> None:
        """Makes the last layer a hundredth of itself: at first almost nothing changes, and learning starts from there.

        Not zeros: the layers below would have no gradient in the first step.
        """
        self.project.weight.mul_(0.01)
        self.project.bias.zero_()

    def compile_blocks(self) -> None:
        """Compiles each block for itself."""
        for block in cast(Any, self.transformer).blocks:
            block.compile()

    def _check(self, steps: int) -> None:
        if not self.future < steps <= self.history + self.future:
            raise ValueError(
                f"predictor: expected 1 to {self.history} steps of history and {self.future} of the future, got "
                f"{steps} in all: cut the history"
            )

    def _slot_tokens(self, slots_BTKD: Tensor, visible_BTK: Tensor) -> Tensor:
        steps = slots_BTKD.shape[1]
        anchor_BKD = _pick(slots_BTKD, visible_BTK.int().argmax(1, keepdim=True))
        query_B1KE = self.mask_vector + self.anchor(anchor_BKD)
        tokens_BTKE = torch.where(visible_BTK.unsqueeze(-1), self.embed(slots_BTKD), query_B1KE)
        return (tokens_BTKE + self.time_embed[-steps:, None]).flatten(1, 2)

    def _stream_tokens(self, condition: Condition | None, steps: int) -> tuple[list[Tensor], list[Tensor | None]]:
        """One token ``[B, n, E]`` a known step of each stream, and which of them are valid."""
        got = 0 if condition is None else condition.features.shape[1]
        if condition is None or got != len(self.streams) * steps:
            raise ValueError(
                f"predictor: expected the streams {', '.join(self.streams) or '(none)'} of {steps} steps each, got "
                f"{got} tokens; give what the method's front end makes of a window"
            )
        streams = condition.features.split(steps, dim=1)
        valid = [None] * len(streams) if condition.valid is None else list(condition.valid.split(steps, dim=1))
        tokens, known = [], []
        for (name, layer), features, real in zip(self.streams.items(), streams, valid, strict=True):
            count = steps - 1 if name == "action" else steps - self.future
            assert isinstance(layer, nn.Linear)
            real = None if real is None else real[:, :count]
            cleaned = clean(features[:, :count, : layer.in_features], real)
            tokens.append(layer(cleaned) + self.time_embed[-steps:][:count])
            known.append(real)
        return tokens, known


def last_visible(slots_BTKD: Tensor, visible_BTK: Tensor) -> Tensor:
    """Of each step and object the last visible slot up to it, ``[B, T, K, D]``; its first where none came before."""
    steps = visible_BTK.shape[1]
    time_T1 = torch.arange(steps, device=visible_BTK.device)[:, None]
    last_BTK = torch.where(visible_BTK, time_T1, -1).cummax(1).values
    first_B1K = visible_BTK.int().argmax(1, keepdim=True)
    return _pick(slots_BTKD, torch.where(last_BTK < 0, first_B1K, last_BTK))


def _pick(slots_BTKD: Tensor, step_BSK: Tensor) -> Tensor:
    """The slot of each object at given steps, ``[B, S, K, D]``."""
    return slots_BTKD.gather(1, step_BSK.unsqueeze(-1).expand(-1, -1, -1, slots_BTKD.shape[-1]))


def _there(context: Tokens) -> Tensor | None:
    """Which sites hold an object, bool ``[B, T * K]``; None = all do, where the sites name no kinds."""
    kind = context.sites.kind
    if kind is None:
        return None
    assert context.sites.complete, "absent slots are told on the whole lattice"
    return kind == 0


def _joined(tokens: list[Tensor], valid: list[Tensor | None]) -> Tensor | None:
    """Who may be attended to, bool ``[B, N]``; None where all may (fast kernels)."""
    if all(mask is None for mask in valid):
        return None
    masks = [
        x.new_ones(x.shape[:2], dtype=torch.bool) if mask is None else mask
        for x, mask in zip(tokens, valid, strict=True)
    ]
    return torch.cat(masks, dim=1)


# --------------------------------------------------------------------------------------------------------------------
# The released code's transformer
# --------------------------------------------------------------------------------------------------------------------


class ReleasedBlock(nn.Module):
    """``x += Attn(x)`` without a norm before it, then ``x += MLP(LN(x))``, as in the released code.

    Heads are ``width / heads`` wide there, whatever head width is set.

    Args:
        width: E.
        heads: attention heads; they divide the width.
        mlp_hidden: width inside the MLP.
        dropout: of attention weights and inside the MLP.
    """

    def __init__(self, width: int, heads: int, mlp_hidden: int, dropout: float) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"causal.predictor.heads: expected a divisor of the width {width}, got {heads}")
        self.attn = nn.MultiheadAttention(width, heads, dropout, batch_first=True)
        self.mlp = nn.Sequential(
            nn.LayerNorm(width),
            nn.Linear(width, mlp_hidden),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(mlp_hidden, width),
            nn.Dropout(dropout),
        )

    def forward(self, x: Tensor, valid: Tensor | None = None) -> Tensor:
        """``[B, N, E]`` to ``[B, N, E]``; tokens that are not valid are attended to by none."""
        x = x + self._attend(x, valid)
        return x + self.mlp(x)

    def _attend(self, x: Tensor, valid: Tensor | None) -> Tensor:
        """What ``self.attn`` computes, without its copies of queries, keys and values."""
        attn, (batch, tokens, width) = self.attn, x.shape
        qkv = functional.linear(x, attn.in_proj_weight, attn.in_proj_bias)
        q, k, v = qkv.view(batch, tokens, 3, attn.num_heads, -1).permute(2, 0, 3, 1, 4)
        mask = None if valid is None else valid[:, None, None, :]
        dropout = attn.dropout if self.training else 0.0
        out = functional.scaled_dot_product_attention(q, k, v, mask, dropout)
        return attn.out_proj(out.transpose(1, 2).reshape(batch, tokens, width))


class ReleasedTransformer(nn.Module):
    """A stack of :class:`ReleasedBlock` and a final layer norm; arguments as there."""

    def __init__(self, width: int, depth: int, heads: int, mlp_hidden: int, dropout: float) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(ReleasedBlock(width, heads, mlp_hidden, dropout) for _ in range(depth))
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor, valid: Tensor | None = None) -> Tensor:
        """Tokens ``[B, N, E]`` to normalised tokens ``[B, N, E]``."""
        x = clean(x, valid)
        if valid is not None:
            valid = valid | ~valid.any(1, keepdim=True)  # a softmax over nothing would be NaN
        for block in self.blocks:
            x = block(x, valid)
        return self.norm(x)
