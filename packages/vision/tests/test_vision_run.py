"""A whole run on images, from settings to result, report and mask picture."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from vision_cases import configured

from jepa_core.cli import main
from jepa_core.config import to_yaml
from jepa_core.plugins import find_modality
from jepa_core.train.run import run_training


def write_images(folder: Path, count: int) -> None:
    """Noise in two class folders, train and test."""
    rng = np.random.default_rng(0)
    for split in ("train", "test"):
        for name in ("a", "b"):
            (folder / split / name).mkdir(parents=True)
            for place in range(count):
                image = Image.fromarray(rng.integers(0, 256, (40, 50, 3), dtype=np.uint8))
                image.save(folder / split / name / f"{place}.png")


@pytest.mark.parametrize("recipe", ["quickstart", "mae"])
def test_a_run_ends_with_a_probe_a_report_and_its_quarantine(recipe: str, tmp_path: Path) -> None:
    write_images(tmp_path / "images", 8)
    (tmp_path / "images" / "train" / "a" / "torn.jpg").write_bytes(b"\xff\xd8\xff\xe0 torn")
    config = configured(
        recipe,
        f"data.root={tmp_path / 'images'}",
        "data.max_bad_fraction=0.2",
        "data.workers=0",
        "trainer.max_steps=3",
        "trainer.batch_size=8",
        "trainer.threads=1",
        "trainer.precision=fp32",
        "monitor.every=1",
        "logging.trackers=[]",
        "logging.progress=off",
        "probe.neighbours=3",
        f"runs_dir={tmp_path}",
        "name=run",
    )
    assert run_training(config, find_modality("vision"), to_yaml(config)) == 0
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert (result["modality"], result["recipe"], result["steps"], result["bad_samples"]) == ("vision", recipe, 3, 1)
    assert result["probe"]["n"] == 16 and set(result["probe"]["rows"]) == {"trained", "untrained", "raw"}
    assert (tmp_path / "run" / "report.html").is_file() and "torn.jpg" in (
        tmp_path / "run/quarantine.jsonl"
    ).read_text()


def test_masks_are_drawn_over_real_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("JEPA_DATA", raising=False)
    out = tmp_path / "masks.png"
    assert main(["masks", "modality=vision", "trainer.batch_size=4", f"out={out}"]) == 0
    assert out.read_bytes().startswith(b"\x89PNG")
    assert "context 16.0 of 64 sites (25 %), 1 target block of 48.0 sites" in capsys.readouterr().out
