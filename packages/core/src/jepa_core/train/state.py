"""Optimiser and random state as plain tensors and JSON, so that a checkpoint needs no pickle."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from jepa_core.distributed import own_shard, spread, whole
from jepa_core.errors import DivergenceError
from jepa_core.seeds import sample_seed
from jepa_core.train.checkpoint import CheckpointError


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """State by ``<parameter name>/<entry>``: tensors, and the rest with the groups' settings.

    Shards are put together: of a sharded method all processes must call it.
    """
    tensors: dict[str, Tensor] = {}
    scalars: dict[str, Any] = {"state": {}, "groups": []}
    for name, value in whole_entries(optimizer):
        if isinstance(value, Tensor):
            tensors[name] = value.cpu().contiguous().clone()
        else:
            scalars["state"][name] = value
    for group in optimizer.param_groups:
        scalars["groups"].append({key: value for key, value in group.items() if key != "params"})
    return tensors, json.loads(json.dumps(scalars))


def whole_entries(optimizer: torch.optim.Optimizer) -> Iterator[tuple[str, Any]]:
    """``<parameter name>/<entry>`` and value, one whole tensor after the other."""
    for group in optimizer.param_groups:
        for name, parameter in zip(group["names"], group["params"], strict=True):
            for entry, value in optimizer.state.get(parameter, {}).items():
                yield f"{name}/{entry}", whole(value.detach()) if isinstance(value, Tensor) else value


def load_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor], scalars: dict[str, Any]) -> None:
    """Puts stored state back by parameter name; torch moves it to each parameter's device, a shard to each shard."""
    named = [pair for group in optimizer.param_groups for pair in zip(group["names"], group["params"], strict=True)]
    parameters, names = dict(named), [name for name, _ in named]
    by_name: dict[str, dict[str, Any]] = {}
    for key, value in {**tensors, **scalars["state"]}.items():
        name, entry = key.rsplit("/", 1)
        by_name.setdefault(name, {})[entry] = value
    unknown = sorted(set(by_name) - set(names))
    if unknown:
        raise CheckpointError(f"the optimiser state names parameters that this method has not: {', '.join(unknown)}")
    for name, entries in by_name.items():
        for entry, value in entries.items():
            entries[entry] = spread(value, parameters[name].detach()) if isinstance(value, Tensor) else value
    state = {place: by_name[name] for place, name in enumerate(names) if name in by_name}
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def random_state() -> dict[str, Tensor]:
    """The state of torch's, NumPy's and Python's generators in this process."""
    version, words, gauss = random.getstate()
    _, keys, position, has_gauss, cached = np.random.get_state()
    out = {
        "torch": torch.get_rng_state(),
        "python": torch.tensor([version, *words], dtype=torch.int64),
        "python_gauss": torch.tensor([] if gauss is None else [gauss], dtype=torch.float64),
        "numpy": torch.from_numpy(np.asarray(keys, dtype=np.int64)),
        "numpy_place": torch.tensor([position, has_gauss], dtype=torch.int64),
        "numpy_gauss": torch.tensor([cached], dtype=torch.float64),
    }
    if torch.cuda.is_available():
        out["cuda"] = torch.cuda.get_rng_state()
    return out


def load_random_state(state: dict[str, Tensor]) -> None:
    """Puts back what :func:`random_state` gave."""
    torch.set_rng_state(state["torch"])
    version, *words = state["python"].tolist()
    gauss = state["python_gauss"].tolist()
    random.setstate((version, tuple(words), gauss[0] if gauss else None))
    position, has_gauss = state["numpy_place"].tolist()
    keys = state["numpy"].numpy().astype(np.uint32)
    np.random.set_state(("MT19937", keys, position, has_gauss, state["numpy_gauss"].item()))
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


def own_buffers(method: nn.Module) -> dict[str, Tensor]:
    """Buffers by ``buffer/<name>`` on the CPU: the wrapper does not broadcast them, so processes drift apart."""
    kept = method.state_dict().keys()
    named = ((name, buffer) for name, buffer in method.named_buffers() if name in kept)
    return {f"buffer/{name}": buffer.detach().cpu().clone() for name, buffer in named}


def without_equal(own: dict[str, Tensor], first: dict[str, Tensor]) -> dict[str, Tensor]:
    """``own`` without the buffers that equal those of process 0, which the model file holds."""
    return {
        name: value
        for name, value in own.items()
        if not (name.startswith("buffer/") and torch.equal(value, first[name]))
    }


@torch.no_grad()
def load_buffers(method: nn.Module, own: dict[str, Tensor]) -> None:
    """Puts this process's own buffers over those of the model file."""
    buffers = dict(method.named_buffers())
    for name, value in own.items():
        if name.startswith("buffer/"):
            buffers[name.removeprefix("buffer/")].copy_(value)


def check_finite(method: nn.Module, step: int, last_good: Path | None) -> None:
    """Refuses weights that are not finite and buffers that hold NaN, the target's too; a buffer may hold infinities.

    It looks at what this process holds; a sharded method is looked at by all.

    Raises:
        DivergenceError: naming them.
    """
    kept = method.state_dict().keys()
    weights = {name: own_shard(value.detach()) for name, value in method.named_parameters() if name in kept}
    broken = {name: ~torch.isfinite(value).all() for name, value in weights.items()}
    broken |= {name: torch.isnan(value).any() for name, value in method.named_buffers() if name in kept}
    if not broken or not bool(torch.stack(list(broken.values())).any()):
        return
    names = [name for name, bad in broken.items() if bad]
    raise DivergenceError(
        f"after step {step} not all values are finite in {', '.join(names[:3])}{' ...' if len(names) > 3 else ''}: "
        f"not saved. Last good checkpoint: {last_good or 'none'}. What helps: a lower optimizer.lr, "
        f"trainer.precision=fp32"
    )


def seed_everything(seed: int, step: int, rank: int) -> None:
    """Seeds all generators of this process from (seed, step, rank): processes must not draw the same dropout."""
    value = sample_seed(seed, step, f"process {rank}")
    torch.manual_seed(value)
    random.seed(value)
    np.random.seed(value % 2**32)
