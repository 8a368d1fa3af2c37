"""What evaluation asks of a modality beyond training data: samples that carry a label and a group."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Protocol, runtime_checkable

from jepa_core.contracts import Batch, Method, Picture, SampleSource

Split = Literal["train", "test", "all"]
SPLITS: tuple[Split, ...] = ("train", "test", "all")
Label = str | int


class LabelledSource(SampleSource, Protocol):
    """Samples as evaluation sees them: without augmentation, each with what is known of it."""

    def label(self, index: int) -> Label | None:
        """Class name or number, of one kind for the whole source; None = not known. Nothing is decoded."""
        ...

    def group(self, index: int) -> str | None:
        """Recording, drive or speaker: samples of one group resemble each other. None = the sample stands alone."""
        ...


@runtime_checkable
class Evaluable(Protocol):
    """A modality whose data can be embedded."""

    def evaluation(self, config: Any, split: Split) -> LabelledSource | None:
        """The samples of a split; None where there are none, as where nothing is held back."""
        ...


@runtime_checkable
class DrawsFeatures(Protocol):
    """A modality that can draw what its features look like."""

    def feature_pictures(self, config: Any, trained: Method, untrained: Method, batch: Batch) -> Sequence[Picture]:
        """Pictures for the report of a run; ``batch`` lies where the methods compute."""
        ...
