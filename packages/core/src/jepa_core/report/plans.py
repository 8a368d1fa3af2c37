"""Which figures of ``metrics.jsonl`` are drawn together, under which title, in which unit, with which alarm lines."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from jepa_core.monitor.verdict import SPREAD_ALARM, rank_alarm

Rows = Sequence[Mapping[str, Any]]
TERMS = 6
"""Loss terms in one drawing, at most; as many as there are colours."""


@dataclass(frozen=True)
class Plan:
    """What to draw.

    Attributes:
        title, caption: plain text; the title without its unit.
        keys: full metric name to the name in the legend.
        axis: what the vertical axis counts: a unit, or what the bare number is.
        unit: stands behind the title; empty for a bare number.
        scale: figures are multiplied by it, so that they come in ``unit``.
        alarms: dashed lines.
        floor: where the vertical axis begins; None = where the figures do.
    """

    title: str
    keys: Mapping[str, str]
    caption: str = ""
    axis: str = ""
    unit: str = ""
    scale: float = 1.0
    alarms: Sequence[float] = field(default=())
    floor: float | None = None

    @property
    def heading(self) -> str:
        """Title with unit."""
        return f"{self.title} ({self.unit})" if self.unit else self.title


def plans(runs: Sequence[Rows]) -> dict[str, list[Plan]]:
    """What to draw of one run or of several, in the sections ``training``, ``collapse`` and ``further``."""
    keys = list(dict.fromkeys(key for rows in runs for row in rows for key in row if key not in ("step", "time")))
    found = {"training": _training(keys), "collapse": _collapse(keys, runs)}
    shown = {key for section in found.values() for plan in section for key in plan.keys}
    found["further"] = [_further(key) for key in keys if key not in shown and not _is_bookkeeping(key)]
    return found


def _is_bookkeeping(key: str) -> bool:
    return key.startswith("monitor/") and key.rsplit("/", 1)[-1] in ("rows", "dimensions", "finite")


_UNITS = {"_per_s": "1/s", "_ms": "ms", "_s": "s", "_hz": "Hz", "_mib": "MiB", "_gib": "GiB", "_m": "m", "_px": "px"}


def _further(key: str) -> Plan:
    unit = next((unit for ending, unit in _UNITS.items() if key.endswith(ending)), "")
    return Plan(key, {key: key}, axis=unit or "as recorded", unit=unit)


SCHEDULES = {
    ("lr", "learning_rate"): Plan("Learning rate", {}, axis="no unit"),
    ("weight_decay", "wd"): Plan("Weight decay", {}, axis="no unit"),
    ("momentum", "ema", "ema_momentum", "target_momentum"): Plan(
        "Target momentum", {}, "Share of the target's weights that a step keeps.", "share"
    ),
    ("gradient_norm", "grad_norm"): Plan("Gradient norm", {}, "Before clipping.", "no unit"),
    ("samples_per_s", "samples_per_second"): Plan(
        "Throughput", {}, "Over all processes, since the line before.", "samples/s", "samples/s", floor=0.0
    ),
    ("steps_per_s",): Plan("Optimiser steps", {}, axis="steps/s", unit="steps/s", floor=0.0),
    ("data_wait",): Plan("Waiting for data", {}, "Share of the time between two lines.", "share of time", floor=0.0),
    ("peak_rss_mib",): Plan("Peak memory of process 0", {}, "", "GiB", "GiB", 1 / 1024, floor=0.0),
    ("cuda_peak_mib",): Plan("Peak memory of its GPU", {}, "", "GiB", "GiB", 1 / 1024, floor=0.0),
}
"""Figures by the last part of their names."""


def _training(keys: Sequence[str]) -> list[Plan]:
    probed = {key: key.removeprefix("probe/") for key in keys if key in ("probe/linear", "probe/kNN")}
    terms = {key: key.removeprefix("loss/") for key in keys if key == "loss" or key.startswith("loss/")}
    caption = "Accuracy of the frozen mean token; step 0 is untrained."
    found = [Plan("Probe while training", probed, caption, "accuracy, share")]
    found += [Plan("Loss", {"loss": "loss"} if "loss" in terms else {}, axis="no unit")]
    parts = [(key, name) for key, name in terms.items() if key != "loss"]
    chunks = [dict(parts[i : i + TERMS]) for i in range(0, len(parts), TERMS)]
    found += [Plan("Loss terms", chunk, axis="no unit") for chunk in chunks]
    for words, plan in SCHEDULES.items():
        chosen = {key: key for key in keys if key not in terms and key.split("/")[-1] in words}
        found.append(Plan(plan.title, chosen, plan.caption, plan.axis, plan.unit, plan.scale, floor=plan.floor))
    return [plan for plan in found if plan.keys]


def _collapse(keys: Sequence[str], runs: Sequence[Rows]) -> list[Plan]:
    def of(figure: str, suffix: str = "") -> dict[str, str]:
        return {key: key.split("/")[1] + suffix for key in keys if re.fullmatch(rf"monitor/[^/]+/{figure}", key)}

    names = (of("rankme") | of("effective_rank")).values()
    lines = sorted({line for rows in runs for name in names for line in _rank_lines(name, rows)})
    spread = (
        "√D × standard deviation of L2-normalised features: 1 is evenly spread, 0 is a single point. "
        f"Dashed: the alarm line, {SPREAD_ALARM}."
    )
    telling = {**of("share", ": target variance between samples"), **of("context_use", ": change with another context")}
    moved = of("distance", ": distance") | of("moved", ": last step")
    found = [
        Plan("Spread of features", of("normalised_std"), spread, "√D × std", alarms=(SPREAD_ALARM,), floor=0.0),
        Plan("Mean cosine", of("mean_cosine"), "Between features of different sites. 1 means all are alike.", "cosine"),
        Plan(
            "RankMe, centred",
            of("rankme"),
            "An alarm, not a score. Dashed: the alarm line.",
            "dimensions",
            alarms=lines,
            floor=0.0,
        ),
        Plan(
            "Effective rank, centred",
            of("effective_rank"),
            "Dashed: the alarm line.",
            "dimensions",
            alarms=lines,
            floor=0.0,
        ),
        Plan(
            "Dead dimensions", of("dead_dimensions"), "Dimensions that no longer vary.", "dimensions, count", floor=0.0
        ),
        Plan(
            "Largest eigenvalue",
            of("top_eigenvalue_share"),
            "Share of all variance that lies in one direction.",
            "share of variance",
            floor=0.0,
        ),
        Plan(
            "Spectrum slope, alpha-ReQ",
            of("alpha_req"),
            "Eigenvalue i falls as i to the power of minus alpha.",
            "alpha, no unit",
        ),
        Plan(
            "Variance of a dimension",
            of("variance"),
            "Mean over dimensions.",
            "unit of the features, squared",
            floor=0.0,
        ),
        Plan(
            "Prediction error over that of the mean",
            of("relative_error"),
            "1 is no better than always predicting the batch's mean target.",
            "ratio",
            floor=0.0,
        ),
        Plan(
            "What samples and contexts tell",
            telling,
            "Shares of variance at the same site. 0: features, or predictions, tell the place and no more.",
            "share of variance",
            floor=0.0,
        ),
        Plan(
            "LiDAR rank of views",
            of("lidar_rank"),
            "Directions that tell samples apart across views.",
            "dimensions",
            floor=0.0,
        ),
        Plan("Online encoder to target", moved, "Over all weights.", "share of their size", floor=0.0),
    ]
    return [plan for plan in found if plan.keys]


def _rank_lines(name: str, rows: Rows) -> list[float]:
    for row in reversed(rows):
        width, count = row.get(f"monitor/{name}/dimensions"), row.get(f"monitor/{name}/rows")
        if width and count:
            return [rank_alarm(width, count)]
    return []
