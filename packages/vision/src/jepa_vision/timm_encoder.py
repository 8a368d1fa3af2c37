"""Plain vision transformers of timm (arXiv 2010.11929, DeiT 2012.12877 and relatives) as encoders of images."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from jepa_core.contracts import Sites, Tokens
from jepa_core.lattice import Lattice
from jepa_core.nn.attention import key_mask
from jepa_core.nn.transformer import clean
from jepa_vision.encoder import Size
from jepa_vision.frontend import Patches
from jepa_vision.settings import EncoderSettings

# Where timm defines what may be a plain vision transformer.
_FAMILIES = ("vision_transformer", "vision_transformer_hybrid", "deit")


class TimmEncoder(nn.Module):
    """A vision transformer of timm as it comes, untrained; keeps the contract ``Encoder``.

    The patches that are kept are embedded alone (the convolution's stride is its kernel, so it is a linear layer on
    flattened patches), get their rows of the position table, and run through the blocks with the model's class and
    register tokens before them. Those are seen by all patches and are not among the tokens that come out. On the whole
    image the result is that of the model's own ``forward_features`` without them.

    Another lattice than the usual one gets the table resampled as timm does it.

    Args:
        name: a model of ``timm.list_models()``.
        lattice: that is usual; the model is built for its size and patches, whatever its name says.
        drop_path: rate of the last block, growing from 0.
        recompute: activation checkpointing.
        scale_residuals: ``constant``, or ``by_depth`` (timm's ``fix_init``).

    Raises:
        ValueError: no such model, or none whose patches and blocks are plain.
    """

    def __init__(
        self,
        name: str,
        lattice: Lattice,
        drop_path: float = 0.0,
        recompute: bool = False,
        scale_residuals: str = "constant",
    ) -> None:
        super().__init__()
        check_timm_model(name)
        self.lattice, self.recompute = lattice, recompute
        patch = tuple(int(side) for side in lattice.spacing)
        options = {"fix_init": True} if scale_residuals == "by_depth" else {}
        # Without pooling and head; so the last norm is that of the tokens.
        self.model: Any = _create(
            name,
            img_size=tuple(count * side for count, side in zip(lattice.sizes, patch, strict=True)),
            patch_size=patch,
            num_classes=0,
            global_pool="",
            fc_norm=False,
            drop_path_rate=drop_path,
            **options,
        )
        self.model.no_decay = tuple(
            part for part in ("pos_embed", "cls_token", "reg_token") if getattr(self.model, part) is not None
        )
        block = self.model.blocks[0]
        self.size = Size(self.model.embed_dim, len(self.model.blocks), block.attn.num_heads, block.mlp.fc1.out_features)

    @property
    def width(self) -> int:
        """D of the tokens."""
        return self.size.width

    def forward(self, inputs: Patches, keep: Sites | None) -> Tokens:
        """Tokens of the kept patches, ``[B, N, D]`` after the last norm; of all patches when ``keep`` is None."""
        return self.forward_layers(inputs, keep, ())

    def forward_layers(self, inputs: Patches, keep: Sites | None, layers: Sequence[int]) -> Tokens:
        """As :meth:`forward`, and in ``Tokens.layers`` the outputs of chosen blocks before any norm, by their names.

        Args:
            inputs, keep: as in :meth:`forward`.
            layers: blocks counted from 0, or from the end when negative; block 2 is named ``block_2``.
        """
        depth, model = self.size.depth, self.model
        if any(not -depth <= layer < depth for layer in layers):
            raise ValueError(f"layers: expected {-depth} to {depth - 1}, got {tuple(layers)}")
        sites = keep
        if sites is None:
            sites = Sites.whole(inputs.lattice, len(inputs.features), inputs.features.device)
        x = model.norm_pre(model.pos_drop(self._embed(inputs, sites)))
        mask, outputs = self._mask(sites), []
        for block in model.blocks:
            x = self._run(block, x, mask)
            outputs.append(x)
        before: int = model.num_prefix_tokens
        named = {f"block_{layer % depth}": outputs[layer][:, before:] for layer in layers}
        return Tokens(model.norm(x)[:, before:], sites, inputs.lattice, named)

    def _embed(self, inputs: Patches, sites: Sites) -> Tensor:
        """Class and register tokens and the kept patches, positions added, ``[B, prefix + N, D]``."""
        model, patches = self.model, inputs.features
        if not sites.complete:
            patches = patches.gather(1, sites.ids.unsqueeze(-1).expand(-1, -1, patches.shape[-1]))
        projection = model.patch_embed.proj
        x = F.linear(clean(patches, sites.valid), projection.weight.flatten(1), projection.bias)
        x = model.patch_embed.norm(x)
        learned = [token for token in (model.cls_token, model.reg_token) if token is not None]
        prefix = torch.cat([token.expand(len(x), -1, -1) for token in learned], dim=1).to(x.dtype) if learned else None
        if model.pos_embed is not None:
            first, table = self._positions(inputs.lattice)
            x = x + (table if sites.complete else table[sites.ids]).to(x.dtype)
            if prefix is not None and len(first):
                prefix = prefix + first.to(x.dtype)
        return x if prefix is None else torch.cat([prefix, x], dim=1)

    def _positions(self, lattice: Lattice) -> tuple[Tensor, Tensor]:
        """Position codes of class and registers (no row where they have none) and of the lattice, ``[N, D]``."""
        from timm.layers import resample_abs_pos_embed

        before: int = 0 if self.model.no_embed_class else self.model.num_prefix_tokens
        table: Tensor = self.model.pos_embed
        if lattice.sizes != self.lattice.sizes:
            new, old = list(lattice.sizes), list(self.lattice.sizes)
            table = resample_abs_pos_embed(table, new, old, num_prefix_tokens=before)
        return table[0, :before], table[0, before:]

    def _mask(self, sites: Sites) -> Tensor | None:
        if sites.valid is None:
            return None
        before = sites.valid.new_ones(len(sites.valid), self.model.num_prefix_tokens)
        return key_mask(torch.cat([before, sites.valid], dim=1))

    def _run(self, block: nn.Module, x: Tensor, mask: Tensor | None) -> Tensor:
        if not (self.recompute and self.training and torch.is_grad_enabled()):
            return cast(Tensor, block(x, attn_mask=mask))
        return cast(Tensor, checkpoint(block, x, attn_mask=mask, use_reentrant=False))

    def compile_blocks(self) -> None:
        """Compiles each block for itself."""
        for block in self.model.blocks:
            block.compile()


def build_timm_encoder(wanted: EncoderSettings, lattice: Lattice) -> TimmEncoder:
    """The encoder that ``vision.encoder.timm`` names.

    Raises:
        ValueError: see :class:`TimmEncoder`; or the lattice is that of clips.
    """
    if wanted.timm is None or len(lattice.axes) != 2:
        raise ValueError(f"vision.encoder.timm: expected null for clips, whose patches have a time, got {wanted.timm}")
    return TimmEncoder(wanted.timm, lattice, wanted.drop_path, wanted.recompute, wanted.scale_residuals)


def check_timm_model(name: str) -> None:
    """Refuses what is no plain vision transformer of timm; needs no memory for its weights.

    Raises:
        ValueError: naming the setting, and the nearest name where there is no such model.
    """
    key = "vision.encoder.timm"
    timm = _timm()
    if not timm.is_model(name) or ":" in name:
        near = difflib.get_close_matches(name, timm.list_models(), n=1, cutoff=0.5)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ValueError(f"{key}: expected a model of timm.list_models(), got {name!r}{hint}")
    plain, _, weights = name.partition(".")
    if weights:
        raise ValueError(f"{key}: expected a model without weights, which are not fetched, got {name!r}: use {plain}")
    family = timm.models.model_entrypoint(name).__module__.rpartition(".")[2]
    if family not in _FAMILIES:
        raise ValueError(
            f"{key}: expected a plain vision transformer such as vit_tiny_patch16_224, got a {family}: {name}"
        )
    with torch.device("meta"):
        model = _create(name)
    layers = timm.layers, timm.models.vision_transformer
    parts = (
        ("model", type(model), layers[1].VisionTransformer),
        ("patch embedding", type(model.patch_embed), layers[0].PatchEmbed),
        ("block", type(model.blocks[0]), layers[1].Block),
    )
    for what, got, expected in parts:
        if got is not expected:
            raise ValueError(
                f"{key}: expected a plain {what} ({expected.__name__}), got {got.__name__} in {name}; "
                "vit_tiny_patch16_224 is one that fits"
            )


def _timm() -> Any:
    """The package, which takes seconds to import and is not needed without this encoder."""
    import timm
    import timm.layers
    import timm.models.vision_transformer

    return timm


def _create(name: str, **options: Any) -> Any:
    return _timm().create_model(name, pretrained=False, **options)
