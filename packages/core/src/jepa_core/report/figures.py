"""Curves of a run as inline SVG whose colours are CSS variables, so one drawing fits light and dark pages."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from jepa_core.monitor.verdict import SPREAD_ALARM, rank_alarm

POINTS = 400
"""A longer curve is drawn as means of this many stretches, with a band from lowest to highest."""

# Matplotlib cannot write CSS variables, so it draws in colours nobody would choose and they are replaced afterwards.
INK, MUTED, GRID, ALARM = "#010203", "#010204", "#010205", "#010206"
SERIES = ("#010211", "#010212", "#010213", "#010214", "#010215", "#010216")
VARIABLES = {INK: "--ink", MUTED: "--muted", GRID: "--grid", ALARM: "--alarm"} | {
    colour: f"--series-{index}" for index, colour in enumerate(SERIES, 1)
}


@dataclass(frozen=True)
class Curve:
    """One line of a figure: finite points only, and how many were not."""

    name: str
    steps: np.ndarray
    values: np.ndarray
    gaps: int = 0


@dataclass(frozen=True)
class Chart:
    """A figure for the page.

    Attributes:
        title, caption: plain text.
        legend: (name, CSS colour variable) pairs; shown by the page, not by the drawing.
        svg: the drawing, safe to inline.
    """

    title: str
    svg: str
    caption: str = ""
    legend: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class _Plan:
    """What to draw: curves by full metric name with their short names, and dashed alarm lines."""

    title: str
    keys: Mapping[str, str]
    caption: str = ""
    alarms: Sequence[float] = field(default=())
    floor: float | None = None


def curve_charts(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Chart]]:
    """Every figure of ``metrics.jsonl``, in the sections ``training``, ``collapse`` and ``further``."""
    keys = list(dict.fromkeys(key for row in rows for key in row if key not in ("step", "time")))
    plans = {"training": _training_plans(keys), "collapse": _collapse_plans(keys, rows)}
    shown = {key for section in plans.values() for plan in section for key in plan.keys}
    plans["further"] = [_Plan(key, {key: key}) for key in keys if key not in shown and not _is_bookkeeping(key)]
    return {section: [chart for plan in planned if (chart := _chart(plan, rows))] for section, planned in plans.items()}


def _is_bookkeeping(key: str) -> bool:
    return key.startswith("monitor/") and key.rsplit("/", 1)[-1] in ("rows", "dimensions", "finite")


def _training_plans(keys: Sequence[str]) -> list[_Plan]:
    probed = {key: key.removeprefix("probe/") for key in keys if key in ("probe/linear", "probe/kNN")}
    terms = {key: key.removeprefix("loss/") for key in keys if key == "loss" or key.startswith("loss/")}
    plans = [_Plan("Probe while training", probed, "Accuracy of the frozen mean token; step 0 is untrained.")]
    plans += [_Plan("Loss", {"loss": "loss"} if "loss" in terms else {})]
    parts = {key: name for key, name in terms.items() if key != "loss"}
    chunks = [dict(list(parts.items())[i : i + len(SERIES)]) for i in range(0, len(parts), len(SERIES))]
    plans += [_Plan("Loss terms", chunk) for chunk in chunks]
    for title, words in SCHEDULES.items():
        plans.append(_Plan(title, {key: key for key in keys if key not in terms and key.split("/")[-1] in words}))
    return [plan for plan in plans if plan.keys]


SCHEDULES = {
    "Learning rate": ("lr", "learning_rate"),
    "Weight decay": ("weight_decay", "wd"),
    "Target momentum": ("momentum", "ema", "ema_momentum", "target_momentum"),
    "Gradient norm": ("gradient_norm", "grad_norm"),
    "Samples per second": ("samples_per_s", "samples_per_second"),
    "Share of time spent waiting for data": ("data_wait",),
}


def _collapse_plans(keys: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> list[_Plan]:
    def of(figure: str, suffix: str = "") -> dict[str, str]:
        return {key: key.split("/")[1] + suffix for key in keys if re.fullmatch(rf"monitor/[^/]+/{figure}", key)}

    lines = sorted(
        {line for name in (of("rankme") | of("effective_rank")).values() for line in _rank_lines(name, rows)}
    )
    plans = [
        _Plan(
            "Spread of features",
            of("normalised_std"),
            "√D × standard deviation of L2-normalised features: 1 is evenly spread, 0 is a single point. "
            f"Dashed: the alarm line, {SPREAD_ALARM}.",
            (SPREAD_ALARM,),
            0.0,
        ),
        _Plan("Mean cosine", of("mean_cosine"), "Between features of different sites. 1 means all are alike."),
        _Plan("RankMe, centred", of("rankme"), "An alarm, not a score. Dashed: the alarm line.", lines, 0.0),
        _Plan("Effective rank, centred", of("effective_rank"), "Dashed: the alarm line.", lines, 0.0),
        _Plan("Dead dimensions", of("dead_dimensions"), "Dimensions that no longer vary.", floor=0.0),
        _Plan(
            "Largest eigenvalue",
            of("top_eigenvalue_share"),
            "Share of all variance that lies in one direction.",
            floor=0.0,
        ),
        _Plan("Spectrum slope, alpha-ReQ", of("alpha_req"), "Eigenvalue i falls as i to the power of minus alpha."),
        _Plan(
            "Variance of a dimension", of("variance"), "Mean over dimensions, in the unit of the features.", floor=0.0
        ),
        _Plan(
            "Prediction error over that of the mean",
            of("relative_error"),
            "1 is no better than always predicting the batch's mean target.",
            floor=0.0,
        ),
        _Plan(
            "What samples and contexts tell",
            {**of("share", ": target variance between samples"), **of("context_use", ": change with another context")},
            "Shares of variance at the same site. 0: features, or predictions, tell the place and no more.",
            floor=0.0,
        ),
        _Plan("LiDAR rank of views", of("lidar_rank"), "Directions that tell samples apart across views.", floor=0.0),
        _Plan(
            "Online encoder to target",
            of("distance", ": distance") | of("moved", ": last step"),
            "Over all weights, as a share of their size.",
            floor=0.0,
        ),
    ]
    return [plan for plan in plans if plan.keys]


def _rank_lines(name: str, rows: Sequence[Mapping[str, Any]]) -> list[float]:
    for row in reversed(rows):
        width, count = row.get(f"monitor/{name}/dimensions"), row.get(f"monitor/{name}/rows")
        if width and count:
            return [rank_alarm(width, count)]
    return []


def _curve(key: str, name: str, rows: Sequence[Mapping[str, Any]]) -> Curve:
    found = [(row["step"], row[key]) for row in rows if isinstance(row.get(key), int | float)]
    finite = [(step, value) for step, value in found if math.isfinite(value)]
    steps, values = np.array(finite, dtype=np.float64).reshape(-1, 2).T
    return Curve(name, steps, values, len(found) - len(finite))


def _chart(plan: _Plan, rows: Sequence[Mapping[str, Any]]) -> Chart | None:
    curves = [curve for key, name in plan.keys.items() if len((curve := _curve(key, name, rows)).steps) or curve.gaps]
    if not curves:
        return None
    figure, axes = canvas(4.4, 2.5)
    for colour, curve in zip(SERIES * (1 + len(curves) // len(SERIES)), curves, strict=False):
        _draw(axes, curve, colour)
    for level in plan.alarms:
        axes.axhline(level, color=ALARM, linewidth=1.1, linestyle=(0, (4, 3)))
    _limits(axes, plan)
    gaps = sum(curve.gaps for curve in curves)
    caption = f"{plan.caption} {gaps} figures are not finite and not drawn." if gaps else plan.caption
    legend = tuple((c.name, f"--series-{i % len(SERIES) + 1}") for i, c in enumerate(curves)) if len(curves) > 1 else ()
    return Chart(plan.title, inline_svg(figure, f"{plan.title}-{'-'.join(plan.keys)}"), caption.strip(), legend)


def _draw(axes: Axes, curve: Curve, colour: str) -> None:
    steps, values = curve.steps, curve.values
    if len(steps) > POINTS:
        edges = np.linspace(0, len(steps), POINTS + 1).astype(int)[:-1]
        counts = np.diff([*edges, len(steps)])
        low, high = np.minimum.reduceat(values, edges), np.maximum.reduceat(values, edges)
        steps, values = np.add.reduceat(steps, edges) / counts, np.add.reduceat(values, edges) / counts
        axes.fill_between(steps, low, high, color=colour, alpha=0.18, linewidth=0)
    axes.plot(steps, values, color=colour, linewidth=1.7, marker="o" if len(steps) < 3 else None, markersize=4)


def _limits(axes: Axes, plan: _Plan) -> None:
    low, high = axes.get_ylim()
    if plan.floor is not None:
        low = plan.floor
    if high - low < 1e-12:
        low, high = low - 0.5 * max(abs(low), 1e-3), high + 0.5 * max(abs(high), 1e-3)
    axes.set_ylim(low, high + 0.06 * (high - low))


def probe_chart(rows: Sequence[tuple[str, float, float | None]], metric: str) -> Chart:
    """Figures of the probe's leading column with two standard errors, trained ones in colour."""
    figure, axes = canvas(9.0, 0.5 + 0.32 * len(rows))
    for place, (name, value, stderr) in enumerate(reversed(rows)):
        colour = SERIES[0] if is_trained(name) else MUTED
        error = None if stderr is None else 2 * stderr
        axes.errorbar(value, place, xerr=error, fmt="o", color=colour, markersize=7, elinewidth=2, capsize=0)
    axes.set_yticks(range(len(rows)))
    axes.set_yticklabels([_shorten(name) for name, *_ in reversed(rows)], parse_math=False)
    axes.set_ylim(-0.6, len(rows) - 0.4)
    axes.grid(True, axis="x", color=GRID, linewidth=0.8)
    axes.grid(False, axis="y")
    axes.xaxis.set_major_locator(MaxNLocator(6))
    return Chart(metric, inline_svg(figure, "probe"), "Bars: two standard errors each way.")


def is_trained(row: str) -> bool:
    """Whether a probe row holds features of the trained encoder; every other row is a control."""
    return re.match(r"trained\b", row) is not None


def _shorten(name: str, length: int = 40) -> str:
    return name if len(name) <= length else name[: length - 1] + "…"


def canvas(width_in: float, height_in: float) -> tuple[Figure, Axes]:
    """An empty drawing in the page's style."""
    figure = Figure(figsize=(width_in, height_in), layout="constrained")
    FigureCanvasSVG(figure)
    figure.patch.set_alpha(0)
    axes = figure.add_subplot()
    axes.patch.set_alpha(0)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(GRID)
    axes.tick_params(colors=MUTED, labelcolor=MUTED, labelsize=10, length=0, pad=5)
    axes.grid(True, axis="y", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.ticklabel_format(axis="y", scilimits=(-3, 5), useOffset=False, useMathText=False)
    axes.yaxis.get_offset_text().set(color=MUTED, fontsize=10)
    return figure, axes


def inline_svg(figure: Figure, name: str) -> str:
    """The drawing with unique ids, no fixed size and CSS colours."""
    stream = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name, "font.family": "sans-serif"}):
        figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    svg = stream.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    prefix = re.sub(r"\W+", "-", name)
    svg = re.sub(r'\bid="', f'id="{prefix}-', svg)
    svg = re.sub(r'(xlink:href="#|url\(#)', rf"\g<1>{prefix}-", svg)
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r"font: ([\d.]+px) [^;\"]*", r"font-size: \1; font-family: inherit", svg)
    for colour, variable in VARIABLES.items():
        svg = svg.replace(colour, f"var({variable})")
    return svg
