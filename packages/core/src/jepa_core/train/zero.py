"""DeepSpeed's ZeRO, stages 1 and 2 (Rajbhandari et al., arXiv 1910.02054): optimiser state, or gradients too, in parts.

DeepSpeed reduces gradients, clips and steps; rates, precision, the watch and the format of checkpoints stay the run's.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import os
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, cast

import torch
from torch import Tensor, nn

from jepa_core.contracts import Batch, Losses, ParameterGroup
from jepa_core.errors import LaunchError
from jepa_core.settings import TrainerSettings
from jepa_core.train import checkpoint as checkpoints
from jepa_core.train.launch import ZERO_STAGES, Launch

_MOMENTS = ("exp_avg", "exp_avg_sq")  # what AdamW keeps beside its count of steps

Entries = dict[str, dict[str, Any]]
"""State of the optimiser by parameter name, then by entry."""


class Zero:
    """Each process has a copy of the weights and its part of the optimiser state; stage 2 cuts gradients too.

    The method stays in float32 and autocast does the rest, as under DDP. A parameter without a gradient is not named:
    DeepSpeed takes gradients away as they come.
    """

    silent_steps = 0

    def __init__(self, launch: Launch, settings: TrainerSettings) -> None:
        self._launch, self._settings = launch, settings
        self._engine: Any = None
        self._named: list[list[tuple[str, nn.Parameter]]] = []
        self._left = settings.accumulation

    def place(self, method: nn.Module) -> None:
        """Moves it.

        Raises:
            LaunchError: DeepSpeed is not installed.
        """
        if importlib.util.find_spec("deepspeed") is None:
            raise LaunchError(
                f"trainer.sharding: {self._launch.sharding} needs DeepSpeed, which is not installed: "
                f"pip install deepspeed, or use trainer.sharding=fsdp2, which needs nothing more"
            )
        method.to(self._launch.device)

    def open(self, method: nn.Module, optimizer: torch.optim.Optimizer) -> Callable[[Batch, int], Losses]:
        """Hands method and optimiser to DeepSpeed; state that was loaded goes with them."""
        deepspeed = _deepspeed(self._launch.device)
        groups = optimizer.param_groups
        self._named = [list(zip(group["names"], group["params"], strict=True)) for group in groups]
        stored = {name: dict(optimizer.state.get(p, {})) for group in self._named for name, p in group}
        optimizer.state.clear()
        buffers = [buffer.clone() for buffer in method.buffers()]
        wrapped = _InAutocast(method, self._launch.accelerator.autocast)
        self._engine, *_ = deepspeed.initialize(
            model=wrapped, optimizer=optimizer, config=self._configuration(), dist_init_required=False
        )
        # It sends those of process 0 to all; as under DDP each process keeps its own.
        with torch.no_grad():
            for buffer, own in zip(method.buffers(), buffers, strict=True):
                buffer.copy_(own)
        self._put_back(stored, optimizer)
        return cast(Callable[[Batch, int], Losses], self._engine)

    def _configuration(self) -> dict[str, Any]:
        settings = self._settings
        return {
            "train_micro_batch_size_per_gpu": settings.batch_size,
            "gradient_accumulation_steps": settings.accumulation,
            "gradient_clipping": settings.clip_norm,
            "zero_optimization": {"stage": ZERO_STAGES[self._launch.sharding]},
            "zero_allow_untested_optimizer": True,
            "steps_per_print": 10**9,
        }

    def _put_back(self, stored: Entries, optimizer: torch.optim.Optimizer) -> None:
        """Whole state into this process's parts; at the start of a run zeros, as AdamW itself begins with.

        DeepSpeed ties parts to parameters after the first group has stepped, when others have no state yet (0.19.8):
        it is tied here, where all have. There is no public call for it.
        """
        from deepspeed.utils import safe_set_full_optimizer_state

        for named, group in zip(self._named, optimizer.param_groups, strict=True):
            (flat,) = group["params"]
            on = flat.device if group["fused"] else torch.device("cpu")
            steps = stored[named[0][0]].get("step", torch.zeros((), dtype=torch.float32))
            moments = {entry: torch.zeros_like(flat) for entry in _MOMENTS}
            optimizer.state[flat] = {"step": steps.to(on, copy=True), **moments}
        self._engine.optimizer._lazy_init_hp_params_optimizer_state()
        for named in self._named:
            for name, parameter in named:
                for entry in _MOMENTS:
                    if entry in stored[name]:
                        safe_set_full_optimizer_state(parameter, stored[name][entry], entry)

    def without_exchange(self) -> AbstractContextManager[None]:
        """DeepSpeed counts micro-batches itself."""
        return nullcontext()

    def backward(self, total: Tensor, micro_batches: int) -> None:
        """DeepSpeed divides by their number."""
        self._engine.backward(total)
        self._left -= 1
        if self._left:
            self._engine.step()

    def update(self, groups: Iterable[ParameterGroup], optimizer: torch.optim.Optimizer, limit: float) -> Tensor:
        """Clips and steps; the norm as it was before, infinite where DeepSpeed left the step out for it."""
        self._engine.step()
        self._left = self._settings.accumulation
        if self._engine.optimizer.overflow:
            return torch.full((), float("inf"), device=self._launch.device)
        norm = torch.as_tensor(self._engine.get_global_grad_norm(), device=self._launch.device)
        return torch.where(norm < 0, float("inf"), norm)  # -1 is DeepSpeed's word for a norm that is not finite

    def close(self) -> None:
        """Takes DeepSpeed's hooks off."""
        self._engine.destroy()

    def collect(self, method: nn.Module, optimizer: torch.optim.Optimizer) -> checkpoints.Collected:
        """Parts put together parameter by parameter."""
        from deepspeed.utils import safe_get_full_optimizer_state

        tensors: dict[str, Tensor] = {}
        for named, group in zip(self._named, optimizer.param_groups, strict=True):
            steps = optimizer.state[group["params"][0]]["step"]
            for name, parameter in named:
                moments = {entry: safe_get_full_optimizer_state(parameter, entry) for entry in _MOMENTS}
                for entry, value in {"step": steps, **moments}.items():
                    if self._launch.rank == 0:
                        tensors[f"{name}/{entry}"] = value.detach().cpu().contiguous().clone()
        if self._launch.rank:
            return {}, {}, {}
        kept = [{key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups]
        scalars = json.loads(json.dumps({"state": {}, "groups": kept}))
        return checkpoints.model_tensors(method), tensors, scalars

    def assemble(self, method: Any, build: Callable[[], Any]) -> Any:
        """The method itself: each process has all weights."""
        return method


class _InAutocast(nn.Module):
    """The method's forward pass in the run's precision; DeepSpeed ends an autocast that surrounds its own."""

    def __init__(self, method: nn.Module, autocast: Callable[[], AbstractContextManager[None]]) -> None:
        super().__init__()
        self.method, self.autocast = method, autocast

    def forward(self, batch: Batch, step: int) -> Losses:
        """Losses of the method."""
        with self.autocast():
            return cast(Losses, self.method(batch, step))


def _deepspeed(device: torch.device) -> Any:
    """The library, told which device is meant; quiet, as it logs its whole configuration."""
    os.environ["DS_ACCELERATOR"] = device.type
    import deepspeed

    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    if device.type == "cpu":
        # A kernel for sums over shared memory that it would compile at start, for minutes; gloo does without.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    return deepspeed
