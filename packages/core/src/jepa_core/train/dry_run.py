"""The dry run: parameters, first shapes, memory and schedules, without taking a step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor, nn

from jepa_core.contracts import Batch, ParameterGroup
from jepa_core.data.loader import Loader
from jepa_core.data.move import describe
from jepa_core.data.sampler import Sampler
from jepa_core.distributed import own_shard
from jepa_core.monitor.console import Console
from jepa_core.settings import OptimizerSettings
from jepa_core.train.schedule import rates_at
from jepa_core.train.trainer import Parts, Trainer

# AdamW keeps two float32 values beside each parameter.
_ADAM_VALUES = 2


def show(trainer: Trainer, parts: Parts) -> Path:
    """Prints the tables on process 0 and draws the schedules; returns the picture's path."""
    console = parts.console
    rows = parameter_rows(trainer.method, trainer.groups)
    console.table("Parameters", ["module", "parameters", "group", "weight decay"], rows)
    console.table("First batch of this process", ["tensor", "shape", "type"], batch_rows(first_batch(parts)))
    _show_memory(console, memory_mib(trainer.method))
    path = parts.run_dir / "schedules.png"
    if parts.launch.rank == 0:
        draw_schedules(parts.config.optimizer, parts.config.trainer.max_steps, path)
    console.message(f"schedules: {path}. This was a dry run: nothing was trained")
    return path


def parameter_rows(method: nn.Module, groups: list[ParameterGroup]) -> list[list[str]]:
    """(module, parameters, group, decays) for each module that holds parameters itself, and the sum."""
    of_group = {name: group for group in groups for name, _ in group.parameters}
    counts: dict[tuple[str, str, str], int] = {}
    for name, parameter in method.named_parameters():
        group = of_group.get(name)
        decays = "-" if group is None else ("yes" if group.weight_decay else "no")
        key = (name.rpartition(".")[0] or "(itself)", "not trained" if group is None else group.name, decays)
        counts[key] = counts.get(key, 0) + parameter.numel()
    rows = [[module, f"{count:,}", group, decays] for (module, group, decays), count in counts.items()]
    trained = sum(parameter.numel() for group in groups for _, parameter in group.parameters)
    return [*rows, ["sum", f"{sum(counts.values()):,}", f"{trained:,} trained", ""]]


def first_batch(parts: Parts) -> Batch:
    """The batch that step 1 would take on this process."""
    config, launch = parts.config, parts.launch
    sampler = Sampler(len(parts.source), config.seed, config.trainer.batch_size, launch.rank, launch.world)
    return Loader(parts.source, sampler, config.seed).peek()


def batch_rows(batch: Batch) -> list[list[str]]:
    """(tensor, shape, type) of everything in a batch."""
    fields: list[tuple[str, Any]] = [("inputs", batch.inputs), ("target_inputs", batch.target_inputs)]
    fields += [("seeds", batch.seeds), ("condition", batch.condition), ("grid", batch.grid), ("streams", batch.streams)]
    return [list(row) for name, value in fields for row in describe(value, name)]


def memory_mib(method: nn.Module) -> dict[str, float]:
    """MiB of this process by purpose; activations are left out, they depend on the inputs."""
    trained = sum(_bytes(p) for p in method.parameters() if p.requires_grad)
    frozen = sum(_bytes(p) for p in method.parameters() if not p.requires_grad)
    buffers = sum(b.numel() * b.element_size() for b in method.buffers())
    sizes = {
        "trained parameters": trained,
        "gradients": trained,
        "optimiser": _ADAM_VALUES * trained,
        "target and frozen parameters, buffers": frozen + buffers,
    }
    return {name: size / 2**20 for name, size in sizes.items()}


def _bytes(parameter: Tensor) -> int:
    return own_shard(parameter.detach()).numel() * parameter.element_size()


def _show_memory(console: Console, sizes: dict[str, float]) -> None:
    rows = [[name, f"{size:.1f}"] for name, size in {**sizes, "sum": sum(sizes.values())}.items()]
    console.table("Memory of one process, an estimate without activations", ["what", "MiB"], rows)


def draw_schedules(settings: OptimizerSettings, total: int, path: Path) -> None:
    """Learning rate, weight decay and beta1 over all steps, as a PNG."""
    from matplotlib.figure import Figure  # only here: it is slow to import

    steps = sorted({max(1, round(k * total / 500)) for k in range(501)})
    rates = [rates_at(step, total, settings) for step in steps]
    figure = Figure(figsize=(9, 2.6), layout="constrained")
    for place, (name, label) in enumerate(
        {"lr": "learning rate", "weight_decay": "weight decay", "beta1": "beta1"}.items()
    ):
        axes = figure.add_subplot(1, 3, place + 1)
        axes.plot(steps, [getattr(rate, name) for rate in rates])
        axes.set(title=label, xlabel="optimiser step")
    figure.savefig(path, dpi=120)
