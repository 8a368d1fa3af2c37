"""Push-T: exact reset and resumption through gym-pusht where it is installed, a clear line where it is not."""

from __future__ import annotations

import importlib.util
from typing import Any

import numpy as np
import pytest

from jepa_causal.episodes import Episode
from jepa_causal.worlds import push_t
from jepa_causal.worlds.push_t import EXACT, PushT, PushTSettings, exact_of, open_push_t, read_state, restore
from jepa_core.errors import ConfigError

needs_pusht = pytest.mark.skipif(
    importlib.util.find_spec("gym_pusht") is None, reason="gym-pusht is not installed: the extra jepa-causal[pusht]"
)


@pytest.fixture(scope="module")
def world() -> PushT:
    return PushT()


def test_without_gym_pusht_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise ModuleNotFoundError(f"No module named {name!r}")

    monkeypatch.setattr(push_t.importlib, "import_module", missing)
    with pytest.raises(ConfigError, match=r"jepa-causal\[pusht\]") as caught:
        open_push_t()
    assert "\n" not in str(caught.value)


def test_settings_and_episodes_are_checked() -> None:
    with pytest.raises(ValueError, match="longest_step 0: expected"):
        PushTSettings(longest_step=0)
    with pytest.raises(ValueError, match="towards_block 2: expected"):
        PushTSettings(towards_block=2)
    with pytest.raises(ValueError, match="expected one that PushT recorded"):
        exact_of(Episode("bare"))


@needs_pusht
def test_a_pose_is_set_exactly_where_the_environment_itself_misses_it() -> None:
    env = open_push_t(obs_type="state")
    asked = np.array([100.0, 120.0, 3.0, -2.0, 256.0, 300.0, 1.0, 0.5, 0.25, -0.1])
    env.reset(seed=0)
    restore(env, asked)
    np.testing.assert_allclose(read_state(env), asked, atol=1e-9)
    legacy, _ = env.reset(options={"reset_to_state": asked[[0, 1, 4, 5, 6]]})
    assert np.abs(legacy[2:4] - asked[4:6]).max() > 10, "gym-pusht mended its reset: say so in the module's sentence"


@needs_pusht
def test_the_stored_future_comes_back_bit_for_bit(world: PushT) -> None:
    touching = 0
    for seed in range(4):
        episode = world.episode(seed, 30)
        assert episode.contacts is not None and episode.states is not None and episode.actions is not None
        for step in range(0, 30, 5):
            touching += int(episode.contacts[step].any())
            after = world.resume(episode, step)
            assert after.extra["exact"].tobytes() == episode.extra["exact"][step:].tobytes()
            for name in ("states", "actions", "contacts", "proprio"):
                np.testing.assert_array_equal(getattr(after, name), getattr(episode, name)[step:], err_msg=name)
    assert touching, "no resumption in a contact was tried"


@needs_pusht
def test_what_is_recorded(world: PushT) -> None:
    episode = world.episode(1, 60)
    states, actions, contacts = episode.states, episode.actions, episode.contacts
    assert states is not None and actions is not None and contacts is not None and episode.proprio is not None
    assert states.shape == (60, 3, 4) and actions.shape == (60, 2) and episode.proprio.shape == (60, 4)
    assert episode.extra["exact"].shape == (60, len(EXACT)) and episode.extra["angles"].shape == (60, 3)
    np.testing.assert_allclose(np.diff(states[..., :2], axis=0), states[1:, :, 2:], atol=1e-6)
    np.testing.assert_allclose(states[:, 2], np.tile([0.5, 0.5, 0, 0], (60, 1)))
    assert np.hypot(*np.diff(actions[:-1], axis=0).T).max() <= 0.05 + 1e-6 and np.isnan(actions[-1]).all()
    # The agent follows the aim; the block moves in contacts alone.
    assert np.abs(states[10:, 0, :2] - actions[9:-1]).max() < 0.12
    still = ~contacts[2:, 1] & ~contacts[1:-1, 1]
    assert np.abs(states[2:, 1, 2:][still]).max() < 0.002
    assert contacts[:, 1].any() and np.abs(states[-1, 1, :2] - states[0, 1, :2]).max() > 0.01
    again = PushT().episode(1, 60)
    assert again.extra["exact"].tobytes() == episode.extra["exact"].tobytes()
    with pytest.raises(ValueError, match="step 60: expected 0 to 59"):
        world.resume(episode, 60)
    with pytest.raises(ValueError, match="finite numbers"):
        world.resume(episode, 0, np.zeros((3, 3), dtype=np.float32))


@needs_pusht
def test_frames_show_the_states(world: PushT) -> None:
    episode = world.episode(1, 4)
    drawn = world.with_frames(episode, 64)
    assert drawn.frames is not None and drawn.frames.shape == (4, 64, 64, 3) and episode.states is not None
    blue = (np.abs(drawn.frames.astype(int) - (65, 105, 225)).sum(-1) < 60)[0]
    rows, columns = np.nonzero(blue)
    seen = ((columns + 0.5) / 64).mean(), 1 - ((rows + 0.5) / 64).mean()
    np.testing.assert_allclose(seen, episode.states[0, 0, :2], atol=0.02)
