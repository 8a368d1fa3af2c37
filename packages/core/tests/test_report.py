"""The report: one offline file of whatever a run left behind, with nothing hidden and nothing injected."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from jepa_core.monitor.loggers import MetricsFile
from jepa_core.report import write_report
from jepa_core.report.figures import POINTS, curve_charts, is_trained
from jepa_core.results import Picture
from jepa_core.train.outcome import write_pictures

PNG = b"\x89PNG\r\n\x1a\n" + b"not looked at further"
EVIL = "<script>alert('x')</script>"


class Page(HTMLParser):
    """Text, tags and balance of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.open: list[str] = []
        self.references: list[str] = []
        self.ids: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in ("meta", "img", "br", "link", "path", "use"):
            self.open.append(tag)
        self.references += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href")]
        self.ids += [value or "" for name, value in attrs if name == "id"]

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if self.open and self.open[-1] == tag:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        if tag in self.open:
            assert self.open.pop() == tag, f"{tag} closes something else"


def figures(name: str, step: int, rank: float = 80.0) -> dict[str, float]:
    values = {
        "normalised_std": 0.6,
        "mean_cosine": 0.3,
        "rankme": rank,
        "effective_rank": rank,
        "dead_dimensions": 0.0,
        "top_eigenvalue_share": 0.2,
        "dimensions": 128.0,
        "rows": 1024.0,
        "finite": 1.0,
    }
    return {f"monitor/{name}/{key}": value for key, value in values.items()}


def probe(**rows: float) -> dict[str, Any]:
    table = {name.replace("_", " "): {"AP": {"value": value, "stderr": 0.01}} for name, value in rows.items()}
    return {"metric": "AP", "trained": rows["trained"], "n": 6144, "note": "Held-out scans.", "rows": table}


def make_run(folder: Path, rows: dict[str, float] | None = None, name: str = "run") -> Path:
    run = folder / name
    (run / "pictures").mkdir(parents=True)
    (run / "config.yaml").write_text(f'recipe: quickstart\nnote: "{EVIL}"\n')
    (run / "recipe.json").write_text(
        json.dumps({"recipe": "quickstart", "settings": {"recipe": "quickstart", "note": "shipped"}})
    )
    (run / "environment.json").write_text(json.dumps({"torch": "2.13", "cpu": {"cores": 2, EVIL: [1, 2]}}))
    metrics = MetricsFile(run / "metrics.jsonl")
    for step in range(10, 110, 10):
        metrics.append(
            step,
            {
                "loss": 1 / step,
                "loss/$x_": 0.1,
                "lr": 1e-3,
                "samples_per_s": 9.0,
                EVIL: 1.0,
                **figures("target", step),
                **figures("context", step),
            },
        )
    entries = [{"sample_id": f"scan-{i}", "reason": f"{EVIL}: torn", "step": i} for i in range(60)]
    (run / "quarantine.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    (run / "pictures" / "m.png").write_bytes(PNG)
    (run / "pictures" / "index.json").write_text(json.dumps([{"file": "m.png", "title": EVIL, "caption": "seen"}]))
    result = {
        "modality": "lidar",
        "recipe": "quickstart",
        "steps": 100,
        "seconds": 87.4,
        "samples_per_s": 9.1,
        "peak_rss_mib": 2048.0,
        "verdict": "healthy",
        "probe": probe(**(rows or {"trained": 0.7, "untrained": 0.4, "raw": 0.5})),
    }
    (run / "result.json").write_text(json.dumps(result))
    return run


def test_whole_run_is_one_offline_file(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    path = write_report(run)
    assert path == run / "report.html"
    html = path.read_text()
    page = Page(html)
    assert not page.open, f"left open: {page.open}"
    assert page.tags.count("svg") >= 10 and page.tags.count("img") == 1
    assert all(ref.startswith(("data:image/png;base64,", "#")) for ref in page.references)
    assert not re.search(r"url\((?!#)|@import|<link|http-equiv", html)
    assert len(page.ids) == len(set(page.ids)), "the same id twice"
    for text in ("Healthy", "0.700", "± 0.010", "6,144", "1:27", "Held-out scans.", "The first 50", "scan-49"):
        assert text in html, text
    assert "scan-50" not in html and "incomplete" not in html
    assert "spread of 0.60" in html, "the sentence behind a bare verdict comes from the recorded figures"
    assert sorted(p.name for p in run.iterdir() if p.name.startswith(".")) == []


def test_moving_picture_is_shown_as_the_gif_it_is(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    write_pictures(run, [Picture("Rollout, moving", b"GIF89a and more"), Picture("Mask", PNG)])
    assert {path.name for path in (run / "pictures").iterdir()} >= {"01-rollout-moving.gif", "02-mask.png"}
    html = write_report(run).read_text()
    assert html.count("data:image/gif;base64,R0lG") == 1 and html.count("data:image/png;base64,") == 1


def test_nothing_is_injected(tmp_path: Path) -> None:
    html = write_report(make_run(tmp_path, name="a&b<i>")).read_text()
    assert "<script" not in html and "<i>" not in html
    assert html.count("&lt;script&gt;") >= 5


def test_colours_follow_the_page(tmp_path: Path) -> None:
    html = write_report(make_run(tmp_path)).read_text()
    used = set(re.findall(r"var\((--[\w-]+)\)", html))
    light, dark = html.split("prefers-color-scheme: dark")
    assert all(f"{name}:" in light and f"{name}:" in dark for name in used)
    assert "#0102" not in html, "a stand-in colour was left"


def test_a_control_that_wins_is_said_and_marked(tmp_path: Path) -> None:
    html = write_report(
        make_run(tmp_path, {"trained": 0.5, "untrained": 0.3, "raw": 0.6, "other_control": 0.51})
    ).read_text()
    assert re.search(r'tag bad">AP: the trained encoder is behind “raw” \(-0\.100\)', html)
    assert re.search(r'tag warn">AP: the trained encoder is level, within the error, with “other control”', html)
    assert re.search(r'tag good">AP: the trained encoder is ahead of “untrained” \(\+0\.200\)', html)
    assert re.findall(r'class="best">([\d.]+)', html) == ["0.600"]
    assert is_trained("trained + raw") and not is_trained("untrained") and not is_trained("raw")


def test_where_lower_is_better_the_lowest_wins_and_bounds_judge_nobody(tmp_path: Path) -> None:
    run = make_run(tmp_path, {"trained": 0.2, "untrained": 0.5, "raw": 0.1, "the_truth": 0.0})
    result = json.loads((run / "result.json").read_text())
    result["probe"] |= {"errors": [result["probe"]["metric"]], "bounds": ["the truth"]}
    (run / "result.json").write_text(json.dumps(result))
    html = write_report(run).read_text()
    assert re.search(r'tag bad">AP: the trained encoder is behind “raw” \(\+0\.100\)', html)
    assert re.search(r'tag good">AP: the trained encoder is ahead of “untrained” \(-0\.300\)', html)
    assert re.findall(r'class="best">([\d.]+)', html) == ["0.100"] and "“the truth”" not in html


def test_empty_folder_still_gives_a_report(tmp_path: Path) -> None:
    html = write_report(tmp_path).read_text()
    assert not Page(html).open
    for name in ("config.yaml", "environment.json", "metrics.jsonl", "result.json", "pictures/index.json"):
        assert f"<td>{name}</td>" in html
    assert "No verdict" in html and "the run has not finished" in html


def test_running_run_has_a_verdict_from_its_figures(tmp_path: Path) -> None:
    metrics = MetricsFile(tmp_path / "metrics.jsonl")
    for step in range(10, 110, 10):
        metrics.append(step, {"loss": 0.5, **figures("target", step, rank=80.0 if step < 50 else 3.0)})
    html = write_report(tmp_path).read_text()
    assert 'class="verdict warn"' in html and "Partial collapse in 125 of 128 dimensions" in html
    assert "Since step 50" in html


def test_verdict_of_the_result_wins_over_a_judgement_of_the_figures(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    result = {"verdict": "total collapse", "verdict_sentence": "Total collapse since step 90: all is one point."}
    (run / "result.json").write_text(json.dumps(result))
    html = write_report(run).read_text()
    assert 'class="verdict bad"' in html and "<strong>Total collapse</strong>" in html
    assert "Since step 90: all is one point." in html and "result.json holds no probe figures" in html


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("metrics.jsonl", "{broken}\n{}\n"),
        ("metrics.jsonl", ""),
        ("result.json", "[1]"),
        ("result.json", "{"),
        ("environment.json", "nonsense"),
        ("pictures/index.json", "{}"),
        ("pictures/index.json", '[{"file": "../config.yaml"}, "x", {"file": "gone.png"}]'),
        ("quarantine.jsonl", '{"sample_id": "a", "reason": "b"}\n{"sam'),
        ("pictures/m.png", "BM"),
    ],
)
def test_broken_files_are_named_and_the_rest_is_shown(tmp_path: Path, name: str, content: str) -> None:
    run = make_run(tmp_path)
    (run / name).write_text(content)
    html = write_report(run).read_text()
    assert "This report is incomplete" in html and f"<td>{name.split('/')[0]}" in html
    assert "Machine and versions" in html or name == "environment.json"


def test_torn_last_line_costs_that_line_only(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 110, "lo')
    html = write_report(run).read_text()
    assert "torn last line" in html and "<h3>Loss</h3>" in html


def test_non_finite_figures_are_counted(tmp_path: Path) -> None:
    metrics = MetricsFile(tmp_path / "metrics.jsonl")
    for step in range(5):
        metrics.append(step, {"loss": float("nan") if step else 1.0, "lr": float("inf")})
    assert "4 figures are not finite" in write_report(tmp_path).read_text()


def test_long_curves_stay_small_and_no_figure_is_lost() -> None:
    rows = [{"step": i, "time": 0.0, "loss": float(i % 7), "odd/figure": 2.0} for i in range(20_000)]
    charts = curve_charts(rows)
    assert [chart.title for chart in charts["training"]] == ["Loss"]
    assert [chart.title for chart in charts["further"]] == ["odd/figure"]
    assert len(charts["training"][0].svg) < 250 * POINTS


def test_a_folder_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="folder of a run"):
        write_report(tmp_path / "nowhere")
