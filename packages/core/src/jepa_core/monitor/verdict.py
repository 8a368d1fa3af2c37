"""Plain-language verdicts on a run, judged against the run's own beginning.

RankMe and feature spread are alarms, not scores: an untrained encoder may rank as high as any trained one, and a good
run settles lower. So nothing here rewards a high figure; a state is left only when a figure crosses an alarm line for
several measurements in a row, and the line moves down for a run that began low.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from jepa_core.monitor.stored import check_stored

WARMING_UP = "warming up"
HEALTHY = "healthy"
PARTIAL = "partial collapse"
TOTAL = "total collapse"
DIVERGING = "diverging"
FROZEN = "target frozen"
IGNORES = "predictor ignores its input"
STATES = (WARMING_UP, HEALTHY, FROZEN, IGNORES, PARTIAL, TOTAL, DIVERGING)
"""From harmless to worst; of several features the worst one speaks."""

PATIENCE = 3
"""Measurements in a row that must agree before the state changes; as many make up the beginning."""

SPREAD_ALARM = 0.25
"""Spread ``sqrt(D) * std`` of L2-normalised features: 1 = uniform on the sphere, 0 = one point."""
SPREAD_TOTAL = 0.05
SPREAD_FLOOR = 0.01
"""Below the floor features are one point, whatever the run began with."""

RANK_LEFT = 1 / 3
"""Share of the rank of the beginning that a run may settle at; healthy ones have been seen at .45."""
RANK_FLOOR = 4.0
"""Rank below which wide features are partly collapsed, whatever the run began with."""

USE_ALARM = 1e-5
"""Share of the predictions' variance that another sample's context changes, below which the context is not used.

Narrow predictors begin there (7e-6 after the first step of the images' quickstart), so that they get twice the time.
"""
SAMPLE_ALARM = 1e-4
"""Share of the target's variance between samples at the same site, below which features do not depend on the input."""
MOVED_ALARM = 1e-9
"""Step of a moving average over the size of its weights, below which float32 weights stay as they are."""

HELP = {
    FROZEN: (
        "What usually helps: a momentum below 1, and a look whether after_step() reaches the target; where a fixed "
        "target is meant, use the policy frozen."
    ),
    IGNORES: (
        "What usually helps: check that the context reaches the predictor, hide less, and a predictor of more than "
        "one layer; what is left to learn from is the place alone."
    ),
    PARTIAL: "What usually helps: a variance or covariance term, a slower target encoder, a lower learning rate.",
    TOTAL: (
        "What usually helps: check that no gradient reaches the target encoder, move it more slowly, lower the "
        "learning rate, add a variance or covariance term."
    ),
    DIVERGING: (
        "What usually helps: a lower learning rate, a longer warm-up, a smaller clip_norm, precision fp32; then "
        "resume from the last good checkpoint."
    ),
}


@dataclass(frozen=True)
class Verdict:
    """What the monitor thinks of a run.

    Attributes:
        state: one of :data:`STATES`.
        sentence: the state with its evidence, since when, and what usually helps.
        since: step of the first measurement that showed this state.
        evidence: the figures it rests on.
        headline: the state in a few words, with numbers: "partial collapse in 40 of 128 dimensions".
    """

    state: str
    sentence: str
    since: int | None
    evidence: Mapping[str, float]
    headline: str

    @property
    def alarm(self) -> bool:
        """Whether something is wrong."""
        return self.state not in (WARMING_UP, HEALTHY)


def rank_alarm(dimensions: float, rows: float) -> float:
    """Rank below which features count as partly collapsed: 20 of 128.

    Below 128 dimensions the line is the same share of them; above, it grows with the square root only, as the data
    bound the rank of wide features. Fewer rows than dimensions bound it too.
    """
    usable = max(min(dimensions, rows - 1), 1.0)
    return min(20 / 128 * usable, 20 * math.sqrt(usable / 128))


def rank_line_of(dimensions: float, rows: float, began: float) -> float:
    """The line of a run: that of its size, lower where it began low, but not below the floor."""
    line = rank_alarm(dimensions, rows)
    return max(min(line, RANK_LEFT * began), min(line, RANK_FLOOR), 1.05)


@dataclass
class _Beginning:
    """What one kind of features was like in the first measurements: their best, so that a fast fall still shows."""

    spread: float = 0.0
    rank: float = 0.0
    cosine: float = 1.0
    dead: float = math.inf

    def include(self, figures: Mapping[str, float]) -> None:
        self.spread = max(self.spread, figures["normalised_std"])
        self.rank = max(self.rank, _rank(figures))
        self.cosine = min(self.cosine, figures["mean_cosine"])
        self.dead = min(self.dead, figures["dead_dimensions"])


@dataclass
class _LossTrack:
    """What the loss has been: where it began, the lowest it reached, its usual size."""

    start: float = -math.inf
    best: float = math.inf
    size_sum: float = 0.0
    count: int = 0
    recent: list[float] = field(default_factory=list)

    def include(self, loss: float) -> None:
        if self.count < PATIENCE:
            self.start = max(self.start, loss)
        self.recent = [*self.recent[1 - PATIENCE :], loss]
        if len(self.recent) == PATIENCE:
            self.best = min(self.best, sorted(self.recent)[PATIENCE // 2])
        self.size_sum += abs(loss)
        self.count += 1

    def exploded(self, loss: float) -> bool:
        """Far above all it has been, or learnt and lost again: back above where it began."""
        if self.count < PATIENCE:
            return False
        size = max(abs(self.start), self.size_sum / self.count, 1e-6)
        learnt = self.best < self.start - 0.5 * abs(self.start)
        return loss > self.start + 9 * size or (learnt and loss > self.start + 0.2 * abs(self.start))


@dataclass(frozen=True)
class _Finding:
    """One measurement's own state, before patience."""

    step: int
    state: str
    headline: str
    reason: str
    evidence: dict[str, float]


class Judge:
    """Turns measurements into a verdict; holds the beginning and the last few of them only."""

    def __init__(self) -> None:
        self._measured = 0
        self._beginnings: dict[str, _Beginning] = {}
        self._loss = _LossTrack()
        self._recent: list[_Finding] = []
        self._state = WARMING_UP
        self._since: int | None = None
        self._moved = False

    def update(self, step: int, features: Mapping[str, Mapping[str, float]], losses: Mapping[str, float]) -> None:
        """Takes one measurement.

        Args:
            step: optimiser steps done.
            features: for each kind (``target``, ``context``) its figures: at least :data:`NEEDED`, and ``finite`` (0
                where any feature is not); and of a method's diagnosis ``prediction``, ``samples`` and ``weights``.
            losses: terms by name; ``loss`` or ``total`` is the whole, otherwise their sum.
        """
        findings = [self._judge(step, name, each) for name, each in features.items() if each.keys() >= NEEDED]
        findings += [self._judge_loss(step, losses), self._judge_diagnosis(step, features)]
        finding = max(findings, key=lambda f: STATES.index(f.state))
        self._measured += 1
        self._recent = [*self._recent[1 - PATIENCE :], finding]
        self._settle(finding)

    def _settle(self, latest: _Finding) -> None:
        if "not finite" in latest.reason:  # NaN does not go away: no patience
            self._enter(latest.state, latest.step)
        if len(self._recent) < PATIENCE:
            return
        states = [finding.state for finding in self._recent]
        mildest = min(states, key=STATES.index)
        # A run that swings between two alarms is in alarm all the same, and the milder one is sure.
        if len(set(states)) == 1 or self._state == WARMING_UP or (mildest != HEALTHY and self._state == HEALTHY):
            self._enter(mildest, self._recent[0].step)

    def _enter(self, state: str, step: int) -> None:
        if state != self._state:
            self._state, self._since = state, step

    def verdict(self) -> Verdict:
        """What to think after the measurements so far."""
        if self._state == WARMING_UP:
            sentence = (
                f"Warming up: {self._measured} of {PATIENCE} measurements so far; the verdict compares with the "
                "run's own beginning."
            )
            return Verdict(WARMING_UP, sentence, None, {"measurements": float(self._measured)}, WARMING_UP)
        shown = [finding for finding in self._recent if finding.state == self._state]
        if not shown:  # a state is being left, but patience has not run out yet
            return Verdict(self._state, *self._passing())
        last = shown[-1]
        since = "" if self._state == HEALTHY else f" since step {self._since}"
        parts = [f"{last.headline.capitalize()}{since}: {last.reason}", HELP.get(self._state, "")]
        return Verdict(self._state, " ".join(filter(None, parts)), self._since, last.evidence, last.headline)

    def _passing(self) -> tuple[str, int | None, dict[str, float], str]:
        latest = self._recent[-1]
        sentence = (
            f"{self._state.capitalize()} since step {self._since}, but the last measurements differ: {latest.reason}"
        )
        return sentence, self._since, latest.evidence, self._state

    def _judge_diagnosis(self, step: int, features: Mapping[str, Mapping[str, float]]) -> _Finding:
        share = features.get("samples", {}).get("share", math.inf)
        if share < SAMPLE_ALARM:
            reason = f"{share:.1e} of the target's variance lies between samples: features tell the place and no more."
            return _Finding(step, TOTAL, TOTAL, reason, {"samples/share": share})
        use = features.get("prediction", {}).get("context_use", math.inf)
        if use < USE_ALARM and (use == 0 or self._measured >= PATIENCE):
            reason = f"another sample's context changes {use:.1e} of the predictions' variance."
            return _Finding(step, IGNORES, IGNORES, reason, {"prediction/context_use": use})
        weights = features.get("weights", {})
        self._moved |= weights.get("moved", math.inf) > MOVED_ALARM
        if not self._moved:
            reason = (
                f"the target has not moved in any measurement, and the online encoder is {weights['distance']:.3f} of "
                "its size away."
            )
            return _Finding(step, FROZEN, FROZEN, reason, {"weights/distance": weights["distance"]})
        return _Finding(step, HEALTHY, HEALTHY, "", {})

    def _judge_loss(self, step: int, losses: Mapping[str, float]) -> _Finding:
        broken = [name for name, value in losses.items() if not math.isfinite(value)]
        if broken:
            reason = f"the loss is not finite ({', '.join(broken)})."
            return _Finding(step, DIVERGING, DIVERGING, reason, {"loss": math.nan})
        if not losses:
            return _Finding(step, HEALTHY, HEALTHY, "", {})
        loss = losses.get("loss", losses.get("total", sum(losses.values())))
        if self._loss.exploded(loss):
            start, best = self._loss.start, self._loss.best
            reason = f"the loss is {loss:.3g}; it began at {start:.3g} and had come down to {best:.3g}."
            evidence = {"loss": loss, "loss_at_start": start, "best_loss": best}
            return _Finding(step, DIVERGING, DIVERGING, reason, evidence)
        self._loss.include(loss)
        return _Finding(step, HEALTHY, HEALTHY, "", {})

    def _judge(self, step: int, name: str, figures: Mapping[str, float]) -> _Finding:
        if figures.get("finite", 1.0) < 1:
            return _Finding(step, DIVERGING, DIVERGING, f"the {name} features are not finite.", {"finite": 0.0})
        if self._measured < PATIENCE or name not in self._beginnings:
            self._beginnings.setdefault(name, _Beginning()).include(figures)
        begin = self._beginnings[name]
        evidence = {f"{name}/{key}": float(value) for key, value in figures.items()}
        spread, cosine = figures["normalised_std"], figures["mean_cosine"]
        if spread < max(min(SPREAD_TOTAL, 0.2 * begin.spread), SPREAD_FLOOR):
            reason = (
                f"every sample gets nearly the same {name} features: spread {spread:.3f} (it began at "
                f"{begin.spread:.2f}), mean cosine {cosine:.4f}."
            )
            return _Finding(step, TOTAL, TOTAL, reason, evidence)
        return self._judge_dimensions(step, name, figures, begin, evidence)

    def _judge_dimensions(
        self, step: int, name: str, figures: Mapping[str, float], begin: _Beginning, evidence: dict[str, float]
    ) -> _Finding:
        width, rank, dead, spread = (
            figures["dimensions"],
            _rank(figures),
            figures["dead_dimensions"],
            figures["normalised_std"],
        )
        rank_line = rank_line_of(width, figures["rows"], begin.rank)
        spread_line = min(SPREAD_ALARM, 0.5 * begin.spread)
        lost_dead = dead - begin.dead >= max(2.0, 0.1 * width)
        reasons, lost = [], 0.0
        if lost_dead:
            reasons.append(f"{dead:.0f} {name} dimensions no longer vary ({begin.dead:.0f} at the beginning)")
            lost = dead
        if rank < rank_line and width > 1:
            reasons.append(
                f"the {name} features have rank {rank:.1f} (it began at {begin.rank:.0f}, alarm below {rank_line:.1f})"
            )
            lost = max(lost, width - round(rank))
        if spread < spread_line:
            reasons.append(
                f"the {name} spread is {spread:.2f} (it began at {begin.spread:.2f}, alarm below {spread_line:.2f})"
            )
            lost = max(lost, dead, width - round(rank))
        if reasons:
            headline = f"{PARTIAL} in {lost:.0f} of {width:.0f} dimensions"
            return _Finding(step, PARTIAL, headline, "; ".join(reasons) + ".", evidence)
        reason = (
            f"{name} features keep a spread of {spread:.2f} (alarm below {spread_line:.2f}) and rank {rank:.0f} of "
            f"{width:.0f} (alarm below {rank_line:.0f})."
        )
        return _Finding(step, HEALTHY, HEALTHY, reason, evidence)

    def state_dict(self) -> dict[str, Any]:
        """Everything the next verdict depends on, as JSON values."""
        return {
            "measured": self._measured,
            "beginnings": {name: asdict(begin) for name, begin in self._beginnings.items()},
            "loss": {key: _to_json(value) for key, value in asdict(self._loss).items()},
            "recent": [_finding_to_json(finding) for finding in self._recent],
            "state": self._state,
            "since": self._since,
            "moved": self._moved,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on from :meth:`state_dict`; raises as :func:`check_stored` does where it is none."""
        check_stored(state, STATES)
        self._measured = state["measured"]
        self._beginnings = {name: _Beginning(**values) for name, values in state["beginnings"].items()}
        self._loss = _LossTrack(**{key: _from_json(value) for key, value in state["loss"].items()})
        self._recent = [
            _Finding(**{**item, "evidence": {k: _from_json(v) for k, v in item["evidence"].items()}})
            for item in state["recent"]
        ]
        self._state, self._since = state["state"], state["since"]
        self._moved = state.get("moved", False)  # not in checkpoints of earlier versions


def judge_history(rows: Iterable[Mapping[str, Any]]) -> Verdict:
    """The verdict on a recorded run: lines of ``metrics.jsonl`` with ``monitor/<name>/<figure>`` keys."""
    judge = Judge()
    for row in rows:
        features: dict[str, dict[str, float]] = {}
        for key, value in row.items():
            if key.startswith("monitor/") and key.count("/") >= 2 and isinstance(value, int | float):
                _, name, figure = key.split("/", 2)
                features.setdefault(name, {})[figure] = value
        if any(figures.keys() >= NEEDED for figures in features.values()):
            losses = {key: value for key, value in row.items() if key == "loss" or key.startswith("loss/")}
            judge.update(int(row["step"]), features, losses)
    return judge.verdict()


NEEDED = {"normalised_std", "mean_cosine", "effective_rank", "dead_dimensions", "dimensions", "rows"}
"""Figures of features that a verdict needs."""


def _rank(figures: Mapping[str, float]) -> float:
    """Of centred features: a large common mean must not pass for a lost dimension."""
    return figures["effective_rank"]


def _to_json(value: Any) -> Any:
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _from_json(value: Any) -> Any:
    return float(value) if isinstance(value, str) else value


def _finding_to_json(finding: _Finding) -> dict[str, Any]:
    return {**asdict(finding), "evidence": {key: _to_json(value) for key, value in finding.evidence.items()}}
