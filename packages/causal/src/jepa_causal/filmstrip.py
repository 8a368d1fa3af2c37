"""A rollout as a filmstrip and as a moving picture: what happened, what was predicted, and both with an object removed.

Discs are the truth, rings what a predictor says through the position probe; time runs from left to right.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jepa_causal.pictures import new_figure, png_of
from jepa_core.results import Picture

Floats = NDArray[np.float64]

SHOWN_HISTORY = 3
"""Steps of the history in a filmstrip; a moving picture shows all."""

MILLISECONDS = 350
HOLD_LAST = 4
"""The last frame of a moving picture stands for so many."""

_CELL_INCH = 1.35
_INK, _GHOST, _FLOOR, _FUTURE = "0.15", "0.55", "#f7f7f7", "#fffaf0"


@dataclass(frozen=True)
class Line:
    """One course of events: the truth and what was predicted of it.

    Attributes:
        name: beside the row.
        xy: true positions ``[T, N, 2]``, y upwards; history and future.
        present: bool ``[T, N]``.
        predicted: ``[S, N, 2]`` of the last S steps; NaN where nothing is said.
        ignored: ``[S, N, 2]`` by the same predictor, not told of the change; NaN where nothing is said. None: no such.
    """

    name: str
    xy: Floats
    present: NDArray[np.bool_]
    predicted: Floats
    ignored: Floats | None = None


@dataclass(frozen=True)
class Film:
    """What a filmstrip shows.

    Attributes:
        lines: rows, all of the same T, N and S.
        history: steps before the prediction begins.
        radius: of the objects, ``[N]``, in widths.
        colours: ``[N, 3]``, 0 to 1.
        removed: the object that is gone from the second line on; None: none.
    """

    lines: Sequence[Line]
    history: int
    radius: Floats
    colours: Floats
    removed: int | None = None


def filmstrip(film: Film, title: str, caption: str) -> Picture:
    """The film on one page."""
    first = max(0, film.history - SHOWN_HISTORY)
    steps = range(first, len(film.lines[0].xy))
    figure = new_figure(len(steps) * _CELL_INCH + 0.9, len(film.lines) * _CELL_INCH + 0.75)
    axes = figure.subplots(len(film.lines), len(steps), squeeze=False)
    for row, line in enumerate(film.lines):
        axes[row, 0].set_ylabel(line.name, fontsize=9)
        for column, step in enumerate(steps):
            _cell(axes[row, column], film, line, step)
            if row == 0:
                axes[row, column].set_title(_when(film, step), fontsize=9)
    _legend(figure, film, 4)
    return Picture(title, png_of(figure), caption)


def moving_picture(film: Film, title: str, caption: str) -> Picture:
    """The film as an animated GIF, which browsers and most viewers play."""
    return Picture(title, _animated(_frames(film)), caption)


def _when(film: Film, step: int) -> str:
    ahead = step - film.history + 1
    return f"t + {ahead}" if ahead > 0 else (f"t - {-ahead}" if ahead else "t (last seen)")


def _frames(film: Film) -> list[bytes]:
    found = []
    for step in range(len(film.lines[0].xy)):
        figure = new_figure(max(2, len(film.lines)) * 2.5 + 0.2, 3.6)
        for place, line in enumerate(film.lines):
            axes = figure.add_subplot(1, len(film.lines), place + 1)
            _cell(axes, film, line, step)
            axes.set_title(line.name, fontsize=10)
        figure.supxlabel(_when(film, step), fontsize=10)
        _legend(figure, film, 2)
        found.append(png_of(figure))
    return found


def _animated(frames: Sequence[bytes]) -> bytes:
    from PIL import Image

    images = [Image.open(io.BytesIO(frame)).convert("RGB") for frame in frames]
    # One palette for all frames keeps the file small and the colours still; the first has the history's colours.
    both = Image.new("RGB", (images[0].width, 2 * images[0].height))
    both.paste(images[0])
    both.paste(images[-1], (0, images[0].height))
    palette = both.quantize(64)
    images = [image.quantize(palette=palette, dither=Image.Dither.NONE) for image in images]
    times = [MILLISECONDS] * (len(images) - 1) + [MILLISECONDS * HOLD_LAST]
    buffer = io.BytesIO()
    images[0].save(buffer, "GIF", save_all=True, append_images=images[1:], duration=times, loop=0)
    return buffer.getvalue()


# --------------------------------------------------------------------------------------------------------------------
# One moment
# --------------------------------------------------------------------------------------------------------------------


def _cell(axes: Any, film: Film, line: Line, step: int) -> None:
    ahead = step - film.history
    axes.set(xlim=(0, 1), ylim=(0, 1), aspect="equal", xticks=(), yticks=())
    axes.set_facecolor(_FLOOR if ahead < 0 else _FUTURE)
    axes.spines[:].set(color="0.6", linewidth=0.8)
    for place in np.flatnonzero(line.present[step]).tolist():
        _disc(axes, line.xy[step, place], film.radius[place], film.colours[place])
    if line is not film.lines[0] and film.removed is not None and ahead == -1:
        _removed(axes, film.lines[0].xy[step, film.removed], film.radius[film.removed])
    if ahead < 0:
        return
    for place in range(len(film.radius)):
        if line.ignored is not None:
            _ring(axes, line.ignored[ahead, place], film.radius[place], _GHOST, (0, (2, 1.6)))
        _ring(axes, line.predicted[ahead, place], film.radius[place], _INK, "-")
        if line.present[step, place]:  # what belongs together, also where rings and discs lie among others
            axes.plot(*zip(line.predicted[ahead, place], line.xy[step, place], strict=True), color=_INK, lw=0.9)


def _disc(axes: Any, xy: Floats, radius: float, colour: Floats) -> None:
    from matplotlib.patches import Circle

    axes.add_patch(Circle(tuple(xy), radius, facecolor=colour, edgecolor="0.55", linewidth=0.5, alpha=0.85))


def _ring(axes: Any, xy: Floats, radius: float, colour: str, style: Any) -> None:
    from matplotlib.patches import Circle

    if np.isfinite(xy).all():
        axes.add_patch(Circle(tuple(xy), radius, fill=False, edgecolor=colour, linewidth=1.3, linestyle=style))


def _removed(axes: Any, xy: Floats, radius: float) -> None:
    from matplotlib.patches import Circle

    axes.add_patch(Circle(tuple(xy), radius, fill=False, edgecolor="0.6", linewidth=0.8))
    axes.plot(*xy, marker="x", color="0.4", markersize=7, markeredgewidth=1.4)


def _legend(figure: Any, film: Film, columns: int) -> None:
    from matplotlib.lines import Line2D

    def mark(label: str, **style: Any) -> Line2D:
        return Line2D([], [], linestyle="none", markersize=9, label=label, **style)

    handles = [
        mark("truth", marker="o", color="0.6"),
        mark("predicted, and its error", marker="o", markerfacecolor="none", markeredgecolor=_INK, markeredgewidth=1.3),
    ]
    if film.removed is not None:
        handles.append(mark("removed", marker="x", color="0.4", markeredgewidth=1.4))
        ghost = Line2D([], [], color=_GHOST, linestyle=(0, (2, 1.6)), linewidth=1.3, label="predicted, not told of it")
        handles.append(ghost)
    figure.legend(handles=handles, loc="outside upper center", ncols=columns, fontsize=9, frameon=False)
