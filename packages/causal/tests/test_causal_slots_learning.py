"""Learned slots: the schedule of their training, and which kept encoders are taken."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from jepa_causal.episodes import Episode
from jepa_causal.slots import kept
from jepa_causal.slots.kept import origin, why_not
from jepa_causal.slots.pixels import SlotAutoencoder, SlotSettings
from jepa_causal.slots.storage import save_encoder
from jepa_causal.slots.training import SlotTraining, video_training

SMALL = SlotSettings(mode="video", resolution=8, slots=3, width=32, hidden=32, channels=16, frequencies=2, decoder=32)


def films(first: int, count: int, steps: int = 4, size: int = 8) -> list[Episode]:
    """A red square in the upper half and a blue one in the lower, which walk over black; with segments."""
    out = []
    for seed in range(first, first + count):
        numbers = np.random.default_rng(seed)
        frames = np.zeros((steps, size, size, 3), np.uint8)
        segments = np.zeros((steps, size, size), np.uint8)
        for place, channel in enumerate((0, 2)):
            row, column = place * size // 2 + numbers.integers(0, 2), numbers.integers(0, size - 2)
            for step in range(steps):
                shifted = (column + step) % (size - 2)
                frames[step, row : row + 3, shifted : shifted + 3, channel] = 255
                segments[step, row : row + 3, shifted : shifted + 3] = place + 1
        out.append(Episode(f"film {seed}", frames=frames, segments=segments))
    return out


def plan(**changes: object) -> SlotTraining:
    """The recipe of videos in small."""
    small = replace(video_training(SMALL), steps=350, warmup=20, batch_size=6, lr=4e-3)
    return replace(small, **changes)  # type: ignore[arg-type]


def test_clips_have_a_schedule_of_their_own() -> None:
    settings = plan(steps=100, single_share=0.6, warmup=10, lr=1.0, clip_lr=0.1)
    rates = [settings.rate(step) for step in range(1, 101)]
    assert rates[9] == pytest.approx(1.0) and rates[59] == pytest.approx(0.0)
    assert rates[67] == pytest.approx(0.1) and rates[99] == pytest.approx(0.0) and max(rates[60:]) <= 0.1
    assert all(0 <= replace(settings, steps=2, warmup=2).rate(step) <= 1 for step in (1, 2))
    with pytest.raises(ValueError, match="clip_lr: expected a number above 0, got 0"):
        plan(clip_lr=0)


# --------------------------------------------------------------------------------------------------------------------
# Kept encoders
# --------------------------------------------------------------------------------------------------------------------


def test_a_kept_encoder_is_taken_only_where_all_that_made_it_is_alike(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    episodes, settings = films(0, 2), plan()
    wanted = origin(settings, episodes, 0)
    assert why_not(tmp_path, wanted) == ""
    save_encoder(SlotAutoencoder(SMALL), tmp_path, wanted)
    assert why_not(tmp_path, wanted) is None
    assert why_not(tmp_path, origin(replace(settings, log_every=7), episodes, 0)) is None
    others = {
        "seed": origin(settings, episodes, 1),
        "settings": origin(replace(settings, clip_lr=1e-3), episodes, 0),
        "frames": origin(settings, films(5, 2), 0),
        "settings and seed": origin(replace(settings, steps=40), episodes, 1),
    }
    monkeypatch.setattr(kept, "code_hash", lambda: "of another day")
    others["code"] = origin(settings, episodes, 0)
    for names, other in others.items():
        assert why_not(tmp_path, other) == f"it was trained from other {names}"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"trained_from": {}}, "config.json does not say what it was trained from"),
        ({"trained_from": 3}, "config.json does not say what it was trained from"),
        ({"model": {"slots": 7}}, "weights of another model"),
        ({"sha256": "0"}, "differs from its checksum"),
    ],
)
def test_a_folder_that_cannot_be_used_says_why(tmp_path: Path, change: dict[str, object], message: str) -> None:
    wanted = origin(plan(), films(0, 2), 0)
    save_encoder(SlotAutoencoder(SMALL), tmp_path, wanted)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    assert message in str(why_not(tmp_path, wanted))
    path.write_text("[")
    assert "expected JSON" in str(why_not(tmp_path, wanted))
