"""The front end: uint8 pictures or clips to normalised patches, batched and on the device.

A patch is flattened in the order of a convolution's kernel (channel, time, row, column), so that one linear layer on
patches is the published convolution whose stride is its kernel (ViT, arXiv 2010.11929; tubelets, arXiv 2103.15691).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from jepa_core.contracts import Grid, Sites, Tokens
from jepa_core.lattice import Lattice
from jepa_core.nn.patch_encoder import Patches as Patches

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_AXES = ("t", "y", "x")


def pixels(inputs: Patches, keep: Sites | None) -> Tokens:
    """What :class:`jepa_core.targets.RawTarget` asks for: normalised pixel values of each patch."""
    return inputs.tokens(keep)


def patch_lattice(size: Sequence[int], patch: Sequence[int]) -> Lattice:
    """Sites of patches ``(height, width)`` or ``(frames, height, width)`` in size, in units of pixels and frames.

    Raises:
        ValueError: the patch does not divide the size.
    """
    if len(size) != len(patch) or len(size) not in (2, 3):
        raise ValueError(f"expected size and patch of 2 or 3 numbers each, got {tuple(size)} and {tuple(patch)}")
    if any(p < 1 or s < p or s % p for s, p in zip(size, patch, strict=True)):
        raise ValueError(f"expected a size that is a multiple of the patch {tuple(patch)}, got {tuple(size)}")
    units = ("frame", "px", "px")[-len(size) :]
    return Lattice(
        axes=_AXES[-len(size) :],
        sizes=tuple(s // p for s, p in zip(size, patch, strict=True)),
        spacing=tuple(float(p) for p in patch),
        units=units,
        origin=tuple((p - 1) / 2 for p in patch),
    )


def patchify(x: Tensor, patch: Sequence[int]) -> Tensor:
    """``[B, C, H, W]`` or ``[B, C, T, H, W]`` to ``[B, N, C * prod(patch)]``."""
    batch, channels, *size = x.shape
    counts = [s // p for s, p in zip(size, patch, strict=True)]
    split = x.reshape(batch, channels, *(n for pair in zip(counts, patch, strict=True) for n in pair))
    axes = len(patch)
    order = [0, *range(2, 2 + 2 * axes, 2), 1, *range(3, 3 + 2 * axes, 2)]
    return split.permute(order).reshape(batch, -1, channels * math.prod(patch))


def unpatchify(patches: Tensor, lattice: Lattice, patch: Sequence[int], channels: int = 3) -> Tensor:
    """The inverse of :func:`patchify`."""
    batch, axes = patches.shape[0], len(patch)
    split = patches.reshape(batch, *lattice.sizes, channels, *patch)
    order = [0, 1 + axes]
    for axis in range(axes):
        order += [1 + axis, 2 + axes + axis]
    size = [n * p for n, p in zip(lattice.sizes, patch, strict=True)]
    return split.permute(order).reshape(batch, channels, *size)


class PatchFrontEnd(nn.Module):
    """Normalises pictures ``[B, 3, H, W]`` or clips ``[B, 3, T, H, W]``, uint8, and cuts them into patches.

    Args:
        patch: ``(rows, columns)`` or ``(frames, rows, columns)`` of a patch.
        mean, std: of each channel, of values in 0..1.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        patch: Sequence[int],
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
    ) -> None:
        super().__init__()
        self.patch = tuple(patch)
        self.register_buffer("mean", torch.tensor(mean), persistent=False)
        self.register_buffer("std", torch.tensor(std), persistent=False)

    @property
    def channels(self) -> int:
        """Width of a flattened patch."""
        return len(self.mean) * math.prod(self.patch)

    @torch.no_grad()
    def forward(self, inputs: Tensor, seeds: Tensor) -> tuple[Patches, Grid]:
        """Patches of uint8 ``inputs``, and their grid: every site is present."""
        if inputs.dtype != torch.uint8 or inputs.ndim != 2 + len(self.patch) or inputs.shape[1] != len(self.mean):
            raise ValueError(
                f"front end: expected uint8 [B, {len(self.mean)}, {'T, ' if len(self.patch) == 3 else ''}H, W], got "
                f"{inputs.dtype} {list(inputs.shape)}"
            )
        lattice = patch_lattice(inputs.shape[2:], self.patch)
        per_channel = (1, -1, *(1 for _ in self.patch))
        x = (inputs.float() / 255 - self.mean.view(per_channel)) / self.std.view(per_channel)
        return Patches(patchify(x, self.patch), lattice), Grid(lattice)
