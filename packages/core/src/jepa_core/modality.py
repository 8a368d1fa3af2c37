"""A start for a modality of one's own: everything that has a sensible default, the probe included.

What is left to write is how an item is read, and ``name``, ``schema``, ``build``, ``sources`` and, for probes and
tables, ``evaluation``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.resources.abc import Traversable
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import default_collate

from jepa_core.contracts import Batch, Method, Picture, ProbeTable, SampleSource
from jepa_core.evaluate.features import probed_features
from jepa_core.evaluate.heads import ProbeSettings
from jepa_core.evaluate.labelled import LabelledSamples, ToRows, frozen_rows, probe_table
from jepa_core.evaluation_source import Label, LabelledSource, Split
from jepa_core.results import SamplePictures
from jepa_core.settings import RunSettings
from jepa_core.thumbnails import tensor_pictures


@dataclass(frozen=True)
class Item:
    """What is known of a sample before it is read.

    Attributes:
        sample_id: a name that stays the same across runs.
        label: class name or number; None = not known. Only probes and tables see it.
        group: recording, drive or speaker; None = the sample stands alone.
        where: what reading it takes: a path, numbers.
    """

    sample_id: str
    label: Label | None = None
    group: str | None = None
    where: Any = None


class ItemSource(ABC):
    """Listed samples; keeps the contracts ``SampleSource`` and ``LabelledSource``."""

    def __init__(self, items: Sequence[Item]) -> None:
        self.items = tuple(items)

    @abstractmethod
    def read(self, item: Item, seed: int) -> Any:
        """Decodes, cuts, augments: a tensor, or a structure of tensors of the same shapes for all samples.

        All randomness comes from ``seed``. Raises :class:`jepa_core.contracts.BadSample` for what cannot be used.
        """

    def load(self, index: int, seed: int) -> Any:
        """:meth:`read` of the item."""
        return self.read(self.items[index], seed)

    def collate(self, samples: Sequence[Any]) -> Any:
        """Stacks; override it for samples of different lengths."""
        return default_collate(list(samples))

    def __len__(self) -> int:
        return len(self.items)

    def sample_id(self, index: int) -> str:
        """The item's."""
        return self.items[index].sample_id

    def label(self, index: int) -> Label | None:
        """The item's."""
        return self.items[index].label

    def group(self, index: int) -> str | None:
        """The item's."""
        return self.items[index].group


@dataclass
class SimpleRun(RunSettings):
    """The settings of every run, which ends with a probe where there are labels.

    Attributes:
        probe: the probe.
    """

    probe: ProbeSettings = field(default_factory=ProbeSettings)


class SimpleModality(ABC):
    """Keeps the contract :class:`jepa_core.contracts.Modality`.

    Attributes:
        name: what the run is called.
        schema: a dataclass that extends :class:`SimpleRun`; its defaults are the recipe ``quickstart`` where there
            are no recipe files.
        recipes: folder of YAML files; None = the defaults of the schema are the only recipe.
    """

    name: str
    schema: type[SimpleRun]
    recipes: Traversable | None = None

    @abstractmethod
    def build(self, config: Any) -> Method:
        """The method of this configuration, on the CPU, in float32."""

    @abstractmethod
    def sources(self, config: Any) -> SampleSource:
        """The training data."""

    def evaluation(self, config: Any, split: Split) -> LabelledSource | None:
        """Samples without augmentation, with labels and groups; None = there are none: no probe, no tables."""
        return None

    def raw(self, batch: Batch) -> Tensor | None:
        """What the probe's control reads, ``[B, F]``: the inputs themselves where they are one tensor."""
        return batch.inputs.flatten(1) if isinstance(batch.inputs, Tensor) else None

    def sample_pictures(self, config: Any, batch: Batch) -> SamplePictures:
        """Lines for inputs ``[B, C, T]``, images for ``[B, 1 or 3, H, W]``; nothing for others."""
        return tensor_pictures(batch.inputs, len(batch))

    def choices(self, config: Any) -> Sequence[tuple[str, str, str]]:
        """Automatic choices as (what, choice, reason): none."""
        return []

    def pictures(self, config: Any, method: Method, batch: Batch) -> Sequence[Picture]:
        """Pictures for the report: none."""
        return []

    def add_commands(self, subparsers: Any) -> None:  # noqa: B027  # a default, to be overridden where wanted
        """Commands under ``jepa data``: none."""

    def probe(self, config: Any, trained: Method, untrained: Method, device: torch.device) -> ProbeTable | None:
        """Class of a sample from its mean token: trained, untrained and raw; None without labels on both sides."""
        settings: ProbeSettings = config.probe
        sources = [self.evaluation(config, "train"), self.evaluation(config, "test")]
        if not settings.enabled:
            return None
        train, test = (
            None if source is None else LabelledSamples(source, None, settings.batch_size, config.seed)
            for source in sources
        )
        if not train or not test:
            return None
        readers: dict[str, ToRows] = {
            name: frozen_rows(method, *probed_features(settings))
            for name, method in (("trained", trained), ("untrained", untrained))
        }
        if self.raw(next(train.batches())[0]) is not None:
            readers["raw"] = lambda batch: self.raw(batch)  # type: ignore[assignment,return-value]  # just checked
        return probe_table((train, test), readers, settings.neighbours, device)
