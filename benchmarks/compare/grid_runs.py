"""Trains one encoder on the training clips of grid-s1, of video or of sound, without labels, and keeps its run.

    python benchmarks/compare/grid_runs.py --clips clips --kind whole --medium video --seed 0 --runs runs

``--clips`` is what ``grid_clips.py`` wrote; the run is ``<runs>/<kind>-<medium>-<seed>``. Video is the recipe grid_s1
for 400 steps instead of 1,000, its clips decoded once. Sound is the recipe speech with whole sentences as training
views and without its variance of clip features, for 700 steps.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from jepa_audio.modality import AudioModality
from jepa_audio.settings import AudioRun
from jepa_core.config import compose, to_yaml
from jepa_core.contracts import Modality
from jepa_core.plugins import find_recipe
from jepa_core.settings import RunSettings
from jepa_core.train.run import run_training
from jepa_vision.video_files import find_videos
from jepa_vision.video_modality import VideoModality
from jepa_vision.video_settings import VideoRun

sys.path.insert(0, str(Path(__file__).parent.parent / "vision"))
from grid_s1 import KeptVideo, decode  # noqa: E402  # beside it, in no package

SOUND = [
    "data.seconds=3.0",
    "data.keep_mib=512",
    "trainer.batch_size=16",
    "trainer.max_steps=700",
    "audio.variance_weight=0.0",
]
VIDEO = ["trainer.max_steps=400"]
QUIET = ["probe.enabled=false", "logging.trackers=[]", "logging.progress=off", "monitor.every=100", "data.workers=0"]


def settings(kind: str, medium: str, clips: Path, changes: list[str]) -> tuple[RunSettings, Modality]:
    """The settings of a run, and the modality it is of."""
    overrides = [f"data.root={(clips / kind / medium).resolve()}", *QUIET]
    if medium == "sound":
        overrides += SOUND
        audio = AudioModality()
        return compose(AudioRun, find_recipe(audio, "speech"), [*overrides, *changes]), audio
    video = VideoModality()
    return compose(VideoRun, find_recipe(video, "grid_s1"), [*overrides, *VIDEO, *changes]), video


def kept_in_memory(config: RunSettings) -> KeptVideo:
    """The training clips of a run of video, decoded once."""
    assert isinstance(config, VideoRun)
    records = [record for record in find_videos(str(config.data.root)).records if record.split == "train"]
    return KeptVideo(decode(config, records))


def train(kind: str, medium: str, seed: int, clips: Path, runs: Path, changes: list[str]) -> Path:
    """Trains, unless the run is there already; returns its folder."""
    name = f"{kind}-{medium}-{seed}"
    if (runs / name / "result.json").is_file():
        return runs / name
    config, modality = settings(kind, medium, clips, [f"seed={seed}", f"runs_dir={runs}", f"name={name}", *changes])
    if code := run_training(config, kept_in_memory(config) if medium == "video" else modality, to_yaml(config)):
        raise SystemExit(f"{name}: training ended with exit code {code}")
    return runs / name


def main() -> None:
    """Trains one encoder."""
    parser = argparse.ArgumentParser(description="One encoder of the clips of grid-s1.")
    parser.add_argument("--clips", type=Path, required=True)
    parser.add_argument("--kind", choices=["whole", "speech"], default="whole")
    parser.add_argument("--medium", choices=["video", "sound"], required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--set", nargs="*", default=[], help="settings, as key=value")
    given = parser.parse_args()
    print(train(given.kind, given.medium, given.seed, given.clips, given.runs, given.set))


if __name__ == "__main__":
    main()
