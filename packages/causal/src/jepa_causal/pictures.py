"""Pictures for the report and ``jepa masks``: which slots are hidden when, and what of a frame each slot explains."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from jepa_core.contracts import Batch, Grid, Mask, Picture, Sites
from jepa_core.masking.source import MaskSource
from jepa_core.masking.statistics import mask_statistics
from jepa_core.methods.masked import MaskedPrediction

SHOWN = 4
MOST_STEPS = 8
DPI = 130

# Told apart in grey print too: each is lighter or darker than the others.
STATES = {"seen": "#8ecae6", "hidden, history": "#d1495b", "hidden, future": "#f4a259", "no object": "#f1f1f1"}
OTHER = "#bdbdbd"
SLOT_COLOURS = ("#4c566a", "#e4572e", "#29b6f6", "#f2c14e", "#76b041", "#b388eb", "#ff8fab", "#00897b")


@torch.no_grad()
def mask_pictures(method: MaskedPrediction | MaskSource, batch: Batch) -> list[Picture]:
    """One picture a mask: steps to the right, slots downwards, for the first samples of the batch."""
    grid, masks = method.masks(batch)
    title = "Mask" if len(masks) == 1 else "Mask {}"
    return [
        Picture(title.format(mask.name), _draw_masks(_states(grid, mask)), _mask_caption(grid, mask)) for mask in masks
    ]


def _mask_caption(grid: Grid, mask: Mask) -> str:
    sentence = mask_statistics(mask, grid.lattice.count).sentence()
    return f"{sentence}. Steps to the right, slots downwards; the first step of a slot stays visible: its anchor."


def _states(grid: Grid, mask: Mask) -> NDArray[np.int64]:
    """Index into :data:`STATES` of each site of the first samples, ``[R, K, T]``; one past the end: neither."""
    count = grid.lattice.count
    seen = mask.context.on_lattice(count)[:SHOWN]
    found = torch.full(seen.shape, len(STATES), device=seen.device)
    if grid.present is not None:
        found[~grid.present[:SHOWN]] = list(STATES).index("no object")
    found[seen] = list(STATES).index("seen")
    for kind, name in enumerate(mask.targets.kinds):
        of_kind = Sites(mask.targets.ids, mask.targets.kind_mask(kind)).on_lattice(count)[:SHOWN]
        found[of_kind] = list(STATES).index(f"hidden, {name}" if f"hidden, {name}" in STATES else "hidden, future")
    return np.asarray(found.reshape(len(found), *grid.lattice.sizes).transpose(1, 2).cpu().numpy())


def _draw_masks(states_RKT: NDArray[np.int64]) -> bytes:
    from matplotlib.colors import ListedColormap
    from matplotlib.patches import Patch

    count, slots, steps = states_RKT.shape
    side = min(0.24, 2.8 / steps, 3.2 / slots)
    figure = new_figure(max(4.6, (steps * side + 0.4) * count), slots * side + 1.05)
    colours = ListedColormap([*STATES.values(), OTHER])
    for place, states in enumerate(states_RKT):
        axes = figure.add_subplot(1, count, place + 1)
        edges = np.arange(steps + 1) - 0.5, np.arange(slots + 1) - 0.5
        axes.pcolormesh(*edges, states, cmap=colours, vmin=-0.5, vmax=len(STATES) + 0.5, edgecolors="white", lw=1.2)
        axes.set(aspect="equal", xticks=sorted({0, steps - 1}), yticks=sorted({0, slots - 1}), xlabel="step")
        axes.set_ylabel("slot" if place == 0 else "")
        axes.invert_yaxis()
        axes.tick_params(length=0, labelsize=8)
        axes.spines[:].set_visible(False)
    used = np.unique(states_RKT)
    names = [*STATES, "not asked for"]
    handles = [Patch(color=colours(int(index)), label=names[index]) for index in used]
    figure.legend(handles=handles, loc="outside upper center", ncols=len(handles), fontsize=9, frameon=False)
    return png_of(figure)


# --------------------------------------------------------------------------------------------------------------------
# What slots see
# --------------------------------------------------------------------------------------------------------------------


def slot_picture(
    frames_THW3: NDArray[np.uint8],
    masks_TKHW: Tensor | NDArray[np.floating],
    segments_THW: NDArray[np.uint8] | None = None,
    caption: str = "",
) -> Picture:
    """Frames above the slot that explains each pixel best, above each slot's own share.

    Args:
        frames_THW3: RGB.
        masks_TKHW: share of each pixel that a slot explains, 0 to 1.
        segments_THW: true segments, drawn if given.
        caption: said first.
    """
    masks = np.asarray(masks_TKHW.detach().cpu() if isinstance(masks_TKHW, Tensor) else masks_TKHW, dtype=np.float64)
    chosen = np.unique(np.linspace(0, len(frames_THW3) - 1, min(MOST_STEPS, len(frames_THW3))).round().astype(int))
    colours = np.array([_rgb(SLOT_COLOURS[k % len(SLOT_COLOURS)]) for k in range(masks.shape[1])])
    rows: dict[str, NDArray[Any]] = {"frame": frames_THW3 / 255.0}
    if segments_THW is not None:
        palette = np.array([_rgb(SLOT_COLOURS[n % len(SLOT_COLOURS)]) for n in range(int(segments_THW.max()) + 1)])
        rows["true segments"] = palette[segments_THW]
    rows["best slot"] = colours[masks.argmax(1)]
    for slot in range(masks.shape[1]):
        rows[f"slot {slot}"] = masks[:, slot, :, :, None] * colours[slot] + (1 - masks[:, slot, :, :, None])
    text = f"{caption} Time to the right. Each slot is drawn as strongly as its share of a pixel.".strip()
    return Picture("What each slot explains", _draw_strips(rows, chosen), text)


def _draw_strips(rows: dict[str, NDArray[Any]], chosen: NDArray[np.int64]) -> bytes:
    height, width = next(iter(rows.values())).shape[1:3]
    side = 0.95
    figure = new_figure(len(chosen) * side + 1.0, len(rows) * side * height / width + 0.3)
    axes = figure.subplots(len(rows), len(chosen), squeeze=False)
    for row, (name, images) in enumerate(rows.items()):
        axes[row, 0].set_ylabel(name, fontsize=9, rotation=0, ha="right", va="center")
        for column, step in enumerate(chosen):
            cell = axes[row, column]
            cell.imshow(np.clip(images[step], 0, 1), interpolation="nearest")
            cell.set(xticks=(), yticks=())
            cell.spines[:].set(color="0.8", linewidth=0.6)
            if row == 0:
                cell.set_title(f"step {step}", fontsize=9)
    return png_of(figure)


def _rgb(colour: str) -> tuple[float, float, float]:
    from matplotlib.colors import to_rgb

    return to_rgb(colour)


# --------------------------------------------------------------------------------------------------------------------
# Figures
# --------------------------------------------------------------------------------------------------------------------


def new_figure(width_in: float, height_in: float) -> Any:
    """An empty figure that no window belongs to."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width_in, height_in), dpi=DPI, layout="constrained")


def png_of(figure: Any) -> bytes:
    """The figure as PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_png(buffer)
    return buffer.getvalue()
