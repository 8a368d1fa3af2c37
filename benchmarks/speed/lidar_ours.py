"""Our side of the LiDAR rows: a whole training step of AD-L-JEPA (arXiv 2501.04969) from the recipes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from own_step import OwnStep
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from jepa_core.config import compose
from jepa_core.contracts import Batch, Grid
from jepa_core.methods.masked import MaskedPrediction
from jepa_lidar.bev_encoder import BevEncoder
from jepa_lidar.masking import EMPTY, OCCUPIED
from jepa_lidar.modality import MODALITY, build_method
from jepa_lidar.settings import LidarRun
from jepa_lidar.sources import training_source
from jepa_lidar.voxels import Points, Voxels

# What makes our recipe the released code's mathematics; see what the recipe says it changes.
AS_RELEASED = (
    "lidar.mask_scope=batch",
    "lidar.target.buffers=own",
    "lidar.predictor.last=bn_relu",
    "lidar.train_tokens=false",
)


class Given(nn.Module):
    """A front end that gives voxels made before: what the released loader gives its step."""

    def __init__(self, voxels: Voxels, grid: Grid) -> None:
        super().__init__()
        self.voxels, self.grid = voxels, grid

    def forward(self, inputs: Any, seeds: Tensor) -> tuple[Voxels, Grid]:
        """The same voxels each time."""
        return self.voxels, self.grid


def configuration(options: Mapping[str, Any]) -> LidarRun:
    """The recipe with the overrides of a row."""
    recipe = cast(Any, MODALITY.recipes) / f"{options['recipe']}.yaml"
    return cast(LidarRun, compose(LidarRun, recipe, [*options["overrides"], f"trainer.device={options['device']}"]))


def batch_of(config: LidarRun, size: int) -> Batch:
    """The first scans of the training data."""
    source = training_source(config)
    seeds = torch.arange(size)
    scans = [source.load(index, index) for index in range(size)]
    return Batch(source.collate(scans), seeds, tuple(source.sample_id(index) for index in range(size)))


def built(config: LidarRun) -> MaskedPrediction:
    """The method with the weights of seed 0, in train mode."""
    torch.manual_seed(0)
    return build_method(config).train()


@torch.no_grad()
def exchange(options: Mapping[str, Any], path: Path) -> None:
    """Writes what both sides start from: weights by our names, voxels, and the mask that ours draws on them."""
    config = configuration(options)
    method, batch = built(config), batch_of(config, options["batch"])
    voxels, grid = method.front_end(batch.inputs, batch.seeds)
    (mask,) = method.masker(grid, batch.seeds, 0)
    kind, kept = mask.context.kind, mask.context.valid_mask()
    assert kind is not None
    tensors = {f"weights.{name}": tensor.clone() for name, tensor in method.state_dict().items()}
    tensors |= {
        "features": voxels.features,
        "coordinates": voxels.coordinates,
        "counts": voxels.counts,
        "context": kept & (kind == OCCUPIED),
        "empty_context": kept & (kind == EMPTY),
        "occupied": kind == OCCUPIED,
    }
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)


def build(options: Mapping[str, Any]) -> OwnStep:
    """Our side of a row; with ``voxels_given``, on the voxels of the exchange."""
    config, device = configuration(options), torch.device(options["device"])
    method, batch = built(config), batch_of(config, options["batch"])
    points: Points = batch.inputs
    batch.inputs = Points(points.features.to(device), points.batch.to(device), points.batch_size)
    batch.seeds = batch.seeds.to(device)
    if options.get("voxels_given"):
        stored = load_file(options["exchange"])
        method.front_end = Given(_voxels(stored, len(batch), device), _grid(method, stored, device))
    return OwnStep(method.to(device), batch, config, options["steps"])


def _voxels(stored: Mapping[str, Tensor], scans: int, device: torch.device) -> Voxels:
    features, coordinates, counts = (stored[name].to(device) for name in ("features", "coordinates", "counts"))
    return Voxels(features, coordinates, scans, counts)


def _grid(method: MaskedPrediction, stored: Mapping[str, Tensor], device: torch.device) -> Grid:
    assert isinstance(method.encoder, BevEncoder)
    return Grid(method.encoder.lattice, occupied=stored["occupied"].to(device))
