"""A training run that writes down what its optimiser steps did: loss, gradients before and after clipping, weights.

Each process of ``processes.py`` runs it. OBSERVE names a folder for ``<step>-<process>.safetensors``;
OBSERVE_DTYPE=float64 computes all behind the front end in float64; OBSERVE_ORDER=reversed takes the samples of each
micro-batch the other way round.
"""

from __future__ import annotations

import multiprocessing
import os
import socket
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from jepa_core.cli import main
from jepa_core.contracts import Batch, Losses
from jepa_core.data.sampler import MicroBatch, Sampler
from jepa_core.train import run, trainer

PATIENCE_S = 580
STEPS = (1, 20)
"""Observed optimiser steps."""


class ObservedTrainer(trainer.Trainer):
    """Trains as the trainer does; at some steps it keeps a copy of what it has."""

    def _clip(self) -> Tensor:
        self._kept: dict[str, Tensor] = {}
        self._keep("gradient")
        norm = super()._clip()
        self._keep("clipped")
        return norm

    def _keep(self, what: str) -> None:
        if self.step + 1 not in STEPS:
            return
        for name, parameter in self.method.named_parameters():
            if parameter.grad is not None:
                self._kept[f"{what}/{name}"] = parameter.grad.detach().clone()

    def _after_step(self, window: list[Batch], losses: list[Losses], norm: Tensor) -> None:
        if self.step in STEPS:
            total = torch.stack([loss.total.detach().double() for loss in losses]).mean()
            found = {**self._kept, "loss/total": total, "norm/gradient": norm.detach().double()}
            for name, value in self.method.state_dict().items():
                found[f"{_part(self.method, name)}/{name}"] = value.detach().clone()
            path = Path(os.environ["OBSERVE"]) / f"{self.step}-{self.launch.rank}.safetensors"
            save_file({name: value.contiguous() for name, value in found.items()}, path)
        super()._after_step(window, losses, norm)


def _part(method: nn.Module, name: str) -> str:
    """``statistics`` (buffers that change), ``target`` or ``online``."""
    if name.rpartition(".")[2] in ("running_mean", "running_var", "num_batches_tracked"):
        return "statistics"
    return "target" if name.startswith("target.") else "online"


class Reversed(Sampler):
    """The same samples in each micro-batch, last one first."""

    def at(self, position: int) -> MicroBatch:
        """As the sampler's own."""
        micro = super().at(position)
        return replace(micro, draws=micro.draws[::-1])


class Wide(nn.Module):
    """A front end whose floating outputs are float64."""

    def __init__(self, front_end: Any) -> None:
        super().__init__()
        self.front_end = front_end.float() if isinstance(front_end, nn.Module) else front_end

    def forward(self, inputs: Any, seeds: Tensor) -> Any:
        """Inputs of the encoder, and what is known of each site."""
        found, grid = self.front_end(inputs, seeds)
        return _widened(found), grid


def _widened(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.double() if value.is_floating_point() else value
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{each.name: _widened(getattr(value, each.name)) for each in fields(value)})
    return value


def _build_wide(config: Any, modality: Any) -> Any:
    method = _BUILD(config, modality).double()
    method.front_end = Wide(method.front_end)
    return method


_BUILD = run.build_method


def observe() -> None:
    """Puts the observers in their places in this process; the probe at the end is left out."""
    run.Trainer = ObservedTrainer  # type: ignore[misc]
    run._finish = lambda *_: None  # type: ignore[assignment]
    if os.environ.get("OBSERVE_DTYPE") == "float64":
        run.build_method = _build_wide
    if os.environ.get("OBSERVE_ORDER") == "reversed":
        trainer.Sampler = Reversed  # type: ignore[misc]


def together(words: list[str], processes: int, log: Path, more: dict[str, str] | None = None) -> None:
    """Runs ``jepa <words>`` in so many processes, forked from this one: its imports need not be done again.

    They find each other as those of ``torchrun`` do, by the same variables.
    """
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    fork = multiprocessing.get_context("fork")
    running = [fork.Process(target=_one, args=(words, place, processes, port, log, more)) for place in range(processes)]
    for process in running:
        process.start()
    for process in running:
        process.join(PATIENCE_S)
    if any(process.exitcode != 0 for process in running):
        for process in running:
            process.kill()
        raise SystemExit(f"{' '.join(words)}\n{log.read_text(errors='replace')[-4000:]}")


def _one(words: list[str], place: int, processes: int, port: int, log: Path, more: dict[str, str] | None) -> None:
    for name in [name for name in os.environ if name.startswith("JEPA_")]:
        del os.environ[name]
    with log.open("ab") as out:
        os.dup2(out.fileno(), 1)
        os.dup2(out.fileno(), 2)
    os.environ.update({"OMP_NUM_THREADS": "1", **(more or {})})
    if processes > 1:
        names = {"RANK": place, "LOCAL_RANK": place, "WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes}
        names |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        os.environ.update({name: str(value) for name, value in names.items()})
    if more is not None:
        observe()
    code = cast(int, main(words))
    os._exit(code)
