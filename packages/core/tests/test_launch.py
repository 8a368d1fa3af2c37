"""Launch checks: the world that was asked for is the world that trains, and each choice has its reason."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from jepa_core.cli import main
from jepa_core.errors import LaunchError
from jepa_core.settings import TrainerSettings
from jepa_core.train import launch
from jepa_core.train.launched import asked_of_accelerate, check_launched, world_from_environment

ROOT = Path(__file__).parents[3]
ACCELERATE = ["/usr/bin/python", "/venv/bin/accelerate", "launch"]


@pytest.mark.parametrize(
    ("command", "asked"),
    [
        ([*ACCELERATE, "--num_processes", "2", "train.py"], 2),
        ([*ACCELERATE, "--num-processes=4", "train.py"], 4),
        (["accelerate-launch", "--num_processes", "3", "train.py"], 3),
        (["python", "-m", "accelerate.commands.launch", "--num_processes", "2", "train.py"], 2),
        ([*ACCELERATE, "--config_file", str(ROOT / "launch/several_gpus.yaml"), "train.py"], 2),
        (["bash", "-c", "run --num_processes 9"], None),
        (["torchrun", "--nproc_per_node", "2", "train.py"], None),
    ],
)
def test_what_accelerate_was_asked_for_is_read_from_its_command(command: list[str], asked: int | None) -> None:
    assert asked_of_accelerate(command) == asked


def test_fewer_processes_than_asked_for_are_refused_with_the_right_command() -> None:
    asked = [[*ACCELERATE, "--num_processes", "2", "train.py"]]
    check_launched({"WORLD_SIZE": "2"}, asked)
    with pytest.raises(LaunchError, match="asked for 2 processes, but the world has 1.*torchrun --nproc_per_node 2"):
        check_launched({}, asked)


def test_a_slurm_step_without_torchrun_is_refused() -> None:
    step = {"SLURM_NTASKS": "4", "SLURM_STEP_ID": "0"}
    with pytest.raises(LaunchError, match="srun started 4 tasks"):
        check_launched(step, [])
    check_launched({**step, "WORLD_SIZE": "4"}, [])
    check_launched({"SLURM_NTASKS": "4"}, [])


def test_the_world_is_read_from_the_environment() -> None:
    assert world_from_environment({}) == 1
    assert world_from_environment({"WORLD_SIZE": "3"}) == 3
    assert world_from_environment({"OMPI_COMM_WORLD_SIZE": "5"}) == 5


def test_device_precision_and_threads_have_reasons(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert launch.choose_device("auto", 1) == ("cpu", "torch sees no CUDA device")
    assert launch.choose_precision("auto", "cpu")[0] == "fp32"
    assert launch.choose_precision("bf16", "cpu") == ("bf16", "as set by trainer.precision")
    for has, precision in ((True, "bf16"), (False, "fp32")):
        monkeypatch.setattr(launch, "cpu_multiplies_bf16", lambda has=has: has)
        assert launch.choose_precision("native", "cpu")[0] == precision
        assert launch.choose_precision("auto", "cpu")[0] == "fp32"
    for has, precision in ((True, "bf16"), (False, "fp32")):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda has=has, **_: has)
        assert launch.choose_precision("native", "cuda")[0] == launch.choose_precision("auto", "cuda")[0] == precision
    assert launch.choose_threads("auto", 2, {}, cores=8)[0] == 4
    assert launch.choose_threads("auto", 16, {}, cores=8)[0] == 1
    assert launch.choose_threads("auto", 1, {"OMP_NUM_THREADS": "3"}, cores=8)[0] == 3
    # torchrun writes 1 into every process when nobody chose: that is no choice.
    torchrun = {"OMP_NUM_THREADS": "1", "TORCHELASTIC_RUN_ID": "none"}
    assert launch.choose_threads("auto", 2, torchrun, cores=8)[0] == 4
    # accelerate launch does the same, also for its single process on a CPU.
    accelerate = {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "False"}
    assert launch.choose_threads("auto", 1, accelerate, cores=8)[0] == 8
    assert launch.choose_threads("5", 2, {}, cores=8) == (5, "as set by trainer.threads")


@pytest.mark.parametrize(
    ("call", "word"),
    [
        (lambda: launch.choose_device("tpu", 1), "trainer.device"),
        (lambda: launch.choose_precision("fp8", "cpu"), "trainer.precision"),
        (lambda: launch.choose_threads("0", 1, {}), "trainer.threads"),
    ],
)
def test_impossible_choices_are_refused(call: object, word: str) -> None:
    with pytest.raises(LaunchError, match=word):
        call()  # type: ignore[operator]  # parametrize hands the callable on as an object


def test_variables_of_accelerate_do_not_overrule_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4")
    monkeypatch.setenv("ACCELERATE_DYNAMO_BACKEND", "INDUCTOR")
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    accelerator = launch.start(TrainerSettings(device="cpu", threads="1")).accelerator
    assert accelerator.gradient_accumulation_steps == 1 and accelerator.mixed_precision == "no"
    assert accelerator.state.dynamo_plugin.backend.value == "NO"
    with pytest.raises(LaunchError, match="cuda was chosen, but Accelerate is configured for cpu"):
        launch._check_device(accelerator, "cuda")


def test_a_missing_cuda_device_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(LaunchError, match="sees no CUDA device"):
        launch.choose_device("cuda", 1)


def test_the_shipped_launch_files_are_what_accelerate_reads() -> None:
    from accelerate.commands.config.config_args import load_config_from_file
    from accelerate.utils import DistributedType

    plain, sharded = DistributedType.MULTI_GPU, DistributedType.FSDP
    wanted = {
        "one_gpu": (1, 1, DistributedType.NO),
        "several_gpus": (1, 2, plain),
        "several_machines": (2, 16, plain),
        "fsdp2": (1, 2, sharded),
        "deepspeed_zero1": (1, 2, DistributedType.DEEPSPEED),
        "deepspeed_zero2": (1, 2, DistributedType.DEEPSPEED),
    }
    found = sorted((ROOT / "launch").glob("*.yaml"))
    assert {path.stem for path in found} == set(wanted)
    for path in found:
        config = load_config_from_file(str(path))
        assert (config.num_machines, config.num_processes, config.distributed_type) == wanted[path.stem]
        assert re.search(r"#   accelerate launch --config_file launch/" + path.name, path.read_text())


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="with GPUs Accelerate starts what it is asked for")
def test_what_one_process_does_is_left_to_process_0(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Several at once would all write ``probe.json``, or the same page."""
    for rank, code in (("0", 2), ("1", 0)):
        monkeypatch.setenv("RANK", rank)
        for verb in ("probe", "report", "masks"):
            assert main([verb, str(tmp_path / "nothing")]) == code
    assert "process 1" not in capsys.readouterr().err


def test_accelerate_launch_on_a_cpu_is_refused_in_earnest(tmp_path: Path) -> None:
    script = tmp_path / "start.py"
    script.write_text(
        "from jepa_core.errors import UserError, print_error\n"
        "from jepa_core.settings import TrainerSettings\n"
        "from jepa_core.train import launch\n"
        "try:\n    launch.start(TrainerSettings(device='cpu'))\n"
        "except UserError as error:\n    raise SystemExit(print_error(error))\n"
    )
    command = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2", str(script)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert "asked for 2 processes, but the world has 1" in done.stderr and done.returncode != 0


def test_what_linux_says_of_a_cpu_tells_whether_it_multiplies_bf16(tmp_path: Path) -> None:
    listed = tmp_path / "cpuinfo"
    assert not launch.cpu_multiplies_bf16(listed)
    listed.write_text("flags\t\t: fpu avx2 avx512f\n")
    assert not launch.cpu_multiplies_bf16(listed)
    listed.write_text("flags\t\t: fpu avx2 avx512_bf16 amx_tile\n")
    assert launch.cpu_multiplies_bf16(listed)
