"""What launched this process, and with how many processes: Accelerate's launcher can start fewer than it was asked for.

Without a GPU, Accelerate 1.15 starts a single process for ``accelerate launch --num_processes 2`` and says nothing;
under a SLURM step without torchrun every task would train a copy of its own. Both are refused here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil

from jepa_core.errors import LaunchError

_LAUNCHERS = {"accelerate", "accelerate-launch", "accelerate_cli.py"}
_LAUNCH_MODULES = {"accelerate.commands.launch", "accelerate.commands.accelerate_cli"}
_ANCESTORS = 3
# Of Accelerate's options those that would change what is computed where, and are not followed.
_OFFLOADS = {
    "ACCELERATE_DEEPSPEED_OFFLOAD_OPTIMIZER_DEVICE": "offload_optimizer_device",
    "ACCELERATE_DEEPSPEED_OFFLOAD_PARAM_DEVICE": "offload_param_device",
}
_NOT_FOLLOWED = {
    "FSDP_OFFLOAD_PARAMS": "weights stay on their GPU: use more GPUs or a smaller trainer.batch_size",
    "FSDP_ACTIVATION_CHECKPOINTING": "recomputing is a setting of the encoder (recompute), where it has one",
}


def world_from_environment(environ: Mapping[str, str]) -> int:
    """Processes that the launcher announced in ``WORLD_SIZE`` (MPI has its own variable); 1 without one."""
    for name in ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE"):
        if environ.get(name, "").isdigit():
            return int(environ[name])
    return 1


def asked_of_accelerate(command: Sequence[str]) -> int | None:
    """Processes that an ``accelerate launch`` command line asks for; None for other commands, or when unsaid."""
    if not _is_accelerate(command):
        return None
    number = _option(command, "num_processes")
    if number is not None and number.isdigit():
        return int(number)
    return _from_config(_option(command, "config_file"))


def _is_accelerate(command: Sequence[str]) -> bool:
    names = {Path(part).name for part in command[:3]}
    modules = set(command[:4])
    launches = "launch" in command or "accelerate-launch" in names or "accelerate.commands.launch" in modules
    return launches and bool(names & _LAUNCHERS or modules & _LAUNCH_MODULES)


def _option(command: Sequence[str], name: str) -> str | None:
    """The value of ``--name value`` or ``--name=value``, written with ``_`` or ``-``."""
    spellings = {f"--{name}", f"--{name.replace('_', '-')}"}
    for place, part in enumerate(command):
        flag, _, value = part.partition("=")
        if flag in spellings:
            return value or (command[place + 1] if place + 1 < len(command) else None)
    return None


def _from_config(path: str | None) -> int | None:
    from accelerate.commands.config import config_args

    try:
        return int(config_args.load_config_from_file(path).num_processes)
    except (
        OSError,
        ValueError,
        TypeError,
        AttributeError,
    ):  # no default file, or one without a number: nothing was asked
        return None


def ancestor_commands() -> list[list[str]]:
    """Command lines of the processes that started this one, nearest first."""
    commands = []
    try:
        for parent in psutil.Process().parents()[:_ANCESTORS]:
            commands.append(parent.cmdline())
    except psutil.Error:  # a parent that ended or belongs to another user cannot be read; what was read still counts
        pass
    return commands


def check_launched(environ: Mapping[str, str], commands: Sequence[Sequence[str]]) -> None:
    """Raises :class:`LaunchError` when the launcher asked for other processes than there are."""
    world = world_from_environment(environ)
    for command in commands:
        asked = asked_of_accelerate(command)
        if asked is not None and asked != world:
            raise LaunchError(
                f"accelerate launch was asked for {asked} processes, but the world has {world}: without that many "
                f"GPUs it starts one and says nothing. Use: torchrun --nproc_per_node {asked} <script> <arguments>"
            )
    tasks = environ.get("SLURM_NTASKS", "")
    in_step = "SLURM_STEP_ID" in environ and environ.get("SLURM_STEP_ID") not in ("", "batch", "4294967291")
    if in_step and tasks.isdigit() and int(tasks) > 1 and world == 1:
        raise LaunchError(
            f"srun started {tasks} tasks, but the world has 1 process: each would train a copy of its own. "
            f"Use: srun --ntasks-per-node 1 torchrun --nnodes $SLURM_NNODES --nproc_per_node <n> <script> <arguments>"
        )


def accelerate_sharding(environ: Mapping[str, str]) -> str | None:
    """``fsdp2``, ``zero1`` or ``zero2``, as ``accelerate launch`` was configured; None where it asks for no sharding.

    Raises:
        LaunchError: it asks for a kind of sharding, or an option of it, that would not be followed.
    """
    if _is_on(environ, "ACCELERATE_USE_DEEPSPEED"):
        return _deepspeed(environ)
    if not _is_on(environ, "ACCELERATE_USE_FSDP"):
        return None
    version = environ.get("FSDP_VERSION", "1")
    if version != "2":
        raise LaunchError(f"accelerate launch is configured for FSDP {version}: expected fsdp_version: 2")
    for name, hint in _NOT_FOLLOWED.items():
        if _is_on(environ, name):
            raise LaunchError(f"accelerate launch is configured with {name.lower()}: true: expected false; {hint}")
    if environ.get("FSDP_RESHARD_AFTER_FORWARD", "true").lower() == "false":
        raise LaunchError(
            "accelerate launch is configured with fsdp_reshard_after_forward: false: expected true, weights are whole "
            "only while they are used; for whole weights use DDP (launch/several_gpus.yaml)"
        )
    return "fsdp2"


def _deepspeed(environ: Mapping[str, str]) -> str:
    if environ.get("ACCELERATE_DEEPSPEED_CONFIG_FILE"):
        raise LaunchError(
            "accelerate launch is configured with deepspeed_config_file: expected zero_stage alone, as in "
            "launch/deepspeed_zero2.yaml: batch, clipping, rates and precision are settings of the run"
        )
    for name, key in _OFFLOADS.items():
        if environ.get(name, "none").lower() != "none":
            raise LaunchError(f"accelerate launch is configured with {key}: {environ[name]}: expected none")
    stage = environ.get("ACCELERATE_DEEPSPEED_ZERO_STAGE", "2")
    if stage not in ("1", "2"):
        raise LaunchError(
            f"accelerate launch is configured with zero_stage: {stage}: expected 1 or 2; what stage 3 does, "
            f"--config_file launch/fsdp2.yaml does"
        )
    return f"zero{stage}"


def _is_on(environ: Mapping[str, str], name: str) -> bool:
    return environ.get(name, "false").lower() in ("true", "1", "yes")
