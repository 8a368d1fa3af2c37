"""What a run leaves of its samples and what the report makes of it: nothing it learned changes, nothing fails a run."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from test_embed import EvaluableToy, LabelledToys
from toy import ToyModality, ToySettings, quiet

from jepa_core.contracts import Batch
from jepa_core.errors import ConfigError
from jepa_core.evaluation_source import Split
from jepa_core.report.html import write_report
from jepa_core.report.samples import MARKS, samples_page
from jepa_core.results import SamplePictures
from jepa_core.thumbnails import image_png
from jepa_core.train import state
from jepa_core.train.run import run_training
from jepa_core.train.samples import Encoders, write_samples


class DrawingToy(EvaluableToy):
    """Draws a grey square whose level tells the sample."""

    def evaluation(self, config: ToySettings, split: Split) -> LabelledToys:
        return LabelledToys(config.total, tuple(config.bad))

    def sample_pictures(self, config: Any, batch: Batch) -> SamplePictures:
        levels = [int(name.removeprefix("toy-")) for name in batch.sample_id]
        return SamplePictures([image_png(np.full((8, 8), 9 * level, np.uint8)) for level in levels], "Darker is first.")


class BrokenPencil(DrawingToy):
    def sample_pictures(self, config: Any, batch: Batch) -> SamplePictures:
        raise RuntimeError("the pencil\nis <broken>")


class BrokenSplit(DrawingToy):
    def evaluation(self, config: ToySettings, split: Split) -> LabelledToys:
        raise KeyError("no disc")


def settings(folder: Path, **values: Any) -> ToySettings:
    config = quiet(ToySettings(runs_dir=str(folder), name="run", **values))
    config.trainer.max_steps = 2
    return config


def run(folder: Path, modality: Any, **values: Any) -> tuple[Path, str]:
    assert run_training(settings(folder, **values), modality, "modality: toy\n") == 0
    return folder / "run", (folder / "run" / "report.html").read_text(encoding="utf-8")


def test_a_run_leaves_its_samples_and_the_report_shows_them(tmp_path: Path) -> None:
    folder, page = run(tmp_path, DrawingToy(), bad=[4])
    held = json.loads((folder / "samples.json").read_text())
    assert (held["samples"], held["of"], held["unreadable"]) == (22, 23, 1)
    near = held["neighbours"]
    assert near["groups"] == "other" and len(near["queries"]) == 6 and len(held["map"]["xy"]) == 22
    assert 0 <= near["same_label"] <= 1 and 0 < near["by_chance"] < 1 and near["before_training"] is not None
    for query in near["queries"]:
        assert len(query["neighbours"]) == 5
        assert all(other["group"] != query["group"] for other in query["neighbours"])
        assert all((folder / "pictures/samples" / each["picture"]).is_file() for each in (query, *query["neighbours"]))
    for words in ("Nearest neighbours", "Map of samples", "1 could not be read", "Darker is first.", "✓ same", "✗ "):
        assert words in page
    assert all(re.search(r'alt="[^"]+"', tag) for tag in re.findall(r"<img[^>]*>", page))
    (folder / "report.html").unlink()
    assert write_report(folder).read_text(encoding="utf-8") == page


@pytest.mark.parametrize(
    ("modality", "words"),
    [
        (BrokenPencil(), "they could not be drawn: the pencil is &lt;broken&gt;"),
        (BrokenSplit(), "Not shown: &#39;no disc&#39;"),
    ],
)
def test_what_fails_is_a_line_and_fails_no_run(
    tmp_path: Path, modality: Any, words: str, capfd: pytest.CaptureFixture[str]
) -> None:
    folder, page = run(tmp_path, modality)
    assert words in page and json.loads((folder / "result.json").read_text())["probe"] is not None
    said = [line for line in capfd.readouterr().out.splitlines() if "warning" in line]
    assert len(said) == 1 and ("no pictures" in said[0] or "no samples" in said[0])


def test_none_are_looked_at_where_none_are_wanted_or_held_back(tmp_path: Path) -> None:
    config = settings(tmp_path)
    config.report.samples = 0
    assert run_training(config, cast(Any, DrawingToy()), "modality: toy\n") == 0
    folder, page = run(tmp_path / "other", ToyModality())
    for each in (tmp_path / "run", folder):
        assert not (each / "samples.json").exists() and not (each / "pictures/samples").exists()
    assert "Nearest neighbours" not in page
    config.report.samples = -1
    with pytest.raises(ConfigError, match=r"report.samples: expected at least 0, got -1"):
        run_training(config, cast(Any, DrawingToy()), "modality: toy\n")


def test_looking_changes_no_weight_mode_or_generator(tmp_path: Path) -> None:
    config, modality = settings(tmp_path), cast(Any, DrawingToy())
    methods = [modality.build(config).train() for _ in range(2)]
    before = copy.deepcopy([method.state_dict() for method in methods])
    generators = state.random_state()
    warned: list[str] = []
    for samples in (512, 9, 0):
        config.report.samples = samples
        write_samples(config, modality, Encoders(methods[0], methods[1], torch.device("cpu")), tmp_path, warned.append)
        assert (tmp_path / "samples.json").exists() == bool(samples)
        if samples:
            assert json.loads((tmp_path / "samples.json").read_text())["samples"] == min(samples, 23)
    assert not warned and all(module.training for method in methods for module in method.modules())
    for method, held in zip(methods, before, strict=True):
        assert all(torch.equal(held[name], value) for name, value in method.state_dict().items())
    assert all(torch.equal(generators[name], value) for name, value in state.random_state().items())


def found(folder: Path, **changes: Any) -> dict[str, Any]:
    """A ``samples.json`` of 14 samples with as many labels."""
    named = [{"sample_id": f"s{k}", "label": f"<b>{k}", "group": None, "picture": None} for k in range(14)]
    columns = {key: [each[key] for each in named] for key in ("sample_id", "label", "group")}
    held: dict[str, Any] = {
        **{"split": "test", "samples": 14, "of": 99, "unreadable": 0, "seed": 0, "encoder": "online", "layer": "last"},
        "neighbours": {
            **{"k": 1, "groups": "any", "grouped": False},
            **{"same_label": 0.5, "by_chance": 0.1, "before_training": None},
            "queries": [{**named[0], "neighbours": [{**named[1], "distance": 0.5, "picture": "../../../secret.png"}]}],
        },
        "map": {"method": "t-SNE", "xy": [[k / 13, 0.0] for k in range(14)], **columns},
        **changes,
    }
    (folder / "samples.json").write_text(json.dumps(held))
    return held


def test_the_page_takes_nothing_from_outside_of_the_run(tmp_path: Path) -> None:
    (tmp_path / "secret.png").write_bytes(image_png(np.zeros((8, 8), np.uint8)))
    folder = tmp_path / "runs" / "run"
    folder.mkdir(parents=True)
    found(folder)
    missing: list[tuple[str, str]] = []
    page = samples_page(folder, missing)
    assert page is not None and page["queries"][0]["neighbours"][0]["picture"] is None
    assert [name for name, _ in missing] == ["pictures/samples/../../../secret.png"]
    text = write_report(folder).read_text(encoding="utf-8")
    assert "<b>0" not in text and "&lt;b&gt;0" in text


def test_ten_labels_have_marks_and_the_rest_shares_one(tmp_path: Path) -> None:
    found(tmp_path)
    page = samples_page(tmp_path, [])
    assert page is not None
    legend, points = page["map"]["legend"], page["map"]["points"]
    assert len(legend) == 11 and legend[-1]["name"] == "4 others" and legend[-1]["count"] == 4
    assert {row["mark"] for row in legend} == set(range(len(MARKS))) and len(set(MARKS)) == len(MARKS)
    assert [point["mark"] for point in points[:4]] == [0] * 4 and all(point["mark"] for point in points[4:])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"neighbours": None}, "cannot be read: TypeError"),
        ({"map": {"method": "t-SNE"}}, "cannot be read: KeyError"),
    ],
)
def test_a_broken_file_is_named_and_the_report_is_written(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    found(tmp_path, **changes)
    page = write_report(tmp_path).read_text(encoding="utf-8")
    assert words in page and "samples.json" in page


def test_a_map_without_differences_is_a_line(tmp_path: Path) -> None:
    found(tmp_path, map={"error": "they point all the same way"})
    assert "Not drawn: they point all the same way" in write_report(tmp_path).read_text(encoding="utf-8")
