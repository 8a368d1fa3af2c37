"""How a method lies over the processes of a run: a copy on each (DDP), or a shard of each weight on each (FSDP2).

FSDP2 is torch's ``fully_shard`` (Zhao et al., PyTorch FSDP, arXiv 2304.11277; ZeRO stage 3, arXiv 1910.02054): weights,
gradients, optimiser state and the target encoder are cut along their first dimension; a weight is whole only while it
is used. An average such as an EMA is elementwise, so it moves shard by shard. DeepSpeed's way stands in
:mod:`jepa_core.train.zero`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn

from jepa_core.contracts import Batch, Losses, ParameterGroup
from jepa_core.errors import ConfigError, LaunchError
from jepa_core.settings import TrainerSettings
from jepa_core.train import checkpoint as checkpoints
from jepa_core.train import optim, state
from jepa_core.train.launch import FSDP2, ZERO_STAGES, Launch
from jepa_core.train.zero import Zero

Forward = Callable[[Batch, int], Losses]

_UNIT_LIST = "blocks"
# What trainer, monitor and probes call of a method besides its forward: each needs whole weights too.
_FORWARD_LIKE = ("embed", "diagnose", "target_counts", "masks")


class Layout(Protocol):
    """One way to lay a method over processes.

    Attributes:
        silent_steps: first steps in which parameters are looked for that got no gradient.
    """

    silent_steps: int

    def place(self, method: nn.Module) -> None:
        """Moves the method to its device; before the optimiser is made."""
        ...

    def open(self, method: nn.Module, optimizer: torch.optim.Optimizer) -> Forward:
        """What the training loop calls; gradients of it are means over processes."""
        ...

    def without_exchange(self) -> AbstractContextManager[None]:
        """Around all micro-batches of a step but the last."""
        ...

    def backward(self, total: Tensor, micro_batches: int) -> None:
        """Adds one micro-batch's share to the gradients."""
        ...

    def update(self, groups: Iterable[ParameterGroup], optimizer: torch.optim.Optimizer, limit: float) -> Tensor:
        """Clips to ``limit`` (0 = no clipping), steps, clears; the norm of all gradients before it, a scalar."""
        ...

    def close(self) -> None:
        """Ends what :meth:`open` began."""
        ...

    def collect(self, method: nn.Module, optimizer: torch.optim.Optimizer) -> checkpoints.Collected:
        """What a checkpoint holds, on process 0; empty elsewhere. All processes must call it."""
        ...

    def assemble(self, method: Any, build: Callable[[], Any]) -> Any:
        """On process 0 a method with whole weights that works alone; all processes must call it."""
        ...


def layout(launch: Launch, settings: TrainerSettings) -> Layout:
    """The one that was chosen at launch."""
    if launch.sharding in ZERO_STAGES:
        return Zero(launch, settings)
    return Sharded(launch) if launch.sharding == FSDP2 else Replicated(launch)


class _OwnStep:
    """What copies and shards share: backward pass and optimiser are torch's own."""

    def __init__(self, launch: Launch) -> None:
        self._launch = launch
        # Several processes need the gradient of each parameter from the first step on.
        self.silent_steps = 3 if launch.world == 1 else 1

    def backward(self, total: Tensor, micro_batches: int) -> None:
        """A mean over micro-batches."""
        self._launch.accelerator.backward(total / micro_batches)

    def update(self, groups: Iterable[ParameterGroup], optimizer: torch.optim.Optimizer, limit: float) -> Tensor:
        """One step; no host synchronisation."""
        norm = optim.clip_gradients(groups, limit)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return norm


class Replicated(_OwnStep):
    """A copy on each process; DDP averages gradients while the backward pass runs."""

    def __init__(self, launch: Launch) -> None:
        super().__init__(launch)
        self._wrapped: Any = None

    def place(self, method: nn.Module) -> None:
        """Moves it."""
        method.to(self._launch.device)

    def open(self, method: nn.Module, optimizer: torch.optim.Optimizer) -> Forward:
        """Wraps it."""
        with warnings.catch_warnings():
            # torch 2.13 would rather have forward_sync_buffers, and says to stay with this one where, as after a
            # resume, processes have buffers of their own that wrapping must not overwrite.
            warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated", FutureWarning)
            self._wrapped = self._launch.accelerator.prepare(method)
        return cast(Forward, self._wrapped)

    def without_exchange(self) -> AbstractContextManager[None]:
        """Gradients stay on their process."""
        return cast("AbstractContextManager[None]", self._launch.accelerator.no_sync(self._wrapped))

    def close(self) -> None:
        """Takes the autocast wrapper off again: probes and pictures use the method as it was built."""
        self._launch.accelerator.unwrap_model(self._wrapped, keep_fp32_wrapper=False)

    def collect(self, method: nn.Module, optimizer: torch.optim.Optimizer) -> checkpoints.Collected:
        """Process 0 has everything."""
        return _collected(method, optimizer) if self._launch.rank == 0 else ({}, {}, {})

    def assemble(self, method: Any, build: Callable[[], Any]) -> Any:
        """The method itself."""
        return method


class Sharded(_OwnStep):
    """FSDP2: each element of a list named ``blocks`` is a unit, whole only while it runs; all else is one more.

    Weights travel in float32 and autocast does the rest, so that a run in bf16 computes what it computes under DDP.
    """

    def place(self, method: nn.Module) -> None:
        """Cuts it; every process must have the same weights.

        Raises:
            ConfigError: the method has parameters that cannot be cut.
            LaunchError: torch is too old.
        """
        if not torch_finds_losses(torch.__version__):
            raise LaunchError(
                f"trainer.sharding: fsdp2 needs torch 2.13, which finds the loss within what a method returns; got "
                f"{torch.__version__}: install torch>=2.13, or use trainer.sharding=none"
            )
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

        refuse_what_cannot_be_cut(method)
        mesh = init_device_mesh(self._launch.device.type, (self._launch.world,))
        for unit in units(method):
            fully_shard(unit, mesh=mesh, reshard_after_forward=True)
        # The root too is cut again after its forward pass: outside of it, every weight is a shard.
        # Parameters and buffers move to the device as they are cut: no process has them whole there.
        fully_shard(method, mesh=mesh, reshard_after_forward=True)
        for name in _FORWARD_LIKE:
            if hasattr(method, name):
                register_fsdp_forward_method(method, name)

    def open(self, method: nn.Module, optimizer: torch.optim.Optimizer) -> Forward:
        """Autocast around it."""

        def forward(batch: Batch, step: int) -> Losses:
            with self._launch.accelerator.autocast():
                return cast(Losses, method(batch, step))

        return forward

    def without_exchange(self) -> AbstractContextManager[None]:
        """Gradients are exchanged after each micro-batch: to keep them whole would cost what sharding saves."""
        return nullcontext()

    def close(self) -> None:
        """Nothing to end."""

    def collect(self, method: nn.Module, optimizer: torch.optim.Optimizer) -> checkpoints.Collected:
        """Put together tensor by tensor; process 0 keeps them."""
        if self._launch.rank == 0:
            return _collected(method, optimizer)
        for _ in checkpoints.whole_tensors(method):
            pass
        for _ in state.whole_entries(optimizer):
            pass
        return {}, {}, {}

    def assemble(self, method: Any, build: Callable[[], Any]) -> Any:
        """A new one with the same weights."""
        if self._launch.rank:
            for _ in checkpoints.whole_tensors(method):
                pass
            return method
        tensors = checkpoints.model_tensors(method)
        fresh = build()
        checkpoints.load_into(fresh, tensors, "the sharded method")
        return fresh.to(self._launch.device)


def torch_finds_losses(version: str) -> bool:
    """Whether this torch looks into dataclasses for what must be whole again on the way back."""
    major, minor = (int(part) for part in version.split(".")[:2])
    return (major, minor) >= (2, 13)


def _collected(method: nn.Module, optimizer: torch.optim.Optimizer) -> checkpoints.Collected:
    return checkpoints.model_tensors(method), *state.optimizer_tensors(optimizer)


def units(method: nn.Module) -> Iterator[nn.Module]:
    """Elements of all lists named ``blocks``, of the target encoder too, that have parameters."""
    for name, module in method.named_modules():
        if name.rpartition(".")[2] == _UNIT_LIST and isinstance(module, nn.ModuleList | nn.Sequential):
            yield from (block for block in module if next(block.parameters(), None) is not None)


def refuse_what_cannot_be_cut(method: nn.Module) -> None:
    """Raises :class:`ConfigError` for parameters without dimensions, of several types, or with several names."""
    named: Mapping[str, nn.Parameter] = dict(method.named_parameters(remove_duplicate=False))
    scalars = [name for name, parameter in named.items() if parameter.dim() == 0]
    names: dict[int, list[str]] = {}
    for name, parameter in named.items():
        names.setdefault(id(parameter), []).append(name)
    tied = [" = ".join(same) for same in names.values() if len(same) > 1]
    kinds = sorted({str(parameter.dtype).removeprefix("torch.") for parameter in named.values()})
    for what, found in {
        "parameters without a dimension (make each of shape [1])": scalars,
        "one parameter under several names": tied,
        "parameters of several types": kinds if len(kinds) > 1 else [],
    }.items():
        if found:
            raise ConfigError(
                f"trainer.sharding: fsdp2 cannot cut {type(method).__name__}: {what}: {', '.join(found[:3])}; "
                f"use trainer.sharding=none"
            )
