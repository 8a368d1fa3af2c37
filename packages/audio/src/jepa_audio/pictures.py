"""Pictures of masks over spectrograms and of features, for the report and ``jepa masks``."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from jepa_audio.framing import FilterBank
from jepa_audio.frontend import SpectrogramFrontEnd
from jepa_audio.presets import preset
from jepa_audio.waveforms import Waveforms
from jepa_core.contracts import Batch, Picture
from jepa_core.evaluate.colours import principal_colours
from jepa_core.lattice import Lattice
from jepa_core.masking.source import MaskSource
from jepa_core.masking.statistics import mask_statistics
from jepa_core.methods.frozen import frozen_tokens
from jepa_core.methods.masked import MaskedPrediction
from jepa_core.thumbnails import image_png

SHOWN = 4
_COLOURS = "magma"

SAMPLE_SHAPE = (128, 64)
"""Width and height of a sample's picture, in pixels."""
SAMPLE_HOW = (
    "Log-mel spectrograms: time to the right, low frequencies at the bottom, each over its own length and levels."
)


@torch.no_grad()
def mask_pictures(method: MaskedPrediction | MaskSource, batch: Batch) -> list[Picture]:
    """One picture a mask: the first spectrograms whole, as the context shows them, and the targets alone."""
    grid, masks = method.masks(batch)
    shown = _spectrograms(method.front_end, batch.inputs, grid.lattice)
    found = []
    for mask in masks:
        seen = _sites(mask.context.on_lattice(grid.lattice.count), grid.lattice, len(shown))
        hidden = _sites(mask.targets.on_lattice(grid.lattice.count), grid.lattice, len(shown))
        columns = {"log energies": None, "context": seen, "targets": hidden}
        caption = f"{mask_statistics(mask, grid.lattice.count).sentence()}. Time runs to the right, frequency upwards."
        title = "Mask" if len(masks) == 1 else f"Mask {mask.name}"
        found.append(Picture(title, _draw_masks(shown, columns, grid.lattice), caption))
    return found


@torch.no_grad()
def feature_pictures(encoders: Mapping[str, MaskedPrediction], batch: Batch) -> list[Picture]:
    """One picture: the first spectrograms above the feature maps of each encoder.

    Args:
        encoders: by the name of their row.
        batch: on the encoders' device.
    """
    clips = _first(batch.inputs)
    first = next(iter(encoders.values()))
    maps, shares = {}, []
    for name, method in encoders.items():
        was_training = method.training
        method.eval()
        try:
            tokens = frozen_tokens(method, "online", clips)
        finally:
            method.train(was_training)
        colours = principal_colours(tokens.features)
        maps[name] = colours.rgb.unflatten(1, (tokens.lattice.sizes[0], -1)).transpose(1, 2).numpy()
        shares.append(f"{name} {colours.explained:.0%}")
    shown = _spectrograms(first.front_end, clips, tokens.lattice)
    caption = (
        "The first three principal components of the tokens of these clips as red, green and blue, for each row by "
        f"itself (share of the variance: {', '.join(shares)}). Within a row, similar colours are similar features."
    )
    return [Picture("Feature maps", _draw_features(shown, maps), caption)]


@torch.no_grad()
def sample_pngs(front_end: Any, inputs: Waveforms) -> list[bytes]:
    """A spectrogram of each clip up to its own end, stretched over its own range of levels, in one shape for all."""
    from matplotlib import colormaps
    from PIL import Image

    found, colours = _bank(front_end, inputs)(inputs), colormaps[_COLOURS]
    rows, frames, _ = found.values.shape
    lengths = [frames] * rows if found.lengths is None else found.lengths.tolist()
    pictures = []
    for values, length in zip(found.values.float().cpu().numpy(), lengths, strict=True):
        own = values[: max(1, length)].T[::-1]
        level = (own - own.min()) / max(float(np.ptp(own)), 1e-6)
        image = Image.fromarray((colours(level)[..., :3] * 255).round().astype(np.uint8))
        pictures.append(image_png(np.asarray(image.resize(SAMPLE_SHAPE, Image.Resampling.BOX))))
    return pictures


def _first(inputs: Waveforms) -> Waveforms:
    return Waveforms(inputs.samples[:SHOWN], None if inputs.lengths is None else inputs.lengths[:SHOWN])


def _spectrograms(front_end: Any, inputs: Waveforms, lattice: Lattice) -> NDArray[np.float32]:
    """Log energies ``[R, bins, frames]`` of the first clips, cut where the lattice ends."""
    bank = _bank(front_end, inputs)
    values: Tensor = bank(_first(inputs)).values
    if isinstance(front_end, SpectrogramFrontEnd):
        frames = lattice.sizes[0] * front_end.patch[0]
        missing = max(0, frames - values.shape[1])
        values = torch.nn.functional.pad(values[:, :frames], (0, 0, 0, missing), value=bank.silence)
    return np.asarray(values.float().transpose(1, 2).cpu().numpy())


def _bank(front_end: Any, inputs: Waveforms) -> FilterBank:
    """The front end's filter bank; of a front end that reads samples, the usual one."""
    own: FilterBank = front_end.bank if isinstance(front_end, SpectrogramFrontEnd) else preset("default").bank()
    return own.to(inputs.samples.device)


def _sites(sites_RN: Tensor, lattice: Lattice, shown: int) -> NDArray[np.bool_]:
    """``[R, N]`` to ``[R, F, T]``."""
    return np.asarray(sites_RN[:shown].cpu().numpy().reshape(shown, lattice.sizes[0], -1).transpose(0, 2, 1))


def _stretched(sites: NDArray[np.bool_], shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """``[F, T]`` of sites to ``[bins, frames]`` of a spectrogram."""
    rows = np.arange(shape[0]) * sites.shape[0] // shape[0]
    columns = np.arange(shape[1]) * sites.shape[1] // shape[1]
    return np.asarray(sites[rows][:, columns])


def _draw_masks(shown: NDArray[np.float32], columns: Mapping[str, NDArray[np.bool_] | None], lattice: Lattice) -> bytes:
    from matplotlib import colormaps

    colours = colormaps[_COLOURS].with_extremes(bad="0.9")
    figure, axes = _axes(len(shown), list(columns))
    seconds = lattice.sizes[0] * lattice.spacing[0]
    for row, spectrogram in enumerate(shown):
        for column, sites in enumerate(columns.values()):
            kept = spectrogram if sites is None else _where(sites[row], spectrogram)
            cell = axes[row, column]
            cell.imshow(
                kept,
                origin="lower",
                aspect="auto",
                cmap=colours,
                vmin=float(spectrogram.min()),
                vmax=float(spectrogram.max()),
                extent=(0, seconds, 0, len(spectrogram)),
                interpolation="nearest",
            )
            _label(cell, row == len(shown) - 1, column == 0)
    return _png(figure)


def _where(sites: NDArray[np.bool_], spectrogram: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.where(_stretched(sites, spectrogram.shape), spectrogram, np.float32(np.nan))


def _draw_features(shown: NDArray[np.float32], maps: Mapping[str, NDArray[np.float32]]) -> bytes:
    figure, axes = _axes(len(shown), ["log energies", *maps])
    for row, spectrogram in enumerate(shown):
        axes[row, 0].imshow(spectrogram, origin="lower", aspect="auto", cmap=_COLOURS, interpolation="nearest")
        for column, features in enumerate(maps.values(), 1):
            axes[row, column].imshow(features[row], origin="lower", aspect="auto", interpolation="nearest")
        for cell in axes[row]:
            cell.set_xticks([])
            cell.set_yticks([])
    return _png(figure)


def _axes(rows: int, titles: list[str]) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(2.6 * len(titles), 1.5 * rows + 0.4), dpi=110, layout="constrained")
    axes = figure.subplots(rows, len(titles), squeeze=False)
    for cell, title in zip(axes[0], titles, strict=True):
        cell.set_title(title, fontsize=10)
    return figure, axes


def _label(cell: Any, lowest: bool, leftmost: bool) -> None:
    cell.tick_params(labelsize=7, labelbottom=lowest, labelleft=leftmost)
    if lowest:
        cell.set_xlabel("s", fontsize=8)
    if leftmost:
        cell.set_ylabel("bin", fontsize=8)


def _png(figure: Any) -> bytes:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_png(buffer)
    return buffer.getvalue()
