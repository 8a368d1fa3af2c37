"""The LiDAR plug-in: AD-L-JEPA (arXiv 2501.04969) on sparse voxels, composed from the common parts."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files
from typing import Any, cast

import torch
from torch import nn

from jepa_core.anticollapse import VarianceHinge
from jepa_core.contracts import Batch, Energy, Method, Picture, ProbeTable, SampleSource, TargetEncoder
from jepa_core.energy import BinaryCrossEntropy, Cosine
from jepa_core.evaluation_source import LabelledSource, Split
from jepa_core.methods.masked import KindToken, MaskedPrediction, Regulariser, TargetNormaliser
from jepa_core.results import SamplePictures
from jepa_core.targets import EmaTarget, MomentumSchedule, RawTarget, Standardise, StopGradientTarget, Whiten
from jepa_lidar.bev_encoder import BevEncoder
from jepa_lidar.encoder import SparseBackbone
from jepa_lidar.frontend import VoxelFrontEnd
from jepa_lidar.geometry import GRIDS
from jepa_lidar.masking import EMPTY, KINDS, OCCUPIED, BevMasker
from jepa_lidar.occupancy import CellOccupancy
from jepa_lidar.predictor import BevPredictor
from jepa_lidar.probe import run_probe
from jepa_lidar.settings import SIMULATED, LidarRun
from jepa_lidar.sources import choose_root, evaluation_source, held_back, probe_split, training_source
from jepa_lidar.sparse import choose_backend

# Positive sub-voxels are rare; the reconstruction control weighs them by this.
OCCUPANCY_POSITIVE_WEIGHT = 4.0

# Half of the way to white: see jepa_core.targets.Whiten.
WHITEN_POWER = 0.25


class LidarModality:
    """See :class:`jepa_core.contracts.Modality`."""

    name = "lidar"
    schema: type = LidarRun
    recipes = files("jepa_lidar") / "recipes"

    def build(self, config: LidarRun) -> Method:
        """The method of this configuration, on the CPU, in float32."""
        return cast(Method, build_method(config))

    def sources(self, config: LidarRun) -> SampleSource:
        """Training scans."""
        return training_source(config)

    def choices(self, config: LidarRun) -> Sequence[tuple[str, str, str]]:
        """Data and sparse backend, each with its reason."""
        root = choose_root(config)
        backend, reason = choose_backend(config.lidar.sparse_backend, _device(config))
        back = held_back(config)
        count = f"{len(training_source(config))} {'scenes an epoch' if root.root == SIMULATED else 'scans to train on'}"
        rows = [("data", f"{root.root}: {count}", root.reason), ("sparse backend", backend, reason)]
        if back:
            rows.append(("held back", f"{back} scans", "the later part of recordings is never trained on"))
        return rows

    def probe(self, config: LidarRun, trained: Method, untrained: Method, device: torch.device) -> ProbeTable | None:
        """Frozen features against the controls; None when switched off or nothing is held back."""
        if not config.probe.enabled:
            return None
        split = probe_split(config)
        return None if split is None else run_probe(split, GRIDS[config.data.grid], trained, untrained, device)

    def evaluation(self, config: LidarRun, split: Split) -> LabelledSource | None:
        """Scans as they were recorded, with their drives."""
        return evaluation_source(config, split)

    def pictures(self, config: LidarRun, method: Method, batch: Batch) -> Sequence[Picture]:
        """The mask of the first scan and the scan itself."""
        from jepa_lidar.pictures import mask_picture

        return [mask_picture(cast(MaskedPrediction, method), batch)]

    def sample_pictures(self, config: LidarRun, batch: Batch) -> SamplePictures:
        """Bird's-eye views of the scans: their points over the cells that they occupy."""
        from jepa_lidar.pictures import SAMPLE_HOW, sample_pngs

        return SamplePictures(sample_pngs(batch.inputs, GRIDS[config.data.grid]), SAMPLE_HOW)

    def add_commands(self, subparsers: Any) -> None:
        """``jepa data view <scan>``."""
        from jepa_lidar.commands import add_view

        add_view(subparsers)


MODALITY = LidarModality()


def _device(config: LidarRun) -> torch.device:
    wanted = config.trainer.device
    return torch.device(wanted if wanted != "auto" else "cuda" if torch.cuda.is_available() else "cpu")


def build_method(config: LidarRun) -> MaskedPrediction:
    """Composes the parts that the settings name."""
    options, grid = config.lidar, GRIDS[config.data.grid]
    front_end = VoxelFrontEnd(grid, options.voxel_features, options.max_points, options.max_voxels)
    backend, _ = choose_backend(options.sparse_backend, _device(config))
    backbone = SparseBackbone(options.backbone, front_end.channels, grid.sparse_shape, backend)
    encoder = BevEncoder(backbone, grid)
    kind_token = None if options.target.policy == "occupancy" else KindToken(encoder.width, EMPTY)
    method = MaskedPrediction(
        front_end=front_end,
        encoder=encoder,
        target=_target(config, encoder),
        masker=BevMasker(options.mask_ratio, options.mask_scope),
        predictor=_predictor(config, encoder),
        energy=_energy(config),
        coefficients={KINDS[OCCUPIED]: options.occupied_weight, KINDS[EMPTY]: options.empty_weight},
        regularisers=_regularisers(config, encoder.width),
        kind_token=kind_token,
        normaliser=_normaliser(config),
        target_view=options.target.view,
        monitor_rows=config.monitor.rows,
    )
    if not options.train_tokens:
        _freeze_tokens(method)
    return method


def _target(config: LidarRun, encoder: BevEncoder) -> TargetEncoder:
    wanted = config.lidar.target
    if wanted.policy == "occupancy":
        return RawTarget(CellOccupancy(encoder.grid))
    if wanted.policy == "stop_gradient":
        return StopGradientTarget(encoder)
    schedule = MomentumSchedule(wanted.momentum_start, wanted.momentum_end, config.trainer.max_steps)
    return EmaTarget(encoder, wanted.buffers, schedule)


def _normaliser(config: LidarRun) -> TargetNormaliser | None:
    wanted = config.lidar.target.normalise
    if wanted == "none":
        return None
    return Standardise(OCCUPIED) if wanted == "standardise" else Whiten(WHITEN_POWER, OCCUPIED)


def _predictor(config: LidarRun, encoder: BevEncoder) -> BevPredictor:
    wanted, width = config.lidar.predictor, encoder.width
    hidden = tuple(wanted.hidden) or (width, width)
    out = CellOccupancy(encoder.grid).width if config.lidar.target.policy == "occupancy" else width
    # The kind token stands at every empty cell; the occupancy control has none.
    shared = None if config.lidar.target.policy == "occupancy" else EMPTY
    return BevPredictor(width, hidden, wanted.input_scale, wanted.last, out, shared)


def _energy(config: LidarRun) -> Energy:
    if config.lidar.target.policy == "occupancy":
        return BinaryCrossEntropy(OCCUPANCY_POSITIVE_WEIGHT)
    return Cosine()


def _regularisers(config: LidarRun, width: int) -> list[Regulariser]:
    weight = config.lidar.variance_weight
    if weight == 0:
        return []
    # 1 / sqrt(D) is the spread of an L2-normalised vector whose directions are all used alike.
    hinge = VarianceHinge(gamma=width**-0.5, eps=1e-4, scope="sample")
    return [
        Regulariser(hinge, "context", OCCUPIED, weight, l2_normalise=True),
        Regulariser(hinge, "prediction", OCCUPIED, weight, l2_normalise=True),
    ]


def _freeze_tokens(method: MaskedPrediction) -> None:
    tokens = [cast(nn.Parameter, method.predictor.mask_token)]
    if method.kind_token is not None:
        tokens.append(method.kind_token.token)
    for token in tokens:
        token.requires_grad_(False)
