"""The typed settings of the LiDAR modality; recipes are values for them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from jepa_core.settings import DataSettings, OnlineProbeSettings, OptimizerSettings, RunSettings, TrainerSettings

SIMULATED = "simulated"


@dataclass
class AugmentSettings:
    """Label-free augmentation; nothing is ever pasted in.

    Attributes:
        flip_x: x changes sign (front and back swap) with probability 1/2.
        flip_y: y changes sign (left and right swap) with probability 1/2.
        rotation_deg: rotation about the vertical, uniform in plus or minus this, in degrees.
        scale: factor on all coordinates, uniform in [1 - scale, 1 + scale].
        shuffle: shuffle the points, which matters where a voxel or the voxel budget overflows.
    """

    flip_x: bool = False
    flip_y: bool = True
    rotation_deg: float = 0.0
    scale: float = 0.0
    shuffle: bool = False


@dataclass
class LidarDataSettings(DataSettings):
    """Scans.

    Attributes:
        root: folder of scans, or ``simulated``; None = ``JEPA_DATA``/lidar, then simulated scans.
        grid: name of a voxel grid (kitti, waymo, once, nuscenes, small).
        halves: cut uncropped 360-degree scans into a front and a rear half where the grid looks forward only.
        scenes: simulated scenes an epoch.
        fresh: whether every epoch simulates new scenes.
        beams: beams of the simulated sensor, 32 or 64.
        azimuths: simulated columns over the front half-circle (twice as many over the full circle).
        intensity_scale: what a float intensity of 1 would be on the sensor's scale, for example 255; 0 = known from
            the format.
        view_deg: only points within this view (degrees) straight ahead are used, for example a camera's; 360 = all.
        augment: see there.
    """

    grid: Literal["kitti", "waymo", "once", "nuscenes", "small"] = "small"
    halves: bool = True
    scenes: int = 400
    fresh: bool = True
    beams: Literal[32, 64] = 64
    azimuths: int = 512
    intensity_scale: float = 0.0
    view_deg: float = 360.0
    augment: AugmentSettings = field(default_factory=AugmentSettings)


@dataclass
class TargetSettings:
    """The target encoder.

    Attributes:
        policy: ``ema``, ``stop_gradient``, or ``occupancy`` (raw sub-voxel occupancy: the reconstruction control).
        view: ``full`` (it sees the whole scan) or ``targets`` (only the hidden cells, as the paper does).
        buffers: of the ``ema`` target: ``follow`` (batch-norm statistics averaged like parameters, eval mode) or
            ``own`` (train mode with statistics of its own, as the released code does).
        momentum_start: of the ``ema`` target: momentum of the first update.
        momentum_end: of the ``ema`` target: momentum of the last update.
        normalise: ``none``, ``standardise`` (each channel over the batch's hidden occupied cells) or ``whiten`` (half
            of the way to uncorrelated channels over the same cells).
    """

    policy: Literal["ema", "stop_gradient", "occupancy"] = "ema"
    view: Literal["full", "targets"] = "targets"
    buffers: Literal["follow", "own"] = "follow"
    momentum_start: float = 0.996
    momentum_end: float = 1.0
    normalise: Literal["none", "standardise", "whiten"] = "none"


@dataclass
class PredictorSettings:
    """The convolutional predictor.

    Attributes:
        hidden: widths between the convolutions; empty = the encoder's width twice, as published.
        input_scale: ``unit`` (as published) or ``sqrt_width``.
        last: ``bn_relu`` (as published) or ``plain``.
    """

    hidden: list[int] = field(default_factory=list)
    input_scale: Literal["unit", "sqrt_width"] = "unit"
    last: Literal["plain", "bn_relu"] = "plain"


@dataclass
class LidarSettings:
    """The method.

    Attributes:
        sparse_backend: ``auto``, ``torch`` or ``spconv``.
        backbone: ``small_backbone_4x``, ``voxel_backbone_8x`` or ``voxel_res_backbone_8x``.
        voxel_features: ``mean`` (MeanVFE: mean of raw point features) or ``offset`` (7 values, no absolute x and y).
        max_points: points a voxel averages at most; 0 = all.
        max_voxels: voxels a scan keeps at most in training; 0 = all.
        mask_ratio: share of occupied and of empty cells that are hidden.
        mask_scope: ``scan`` (the share holds in every scan) or ``batch`` (over the batch, as published).
        train_tokens: whether the mask and empty tokens are trained (the released code leaves them at their random
            start).
        occupied_weight: weight of the energy on hidden occupied cells.
        empty_weight: weight of the energy on hidden empty cells.
        variance_weight: weight of the variance hinge; 0 = it is not computed.
        target: see there.
        predictor: see there.
    """

    sparse_backend: Literal["auto", "torch", "spconv"] = "auto"
    backbone: Literal["small_backbone_4x", "voxel_backbone_8x", "voxel_res_backbone_8x"] = "voxel_backbone_8x"
    voxel_features: Literal["mean", "offset"] = "mean"
    max_points: int = 5
    max_voxels: int = 0
    mask_ratio: float = 0.5
    mask_scope: Literal["scan", "batch"] = "scan"
    train_tokens: bool = True
    occupied_weight: float = 0.75
    empty_weight: float = 0.25
    variance_weight: float = 1.0
    target: TargetSettings = field(default_factory=TargetSettings)
    predictor: PredictorSettings = field(default_factory=PredictorSettings)


@dataclass
class LidarProbeSettings(OnlineProbeSettings):
    """The probe on frozen features: is there an object point in an occupied bird's-eye cell?

    Attributes:
        enabled: whether the run ends with the probe.
        train_scans: scans the probe is fitted on, at most.
        test_scans: scans it is tested on, at most.
        train_until: recordings are used for training up to this fraction of their length (1 = hold nothing back, no
            probe); 0 = chosen by whether there are boxes (.585 with, .88 without).
        test_from: the probe is tested from this fraction on; the frames between are the gap. 0 = chosen (.65, .90).
        azimuth_deg: with camera-only boxes, cells beyond this angle (degrees) from straight ahead do not count.
    """

    enabled: bool = True
    train_scans: int = 40
    test_scans: int = 40
    train_until: float = 0.0
    test_from: float = 0.0
    azimuth_deg: float = 38.0


@dataclass
class LidarRun(RunSettings):
    """A LiDAR run: the common settings and this modality's.

    Attributes:
        data: see there.
        lidar: the method.
        probe: the probe.
    """

    modality: str = "lidar"
    data: LidarDataSettings = field(default_factory=LidarDataSettings)
    lidar: LidarSettings = field(default_factory=LidarSettings)
    probe: LidarProbeSettings = field(default_factory=LidarProbeSettings)
    trainer: TrainerSettings = field(default_factory=TrainerSettings)
    optimizer: OptimizerSettings = field(default_factory=OptimizerSettings)

    def validate(self) -> None:
        """Impossible values; each message names the key, what was expected and what came."""
        _between("lidar.mask_ratio", self.lidar.mask_ratio, 0.01, 0.99)
        _between("lidar.target.momentum_start", self.lidar.target.momentum_start, 0, 1)
        _between("lidar.target.momentum_end", self.lidar.target.momentum_end, 0, 1)
        for key in ("max_points", "max_voxels", "occupied_weight", "empty_weight", "variance_weight"):
            _between(f"lidar.{key}", getattr(self.lidar, key), 0, 1e9)
        if self.lidar.occupied_weight + self.lidar.empty_weight == 0:
            raise ValueError("lidar.occupied_weight: expected a value above 0 where lidar.empty_weight is 0, got 0")
        if self.lidar.target.policy == "occupancy" and self.lidar.variance_weight > 0:
            raise ValueError(
                f"lidar.variance_weight: expected 0 with lidar.target.policy=occupancy, whose predictions are logits, "
                f"got {self.lidar.variance_weight:g}"
            )
        _between("data.scenes", self.data.scenes, 1, float("inf"))
        _between("data.view_deg", self.data.view_deg, 1, 360)
        _between("probe.azimuth_deg", self.probe.azimuth_deg, 1, 180)
        _between("data.intensity_scale", self.data.intensity_scale, 0, float("inf"))
        _between("data.azimuths", self.data.azimuths, 16, 8192)
        _between("data.augment.scale", self.data.augment.scale, 0, 0.5)
        _between("data.augment.rotation_deg", self.data.augment.rotation_deg, 0, 180)
        _between("probe.train_scans", self.probe.train_scans, 1, float("inf"))
        _between("probe.test_scans", self.probe.test_scans, 2, float("inf"))
        _between("probe.train_until", self.probe.train_until, 0, 1)
        _between("probe.test_from", self.probe.test_from, 0, 1)
        if self.probe.test_from and self.probe.test_from <= self.probe.train_until:
            raise ValueError(
                f"probe.test_from: expected more than probe.train_until ({self.probe.train_until}), so that test "
                f"frames come after training frames, got {self.probe.test_from}"
            )


def _between(key: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise ValueError(f"{key}: expected a value from {low} to {high}, got {value}")
