"""Pictures of masks on the bird's-eye grid, for the report and ``jepa masks``."""

from __future__ import annotations

import io

import numpy as np
import torch
from numpy.typing import NDArray

from jepa_core.contracts import Batch, Mask, Picture
from jepa_core.methods.masked import MaskedPrediction
from jepa_core.thumbnails import SIDE, image_png
from jepa_lidar.geometry import VoxelGrid
from jepa_lidar.masking import EMPTY, OCCUPIED
from jepa_lidar.voxels import Points

# What a cell is: (label, colour), in the order of the codes below.
_STATES = (
    ("occupied, context", "#1f6feb"),
    ("occupied, target", "#f0883e"),
    ("empty, context", "#eef1f4"),
    ("empty, target", "#d5dae0"),
)


SAMPLE_HOW = (
    "From above, x forward to the right, y left upwards: points, the darker the higher, over the cells they occupy."
)
_CELL, _NOTHING, _LOW, _HIGH = np.array([[190, 214, 250], [255, 255, 255], [126, 174, 245], [0, 0, 40]])


@torch.no_grad()
def mask_picture(method: MaskedPrediction, batch: Batch) -> Picture:
    """Bird's-eye map of the first scan's mask: context, target, empty, with the points over it."""
    grid, masks = method.masks(batch)
    mask, (rows, columns) = masks[0], grid.lattice.sizes
    state = _states(mask).reshape(rows, columns)
    png = _draw(state, _points_of_first(batch), grid.lattice.origin, grid.lattice.spacing)
    return Picture("Mask", png, f"{batch.sample_id[0]}: {_counts(state)}")


def sample_pngs(points: Points, grid: VoxelGrid) -> list[bytes]:
    """Each scan from above, x to the right and y upwards: its points over the cells they lie in.

    Points out of the grid's range are not drawn.
    """
    shape = np.array(grid.bev_shape)
    fine = max(1, SIDE // int(shape.max()))
    inside = grid.inside(points.features).cpu().numpy()
    xyz, scan = points.features[:, :3].cpu().numpy()[inside], points.batch.cpu().numpy()[inside]
    places = (xyz[:, 1::-1] - (grid.low_m[1], grid.low_m[0])) / np.array(grid.bev_lattice.spacing) * fine
    places = np.minimum(places.astype(np.int64), shape * fine - 1)
    heights = (xyz[:, 2] - grid.low_m[2]) / (grid.high_m[2] - grid.low_m[2])
    return [
        image_png(_from_above(places[scan == number], heights[scan == number], shape, fine)[::-1])
        for number in range(points.batch_size)
    ]


def _from_above(
    places: NDArray[np.int64], heights: NDArray[np.floating], shape: NDArray[np.int64], fine: int
) -> NDArray[np.uint8]:
    """Pixels ``[rows * fine, columns * fine, 3]`` of points at ``places`` ``[P, 2]`` whose heights are 0 to 1."""
    occupied = np.zeros(shape, dtype=bool)
    occupied[tuple(places.T // fine)] = True
    top = np.full(shape * fine, -1.0)
    np.maximum.at(top, tuple(places.T), heights)
    cells = np.where(occupied.repeat(fine, axis=0).repeat(fine, axis=1)[..., None], _CELL, _NOTHING)
    level = np.clip(top, 0, 1)[..., None]
    found = np.where(top[..., None] < 0, cells, (1 - level) * _LOW + level * _HIGH)
    return found.astype(np.uint8)


def _states(mask: Mask) -> NDArray[np.int64]:
    """Code of each cell ``[cells]``, index into :data:`_STATES`."""
    context = mask.context.on_lattice(mask.context.ids.shape[1])[0]
    occupied = (mask.context.kind_mask(OCCUPIED) | mask.target_union.kind_mask(OCCUPIED))[0]
    empty = (mask.context.kind_mask(EMPTY) | mask.target_union.kind_mask(EMPTY))[0]
    assert bool((occupied ^ empty).all()), "every cell is either occupied or empty"
    code = torch.where(occupied, 0, 2) + torch.where(context, 0, 1)
    return np.asarray(code.cpu())


def _counts(state: NDArray[np.int64]) -> str:
    return ", ".join(f"{int((state == code).sum())} {label}" for code, (label, _) in enumerate(_STATES))


def _points_of_first(batch: Batch) -> NDArray[np.float32]:
    points: Points = batch.inputs
    return np.asarray(points.features[points.batch == 0].cpu())


def _draw(
    state: NDArray[np.int64], points: NDArray[np.float32], origin: tuple[float, ...], spacing: tuple[float, ...]
) -> bytes:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.colors import ListedColormap
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    rows, columns = state.shape
    left, bottom = origin[1] - spacing[1] / 2, origin[0] - spacing[0] / 2
    extent = (left, left + columns * spacing[1], bottom, bottom + rows * spacing[0])
    figure = Figure(figsize=(7.2, 7.6), dpi=110, layout="constrained")
    axes = figure.subplots()
    colours = ListedColormap([colour for _, colour in _STATES])
    axes.imshow(
        state, cmap=colours, vmin=-0.5, vmax=len(_STATES) - 0.5, origin="lower", extent=extent, interpolation="nearest"
    )
    axes.scatter(points[:, 0], points[:, 1], s=0.3, color="#0b1220", alpha=0.35, linewidths=0)
    axes.set(xlim=extent[:2], ylim=extent[2:], xlabel="x forward (m)", ylabel="y left (m)")
    handles = [Patch(facecolor=colour, edgecolor="#8b949e", label=label) for label, colour in _STATES]
    figure.legend(handles=handles, loc="outside upper center", ncols=4, frameon=False, fontsize=9)
    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_png(buffer)
    return buffer.getvalue()
