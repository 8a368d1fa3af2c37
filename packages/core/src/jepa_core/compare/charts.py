"""Figures of a comparison: scores against their null bands, and mutual kNN by k."""

from __future__ import annotations

import math
from collections.abc import Sequence

from matplotlib.ticker import MaxNLocator

from jepa_core.compare.scores import Findings, Score, score_name
from jepa_core.report.figures import INK, MUTED, SERIES, Chart, canvas, inline_svg


def score_chart(scores: Sequence[Score]) -> Chart | None:
    """Values with their intervals, each over the band its null stays in; None where there is nothing to draw."""
    shown = [score for score in scores if math.isfinite(score.value)]
    if not shown:
        return None
    figure, axes = canvas(9.0, 0.6 + 0.34 * len(shown))
    for place, score in enumerate(reversed(shown)):
        if math.isfinite(score.null_low):
            axes.plot([score.null_low, score.null_high], [place] * 2, color=MUTED, linewidth=9, alpha=0.35)
            axes.plot([score.null_mean], [place], color=MUTED, marker="|", markersize=11)
        passed = math.isfinite(score.p_value) and score.value > score.tau
        colour = SERIES[0] if passed else INK
        if math.isfinite(score.ci_low):
            axes.plot([score.ci_low, score.ci_high], [place] * 2, color=colour, linewidth=2)
        axes.plot([score.value], [place], color=colour, marker="o", markersize=7)
    axes.set_yticks(range(len(shown)))
    axes.set_yticklabels([score_name(score).replace("->", "→") for score in reversed(shown)], parse_math=False)
    axes.set_ylim(-0.6, len(shown) - 0.4)
    axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.grid(True, axis="x", color=MUTED, alpha=0.25, linewidth=0.8)
    axes.grid(False, axis="y")
    caption = (
        "Dot and line: value and 95 % interval. Grey: where 95 % of the values lie once pairs are broken, with their "
        "mean. Blue: above the threshold."
    )
    return Chart("Scores and what chance gives", inline_svg(figure, "scores"), caption)


def curve_chart(found: Findings) -> Chart | None:
    """Mutual kNN by k with its value by chance; None with fewer than two k."""
    if len(found.curve) < 2:
        return None
    figure, axes = canvas(4.4, 2.5)
    ks = [k for k, _, _ in found.curve]
    for place, (column, marker) in enumerate(((1, "o"), (2, None))):
        values = [row[column] for row in found.curve]
        axes.plot(ks, values, color=(SERIES[0], MUTED)[place], linewidth=1.7, marker=marker, markersize=4)
    axes.set_ylim(0, max(value for _, *pair in found.curve for value in pair) * 1.15)
    legend = (("shared neighbours", "--series-1"), ("by chance", "--muted"))
    return Chart("Mutual kNN against k", inline_svg(figure, "curve"), "The value depends on k and on n.", legend)
