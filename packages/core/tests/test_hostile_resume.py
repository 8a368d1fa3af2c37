"""Going on from a run of somebody who means ill: one line each, and what lies there stays as it was."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from toy import ToyModality, ToySettings, quiet

from jepa_core.errors import UserError
from jepa_core.train import run as training

Tensors = dict[str, torch.Tensor]
NAN, INF = float("nan"), float("inf")


class Unprobed(ToyModality):
    """What comes after training is not looked at here."""

    def probe(self, *_: Any) -> None:  # type: ignore[override]
        return None

    def pictures(self, *_: Any) -> list[Any]:
        return []


def go_on(run: Path, steps: int = 6, resume: Path | None = None, modality: Any = None) -> None:
    config = quiet(ToySettings())
    config.trainer.max_steps, config.trainer.checkpoint_every, config.trainer.keep_checkpoints = steps, 2, 0
    config.runs_dir, config.name, config.report.samples = str(run.parent), run.name, 0
    config.resume = None if resume is None else str(resume)
    with pytest.MonkeyPatch.context() as without:
        without.setattr(training, "_report", lambda parts: None)
        training.run_training(config, modality or Unprobed(), "modality: toy\n")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("trained") / "run"
    go_on(run, 4)
    return run


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "run", symlinks=True))


def contents(run: Path) -> dict[str, bytes | str]:
    """All of it but the lock; a link by what it says."""
    paths = [path for path in run.rglob("*") if path.name != ".lock" and not path.is_dir() | path.is_fifo()]
    return {str(path): os.readlink(path) if path.is_symlink() else path.read_bytes() for path in paths}


def refused(run: Path, said: str, resume: Path | None = None, modality: Any = None) -> None:
    before = contents(run)
    with pytest.raises(UserError, match=said) as refusal:
        go_on(run, 6, resume or run, modality)
    assert "\n" not in str(refusal.value) and len(str(refusal.value)) < 1100
    assert contents(run) == before


def signed(folder: Path) -> None:
    """With checksums that are right."""
    manifest = json.loads((folder / "manifest.json").read_text())
    names = [path.name for path in folder.iterdir() if path.name != "manifest.json"]
    manifest["sha256"] = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names}
    (folder / "manifest.json").write_text(json.dumps(manifest))


def change_tensors(run: Path, file: str, edit: Callable[[Tensors], object]) -> None:
    folder = run / "checkpoints" / "step-4"
    tensors = load_file(folder / file)
    edit(tensors)
    save_file(tensors, folder / file)
    signed(folder)


def change_json(run: Path, file: str, edit: Callable[[dict[str, Any]], object]) -> None:
    folder = run / "checkpoints" / "step-4"
    held = json.loads((folder / file).read_text())
    edit(held)
    (folder / file).write_text(json.dumps(held))
    signed(folder)


def test_the_run_itself_goes_on(run: Path) -> None:
    go_on(run, resume=run)
    assert (run / "checkpoints" / "step-6").is_dir()
    go_on(run, 8, run / "checkpoints" / "step-6")
    assert (run / "checkpoints" / "step-8").is_dir()


def first(tensors: Tensors, ending: str) -> str:
    return next(name for name in sorted(tensors) if name.endswith(ending) and tensors[name].numel() > 1)


def filled(ending: str, value: float) -> Callable[[Tensors], object]:
    return lambda tensors: tensors[first(tensors, ending)].view(-1)[:1].fill_(value)


def replaced(ending: str, change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[Tensors], object]:
    return lambda tensors: tensors.update({(name := first(tensors, ending)): change(tensors[name]).contiguous()})


def step_of(value: float) -> Callable[[Tensors], object]:
    return lambda tensors: next(v for k, v in sorted(tensors.items()) if k.endswith("/step")).fill_(value)


OPTIMISER: dict[str, tuple[Callable[[Tensors], object], str]] = {
    "an infinite moment": (filled("/exp_avg", INF), "expected finite"),
    "a moment that is NaN": (filled("/exp_avg_sq", NAN), "expected finite"),
    "a negative second moment": (filled("/exp_avg_sq", -1.0), "below 0"),
    "another shape": (replaced("/exp_avg", lambda t: t.flatten()[:1]), r"got torch.float32 \[1\]"),
    "another dtype": (replaced("/exp_avg_sq", lambda t: t.double()), "got torch.float64"),
    "whole numbers": (replaced("/exp_avg", lambda t: t.long()), "got torch.int64"),
    "a moment missing": (lambda tensors: tensors.pop(first(tensors, "/exp_avg")), "expected exp_avg, exp_avg_sq"),
    "an entry more": (lambda t: t.update({first(t, "/exp_avg") + "_x": torch.ones(1)}), "expected exp_avg"),
    "a step of the future": (step_of(1e9), "/step: expected 0 to 4"),
    "a negative step": (step_of(-1.0), "/step: expected 0 to 4"),
    "a step that is NaN": (step_of(NAN), "/step: expected 0 to 4"),
    "an unknown parameter": (lambda tensors: tensors.update({"x/exp_avg": torch.ones(1)}), "has not: x"),
    "a name without entry": (lambda tensors: tensors.update({"x": torch.ones(1)}), "cannot be gone on from"),
}


@pytest.mark.parametrize("attack", OPTIMISER)
def test_optimiser_state(attack: str, run: Path) -> None:
    change_tensors(run, "optimizer.safetensors", OPTIMISER[attack][0])
    refused(run, OPTIMISER[attack][1])


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (filled("weight", NAN), "expected finite"),
        (filled("weight", INF), "expected finite"),
        (replaced("weight", lambda t: t.double()), "got torch.float64"),
        (replaced("weight", lambda t: t.flatten()), "does not fit this configuration"),
        (lambda tensors: tensors.pop(first(tensors, "weight")), "does not fit this configuration"),
        (lambda tensors: tensors.update({"x" * 5000: torch.ones(1)}), "does not fit this configuration"),
    ],
)
def test_weights(edit: Callable[[Tensors], object], said: str, run: Path) -> None:
    change_tensors(run, "model.safetensors", edit)
    refused(run, said)


def at(name: str, place: int, value: int) -> Callable[[Tensors], object]:
    return lambda tensors: tensors[name].__setitem__(place, value)


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        # NumPy takes this place unseen, and reads there.
        (at("numpy_place", 0, 10**9), "a place among them"),
        (at("numpy_place", 0, -1), "a place among them"),
        (at("python", -1, 10**9), "a place among them"),
        (at("numpy", 3, -1), "32-bit words"),
        (lambda tensors: tensors.update(numpy=tensors["numpy"][:5].clone()), r"expected torch.int64 \[624\]"),
        (lambda tensors: tensors.update(torch=tensors["torch"][:9].clone()), "cannot be gone on from"),
        (lambda tensors: tensors.update(torch=tensors["torch"] * 0 + 255), "cannot be gone on from"),
        (lambda tensors: tensors.update(python=tensors["python"].double()), "expected torch.int64"),
        (lambda tensors: tensors.update(python_gauss=torch.tensor([NAN], dtype=torch.float64)), "finite"),
        (lambda tensors: tensors.pop("numpy_gauss"), "KeyError"),
        (lambda tensors: tensors.update({"buffer/x": torch.ones(1)}), "has no such buffer"),
    ],
)
def test_random_state_and_buffers(edit: Callable[[Tensors], object], said: str, run: Path) -> None:
    change_tensors(run, "process-0.safetensors", edit)
    refused(run, said)


STATE: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "a negative position": (lambda s: s.update(global_position=-1), "global_position: expected a whole number"),
    "a huge position": (lambda s: s.update(global_position=10**30), "global_position: expected a whole number"),
    "a position that is text": (lambda s: s.update(global_position="4"), "global_position: expected"),
    "another step": (lambda s: s.update(step=3), "step 3"),
    "a negative step": (lambda s: s.update(step=-4), "step -4"),
    "another seed": (lambda s: s.update(seed=1), "this run began with 1"),
    "seconds without end": (lambda s: s.update(seconds=INF), "seconds: expected"),
    "no process": (lambda s: s.update(processes=0), "cannot be read"),
    "more processes than files": (lambda s: s.update(processes=10**9), "cannot be read"),
    "no shape": (lambda s: s.pop("shape"), "KeyError: 'shape'"),
    "a shape of lists": (lambda s: s["shape"].update(processes=[1]), "shape: expected"),
    "no monitor": (lambda s: s.update(monitor=None), "cannot be gone on from"),
    "an unknown state": (lambda s: s["monitor"].update(state="x"), "monitor: expected one of"),
    "measurements that are text": (lambda s: s["monitor"].update(measured="3"), "monitor: expected a whole number"),
    "a beginning of text": (lambda s: next(iter(s["monitor"]["beginnings"].values())).update(rank="nan"), "monitor"),
    "a best elsewhere": (lambda s: s["best"].update(step="../../x"), "best: expected"),
}


@pytest.mark.parametrize("attack", STATE)
def test_position_and_counters(attack: str, run: Path) -> None:
    change_json(run, "trainer_state.json", STATE[attack][0])
    refused(run, STATE[attack][1])


def test_optimiser_state_beside_the_tensors(run: Path) -> None:
    change_json(run, "optimizer.json", lambda held: held["state"].update({"x/exp_avg": "y"}))
    refused(run, "optimizer.json: expected tensors alone")


def test_a_process_file_that_is_missing(run: Path) -> None:
    folder = run / "checkpoints" / "step-4"
    (folder / "process-0.safetensors").unlink()
    signed(folder)
    refused(run, "cannot be read")


class Wider(Unprobed):
    """Of another method."""

    def build(self, config: Any) -> Any:
        method = super().build(config)
        method.predictor[1] = torch.nn.Linear(6, 7)
        return method


def test_a_checkpoint_of_another_method(run: Path) -> None:
    refused(run, "does not fit this configuration", modality=Wider())


def test_a_checkpoint_under_another_number_is_torn(run: Path) -> None:
    (run / "checkpoints" / "step-4").rename(run / "checkpoints" / "step-5")
    refused(run, "is of step 4", run / "checkpoints" / "step-5")
    go_on(run, resume=run)
    assert (run / "checkpoints" / "step-6").is_dir(), "the one before was gone on from"


@pytest.mark.parametrize("name", ["metrics.jsonl", ".lock", "config.yaml", "report.html", "checkpoints/step-2"])
def test_links_to_what_would_be_written_over(name: str, run: Path) -> None:
    private = run.parent / "private"
    if (run / name).is_dir():
        (run / name).rename(private)
    else:
        private.write_text("mine\n")
        (run / name).unlink(missing_ok=True)
    (run / name).symlink_to(private)
    refused(run, "link or device")
    assert private.is_dir() or private.read_text() == "mine\n"


def test_a_pipe_is_not_waited_for(run: Path) -> None:
    (run / "metrics.jsonl").unlink()
    os.mkfifo(run / "metrics.jsonl")
    refused(run, "link or device")


def test_a_manifest_that_is_a_pipe_or_a_link(run: Path) -> None:
    manifest = run / "checkpoints" / "step-4" / "manifest.json"
    manifest.rename(run.parent / "manifest.json")
    manifest.symlink_to(run.parent / "manifest.json")
    refused(run, "files of its own")
    manifest.unlink()
    os.mkfifo(manifest)
    refused(run, "is torn", manifest.parent)


def test_a_best_that_leads_into_another_run(run: Path, trained: Path) -> None:
    best = run / "checkpoints" / "best"
    best.unlink(missing_ok=True)
    best.symlink_to(trained / "checkpoints" / "step-4")
    refused(run, "leads out of its folder", best)


def test_a_quarantine_that_is_none(run: Path) -> None:
    (run / "quarantine.jsonl").write_text('["a"]\n')
    refused(run, "quarantine.jsonl, line 1")
