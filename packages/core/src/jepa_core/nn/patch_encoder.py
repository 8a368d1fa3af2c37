"""The transformer over patches of a lattice that vision (ViT, arXiv 2010.11929) and sound share: an embedding of each
patch alone, fixed or rotary positions, blocks. Only the patches that are kept are embedded.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal, cast

import torch
from torch import Tensor, nn

from jepa_core.contracts import Sites, Tokens
from jepa_core.lattice import Lattice
from jepa_core.nn.position import Pairing, Rotation, rotary, sin_cos_table
from jepa_core.nn.transformer import NormPlace, Transformer, clean, init_linear, scale_residuals_by_depth

Stem = Literal["linear", "mlp", "none"]


@dataclass(frozen=True)
class Patches:
    """What an encoder takes: one row for each site of a lattice.

    Attributes:
        features: ``[B, N, C]``, row-major over the lattice, time first: flattened pixels of a patch, a tile of a
            spectrogram, a frame of a waveform.
        lattice: where they lie.
        present: bool ``[B, N]``: sites that are more than padding, at least one each; None = all.
    """

    features: Tensor
    lattice: Lattice
    present: Tensor | None = None

    def whole(self) -> Sites:
        """Every site, valid where present."""
        sites = Sites.whole(self.lattice, len(self.features), self.features.device)
        return sites if self.present is None else replace(sites, valid=self.present)

    def tokens(self, keep: Sites | None) -> Tokens:
        """The patches themselves as tokens, at ``keep`` (everywhere when None): targets of a masked autoencoder."""
        whole = Tokens(self.features, self.whole(), self.lattice)
        return whole if keep is None else Tokens(whole.at(keep), keep, self.lattice)


@dataclass(frozen=True)
class Size:
    """A row of the table of encoders.

    Attributes:
        width: D of the tokens.
        depth: blocks.
        heads: attention heads.
        mlp_hidden: width inside the MLP.
    """

    width: int
    depth: int
    heads: int
    mlp_hidden: int


SIZES: Mapping[str, Size] = {
    "nano": Size(128, 4, 4, 512),
    "micro": Size(192, 6, 6, 768),
    "tiny": Size(192, 12, 3, 768),
    "small": Size(384, 12, 6, 1536),
    "base": Size(768, 12, 12, 3072),
    "large": Size(1024, 24, 16, 4096),
    "huge": Size(1280, 32, 16, 5120),
    # I-JEPA and V-JEPA; V-JEPA 2 has the same weights' shapes with heads of 64.
    "giant": Size(1408, 40, 16, 6144),
    "giant_22_heads": Size(1408, 40, 22, 6144),
    # The released builders misspell the ratio's argument, so that the MLP is four times as wide as the tokens.
    "gigantic": Size(1664, 48, 16, 6656),
    "gigantic_26_heads": Size(1664, 48, 26, 6656),
}


class PatchEmbedding(nn.Module):
    """Flattened patches ``[B, N, C]`` to ``[B, N, D]``, each patch alone.

    Args:
        channels: C.
        width: D.
        stem: ``linear`` (the published convolution), ``mlp``: linear, GELU, linear, which helps small encoders, or
            ``none``: the patches are embedded already, C = D.
    """

    def __init__(self, channels: int, width: int, stem: Stem) -> None:
        super().__init__()
        if stem == "none" and channels != width:
            raise ValueError(f"stem none: expected patches as wide as the tokens, {width}, got {channels}")
        self.proj = nn.Identity() if stem == "none" else nn.Linear(channels, width)
        self.mlp = nn.Sequential(nn.GELU(), nn.Linear(width, width)) if stem == "mlp" else nn.Identity()
        self.apply(init_linear)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, N, C]`` to ``[B, N, D]``."""
        return cast(Tensor, self.mlp(self.proj(x)))


class PatchEncoder(nn.Module):
    """An encoder of patches; keeps the contract ``Encoder``.

    Any lattice of the same axes can be encoded: positions follow the sites' indices, so that larger grids extrapolate.

    Args:
        size: width, depth, heads.
        channels: width of a flattened patch.
        lattice: that is usual; its position table is computed once.
        codes: position codes of a lattice, float32 ``[N, D]``, of no rows where there are none to add; None = the fixed
            sine-cosine codes of :func:`jepa_core.nn.position.sin_cos_table`.
        pairing: of rotary positions, see :func:`jepa_core.nn.position.rotary`; None = not rotary.
        stored: whether the table belongs to the weights; else it follows from the lattice and is not saved.
        stem: see :class:`PatchEmbedding`.
        drop_path: rate of the last block, growing from 0.
        recompute: activation checkpointing.
        scale_residuals: ``constant``, or ``by_depth``, see :func:`jepa_core.nn.transformer.scale_residuals_by_depth`.
        norm: ``pre`` or ``post``, see :class:`jepa_core.nn.transformer.Transformer`.
    """

    table: Tensor

    def __init__(
        self,
        size: Size,
        channels: int,
        lattice: Lattice,
        codes: Callable[[Lattice], Tensor] | None = None,
        pairing: Pairing | None = None,
        stored: bool = False,
        stem: Stem = "linear",
        drop_path: float = 0.0,
        recompute: bool = False,
        scale_residuals: Literal["constant", "by_depth"] = "constant",
        norm: NormPlace = "pre",
    ) -> None:
        super().__init__()
        codes = partial(sin_cos_table, width=size.width) if codes is None else codes
        self.size, self.lattice, self.codes, self.pairing = size, lattice, codes, pairing
        self.patch_embed = PatchEmbedding(channels, size.width, stem)
        self.transformer = Transformer(
            size.width, size.depth, size.heads, size.mlp_hidden, drop_path=drop_path, recompute=recompute, norm=norm
        )
        if scale_residuals == "by_depth":
            scale_residuals_by_depth(self.transformer)
        # A table that follows from the lattice is not saved: that would pin the lattice's size.
        self.register_buffer("table", codes(lattice), persistent=stored)

    @property
    def width(self) -> int:
        """D of the tokens."""
        return self.size.width

    def codes_on(self, lattice: Lattice) -> Tensor:
        """Position codes of a lattice, float32 ``[N, D]``, on the device of the usual ones."""
        return self.table if lattice.sizes == self.lattice.sizes else self.codes(lattice).to(self.table.device)

    def forward(self, inputs: Patches, keep: Sites | None) -> Tokens:
        """Tokens of the kept patches, ``[B, N, D]`` after the last norm; of all patches when ``keep`` is None."""
        sites, x = self._embed(inputs, keep)
        return Tokens(self.transformer(x, sites.valid, self._rotation(sites, inputs.lattice)), sites, inputs.lattice)

    def forward_layers(self, inputs: Patches, keep: Sites | None, layers: Sequence[int]) -> Tokens:
        """As :meth:`forward`, and in ``Tokens.layers`` the outputs of chosen blocks before any norm, by their names.

        Args:
            inputs, keep: as in :meth:`forward`.
            layers: blocks counted from 0, or from the end when negative; block 2 is named ``block_2``.
        """
        sites, x = self._embed(inputs, keep)
        rotation = self._rotation(sites, inputs.lattice)
        last, outputs = self.transformer.forward_layers(x, layers, sites.valid, rotation)
        named = {f"block_{layer % self.size.depth}": features for layer, features in outputs.items()}
        return Tokens(last, sites, inputs.lattice, named)

    def _embed(self, inputs: Patches, keep: Sites | None) -> tuple[Sites, Tensor]:
        lattice, patches = inputs.lattice, inputs.features
        sites = inputs.whole() if keep is None else keep
        table = self.codes_on(lattice)
        if not sites.complete:
            patches = patches.gather(1, sites.ids.unsqueeze(-1).expand(-1, -1, patches.shape[-1]))
        x = self.patch_embed(clean(patches, sites.valid))
        if len(table):
            x = x + (table if sites.complete else table[sites.ids]).to(x.dtype)
        return sites, x

    def _rotation(self, sites: Sites, lattice: Lattice) -> Rotation | None:
        if self.pairing is None:
            return None
        # float64 in a model of that type; half precision is too coarse for angles.
        exact = torch.promote_types(self.transformer.norm.weight.dtype, torch.float32)
        coordinates = lattice.coordinates(sites.ids).to(exact)
        return rotary(coordinates, self.size.width // self.size.heads, self.pairing)

    def compile_blocks(self) -> None:
        """Compiles each block for itself."""
        for block in self.transformer.blocks:
            block.compile()
