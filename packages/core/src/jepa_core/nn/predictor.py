"""The mask-token predictor of I-JEPA (arXiv 2301.08243, section 3, "Prediction") and V-JEPA (arXiv 2404.08471).

As published, each target block is its own sequence that repeats the context: context tokens attend to mask tokens, so
what is computed for the context cannot be shared between blocks. Packed, context tokens attend to one another alone: a
sample is one sequence, in which the context comes once, and a block's prediction still depends on no other block.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from jepa_core.contracts import Condition, Sites, Tokens
from jepa_core.lattice import Lattice
from jepa_core.nn.attention import Packing
from jepa_core.nn.position import Pairing, Rotation, rotary, sin_cos
from jepa_core.nn.transformer import Transformer, clean, init_linear

Sequences = Literal["per_block", "packed"]


@dataclass(frozen=True)
class _Part:
    """One stretch of the sequences.

    Attributes:
        tokens: ``[B, K, n, E]``; K is 1 for what every block repeats.
        valid: bool ``[B, K, n]``; None = all.
        coordinates: on the lattice, ``[B, K, n, axes]``.
    """

    tokens: Tensor
    valid: Tensor | None
    coordinates: Tensor


def _per_block(parts: list[Tensor]) -> Tensor:
    """``[B, 1, n, ...]`` stretches and, last, ``[B, K, M, ...]`` to sequences ``[B K, sum n + M, ...]``."""
    blocks = parts[-1].shape[1]
    return torch.cat([x.expand(-1, blocks, *x.shape[2:]) for x in parts], dim=2).flatten(0, 1)


def _packed(parts: list[Tensor]) -> Tensor:
    """``[B, 1, n, ...]`` stretches and, last, ``[B, K, M, ...]`` to sequences ``[B, sum n + K M, ...]``."""
    return torch.cat([x.flatten(1, 2) for x in parts], dim=1)


SEQUENCES = {"per_block": _per_block, "packed": _packed}


def _valid_of(part: _Part) -> Tensor:
    return part.tokens.new_ones(part.tokens.shape[:3], dtype=torch.bool) if part.valid is None else part.valid


class TransformerPredictor(nn.Module):
    """Predicts features at target sites from context tokens; keeps the contract ``Predictor``.

    Context tokens are projected to the predictor's width; a target is a learned mask token plus its position; a
    condition, where there is one, joins as projected tokens, placed along the first axis only.

    The mask tokens are the rows of one table, so that a row without use still has a gradient (of zero).

    Args:
        lattice: of contexts and targets.
        input_width: D of the context tokens.
        width: E inside.
        depth, heads, head_width, mlp_hidden, recompute: of the transformer.
        output_width: D of the predictions; None = ``input_width``.
        condition_width: A of the condition tokens; None = there is no condition.
        positions: ``sin_cos`` (added) or ``rotary``.
        order, channels: of the axes for ``sin_cos``, see :func:`jepa_core.nn.position.sin_cos`.
        pairing: for ``rotary``, see :func:`jepa_core.nn.position.rotary`.
        mask_tokens: rows of the table of mask tokens; with one, all masks of a sample share it.
        token: the row that all masks take; None = each mask its own, by its place among the masks.
        token_std: the tokens are drawn from a normal distribution of this width at first; V-JEPA's are 0.
        sequences: ``per_block`` (as published: each target block with the whole context) or ``packed`` (the context
            once for a sample; its tokens do not attend to mask tokens, which is other mathematics with equal weights).
    """

    table: Tensor
    no_decay = ("mask_tokens",)

    def __init__(
        self,
        lattice: Lattice,
        input_width: int,
        width: int = 384,
        depth: int = 6,
        heads: int = 12,
        head_width: int | None = None,
        mlp_hidden: int | None = None,
        output_width: int | None = None,
        condition_width: int | None = None,
        positions: Literal["sin_cos", "rotary"] = "sin_cos",
        order: tuple[str, ...] | None = None,
        channels: tuple[int, ...] | None = None,
        pairing: Pairing = "interleaved",
        recompute: bool = False,
        mask_tokens: int = 1,
        token: int | None = None,
        token_std: float = 0.02,
        sequences: Sequences = "per_block",
    ) -> None:
        super().__init__()
        if positions not in ("sin_cos", "rotary"):
            raise ValueError(f"positions: expected sin_cos or rotary, got {positions!r}")
        if mask_tokens < 1 or (token is not None and not 0 <= token < mask_tokens):
            raise ValueError(f"mask_tokens, token: expected a row of at least one, got {token} of {mask_tokens}")
        if sequences not in SEQUENCES:
            raise ValueError(f"sequences: expected {' or '.join(SEQUENCES)}, got {sequences!r}")
        self.lattice = lattice
        self.positions = positions
        self.sequences: Sequences = sequences
        self.pairing: Pairing = pairing
        self.head_width = width // heads if head_width is None else head_width
        self.code = sin_cos(lattice, width, order, channels)
        coordinates = lattice.coordinates(torch.arange(lattice.count)).double()
        # Not saved: it follows from the lattice, and a saved one would pin the lattice's size.
        self.register_buffer("table", self.code(coordinates).float(), persistent=False)
        self.embed = nn.Linear(input_width, width)
        self.mask_tokens = nn.Parameter(torch.empty(mask_tokens, width))
        self.token = 0 if mask_tokens == 1 else token
        self.condition_embed = None if condition_width is None else nn.Linear(condition_width, width)
        self.transformer = Transformer(width, depth, heads, mlp_hidden, head_width, recompute=recompute)
        self.project = nn.Linear(width, input_width if output_width is None else output_width)
        self._init(token_std)

    def _init(self, token_std: float) -> None:
        if token_std:
            nn.init.trunc_normal_(self.mask_tokens, std=token_std)
        else:  # a truncated normal of no width divides by it
            nn.init.zeros_(self.mask_tokens)
        for layer in (self.embed, self.condition_embed, self.project):
            if layer is not None:
                init_linear(layer)

    def forward(
        self, context: Tokens, targets: Sites, condition: Condition | None = None, mask_index: int = 0
    ) -> Tensor:
        """Context ``[B, N, D]``, targets ``[B, K, M]`` to predictions ``[B, K, M, D']``.

        ``mask_index`` is the mask's place among those of a sample and chooses the mask token where there are several.
        What is not valid influences no valid prediction; a prediction at a target that is not valid means nothing.
        """
        self._check(context, condition)
        batch, blocks, sites = targets.ids.shape
        parts = [self._context(context)]
        if condition is not None:
            parts.append(self._condition(condition))
        parts.append(self._targets(targets, mask_index))
        shared = sum(part.tokens.shape[2] for part in parts[:-1])
        packing = None if self.sequences == "per_block" else Packing(shared, blocks)
        # Autocast gives projected tokens in half precision; mask tokens in float32 would make all that follows float32.
        x = SEQUENCES[self.sequences]([part.tokens.to(parts[0].tokens.dtype) for part in parts])
        out = self.transformer(x, self._valid(parts), self._rotation(parts), slice(shared, None), packing)
        return self.project(out).view(batch, blocks, sites, -1)

    def _check(self, context: Tokens, condition: Condition | None) -> None:
        if context.lattice.sizes != self.lattice.sizes:
            raise ValueError(
                f"predictor: expected a lattice of {self.lattice.sizes} sites, got {context.lattice.sizes}: "
                "build the predictor for the encoder's lattice"
            )
        if (condition is None) != (self.condition_embed is None):
            expected, got = ("no condition", "one") if self.condition_embed is None else ("a condition", "none")
            raise ValueError(f"predictor: expected {expected}, got {got}: set condition_width to match the batches")

    def _place(self, tokens: Tensor, ids: Tensor) -> Tensor:
        return tokens + self.table[ids].to(tokens.dtype) if self.positions == "sin_cos" else tokens

    def _context(self, context: Tokens) -> _Part:
        sites = context.sites
        tokens = self._place(self.embed(clean(context.features, sites.valid)), sites.ids)
        coordinates = self.lattice.coordinates(sites.ids)[:, None].to(self._code_type())
        return _Part(tokens[:, None], _block_of_one(sites.valid), coordinates)

    def _targets(self, targets: Sites, mask_index: int) -> _Part:
        row = mask_index if self.token is None else self.token
        if row >= len(self.mask_tokens):
            raise ValueError(
                f"predictor: expected at most {len(self.mask_tokens)} masks, one for each mask token, got one more"
            )
        tokens = self._place(self.mask_tokens[row].expand(*targets.ids.shape, -1), targets.ids)
        return _Part(tokens, targets.valid, self.lattice.coordinates(targets.ids).to(self._code_type()))

    def _condition(self, condition: Condition) -> _Part:
        assert self.condition_embed is not None
        tokens = self.condition_embed(clean(condition.features, condition.valid))
        coordinates = torch.zeros(
            *tokens.shape[:2], len(self.lattice.axes), device=tokens.device, dtype=self._code_type()
        )
        if condition.at is not None:
            coordinates[..., 0] = condition.at
            if self.positions == "sin_cos":
                tokens = tokens + self.code.along(0, condition.at.float()).to(tokens.dtype)
        return _Part(tokens[:, None], _block_of_one(condition.valid), coordinates[:, None])

    def _code_type(self) -> torch.dtype:
        """float64 in a model of that type, else float32: half precision is too coarse for angles."""
        return torch.promote_types(self.mask_tokens.dtype, torch.float32)

    def _valid(self, parts: list[_Part]) -> Tensor | None:
        if all(part.valid is None for part in parts):
            return None
        return SEQUENCES[self.sequences]([_valid_of(part) for part in parts])

    def _rotation(self, parts: list[_Part]) -> Rotation | None:
        if self.positions != "rotary":
            return None
        coordinates = SEQUENCES[self.sequences]([part.coordinates for part in parts])
        return rotary(coordinates, self.head_width, self.pairing)


def _block_of_one(valid: Tensor | None) -> Tensor | None:
    return None if valid is None else valid[:, None]
