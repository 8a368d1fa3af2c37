"""The pages in a real browser: they draw everything, fetch nothing, and can be read and operated by anybody."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_report import EVIL, figures, make_run

from jepa_core.cli import main
from jepa_core.monitor.loggers import MetricsFile
from jepa_core.report import write_report, write_side_by_side
from jepa_core.results import Picture
from jepa_core.train.outcome import write_pictures

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
BROWSER = next((found for name in BROWSERS if (found := shutil.which(name))), None)
CHECKS = (Path(__file__).parent / "browser_checks.js").read_text(encoding="utf-8")
PAGES = ("report", "side_by_side", "compare", "broken")

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install playwright")
pytestmark = pytest.mark.skipif(BROWSER is None, reason=f"no browser on PATH: none of {', '.join(BROWSERS)}")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A browser that is installed; none is downloaded."""
    with sync_api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Every kind of page, of runs and tables made for it."""
    folder = tmp_path_factory.mktemp("pages")
    first, second = (full_run(folder, name) for name in ("a-run-with-quite-a-long-name", "another"))
    broken = folder / "broken"
    broken.mkdir()
    (broken / "metrics.jsonl").write_text((first / "metrics.jsonl").read_text()[:2500])
    return {
        "report": write_report(first),
        "side_by_side": write_side_by_side([first, second, broken], folder / "comparison.html"),
        "compare": comparison(folder),
        "broken": write_report(broken),
    }


def full_run(folder: Path, name: str) -> Path:
    """A run with everything a report can show, and figures that are not finite."""
    run = make_run(folder, {"trained": 0.7, "untrained": 0.4, "raw": 0.71, "the_truth": 0.9}, name)
    metrics = MetricsFile(run / "metrics.jsonl")
    metrics.append(110, {"loss": float("nan"), "peak_rss_mib": 900.0, "probe/linear": 0.4, **figures("target", 110)})
    write_pictures(run, [Picture("Mask", image("PNG"), "A caption."), Picture("Rollout, moving", image("GIF"))])
    result = json.loads((run / "result.json").read_text())
    result["probe"] |= {"bounds": ["the truth"]}
    (run / "result.json").write_text(json.dumps(result))
    recipe = {"recipe": "quickstart", "origin": "toy 1.0", "settings": {"a": {"b": 1}, "note": name}, "defaults": {}}
    (run / "recipe.json").write_text(json.dumps(recipe))
    return run


def image(kind: str) -> bytes:
    """A picture that a browser can draw."""
    from PIL import Image

    frames = [Image.new("RGB", (640, 160), colour) for colour in ("navy", "orange")]
    stream = io.BytesIO()
    frames[0].save(
        stream, kind, **({"save_all": True, "append_images": frames[1:], "duration": 200} if kind == "GIF" else {})
    )
    return stream.getvalue()


def comparison(folder: Path) -> Path:
    """``compare.html`` of two arrays whose rows belong together."""
    random = np.random.default_rng(0)
    first = random.standard_normal((60, 8)).astype(np.float32)
    for name, table in (("first", first), ("second", first @ random.standard_normal((8, 8)).astype(np.float32))):
        np.save(folder / f"{name}.npy", table)
    arguments = [str(folder / "first.npy"), str(folder / "second.npy"), f"out={folder / 'compared'}"]
    options = ["permutations=19", "measures=linear_cka,mutual_knn", "assume_row_aligned=true", "k=5"]
    assert main(["compare", *arguments, *options]) == 0
    return next((folder / "compared").glob("*.html"))


@pytest.mark.parametrize("name", PAGES)
@pytest.mark.parametrize(("scheme", "width"), [("light", 1180), ("dark", 380)])
def test_everything_is_drawn_and_legible(
    browser: Any, pages: dict[str, Path], name: str, scheme: str, width: int
) -> None:
    context = browser.new_context(color_scheme=scheme, viewport={"width": width, "height": 900})
    page = context.new_page()
    page.set_default_timeout(90_000)
    said: list[str] = []
    asked: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("requestfailed", lambda request: said.append(f"failed: {request.url[:80]}"))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(pages[name].as_uri(), timeout=90_000)
    found = page.evaluate(CHECKS)
    context.close()
    assert said == []
    assert [url for url in asked if not url.startswith("data:")] == [pages[name].as_uri()], "it fetches something"
    for what in ("pale", "pictures", "drawings", "nameless", "skipped"):
        assert found[what] == [], what
    assert found["titles"] == 1 and found["overflow"] <= 0
    assert found["counts"]["drawings"] >= (0 if name == "compare" else 2)
    assert found["counts"]["images"] == {"report": 2, "side_by_side": 4}.get(name, 0)


@pytest.mark.parametrize("name", PAGES)
def test_the_keyboard_reaches_and_opens_everything(browser: Any, pages: dict[str, Path], name: str) -> None:
    page = browser.new_page()
    page.set_default_timeout(90_000)
    page.goto(pages[name].as_uri(), timeout=90_000)
    wanted = page.locator("summary, a[href], [tabindex='0']:not(details:not([open]) *)").count()
    reached: set[int] = set()
    number = "() => [...document.querySelectorAll('*')].indexOf(document.activeElement)"
    for _ in range(2 * wanted + 2):
        page.keyboard.press("Tab")
        tag, place = page.evaluate("() => document.activeElement.tagName"), page.evaluate(number)
        if tag != "BODY":
            reached.add(place)
        if tag == "SUMMARY" and not page.evaluate("() => document.activeElement.parentElement.open"):
            page.keyboard.press("Enter")
            assert page.evaluate("() => document.activeElement.parentElement.open"), "Enter does not open it"
            page.keyboard.press("Enter")
    page.close()
    assert len(reached) >= wanted


def test_paper_has_what_is_closed_on_the_screen(browser: Any, pages: dict[str, Path]) -> None:
    page = browser.new_page(color_scheme="dark")
    page.goto(pages["report"].as_uri(), timeout=90_000)
    page.emulate_media(media="print")
    heights = page.evaluate(
        "() => [...document.querySelectorAll('details')].map((e) => e.getBoundingClientRect().height"
        " - e.querySelector('summary').getBoundingClientRect().height)"
    )
    stated = page.evaluate("() => getComputedStyle(document.querySelector('.unprinted')).display")
    background = page.evaluate("() => getComputedStyle(document.querySelector('.card')).backgroundColor")
    page.close()
    assert stated == "block" or (heights and min(heights) > 20), "neither printed nor stated"
    assert background == "rgb(255, 255, 255)", "paper is white whatever the screen is"


@pytest.mark.slow
def test_the_report_of_a_real_run(
    browser: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    monkeypatch.chdir(tmp_path)
    example = request.config.rootpath / "examples" / "own_modality.py"
    few = ["trainer.max_steps=4", "trainer.batch_size=8", "trainer.log_every=1", "trainer.device=cpu"]
    few += ["motion.persons=8", "motion.windows=2", "data.workers=0", "monitor.every=1", "logging.trackers=[]"]
    assert main(["train", f"modality={example}", "name=real", "logging.progress=off", *few]) == 0
    page = browser.new_page(viewport={"width": 380, "height": 900})
    page.goto((tmp_path / "runs" / "real" / "report.html").as_uri(), timeout=90_000)
    found, text = page.evaluate(CHECKS), page.inner_text("body")
    page.close()
    assert not (found["pale"] or found["pictures"] or found["drawings"]) and found["overflow"] <= 0
    assert "motion.persons" in text and "What differs from recipe quickstart as shipped" in text and EVIL not in text
