"""Errors of predicted slots, read through the position probe: forecast, completion and counterfactual, with controls.

All errors are root mean squared distances in widths of the world, so lower is better; standard errors draw whole
episodes again. A counterfactual says something only beside two rows: the same predictor with the object left in (one
that ignores a removal scores the same), and the true factual future.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from jepa_causal.baselines import Forecaster
from jepa_causal.clips import (
    AFFECTED,
    Cases,
    Clips,
    Removals,
    Truth,
    completion_cases,
    forecast_cases,
)
from jepa_causal.probe import NO_SLOT
from jepa_core.evaluate.probes import bootstrap_stderr, paired_bootstrap
from jepa_core.results import Measurement, ProbeTable

CONTACT, FREE = "forecast, contact", "forecast, no contact"
COMPLETION, COUNTERFACTUAL = "completion", "counterfactual"
FORECAST = "forecast"
ERRORS = (CONTACT, FREE, COMPLETION, COUNTERFACTUAL, FORECAST)
FG_ARI, OVERLAP = "FG-ARI", "mBO"
LEFT_IN, FACTUAL, SLOTS = "{}, object left in", "true factual future", "true slots"

Probe = Callable[[Tensor], Tensor]


def root_mean(squared: Tensor, _: Tensor, weights: Tensor) -> Tensor:
    """Root of the weighted mean of squared errors ``[N]`` under weights ``[W, N]``; float64 ``[W]``."""
    return ((weights * squared).sum(-1) / weights.sum(-1)).sqrt()


def measured(squared: Tensor, episodes: Tensor) -> Measurement:
    """Root mean squared error of rows ``[R]``; its standard error draws whole episodes, None of fewer than two."""
    if len(episodes.unique()) < 2:
        return Measurement(float(squared.mean().sqrt()))
    found = bootstrap_stderr(root_mean, squared, torch.zeros_like(squared), episodes)
    return Measurement(found.value, found.stderr)


class PositionScores:
    """Scores predictors of slots on positions; keeps what it needs for paired differences.

    Args:
        clips: with truth.
        probe: slots to positions.
        removed: affected objects; None where the world cannot be simulated again.
    """

    def __init__(self, clips: Clips, probe: Probe, removed: Removals | None) -> None:
        assert clips.truth is not None
        self.clips, self.truth, self.probe, self.removed = clips, clips.truth, probe, removed
        contact, free = forecast_cases(clips, self.truth)
        # A world in which nothing can touch has one kind of forecast.
        self.forecasts = {CONTACT: contact, FREE: free} if len(contact) else {FORECAST: free}
        self.completions = completion_cases(clips, self.truth)
        self.rows: dict[str, dict[str, Measurement]] = {}
        self.squared: dict[tuple[str, str], Tensor] = {}

    def add(self, name: str, forecaster: Forecaster) -> None:
        """Forecast, completion and, with the object removed, counterfactual."""
        future = forecaster.forecast(self.clips.past(), self.clips.future)
        self._forecasts(name, future)
        self._completion(name, forecaster)
        if self.removed is not None and len(self.removed.cases):
            slot = self.truth.slot[self.removed.cases.clip, self.removed.removed]
            past = self.clips.past().at(self.removed.cases.clip).without(slot)
            horizon = forecaster.forecast(past, self.clips.future)[:, -1]
            self._counterfactual(name, self._read(horizon, self.removed.cases))

    def add_left_in(self, name: str, forecaster: Forecaster) -> None:
        """The counterfactual question to a predictor that is not told of the removal."""
        if self.removed is not None and len(self.removed.cases):
            horizon = forecaster.forecast(self.clips.past(), self.clips.future)[self.removed.cases.clip, -1]
            self._counterfactual(LEFT_IN.format(name), self._read(horizon, self.removed.cases))

    def add_factual(self) -> None:
        """What really happened, as an answer to what would have."""
        if self.removed is not None and len(self.removed.cases):
            cases = self.removed.cases
            self._counterfactual(FACTUAL, self.truth.xy[cases.clip, -1, cases.object])

    def add_slots(self) -> None:
        """The slots of the future themselves: what the probe alone gets wrong, below which no predictor can come."""
        self._forecasts(SLOTS, self.clips.slots[:, self.clips.history :])
        if len(self.completions):
            self._keep(SLOTS, COMPLETION, self._completion_error(self.clips.past().slots[self.completions.clip]))

    def difference(self, a: tuple[str, str], b: tuple[str, str]) -> Measurement | None:
        """Error of ``a`` minus that of ``b``, each (row, column) over the same cases, paired over episodes."""
        if a not in self.squared or b not in self.squared:
            return None
        one, two = self.squared[a], self.squared[b]
        episodes = self._episodes(a[1])
        if len(episodes.unique()) < 2:
            return Measurement(float(one.mean().sqrt() - two.mean().sqrt()))
        found = paired_bootstrap(root_mean, one, two, torch.zeros_like(one), episodes)
        return Measurement(found.value, found.stderr)

    def table(self, note: str) -> ProbeTable:
        """All rows so far; the leading column is the forecast of objects that touch another."""
        count = sum(map(len, self.forecasts.values()))
        return ProbeTable(next(iter(self.forecasts)), self.rows, count, note, errors=ERRORS, bounds=(SLOTS,))

    def counts(self) -> str:
        """What the columns stand on."""
        parts = [f"{len(cases)} objects ({name})" for name, cases in self.forecasts.items()]
        if len(self.completions):
            parts.append(f"{len(self.completions)} hidden objects (completion)")
        if self.removed is not None:
            parts.append(
                f"{len(self.removed.cases)} objects moved by more than {AFFECTED} by one of {self.removed.runs} "
                "removals (counterfactual)"
            )
        return f"{', '.join(parts)}, in {len(self.clips.slots)} windows of {len(self.clips.episode.unique())} episodes"

    # ---------------------------------------------------------------------------------------------- the three errors

    def _forecasts(self, name: str, future: Tensor) -> None:
        for column, cases in self.forecasts.items():
            if len(cases):
                xy = self._read(future[cases.clip, -1], cases)
                self._keep(name, column, (xy - self.truth.xy[cases.clip, -1, cases.object]).square().sum(-1))

    def _completion(self, name: str, forecaster: Forecaster) -> None:
        cases = self.completions
        if not len(cases) or self.clips.history < 2:
            return
        past = self.clips.past().at(cases.clip)
        hidden = torch.zeros(past.slots.shape[0], past.slots.shape[2], dtype=torch.bool)
        hidden[torch.arange(len(cases)), self.truth.slot[cases.clip, cases.object]] = True
        filled = forecaster.complete(past, hidden)
        if filled is not None:
            self._keep(name, COMPLETION, self._completion_error(filled))

    def _completion_error(self, filled: Tensor) -> Tensor:
        """Mean over the hidden steps of slots ``[C, T_h, K, D]``; ``[C]``."""
        cases = self.completions
        slot = self.truth.slot[cases.clip, cases.object]
        xy = self.probe(filled[torch.arange(len(cases)), 1:, slot])
        true = self.truth.xy[cases.clip, 1 : self.clips.history, cases.object]
        return (xy - true).square().sum(-1).mean(-1)

    def _counterfactual(self, name: str, xy_C2: Tensor) -> None:
        assert self.removed is not None
        self._keep(name, COUNTERFACTUAL, (xy_C2 - self.removed.xy).square().sum(-1))

    def _read(self, slots_CKD: Tensor, cases: Cases) -> Tensor:
        """Position of each case's object, ``[C, 2]``."""
        return self.probe(slots_CKD[torch.arange(len(cases)), self.truth.slot[cases.clip, cases.object]])

    def _keep(self, name: str, column: str, squared: Tensor) -> None:
        self.squared[name, column] = squared
        self.rows.setdefault(name, {})[column] = measured(squared, self._episodes(column))

    def _episodes(self, column: str) -> Tensor:
        if column == COMPLETION:
            return self.clips.episode[self.completions.clip]
        if column == COUNTERFACTUAL:
            assert self.removed is not None
            return self.clips.episode[self.removed.cases.clip]
        return self.clips.episode[self.forecasts[column].clip]


class SlotScores:
    """Scores predictors on the slots themselves, for data without known positions.

    The error is the root of the share of the slots' variance over steps that is missed: 1 is as good as the mean slot.

    Args:
        clips: windows.
    """

    def __init__(self, clips: Clips) -> None:
        self.clips = clips
        there = clips.slot_present.all(1)
        self.clip, self.slot = there.nonzero(as_tuple=True)
        rows = clips.slots.double().transpose(1, 2)[self.clip, self.slot]
        self.variance = rows.flatten(0, 1).var(0, correction=0).sum().clamp_min(1e-12)
        self.rows: dict[str, dict[str, Measurement]] = {}

    def add(self, name: str, forecaster: Forecaster) -> None:
        """Forecast at the horizon, and completion of one slot at a time over the hidden steps."""
        past = self.clips.past()
        future = forecaster.forecast(past, self.clips.future)[self.clip, -1, self.slot]
        self._keep(name, FORECAST, future, self.clips.slots[self.clip, -1, self.slot])
        if self.clips.history < 2:
            return
        hidden = torch.nn.functional.one_hot(self.slot, past.slots.shape[2]).bool()
        filled = forecaster.complete(past.at(self.clip), hidden)
        if filled is not None:
            rows = torch.arange(len(self.clip))
            self._keep(name, COMPLETION, filled[rows, 1:, self.slot], past.slots[self.clip, 1:, self.slot])

    def _keep(self, name: str, column: str, found: Tensor, true: Tensor) -> None:
        squared = (found.double() - true.double()).square().sum(-1) / self.variance
        squared = squared.reshape(len(squared), -1).mean(1)
        self.rows.setdefault(name, {})[column] = measured(squared, self.clips.episode[self.clip])

    def table(self, note: str) -> ProbeTable:
        """All rows so far."""
        return ProbeTable(FORECAST, self.rows, len(self.clip), note, errors=ERRORS, bounds=(SLOTS,))


def matched_share(truth: Truth) -> float:
    """Share of present objects that have a slot."""
    present = truth.present.all(1)
    return float((truth.slot[present] != NO_SLOT).double().mean()) if bool(present.any()) else float("nan")


def slot_quality(scores: Sequence[float]) -> Measurement:
    """Mean of one score an episode, and its standard error."""
    values = torch.tensor(scores, dtype=torch.float64)
    return Measurement(float(values.mean()), float(values.std() / len(values) ** 0.5) if len(values) > 1 else None)
