"""Our side of the LiDAR rows: a whole training step of AD-L-JEPA (arXiv 2501.04969) as the trainer takes it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from alternate import TOTAL, Stopwatch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from jepa_core.config import compose
from jepa_core.contracts import Batch, Grid, Losses
from jepa_core.methods.masked import MaskedPrediction
from jepa_core.train.optim import apply_rates, build_optimizer
from jepa_core.train.schedule import rates_at
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
CLIP_NORM = 10.0


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


class Step:
    """Forward, backward, clip, optimiser, target update; no log, no monitor."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        self.device = torch.device(options["device"])
        config = self.config = configuration(options)
        method, batch = built(config), batch_of(config, options["batch"])
        if options.get("voxels_given"):
            stored = load_file(options["exchange"])
            method.front_end = Given(_voxels(stored, len(batch), self.device), _grid(method, stored, self.device))
        self.method = method.to(self.device)
        points: Points = batch.inputs
        batch.inputs = Points(points.features.to(self.device), points.batch.to(self.device), points.batch_size)
        batch.seeds = batch.seeds.to(self.device)
        self.batch = batch
        self.method.watched = False
        self.optimizer, _, _ = build_optimizer(self.method.parameter_groups(), config.optimizer, self.device)
        self.parameters = [parameter for parameter in self.method.parameters() if parameter.requires_grad]
        self.count, self.watch = 0, Stopwatch()
        self.watch.watch(self.method.encoder, "context encoder")
        self.watch.watch(cast(Any, self.method.target).encoder, "target encoder")
        self.watch.watch(self.method.predictor, "predictor")
        self.steps = int(options["steps"])

    def facts(self) -> Mapping[str, Any]:
        """The loss of the first step, and of the second, after all that a step changes."""
        losses = [self._step() for _ in range(2)]
        self.watch.take()
        return {"losses": losses}

    def turn(self) -> Mapping[str, float]:
        """A turn of steps."""
        with self.watch.of(TOTAL):
            for _ in range(self.steps):
                self._step()
        return self.watch.take()

    def _step(self) -> float:
        self.count += 1
        apply_rates(self.optimizer, rates_at(self.count, self.config.trainer.max_steps, self.config.optimizer))
        with self.watch.of("forward"):
            losses: Losses = self.method(self.batch, self.count)
        with self.watch.of("backward"):
            losses.total.backward()
        with self.watch.of("optimiser and target"):
            torch.nn.utils.clip_grad_norm_(self.parameters, CLIP_NORM)
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
            self.method.after_step(self.count)
        # Waits for a GPU, as the reference does for its log.
        return float(losses.total.detach())


def build(options: Mapping[str, Any]) -> Step:
    """Our side of a row."""
    return Step(options)


def _voxels(stored: Mapping[str, Tensor], scans: int, device: torch.device) -> Voxels:
    features, coordinates, counts = (stored[name].to(device) for name in ("features", "coordinates", "counts"))
    return Voxels(features, coordinates, scans, counts)


def _grid(method: MaskedPrediction, stored: Mapping[str, Tensor], device: torch.device) -> Grid:
    assert isinstance(method.encoder, BevEncoder)
    return Grid(method.encoder.lattice, occupied=stored["occupied"].to(device))
