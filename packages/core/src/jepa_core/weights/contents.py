"""What was read from a file of weights: facts, tensors by our names, and what became of every key."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, Protocol, Self, TypeVar

from torch import Tensor

from jepa_core.weights.keys import KeyTable

Copy = Literal["teacher", "student"]
Parts = Literal["all", "encoder"]


class Facts(Protocol):
    """What a modality must know to build an encoder, and perhaps its predictor and front end, again."""

    def without_predictor(self) -> Self:
        """The same encoder alone."""
        ...

    def as_json(self) -> dict[str, Any]:
        """Plain values, from which the modality makes the facts again."""
        ...

    def shapes(self) -> dict[str, dict[str, tuple[int, ...]]]:
        """Shapes of the tensors of each part by our names: ``encoder``, then perhaps ``front_end``, ``predictor``."""
        ...

    def describe(self) -> list[str]:
        """One line for each part."""
        ...


F = TypeVar("F", bound=Facts)


class WeightsError(ValueError):
    """Weights that do not fit; the message has the first offenders.

    Attributes:
        tables: of each part, what became of every key.
    """

    def __init__(self, message: str, tables: Mapping[str, KeyTable] | None = None) -> None:
        super().__init__(message)
        self.tables = dict(tables or {})


@dataclass(frozen=True)
class Weights(Generic[F]):
    """An encoder and perhaps its predictor and its front end.

    Attributes:
        origin: path of the file or folder.
        kind: ``official``, ``huggingface``, ``timm``, ``jepakit`` or ``run``.
        facts: what must be known to build the parts.
        encoder: its tensors by our names.
        predictor: its tensors by our names; None = there is none.
        tables: of each part, what became of every key.
        copy: which of two encoders this is; None where the file has but one.
        notes: what else should be known.
        front_end: its tensors by our names; none where the facts have all that it needs.
    """

    origin: str
    kind: str
    facts: F
    encoder: Mapping[str, Tensor]
    predictor: Mapping[str, Tensor] | None = None
    tables: Mapping[str, KeyTable] = field(default_factory=dict)
    copy: Copy | None = None
    notes: Sequence[str] = ()
    front_end: Mapping[str, Tensor] = field(default_factory=dict)

    def describe(self) -> str:
        """Several lines: what it is, then the key table of each part."""
        lines = [
            f"{self.origin}: {self.kind}" + ("" if self.copy is None else f", the {self.copy}'s encoder"),
            *self.facts.describe(),
        ]
        for part, table in self.tables.items():
            lines += ["", f"{part}:", str(table)]
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])


def refuse_misfits(origin: str, tables: Mapping[str, KeyTable], hint: str = "") -> None:
    """Raises unless every key of every part has its place.

    Raises:
        WeightsError: see above.
    """
    wrong = [f"{part}: {table.problems()}" for part, table in tables.items() if not table.complete]
    if wrong:
        raise WeightsError(f"{origin} does not have the keys it should: {'; '.join(wrong)}{hint}", tables)


def by(sizes: Sequence[int]) -> str:
    """Sizes as people write them."""
    return " x ".join(map(str, sizes))
