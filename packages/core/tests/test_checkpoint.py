"""Checkpoints: whole or refused, in the order they were written, without pickle, and random state to the bit."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from jepa_core.errors import UserError
from jepa_core.train import checkpoint as checkpoints
from jepa_core.train import state
from jepa_core.train.checkpoint import Checkpoint


def made(step: int, value: float = 1.0) -> Checkpoint:
    model = {"w": torch.full((2, 3), value)}
    return Checkpoint(
        step, model, {"w/step": torch.tensor(1.0)}, {"state": {}}, [{"t": torch.ones(1)}], {"x": 1}, "a: 1"
    )


def silent(text: str) -> None:
    raise AssertionError(f"nothing to warn of, got {text}")


def test_what_is_written_is_read_and_no_file_is_a_pickle(tmp_path: Path) -> None:
    folder = checkpoints.save(tmp_path, made(5), keep=2)
    assert folder == tmp_path / "checkpoints" / "step-5"
    back = checkpoints.load(folder)
    assert back.step == 5 and back.state == {"x": 1} and back.config_text == "a: 1" and len(back.processes) == 1
    assert torch.equal(back.model["w"], made(5).model["w"])
    assert {path.suffix for path in folder.iterdir()} == {".safetensors", ".json", ".yaml"}
    assert torch.equal(checkpoints.load_model(folder)["w"], back.model["w"])


def test_only_the_newest_are_kept(tmp_path: Path) -> None:
    for step in (1, 2, 3, 10):
        checkpoints.save(tmp_path, made(step), keep=2)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["step-10", "step-3"]
    for step in (11, 12):
        checkpoints.save(tmp_path, made(step), keep=0)
    assert len(list((tmp_path / "checkpoints").iterdir())) == 4


@pytest.mark.parametrize("damage", ["flip", "cut", "missing", "no manifest", "half manifest"])
def test_a_torn_checkpoint_is_passed_over_loudly(tmp_path: Path, damage: str) -> None:
    first, second = (checkpoints.save(tmp_path, made(step), keep=0) for step in (1, 2))
    model, manifest = second / "model.safetensors", second / "manifest.json"
    if damage == "flip":
        data = bytearray(model.read_bytes())
        data[-1] ^= 1
        model.write_bytes(data)
    elif damage == "cut":
        model.write_bytes(model.read_bytes()[:-4])
    elif damage == "missing":
        (second / "process-0.safetensors").unlink()
    elif damage == "no manifest":
        manifest.unlink()
    else:
        manifest.write_text(manifest.read_text()[:20])
    said: list[str] = []
    assert checkpoints.newest(tmp_path, said.append) == first
    assert len(said) == 1 and "step-2 is torn" in said[0]
    with pytest.raises(UserError, match="torn"):
        checkpoints.load(second)


def test_a_write_that_was_cut_off_is_no_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoints.save(tmp_path, made(1), keep=0)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "_sha256", killed)
        with pytest.raises(KeyboardInterrupt):
            checkpoints.save(tmp_path, made(2), keep=0)
    assert checkpoints.newest(tmp_path, silent).name == "step-1"
    checkpoints.save(tmp_path, made(2), keep=0)
    assert checkpoints.newest(tmp_path, silent).name == "step-2"


def test_a_disk_that_does_not_take_it_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"model.safetensors: .*No such file"):
        checkpoints._save_tensors({"w": torch.ones(1)}, tmp_path / "nowhere" / "model.safetensors")


def test_a_newer_format_is_refused_not_passed_over(tmp_path: Path) -> None:
    checkpoints.save(tmp_path, made(1), keep=0)
    manifest = checkpoints.save(tmp_path, made(2), keep=0) / "manifest.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "format_version": 99}))
    with pytest.raises(UserError, match="format 99 is newer"):
        checkpoints.newest(tmp_path, silent)


def test_no_whole_checkpoint_is_an_error_not_a_fresh_start(tmp_path: Path) -> None:
    (checkpoints.save(tmp_path, made(1), keep=0) / "manifest.json").unlink()
    with pytest.raises(UserError, match="no whole checkpoint"):
        checkpoints.newest(tmp_path, lambda text: None)


def test_tied_weights_are_written_under_each_name(tmp_path: Path) -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(3, 3, bias=False)
            self.b = nn.Linear(3, 3, bias=False)
            self.b.weight = self.a.weight
            self.register_buffer("view", self.a.weight.detach()[0])

    module, other = Tied(), Tied()
    stored = made(1)
    stored.model = checkpoints.model_tensors(module)
    back = checkpoints.load(checkpoints.save(tmp_path, stored, keep=0))
    assert set(back.model) == {"a.weight", "b.weight", "view"}
    checkpoints.load_into(other, back.model, "here")
    assert torch.equal(other.a.weight, module.a.weight) and other.b.weight is other.a.weight


def test_a_state_that_does_not_fit_is_told_in_one_line() -> None:
    with pytest.raises(UserError, match="here does not fit .*size mismatch") as caught:
        checkpoints.load_into(nn.Linear(2, 2), {"weight": torch.zeros(3, 3), "bias": torch.zeros(2)}, "here")
    assert "\n" not in str(caught.value)


def test_checkpoints_beyond_the_resumed_step_are_set_aside(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        checkpoints.save(tmp_path, made(step), keep=0)
    checkpoints.set_newer_aside(tmp_path, 1)
    assert checkpoints.newest(tmp_path, silent).name == "step-1"
    assert (tmp_path / "checkpoints" / "set-aside-step-3").is_dir()


def test_random_state_goes_around_to_the_bit(tmp_path: Path) -> None:
    def draw() -> tuple:
        values = (torch.rand(3).tolist(), torch.randn(3).tolist(), random.random(), random.gauss(0, 1))
        return (*values, np.random.rand(3).tolist(), np.random.randn())

    state.seed_everything(3, 0, 0)
    draw()
    stored = made(1)
    stored.processes = [state.random_state()]
    wanted = draw()
    state.seed_everything(4, 0, 0)
    state.load_random_state(checkpoints.load(checkpoints.save(tmp_path, stored, keep=0)).processes[0])
    assert draw() == wanted


def test_processes_draw_different_numbers() -> None:
    drawn = []
    for rank in (0, 1):
        state.seed_everything(0, 0, rank)
        drawn.append(torch.rand(4).tolist())
    assert drawn[0] != drawn[1]


def test_buffers_that_drifted_apart_come_back_to_their_process() -> None:
    first, second = nn.BatchNorm1d(2), nn.BatchNorm1d(2)
    second(torch.randn(8, 2))
    own = state.without_equal(state.own_buffers(second), state.own_buffers(first))
    assert set(own) == {"buffer/running_mean", "buffer/running_var", "buffer/num_batches_tracked"}
    restored = nn.BatchNorm1d(2)
    state.load_buffers(restored, own)
    assert torch.equal(restored.running_mean, second.running_mean)
    assert not state.without_equal(state.own_buffers(first), state.own_buffers(first))
