"""Starting: which processes, device, precision and threads this run has, each checked and each with its reason."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from accelerate.utils import (
    DistributedDataParallelKwargs,
    DistributedType,
    GradientAccumulationPlugin,
    InitProcessGroupKwargs,
    patch_environment,
)

from jepa_core.data.loader import available_cores
from jepa_core.errors import LaunchError
from jepa_core.settings import TrainerSettings
from jepa_core.train.control import Control
from jepa_core.train.launched import accelerate_sharding, ancestor_commands, check_launched, world_from_environment

Choice = tuple[str, str, str]
NONE, FSDP2 = "none", "fsdp2"
ZERO_STAGES = {"zero1": 1, "zero2": 2}
"""DeepSpeed's; what stage 3 would do is what FSDP2 does."""
SHARDINGS = ("auto", NONE, FSDP2, *ZERO_STAGES)
PRECISIONS = ("auto", "native", "fp32", "bf16")
# Variables that only torchrun and accelerate launch set in the processes they start.
_LAUNCHER_MARKS = ("TORCHELASTIC_RUN_ID", "ACCELERATE_USE_CPU")


@dataclass(frozen=True)
class Launch:
    """The processes of a run as this one sees them.

    Attributes:
        accelerator: Accelerate's engine.
        control: small agreements between processes.
        local_world: processes on this machine.
        choices: (what, choice, reason) rows.
        sharding: ``none``, ``fsdp2``, ``zero1`` or ``zero2``.
    """

    accelerator: Accelerator
    control: Control
    local_world: int
    choices: tuple[Choice, ...]
    sharding: str = "none"

    @property
    def device(self) -> torch.device:
        """Where this process computes."""
        return self.accelerator.device

    @property
    def rank(self) -> int:
        """This process."""
        return self.control.rank

    @property
    def world(self) -> int:
        """Number of processes."""
        return self.control.world


def start(settings: TrainerSettings) -> Launch:
    """Forms the group of processes.

    Raises:
        LaunchError: the processes are not the ones asked for, or the hardware is not there.
    """
    check_launched(os.environ, ancestor_commands())
    expected = world_from_environment(os.environ)
    local_world = int(os.environ.get("LOCAL_WORLD_SIZE", expected))
    device, device_reason = choose_device(settings.device, local_world)
    precision, precision_reason = choose_precision(settings.precision, device)
    threads, threads_reason = choose_threads(settings.threads, local_world, os.environ)
    sharding, sharding_reason = choose_sharding(settings.sharding, os.environ, expected)
    accelerator = _accelerator(device, precision, settings.timeout_s)
    torch.set_num_threads(threads)
    _check_device(accelerator, device)
    _check_world(accelerator, expected)
    rows = (
        (
            "processes",
            str(expected),
            f"WORLD_SIZE={os.environ['WORLD_SIZE']}" if "WORLD_SIZE" in os.environ else "no launcher",
        ),
        ("device", str(accelerator.device), device_reason),
        ("precision", precision, precision_reason),
        ("sharding", sharding, sharding_reason),
        ("threads", str(threads), threads_reason),
    )
    return Launch(accelerator, Control(settings.timeout_s), local_world, rows, sharding)


def _accelerator(device: str, precision: str, timeout_s: int) -> Accelerator:
    # Accelerate keeps its state in class attributes: a second run in the same Python process starts from a clean one.
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    # Without cpu=True it takes no notice of torchrun on a machine without GPU: every process would train its own copy.
    # What is not said here it reads from its own variables: a loss divided twice, a method compiled as a whole.
    # It starts processes for FSDP and DeepSpeed, and the method is cut by the trainer, the same way under torchrun.
    with patch_environment(accelerate_use_fsdp="false", accelerate_use_deepspeed="false"):
        return Accelerator(
            cpu=device == "cpu",
            mixed_precision="bf16" if precision == "bf16" else "no",
            dynamo_backend="no",
            gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1),
            kwargs_handlers=[
                DistributedDataParallelKwargs(broadcast_buffers=False),
                InitProcessGroupKwargs(timeout=timedelta(seconds=timeout_s)),
            ],
        )


def choose_device(setting: str, local_world: int) -> tuple[str, str]:
    """``cpu`` or ``cuda``, and why."""
    if setting not in ("auto", "cpu", "cuda"):
        raise LaunchError(f"trainer.device: expected auto, cpu or cuda, got {setting!r}")
    if setting == "cpu":
        return "cpu", "as set by trainer.device"
    if not torch.cuda.is_available():
        if setting == "cuda":
            raise LaunchError("trainer.device: cuda was asked for, but torch sees no CUDA device; use cpu or auto")
        return "cpu", "torch sees no CUDA device"
    if local_world > torch.cuda.device_count():
        raise LaunchError(
            f"{local_world} processes on this machine, but {torch.cuda.device_count()} CUDA devices: start one each"
        )
    return "cuda", "as set by trainer.device" if setting == "cuda" else "torch sees a CUDA device"


def choose_precision(setting: str, device: str) -> tuple[str, str]:
    """``bf16`` or ``fp32``, and why."""
    if setting not in PRECISIONS:
        raise LaunchError(f"trainer.precision: expected one of {', '.join(PRECISIONS)}, got {setting!r}")
    if setting == "fp32":
        return "fp32", "as set by trainer.precision"
    if device == "cpu":
        return _precision_of_cpu(setting)
    if torch.cuda.is_bf16_supported(including_emulation=False):
        return "bf16", "as set by trainer.precision" if setting == "bf16" else "the GPU computes in bf16"
    if setting == "bf16":
        raise LaunchError("trainer.precision: bf16 was asked for, but this GPU has no bf16; use fp32 or auto")
    return "fp32", "this GPU has no bf16"


def _precision_of_cpu(setting: str) -> tuple[str, str]:
    if setting == "bf16":
        return "bf16", "as set by trainer.precision"
    if setting == "auto":
        return "fp32", "bf16 is slower on most CPUs"
    if cpu_multiplies_bf16():
        return "bf16", "this CPU multiplies in bf16"
    return "fp32", "this CPU is not known to multiply in bf16"


def cpu_multiplies_bf16(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether Linux names instructions for products in bf16; elsewhere nothing is known."""
    try:
        words = set(cpuinfo.read_text(encoding="utf-8").split())
    except OSError:
        return False
    return not words.isdisjoint({"avx512_bf16", "amx_bf16"})


def choose_threads(
    setting: str, local_world: int, environ: Mapping[str, str], cores: int | None = None
) -> tuple[int, str]:
    """CPU threads of this process, and why.

    Args:
        setting: ``auto`` or a number.
        local_world: processes on this machine.
        environ: ``OMP_NUM_THREADS`` counts, unless it is the 1 that ``torchrun`` and ``accelerate launch`` write into
            it when nobody chose.
        cores: CPU cores; None = those this process may use.
    """
    if setting != "auto":
        if not str(setting).isdigit() or int(setting) < 1:
            raise LaunchError(f"trainer.threads: expected auto or a number of at least 1, got {setting!r}")
        return int(setting), "as set by trainer.threads"
    asked = environ.get("OMP_NUM_THREADS", "")
    by_launcher = asked == "1" and any(name in environ for name in _LAUNCHER_MARKS)
    if asked.isdigit() and int(asked) > 0 and not by_launcher:
        return int(asked), "as set by OMP_NUM_THREADS"
    cores = available_cores() if cores is None else cores
    return max(1, cores // local_world), f"{cores} CPU cores for {local_world} processes on this machine"


def choose_sharding(setting: str, environ: Mapping[str, str], processes: int) -> tuple[str, str]:
    """``none``, ``fsdp2``, ``zero1`` or ``zero2``, and why.

    Args:
        setting: one of them, or ``auto``.
        environ: ``accelerate launch`` writes into it what it is configured for.
        processes: of the run.

    Raises:
        LaunchError: a configuration that this trainer cannot follow.
    """
    if setting not in SHARDINGS:
        raise LaunchError(f"trainer.sharding: expected one of {', '.join(SHARDINGS)}, got {setting!r}")
    asked = accelerate_sharding(environ)
    if setting == "auto":
        wanted, reason = (asked, "as accelerate launch is configured") if asked else (NONE, "a copy on each process")
    elif asked not in (None, setting):
        raise LaunchError(
            f"trainer.sharding: {setting} was asked for, but accelerate launch is configured for {asked}: "
            f"leave trainer.sharding=auto, or use another of the files in launch/"
        )
    else:
        wanted, reason = setting, "as set by trainer.sharding"
    if processes == 1 and wanted != NONE:
        return NONE, f"{wanted} was asked for; one process has nothing to share"
    return wanted, reason


def _check_device(accelerator: Accelerator, chosen: str) -> None:
    """Accelerate's own configuration can overrule the device after it was chosen and its precision with it."""
    if accelerator.device.type != chosen:
        raise LaunchError(
            f"trainer.device: {chosen} was chosen, but Accelerate is configured for {accelerator.device.type}; "
            f"use trainer.device=cpu, or take use_cpu out of its configuration"
        )


def _check_world(accelerator: Accelerator, expected: int) -> None:
    """Counts the processes by a real all-reduce of ones: what the variables say is not yet what trains together."""
    plain = (DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU)
    if accelerator.distributed_type not in plain:
        raise LaunchError(
            f"accelerate was configured for {accelerator.distributed_type.value}; this trainer knows one process, DDP, "
            f"FSDP2 and ZeRO: use distributed_type NO, MULTI_GPU, FSDP or DEEPSPEED"
        )
    counted = 1
    if dist.is_available() and dist.is_initialized():
        ones = torch.ones(1, device=accelerator.device)
        dist.all_reduce(ones)
        counted = int(ones.item())
    seen = (accelerator.num_processes, counted)
    if seen != (expected, expected):
        raise LaunchError(
            f"{expected} processes were launched, but Accelerate sees {seen[0]} and an all-reduce counts {seen[1]}. "
            f"Use: torchrun --nproc_per_node {expected} <script> <arguments>"
        )
