"""Sums and gathers over processes that keep the gradient of the joined batch.

The rule: every reduced statistic is that of the joined batch, so each process holds the same, global loss; the wrapper
(DDP) averages gradients, and the gradient equals that of one process on the joined batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor

from jepa_core.drawn import Drawn


def world() -> int:
    """Number of processes; 1 when no group is running."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """This process's place; 0 when no group is running."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


class _Sum(torch.autograd.Function):
    """All-reduce SUM both ways.

    An in-place ``dist.all_reduce`` is no autograd operation: the gradient would be 1/world of the true one.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        out = x.detach().clone(memory_format=torch.contiguous_format)
        dist.all_reduce(out, op=dist.ReduceOp.SUM)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        out = grads[0].clone(memory_format=torch.contiguous_format)
        dist.all_reduce(out, op=dist.ReduceOp.SUM)
        return out


def sum_over_processes(x: Tensor) -> Tensor:
    """Sum of ``x`` over all processes, a new tensor; gradients are summed likewise.

    With one process it is ``x`` itself. All processes must call it in the same order with the same shape, and ``x``
    must require a gradient on all of them or on none: a backward all-reduce waits for every process.
    """
    if world() == 1:
        return x
    summed: Tensor = _Sum.apply(x)
    return summed


@torch.no_grad()
def gather_rows(x: Tensor) -> Tensor:
    """Rows of all processes, ``[R, D]`` to ``[sum R, D]``, in the same order everywhere, without gradient.

    R may differ between processes and may be 0; D and the dtype may not differ.
    """
    if x.ndim != 2:
        raise ValueError(f"gather_rows: expected [R, D], got {list(x.shape)}: flatten the leading dimensions first")
    if world() == 1:
        return x.detach()
    sizes = [torch.zeros(1, dtype=torch.int64, device=x.device) for _ in range(world())]
    dist.all_gather(sizes, torch.tensor([x.shape[0]], device=x.device))
    counts = [int(size) for size in sizes]
    # Bytes travel, as not every backend knows every dtype; short ranks are padded, as gather needs equal shapes.
    padded = x.new_zeros(max(counts), x.shape[1])
    padded[: x.shape[0]] = x
    parts = [torch.zeros_like(padded) for _ in counts]
    dist.all_gather([part.view(torch.uint8) for part in parts], padded.view(torch.uint8))
    return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])


def whole(x: Tensor) -> Tensor:
    """All of a tensor of which this process may hold a shard (FSDP2's DTensor); anything else is returned as it is.

    All processes must call it in the same order.
    """
    gather = getattr(x, "full_tensor", None)
    return x if gather is None else cast(Tensor, gather())


def own_shard(x: Tensor) -> Tensor:
    """What this process holds of ``x``: its shard, or all of what is not sharded; no communication."""
    local = getattr(x, "to_local", None)
    return x if local is None else cast(Tensor, local())


@torch.no_grad()
def joint_norm(tensors: Sequence[Tensor]) -> Tensor:
    """L2 norm of all tensors together, a float32 scalar; some may be shards, then all processes must call it."""
    parts = [x.float().norm() for x in tensors if own_shard(x) is x]
    shards = [own_shard(x).float().norm() for x in tensors if own_shard(x) is not x]
    if shards:
        parts.append(sum_over_processes(torch.stack(shards).square().sum()).sqrt())
    return torch.stack(parts).norm()


def spread(full: Tensor, like: Tensor) -> Tensor:
    """``full`` laid over processes as ``like`` is: each process keeps its own part of it, without communication.

    ``full`` is returned as it is where ``like`` is not sharded, or is of another shape.
    """
    if own_shard(like) is like or full.shape != like.shape:
        return full
    from torch.distributed.tensor import distribute_tensor  # only here: most runs shard nothing

    mesh, placements = cast(Any, like).device_mesh, cast(Any, like).placements
    return distribute_tensor(full.to(like.device), mesh, placements, src_data_rank=None)


@torch.no_grad()
def drawn_rows(drawn: Drawn) -> Tensor:
    """The rows that one process with the joined batch would draw, ``[R, D]``, the same on all processes.

    R is ``drawn.most``, or all places of the joined batch where there are fewer; valid rows are gone round again where
    they do not fill it. With one process nothing is asked of the device.
    """
    features, keys, size = drawn.features, drawn.keys, len(drawn.keys)
    if world() > 1:
        every = gather_rows(keys[:, None]).flatten()
        size = min(drawn.most, len(every))
        # Few rows travel: only those that are among the drawn ones. Without any valid row, one stands for all.
        last = every.sort(descending=True).values[:size].amin().clamp(min=min(0, int(every.max())))
        kept = keys >= last
        features, keys = gather_rows(features[kept]), gather_rows(keys[kept][:, None]).flatten()
        order = keys.argsort(descending=True, stable=True)
        features, keys = features[order], keys[order]
    count = (keys >= 0).sum().clamp(min=1)
    return features[torch.arange(size, device=features.device) % count]


@torch.no_grad()
def first_samples(x: Tensor, count: int) -> Tensor:
    """The first ``count`` samples of the joined batch, ``[B, ...]`` to ``[at most count, ...]``, on all processes.

    Further dimensions that differ between processes are filled up with zeros to the longest. Only processes that hold
    some of these samples send any.
    """
    if world() == 1:
        return x[:count].detach()
    shapes = gather_rows(torch.tensor([x.shape], device=x.device)).tolist()
    longest = [max(sizes) for sizes in list(zip(*shapes, strict=True))[1:]]
    parts, missing = [], count
    for owner, (size, *_) in enumerate(shapes):
        taken = min(size, missing)
        if taken:
            part = x.new_zeros(taken, *longest)
            if owner == rank():
                part[tuple(slice(length) for length in (taken, *x.shape[1:]))] = x[:taken].detach()
            # Bytes, as not every backend knows every dtype.
            dist.broadcast(part.view(torch.uint8), src=owner)
            parts.append(part)
            missing -= taken
    return torch.cat(parts)
