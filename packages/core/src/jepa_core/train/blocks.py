"""What the trainer looks for in a method before it starts: batch norms to warn of, blocks to compile."""

from __future__ import annotations

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from jepa_core.errors import ConfigError, value_errors_are_users


def batch_norms(method: nn.Module, across: bool, accumulated: bool) -> list[str]:
    """Names of the trained batch norms whose statistics are not those of the joined batch.

    Args:
        method: where to look.
        across: whether there are several processes; a batch norm with ``joint`` statistics does not mind.
        accumulated: whether there are several micro-batches; no batch norm sees more than one.
    """

    def falls_short(module: nn.Module) -> bool:
        return accumulated or (across and not getattr(module, "joint", False))

    return [
        name
        for name, module in method.named_modules()
        if isinstance(module, _BatchNorm)
        and falls_short(module)
        and any(parameter.requires_grad for parameter in module.parameters())
    ]


def joined_batch_warning(method: nn.Module, accumulation: int, world: int) -> str | None:
    """What to say of batch norms that see less than the joined batch; None where none does."""
    found = batch_norms(method, across=world > 1, accumulated=accumulation > 1)
    if not found:
        return None
    return (
        f"batch norm ({len(found)} layers, the first is {found[0]}) does not see the joined batch: "
        f"accumulation={accumulation} on {world} processes is not the same as one larger batch"
    )


def compile_blocks(method: nn.Module) -> None:
    """Compiles the blocks a method offers; a whole method is never compiled, its collectives and maps are dynamic."""
    offered = getattr(method, "compile_blocks", None)
    if offered is None:
        raise ConfigError(
            f"trainer.compile: {type(method).__name__} has no compile_blocks(); use trainer.compile=false"
        )
    with value_errors_are_users():
        offered()
