"""Saving: the best is kept, a copy is written in the background, disks fail in one line, one run has one writer."""

from __future__ import annotations

import json
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from test_trainer import bits, metrics, settings, trainer
from toy import ToyJepa

from jepa_core.contracts import Batch, Losses
from jepa_core.errors import ConfigError, StorageError
from jepa_core.train import checkpoint as checkpoints
from jepa_core.train import state
from jepa_core.train.checkpoint import Checkpoint
from jepa_core.train.lock import FolderLock
from jepa_core.train.saving import BackgroundSaver, Best, best_figure


def made(step: int, value: float = 1.0) -> Checkpoint:
    return Checkpoint(step, {"w": torch.full((64, 64), value)}, {}, {"state": {}}, [{}], {})


def steps(run_dir: Path) -> list[str]:
    return sorted(path.name for path in (run_dir / "checkpoints").iterdir())


def test_the_best_is_kept_beside_the_newest_and_found_by_its_link(tmp_path: Path) -> None:
    best = Best("probe/linear")
    for step, value in ((1, 0.2), (2, 0.9), (3, 0.1), (4, 0.3)):
        best.note({"probe/linear": value})
        best.settle(step)
        checkpoints.save(tmp_path, made(step), keep=1, best=best.step)
    assert steps(tmp_path) == ["best", "step-2", "step-4"]
    assert checkpoints.load(tmp_path / "checkpoints" / "best").step == 2
    assert checkpoints.newest(tmp_path, print).name == "step-4"
    later, gone = Best("probe/linear"), Best("loss")
    later.load_state_dict(best.state_dict(), tmp_path)
    gone.load_state_dict(best.state_dict(), tmp_path)
    assert (later.step, later.value, gone.step) == (2, 0.9, None)
    checkpoints.set_newer_aside(tmp_path, 1)
    assert not (tmp_path / "checkpoints" / "best").is_symlink()
    later = Best("probe/linear")
    later.load_state_dict(best.state_dict(), tmp_path)
    assert later.step is None  # it was set aside


def test_of_losses_the_lowest_mean_is_best_and_what_is_not_finite_never() -> None:
    best = Best("loss")
    for step, values in ((1, [3.0, 1.0]), (2, [1.5]), (3, [float("nan")]), (4, [1.6, 1.4])):
        for value in values:
            best.note({"loss": value, "lr": 0.0})
        best.settle(step)
    assert (best.step, best.value) == (2, 1.5)


def test_a_run_keeps_its_best_over_a_resume(tmp_path: Path) -> None:
    config = settings(max_steps=12, checkpoint_every=2, keep_checkpoints=1, keep_best="loss", log_every=1)
    whole = trainer(config, tmp_path / "whole")
    whole.train()
    first = trainer(settings(**{**vars(config.trainer), "keep_checkpoints": 0}), tmp_path / "parts")
    first.train()
    checkpoints.set_newer_aside(tmp_path / "parts", 6)
    second = trainer(config, tmp_path / "parts")
    second.restore(checkpoints.load(tmp_path / "parts" / "checkpoints" / "step-6"))
    second.train()
    assert second.best == whole.best and whole.best.step is not None
    means = [sum(row["loss"] for row in metrics(tmp_path / "whole")[k : k + 2]) / 2 for k in range(0, 12, 2)]
    assert whole.best.step == 2 * (1 + means.index(min(means)))
    assert {f"step-{whole.best.step}", "step-12", "best"} == set(steps(tmp_path / "whole"))


def test_what_no_run_logs_cannot_be_best() -> None:
    for name, words in (("accuracy", "expected auto"), ("probe/kNN", "probe.every=0")):
        with pytest.raises(ConfigError, match=words):
            best_figure(settings(keep_best=name))
    config = settings()
    assert best_figure(config) == ""
    config.probe.every = 5
    assert best_figure(config) == "probe/linear"


def test_a_checkpoint_written_in_the_background_has_the_same_bits(tmp_path: Path) -> None:
    for name, background in (("waits", False), ("goes on", True)):
        run = trainer(settings(max_steps=9, checkpoint_every=2, save_in_background=background), tmp_path / name)
        assert run.train() and run.last_checkpoint == tmp_path / name / "checkpoints" / "step-9"
    for step in ("step-8", "step-9"):
        assert bits(tmp_path / "waits" / "checkpoints" / step) == bits(tmp_path / "goes on" / "checkpoints" / step)


def test_the_background_writes_what_was_there_when_it_was_asked(tmp_path: Path) -> None:
    stored, saver = made(1), BackgroundSaver(tmp_path, 2)
    saver.save(stored, None)
    stored.model["w"].zero_()
    saver.wait()
    assert saver.last is not None and bool((load_file(saver.last / "model.safetensors")["w"] == 1).all())


@pytest.mark.parametrize("background", [False, True])
def test_a_disk_that_fails_ends_the_run_with_its_own_code(
    tmp_path: Path, background: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = checkpoints._write

    def full(folder: Path, checkpoint: Checkpoint) -> None:
        write(folder, checkpoint)
        if checkpoint.step == 4:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoints, "_write", full)
    run = trainer(settings(max_steps=60, checkpoint_every=2, save_in_background=background), tmp_path)
    with pytest.raises(StorageError, match=r"step-4 cannot be written: No space left on device.*resume=auto") as caught:
        run.train()
    assert caught.value.exit_code == 5 and run.step <= 6
    assert steps(tmp_path) == ["step-2"] and checkpoints.check(tmp_path / "checkpoints" / "step-2")


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_write_that_the_system_cuts_off_leaves_the_former_checkpoint(tmp_path: Path) -> None:
    checkpoints.save(tmp_path, made(1), keep=2)
    with largest_file(8192), pytest.raises(StorageError, match="step-2 cannot be written"):
        checkpoints.save(tmp_path, made(2), keep=2)
    assert checkpoints.newest(tmp_path, print).name == "step-1" and steps(tmp_path) == ["step-1"]


def test_a_run_folder_that_vanished_is_not_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_dir = tmp_path / "run"
    with pytest.raises(StorageError, match="No such file or directory"):
        checkpoints.save(run_dir, made(1), keep=2)
    run_dir.mkdir()

    def vanishing(tensors: dict, path: Path) -> None:
        shutil.rmtree(run_dir, ignore_errors=True)
        raise OSError(2, "No such file or directory")

    monkeypatch.setattr(checkpoints, "_save_tensors", vanishing)
    with pytest.raises(StorageError, match="No such file or directory"):
        checkpoints.save(run_dir, made(1), keep=2)
    assert not run_dir.exists()


def test_figures_that_cannot_be_written_end_the_run(tmp_path: Path) -> None:
    class Filling(ToyJepa):
        def forward(self, batch: Batch, step: int) -> Losses:
            if step == 3:
                (tmp_path / "metrics.jsonl").unlink()
                (tmp_path / "metrics.jsonl").mkdir()  # what refuses root too
            return super().forward(batch, step)

    run = trainer(settings(max_steps=9, log_every=1), tmp_path, Filling())
    with pytest.raises(StorageError, match=r"metrics.jsonl cannot be written: Is a directory"):
        run.train()
    assert run.step == 3


def test_a_removal_that_is_cut_off_leaves_no_torn_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoints.save(tmp_path, made(1), keep=1)
    remove = shutil.rmtree

    def killed(path: Path, **_: object) -> None:
        if path.name.endswith(".removed"):
            (path / "manifest.json").unlink()
            raise KeyboardInterrupt
        remove(path)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints.shutil, "rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            checkpoints.save(tmp_path, made(2), keep=1)
    assert [path.name for path in (tmp_path / "checkpoints").glob("step-*")] == ["step-2"]
    checkpoints.save(tmp_path, made(3), keep=1)
    assert steps(tmp_path) == ["step-3"]


def test_who_may_read_the_folder_may_read_its_files(tmp_path: Path) -> None:
    folder = checkpoints.save(tmp_path, made(1), keep=2)
    rights = folder.stat().st_mode & 0o666
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {rights}


def test_leftovers_of_a_kill_go_with_the_next_checkpoint(tmp_path: Path) -> None:
    for name in (".step-7.partial", ".step-7.removed"):
        (tmp_path / "checkpoints" / name).mkdir(parents=True)
    checkpoints.save(tmp_path, made(8), keep=2)
    assert steps(tmp_path) == ["step-8"]
    (tmp_path / "checkpoints" / "step-8" / "manifest.json").unlink()  # torn: the same step is written anew
    checkpoints.save(tmp_path, made(8), keep=2)
    assert checkpoints.newest(tmp_path, print).name == "step-8" and steps(tmp_path) == ["step-8"]


HOLDER = """
import sys
from pathlib import Path
from jepa_core.train.lock import FolderLock
with FolderLock() as lock:
    lock.take(Path(sys.argv[1]), print)
    print("mine", flush=True)
    sys.stdin.read()
"""


def test_a_run_folder_has_one_writer_until_that_dies(tmp_path: Path) -> None:
    words = [sys.executable, "-c", HOLDER, str(tmp_path)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == "mine\n"
        with pytest.raises(ConfigError, match=f"is being trained by process {holder.pid}"), FolderLock() as lock:
            lock.take(tmp_path, print)
        holder.kill()
    with FolderLock() as lock:
        lock.take(tmp_path, lambda text: pytest.fail(text))


def test_a_checkpoint_of_format_1_is_read_for_ever() -> None:
    """Written by the first version of the format; its bytes must stay as they are."""
    folder = Path(__file__).parent / "checkpoint_format_1" / "checkpoints" / "step-2"
    stored = checkpoints.load(folder)
    assert (stored.step, stored.state["global_position"], stored.state["seed"]) == (2, 8, 0)
    method = ToyJepa(0.1)
    checkpoints.load_into(method, stored.model, "format 1")
    state.load_random_state(stored.processes[0])
    # Nothing of this project is needed to read it.
    tensors = load_file(folder / "model.safetensors")
    assert torch.equal(tensors["encoder.0.weight"], method.encoder[0].weight)
    assert json.loads((folder / "trainer_state.json").read_text())["step"] == 2


def test_a_run_goes_on_from_format_1(tmp_path: Path) -> None:
    shutil.copytree(Path(__file__).parent / "checkpoint_format_1", tmp_path / "run")
    run = trainer(settings(max_steps=4), tmp_path / "run")
    run.restore(checkpoints.load(checkpoints.newest(tmp_path / "run", print)))
    assert run.train() and run.step == 4


def test_bad_samples_are_noted_before_a_checkpoint_and_torn_lines_kept_apart(tmp_path: Path) -> None:
    (tmp_path / "quarantine.jsonl").write_text('{"sample_id": "toy-1", "rea')
    config = settings(max_steps=12, checkpoint_every=1, log_every=100)
    config.bad = [4]
    run = trainer(config, tmp_path)
    noted: list[bool] = []
    save = checkpoints.save

    def looking(*given: object) -> Path:
        noted.append(run.quarantine.waiting == 0)
        return save(*given)

    checkpoints.save = looking
    try:
        run.train()
    finally:
        checkpoints.save = save
    assert noted and all(noted)
    assert set(trainer(config, tmp_path).quarantine.bad) == {"toy-4"}
