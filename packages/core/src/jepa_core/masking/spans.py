"""Span masks on one axis: several target sets of random spans, and the context that they leave (WavJEPA, 2509.23238).

Spans are those of wav2vec 2.0 and data2vec: of T steps, ``p T / L`` starts are drawn, and L steps from each are taken.
Letters: B batch, R layouts tried, K target sets, S starts, T time steps.
"""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor
from torch.nn import functional as F

from jepa_core.contracts import Grid, Mask
from jepa_core.lattice import Lattice
from jepa_core.masking.extent import extents
from jepa_core.masking.layout import roomiest, take_layout
from jepa_core.masking.padded import keep_one_of_both, padded_mask, share_of, some_among
from jepa_core.seeds import random_keys, uniform

_CONTEXT_STREAM, _TARGET_STREAM, _CUT_STREAM = 181, 183, 185  # spans take two each: starts, and how many
_LAST = torch.iinfo(torch.int64).max

LAYOUTS = 8
"""Layouts drawn for each sample; the first whose context is long enough is taken, otherwise the one with the longest.
In the last, all target sets are the first one."""


class SpanMasker:
    """Target sets of spans; the context is what neither they nor spans of its own take.

    The candidate for the context is the complement of spans that cover about ``context_p`` of the time. The released
    masker draws again until the context has ``min_context`` of the time; here a fixed number of layouts is drawn at
    once (see :data:`LAYOUTS`), so that nothing waits for the device. Starts are drawn without replacement.

    Lists are padded and ``valid`` tells; in a clip that ends earlier everything is drawn for its own length, so that it
    has the mask that it has alone. Clips shorter than a span are hidden in part: a sample of two steps or more keeps
    at least one of both.

    Args:
        sets: K target sets, each predicted by itself.
        target_p: share of the time that the spans of a set would take if they did not overlap.
        context_p: the same of the spans that the context leaves out; 0 = it leaves out the targets alone.
        length: time steps of a span.
        min_run: runs of the context shorter than this are dropped.
        min_context: share of the time that the context should have.
        max_context: length of the context's list as a share of the time; what is more is left out uniformly at random.
    """

    def __init__(
        self,
        sets: int = 4,
        target_p: float = 0.25,
        context_p: float = 0.65,
        length: int = 10,
        min_run: int = 1,
        min_context: float = 0.1,
        max_context: float = 0.4,
    ) -> None:
        if min(sets, length, min_run) < 1:
            raise ValueError(
                f"SpanMasker: sets, length, min_run: expected 1 or more, got {sets}, {length} and {min_run}"
            )
        if not (0 < target_p < 1 and 0 <= context_p < 1):
            raise ValueError(
                f"SpanMasker: target_p and context_p must lie between 0 and 1, got {target_p} and {context_p}"
            )
        if not 0 < min_context <= max_context <= 1:
            raise ValueError(
                f"SpanMasker: expected 0 < min_context <= max_context <= 1, got {min_context} and {max_context}"
            )
        self.sets, self.target_p, self.context_p, self.length = sets, target_p, context_p, length
        self.min_run, self.min_context, self.max_context = min_run, min_context, max_context

    @classmethod
    def speech(cls) -> Self:
        """WavJEPA's constants for speech: sparser targets, a context of all the rest in runs of 5 steps or more."""
        return cls(target_p=0.1, context_p=0.0, min_run=5, min_context=0.5, max_context=1.0)

    def check(self, lattice: Lattice) -> None:
        """Refuses a lattice of more than one axis, or no longer than a span."""
        if len(lattice.sizes) != 1 or lattice.count <= self.length:
            raise ValueError(
                f"SpanMasker: expected one axis of more than length {self.length} steps, got {lattice.sizes} of "
                f"{lattice.axes}; lower length, or take TimeMasker for time and frequency"
            )

    def __call__(self, grid: Grid, seeds: Tensor, batch_seed: int) -> tuple[Mask, ...]:
        """One mask a sample, targets ``[B, sets, M]``; see :class:`jepa_core.contracts.Masker`."""
        self.check(grid.lattice)
        steps = grid.lattice.count
        present_BT = grid.present
        if present_BT is None:
            present_BT = torch.ones(len(seeds), steps, dtype=torch.bool, device=seeds.device)
        context_BT, targets_BKT = self._draw(present_BT, seeds)
        total_B, longest = present_BT.sum(1), max(1, share_of(steps, self.max_context))
        context_BT = some_among(context_BT, share_of(total_B, self.max_context).clamp(min=1), seeds, _CUT_STREAM)
        context_BT, targets_BKT = keep_one_of_both(context_BT, targets_BKT, present_BT, seeds)
        most = min(steps, _most_starts(steps, self.target_p, self.length) * self.length)
        return (padded_mask("spans", context_BT, targets_BKT, grid.lattice, longest, most),)

    def _draw(self, present_BT: Tensor, seeds: Tensor) -> tuple[Tensor, Tensor]:
        """Context ``[B, T]`` and targets ``[B, K, T]`` of the layout that is taken, bool."""
        targets_BRKT = self._spans(present_BT, seeds, self.sets, self.target_p, _TARGET_STREAM)
        targets_BRKT[:, -1] = targets_BRKT[:, -1, :1]
        left_BRT = present_BT[:, None] & ~targets_BRKT.any(2)
        if self.context_p:
            left_BRT = left_BRT & ~self._spans(present_BT, seeds, 1, self.context_p, _CONTEXT_STREAM)[:, :, 0]
        left_BRT = long_runs(left_BRT, self.min_run)
        wanted_B = share_of(present_BT.sum(1), self.min_context).clamp(min=1)
        chosen_B = roomiest(left_BRT.sum(-1) / wanted_B[:, None])
        return take_layout(left_BRT, chosen_B), take_layout(targets_BRKT, chosen_B)

    def _spans(self, present_BT: Tensor, seeds: Tensor, sets: int, share: float, stream: int) -> Tensor:
        """Unions of random spans up to the end of each clip, bool ``[B, LAYOUTS, sets, T]``."""
        batch, steps = present_BT.shape
        shape = (batch, LAYOUTS, sets)
        end_B = extents(present_BT, (steps,))[:, 0]
        # A position of its own for each (step, layout, set), so that a longer lattice changes no draw of a clip.
        keys = random_keys(seeds, steps * LAYOUTS * sets, stream).view(batch, steps, LAYOUTS, sets).permute(0, 2, 3, 1)
        possible_B = (end_B - self.length + 1).clamp(min=1)
        keys = keys.masked_fill(torch.arange(steps, device=keys.device) >= possible_B[:, None, None, None], _LAST)
        starts = keys.topk(min(steps, _most_starts(steps, share, self.length)), dim=-1, largest=False).indices
        dice = uniform(seeds, LAYOUTS * sets, stream + 1).view(shape)
        count = (end_B[:, None, None] * (share / self.length) + dice).long().clamp(min=1)
        count = torch.minimum(count, possible_B[:, None, None])
        drawn = torch.arange(starts.shape[-1], device=keys.device) < count[..., None]
        marks = torch.zeros(*shape, steps, dtype=torch.int32, device=keys.device)
        marks = marks.scatter(-1, starts, drawn.to(torch.int32))
        return _from_starts(marks, self.length) & present_BT[:, None, None]


def _most_starts(steps: int, share: float, length: int) -> int:
    """Most starts that :meth:`SpanMasker._spans` draws."""
    return int(share * steps / length) + 1


def _from_starts(starts: Tensor, length: int) -> Tensor:
    """Steps at most ``length - 1`` after a start, bool ``[..., T]``, of int32 ``[..., T]``."""
    running = starts.cumsum(-1)
    return running > F.pad(running, (length, 0))[..., : running.shape[-1]]


def long_runs(x: Tensor, least: int) -> Tensor:
    """What stands in runs of at least ``least`` True entries, bool ``[..., T]``."""
    if least == 1:
        return x
    # A run of that length ends where none of the last entries is False; what comes before an end belongs to it.
    missing = F.pad((~x).to(torch.int32), (least - 1, 0), value=1).cumsum(-1)
    ends = missing[..., least - 1 :] == F.pad(missing, (1, 0))[..., : x.shape[-1]]
    return _from_starts(ends.flip(-1).to(torch.int32), least).flip(-1)
