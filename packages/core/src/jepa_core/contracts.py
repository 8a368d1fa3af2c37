"""The contracts every JEPA is made of: data that passes between the parts, and what each part promises.

Letters in shapes: B batch, N sites, D feature width, K target blocks, M sites a block, V views, A condition width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from jepa_core.bad_sample import BadSample as BadSample
from jepa_core.drawn import Drawn as Drawn
from jepa_core.lattice import Lattice
from jepa_core.results import Measurement as Measurement
from jepa_core.results import Picture as Picture
from jepa_core.results import ProbeTable as ProbeTable

# Data


@dataclass(frozen=True)
class Sites:
    """Sites on a lattice.

    Attributes:
        ids: ``[B, ..., N]`` int64 ids on the lattice. Where ``valid`` is False the id is any legal one.
        valid: bool like ``ids``; None means all are real (the static fast path).
        kind: int64 like ``ids``, index into ``kinds``; None means all are of kind 0.
        kinds: names of the kinds, for example ``("occupied", "empty")``.
        complete: the last dimension is the whole lattice in order (``ids[..., i] == i``), so that look-ups need no
            index at all; what is really there is said by ``valid``.
    """

    ids: Tensor
    valid: Tensor | None = None
    kind: Tensor | None = None
    kinds: tuple[str, ...] = ("site",)
    complete: bool = False

    @classmethod
    def whole(cls, lattice: Lattice, batch: int, device: torch.device | None = None) -> Sites:
        """Every site of the lattice, ``[B, lattice.count]``."""
        return cls(torch.arange(lattice.count, device=device).expand(batch, -1), complete=True)

    def valid_mask(self) -> Tensor:
        """Which entries are real, bool ``[B, ..., N]``."""
        return torch.ones_like(self.ids, dtype=torch.bool) if self.valid is None else self.valid

    def kind_mask(self, kind: int) -> Tensor:
        """Bool ``[B, ..., N]``: which entries are real and of this kind."""
        mask = self.valid_mask()
        if self.kind is None:
            return mask if kind == 0 else torch.zeros_like(mask)
        return mask & (self.kind == kind)

    def flat(self) -> Sites:
        """The same sites as ``[B, N]``: block dimensions joined."""
        batch = self.ids.shape[0]

        def join(x: Tensor | None) -> Tensor | None:
            return None if x is None else x.reshape(batch, -1)

        joined = self.ids.reshape(batch, -1)
        complete = self.complete and joined.shape[-1] == self.ids.shape[-1]
        return replace(self, ids=joined, valid=join(self.valid), kind=join(self.kind), complete=complete)

    def on_lattice(self, count: int) -> Tensor:
        """Bool ``[B, count]``: True at every real site. For masks and pictures."""
        flat = self.flat()
        if flat.complete:
            return flat.valid_mask()
        # An entry that is not real may name a site another entry really holds, so count instead of writing False.
        hits = torch.zeros(flat.ids.shape[0], count, device=flat.ids.device)
        return hits.scatter_add(1, flat.ids, flat.valid_mask().to(hits.dtype)) > 0


@dataclass(frozen=True)
class Grid:
    """What is known of each site before any encoder runs.

    Attributes:
        lattice: the sites.
        present: bool ``[B, N]``, is there a site at all (padding and removed objects are not); None = all.
        occupied: bool ``[B, N]``, is there evidence in it (an empty bird's-eye cell is present, not occupied);
            None = all.
    """

    lattice: Lattice
    present: Tensor | None = None
    occupied: Tensor | None = None


@dataclass(frozen=True)
class Mask:
    """Which sites are seen and which must be predicted, for each sample.

    Attributes:
        name: for logs and pictures.
        context: ``[B, N]`` what the online encoder sees.
        targets: ``[B, K, M]`` what the predictor must predict, in K blocks.
        target_union: ``[B, U]`` the targets without duplicates.
    """

    name: str
    context: Sites
    targets: Sites
    target_union: Sites


@dataclass(frozen=True)
class Tokens:
    """Features of sites.

    Attributes:
        features: ``[B, N, D]``.
        sites: the sites ``[B, N]`` they belong to.
        lattice: where the sites lie.
        layers: further depths by name, each ``[B, N, D_layer]``.
    """

    features: Tensor
    sites: Sites
    lattice: Lattice
    layers: Mapping[str, Tensor] = field(default_factory=dict)

    def with_features(self, features: Tensor) -> Tokens:
        """The same sites with other features ``[B, N, D']``."""
        return replace(self, features=features)

    def dense(self, fill: Tensor | float = 0.0) -> Tensor:
        """Features on the whole lattice ``[B, lattice.count, D]``; ``fill`` (scalar or ``[D]``) elsewhere."""
        batch, _, width = self.features.shape
        count = self.lattice.count
        # A number is filled in on the device: a copy from the host would wait for it.
        base = fill.to(self.features.dtype) if isinstance(fill, Tensor) else self.features.new_full((), fill)
        if self.sites.complete:
            valid = self.sites.valid
            return self.features if valid is None else torch.where(valid.unsqueeze(-1), self.features, base)
        # One spare row past the lattice takes what is not valid, so that no boolean indexing is needed.
        out = base.expand(batch, count + 1, width).clone()
        ids = torch.where(self.sites.valid_mask(), self.sites.ids, count)
        return out.scatter(1, ids.unsqueeze(-1).expand(-1, -1, width), self.features)[:, :count]

    def at(self, sites: Sites) -> Tensor:
        """Features ``[B, ..., N', D]`` at ``sites``, looked up by id; zero at a site these tokens do not hold."""
        batch, width = self.features.shape[0], self.features.shape[-1]
        if sites.complete:
            dense = self.dense().reshape(batch, *(1,) * (sites.ids.dim() - 2), -1, width)
            return dense.expand(*sites.ids.shape, width)
        flat = sites.ids.reshape(batch, -1, 1).expand(-1, -1, width)
        return self.dense().gather(1, flat).reshape(*sites.ids.shape, width)


@dataclass(frozen=True)
class Condition:
    """What the predictor is told besides the context: an action, a photometric transform, a text query.

    Attributes:
        features: ``[B, C, A]``.
        at: coordinate each applies at along the first lattice axis, ``[B, C]``; None = the whole sample.
        valid: bool ``[B, C]``; None = all.
    """

    features: Tensor
    at: Tensor | None = None
    valid: Tensor | None = None


@dataclass
class Batch:
    """One batch as the loader gives it. The trainer never looks inside ``inputs``.

    Attributes:
        inputs: what the modality's front end takes (a tensor, or a dataclass / dict / list of tensors).
        seeds: int64 ``[B]``, from (seed, epoch, sample_id): all randomness of a sample comes from it.
        sample_id: one name a sample.
        batch_seed: for draws that a method makes once per global batch; equal on all processes.
        target_inputs: when the target sees another view.
        condition: see :class:`Condition`.
        grid: set where the loader already knows it; otherwise the method's front end makes it.
        streams: named sub-batches.
        rejected: (sample_id, reason) of samples that were replaced while loading this batch.
        joint_counts: ``[masks, kinds]`` valid targets over all processes and micro-batches of this optimiser step; set
            by the trainer from :meth:`Method.target_counts`. None: those of this micro-batch, over all processes.
        micro_batches: micro-batches of this optimiser step, so that a joint mean can be built up over them.
        step: the optimiser step it is for, from 1; set by the trainer, for masks that change during a run.
    """

    inputs: Any
    seeds: Tensor
    sample_id: tuple[str, ...]
    batch_seed: int = 0
    target_inputs: Any = None
    condition: Condition | None = None
    grid: Grid | None = None
    streams: Mapping[str, Batch] = field(default_factory=dict)
    rejected: tuple[tuple[str, str], ...] = ()
    joint_counts: Tensor | None = None
    micro_batches: int = 1
    step: int = 1

    def __len__(self) -> int:
        return len(self.sample_id)


@dataclass(frozen=True)
class Losses:
    """What a method returns for one micro-batch.

    Attributes:
        total: the scalar to differentiate, float32.
        terms: named float32 terms, detached, on the device (read only every n steps: no host synchronisation).
        monitor: named detached features for the collapse monitor; ``"target"`` and ``"context"`` where they exist:
            ``[R, D]`` rows of this process, or those of valid sites with the keys by which all processes draw.
    """

    total: Tensor
    terms: Mapping[str, Tensor]
    monitor: Mapping[str, Tensor | Drawn] = field(default_factory=dict)


@dataclass(frozen=True)
class Embedding:
    """Frozen features for probes and tables.

    Attributes:
        features: ``[B, D]`` for a sample, ``[B, N, D]`` for its sites.
        sites: the sites of ``[B, N, D]`` features; None for pooled ones.
    """

    features: Tensor
    sites: Sites | None = None


@dataclass(frozen=True)
class ParameterGroup:
    """Parameters that share an optimiser setting.

    Attributes:
        name: for tables and logs.
        parameters: (name, parameter) pairs.
        weight_decay: whether weight decay applies (never to norms, biases, tokens).
        lr_scale: factor on the learning rate.
    """

    name: str
    parameters: tuple[tuple[str, nn.Parameter], ...]
    weight_decay: bool
    lr_scale: float = 1.0


# Parts


class Encoder(Protocol):
    """Turns inputs into tokens. Promise: changing a dropped input changes no valid output bit."""

    def __call__(self, inputs: Any, keep: Sites | None) -> Tokens:
        """Tokens at ``keep`` (all sites when None)."""
        ...


class Masker(Protocol):
    """Draws masks. Promise: pure; per sample; the same on every device, worker count and process count."""

    def __call__(self, grid: Grid, seeds: Tensor, batch_seed: int) -> tuple[Mask, ...]:
        """Masks for a batch with per-sample ``seeds`` int64 ``[B]``."""
        ...


class Predictor(Protocol):
    """Predicts target features. Promise: it never sees them."""

    def __call__(self, context: Tokens, targets: Sites, condition: Condition | None, mask_index: int = 0) -> Tensor:
        """``[B, K, M, D]`` predictions at ``targets`` ``[B, K, M]``; ``mask_index``: which of a sample's masks."""
        ...


class TargetEncoder(Protocol):
    """Makes the features to predict. Policy: ``ema``, ``frozen``, ``stop_gradient``, ``raw``."""

    policy: str

    def encode(self, inputs: Any, keep: Sites | None) -> Tokens:
        """Tokens of the target view, without gradient."""
        ...


class Energy(Protocol):
    """Distance of prediction and target. Promise: float32, unreduced; low means compatible."""

    def __call__(self, predicted: Tensor, target: Tensor) -> Tensor:
        """``[..., D]``, ``[..., D]`` to ``[...]``."""
        ...


class AntiCollapse(Protocol):
    """Keeps features from collapsing.

    Promise: its gradient over many processes equals that of one process on the joined batch.
    """

    def __call__(self, features: Tensor, valid: Tensor | None, step: int) -> Mapping[str, Tensor]:
        """Named scalar terms of features ``[V, N, D]``; ``valid`` bool ``[V, N]``."""
        ...


class Readout(Protocol):
    """Pools tokens. Promise: it ignores what is not valid."""

    def __call__(self, tokens: Tokens) -> Tensor:
        """``[B, D]``."""
        ...


@runtime_checkable
class Method(Protocol):
    """An ``nn.Module`` that composes the parts: all that trainer, probes and comparison know."""

    def __call__(self, batch: Batch, step: int) -> Losses: ...

    def embed(self, batch: Batch) -> Mapping[str, Embedding]:
        """Frozen features of a batch, eval mode, no gradient."""
        ...

    def parameter_groups(self) -> Sequence[ParameterGroup]:
        """Every trainable parameter, each in exactly one group."""
        ...

    def target_counts(self, batch: Batch) -> Tensor | None:
        """Valid targets ``[masks, kinds]`` of this process's micro-batch; None when every batch has the same."""
        ...

    def after_step(self, step: int) -> None:
        """Called once per optimiser step, ``step`` counted from 1: moves the target encoder.

        A method may also offer ``compile_blocks()`` (for ``trainer.compile``), ``momentum_now`` (logged) and
        ``diagnose()``: after a step, ``{name: {figure: scalar}}`` for the monitor, the same on all processes. The
        trainer sets ``watched`` before a step: where it is False nobody reads ``Losses.monitor`` or ``diagnose()``.
        """
        ...


# Modalities
class SampleSource(Protocol):
    """A data set that can be read at any index; it may be simulated."""

    def __len__(self) -> int: ...

    def sample_id(self, index: int) -> str:
        """A name that stays the same across runs."""
        ...

    def load(self, index: int, seed: int) -> Any:
        """Decode, cut, augment. All randomness from ``seed``. Raises :class:`BadSample`."""
        ...

    def collate(self, samples: Sequence[Any]) -> Any:
        """The ``inputs`` of a :class:`Batch`."""
        ...


class Modality(Protocol):
    """A plug-in of the entry-point group ``jepa.modalities``, or ``MODALITY`` of a file; ``recipes`` may be None."""

    name: str
    schema: type
    recipes: Any

    def build(self, config: Any) -> Method:
        """The method this configuration describes, on the CPU, in float32."""
        ...

    def sources(self, config: Any) -> SampleSource:
        """The training data."""
        ...

    def choices(self, config: Any) -> Sequence[tuple[str, str, str]]:
        """Automatic choices as (what, choice, reason), printed at start."""
        ...

    def probe(self, config: Any, trained: Method, untrained: Method, device: torch.device) -> ProbeTable | None:
        """Frozen features against controls on held-out data; None where there is nothing to probe with."""
        ...

    def pictures(self, config: Any, method: Method, batch: Batch) -> Sequence[Picture]:
        """Mask pictures for the report and ``jepa masks``."""
        ...

    def add_commands(self, subparsers: Any) -> None:
        """Adds this modality's own commands under ``jepa data``."""
        ...
