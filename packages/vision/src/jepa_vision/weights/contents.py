"""What was read from a file of weights: facts, tensors by our names, and what became of every key."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

from jepa_core.weights import KeyTable
from jepa_vision.weights.facts import Facts

Copy = Literal["teacher", "student"]
Parts = Literal["all", "encoder"]
Family = Literal["ijepa", "vjepa", "vjepa2"]


class WeightsError(ValueError):
    """Weights that do not fit; the message has the first offenders.

    Attributes:
        tables: of each part, what became of every key.
    """

    def __init__(self, message: str, tables: Mapping[str, KeyTable] | None = None) -> None:
        super().__init__(message)
        self.tables = dict(tables or {})


@dataclass(frozen=True)
class Weights:
    """An encoder and perhaps its predictor.

    Attributes:
        origin: path of the file or folder.
        kind: ``official``, ``huggingface``, ``timm``, ``jepakit`` or ``run``.
        facts: what must be known to build the parts.
        encoder: its tensors by our names.
        predictor: its tensors by our names; None = there is none.
        tables: of each part, what became of every key.
        copy: which of two encoders this is; None where the file has but one.
        notes: what else should be known.
    """

    origin: str
    kind: str
    facts: Facts
    encoder: Mapping[str, Tensor]
    predictor: Mapping[str, Tensor] | None = None
    tables: Mapping[str, KeyTable] = field(default_factory=dict)
    copy: Copy | None = None
    notes: Sequence[str] = ()

    def describe(self) -> str:
        """Several lines: what it is, then the key table of each part."""
        facts, size = self.facts, self.facts.size
        lines = [
            f"{self.origin}: {self.kind}" + ("" if self.copy is None else f", the {self.copy}'s encoder"),
            f"encoder: width {size.width}, {size.depth} blocks, {size.heads} heads, MLP {size.mlp_hidden}, "
            f"patch {_by(facts.patch)}, usual input {_by(facts.input_size)}, positions {facts.positions}",
        ]
        if facts.predictor is not None:
            inner = facts.predictor
            row = "each mask its own" if inner.token is None else f"row {inner.token}"
            lines.append(
                f"predictor: width {inner.width}, {inner.depth} blocks, {inner.heads} heads, {inner.mask_tokens} mask "
                f"tokens ({row}), positions {inner.positions}"
            )
        for part, table in self.tables.items():
            lines += ["", f"{part}:", str(table)]
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])


def refuse_misfits(origin: str, tables: Mapping[str, KeyTable], hint: str = "") -> None:
    """Raises unless every key of every part has its place."""
    wrong = [f"{part}: {table.problems()}" for part, table in tables.items() if not table.complete]
    if wrong:
        raise WeightsError(f"{origin} does not have the keys it should: {'; '.join(wrong)}{hint}", tables)


def _by(sizes: Sequence[int]) -> str:
    return " x ".join(map(str, sizes))
