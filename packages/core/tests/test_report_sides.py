"""Runs side by side, and what differs from the recipe: what is compared, what is refused, what is said."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from test_report import Page, make_run
from toy import ToyModality, ToySettings, quiet

from jepa_core.cli import main
from jepa_core.recipe_record import choice_row, describe_recipe, differences, plain, write_recipe
from jepa_core.report import write_report, write_side_by_side
from jepa_core.report.figures import overlay_charts
from jepa_core.report.probe_sides import difference
from jepa_core.report.side_by_side import distinct_names


def changed(run: Path, name: str, **values: object) -> None:
    path = run / name
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def test_settings_are_held_against_the_recipe(tmp_path: Path) -> None:
    config = quiet(ToySettings(runs_dir=str(tmp_path), name="x", seed=7))
    described = describe_recipe(ToyModality(), config)
    found = differences(described["settings"], plain(config))
    assert ("seed", "0", "7") in [(entry.key, entry.before, entry.after) for entry in found]
    assert not {"name", "runs_dir"} & {entry.key for entry in found}
    assert choice_row("quickstart", found[:1])[1] == "quickstart, 1 key changed"
    assert choice_row("quickstart", found[:1] * 9)[2] == "listed in the report"
    run = make_run(tmp_path, name="run")
    write_recipe(run, described)
    from jepa_core.config import to_yaml

    (run / "config.yaml").write_text(to_yaml(config))
    html = write_report(run).read_text()
    assert "What differs from recipe quickstart as shipped" in html
    assert "<tr><td>seed</td><td>0</td><td><strong>7</strong></td></tr>" in html
    (run / "recipe.json").unlink()
    assert "the run was made before reports showed it" in write_report(run).read_text()


def test_two_runs_on_one_page(tmp_path: Path) -> None:
    first = make_run(tmp_path, {"trained": 0.7, "untrained": 0.4, "raw": 0.5}, "first")
    second = make_run(tmp_path, {"trained": 0.72, "untrained": 0.4, "raw": 0.9}, "second")
    changed(second, "result.json", modality="vision")
    changed(second, "environment.json", torch="2.12")
    (second / "config.yaml").write_text("recipe: small\nnew: 1\n")
    html = write_side_by_side([first, second], tmp_path / "page.html").read_text()
    page = Page(html)
    assert not page.open and len(page.ids) == len(set(page.ids)) and "<script" not in html
    assert all(ref.startswith(("data:image/png;base64,", "#")) for ref in page.references)
    assert "losses and probes are not comparable" in html and "first: lidar, second: vision" in html
    assert "+0.020" in html and "± 0.014" in html and "within two errors" in html and "beyond two errors" in html
    for row in ("<td>recipe</td><td>quickstart</td><td>small</td>", "<td>torch</td><td>2.13</td><td>2.12</td>"):
        assert row in html
    assert "<td>new</td><td>–</td><td>1</td>" in html


def test_a_difference_is_judged_by_the_joint_error() -> None:
    assert difference((0.5, 0.03), (0.6, 0.04)) == {"text": "+0.100", "error": "± 0.050", "note": "within two errors"}
    assert difference((0.5, 0.03), (0.39, 0.04))["note"] == "beyond two errors"
    assert difference((0.5, None), (0.6, 0.1))["note"] == "error unknown"
    assert difference((None, None), (0.6, 0.1)) == {"text": "–", "error": "", "note": ""}


def test_a_run_keeps_its_line_where_another_lacks_the_figure() -> None:
    runs = {"a": [{"step": 1, "lr": 0.1}], "b": [{"step": 1, "loss": 1.0, "lr": 0.1}]}
    charts = {chart.title: chart for chart in overlay_charts(runs)["training"]}
    assert charts["Loss"].legend == (("b", "--series-2"),) and len(charts["Learning rate"].legend) == 2


def test_an_unfinished_and_a_broken_run_are_shown_as_far_as_they_go(tmp_path: Path) -> None:
    whole, torn = make_run(tmp_path, name="whole"), make_run(tmp_path, name="torn")
    (torn / "result.json").write_text("{")
    (torn / "config.yaml").write_text("- a list")
    html = write_side_by_side([whole, torn], tmp_path / "page.html").read_text()
    assert "Not finished: torn" in html and "<td>torn</td><td>result.json</td>" in html and "No probe: torn." in html


def test_runs_of_one_name_are_told_apart() -> None:
    assert distinct_names([Path("/x/a/run"), Path("/x/b/run")]) == ["a/run", "b/run"]


def test_what_is_refused_is_one_line(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    make_run(tmp_path, name="a")
    make_run(tmp_path, name="b")
    (tmp_path / "empty").mkdir()
    (tmp_path / "a" / "checkpoints" / "step-1").mkdir(parents=True)
    for arguments, word in {
        (): "usage",
        ("a", "a"): "different runs",
        ("a", "./a/"): "different runs",
        ("a", "nowhere"): "no such folder",
        ("a", "empty"): "holds no config.yaml",
        ("run=empty",): "holds no config.yaml",
        ("a/checkpoints/step-1",): "its checkpoint",
        ("a", "b", "out=page.txt"): ".html",
        ("a", "b", "out=nowhere/page.html"): "no folder",
        ("a", "out=page.html"): "with several runs only",
        ("a", "steps=3"): "expected one of run, out",
    }.items():
        assert main(["report", *arguments]) == 2, arguments
        said = capfd.readouterr().err
        assert word in said and len(said.splitlines()) == 1, said
    assert main(["report", "a"]) == 0 and main(["report", "run=a"]) == 0
    assert main(["report", "a", "b"]) == 0 and (tmp_path / "comparison.html").is_file()
