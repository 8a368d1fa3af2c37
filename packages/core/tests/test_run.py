"""A whole run: its folder, its exit codes, resume, signals, the dry run, and two processes against one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from toy import ToyJepa, ToyModality, ToySettings, quiet

from jepa_core.contracts import Measurement, ProbeTable
from jepa_core.errors import ConfigError, DataError, DivergenceError
from jepa_core.monitor.verdict import Verdict
from jepa_core.train import folder as folders
from jepa_core.train import outcome
from jepa_core.train.run import run_training
from jepa_core.train.stop import StopRequest

HERE = Path(__file__).parent


def settings(runs_dir: Path, steps: int = 6) -> ToySettings:
    config = quiet(ToySettings())
    config.trainer.max_steps, config.runs_dir = steps, str(runs_dir)
    return config


def run(config: ToySettings) -> int:
    return run_training(config, ToyModality(), "modality: toy\n")


def test_a_run_leaves_all_that_is_promised(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = settings(tmp_path)
    config.logging.progress, config.logging.trackers = "lines", ["tensorboard"]
    assert run(config) == 0
    path = tmp_path / "toy-quickstart"
    assert {p.name for p in path.iterdir()} >= {
        "config.yaml",
        "environment.json",
        "metrics.jsonl",
        "checkpoints",
        "pictures",
        "result.json",
        "report.html",
    }
    assert list(path.rglob("events.out.tfevents*"))
    result = json.loads((path / "result.json").read_text())
    assert (result["modality"], result["recipe"], result["steps"]) == ("toy", "quickstart", 6)
    assert result["probe"]["trained"] > 0 and result["probe"]["untrained"] == 0 and result["probe"]["stderr"] == 0.1
    assert result["probe"]["rows"]["raw"]["distance"]["value"] == 0.0
    assert result["seconds"] > 0 and result["verdict"]
    assert json.loads((path / "pictures" / "index.json").read_text())[0]["file"] == "01-a-mask-drawn.png"
    environment = json.loads((path / "environment.json").read_text())
    assert environment["versions"]["torch"] and environment["hardware"]["cores"]
    shown = capsys.readouterr().out
    assert "it is small" in shown and "threads" in shown and "Verdict:" in shown and "report.html" in shown


def test_a_result_is_strict_json(tmp_path: Path) -> None:
    figure = {"ap": Measurement(float("nan"), float("inf"))}
    table = ProbeTable("ap", {"trained": figure, "untrained": figure, "raw": figure}, 1, "")
    verdict = Verdict("healthy", "", None, {}, "healthy")
    outcome.write_result(tmp_path, {"steps": 1}, verdict, table)
    text = (tmp_path / "result.json").read_text()
    assert "NaN" not in text and "Infinity" not in text
    assert json.loads(text)["probe"]["trained"] is None


def test_folders_are_numbered_and_auto_takes_the_newest_with_a_checkpoint(tmp_path: Path) -> None:
    config = settings(tmp_path)
    fresh = [folders.open_folder(config, print).path.name for _ in range(3)]
    assert fresh == ["toy-quickstart", "toy-quickstart-2", "toy-quickstart-3"]
    config.resume = "auto"
    assert folders.open_folder(config, print).resume_from is None
    config.resume = str(tmp_path / "nothing")
    with pytest.raises(ConfigError, match="resume: expected null, auto"):
        folders.open_folder(config, print)
    config.name = "a/b"
    with pytest.raises(ConfigError, match="name: expected a folder name"):
        folders.base_name(config)
    config.name, config.recipe = None, "mine/small.yaml"
    assert folders.base_name(config) == "toy-small"


def test_resume_goes_on_from_a_named_older_checkpoint(tmp_path: Path) -> None:
    config = settings(tmp_path, steps=6)
    config.trainer.checkpoint_every, config.trainer.keep_checkpoints = 2, 0
    assert run(config) == 0
    path = tmp_path / "toy-quickstart"
    final = (path / "checkpoints" / "step-6" / "model.safetensors").read_bytes()
    config.resume = str(path / "checkpoints" / "step-2")
    assert run(config) == 0
    assert (path / "checkpoints" / "step-6" / "model.safetensors").read_bytes() == final
    assert (path / "checkpoints" / "set-aside-step-4").is_dir()
    config.resume = "auto"
    assert run(config) == 0 and not (tmp_path / "toy-quickstart-2").exists()


def test_a_dry_run_shows_and_takes_no_step(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = settings(tmp_path)
    config.dry_run = True
    config.logging.progress = "lines"
    assert run(config) == 0
    path = tmp_path / "toy-quickstart"
    assert (path / "schedules.png").stat().st_size > 1000 and not (path / "checkpoints").exists()
    shown = capsys.readouterr().out
    assert "[4, 12]" in shown and "not trained" in shown and "estimate" in shown


def test_a_checkpoint_that_does_not_fit_leaves_its_run_as_it_was(tmp_path: Path) -> None:
    config = settings(tmp_path)
    assert run(config) == 0
    path = tmp_path / "toy-quickstart"
    before = (path / "config.yaml").read_text(), (path / "environment.json").read_text()
    config.resume, config.seed = "auto", 3
    with pytest.raises(ConfigError, match="seed"):
        run_training(config, ToyModality(), "modality: another\n")
    assert before == ((path / "config.yaml").read_text(), (path / "environment.json").read_text())


def test_what_was_trained_survives_a_probe_that_fails(tmp_path: Path) -> None:
    class Unprobed(ToyModality):
        def probe(self, config: object, trained: object, untrained: object, device: torch.device) -> ProbeTable:
            raise ValueError("fit: expected labels 0 and 1")

    with pytest.raises(DataError, match="expected labels"):
        run_training(settings(tmp_path), Unprobed(), "modality: toy\n")
    path = tmp_path / "toy-quickstart"
    result = json.loads((path / "result.json").read_text())
    assert result["steps"] == 6 and result["probe"] is None and (path / "report.html").exists()


def test_what_cannot_be_built_leaves_no_folder(tmp_path: Path) -> None:
    class Unbuilt(ToyModality):
        def build(self, config: object) -> ToyJepa:
            raise ValueError("dropout: expected 0 to 1")

    with pytest.raises(ConfigError, match="dropout"):
        run_training(settings(tmp_path), Unbuilt(), "")
    assert not list(tmp_path.iterdir())


def test_errors_are_raised_with_their_exit_code(tmp_path: Path) -> None:
    config = settings(tmp_path, steps=12)
    config.poison = [5]
    with pytest.raises(DivergenceError) as caught:
        run(config)
    assert caught.value.exit_code == 3 and (tmp_path / "toy-quickstart" / "report.html").exists()
    config.logging.trackers = ["dvclive"]
    with pytest.raises(ConfigError, match="logging.trackers: dvclive is not installed"):
        run(config)
    config.logging.trackers = ["nonsense"]
    with pytest.raises(ConfigError, match="expected some of .*tensorboard"):
        run(config)


def test_the_first_signal_is_noted_and_a_later_ctrl_c_leaves_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    left: list[int] = []
    before = signal.getsignal(signal.SIGINT)  # ignored where the tests themselves run in the background
    monkeypatch.setattr(os, "_exit", left.append)
    with StopRequest() as stop:
        assert stop.name == ""
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.name == "SIGINT"
        os.kill(os.getpid(), signal.SIGINT)  # the launcher passing the same key press on
        assert left == []
        monkeypatch.setattr("jepa_core.train.stop._SAME_PRESS_S", 0.0)
        os.kill(os.getpid(), signal.SIGINT)
        assert left == [130]
    assert signal.getsignal(signal.SIGINT) is before


def test_the_end_of_accelerate_launch_is_a_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_USE_CPU", "False")
    launched = StopRequest()
    monkeypatch.delenv("ACCELERATE_USE_CPU")
    alone = StopRequest()
    assert launched.name == alone.name == ""
    monkeypatch.setattr(os, "getppid", lambda: 1 << 30)
    assert launched.name == "the end of the launcher" and alone.name == ""


SCRIPT = """
import json, sys
from jepa_core.errors import UserError, print_error
from jepa_core.train.run import run_training
from jepa_core.train.stop import StopRequest
from toy import ToyModality, ToySettings, quiet

config = quiet(ToySettings())
for key, value in json.loads(sys.argv[1]).items():
    section, _, name = key.rpartition(".")
    setattr(getattr(config, section) if section else config, name, value)
try:
    code = run_training(config, ToyModality(), "modality: toy")
except UserError as error:
    code = print_error(error)
sys.exit(code)
"""


def command(tmp_path: Path, values: dict, processes: int = 1) -> list[str]:
    script = tmp_path / "train_toy.py"
    script.write_text(SCRIPT)
    head = [sys.executable]
    if processes > 1:
        head += ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    return [*head, str(script), json.dumps({"runs_dir": str(tmp_path), **values})]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": f"{HERE}:{os.environ.get('PYTHONPATH', '')}", "OMP_NUM_THREADS": "1"}


def started(tmp_path: Path, values: dict, processes: int = 1) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(tmp_path, values, processes), env=environment(), capture_output=True, text=True, timeout=90
    )


def model(run_dir: Path, step: int) -> dict[str, torch.Tensor]:
    return load_file(run_dir / "checkpoints" / f"step-{step}" / "model.safetensors")


@pytest.mark.slow
def test_two_processes_are_one_process_on_the_joined_batch(tmp_path: Path) -> None:
    common = {"dropout": 0.0, "trainer.max_steps": 5, "trainer.accumulation": 2, "trainer.clip_norm": 0}
    common |= {"optimizer.warmup": 0.0, "trainer.log_every": 1, "bad": [3]}
    done = started(tmp_path, {**common, "name": "two", "trainer.batch_size": 2}, processes=2)
    assert done.returncode == 0, done.stderr
    config = settings(tmp_path, steps=5)
    config.name, config.dropout, config.bad, config.optimizer.warmup = "one", 0.0, [3], 0.0
    config.trainer.accumulation, config.trainer.clip_norm, config.trainer.log_every = 2, 0, 1
    assert run(config) == 0
    rows = [
        [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        for name in ("one", "two")
    ]
    for one, two in zip(*rows, strict=True):
        assert two["loss"] == pytest.approx(one["loss"], abs=1e-6)
        assert two["grad_norm"] == pytest.approx(one["grad_norm"], abs=1e-6)
    weights = {name: value for name, value in model(tmp_path / "one", 5).items() if name != "seen"}
    for name, tensor in weights.items():
        torch.testing.assert_close(model(tmp_path / "two", 5)[name], tensor, atol=1e-5, rtol=1e-5)
    own = [load_file(tmp_path / f"two/checkpoints/step-5/process-{rank}.safetensors") for rank in (0, 1)]
    assert "buffer/seen" in own[1] and "buffer/seen" not in own[0]
    assert not torch.equal(own[0]["torch"], own[1]["torch"])
    # Each process met other samples; the file holds the bad one once.
    assert len((tmp_path / "two" / "quarantine.jsonl").read_text().splitlines()) == 1


@pytest.mark.slow
def test_two_processes_leave_together_and_one_speaks(tmp_path: Path) -> None:
    done = started(tmp_path, {"name": "bad", "trainer.max_steps": 12, "poison": [5]}, processes=2)
    assert done.returncode != 0
    assert done.stderr.count("jepa: the loss of step") == 1 and "jepa (process 1)" not in done.stderr


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 40
    while not path.exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.slow
def test_sigterm_saves_and_resume_gives_the_uninterrupted_bits(tmp_path: Path) -> None:
    steps = 600
    values = {"name": "stopped", "trainer.max_steps": steps, "resume": "auto", "trainer.log_every": 1}
    process = subprocess.Popen(
        command(tmp_path, values), env=environment(), text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    wait_for(tmp_path / "stopped" / "metrics.jsonl", process)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=40)
    assert process.returncode == 0, said
    saved = list((tmp_path / "stopped" / "checkpoints").iterdir())
    assert len(saved) == 1 and not (tmp_path / "stopped" / "result.json").exists()

    for name in ("stopped", "whole"):
        config = settings(tmp_path, steps)
        config.name, config.resume = name, "auto"
        assert run(config) == 0
    for name, tensor in model(tmp_path / "whole", steps).items():
        assert torch.equal(model(tmp_path / "stopped", steps)[name], tensor)
