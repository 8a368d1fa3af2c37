"""One sentence that says what a comparison found, and a tone for it."""

from __future__ import annotations

import math

from jepa_core.compare.scores import Findings, Score, figure, p_text
from jepa_core.compare.spectra import MEANING


def judge(found: Findings) -> tuple[str, str]:
    """Tone (``good``: shared structure, ``warn``: in doubt, ``none``: not shown) and a sentence."""
    if found.mode == "spectrum":
        distance = found.figures["spectral_distance"]
        return "none", f"The spectra differ by {figure(distance)} (0 alike, 1 disjoint). {MEANING}"
    judged = [score for score in found.scores if math.isfinite(score.p_value)]
    if not judged:
        return "warn", f"No p-value can be given, so nothing is shown either way: {_reason(found)}"
    shown = [score for score in judged if score.p_value <= found.alpha]
    words = "; ".join(_said(score) for score in _leading(found))
    if len(shown) == len(judged):
        return "good", f"{found.name_a} and {found.name_b} see shared structure: {words}."
    if shown:
        passed = {score.title for score in shown}
        silent = ", ".join(dict.fromkeys(score.title for score in judged if score.title not in passed))
        silent = silent or "one direction of " + ", ".join(dict.fromkeys(s.title for s in judged if s not in shown))
        return "warn", f"The measures disagree about shared structure (not above chance: {silent}): {words}."
    return "none", f"No shared structure is shown, which is no proof that there is none: {words}."


def _reason(found: Findings) -> str:
    reasons = [*found.warnings, *(text for score in found.scores for text in score.warnings)]
    return next((text for text in reasons if "p-value" in text), "see the warnings") + "."


def _leading(found: Findings) -> list[Score]:
    names = ("linear_cka", "mutual_knn")
    leading = [score for score in found.scores if score.measure in names]
    return leading or list(found.scores[:2])


def _said(score: Score) -> str:
    interval = ""
    if math.isfinite(score.ci_low):
        interval = f", 95 % interval {figure(score.ci_low, 2)} to {figure(score.ci_high, 2)}"
    text = f"{score.title} {figure(score.value, 2)}{interval}"
    return f"{text}, by chance {figure(score.null_mean, 2)}, p {'<' if score.p_value < 0.001 else '='} " + (
        "0.001" if score.p_value < 0.001 else p_text(score)
    )
