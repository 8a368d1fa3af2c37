"""The examples of docs/compare.md: real pairs of modalities, encoders that learned nothing, on the real data sets."""

import json
import os
import sys
from pathlib import Path

import pytest
from running import Runner

DATA = Path(os.environ.get("JEPA_DATA", "nowhere"))
EXAMPLES = {
    "grid_s1": (("paired/grid-s1",), ["--data"], ["--clips", "40", "24"], 8),
    "kitti": (("paired/kitti-camera-lidar",), ["--data"], [], 2),
    "classes": (("images/sign-digits", "audio/fsdd"), ["--signs", "--words"], ["--samples", "100"], 2),
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_of_a_comparison_runs_on_real_data(root: Path, tmp_path: Path, run: Runner, name: str) -> None:
    folders, keys, more, pages = EXAMPLES[name]
    lacking = [folder for folder in folders if not (DATA / folder).is_dir()]
    if lacking:
        pytest.skip(f"needs {lacking[0]} under JEPA_DATA")
    example = root / "examples" / f"compare_{name}.py"
    assert len(example.read_text(encoding="utf-8").splitlines()) <= 125
    given = [text for key, folder in zip(keys, folders, strict=True) for text in (key, str(DATA / folder))]
    done = run([sys.executable, str(example), *given, *more, "--out", str(tmp_path)], tmp_path)
    assert done.returncode == 0, done.stderr
    results = {path.parent.name: json.loads(path.read_text()) for path in tmp_path.glob("*/result.json")}
    assert len(results) == pages and all((tmp_path / name / "compare.html").is_file() for name in results)
    check = globals()[f"check_{name}"]
    check(done.stdout, results)


def check_grid_s1(said: str, results: dict) -> None:
    """Sound tells the words, by a map fitted on other clips; text of a clip is found by its sound."""
    assert "speech alone, untrained video and untrained sound" in said
    scores = {(s["measure"], s["direction"]): s for s in results["speech-alone-raw-sound-text"]["scores"]}
    assert scores["retrieval_R@10", "a -> b"]["p_value"] < 0.05
    assert scores["retrieval_R@1", "a -> b"]["n"] == 24


def check_kitti(said: str, results: dict) -> None:
    """The geometry is right, and no p-value is made up of frames that are near copies."""
    assert "share of points that fall into their image: 0.99" in said
    assert all(score["p_value"] is None for found in results.values() for score in found["scores"])
    assert "8 groups, expected at least 20" in said


def check_classes(said: str, results: dict) -> None:
    """Samples are refused, the means of ten classes are compared."""
    assert "as samples: CKA, kNN" in said and "means of classes" in said
    assert all(found["mode"] == "class" and found["scores"][0]["n"] == 10 for found in results.values())
