"""Released checkpoints of I-JEPA (``.pth.tar``), V-JEPA and V-JEPA 2 (``.pt``): both encoders and the predictor.

They are ``torch.save`` dictionaries of ``encoder`` (the student, which sees the context), ``target_encoder`` (the
teacher, its moving average, which the papers evaluate) and ``predictor``, each wrapped as ``module.`` or
``module.backbone.``, beside optimiser and scaler. Facts that no shape tells (heads, positions, the grid of a clip) come
from the published sizes, from the stored position tables, or from the caller.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from jepa_core.weights import KeyTable, first, read_state, tensors_of
from jepa_vision.encoder import Size
from jepa_vision.positions import Positions
from jepa_vision.weights import layouts
from jepa_vision.weights.contents import Copy, Family, Parts, Weights, WeightsError, refuse_misfits
from jepa_vision.weights.facts import Facts, PredictorFacts
from jepa_vision.weights.tables import recognise

COPIES: Mapping[Copy, tuple[str, ...]] = {"teacher": ("target_encoder", "ema_encoder"), "student": ("encoder",)}
PREFIXES = ("module.backbone.", "module.", "backbone.", "")
# Heads of the published widths: I-JEPA and V-JEPA, then V-JEPA 2, which made the head of its giants 64 wide.
HEADS: Mapping[int, int] = {192: 3, 384: 6, 768: 12, 1024: 16, 1280: 16, 1408: 16, 1664: 16}
HEADS_VJEPA2: Mapping[int, int] = {**HEADS, 1408: 22, 1664: 26}
VJEPA2_PREDICTOR_HEADS = 12
# V-JEPA has one mask token for each of its two mask generators; V-JEPA 2 has ten.
_MOST_TOKENS_OF_VJEPA = 2


@dataclass(frozen=True)
class Hints:
    """What the caller knows of a released checkpoint.

    Attributes:
        family: whose it is.
        heads, predictor_heads: attention heads.
        size: ``([frames,] height, width)`` of its usual input, in pixels.
    """

    family: Family | None = None
    heads: int | None = None
    predictor_heads: int | None = None
    size: tuple[int, ...] | None = None

    def or_else(self, fallback: Hints) -> Hints:
        """With what is not known here from ``fallback``."""
        return Hints(
            self.family or fallback.family,
            self.heads or fallback.heads,
            self.predictor_heads or fallback.predictor_heads,
            self.size or fallback.size,
        )


def read_official(
    path: str | os.PathLike[str],
    which: Copy,
    *,
    parts: Parts = "all",
    hints: Hints | None = None,
    fallback: Hints | None = None,
) -> Weights:
    """Reads a released checkpoint; nothing in it is unpickled but tensors and plain values.

    Args:
        path: ``.pth.tar``, ``.pth``, ``.pt`` or ``.safetensors``. A bare state dict of an encoder is taken as it is.
        which: ``teacher`` (``target_encoder``) or ``student`` (``encoder``).
        parts: ``all`` (with the predictor where there is one) or ``encoder``.
        hints: what the caller knows; it counts more than what the file suggests.
        fallback: what is assumed where the file suggests nothing.

    Raises:
        WeightsError: a key is missing, left over or wrongly shaped, or a fact cannot be told.
        ValueError: the file cannot be read.
    """
    origin, state = str(path), read_state(Path(path))
    encoder, copy = _encoder_of(state, which, origin)
    encoder, encoder_table = _unwrapped(encoder)
    inner: Mapping[str, Tensor] | None = None
    tables = {"encoder": encoder_table}
    if parts == "all" and "predictor" in state:
        inner, tables["predictor"] = _unwrapped(tensors_of(state["predictor"], f"{origin}: predictor"))
    known, assumed = hints or Hints(), fallback or Hints()
    facts = _Reader(origin, encoder, inner, known, assumed, tables).facts()
    shapes = facts.shapes()
    found = layouts.read(encoder, layouts.official_encoder(facts, shapes["encoder"]), shapes["encoder"], encoder_table)
    found_inner = None
    if inner is not None:
        wanted = layouts.official_predictor(facts, shapes["predictor"], "mask_token" in inner)
        found_inner = layouts.read(inner, wanted, shapes["predictor"], tables["predictor"])
    refuse_misfits(origin, tables, "" if inner is None else "; parts=encoder takes the encoder alone")
    if copy is not None:
        taken = {*COPIES[copy], *(() if inner is None else ("predictor",))}
        encoder_table.outside = sorted(set(map(str, state)) - taken)
    return Weights(origin, "official", facts, found, found_inner, tables, copy)


def is_official(state: Mapping[str, object]) -> bool:
    """Whether a file's keys are those of a released checkpoint or of a bare encoder."""
    names = {name for found in COPIES.values() for name in found}
    return bool(names & set(state)) or any(str(key).endswith("patch_embed.proj.weight") for key in state)


def _encoder_of(state: Mapping[str, object], which: Copy, origin: str) -> tuple[dict[str, Tensor], Copy | None]:
    for name in COPIES[which]:
        if name in state:
            return tensors_of(state[name], f"{origin}: {name}"), which
    if any(str(key).endswith("patch_embed.proj.weight") for key in state):
        return tensors_of(state, origin), None
    raise WeightsError(
        f"{origin}: expected {' or '.join(COPIES[which])} in it ({which}), got {first(sorted(map(str, state)))}"
    )


def _unwrapped(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], KeyTable]:
    """Without the wrappers' prefix; what does not have it keeps its name and will be left over."""
    present = [prefix for prefix in PREFIXES if any(key.startswith(prefix) for key in state)]
    prefix = max(present, key=lambda p: (sum(key.startswith(p) for key in state if p), len(p)), default="")
    return {key.removeprefix(prefix): value for key, value in state.items()}, KeyTable(prefix)


class _Reader:
    """Tells the facts of one checkpoint from its shapes, tables and hints."""

    def __init__(
        self,
        origin: str,
        encoder: Mapping[str, Tensor],
        predictor: Mapping[str, Tensor] | None,
        known: Hints,
        assumed: Hints,
        tables: Mapping[str, KeyTable],
    ) -> None:
        self.origin, self.encoder, self.predictor, self.tables = origin, encoder, predictor, tables
        self.known, self.assumed = known, assumed
        weight = self._tensor(encoder, "patch_embed.proj.weight", (4, 5))
        self.width, self.patch = weight.shape[0], tuple(weight.shape[2:])
        self.family = self._family()
        self.heads = self._heads()

    def facts(self) -> Facts:
        """All of them."""
        hidden = self._tensor(self.encoder, "blocks.0.mlp.fc1.weight", (2,)).shape[0]
        positions, grid = self._positions()
        inner = None if self.predictor is None else self._predictor(self.predictor, positions, grid)
        return Facts(
            Size(self.width, _depth(self.encoder, "blocks."), self.heads, hidden),
            self.patch,
            tuple(count * step for count, step in zip(grid, self.patch, strict=True)),
            positions=positions,
            predictor=inner,
        )

    def _family(self) -> Family:
        if self.known.family is not None:
            return self.known.family
        if len(self.patch) == 2:
            return "ijepa"
        if self.predictor is not None:
            tokens = sum(key.startswith("mask_tokens.") for key in self.predictor)
            return "vjepa" if tokens <= _MOST_TOKENS_OF_VJEPA else "vjepa2"
        if "pos_embed" not in self.encoder:
            return "vjepa2"
        if self.assumed.family is not None:
            return self.assumed.family
        raise WeightsError(
            f"{self.origin}: an encoder of clips with a position table and without a predictor is V-JEPA's or V-JEPA "
            f"2's (which leaves the table unused): say which, family=vjepa or family=vjepa2"
        )

    def _heads(self) -> int:
        published = (HEADS_VJEPA2 if self.family == "vjepa2" else HEADS).get(self.width)
        heads = self.known.heads or published or self.assumed.heads
        if heads is None:
            raise WeightsError(
                f"{self.origin}: width {self.width} is none of the published ones "
                f"({', '.join(map(str, HEADS))}), so that its heads are not known: say heads=<number>"
            )
        return heads

    def _positions(self) -> tuple[Positions, tuple[int, ...]]:
        table = self._table(self.encoder, "pos_embed", self.width)
        size = self.known.size
        if size is None and table is None:
            size = self.assumed.size
        grid = None if size is None else self._grid_of(size)
        found = None if table is None else recognise(table, len(self.patch), grid)
        if self.family == "vjepa2":
            if table is not None:
                self.tables["encoder"].ignored["pos_embed"] = "unused, positions are rotary"
            grid = grid if found is None else found.grid
            return "rotary_tiled", grid or self._unknown_grid()
        if found is not None:
            reason = f"computed instead, it is {found.positions} (largest difference {found.difference:.1e})"
            self.tables["encoder"].ignored["pos_embed"] = reason
            return found.positions, found.grid
        if table is None:
            raise WeightsError(f"{self.origin}: expected pos_embed among the encoder's keys, got none")
        return "stored", grid or self._square(len(table)) or self._unknown_grid()

    def _grid_of(self, size: Sequence[int]) -> tuple[int, ...]:
        if len(size) != len(self.patch) or any(s < p or s % p for s, p in zip(size, self.patch, strict=True)):
            raise WeightsError(f"{self.origin}: size: expected multiples of the patch {self.patch}, got {tuple(size)}")
        return tuple(s // p for s, p in zip(size, self.patch, strict=True))

    def _square(self, count: int) -> tuple[int, ...] | None:
        side = round(count**0.5)
        if len(self.patch) == 2 and side * side == count:
            return side, side
        return self._grid_of(self.assumed.size) if self.assumed.size is not None else None

    def _unknown_grid(self) -> tuple[int, ...]:
        if self.assumed.size is not None:
            return self._grid_of(self.assumed.size)
        raise WeightsError(
            f"{self.origin}: its usual input cannot be told from its tables: say size=<[frames,] height, width>"
        )

    def _predictor(
        self, state: Mapping[str, Tensor], encoder_positions: Positions, grid: tuple[int, ...]
    ) -> PredictorFacts:
        width = self._tensor(state, "predictor_embed.weight", (2,)).shape[0]
        heads = VJEPA2_PREDICTOR_HEADS if self.family == "vjepa2" else self.heads
        rows = sum(key.startswith("mask_tokens.") for key in state)
        return PredictorFacts(
            width,
            _depth(state, "predictor_blocks."),
            self.known.predictor_heads or self._possible(heads, width) or self.assumed.predictor_heads or heads,
            self._tensor(state, "predictor_blocks.0.mlp.fc1.weight", (2,)).shape[0],
            self._tensor(state, "predictor_proj.weight", (2,)).shape[0],
            mask_tokens=max(rows, 1),
            # V-JEPA 2's training only ever uses the first of its ten; I-JEPA has but one.
            token=0 if self.family == "vjepa2" or rows <= 1 else None,
            positions=self._predictor_positions(state, encoder_positions, grid),
        )

    def _possible(self, heads: int, width: int) -> int | None:
        return heads if width % heads == 0 else None

    def _predictor_positions(
        self, state: Mapping[str, Tensor], encoder_positions: Positions, grid: tuple[int, ...]
    ) -> Positions:
        width = self._tensor(state, "predictor_embed.weight", (2,)).shape[0]
        table, ignored = self._table(state, "predictor_pos_embed", width), self.tables["predictor"].ignored
        if self.family == "vjepa2":
            if table is not None:
                ignored["predictor_pos_embed"] = "unused, positions are rotary"
            return encoder_positions
        found = None if table is None else recognise(table, len(self.patch), grid)
        if found is None:
            raise WeightsError(
                f"{self.origin}: predictor_pos_embed is none of the known sine-cosine tables on the encoder's grid "
                f"{grid}, which a predictor cannot keep; parts=encoder takes the encoder alone"
            )
        reason = f"computed instead, it is {found.positions} (largest difference {found.difference:.1e})"
        ignored["predictor_pos_embed"] = reason
        return found.positions

    def _table(self, state: Mapping[str, Tensor], key: str, width: int) -> Tensor | None:
        """A position table ``[N, width]``, None where there is none."""
        if key not in state:
            return None
        table = self._tensor(state, key, (3,))
        if table.shape[0] != 1 or table.shape[2] != width:
            raise WeightsError(f"{self.origin}: {key}: expected [1, N, {width}], got {list(table.shape)}")
        return table[0]

    def _tensor(self, state: Mapping[str, Tensor], key: str, dimensions: tuple[int, ...]) -> Tensor:
        if key not in state or state[key].ndim not in dimensions:
            got = f"of shape {tuple(state[key].shape)}" if key in state else f"keys {first(sorted(state))}"
            raise WeightsError(
                f"{self.origin}: expected {key} with {' or '.join(map(str, dimensions))} dimensions, got {got}"
            )
        return state[key]


def _depth(state: Mapping[str, Tensor], prefix: str) -> int:
    numbers = [key[len(prefix) :].split(".")[0] for key in state if key.startswith(prefix)]
    return 1 + max((int(number) for number in numbers if number.isdigit()), default=0)
