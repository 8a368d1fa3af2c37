"""The reference's side of the audio rows: LudovicTuncay/Audio-JEPA from a checkout.

Its model, loss and features are imported from ``--reference DIR``, without the packages' own imports of everything. Its
attention is flash-attn's, which has no CPU: :class:`Mha` with the same parameters on torch's fused kernel stands in.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from driver import Stopwatch
from rows import StepTaker
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

RATE_HZ, SECONDS, FRAMES, MELS, PATCH = 32_000, 10, 256, 128, (16, 16)
WEIGHT_DECAY, BETAS, MOMENTUM = 0.05, (0.9, 0.95), 0.996
EPS = 1e-6


class Mha(nn.Module):
    """flash-attn's ``MHA`` as the reference calls it."""

    def __init__(
        self, embed_dim: int, num_heads: int, dropout: float, qkv_proj_bias: bool, use_flash_attn: bool
    ) -> None:
        super().__init__()
        self.heads = num_heads
        self.Wqkv = nn.Linear(embed_dim, 3 * embed_dim, bias=qkv_proj_bias)
        self.out_proj = nn.Linear(embed_dim, embed_dim)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, N, D]`` to ``[B, N, D]``."""
        batch, tokens, width = x.shape
        q, k, v = self.Wqkv(x).view(batch, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        out = functional.scaled_dot_product_attention(q, k, v)
        out = self.out_proj(out.transpose(1, 2).reshape(batch, tokens, width))
        assert isinstance(out, Tensor)
        return out


def prepare_imports(reference: Path) -> None:
    """Its packages without what their ``__init__`` files import, and the stand-in for flash-attn."""
    for name in (
        "src", "src.utils", "src.masks", "src.masks.components", "src.models", "src.models.components", "src.data",
        "src.data.components",
    ):  # fmt: skip
        module = ModuleType(name)
        module.__path__ = [str(reference / name.replace(".", "/"))]
        sys.modules[name] = module
    for name in ("flash_attn", "flash_attn.modules", "flash_attn.modules.mha"):
        sys.modules[name] = ModuleType(name)
    sys.modules["flash_attn.modules.mha"].MHA = Mha  # type: ignore[attr-defined]  # made just now


class Step(StepTaker):
    """Features of each clip as its data set makes them, then the body of its training step and of its callback."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        prepare_imports(Path(options["reference"]))
        # Of the checkout.
        from src.data.components.mel_spec import MelSpecTransform  # type: ignore[import-not-found]
        from src.models.components.loss import Loss  # type: ignore[import-not-found]
        from src.models.components.vision_transformer import (  # type: ignore[import-not-found]
            VisionTransformer,
            VisionTransformerPredictor,
        )

        stored, device = load_file(options["exchange"]), torch.device(options["device"])
        width, depth, heads = options["encoder"]
        inner, inner_depth, inner_heads = options["predictor"]
        norm = partial(nn.LayerNorm, eps=EPS)
        encoder = partial(
            VisionTransformer, (FRAMES, MELS), PATCH, 1, width, depth=depth, num_heads=heads, qkv_bias=True,
            norm_layer=norm,
        )  # fmt: skip
        self.encoder, self.target = encoder().to(device), encoder().to(device).requires_grad_(False)
        self.predictor = VisionTransformerPredictor(
            FRAMES // PATCH[0], MELS // PATCH[1], width, inner, inner_depth, inner_heads, norm_layer=norm
        ).to(device)
        for part, prefix in ((self.encoder, "encoder."), (self.target, "target.encoder.")):
            load(part, encoder_as_theirs(stored, f"weights.{prefix}"))
        load(self.predictor, predictor_as_theirs(stored))
        self.features, self.loss = MelSpecTransform(RATE_HZ, MELS, SECONDS, FRAMES), Loss("norm_mse")
        trained = [*self.encoder.parameters(), *self.predictor.parameters()]
        self.optimizer = torch.optim.AdamW(
            [p for p in trained if p.requires_grad], lr=options["lr"], betas=BETAS, weight_decay=WEIGHT_DECAY
        )
        self.clips = stored["clips"].to(device)
        self.masks = [stored["context"].to(device)], [stored["targets"].to(device)]
        self.steps, self.watch = int(options["steps"]), Stopwatch()
        self.watch.watch(self.encoder, "context encoder")
        self.watch.watch(self.target, "target encoder")
        self.watch.watch(self.predictor, "predictor")

    def _spectrograms(self) -> Tensor:
        """Clip by clip: mean off, peak to 1, its filter bank."""
        made = []
        for clip in self.clips:
            centred = clip - clip.mean()
            made.append(self.features((centred / centred.abs().max() + 1e-6)[None]))
        return torch.stack(made)

    def step(self) -> float:
        """One training step of both encoders, predictor, optimiser and target."""
        context, targets = self.masks
        with self.watch.of("forward"):
            with self.watch.of("front end"):
                spectrograms = self._spectrograms()
            predicted = self.predictor(self.encoder(spectrograms, context), context, targets)
            with torch.no_grad():
                whole = self.target(spectrograms)
                wanted = torch.cat([whole.gather(1, ids[..., None].expand(-1, -1, whole.shape[-1])) for ids in targets])
            loss = self.loss(predicted, wanted)
        with self.watch.of("backward"):
            loss.isnan().item()  # as it asks in each step
            loss.backward()
        with self.watch.of("optimiser and target"):
            self.optimizer.step()
            self.optimizer.zero_grad()
            pairs = zip(self.encoder.parameters(), self.target.parameters(), strict=True)
            for online, target in pairs:
                target.data = MOMENTUM * target.data + (1 - MOMENTUM) * online.data
        return float(loss.item())


def build(options: Mapping[str, Any]) -> Step:
    """The reference's side of a row."""
    return Step(options)


def load(part: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """All but its table of positions, which it makes itself."""
    missing, unexpected = part.load_state_dict(weights, strict=False)
    assert not unexpected and all(name.endswith("pos_embed") for name in missing), (missing, unexpected)


def _block(name: str) -> str:
    return name.replace("attn.qkv.", "attn.Wqkv.").replace("attn.proj.", "attn.out_proj.")


def encoder_as_theirs(stored: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Our encoder's weights under its names; the linear layer on a tile is a convolution there."""
    found = {}
    for name, tensor in stored.items():
        if not name.startswith(prefix):
            continue
        own = name.removeprefix(prefix).removeprefix("transformer.")
        found[_block(own)] = tensor.view(-1, 1, *PATCH) if own == "patch_embed.proj.weight" else tensor
    return found


def predictor_as_theirs(stored: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our predictor's weights under its names."""
    places = {"embed.": "predictor_embed.", "project.": "predictor_proj.", "transformer.norm.": "predictor_norm."}
    found = {}
    for name, tensor in stored.items():
        own = name.removeprefix("weights.predictor.")
        if own == name:
            continue
        if own == "mask_tokens":
            found["mask_token"] = tensor[:, None]
        elif own.startswith("transformer.blocks."):
            found[_block(own.replace("transformer.blocks.", "predictor_blocks."))] = tensor
        else:
            old = next(place for place in places if own.startswith(place))
            found[places[old] + own.removeprefix(old)] = tensor
    return found
