"""Pictures of masks over a clip as a filmstrip, for the report and ``jepa masks``."""

from __future__ import annotations

import io

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from jepa_core.contracts import Batch, Mask, Picture
from jepa_core.lattice import Lattice
from jepa_core.masking.source import MaskSource
from jepa_core.masking.statistics import mask_statistics
from jepa_core.methods.masked import MaskedPrediction
from jepa_vision.pictures import pixels_last

MOST_STEPS = 8
_HIDDEN = 232  # the gray of what is not shown
_INCH = 1.15  # side of a frame in the picture


@torch.no_grad()
def mask_pictures(method: MaskedPrediction | MaskSource, batch: Batch) -> list[Picture]:
    """One picture a mask: the first clip's time steps whole, as the context shows them, and the targets alone."""
    grid, masks = method.masks(batch)
    lattice = grid.lattice
    clip = pixels_last(batch.inputs[:1])[0]
    # The first frame of each tubelet stands for it.
    frames = clip[:: int(lattice.spacing[0])]
    shown = np.unique(np.linspace(0, len(frames) - 1, min(MOST_STEPS, len(frames))).round().astype(int))
    found = []
    for mask in masks:
        seen, hidden = _pixels(mask, lattice)
        rows = {
            "clip": frames,
            "context": np.where(seen, frames, _HIDDEN),
            "targets": np.where(hidden, frames, _HIDDEN),
        }
        picture = _draw({title: strip[shown] for title, strip in rows.items()}, [_frames(lattice, s) for s in shown])
        caption = mask_statistics(mask, lattice.count).sentence()
        found.append(Picture("Mask" if len(masks) == 1 else f"Mask {mask.name}", picture, caption))
    return found


def _frames(lattice: Lattice, step: int) -> str:
    length = int(lattice.spacing[0])
    first = step * length
    return f"frame {first}" if length == 1 else f"frames {first}-{first + length - 1}"


def _pixels(mask: Mask, lattice: Lattice) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Of the first sample, what context and targets hold: ``[steps, H, W, 1]`` each."""
    rows, columns = (int(side) for side in lattice.spacing[1:])

    def spread(sites_BN: Tensor) -> NDArray[np.bool_]:
        maps = sites_BN[0].cpu().numpy().reshape(lattice.sizes)
        return np.asarray(maps.repeat(rows, axis=1).repeat(columns, axis=2)[..., None])

    return spread(mask.context.on_lattice(lattice.count)), spread(mask.targets.on_lattice(lattice.count))


def _draw(strips: dict[str, NDArray[np.generic]], titles: list[str]) -> bytes:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    height, width = next(iter(strips.values())).shape[1:3]
    size = (len(titles) * _INCH + 0.4, len(strips) * _INCH * height / width + 0.35)
    figure = Figure(figsize=size, dpi=110, layout="constrained")
    axes = figure.subplots(len(strips), len(titles), squeeze=False)
    for row, (name, strip) in enumerate(strips.items()):
        axes[row, 0].set_ylabel(name, fontsize=10)
        for column, title in enumerate(titles):
            cell = axes[row, column]
            cell.imshow(strip[column].astype(np.uint8), interpolation="nearest")
            cell.set_xticks([])
            cell.set_yticks([])
            cell.spines[:].set_visible(False)
            if row == 0:
                cell.set_title(title, fontsize=9)
    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_png(buffer)
    return buffer.getvalue()
