"""The command end to end: mistakes are one line and exit code 2, and every verb does what its help says."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from running import Runner

from jepa_core.cli import VERBS, main
from jepa_core.plugins import LoadFailure, modalities, recipes

MISTAKES = [
    (["train", "modality=lidar", "trainer.max_step=2"], ("trainer.max_step ", "trainer.max_steps")),
    (["train", "modality=lidar", "max_steps=2"], ("max_steps ", "did you mean trainer.max_steps?")),
    (["train", "modality=lidar", "lidar.mask_rato=.5"], ("lidar.mask_rato ", "did you mean lidar.mask_ratio?")),
    (["train", "modality=lidar", "trainer.max_steps=many"], ("trainer.max_steps", "whole number", "'many'")),
    (["train", "modality=lidar", "trainer.batch_size=0"], ("trainer.batch_size", "1 or more", "got 0")),
    (["train", "modality=lidar", "lidar.mask_ratio=2"], ("lidar.mask_ratio", "got 2")),
    (["train", "modality=lidar", "trainer.precision=bf61"], ("trainer.precision", "did you mean bf16?")),
    (["train", "modality=ldar"], ("modality", "'ldar'", "did you mean lidar?")),
    (["train"], ("modality", "modality=<name>", "lidar")),
    (["train", "modality=lidar", "recipe=quikstart"], ("recipe", "'quikstart'", "did you mean quickstart?")),
    (["train", "modality=lidar", "recipe=./none.yaml"], ("recipe", "none.yaml", "no such file")),
    (["train", "modality=lidar", "trainer.max_steps"], ("key=value", "'trainer.max_steps'")),
    (["masks", "modality=lidar", "out=masks.jpg"], ("out", ".png", "masks.jpg")),
    (["probe", "run=nowhere"], ("run", "'nowhere'")),
    (["probe"], ("run=<folder>",)),
    (["report", "run=nowhere"], ("run", "'nowhere'")),
    (["report", "rum=nowhere"], ("'rum'", "did you mean run?")),
    (["data", "vieww", "x"], ("vieww", "view")),
    (["data", "view", "nowhere.bin"], ("nowhere.bin",)),
    (["list", "all"], ("'all'",)),
    (["trian"], ("'trian'", "did you mean train?")),
]


@pytest.mark.parametrize(("arguments", "words"), MISTAKES, ids=[" ".join(arguments) for arguments, _ in MISTAKES])
def test_a_mistake_is_one_line(
    arguments: list[str],
    words: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    said = capfd.readouterr()
    assert said.out == "" and len(said.err.splitlines()) == 1, said.err
    assert said.err.startswith("jepa: ") and all(word in said.err for word in words), said.err
    assert list(tmp_path.iterdir()) == [], "a mistake leaves nothing behind"


def test_exit_code_of_the_process(run: Runner, tmp_path: Path) -> None:
    done = run.jepa(["train", "modality=lidar", "max_steps=2"], tmp_path)
    assert done.returncode == 2 and "Traceback" not in done.stderr and len(done.stderr.splitlines()) == 1


def test_help_and_mistakes_in_verbs_import_nothing_slow(run: Runner, tmp_path: Path) -> None:
    code = (
        "import sys; from jepa_core.cli import main; main(['--help']); main(['trian']); print('torch' in sys.modules)"
    )
    done = run([sys.executable, "-c", code], tmp_path)
    assert done.returncode == 0 and done.stdout.splitlines()[-1] == "False"


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        code = main([verb, "--help"])
    except SystemExit as stop:  # argparse prints help and leaves
        code = int(stop.code or 0)
    assert code == 0 and f"jepa {verb}" in capsys.readouterr().out
    assert main(["--help"]) == 0 and f"  {verb}" in capsys.readouterr().out


def test_all_keys_are_explained(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "modality=lidar", "--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    entries = {
        line.strip(): lines[at + 1]
        for at, line in enumerate(lines)
        if line.startswith("  ") and "=" in line and line[2] != " "
    }
    assert "trainer.max_steps=200" in entries, "values are those of the quickstart recipe"
    undocumented = [entry for entry, text in entries.items() if text.strip().startswith("[")]
    assert undocumented == []


def test_list_shows_every_recipe_with_its_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list"]) == 0
    page = capsys.readouterr().out
    for name, modality in modalities().items():
        assert not isinstance(modality, LoadFailure), modality
        for recipe in recipes(modality).values():
            assert recipe.summary and f"{recipe.name} " in page and recipe.summary in page, (name, recipe.name)


@pytest.fixture(scope="module")
def finished(run: Runner, quick: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a quick run that went through ``accelerate launch``."""
    folder = tmp_path_factory.mktemp("finished")
    door = Path(__file__).parents[1] / "tools" / "train.py"
    done = run([*launch(), str(door), *quick], folder)
    assert done.returncode == 0, done.stderr
    return folder / "runs" / "quick"


def launch() -> list[str]:
    """``accelerate launch`` as the Makefile calls it."""
    accelerate = str(Path(sys.executable).parent / "accelerate")
    options = ["--num_processes=1", "--num_machines=1", "--mixed_precision=no", "--dynamo_backend=no"]
    return [accelerate, "launch", "--quiet", *options]


def test_train_leaves_everything_in_its_folder(finished: Path) -> None:
    names = {path.name for path in finished.iterdir()}
    assert {"config.yaml", "environment.json", "metrics.jsonl", "checkpoints", "report.html", "result.json"} <= names


def test_a_mistake_under_accelerate_shows_no_traceback(run: Runner, tmp_path: Path) -> None:
    door = Path(__file__).parents[1] / "tools" / "train.py"
    done = run([*launch(), str(door), "modality=lidar", "max_steps=2"], tmp_path)
    assert done.returncode != 0 and "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith("jepa: max_steps "), done.stderr


def test_probe_of_a_run_repeats_what_training_measured(finished: Path, run: Runner) -> None:
    done = run.jepa(["probe", f"run={finished}"], finished.parent)
    assert done.returncode == 0, done.stderr
    again = json.loads((finished / "probe.json").read_text())
    first = json.loads((finished / "result.json").read_text())["probe"]
    assert again["rows"] == first["rows"] and again["n"] == first["n"]
    assert str(finished / "probe.json") in done.stdout


def test_probe_of_one_checkpoint(finished: Path, run: Runner, tmp_path: Path) -> None:
    done = run.jepa(["probe", f"run={finished / 'checkpoints' / 'step-2'}", f"out={tmp_path / 'p.json'}"], tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "p.json").read_text())["checkpoint"].endswith("step-2")


def test_report_is_written_anew(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = finished / "report.html"
    page.unlink()
    assert main(["report", f"run={finished}"]) == 0
    assert page.stat().st_size > 1000 and capsys.readouterr().out.strip() == str(page)


def test_masks_are_pictures(quick: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["masks", *quick, f"out={tmp_path / 'deep' / 'm.png'}"]) == 0
    pictures = list((tmp_path / "deep").glob("m*.png"))
    assert pictures and all(picture.read_bytes().startswith(b"\x89PNG") for picture in pictures)
    assert all(str(picture) in capsys.readouterr().out for picture in pictures[:1])


def test_interrupt_is_130(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(files: object) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr("jepa_core.help.listing", interrupted)
    assert main(["list"]) == 130
    assert "Traceback" not in capsys.readouterr().err


def test_make_refuses_another_python(root: Path, tmp_path: Path) -> None:
    old = tmp_path / "python3"
    old.write_text('#!/bin/sh\n[ "$1" = --version ] && echo Python 3.10.1 && exit\nexit 1\n')
    old.chmod(0o755)
    command = ["make", "--always-make", ".venv/.ready", f"PYTHON={old}"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("make: expected Python 3.11 to 3.13, got Python 3.10.1; choose one")


def test_a_reader_that_closes_early_is_no_error(run: Runner, tmp_path: Path) -> None:
    command = f"'{sys.executable}' -m jepa_core list | true; echo ${{PIPESTATUS[0]}}"
    done = run(["bash", "-c", command], tmp_path)
    assert done.stdout.strip() == "0" and done.stderr == ""
