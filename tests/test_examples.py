"""The examples of docs/extend.md: plug-ins of one file each, trained, probed, embedded and reported as any other."""

import json
import sys
from pathlib import Path

import pytest
import torch
from running import Runner

from jepa_core.cli import main
from jepa_core.evaluate.tables import read_table
from jepa_core.plugins import find_modality
from jepa_core.train.checkpoint import load_model, newest

SMALL = [
    "trainer.max_steps=4",
    "trainer.batch_size=8",
    "trainer.log_every=1",
    "trainer.device=cpu",
    "trainer.threads=1",
]
QUIET = [
    "trainer.device=cpu",
    "trainer.threads=1",
    "data.workers=0",
    "monitor.every=1",
    "logging.trackers=[]",
    "logging.progress=off",
]
EXAMPLES = {
    "own_modality": ["motion.persons=8", "motion.windows=2"],
    "own_objective": ["data.height=24", "data.width=24", "vision.predictor.depth=1", "probe.heads=[knn]"],
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_is_one_short_file(root: Path, name: str) -> None:
    assert len((root / "examples" / f"{name}.py").read_text(encoding="utf-8").splitlines()) <= 120


def test_a_sensor_of_ones_own_goes_through_every_command(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    example = root / "examples" / "own_modality.py"
    assert main(["train", f"modality={example}", *SMALL, *QUIET, *EXAMPLES["own_modality"]]) == 0
    run = tmp_path / "runs" / "own_modality-quickstart"
    result = json.loads((run / "result.json").read_text())
    assert result["modality"] == "own_modality" and set(result["probe"]["rows"]) == {"trained", "untrained", "raw"}
    page = (run / "report.html").read_text()
    assert "own_modality" in page and "Nearest neighbours" in page and "Map of samples" in page
    held = json.loads((run / "samples.json").read_text())
    assert held["samples"] == 20 and held["neighbours"]["groups"] == "other" and "lane" in held["how"]
    assert len(list((run / "pictures" / "samples").glob("*.png"))) > 6 and "data:image/png;base64," in page
    assert main(["probe", f"run={run}", "logging.progress=off"]) == 0
    again = json.loads((run / "probe.json").read_text())
    assert again["rows"]["trained"] == result["probe"]["rows"]["trained"]
    assert main(["embed", str(run), "out=motion.parquet", "split=all", "logging.progress=off"]) == 0
    table = read_table(tmp_path / "motion.parquet")
    assert len(table) == 8 * 5 * 2 and table.metadata["plugin"] == str(example)
    assert table.label is not None and "typing" not in table.label and table.group is not None
    assert main(["report", f"run={run}"]) == 0
    assert main(["train", f"modality={example}", "--help"]) == 0
    assert "motion.hidden=0.6" in capsys.readouterr().out


def test_a_sensor_of_ones_own_reads_the_same_in_other_processes(root: Path, tmp_path: Path, run: Runner) -> None:
    """Loader processes that are started anew find the file's classes; two runs give the same weights."""
    arguments = ["train", f"modality={root / 'examples' / 'own_modality.py'}", *SMALL, *QUIET, "probe.enabled=false"]
    done = run.jepa([*arguments, *EXAMPLES["own_modality"], "data.workers=1", "name=one"], tmp_path)
    assert done.returncode == 0, done.stderr
    source = find_modality(str(root / "examples" / "own_modality.py"))
    assert type(source).__module__ == "own_modality"


def test_monitors_probes_and_samples_change_no_bit_of_what_is_learned(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "dropping_sensor.py").write_text(DROPPING.format(folder=str(root / "examples")))
    common = ["train", "modality=dropping_sensor.py", *SMALL, "motion.persons=8", "motion.windows=1", "data.workers=0"]
    common += ["trainer.device=cpu", "trainer.threads=1", "logging.trackers=[]", "logging.progress=off"]
    assert main([*common, "name=alone", "monitor.every=0", "probe.enabled=false", "report.samples=0"]) == 0
    watched = ["monitor.every=1", "probe.every=2", "probe.samples=24", "probe.neighbours=3", "report.samples=64"]
    assert main([*common, "name=watched", *watched]) == 0
    runs = [load_model(newest(tmp_path / "runs" / name, print)) for name in ("alone", "watched")]
    assert runs[0].keys() == runs[1].keys()
    assert all(torch.equal(runs[0][key], runs[1][key]) for key in runs[0])
    assert not (tmp_path / "runs" / "alone" / "samples.json").exists()
    assert json.loads((tmp_path / "runs" / "watched" / "samples.json").read_text())["samples"] == 10
    rows = [json.loads(line) for line in (tmp_path / "runs" / "watched" / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "probe/kNN" in row] == [0, 2, 4]
    assert all(0 <= row["probe/linear"] <= 1 for row in rows if row["step"] in (0, 2, 4))
    assert all("monitor/prediction/context_use" in row and "monitor/weights/distance" in row for row in rows[1:])
    assert "Probe while training" in (tmp_path / "runs" / "watched" / "report.html").read_text()


DROPPING = """
import sys
sys.path.append({folder!r})
import torch
import own_modality


class DroppingSensor(own_modality.MotionModality):
    name = "dropping_sensor"

    def build(self, config):
        method = super().build(config)
        method.encoder.patch_embed.mlp.append(torch.nn.Dropout(0.1))  # training draws random numbers
        return method


MODALITY = DroppingSensor()
"""


@pytest.mark.slow
def test_an_objective_of_ones_own_on_images(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = ["train", f"modality={root / 'examples' / 'own_objective.py'}", *SMALL, *QUIET, "name=own"]
    assert main([*arguments, *EXAMPLES["own_objective"], "objective.uniformity=0.2"]) == 0
    run = tmp_path / "runs" / "own"
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert all("loss/uniformity/context" in row for row in rows)
    result = json.loads((run / "result.json").read_text())
    assert result["modality"] == "own_objective" and {"trained", "untrained", "raw"} <= set(result["probe"]["rows"])


def test_a_file_that_is_no_modality_is_one_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    cases = {
        "broken_sensor.py": ("raise RuntimeError('no driver')", "fails to load: RuntimeError: no driver"),
        "empty_sensor.py": ("", "to define MODALITY"),
        "half_sensor.py": ("MODALITY = object()", "has no name"),
        "json.py": ("MODALITY = 1", "rename the file"),
    }
    for name, (text, words) in cases.items():
        (tmp_path / name).write_text(text)
        assert main(["train", f"modality={tmp_path / name}"]) == 2
        said = capfd.readouterr().err
        assert words in said and len(said.splitlines()) == 1, said
    assert main(["train", "modality=nowhere.py"]) == 2 and "no such file" in capfd.readouterr().err


@pytest.mark.slow
def test_two_processes_probe_while_they_train_as_one_does(root: Path, tmp_path: Path, run: Runner) -> None:
    """Same samples in the same order: same weights but for rounding, so the same probe, and nobody waits for ever."""
    arguments = ["-m", "jepa_core", "train", f"modality={root / 'examples' / 'own_modality.py'}", *QUIET]
    arguments += ["trainer.max_steps=4", "trainer.log_every=1", "motion.persons=8", "motion.windows=2"]
    arguments += ["probe.every=2", "probe.enabled=false", "monitor.every=2"]
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    figures, monitored = [], []
    for name, head, batch in (("one", [], 8), ("two", launch, 4)):
        done = run([sys.executable, *head, *arguments, f"name={name}", f"trainer.batch_size={batch}"], tmp_path)
        assert done.returncode == 0, done.stderr
        rows = [json.loads(line) for line in (tmp_path / "runs" / name / "metrics.jsonl").read_text().splitlines()]
        figures.append([(row["step"], row["probe/linear"], row["probe/kNN"]) for row in rows if "probe/linear" in row])
        watched = [row for row in rows if "monitor/samples/share" in row]
        monitored.append([{key: row[key] for key in row if key.startswith("monitor/")} for row in watched])
    assert [step for step, *_ in figures[0]] == [0, 2, 4]
    for one, two in zip(*figures, strict=True):
        assert two == pytest.approx(one, abs=0.051)  # one of 20 test samples may lie on the border
    # The monitor draws the rows and takes the samples that one process would.
    assert len(monitored[0]) == 2 and "monitor/samples/share" in monitored[0][0]
    for one, two in zip(*monitored, strict=True):
        assert set(one) == set(two) and one == pytest.approx(two, rel=1e-3, abs=1e-5)
