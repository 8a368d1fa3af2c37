"""Object masks: histories of objects are hidden (Causal-JEPA, arXiv 2602.11389, eq. 1 to 3); and their controls."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from jepa_core.contracts import Grid, Mask, Sites
from jepa_core.lattice import Lattice
from jepa_core.masking.padded import share_of, some_among
from jepa_core.seeds import random_keys

MaskKind = Literal["object", "token", "tube"]
KINDS = ("future", "history")
"""Kinds of targets; their energies are told apart."""
SLOT_KINDS = ("slot", "absent")
"""Kinds of the context's sites; where no kind is given all are slots."""

_COUNT_STREAM, _CHOICE_STREAM, _START_STREAM = 451, 452, 453


class ObjectMasker:
    """Hides the history of some objects, and the future of all.

    The anchor of an object is the first step of the history at which it is present; with all present that is step 0.
    It is never hidden and, unless ``anchor_in_loss``, no target. Every future slot of an object with an anchor is a
    target. An object without one is neither context nor target: nothing tells which it is.

    All lists are the whole lattice in order, ``valid`` telling what is real, so that shapes never change.

    Args:
        history, future: model steps of the window.
        masked_objects: fewest and most objects M hidden in a sample, each number as likely; (0, 0) is OC-JEPA.
        kind: ``object`` (all steps after the anchor of M objects), ``token`` (as many single slots, drawn after the
            anchors) or ``tube`` (the same run of steps for all objects, with as many slots up to rounding).
        share: of the slots after the anchors that ``token`` and ``tube`` hide instead; None = as ``object`` would.
        fixed_seed: the released code draws its objects anew from this seed in each call, so that all samples of a run
            have the same ones; None = drawn for each sample.
        anchor_in_loss: the released code also counts the visible anchor of a hidden object as a target.
    """

    def __init__(
        self,
        history: int,
        future: int,
        masked_objects: tuple[int, int] = (0, 1),
        kind: MaskKind = "object",
        share: float | None = None,
        fixed_seed: int | None = None,
        anchor_in_loss: bool = False,
    ) -> None:
        low, high = masked_objects
        if history < 1 or future < 1:
            raise ValueError(f"ObjectMasker: history and future must be 1 or more, got {history} and {future}")
        if not 0 <= low <= high:
            raise ValueError(f"ObjectMasker: masked_objects must be 0 <= fewest <= most, got {low} and {high}")
        if kind not in get_args(MaskKind):
            raise ValueError(f"ObjectMasker: kind must be one of {', '.join(get_args(MaskKind))}, got {kind!r}")
        if share is not None and (kind == "object" or not 0 <= share <= 1):
            raise ValueError(f"ObjectMasker: share must lie in 0..1 and needs kind token or tube, got {share}, {kind}")
        if fixed_seed is not None and (kind != "object" or low != high):
            raise ValueError("ObjectMasker: fixed_seed needs kind object and one number of masked objects")
        self.history, self.future, self.masked_objects = history, future, (low, high)
        self.kind, self.share, self.fixed_seed, self.anchor_in_loss = kind, share, fixed_seed, anchor_in_loss

    def check(self, lattice: Lattice) -> None:
        """Refuses a lattice that does not fit.

        Raises:
            ValueError: other steps, or fewer slots than objects to hide.
        """
        steps, slots = lattice.sizes
        if steps != self.history + self.future:
            raise ValueError(
                f"ObjectMasker: expected windows of {self.history} + {self.future} steps, got {steps}: cut them so"
            )
        if self.masked_objects[1] > slots:
            raise ValueError(
                f"causal.masking.masked_objects: expected at most {slots}, the slots of a step, got "
                f"{self.masked_objects[1]}"
            )

    def __call__(self, grid: Grid, seeds: Tensor, batch_seed: int) -> tuple[Mask, ...]:
        """One mask a sample, targets ``[B, 1, T * K]``; see :class:`jepa_core.contracts.Masker`."""
        self.check(grid.lattice)
        steps, slots = grid.lattice.sizes
        time_T1 = torch.arange(steps, device=seeds.device)[:, None]
        if grid.present is None:
            present_BTK = torch.ones(len(seeds), steps, slots, dtype=torch.bool, device=seeds.device)
        else:
            present_BTK = grid.present.unflatten(1, (steps, slots))
        past_BTK = present_BTK[:, : self.history]
        anchor_B1K = past_BTK.int().argmax(1, keepdim=True)
        real_BTK = present_BTK & past_BTK.any(1, keepdim=True)
        in_past_T1 = time_T1 < self.history
        hidden_BTK = self._hidden(real_BTK & in_past_T1 & (time_T1 > anchor_B1K), seeds)
        targets_BTK = hidden_BTK | (real_BTK & ~in_past_T1)
        if self.anchor_in_loss:
            targets_BTK = targets_BTK | (hidden_BTK.any(1, keepdim=True) & (time_T1 == anchor_B1K))
        absent_BN = None if grid.present is None else (~real_BTK).flatten(1)
        context_BN = (real_BTK & in_past_T1 & ~hidden_BTK).flatten(1)
        return (self._mask(grid.lattice, context_BN, targets_BTK.flatten(1), absent_BN),)

    def _mask(self, lattice: Lattice, context_BN: Tensor, targets_BN: Tensor, absent_BN: Tensor | None) -> Mask:
        ids_BN = Sites.whole(lattice, len(context_BN), context_BN.device).ids
        kind_BN = (ids_BN < self.history * lattice.sizes[1]).long()
        context = Sites(ids_BN, context_BN, None if absent_BN is None else absent_BN.long(), SLOT_KINDS, complete=True)
        union = Sites(ids_BN, targets_BN, kind_BN, KINDS, complete=True)
        blocks = Sites(ids_BN[:, None], targets_BN[:, None], kind_BN[:, None], KINDS, complete=True)
        return Mask(self.kind, context, blocks, union)

    def _hidden(self, may_BTK: Tensor, seeds: Tensor) -> Tensor:
        """Which of the slots that may be hidden are, bool ``[B, T, K]``."""
        low, high = self.masked_objects
        count_B = low + random_keys(seeds, 1, _COUNT_STREAM)[:, 0] % (high - low + 1)
        if self.kind == "object":
            return may_BTK & self._objects(may_BTK.any(1), count_B, seeds)[:, None]
        if self.kind == "token":
            return self._tokens(may_BTK, count_B, seeds)
        return self._tube(may_BTK, count_B, seeds)

    def _objects(self, may_BK: Tensor, count_B: Tensor, seeds: Tensor) -> Tensor:
        if self.fixed_seed is None:
            return some_among(may_BK, count_B, seeds, _CHOICE_STREAM)
        slots = may_BK.shape[1]
        chosen = np.random.RandomState(self.fixed_seed).permutation(slots)[: self.masked_objects[1]]
        place_K = torch.arange(slots, device=may_BK.device)
        found_BK = torch.zeros_like(may_BK)
        for one in chosen.tolist():  # a list of numbers would be copied to the device
            found_BK = found_BK | (place_K == one)
        return found_BK & may_BK

    def _tokens(self, may_BTK: Tensor, count_B: Tensor, seeds: Tensor) -> Tensor:
        may_BN = may_BTK.flatten(1)
        wanted_B = count_B * (self.history - 1) if self.share is None else share_of(may_BN.sum(1), self.share)
        return some_among(may_BN, wanted_B, seeds, _CHOICE_STREAM).view_as(may_BTK)

    def _tube(self, may_BTK: Tensor, count_B: Tensor, seeds: Tensor) -> Tensor:
        steps, slots = self.history - 1, may_BTK.shape[2]
        if self.share is None:
            # At least a step where any object would be hidden: rounding must not turn the mask off.
            length_B = ((2 * count_B * steps + slots) // (2 * slots)).clamp(min=1).where(count_B > 0, 0)
        else:
            length_B = torch.full_like(count_B, share_of(steps, self.share))
        length_B = length_B.clamp(max=steps)
        start_B = 1 + random_keys(seeds, 1, _START_STREAM)[:, 0] % (steps - length_B + 1)
        time_T = torch.arange(may_BTK.shape[1], device=seeds.device)
        inside_BT = (time_T >= start_B[:, None]) & (time_T < (start_B + length_B)[:, None])
        return may_BTK & inside_BT[:, :, None]
