"""FSDP2 and ZeRO against DDP in two processes: equal weights, one format of checkpoints, and what is refused."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from sharded_runs import HALF, SMALL, STEPS, small
from torch import nn

from jepa_core.config import compose
from jepa_core.distributed import joint_norm, own_shard, spread, whole
from jepa_core.errors import ConfigError, LaunchError
from jepa_core.plugins import find_modality
from jepa_core.settings import TrainerSettings
from jepa_core.train import checkpoint as checkpoints
from jepa_core.train.launch import choose_sharding
from jepa_core.train.parallel import layout, refuse_what_cannot_be_cut, torch_finds_losses, units

HERE = Path(__file__).parent
FILES = {"fsdp2": "fsdp2.yaml", "zero1": "deepspeed_zero1.yaml", "zero2": "deepspeed_zero2.yaml"}
EXAMPLE = HERE.parents[2] / "examples" / "own_modality.py"


@pytest.fixture(scope="module", params=list(FILES))
def runs(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Courses ``ddp`` and ``cut``, and those that go on from the other's checkpoint, ``<from>-<to>``."""
    if request.param.startswith("zero") and importlib.util.find_spec("deepspeed") is None:
        pytest.skip("deepspeed is not installed")
    folder = tmp_path_factory.mktemp(request.param)
    file = HERE.parents[2] / "launch" / FILES[request.param]
    words = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(file), "--num_processes", "2"]
    words += ["--main_process_port", "0"]
    words += [str(HERE / "sharded_runs.py"), str(EXAMPLE), str(folder), request.param]
    done = subprocess.run(
        words, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


def tensors(run_dir: Path, step: int) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = {}
    for name in ("model", "optimizer"):
        stored = load_file(run_dir / "checkpoints" / f"step-{step}" / f"{name}.safetensors")
        found |= {f"{name}/{key}": value for key, value in stored.items()}
    return found


def farthest(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> float:
    """Of all tensors the largest difference, as a fraction of the tensor's largest value."""
    assert list(one) == list(two)
    assert all(one[name].shape == two[name].shape and one[name].dtype == two[name].dtype for name in one)
    return max(float((one[n] - two[n]).abs().max() / two[n].abs().max().clamp(min=1e-12)) for n in one)


@pytest.mark.slow
@pytest.mark.timeout(330)
def test_two_processes_that_hold_a_part_each_train_what_two_copies_train(runs: Path) -> None:
    for step in (HALF, STEPS):
        assert farthest(tensors(runs / "cut", step), tensors(runs / "ddp", step)) < 2e-4
    rows = [[json.loads(x) for x in (runs / n / "metrics.jsonl").read_text().splitlines()] for n in ("cut", "ddp")]
    for mine, theirs in zip(*rows, strict=True):
        assert mine.keys() == theirs.keys()
        for name in ("loss", "grad_norm", "monitor/weights/distance"):
            assert mine.get(name, 0.0) == pytest.approx(theirs.get(name, 0.0), rel=1e-4), name


@pytest.mark.slow
@pytest.mark.timeout(330)
def test_checkpoints_do_not_tell_how_the_method_lay(runs: Path) -> None:
    names = [sorted(p.name for p in (runs / n / "checkpoints" / f"step-{STEPS}").iterdir()) for n in ("cut", "ddp")]
    assert names[0] == names[1]
    whole_run = tensors(runs / "cut", STEPS)
    resumed = tensors(runs / "cut-cut", STEPS)
    assert all(torch.equal(whole_run[name], resumed[name]) for name in whole_run)
    for name in ("cut-ddp", "ddp-cut"):
        assert farthest(tensors(runs / name, STEPS), tensors(runs / "ddp", STEPS)) < 2e-4
    modality = small(find_modality(str(EXAMPLE)))
    method = modality.build(compose(modality.schema, None, SMALL))
    checkpoints.load_into(method, checkpoints.load_model(runs / "cut" / "checkpoints" / f"step-{STEPS}"), "cut")


@pytest.mark.slow
@pytest.mark.timeout(330)
def test_each_process_holds_its_part_and_all_refuse_a_part_that_is_not_finite(runs: Path) -> None:
    everywhere = json.loads((runs / "found.json").read_text())
    assert len(everywhere) == 2
    for found in everywhere:
        if found["sharding"] == "fsdp2":
            assert 0.45 < found["share held"] < 0.55 and found["cut after embedding"]
        assert found["assembled embeds the same"]
        assert "not all values are finite" in found["refused"] and f"step-{STEPS}" in found["refused"]


@pytest.mark.skipif(importlib.util.find_spec("deepspeed") is not None, reason="deepspeed is installed")
def test_zero_without_deepspeed_is_refused_in_one_line() -> None:
    started = SimpleNamespace(sharding="zero2", device=torch.device("cpu"), rank=0)
    with pytest.raises(LaunchError, match="zero2 needs DeepSpeed, which is not installed: pip install deepspeed"):
        layout(started, TrainerSettings()).place(nn.Linear(1, 1))  # type: ignore[arg-type]  # all it looks at


def test_what_is_not_sharded_is_taken_as_it_is() -> None:
    x = torch.tensor([[3.0, 0.0], [0.0, 4.0]])
    assert whole(x) is x and own_shard(x) is x and spread(x, x) is x
    assert float(joint_norm([x, torch.tensor(12.0)])) == 13.0


def test_units_are_the_elements_of_lists_named_blocks() -> None:
    part = nn.Module()
    part.blocks = nn.ModuleList([nn.Linear(2, 2), nn.Identity(), nn.Linear(2, 2)])
    part.layers = nn.ModuleList([nn.Linear(2, 2)])
    method = nn.Module()
    method.encoder, method.blocks = part, nn.Linear(2, 2)
    assert list(units(method)) == [part.blocks[0], part.blocks[2]]


def test_what_cannot_be_cut_is_refused_by_name() -> None:
    method = nn.Module()
    method.scale = nn.Parameter(torch.tensor(1.0))
    with pytest.raises(ConfigError, match=r"without a dimension \(make each of shape \[1\]\): scale"):
        refuse_what_cannot_be_cut(method)
    tied = nn.Module()
    tied.one = nn.Linear(2, 2, bias=False)
    tied.two = tied.one
    with pytest.raises(ConfigError, match="several names: one.weight = two.weight"):
        refuse_what_cannot_be_cut(tied)
    mixed = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2).half())
    with pytest.raises(ConfigError, match="several types: float16, float32"):
        refuse_what_cannot_be_cut(mixed)


def test_an_older_torch_is_told_apart() -> None:
    assert torch_finds_losses("2.13.0+cu130") and torch_finds_losses("3.0.0a1")
    assert not torch_finds_losses("2.12.1")


FSDP = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}
ZERO = {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_ZERO_STAGE": "2"}


@pytest.mark.parametrize(
    ("setting", "environ", "processes", "chosen"),
    [
        ("auto", {}, 2, "none"),
        ("none", {}, 2, "none"),
        ("fsdp2", {}, 2, "fsdp2"),
        ("fsdp2", {}, 1, "none"),
        ("auto", FSDP, 2, "fsdp2"),
        ("fsdp2", {**FSDP, "FSDP_OFFLOAD_PARAMS": "false"}, 2, "fsdp2"),
        ("auto", ZERO, 4, "zero2"),
        ("auto", {**ZERO, "ACCELERATE_DEEPSPEED_ZERO_STAGE": "1"}, 2, "zero1"),
        ("zero1", {}, 1, "none"),
    ],
)
def test_sharding_is_chosen_by_setting_or_launcher(
    setting: str, environ: dict[str, str], processes: int, chosen: str
) -> None:
    assert choose_sharding(setting, environ, processes)[0] == chosen


@pytest.mark.parametrize(
    ("setting", "environ", "words"),
    [
        ("zero9", {}, "trainer.sharding: expected one of auto, none"),
        ("none", FSDP, "none was asked for, but accelerate launch is configured for fsdp2"),
        ("auto", {"ACCELERATE_USE_FSDP": "true"}, "expected fsdp_version: 2"),
        ("auto", {**FSDP, "FSDP_OFFLOAD_PARAMS": "true"}, "fsdp_offload_params: true: expected false"),
        ("auto", {**FSDP, "FSDP_RESHARD_AFTER_FORWARD": "false"}, "fsdp_reshard_after_forward"),
        ("fsdp2", ZERO, "configured for zero2"),
        (
            "auto",
            {**ZERO, "ACCELERATE_DEEPSPEED_ZERO_STAGE": "3"},
            "zero_stage: 3: expected 1 or 2; .* launch/fsdp2",
        ),
        ("auto", {**ZERO, "ACCELERATE_DEEPSPEED_CONFIG_FILE": "ds.json"}, "expected zero_stage alone"),
        ("auto", {**ZERO, "ACCELERATE_DEEPSPEED_OFFLOAD_OPTIMIZER_DEVICE": "cpu"}, "offload_optimizer_device: cpu"),
    ],
)
def test_what_would_not_be_followed_is_refused(setting: str, environ: dict[str, str], words: str) -> None:
    with pytest.raises(LaunchError, match=words):
        choose_sharding(setting, environ, 2)
