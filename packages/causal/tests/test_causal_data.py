"""Windows of episodes: where they start, what goes with them, what is refused, and what a run reads from a world."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from jepa_causal import sources
from jepa_causal.data import Cut, SlotWindows, action_scale, model_steps, proprio_scale
from jepa_causal.episodes import Episode
from jepa_causal.settings import CausalRun
from jepa_causal.sources import cut_of, episodes_of, front_end_of, labelled_windows, training_windows
from jepa_core.contracts import BadSample
from jepa_core.data.loader import Loader
from jepa_core.data.sampler import Sampler
from jepa_core.errors import DataError

K, D, A = 3, 4, 2


def episode(name: str, frames: int, **changes: object) -> Episode:
    """Slot values tell their frame; so do actions, the last of which is not known."""
    time = np.arange(frames, dtype=np.float32)
    actions = np.stack([time, -time], 1)
    actions[-1:] = np.nan
    parts: dict[str, object] = {
        "slots": np.broadcast_to(time[:, None, None], (frames, K, D)).copy(),
        "actions": actions,
        "proprio": time[:, None],
        "label": name[0],
    }
    return Episode(name, **{**parts, **changes})  # type: ignore[arg-type]


def test_every_start_of_every_episode_is_a_window() -> None:
    windows = SlotWindows([episode("a", 10), episode("short", 3), episode("empty", 0), episode("b", 7)], Cut(3, 2))
    assert len(windows) == 6 + 3 and windows.too_short == 2
    found = [windows.sample_id(index) for index in range(len(windows))]
    assert found == [*(f"a/{start}" for start in range(6)), *(f"b/{start}" for start in range(3))]
    for index, start in ((0, 0), (5, 5), (6, 0), (8, 2)):
        assert windows.load(index, 0).slots[:, 0, 0].tolist() == [start, start + 2, start + 4]


def test_actions_of_skipped_frames_lie_side_by_side_and_end_unknown() -> None:
    windows = SlotWindows([episode("a", 6)], Cut(3, 2, actions=True, proprio=True))
    batch = windows.collate([windows.load(index, 0) for index in range(2)])
    assert batch.actions is not None and batch.action_valid is not None and batch.proprio is not None
    assert batch.actions[0].tolist() == [[0, 0, 1, -1], [2, -2, 3, -3], [0, 0, 0, 0]]
    assert batch.action_valid.tolist() == [[True, True, False]] * 2
    assert batch.proprio[1, :, 0].tolist() == [1, 3, 5] and batch.proprio_valid is None


def test_only_what_is_known_is_scaled() -> None:
    made = [episode("a", 5), episode("b", 3)]
    scale = action_scale(made, 2)
    known = np.array([0, 1, 2, 3, 0, 1], np.float64)
    assert scale.mean.tolist() == pytest.approx([known.mean(), -known.mean()] * 2)
    assert scale.std.tolist() == pytest.approx([known.std()] * 4)
    still = proprio_scale([episode("a", 4, proprio=np.full((4, 1), 7, np.float32))])
    assert (still.mean.item(), still.std.item()) == (7, 1)
    with pytest.raises(ValueError, match="actions: expected some that are known, got none in 1 episodes"):
        action_scale([episode("a", 1)], 1)
    with pytest.raises(ValueError, match="one width in all episodes, got 2 and 3"):
        action_scale([episode("a", 4), episode("b", 4, actions=np.zeros((4, 3), np.float32))], 1)


def test_presence_is_told_only_where_something_is_absent() -> None:
    present = np.ones((6, K), bool)
    present[4:, 2] = False
    slots = episode("a", 6).slots
    assert slots is not None
    slots[4:, 2] = np.nan  # nobody reads what is not there
    windows = SlotWindows([episode("a", 6, present=present, slots=slots)], Cut(3))
    assert windows.collate([windows.load(0, 0), windows.load(1, 0)]).present is None
    batch = windows.collate([windows.load(0, 0), windows.load(2, 0)])
    assert batch.present is not None and batch.present[1].tolist() == present[2:5].tolist()
    assert bool(batch.slots.isfinite().all()) and bool(batch.present[0].all())
    learned = SlotWindows([episode("a", 6, present=np.zeros((6, 9), bool))], Cut(3, presence="all"))
    assert learned.load(0, 0).present is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"slots": np.zeros((6, K, D + 1), np.float32)},
            "slots: expected 3 of width 4, as in the first episode, got 3 x 5",
        ),
        ({"slots": np.zeros((6, K + 1, D), np.float32)}, "got 4 x 4"),
        ({"slots": np.full((6, K, D), np.inf, np.float32)}, "expected finite numbers"),
        ({"present": np.ones((6, K + 1), bool)}, r"present: expected \[3, 3\], got \[3, 4\]"),
        ({"actions": None}, "actions: expected them"),
        ({"proprio": None}, "proprio: expected it"),
    ],
)
def test_a_bad_window_is_quarantined(changes: dict[str, object], message: str) -> None:
    windows = SlotWindows([episode("good", 6), episode("bad", 6, **changes)], Cut(3, actions=True, proprio=True))
    with pytest.raises(BadSample, match=message):
        windows.load(4, 0)
    loader = Loader(windows, Sampler(len(windows), 0, len(windows)), 0)
    batch = loader.next()
    assert {name.split("/")[0] for name in batch.sample_id} == {"good"}
    assert {name for name, _ in batch.rejected} == {f"bad/{start}" for start in range(4)}


def test_episodes_without_a_window_or_slots_are_refused() -> None:
    with pytest.raises(ValueError, match="an episode of 5 frames or more for 3 steps at frame_skip=2, got 1 episodes"):
        SlotWindows([episode("a", 4)], Cut(3, 2))
    with pytest.raises(ValueError, match="got 0 episodes"):
        SlotWindows([], Cut(3))
    with pytest.raises(ValueError, match="episode a: expected slots, got none"):
        SlotWindows([episode("a", 4, slots=None)], Cut(3))


def test_an_episode_at_model_steps_agrees_with_its_windows() -> None:
    contacts = np.zeros((7, K), bool)
    contacts[[0, 3, 5], [0, 1, 2]] = True
    whole = episode("a", 7, contacts=contacts)
    thin = model_steps(whole, 2)
    window = SlotWindows([whole], Cut(4, 2, actions=True, proprio=True)).load(0, 0)
    assert thin.slots is not None and np.array_equal(thin.slots, window.slots)
    assert thin.actions is not None and window.actions is not None
    assert np.array_equal(thin.actions, window.actions, equal_nan=True)
    assert thin.contacts is not None and np.argwhere(thin.contacts).tolist() == [[0, 0], [2, 1], [3, 2]]
    assert thin.proprio is not None and thin.proprio[:, 0].tolist() == [0, 2, 4, 6]
    assert model_steps(whole, 1) is whole


# --------------------------------------------------------------------------------------------------------------------
# What a configuration reads
# --------------------------------------------------------------------------------------------------------------------


def run(**changes: object) -> CausalRun:
    config = CausalRun()
    config.data.episodes, config.data.test_episodes, config.data.steps = 6, 2, 12
    for key, value in changes.items():
        setattr(config.data, key, value)
    return config


def test_discs_become_state_slots_once_in_a_process() -> None:
    config = run()
    found = episodes_of(config)
    assert (len(found.train), len(found.test)) == (6, 2) and episodes_of(run()) is found
    names = [one.episode_id for one in (*found.train, *found.test)]
    assert len(set(names)) == 8
    windows = training_windows(config)
    assert (len(windows), windows.slots, windows.width) == (6 * 5, 5, 64)
    assert episodes_of(run(seed=1)).train[0].episode_id not in names
    assert not cut_of(config).actions and front_end_of(config).action_width == 0


def test_two_rooms_bring_actions_and_labels() -> None:
    config = run(world="two_rooms", steps=20, frame_skip=2)
    assert cut_of(config).actions and front_end_of(config).action_width == 4
    test = labelled_windows(config, "test")
    assert test is not None and {test.label(index) for index in range(len(test))} <= {"crosses", "stays"}
    assert len({test.group(index) for index in range(len(test))}) == 2
    config.causal.actions = "none"
    assert not cut_of(config).actions


def test_files_are_read_and_their_last_episodes_held_back(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).standard_normal((5, 12, 4, 8)).astype(np.float32)
    rows[1, 3, 2, 1] = np.nan
    np.savez(tmp_path / "slots.npz", **{f"video_{place}": row for place, row in enumerate(rows)})
    config = run(slots="files", root=str(tmp_path), test_episodes=1, max_bad_fraction=0.2)
    found = episodes_of(config)
    assert [one.episode_id for one in found.train] == ["video_0", "video_2", "video_3"]
    assert [one.episode_id for one in found.test] == ["video_4"] and len(found.left_out) == 1
    assert training_windows(config).slots == 4
    with pytest.raises(DataError, match="1 of 5 episodes cannot be used, data.max_bad_fraction=0"):
        episodes_of(run(slots="files", root=str(tmp_path), test_episodes=1, max_bad_fraction=0.0))
    with pytest.raises(DataError, match="fewer than the 4 usable episodes"):
        episodes_of(run(slots="files", root=str(tmp_path), test_episodes=4, max_bad_fraction=0.2))


def test_learned_slots_are_trained_once_and_found_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    changes = {"slots": "learned", "root": str(tmp_path), "slot_steps": 3, "slot_width": 8, "episodes": 4}
    first = episodes_of(run(**changes))
    assert "trained for this run" in first.note and "slots: step 3/3" in capsys.readouterr().out
    slots = first.train[0].slots
    assert slots is not None and slots.shape == (12, 6, 8)
    sources._known.clear()
    again = episodes_of(run(**changes))
    assert "found in" in again.note and not capsys.readouterr().out
    assert again.test[1].slots is not None and first.test[1].slots is not None
    assert np.array_equal(again.test[1].slots, first.test[1].slots)
    config = run(**changes)
    assert cut_of(config).presence == "all" and training_windows(config).load(0, 0).present is None
    batch = training_windows(config).collate([training_windows(config).load(0, 0)])
    assert batch.present is None and batch.slots.dtype == torch.float32


def test_a_slot_encoder_of_other_code_or_weights_is_trained_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changes = {"slots": "learned", "root": str(tmp_path), "slot_steps": 2, "slot_width": 8, "episodes": 4}
    first = episodes_of(run(**changes)).train[0].slots
    (config,) = tmp_path.glob("*/config.json")
    kept = json.loads(config.read_text())

    def again(reason: str) -> None:
        sources._known.clear()
        found = episodes_of(run(**changes))
        lines = [line for line in capsys.readouterr().out.splitlines() if "is not used" in line]
        assert len(lines) == 1 and reason in lines[0] and "trained for this run" in found.note
        assert first is not None and np.array_equal(first, found.train[0].slots)

    capsys.readouterr()
    config.write_text(json.dumps(kept | {"model": kept["model"] | {"width": 12}}))
    again("weights of another model")
    config.write_text(json.dumps(kept | {"trained_from": kept["trained_from"] | {"code": "older"}}))
    again("trained from other code")
    config.write_text(json.dumps({name: value for name, value in kept.items() if name != "trained_from"}))
    again("does not say what it was trained from")
