"""Whole runs on video: of recordings and of generated clips, from settings to result, report and mask picture."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from clip_cases import built, configured
from numpy.typing import NDArray
from PIL import Image

from jepa_core.cli import main
from jepa_core.config import to_yaml
from jepa_core.contracts import Method
from jepa_core.errors import ConfigError
from jepa_core.plugins import find_modality
from jepa_core.train.run import run_training
from jepa_vision.sprites import SpriteClips
from jepa_vision.video_modality import MODALITY
from jepa_vision.video_probe import MEAN, STEPS, describe_side, mean_frame, of_encoder, raw_frames
from jepa_vision.video_sources import probe_split, splits_of, training_source, videos_of

SMALL = [
    "data.frames=4",
    "data.height=32",
    "data.width=32",
    "data.workers=0",
    "trainer.max_steps=3",
    "trainer.batch_size=4",
    "trainer.threads=1",
    "trainer.precision=fp32",
    "monitor.every=1",
    "logging.trackers=[]",
    "logging.progress=off",
    "probe.neighbours=3",
]


def write_frames(folder: Path, frames: NDArray[np.uint8]) -> None:
    folder.mkdir(parents=True)
    for number, frame in enumerate(frames):
        Image.fromarray(frame).save(folder / f"{number:04d}.png")


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders of frames in two class folders, train and test, one of them broken."""
    root = tmp_path_factory.mktemp("recordings")
    clips = SpriteClips(64, (40, 48), 6)
    for split, count in (("train", 8), ("test", 5)):
        for number, name in enumerate(("right", "left")):
            for place in range(count):
                index = 8 * place + number
                write_frames(root / split / name / f"take{place}", clips.load(index, index + (split == "test")))
    for torn in (root / "train" / "left" / "take0").iterdir():
        torn.write_bytes(b"\x89PNG\r\n\x1a\nno more")
    return root


@pytest.mark.parametrize("recipe", ["quickstart", "mae"])
def test_a_run_on_recordings_ends_with_a_probe_and_its_quarantine(
    recipe: str, recordings: Path, tmp_path: Path
) -> None:
    wanted = (f"data.root={recordings}", "data.stride=1", "data.max_bad_fraction=0.2")
    config = configured(recipe, *SMALL, *wanted, f"runs_dir={tmp_path}", "name=run", "trainer.max_steps=6")
    assert run_training(config, find_modality("video"), to_yaml(config)) == 0
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert (result["modality"], result["recipe"], result["bad_samples"]) == ("video", recipe, 1)
    assert result["probe"]["n"] == 10 and (tmp_path / "run" / "report.html").is_file()
    assert set(result["probe"]["rows"]) == {"trained", "untrained", "raw", "mean frame"}
    assert set(result["probe"]["rows"]["trained"]) == {"linear", "kNN", "linear, time", "kNN, time"}
    note = result["probe"]["note"]
    assert "the data's own test split" in note and "1 unreadable clips left out" in note


def test_the_probe_of_generated_clips_says_what_they_are() -> None:
    config = configured("quickstart", *SMALL, "probe.train_clips=32", "probe.test_clips=16")
    method = built(config).eval()
    table = find_modality("video").probe(config, method, method, next(method.parameters()).device)
    assert table is not None and table.n == 16 and "generated" in table.note


def test_recordings_of_a_group_stay_on_one_side(recordings: Path, tmp_path: Path) -> None:
    (tmp_path / "all").symlink_to(recordings / "train")
    config = configured("quickstart", *SMALL, f"data.root={tmp_path / 'all'}")
    splits = splits_of(config, videos_of(config))
    assert len(splits.train) + len(splits.test) == 16 and splits.test and "one recording in 5" in splits.note
    source = training_source(config)
    assert len(source) == len(splits.train)
    assert not {source.sample_id(i) for i in range(len(source))} & {record.sample_id for record in splits.test}
    off = configured("quickstart", *SMALL, f"data.root={tmp_path / 'all'}", "probe.enabled=false")
    assert len(training_source(off)) == 16


def test_nothing_to_probe_with_is_no_probe(recordings: Path) -> None:
    unlabelled = configured("quickstart", *SMALL, f"data.root={recordings / 'train' / 'right'}")
    off = configured("quickstart", *SMALL, "probe.enabled=false")
    for config in (unlabelled, off):
        method = built(config)
        assert isinstance(method, Method)
        assert MODALITY.probe(config, method, method, next(method.parameters()).device) is None


def test_readouts_and_controls_hold_what_they_say() -> None:
    config = configured("quickstart", *SMALL, "probe.train_clips=8", "probe.test_clips=8")
    split, method = probe_split(config), built(config).eval()
    assert split is not None
    device = next(method.parameters()).device
    rows = {"encoder": of_encoder(method, "online"), "raw": raw_frames, "still": mean_frame}
    found = describe_side(split.test, rows, 3, device).features
    mean, steps = found["encoder", MEAN], found["encoder", STEPS]
    assert mean.shape == (8, 128) and steps.shape == (8, 2 * 128)
    np.testing.assert_allclose(steps.unflatten(1, (2, 128)).mean(1), mean, atol=1e-5)
    assert found["raw", MEAN].shape == (8, 4 * 768)
    np.testing.assert_allclose(found["raw", MEAN].unflatten(1, (4, 768)).mean(1), found["still", MEAN], atol=1e-6)
    clip = split.test.source.load(2, 0)
    np.testing.assert_allclose(
        found["still", MEAN][2].reshape(3, 16, 16).mean((1, 2)), clip.mean((0, 1, 2)) / 255, atol=1e-5
    )


def test_masks_are_drawn_over_a_clip(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "masks.png"
    assert main(["masks", "modality=video", "vision.masking.kind=tubes", "trainer.batch_size=4", f"out={out}"]) == 0
    assert all((tmp_path / f"masks-{n}.png").read_bytes().startswith(b"\x89PNG") for n in (1, 2))
    said = capsys.readouterr().out
    assert "Mask short. short: context" in said and "Mask long. long: context" in said and "sites (" in said


def test_a_root_that_is_not_there_is_one_line() -> None:
    config = configured("quickstart", *SMALL, "data.root=/nowhere/at/all")
    with pytest.raises((ConfigError, ValueError), match="data.root") as caught:
        training_source(config)
    assert "\n" not in str(caught.value)
