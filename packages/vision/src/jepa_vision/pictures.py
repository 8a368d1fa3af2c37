"""Pictures of masks over images, for the report and ``jepa masks``."""

from __future__ import annotations

import io

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from jepa_core.contracts import Batch, Picture
from jepa_core.lattice import Lattice
from jepa_core.masking.source import MaskSource
from jepa_core.masking.statistics import mask_statistics
from jepa_core.methods.masked import MaskedPrediction

SHOWN = 4
_HIDDEN = 232  # the gray of a patch that is not shown


@torch.no_grad()
def mask_pictures(method: MaskedPrediction | MaskSource, batch: Batch) -> list[Picture]:
    """One picture a mask: the first images whole, as the context shows them, and the targets alone."""
    grid, masks = method.masks(batch)
    images = pixels_last(batch.inputs[:SHOWN])
    found = []
    for mask in masks:
        seen = _pixels(mask.context.on_lattice(grid.lattice.count)[:SHOWN], grid.lattice)
        hidden = _pixels(mask.targets.on_lattice(grid.lattice.count)[:SHOWN], grid.lattice)
        caption = mask_statistics(mask, grid.lattice.count).sentence()
        found.append(Picture("Mask" if len(masks) == 1 else f"Mask {mask.name}", _draw(images, seen, hidden), caption))
    return found


def pixels_last(inputs: Tensor) -> NDArray[np.uint8]:
    """Images ``[B, 3, H, W]`` as ``[B, H, W, 3]``, clips ``[B, 3, T, H, W]`` as ``[B, T, H, W, 3]``, on the CPU."""
    return np.asarray(inputs.movedim(1, -1).cpu().numpy())


def _pixels(sites_BN: Tensor, lattice: Lattice) -> NDArray[np.bool_]:
    """``[B, N]`` of patches to ``[B, H, W, 1]`` of pixels."""
    maps = sites_BN.cpu().numpy().reshape(-1, *lattice.sizes)
    rows, columns = (int(side) for side in lattice.spacing)
    return np.asarray(maps.repeat(rows, axis=1).repeat(columns, axis=2)[..., None])


def _draw(images: NDArray[np.uint8], seen: NDArray[np.bool_], hidden: NDArray[np.bool_]) -> bytes:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 2.4 * len(images)), dpi=110, layout="constrained")
    columns = {
        "image": images,
        "context": np.where(seen, images, _HIDDEN),
        "targets": np.where(hidden, images, _HIDDEN),
    }
    axes = figure.subplots(len(images), len(columns), squeeze=False)
    for column, (title, pictures) in enumerate(columns.items()):
        axes[0, column].set_title(title, fontsize=10)
        for row, picture in enumerate(pictures):
            axes[row, column].imshow(picture.astype(np.uint8), interpolation="nearest")
            axes[row, column].set_axis_off()
    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_png(buffer)
    return buffer.getvalue()
