"""Training speed of the slot predictor against the same model written plainly with ``torch.nn.TransformerEncoder``.

    python benchmarks/causal/throughput.py --threads 1

Both take turns (A B A B ...) on the same batches, weights, loss and optimiser, so that their ratio holds when the
machine's speed drifts; their losses are asserted equal first. Ours is the whole method: front end, masks drawn anew,
predictor, energy, monitor rows. The plain one is given its masks. Heads are ``width / heads`` wide, as torch's are.
Writes ``THROUGHPUT.md``.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from jepa_causal.build import SlotShape, build_method
from jepa_causal.encoder import SlotFrontEnd
from jepa_causal.predictor import SlotPredictor
from jepa_causal.settings import CausalSettings
from jepa_causal.windows import SlotWindow
from jepa_core.contracts import Batch
from jepa_core.methods.masked import MaskedPrediction
from jepa_core.nn.transformer import Block, Transformer

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))
from common import hardware  # noqa: E402  # found only now


@dataclass(frozen=True)
class Size:
    """What is timed: a model, a batch, and the share of slots that hold an object."""

    name: str
    slots: int
    width: int
    inner: int
    depth: int
    heads: int
    history: int
    future: int
    batch: int
    present: float


SIZES = (
    Size("quickstart, slots partly absent", 5, 64, 64, 2, 4, 5, 3, 64, 0.7),
    Size("quickstart, all present", 5, 64, 64, 2, 4, 5, 3, 64, 1.0),
    Size("causal_jepa on CLEVRER's slots, batch 8", 7, 128, 128, 6, 16, 6, 10, 8, 1.0),
)


class Plain(nn.Module):
    """Dense tokens, torch's encoder, a linear layer, and the two means of squared differences."""

    def __init__(self, size: Size, mine: SlotPredictor) -> None:
        super().__init__()
        hidden = mine.transformer.blocks[0].mlp.fc1.out_features  # type: ignore[union-attr,index]
        layer = nn.TransformerEncoderLayer(
            size.inner, size.heads, hidden, 0.0, "gelu", 1e-6, batch_first=True, norm_first=True
        )
        self.encoder = nn.TransformerEncoder(
            layer, size.depth, nn.LayerNorm(size.inner, eps=1e-6), enable_nested_tensor=False
        )
        self.embed = nn.Linear(size.width, size.inner)
        self.anchor = nn.Linear(size.width, size.inner)
        self.project = nn.Linear(size.inner, size.width)
        self.mask_vector = nn.Parameter(mine.mask_vector.detach().clone())
        self.time_embed = nn.Parameter(mine.time_embed.detach().clone())
        for name in ("embed", "anchor", "project"):
            getattr(self, name).load_state_dict(getattr(mine, name).state_dict())
        assert isinstance(mine.transformer, Transformer)
        for own, other in zip(self.encoder.layers, mine.transformer.blocks, strict=True):
            assert isinstance(own, nn.TransformerEncoderLayer) and isinstance(other, Block)
            _copy(own, other)

    def forward(self, slots: Tensor, masks: PlainMasks) -> Tensor:
        """The loss of windows ``[B, T, K, D]``."""
        query = self.mask_vector + self.anchor(slots[:, :1])
        tokens = torch.where(masks.seen.unsqueeze(-1), self.embed(slots), query) + self.time_embed[:, None]
        out = self.project(self.encoder(tokens.flatten(1, 2), src_key_padding_mask=masks.absent))
        square = (out.view_as(slots) - slots).square().mean(-1)
        return square[masks.future].mean() + square[masks.history].mean()


@dataclass(frozen=True)
class PlainMasks:
    """Bool ``[B, T, K]`` each; ``absent`` is ``[B, T * K]`` or None."""

    seen: Tensor
    future: Tensor
    history: Tensor
    absent: Tensor | None


def _copy(own: nn.TransformerEncoderLayer, other: Block) -> None:
    pairs = ((own.norm1, other.norm1), (own.norm2, other.norm2), (own.linear1, other.mlp.fc1))
    for to, origin in (*pairs, (own.linear2, other.mlp.fc2), (own.self_attn.out_proj, other.attn.proj)):
        to.load_state_dict(origin.state_dict())
    with torch.no_grad():
        own.self_attn.in_proj_weight.copy_(other.attn.qkv.weight)
        own.self_attn.in_proj_bias.copy_(other.attn.qkv.bias)


def build(size: Size) -> tuple[MaskedPrediction, Plain]:
    """Ours and the plain one with the same weights."""
    options = CausalSettings(history=size.history, future=size.future)
    options.masking.masked_objects = [0, 2]
    wanted = options.predictor
    wanted.width, wanted.depth, wanted.heads = size.inner, size.depth, size.heads
    wanted.head_width, wanted.residual = size.inner // size.heads, "none"
    method = build_method(options, SlotShape(size.slots, size.width), SlotFrontEnd())
    assert isinstance(method.predictor, SlotPredictor)
    return method, Plain(size, method.predictor)


def batch_of(size: Size, method: MaskedPrediction) -> tuple[Batch, PlainMasks]:
    """A batch, and the masks that ours draws on it."""
    steps = size.history + size.future
    slots = torch.randn(size.batch, steps, size.slots, size.width)
    there = torch.rand(size.batch, 1, size.slots) < size.present
    there[:, :, :2] = True
    present = there.expand(-1, steps, -1) if size.present < 1 else None
    seeds = torch.arange(size.batch)
    batch = Batch(SlotWindow(slots, present), seeds, tuple(map(str, range(size.batch))))
    _, (mask,) = method.masks(batch)

    def laid_out(flat: Tensor) -> Tensor:
        return flat.view(size.batch, steps, size.slots)

    future, history = (laid_out(mask.targets.kind_mask(kind)) for kind in (0, 1))
    absent = None if present is None else ~present.flatten(1)
    return batch, PlainMasks(laid_out(mask.context.valid_mask()), future, history, absent)


def times(size: Size, runs: int) -> tuple[list[float], list[float]]:
    """Seconds of a training step of ours and of the plain one, in turns."""
    torch.manual_seed(0)
    method, plain = build(size)
    batch, masks = batch_of(size, method)
    slots = batch.inputs.slots
    optimizers = [torch.optim.AdamW(model.parameters(), 1e-4) for model in (method, plain)]

    def step(which: int) -> float:
        start = time.perf_counter()
        loss = method(batch, 1).total if which == 0 else plain(slots, masks)
        optimizers[which].zero_grad()
        loss.backward()
        optimizers[which].step()
        losses[which] = float(loss.detach())
        return time.perf_counter() - start

    losses = [0.0, 0.0]
    for _ in range(3):  # warm-up, and proof that both train the same model
        step(0), step(1)
        assert abs(losses[0] - losses[1]) < 1e-4 * losses[1], f"losses differ: {losses}"
    found = [(step(0), step(1)) for _ in range(runs)]
    return [a for a, _ in found], [b for _, b in found]


def row(size: Size, runs: int) -> str:
    """A line of the table."""
    mine, plain = times(size, runs)
    ratio = statistics.median(b / a for a, b in zip(mine, plain, strict=True))
    tokens = (size.history + size.future) * size.slots
    return (
        f"| {size.name} | {size.batch} x {tokens} | {1 / statistics.median(mine):.1f} | "
        f"{1 / statistics.median(plain):.1f} | {ratio:.2f} |"
    )


def main() -> None:
    """Times all sizes and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--runs", type=int, default=25, help="timed steps of each")
    wanted = parser.parse_args()
    torch.set_num_threads(wanted.threads)
    rows = [row(size, wanted.runs) for size in SIZES]
    text = "\n".join(
        [
            "# Training speed of the slot predictor",
            "",
            f"`python benchmarks/causal/throughput.py --threads {wanted.threads} --runs {wanted.runs}`. {hardware()}.",
            "Steps in turns on one batch, equal weights and losses; medians. The plain model is given its masks, ours",
            "draws them and does all else that a training step of the trainer does with it.",
            "",
            "| what | tokens | ours, steps/s | torch.nn.TransformerEncoder, steps/s | ours / torch (median of pairs) |",
            "|---|---|---|---|---|",
            *rows,
            "",
        ]
    )
    (HERE / "THROUGHPUT.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
