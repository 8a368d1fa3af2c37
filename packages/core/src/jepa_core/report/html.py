"""Writes ``report.html`` of a run: one file, everything inlined, opens offline, says what is missing."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from jepa_core.monitor.loggers import replace_text
from jepa_core.recipe_record import differences, flat
from jepa_core.report.figures import curve_charts
from jepa_core.report.page import environment, number, page_chart
from jepa_core.report.probe_tables import probe_table
from jepa_core.report.reading import Run, read_run
from jepa_core.report.samples import samples_page
from jepa_core.report.summary import facts, subtitle, verdict

QUARANTINE_SHOWN = 50

__all__ = ["Run", "number", "read_run", "write_report"]


def write_report(run_dir: Path | str) -> Path:
    """Writes ``report.html`` into a run folder and returns its path.

    Reads ``config.yaml``, ``recipe.json``, ``environment.json``, ``metrics.jsonl``, ``quarantine.jsonl``,
    ``result.json``, ``samples.json`` with ``pictures/samples/``, and ``pictures/index.json`` with its PNG and GIF
    files, whichever exist; what is absent or broken is named in the report.

    Raises:
        ValueError: ``run_dir`` is no folder.
    """
    folder = Path(run_dir)
    if not folder.is_dir():
        raise ValueError(f"report: expected the folder of a run, got '{folder}', which is none; check the path")
    path = folder / "report.html"
    replace_text(path, _render(read_run(folder)))
    return path


def _render(run: Run) -> str:
    charts = curve_charts(run.metrics, run.quarantine)
    probe = probe_table(run)
    return (
        environment()
        .get_template("template.html")
        .render(
            name=run.folder.resolve().name,
            subtitle=subtitle(run),
            verdict=verdict(run),
            facts=_facts(run, probe),
            missing=run.missing,
            probe=probe,
            charts={section: [page_chart(chart) for chart in found] for section, found in charts.items()},
            samples=samples_page(run.folder, run.missing),
            pictures=run.pictures,
            quarantine=_quarantine(run.quarantine),
            recipe=_recipe(run),
            config=run.config,
            environment=flat(run.environment),
        )
    )


def _facts(run: Run, probe: dict[str, Any] | None) -> list[tuple[str, str, str]]:
    """Key figures as (label, figure, unit), the probe's first."""
    found = facts(run)
    if probe and probe["trained"]:
        found.insert(0, (f"Probe, {probe['metric']}", probe["trained"]["value"], probe["trained"]["error"]))
    return found


def _recipe(run: Run) -> dict[str, Any] | None:
    """What differs from the recipe as shipped, and the recipe from the defaults; None where that was not recorded."""
    if not isinstance(run.recipe.get("settings"), dict) or not run.settings:
        return None
    settings, defaults = run.recipe["settings"], run.recipe.get("defaults")
    return {
        "name": str(run.recipe.get("recipe", "")),
        "origin": str(run.recipe.get("origin", "")),
        "changed": differences(settings, run.settings),
        "own": differences(defaults, settings) if isinstance(defaults, dict) else [],
    }


def _quarantine(rows: list[dict[str, Any]]) -> dict[str, Any]:
    reasons = Counter(str(row.get("reason", "no reason given")).split(":")[0] for row in rows).most_common(8)
    shown = [
        {
            "name": str(row.get("sample_id", "")),
            "text": "; ".join(
                value if key == "reason" else f"{key} {value}"
                for key, value in flat({key: value for key, value in row.items() if key != "sample_id"})
            ),
        }
        for row in rows[:QUARANTINE_SHOWN]
    ]
    return {"count": len(rows), "reasons": reasons, "shown": shown}
