"""What evaluation asks of a modality beyond training data: samples that carry a label and a group."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

from jepa_core.contracts import Batch, Method, Picture, SampleSource
from jepa_core.results import SamplePictures

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


@runtime_checkable
class DrawsSamples(Protocol):
    """A modality that can draw its samples: beside their neighbours in reports and comparisons stands what they are."""

    def sample_pictures(self, config: Any, batch: Batch) -> SamplePictures:
        """A small picture of each sample; ``batch`` is of :meth:`Evaluable.evaluation` and lies on the CPU."""
        ...


@dataclass(frozen=True)
class Labelled:
    """A source with what is known of its samples; keeps the contract :class:`LabelledSource`.

    Attributes:
        source: gives the samples.
        labels, groups: one entry a sample.
    """

    source: SampleSource
    labels: Sequence[Label | None]
    groups: Sequence[str | None]

    def __post_init__(self) -> None:
        lengths = len(self.source), len(self.labels), len(self.groups)
        if len(set(lengths)) > 1:
            raise ValueError(f"Labelled: expected a label and a group for each sample, got lengths {lengths}")

    def __len__(self) -> int:
        return len(self.source)

    def sample_id(self, index: int) -> str:
        """The source's."""
        return self.source.sample_id(index)

    def load(self, index: int, seed: int) -> Any:
        """The source's."""
        return self.source.load(index, seed)

    def collate(self, samples: Sequence[Any]) -> Any:
        """The source's."""
        return self.source.collate(samples)

    def label(self, index: int) -> Label | None:
        """What it was given."""
        return self.labels[index]

    def group(self, index: int) -> str | None:
        """What it was given."""
        return self.groups[index]
