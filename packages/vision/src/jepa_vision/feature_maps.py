"""Pictures of what an encoder sees: the first principal components of its tokens as colours (DINOv2, arXiv 2304.07193).

Tokens with similar features have similar colours. The colours of a trained encoder follow things, those of an untrained
one follow little but place, and those of a collapsed one are gray.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from jepa_core.contracts import Batch, Picture
from jepa_core.evaluate.colours import principal_colours
from jepa_core.methods.frozen import frozen_tokens
from jepa_core.methods.masked import MaskedPrediction

MOST_IMAGES, MOST_STEPS = 6, 8
_INCH = 1.3  # side of a cell


def upsampled(rgb_BN3: Tensor, rows: int, columns: int, size: tuple[int, int]) -> NDArray[np.float32]:
    """Colours of patches to pixels ``[B, H, W, 3]``, bicubic."""
    maps = rgb_BN3.transpose(1, 2).unflatten(2, (rows, columns))
    pixels = F.interpolate(maps, size, mode="bicubic", align_corners=False).clamp(0, 1)
    return np.asarray(pixels.permute(0, 2, 3, 1).numpy())


@torch.no_grad()
def feature_pictures(encoders: Mapping[str, MaskedPrediction], batch: Batch) -> list[Picture]:
    """One picture: images, or the steps of one clip, above the feature maps of each encoder.

    Args:
        encoders: by the name of their row.
        batch: uint8 ``[B, 3, H, W]`` images or ``[B, 3, T, H, W]`` clips, on the encoders' device.
    """
    inputs = cast(Tensor, batch.inputs)
    is_clip = inputs.dim() == 5
    shown = inputs[:1] if is_clip else inputs[:MOST_IMAGES]
    found = {name: _maps(method, shown) for name, method in encoders.items()}
    first = next(iter(found.values()))
    whole = shown[0].transpose(0, 1) if is_clip else shown
    # The first frame of each tubelet stands for it.
    strip = whole[:: len(whole) // len(first.pixels)].permute(0, 2, 3, 1).cpu().numpy()
    steps = np.unique(np.linspace(0, len(strip) - 1, min(MOST_STEPS, len(strip))).round().astype(int))
    strips = {
        "clip" if is_clip else "image": strip[steps],
        **{name: maps.pixels[steps] for name, maps in found.items()},
    }
    titles = [f"step {step}" if is_clip else "" for step in steps]
    return [Picture("Feature maps", _draw(strips, titles), _caption(is_clip, found))]


@dataclass(frozen=True)
class _Maps:
    """Feature maps ``[S, H, W, 3]`` and the share of variance they show."""

    pixels: NDArray[np.float32]
    explained: float


def _maps(method: MaskedPrediction, inputs: Tensor) -> _Maps:
    was_training = method.training
    method.eval()
    try:
        tokens = frozen_tokens(method, "online", inputs)
    finally:
        method.train(was_training)
    colours = principal_colours(tokens.features)
    rows, columns = tokens.lattice.sizes[-2:]
    # The time steps of a clip become pictures of their own.
    rgb = colours.rgb.reshape(-1, rows * columns, 3)
    return _Maps(upsampled(rgb, rows, columns, (inputs.shape[-2], inputs.shape[-1])), colours.explained)


def _caption(is_clip: bool, found: Mapping[str, _Maps]) -> str:
    shares = ", ".join(f"{name} {maps.explained:.0%}" for name, maps in found.items())
    what = "this clip" if is_clip else "these images"
    return (
        f"The first three principal components of the tokens of {what} as red, green and blue, for each row by itself "
        f"(share of the variance: {shares}). Within a row, similar colours are similar features."
    )


def _draw(strips: Mapping[str, NDArray[np.generic]], titles: Sequence[str]) -> bytes:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    height, width = next(iter(strips.values())).shape[1:3]
    figure = Figure(
        figsize=(len(titles) * _INCH + 0.4, len(strips) * _INCH * height / width + 0.3), dpi=110, layout="constrained"
    )
    axes = figure.subplots(len(strips), len(titles), squeeze=False)
    for row, (name, strip) in enumerate(strips.items()):
        axes[row, 0].set_ylabel(name, fontsize=10)
        for column, title in enumerate(titles):
            cell = axes[row, column]
            cell.imshow(strip[column], interpolation="nearest")
            cell.set_xticks([])
            cell.set_yticks([])
            cell.spines[:].set_visible(False)
            if row == 0 and title:
                cell.set_title(title, fontsize=9)
    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_png(buffer)
    return buffer.getvalue()
