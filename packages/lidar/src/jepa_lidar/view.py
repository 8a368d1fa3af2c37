"""Pictures of a scan: from above and as a range image, with boxes; and an interactive window through open3d."""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from jepa_lidar.data import recorded_boxes
from jepa_lidar.geometry import Boxes, box_corners
from jepa_lidar.readers import read_scan

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_GROUND_M, _TOP_M = -2.0, 1.5  # heights that the colours span, for a sensor on a car's roof
_INK, _PAPER, _MUTED = "#e8eaed", "#101418", "#9aa0a6"
_CLASS_COLOURS = {"Car": "#ffb000", "Van": "#ff5ca8", "Truck": "#ff5ca8", "Pedestrian": "#36d1ff", "Cyclist": "#9dff6e"}
_OTHER_COLOUR = "#ffffff"
_EDGES = [(i, (i + 1) % 4) for i in range(4)]
_EDGES += [(a + 4, b + 4) for a, b in _EDGES] + [(i, i + 4) for i in range(4)]


def load_for_view(path: str | Path) -> tuple[NDArray[np.float32], Boxes | None]:
    """Points ``[P, 4]`` of a file and its labelled boxes, if a table lies beside it. Raises BadSample."""
    return read_scan(path).points, recorded_boxes(Path(path))


def scan_figure(points: NDArray[np.float32], boxes: Boxes | None, title: str) -> bytes:
    """PNG of a scan: bird's-eye view by height above, range image below; boxes drawn in the first.

    Args:
        points: ``[P, 4+]`` x, y, z, intensity.
        boxes: drawn with a tick that shows where they face; None = unlabelled.
        title: a headline.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 9), dpi=110, facecolor=_PAPER, layout="constrained")
    FigureCanvasAgg(figure)
    above, below = figure.subplots(2, 1, height_ratios=(3.4, 1))
    figure.suptitle(title, color=_INK, fontsize=13)
    _draw_above(figure, above, points, boxes)
    _draw_range(figure, below, points)
    buffer = io.BytesIO()
    # No "Software" entry: the same picture is the same file whatever matplotlib drew it.
    figure.savefig(buffer, format="png", facecolor=_PAPER, metadata={"Software": None})
    return buffer.getvalue()


def _draw_above(figure: Figure, axes: Axes, points: NDArray[np.float32], boxes: Boxes | None) -> None:
    order = np.argsort(points[:, 2], kind="stable")
    x, y, z = points[order, :3].T
    size = float(np.clip(20_000 / max(len(points), 1), 0.2, 3.0))
    dots = axes.scatter(x, y, c=z, s=size, cmap="turbo", vmin=_GROUND_M, vmax=_TOP_M, linewidths=0, rasterized=True)
    axes.plot(0, 0, marker=(3, 0, -90), color=_INK, markersize=9)
    if boxes is not None:
        _draw_boxes(axes, boxes)
    _dress(axes, "x forward (m)", "y left (m)")
    axes.set_aspect("equal")
    axes.set_xlim(*_limits(x))
    axes.set_ylim(*_limits(y))
    _bar(figure, axes, dots, "height (m)")


def _limits(values: NDArray[np.float32]) -> tuple[float, float]:
    """A range that holds all but the outermost half per cent of the points and the sensor."""
    low, high = np.percentile(values, (0.5, 99.5)) if len(values) else (0.0, 0.0)
    return min(float(low), 0.0) - 2.0, max(float(high), 0.0) + 2.0


def _draw_boxes(axes: Axes, boxes: Boxes) -> None:
    shown: set[str] = set()
    for corners, box, name in zip(box_corners(boxes.values), boxes.values, boxes.names, strict=True):
        colour = _CLASS_COLOURS.get(name, _OTHER_COLOUR)
        ring = corners[[0, 1, 2, 3, 0], :2]
        axes.plot(*ring.T, color=colour, linewidth=1.4, label=None if name in shown else name)
        nose = box[:2] + np.array([np.cos(box[6]), np.sin(box[6])]) * (box[3] / 2 + 0.8)
        axes.plot([box[0], nose[0]], [box[1], nose[1]], color=colour, linewidth=1.0)
        shown.add(name)
    if shown:
        axes.legend(loc="upper left", facecolor=_PAPER, edgecolor=_MUTED, labelcolor=_INK, fontsize=9)


def _draw_range(figure: Figure, axes: Axes, points: NDArray[np.float32]) -> None:
    image, extent = range_image(points)
    shown = axes.imshow(image, cmap="viridis_r", vmin=0, vmax=60, extent=extent, aspect="auto", interpolation="nearest")
    _dress(axes, "azimuth, left to right (degrees)", "elevation (degrees)")
    _bar(figure, axes, shown, "range (m)")


def range_image(
    points: NDArray[np.float32], rows: int = 48, columns: int = 512
) -> tuple[NDArray[np.float32], tuple[float, float, float, float]]:
    """Nearest range ``[rows, columns]`` by elevation and azimuth (NaN: no return), and the extent in degrees."""
    flat = np.hypot(points[:, 0], points[:, 1])
    azimuth = np.degrees(np.arctan2(points[:, 1], points[:, 0]))
    elevation = np.degrees(np.arctan2(points[:, 2], np.maximum(flat, 1e-6)))
    half = 90.0 if np.abs(azimuth).max(initial=0.0) <= 91.0 else 180.0
    low, high = -25.0, 4.0
    column = ((half - azimuth) / (2 * half) * columns).astype(int)
    row = ((high - elevation) / (high - low) * rows).astype(int)
    kept = (column >= 0) & (column < columns) & (row >= 0) & (row < rows)
    image = np.full((rows, columns), np.inf, dtype=np.float32)
    distance = np.hypot(flat, points[:, 2]).astype(np.float32)
    np.minimum.at(image, (row[kept], column[kept]), distance[kept])
    return np.where(np.isinf(image), np.nan, image), (half, -half, low, high)


def _dress(axes: Axes, xlabel: str, ylabel: str) -> None:
    axes.set_facecolor(_PAPER)
    axes.set_xlabel(xlabel, color=_MUTED)
    axes.set_ylabel(ylabel, color=_MUTED)
    axes.tick_params(colors=_MUTED, labelsize=8)
    for spine in axes.spines.values():
        spine.set_color("#3c4043")


def _bar(figure: Figure, axes: Axes, shown: object, label: str) -> None:
    bar = figure.colorbar(shown, ax=axes, shrink=0.8, pad=0.01)  # type: ignore[arg-type]  # any mappable
    bar.set_label(label, color=_MUTED)
    bar.ax.tick_params(colors=_MUTED, labelsize=8)
    bar.outline.set_edgecolor("#3c4043")


def show_interactive(points: NDArray[np.float32], boxes: Boxes | None) -> None:
    """Opens a window to turn the scan in; needs the extra ``open3d`` and a display. ValueError says how to get it."""
    if sys.platform == "linux" and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        # open3d would draw where nobody sees it, and never return.
        raise ValueError("the interactive view needs a display, got none (DISPLAY is not set); leave out --window")
    try:
        import open3d
    except (ImportError, OSError) as error:
        raise ValueError(
            f"the interactive view needs open3d, which did not load ({error}): pip install open3d; "
            "on Linux it also needs the system library libusb-1.0 (apt install libusb-1.0-0)"
        ) from None
    from matplotlib import colormaps

    cloud = open3d.geometry.PointCloud(open3d.utility.Vector3dVector(points[:, :3].astype(np.float64)))
    shade = np.clip((points[:, 2] - _GROUND_M) / (_TOP_M - _GROUND_M), 0, 1)
    cloud.colors = open3d.utility.Vector3dVector(colormaps["turbo"](shade)[:, :3])
    shapes = [cloud, open3d.geometry.TriangleMesh.create_coordinate_frame(size=2.0)]
    if boxes is not None and len(boxes):
        shapes += [_wire_box(open3d, corners) for corners in box_corners(boxes.values)]
    window = open3d.visualization.Visualizer()
    if not window.create_window(window_name="LiDAR scan"):
        raise ValueError("the interactive view could not open a window on this display; leave out --window")
    for shape in shapes:
        window.add_geometry(shape)
    look = window.get_render_option()
    look.point_size, look.background_color = 2.0, np.array([0.06, 0.07, 0.09])
    window.run()
    window.destroy_window()


def _wire_box(open3d: ModuleType, corners: NDArray[np.float64]) -> object:
    """The twelve edges of one box for open3d."""
    box = open3d.geometry.LineSet(
        points=open3d.utility.Vector3dVector(corners), lines=open3d.utility.Vector2iVector(np.array(_EDGES))
    )
    box.paint_uniform_color((1.0, 0.69, 0.0))
    return box
