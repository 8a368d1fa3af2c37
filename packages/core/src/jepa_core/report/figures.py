"""Curves of a run as inline SVG whose colours are CSS variables, so one drawing fits light and dark pages."""

from __future__ import annotations

import html
import io
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from jepa_core.report.plans import Plan, Rows, plans

POINTS = 400
"""A longer curve is drawn as means of this many stretches, with a band from lowest to highest."""

# Matplotlib cannot write CSS variables, so it draws in colours nobody would choose and they are replaced afterwards.
INK, MUTED, GRID, ALARM = "#010203", "#010204", "#010205", "#010206"
SERIES = ("#010211", "#010212", "#010213", "#010214", "#010215", "#010216")
# Each colour has dashes (on, off, in line widths) and a mark of its own, so that lines are told apart without colour.
DASHES: tuple[tuple[float, ...], ...] = ((), (5, 2), (1.5, 1.5), (8, 2, 1.5, 2), (3, 1.5), (10, 4))
MARKERS = ("o", "s", "^", "D", "v", "P")
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
        title, caption: plain text; the title with its unit.
        legend: (name, CSS colour variable) pairs; shown by the page, not by the drawing.
        svg: the drawing, safe to inline.
    """

    title: str
    svg: str
    caption: str = ""
    legend: tuple[tuple[str, str], ...] = ()


def curve_charts(rows: Rows, quarantine: Rows = ()) -> dict[str, list[Chart]]:
    """Every figure of ``metrics.jsonl``, in the sections ``training``, ``collapse`` and ``further``.

    Args:
        rows: of ``metrics.jsonl``.
        quarantine: of ``quarantine.jsonl``; drawn as a count where they name their steps.
    """
    planned = plans([rows])
    counted = _counted(quarantine)
    if counted:
        planned["training"].append(PUT_ASIDE)
    every = [*rows, *counted]
    return {
        section: [chart for plan in found if (chart := _chart(plan, _of_run(plan, every)))]
        for section, found in planned.items()
    }


def overlay_charts(runs: Mapping[str, Rows]) -> dict[str, list[Chart]]:
    """Every figure of several runs, by name, a drawing each in which a run is a line."""
    return {
        section: [chart for plan in found for one in _one_key_each(plan) if (chart := _chart(one, _of_runs(one, runs)))]
        for section, found in plans(list(runs.values())).items()
    }


PUT_ASIDE = Plan("Samples put aside", {"put_aside": "samples"}, "Counted up; see below.", "samples", floor=0.0)


def _counted(quarantine: Rows) -> list[dict[str, Any]]:
    steps = sorted(row["step"] for row in quarantine if isinstance(row.get("step"), int))
    return [{"step": step, "put_aside": count} for count, step in enumerate(steps, 1)]


def _one_key_each(plan: Plan) -> list[Plan]:
    if len(plan.keys) == 1:
        return [plan]
    return [replace(plan, title=f"{plan.title}: {name}", keys={key: name}) for key, name in plan.keys.items()]


def _of_run(plan: Plan, rows: Rows) -> list[Curve]:
    """The lines of a run: one for each key it has."""
    curves = [_curve(key, name, rows, plan.scale) for key, name in plan.keys.items()]
    return [curve for curve in curves if len(curve.steps) or curve.gaps]


def _of_runs(plan: Plan, runs: Mapping[str, Rows]) -> list[Curve]:
    """The lines of several runs; one that lacks the figure keeps its place, and so every other its colour."""
    curves = [_curve(key, name, rows, plan.scale) for name, rows in runs.items() for key in plan.keys]
    return curves if any(len(curve.steps) or curve.gaps for curve in curves) else []


def _curve(key: str, name: str, rows: Rows, scale: float) -> Curve:
    found = [(row["step"], scale * row[key]) for row in rows if isinstance(row.get(key), int | float)]
    finite = [(step, value) for step, value in found if math.isfinite(value)]
    steps, values = np.array(finite, dtype=np.float64).reshape(-1, 2).T
    return Curve(name, steps, values, len(found) - len(finite))


def _chart(plan: Plan, curves: Sequence[Curve]) -> Chart | None:
    if not curves:
        return None
    figure, axes = canvas(4.4, 2.7)
    axes.set_xlabel("optimiser steps", color=MUTED, fontsize=10)
    axes.set_ylabel(plan.axis, color=MUTED, fontsize=10)
    for place, curve in enumerate(curves):
        _draw(axes, curve, place % len(SERIES), marked=len(curves) > 1)
    for level in plan.alarms:
        axes.axhline(level, color=ALARM, linewidth=1.1, linestyle=(0, (4, 3)))
    _limits(axes, plan)
    gaps = sum(curve.gaps for curve in curves)
    caption = f"{plan.caption} {gaps} figures are not finite and not drawn." if gaps else plan.caption
    shown = [(i, c) for i, c in enumerate(curves) if len(c.steps) or c.gaps]
    legend = tuple((c.name, f"--series-{i % len(SERIES) + 1}") for i, c in shown) if len(curves) > 1 else ()
    name = f"{plan.title}-{'-'.join(plan.keys)}"
    return Chart(plan.heading, inline_svg(figure, name, f"{plan.heading} against steps"), caption.strip(), legend)


def _draw(axes: Axes, curve: Curve, style: int, marked: bool) -> None:
    steps, values, colour = curve.steps, curve.values, SERIES[style]
    if len(steps) > POINTS:
        edges = np.linspace(0, len(steps), POINTS + 1).astype(int)[:-1]
        counts = np.diff([*edges, len(steps)])
        low, high = np.minimum.reduceat(values, edges), np.maximum.reduceat(values, edges)
        steps, values = np.add.reduceat(steps, edges) / counts, np.add.reduceat(values, edges) / counts
        axes.fill_between(steps, low, high, color=colour, alpha=0.18, linewidth=0)
    axes.plot(
        steps,
        values,
        color=colour,
        linewidth=1.7,
        linestyle=(0, DASHES[style]) if DASHES[style] else "-",
        marker=MARKERS[style] if marked or len(steps) < 3 else None,
        markersize=4.5,
        # Marks of lines that lie on each other stand beside each other.
        markevery=(0.02 + 0.03 * style, 0.2) if len(steps) > 8 else None,
    )


def _limits(axes: Axes, plan: Plan) -> None:
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
    axes.set_xlabel(metric, color=MUTED, fontsize=10, parse_math=False)
    return Chart(metric, inline_svg(figure, "probe", f"Probe: {metric}"), "Bars: two standard errors each way.")


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


def inline_svg(figure: Figure, name: str, label: str = "") -> str:
    """The drawing with unique ids, no fixed size and CSS colours.

    Args:
        name: of this drawing alone on its page.
        label: what those hear who do not see it; the name where there is none.
    """
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
    svg = svg.replace("<svg", f'<svg role="img" aria-label="{html.escape(label or name)}"', 1)
    svg = re.sub(r"font: ([\d.]+px) [^;\"]*", r"font-size: \1; font-family: inherit", svg)
    for colour, variable in VARIABLES.items():
        svg = svg.replace(colour, f"var({variable})")
    return svg
