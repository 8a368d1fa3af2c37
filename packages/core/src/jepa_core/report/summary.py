"""A run in a few figures: its verdict, how far it went, how fast and with how much memory."""

from __future__ import annotations

import math
from typing import Any

from jepa_core.monitor.verdict import DIVERGING, FROZEN, HEALTHY, IGNORES, PARTIAL, TOTAL, WARMING_UP, judge_history
from jepa_core.report.page import capital, number
from jepa_core.report.reading import Run

TONES = {HEALTHY: "good", FROZEN: "warn", IGNORES: "warn", PARTIAL: "warn", TOTAL: "bad", DIVERGING: "bad"}


def subtitle(run: Run) -> str:
    """Modality and recipe, as far as they are known."""
    known = [run.result.get(key) or run.settings.get(key) for key in ("modality", "recipe")]
    return " · ".join(str(name) for name in known if name)


def verdict(run: Run) -> dict[str, str]:
    """The verdict the run ended with; of an unfinished one, the verdict its recorded figures give."""
    judged = judge_history(run.metrics)
    given = str(run.result.get("verdict", "")) or judged.state
    # The result names the state; how many dimensions it concerns is in the figures.
    headline = judged.headline if judged.state == given else given
    sentence = str(run.result.get("verdict_sentence", "")) or (judged.sentence if judged.state == given else "")
    if given == WARMING_UP and not judged.evidence.get("measurements", 1.0):
        headline, sentence = "no verdict", "The features of this run have not been measured."
    tone = next((tone for state, tone in TONES.items() if headline.lower().startswith(state)), "none")
    if sentence.lower().startswith(headline.lower()):  # the page shows the headline already
        sentence = sentence[len(headline) :].removeprefix(":").strip()
    return {"tone": tone, "headline": capital(headline), "sentence": capital(sentence)}


def facts(run: Run) -> list[tuple[str, str, str]]:
    """Key figures as (label, figure, unit)."""
    result, last = run.result, run.metrics[-1] if run.metrics else {}
    peak = _known(result.get("peak_rss_mib"), last.get("peak_rss_mib"))
    steps = _known(result.get("steps"), last.get("step"))
    return [
        ("Training", "–" if steps is None else f"{steps:,.0f}", "step" if steps == 1 else "steps"),
        ("Time", *duration(_seconds(run))),
        ("Speed", number(_known(result.get("samples_per_s"), last.get("samples_per_s"))), "samples/s"),
        ("Peak memory", number(peak / 1024 if peak else None), "GiB"),
    ]


def _known(*candidates: Any) -> float | None:
    """The first that is a finite number: a result may hold ``null`` where a figure was none."""
    numbers = (c for c in candidates if isinstance(c, int | float) and not isinstance(c, bool) and math.isfinite(c))
    return next(numbers, None)


def _seconds(run: Run) -> float | None:
    given = _known(run.result.get("seconds"))
    if given is not None:
        return given
    times = [row["time"] for row in run.metrics if isinstance(row.get("time"), int | float)]
    return times[-1] - times[0] if len(times) > 1 else None


def duration(seconds: float | None) -> tuple[str, str]:
    """Hours and minutes, or minutes and seconds, and which of them."""
    if seconds is None:
        return "–", ""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return (f"{hours}:{minutes:02d}", "h:min") if hours else (f"{minutes}:{rest:02d}", "min:s")
