"""The typed settings of video: those of images with tubelets, tubes and the sampling of frames."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from jepa_core.checks import check_between, check_rising
from jepa_core.evaluate.heads import ProbeSettings
from jepa_core.settings import DataSettings, OptimizerSettings, RunSettings, TrainerSettings
from jepa_vision.settings import (
    AugmentSettings,
    EncoderSettings,
    VisionSettings,
    check_method,
    check_probe,
    check_view,
)


@dataclass
class VideoDataSettings(DataSettings):
    """Clips of videos.

    Attributes:
        root: folder of videos, of frame folders or of tar shards; None = clips of moving hand signs, generated from the
            photos that the package brings.
        frames: frames of a clip.
        fps: frames per second of a clip, whatever the video has; 0 = take every ``stride``-th frame instead.
        stride: video frames from one clip frame to the next, with ``fps`` 0.
        height, width: input size in pixels, a multiple of ``vision.encoder.patch``.
        region: top, left, bottom and right edge of what is used of each frame, as shares of its height and width, where
            the camera always shows something else beside; only used with recordings.
        label: column of the label table or field of the ``.json`` beside a video that names the class; None = the
            table's ``label``, the ``.cls`` file or the folder.
        clips: generated clips that count as one epoch; only used without recordings.
        augment: one view for the whole clip, see there.
    """

    frames: int = 16
    fps: float = 0.0
    stride: int = 4
    height: int = 224
    width: int = 224
    region: list[float] = field(default_factory=lambda: [0.0, 0.0, 1.0, 1.0])
    label: str | None = None
    clips: int = 2000
    augment: AugmentSettings = field(default_factory=lambda: AugmentSettings(aspect_max=1.35, flip=0.5))


@dataclass
class VideoEncoderSettings(EncoderSettings):
    """The vision transformer on tubelets.

    Attributes:
        tubelet: frames of a tubelet.
    """

    tubelet: int = 2
    positions: Literal["sin_cos_yx", "sin_cos_half_time", "rotary_interleaved", "rotary_tiled", "stored"] = "sin_cos_yx"  # type: ignore[assignment]  # fewer than for images


@dataclass
class TubeSettings:
    """One set of tubes: how many, how large.

    Attributes:
        blocks: tubes, 0 = this set is not used.
        scale: share of a frame of each tube.
        context_share, target_share: lengths of the two lists as shares of all sites, with ``truncate=random``.
    """

    blocks: int = 8
    scale: float = 0.15
    context_share: float = 0.236
    target_share: float = 0.479


@dataclass
class FutureSettings:
    """How far the context goes.

    Attributes:
        past: share of the time steps that is seen.
        context_share: share of the tubelets of those steps that is given.
        target_share: share of the tubelets of the later steps that is predicted.
    """

    past: float = 0.5
    context_share: float = 0.75
    target_share: float = 0.75


@dataclass
class VideoMaskingSettings:
    """What is hidden.

    Attributes:
        kind: ``tubes`` (V-JEPA: one mask for each set of tubes), ``random`` (single tubelets) or ``future`` (what comes
            after the first steps).
        ratio: with ``random``, the share that is hidden.
        masks: with ``random``, masks of a clip; they share one pass of the target encoder.
        future: with ``future``, see there.
        short, long: with ``tubes``, V-JEPA's two sets; both span all frames.
        aspect_min, aspect_max: rows / columns of a tube.
        truncate: ``random`` (fixed lengths, what is too much is left out at random) or ``prefix`` (as released: cut to
            the shortest of the batch, early frames first).
        edges: ``wrap`` (tubes go on at the other side: every place is used equally often) or ``inside`` (as released;
            the only choice with ``prefix``).
    """

    kind: Literal["tubes", "random", "future"] = "tubes"
    ratio: float = 0.9
    masks: int = 1
    future: FutureSettings = field(default_factory=FutureSettings)
    short: TubeSettings = field(default_factory=TubeSettings)
    long: TubeSettings = field(default_factory=lambda: TubeSettings(2, 0.7, 0.068, 0.70))
    aspect_min: float = 0.75
    aspect_max: float = 1.5
    truncate: Literal["random", "prefix"] = "random"
    edges: Literal["inside", "wrap"] = "wrap"


@dataclass
class VideoSettings(VisionSettings):
    """The method; what is not listed here is as for images.

    Attributes:
        encoder: see there.
        masking: see there.
    """

    encoder: VideoEncoderSettings = field(default_factory=VideoEncoderSettings)
    masking: VideoMaskingSettings = field(default_factory=VideoMaskingSettings)  # type: ignore[assignment]  # tubes
    energy: Literal["smooth_l1", "l2", "l1"] = "l1"


@dataclass
class VideoProbeSettings(ProbeSettings):
    """The probe on frozen features: which class is this clip? What is not listed here is as for images.

    Attributes:
        train_clips: clips the probe is fitted on, at most; 0 = all.
        test_clips: clips it is tested on, at most; 0 = all.
    """

    train_clips: int = 0
    test_clips: int = 0
    batch_size: int = 32


@dataclass
class VideoRun(RunSettings):
    """A run on videos: the common settings and this modality's.

    Attributes:
        data: see there.
        vision: the method.
        probe: the probe.
    """

    modality: str = "video"
    data: VideoDataSettings = field(default_factory=VideoDataSettings)
    vision: VideoSettings = field(default_factory=VideoSettings)
    probe: VideoProbeSettings = field(default_factory=VideoProbeSettings)
    trainer: TrainerSettings = field(default_factory=TrainerSettings)
    optimizer: OptimizerSettings = field(default_factory=OptimizerSettings)

    def validate(self) -> None:
        """Impossible values; each message names the key, what was expected and what came."""
        check_view(self.data.height, self.data.width, self.vision.encoder.patch, self.data.augment)
        self._check_clip()
        self._check_masking()
        check_method(self.vision, self.probe.encoder)
        check_probe(self.probe, self.vision.encoder)
        for key in ("train_clips", "test_clips"):
            check_between(f"probe.{key}", getattr(self.probe, key), 0, float("inf"))

    def _check_clip(self) -> None:
        data, tubelet = self.data, self.vision.encoder.tubelet
        check_between("vision.encoder.tubelet", tubelet, 1, float("inf"))
        if data.frames < tubelet or data.frames % tubelet:
            raise ValueError(
                f"data.frames: expected a multiple of vision.encoder.tubelet ({tubelet}), got {data.frames}"
            )
        check_between("data.fps", data.fps, 0, 1000)
        check_between("data.stride", data.stride, 1, 1000)
        check_between("data.clips", data.clips, 1, float("inf"))
        if len(data.region) != 4 or not (
            0 <= data.region[0] < data.region[2] <= 1 and 0 <= data.region[1] < data.region[3] <= 1
        ):
            raise ValueError(
                f"data.region: expected top, left, bottom and right from 0 to 1, top above bottom and left of right, "
                f"got {data.region}"
            )

    def _check_masking(self) -> None:
        masking = self.vision.masking
        check_between("vision.masking.ratio", masking.ratio, 0.01, 0.99)
        check_between("vision.masking.masks", masking.masks, 1, 64)
        check_rising("vision.masking.aspect", masking.aspect_min, masking.aspect_max, 32)
        check_between("vision.masking.future.past", masking.future.past, 0.01, 0.99)
        for key in ("context_share", "target_share"):
            check_between(f"vision.masking.future.{key}", getattr(masking.future, key), 0.01, 1)
        sets = {"short": masking.short, "long": masking.long}
        for name, tubes in sets.items():
            check_between(f"vision.masking.{name}.blocks", tubes.blocks, 0, 64)
            check_between(f"vision.masking.{name}.scale", tubes.scale, 0.01, 0.99)
            for key in ("context_share", "target_share"):
                check_between(f"vision.masking.{name}.{key}", getattr(tubes, key), 0.001, 0.999)
        if masking.kind == "tubes" and not any(tubes.blocks for tubes in sets.values()):
            raise ValueError("vision.masking: expected tubes in short or long, got blocks=0 in both")
        if masking.truncate == "prefix" and masking.edges == "wrap":
            raise ValueError("vision.masking.edges: expected inside, which the released truncate=prefix has, got wrap")
