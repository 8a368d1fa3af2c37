"""The reference's side of the LiDAR rows: HaoranZhuExplorer/AD-L-JEPA-Release from a checkout, on spconv.

Its modules are imported from ``--reference DIR``; nothing of it is in this project. On a CPU its layers are told to use
spconv's native algorithm: the one that they choose by themselves exists for CUDA only.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest import mock

import spconv.pytorch as spconv
import torch
from driver import Stopwatch
from rows import StepTaker
from safetensors.torch import load_file
from torch import Tensor, nn

# Its configuration ad_l_jepa_kitti.yaml.
VOXEL_M = (0.05, 0.05, 0.1)
RANGE_M = (0.0, -40.0, -3.0, 70.4, 40.0, 1.0)
GRID = (1408, 1600, 40)
MASKED_RATIO, ALPHA, BETA, CLIP_NORM = 0.5, 1.0, 1.0, 10.0
WEIGHT_DECAY, LR, MOMENTS, DIV_FACTOR, RISE = 0.01, 3e-4, (0.95, 0.85), 10, 0.4
ITERATIONS, MOMENTUM = 27_840, 0.996


class _Settings(dict[str, Any]):
    """What it reads its settings from: keys that are attributes too."""

    def __getattr__(self, name: str) -> Any:
        if name not in self:
            raise AttributeError(name)
        return self[name]


def imported(reference: Path) -> SimpleNamespace:
    """Its model and its optimiser, without the packages' own imports of everything."""
    for name in ("pcdet", "pcdet.models", "pcdet.models.backbones_3d", "pcdet.utils"):
        module = ModuleType(name)
        module.__path__ = [str(reference / name.replace(".", "/"))]
        sys.modules[name] = module
    sys.modules.setdefault("SharedArray", ModuleType("SharedArray"))  # not used in a step
    sys.path.insert(0, str(reference / "tools" / "train_utils"))
    from optimization import build_optimizer, build_scheduler  # type: ignore[import-not-found]  # of the checkout
    from pcdet.models.backbones_3d.ad_l_jepa import AD_L_JEPA  # type: ignore[import-not-found]  # of the checkout

    return SimpleNamespace(model=AD_L_JEPA, optimizer=build_optimizer, scheduler=build_scheduler)


class Step(StepTaker):
    """The body of its training loop: schedule, forward with its log's figures, backward, clip, optimiser, target."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        import numpy as np

        self.device = torch.device(options["device"])
        stored = load_file(options["exchange"])
        parts = imported(Path(options["reference"]))
        settings = _Settings(MASKED_RATIO=MASKED_RATIO, ALPHA=ALPHA, BETA=BETA)
        self.model: nn.Module = parts.model(settings, 4, np.array(GRID), VOXEL_M, RANGE_M)
        self.model.load_state_dict(named_as_theirs(stored))
        if self.device.type == "cpu":
            for layer in self.model.modules():
                if isinstance(layer, spconv.conv.SparseConvolution):
                    layer.algo = spconv.ConvAlgo.Native
        self.model.to(self.device).train()
        wanted = _Settings(
            OPTIMIZER="adam_onecycle", WEIGHT_DECAY=WEIGHT_DECAY, LR=LR, MOMS=list(MOMENTS), DIV_FACTOR=DIV_FACTOR,
            PCT_START=RISE, DECAY_STEP_LIST=[35, 45],
        )  # fmt: skip
        self.optimizer = parts.optimizer(self.model, wanted)
        self.schedule, _ = parts.scheduler(self.optimizer, ITERATIONS, 1, 0, wanted)
        self.batch = {
            "batch_size": int(stored["occupied"].shape[0]),
            "voxel_features": stored["features"].to(self.device),
            "voxel_coords": stored["coordinates"].to(self.device),
        }
        self.draws = draws(stored, self.device)
        self.count, self.steps, self.watch = 0, int(options["steps"]), Stopwatch()
        parts_of = dict(self.model.named_children())
        self.watch.watch(parts_of["encoder"], "context encoder")
        self.watch.watch(parts_of["target_encoder"], "target encoder")
        self.watch.watch(parts_of["predictor"], "predictor")

    def step(self) -> float:
        """One training step of both encoders, predictor, optimiser and target."""
        model: Any = self.model
        self.schedule.step(self.count)
        self.optimizer.zero_grad()
        with self.watch.of("forward"), given(self.draws):
            model(dict(self.batch))
            loss, figures = model.get_loss()
        with self.watch.of("backward"):
            loss.backward()
        with self.watch.of("optimiser and target"):
            torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP_NORM)
            self.optimizer.step()
            momentum = MOMENTUM + (1 - MOMENTUM) * self.count / ITERATIONS
            with torch.no_grad():
                for online, target in zip(model.encoder.parameters(), model.target_encoder.parameters(), strict=True):
                    target.data.mul_(momentum).add_((1.0 - momentum) * online.detach().data)
        self.count += 1
        return float(loss.item())


def build(options: Mapping[str, Any]) -> Step:
    """The reference's side of a row."""
    return Step(options)


def named_as_theirs(stored: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our weights under its names."""
    places = {
        "encoder.backbone.": "encoder.",
        "target.encoder.backbone.": "target_encoder.",
        **{f"predictor.layers.{3 * i + j}.": f"predictor.conv{i + 1}.{j}." for i in range(3) for j in range(2)},
    }
    tokens = {"predictor.mask_token": "mask_token", "kind_token.token": "empty_token"}
    found = {}
    for name, tensor in stored.items():
        own = name.removeprefix("weights.")
        if own in tokens:
            found[tokens[own]] = tensor.view(1, -1, 1, 1)
        for ours, theirs in places.items():
            if name != own and own.startswith(ours):
                found[theirs + own.removeprefix(ours)] = tensor
    return found


def draws(stored: Mapping[str, Tensor], device: torch.device) -> list[Tensor]:
    """What its two draws of uniform numbers must give to make our mask: of occupied cells in order, of all cells."""
    rows, columns = GRID[1] // 8, GRID[0] // 8
    of_occupied = (~stored["context"])[stored["occupied"]].float()
    coin = torch.where(stored["empty_context"], 0.25, 0.75).view(-1, rows, columns)
    return [of_occupied.to(device), coin.to(device)]


@contextmanager
def given(numbers: list[Tensor]) -> Iterator[None]:
    """``torch.rand`` gives these, one after the other."""
    left = list(numbers)

    def rand(*_: Any, **__: Any) -> Tensor:
        return left.pop(0)

    with mock.patch.object(torch, "rand", rand):
        yield
    assert not left, "the reference drew fewer numbers than it was given"
