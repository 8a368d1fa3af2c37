"""``environment.json``: versions, hardware, commit and command of a run, so that its figures can be placed later."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import time
from importlib import metadata
from typing import Any

import psutil
import torch

_DISTRIBUTIONS = ("torch", "accelerate", "numpy", "safetensors", "omegaconf", "scikit-learn", "pyarrow", "timm")


def describe_environment(world: int) -> dict[str, Any]:
    """JSON-able facts about this machine and program."""
    return {
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "command": sys.argv,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "versions": _versions(),
        "git": _git(),
        "processes": world,
        "hardware": _hardware(),
    }


def _versions() -> dict[str, str]:
    """The libraries that figures depend on, and every installed distribution of this project."""
    installed = {name.lower() for dist in metadata.distributions() if (name := dist.metadata["Name"])}
    names = [name for name in _DISTRIBUTIONS if name in installed]
    names += sorted(name for name in installed if name.startswith("jepa"))
    return {name: metadata.version(name) for name in names}


def _hardware() -> dict[str, Any]:
    gpus = [torch.cuda.get_device_properties(k) for k in range(torch.cuda.device_count())]
    return {
        "machine": platform.machine(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "threads": torch.get_num_threads(),
        "gpus": [{"name": gpu.name, "memory_gib": round(gpu.total_memory / 2**30, 1)} for gpu in gpus],
        "cuda": torch.version.cuda,
    }


def _processor() -> str:
    """The CPU's marketing name; Python gives it on some systems only."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            lines = [line for line in file if line.startswith("model name")]
        return lines[0].partition(":")[2].strip()
    except (OSError, IndexError):
        return platform.processor()


def _git() -> dict[str, Any] | None:
    """The commit of the folder the run was started from, and whether files differ from it; None outside git."""
    try:
        commit, status = (
            subprocess.run(["git", *command], capture_output=True, text=True, timeout=10, check=True).stdout.strip()
            for command in (["rev-parse", "HEAD"], ["status", "--porcelain", "--untracked-files=no"])
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return {"commit": commit, "changed": bool(status)}
