"""A tiny linear JEPA with an EMA target on synthetic vectors: what trainer tests train."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from jepa_core.contracts import (
    BadSample,
    Batch,
    Embedding,
    Losses,
    Measurement,
    ParameterGroup,
    Picture,
    ProbeTable,
)
from jepa_core.distributed import sum_over_processes
from jepa_core.seeds import uniform
from jepa_core.settings import RunSettings

IN, HIDDEN = 12, 6


class ToyJepa(nn.Module):
    """Predicts the EMA features of a vector from half of its entries; the number of targets differs per sample."""

    def __init__(self, dropout: float = 0.0, counts: bool = True) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(IN, HIDDEN), nn.LayerNorm(HIDDEN))
        self.predictor = nn.Sequential(nn.Dropout(dropout), nn.Linear(HIDDEN, HIDDEN))
        self.target = nn.Sequential(nn.Linear(IN, HIDDEN), nn.LayerNorm(HIDDEN)).requires_grad_(False)
        self.target.load_state_dict(self.encoder.state_dict())
        self.register_buffer("seen", torch.zeros(()))  # differs between processes, as batch norm's statistics do
        self.counts = counts
        self.momentum_now = float("nan")

    def _valid(self, batch: Batch) -> Tensor:
        valid = uniform(batch.seeds, HIDDEN, stream=1) > 0.6
        valid[:, 0] |= ~valid.any(1)
        return valid

    def forward(self, batch: Batch, step: int) -> Losses:
        self.seen += batch.inputs.detach().sum()
        keep = uniform(batch.seeds, IN, stream=0) > 0.5
        with torch.no_grad():
            target = self.target(batch.inputs)
        predicted = self.predictor(self.encoder(batch.inputs * keep))
        valid = self._valid(batch)
        total = sum_over_processes(((predicted - target).square() * valid).sum())
        if batch.joint_counts is None:
            loss = total / sum_over_processes(valid.sum().float())
        else:
            loss = batch.micro_batches * total / batch.joint_counts[0]
        return Losses(loss, {"energy": loss.detach()}, {"target": target, "context": predicted.detach()})

    def target_counts(self, batch: Batch) -> Tensor | None:
        return self._valid(batch).sum().float()[None] if self.counts else None

    def parameter_groups(self) -> tuple[ParameterGroup, ...]:
        named = [(name, p) for name, p in self.named_parameters() if p.requires_grad]
        return (
            ParameterGroup("matrices", tuple(x for x in named if x[1].dim() > 1), weight_decay=True),
            ParameterGroup("vectors", tuple(x for x in named if x[1].dim() < 2), weight_decay=False, lr_scale=2.0),
        )

    @torch.no_grad()
    def after_step(self, step: int) -> None:
        self.momentum_now = 0.99
        for mine, theirs in zip(self.target.parameters(), self.encoder.parameters(), strict=True):
            mine.lerp_(theirs, 1 - self.momentum_now)

    def embed(self, batch: Batch) -> Mapping[str, Embedding]:
        return {"target": Embedding(self.target(batch.inputs))}


@dataclass
class ToySource:
    """Vectors that depend on (index, seed); ``bad`` and ``poison`` name indices that cannot be loaded or hold NaN."""

    total: int = 23
    bad: tuple[int, ...] = ()
    poison: tuple[int, ...] = ()

    def __len__(self) -> int:
        return self.total

    def sample_id(self, index: int) -> str:
        return f"toy-{index}"

    def load(self, index: int, seed: int) -> Tensor:
        if index in self.bad:
            raise BadSample(f"broken on purpose ({index})")
        base = torch.sin(torch.arange(IN) * (index + 1.0))
        noise = uniform(torch.tensor([seed]), IN, stream=5)[0]
        return base + 0.1 * noise + (float("nan") if index in self.poison else 0.0)

    def collate(self, samples: Sequence[Tensor]) -> Tensor:
        return torch.stack(list(samples))


@dataclass
class ToySettings(RunSettings):
    """Run settings of the toy."""

    modality: str = "toy"
    dropout: float = 0.1
    total: int = 23
    bad: list[int] = field(default_factory=list)
    poison: list[int] = field(default_factory=list)


class ToyModality:
    """The toy as a plug-in."""

    name, schema, recipes = "toy", ToySettings, None

    def build(self, config: Any) -> ToyJepa:
        return ToyJepa(config.dropout)

    def sources(self, config: Any) -> ToySource:
        return ToySource(config.total, tuple(config.bad), tuple(config.poison))

    def choices(self, config: Any) -> Sequence[tuple[str, str, str]]:
        return [("toy", "linear", "it is small")]

    def probe(self, config: Any, trained: Any, untrained: Any, device: torch.device) -> ProbeTable:
        """The distance between encoder weights and those at the start, so that a test sees which is which."""
        moved = (trained.encoder[0].weight - untrained.encoder[0].weight).detach().abs().sum().item()
        rows = {
            "trained": {"distance": Measurement(moved, 0.1)},
            "untrained": {"distance": Measurement(0.0)},
            "raw": {"distance": Measurement(0.0)},
        }
        return ProbeTable("distance", rows, 1, "How far the encoder moved.")

    def pictures(self, config: Any, method: Any, batch: Batch) -> Sequence[Picture]:
        return [Picture("A Mask, drawn", b"\x89PNG", "nothing to see")]

    def add_commands(self, subparsers: Any) -> None:
        """The toy has no commands."""


def quiet(settings: ToySettings) -> ToySettings:
    """Small and silent: what most tests want."""
    settings.logging.trackers = []
    settings.logging.progress = "off"
    settings.trainer.device = "cpu"
    settings.trainer.threads = "1"
    settings.trainer.batch_size = 4
    settings.trainer.log_every = 2
    settings.monitor.every = 3
    settings.data.workers = "0"
    return settings
