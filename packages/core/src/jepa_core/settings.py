"""The typed settings every run has; a modality extends :class:`RunSettings` with its own sections."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class DataSettings:
    """Where samples come from.

    Attributes:
        root: folder of the recordings; None = ``JEPA_DATA``, then what the package brings itself.
        max_bad_fraction: more distinct bad samples than this fraction (0 to 1) of the data set stop the run.
        workers: loader processes per training process; ``auto`` or a number.
    """

    root: str | None = None
    max_bad_fraction: float = 0.05
    workers: str = "auto"


@dataclass
class TrainerSettings:
    """How long and how fast.

    Attributes:
        max_steps: optimiser steps.
        batch_size: samples per process and micro-batch.
        accumulation: micro-batches per optimiser step.
        clip_norm: the L2 norm of all gradients together is clipped to this; 0 = no clipping.
        precision: ``auto`` (bf16 on GPUs that have it), ``native`` (and on CPUs that multiply in it), ``fp32``,
            ``bf16``.
        device: ``auto``, ``cpu``, ``cuda``.
        sharding: ``none`` (a copy of the method on each process, DDP), ``fsdp2`` (each process holds its part of
            weights, gradients, optimiser and target), ``zero1`` or ``zero2`` (DeepSpeed: its part of the optimiser
            state, or of the gradients too), or ``auto``: what ``accelerate launch`` is configured for, else ``none``.
        compile: whether the method's blocks are compiled with torch.compile.
        log_every: steps between two lines of ``metrics.jsonl``.
        checkpoint_every: steps between two checkpoints; 0 = only the last.
        keep_checkpoints: newest checkpoints that are kept, older ones are removed; 0 = keep all.
        keep_best: the checkpoint with the best of this logged figure is kept too, and ``checkpoints/best`` leads to it:
            ``auto`` (``probe/linear`` where ``probe.every`` is set), ``none``, or a name as in ``metrics.jsonl``. Of
            losses the lowest is best, of all else the highest; the mean since the checkpoint before it counts.
        save_in_background: whether a checkpoint is written from a copy in CPU memory while training goes on.
        max_weight_growth: a step that makes the L2 norm of all weights more than this many times what it was ends the
            run (exit code 3), and so does one that makes it 2 % larger and changes it 20 times more than any of the ten
            steps before; 0 = any growth is allowed.
        timeout_s: seconds that a process waits for the others before it takes them for lost and ends; more than the
            probe at the end takes, through which all wait for process 0.
        threads: CPU threads of each training process; ``auto`` (all cores, shared between the processes of a machine;
            a launcher's OMP_NUM_THREADS=1 does not count) or a number.
    """

    max_steps: int = 1000
    batch_size: int = 16
    accumulation: int = 1
    clip_norm: float = 10.0
    precision: str = "auto"
    device: str = "auto"
    sharding: str = "auto"
    compile: bool = False
    log_every: int = 10
    checkpoint_every: int = 0
    keep_checkpoints: int = 2
    keep_best: str = "auto"
    save_in_background: bool = False
    max_weight_growth: float = 1.25
    timeout_s: int = 1800
    threads: str = "auto"


@dataclass
class OptimizerSettings:
    """Optimiser and schedules, all counted in optimiser steps.

    Attributes:
        name: ``adamw`` or ``adam_onecycle`` (momentum cycled, as OpenPCDet trains).
        lr: peak learning rate; no unit.
        lr_start: learning rate at step 0 as a fraction of ``lr``.
        lr_end: learning rate at the end of the schedule as a fraction of ``lr``.
        shape: ``cosine`` or ``linear``: the way from ``lr`` to its end after the warm-up.
        stretch: the schedules of learning rate and weight decay are laid out over this many times the run and cut at
            its end; published recipes stretch by 1.25.
        warmup: steps of linear warm-up (a number >= 1) or the fraction of all steps (below 1).
        weight_decay: of AdamW (decoupled, times the learning rate), at the first step; no unit.
        weight_decay_end: the same at the end of the schedule (cosine); None = constant.
        beta1, beta2: momenta of Adam, 0 to 1.
        eps: of Adam, added to the root of the second moment.
    """

    name: str = "adamw"
    lr: float = 1e-3
    lr_start: float = 0.0
    lr_end: float = 0.0
    shape: str = "cosine"
    stretch: float = 1.0
    warmup: float = 0.1
    weight_decay: float = 0.01
    weight_decay_end: float | None = None
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8


@dataclass
class MonitorSettings:
    """The collapse monitor.

    Attributes:
        every: steps between two measurements; 0 = off.
        rows: feature vectors measured, over all processes.
        stop_on_collapse: end the run (exit code 4) when the verdict is total collapse.
    """

    every: int = 10
    rows: int = 1024
    stop_on_collapse: bool = False


@dataclass
class OnlineProbeSettings:
    """Probes of the frozen encoder while it trains; they change neither its weights nor its random numbers.

    Attributes:
        every: optimiser steps between two probes (linear and kNN, on the mean token of labelled samples); 0 = off.
        samples: labelled samples of each side of the split that they read, at most.
        neighbours: k of the nearest-neighbour vote.
    """

    every: int = 0
    samples: int = 512
    neighbours: int = 20


@dataclass
class ReportSettings:
    """What the report shows of single samples, where a run ends with a probe.

    Attributes:
        samples: held-back samples, drawn by the seed, that are embedded at the end of a run: the report shows the
            nearest neighbours of a few and a map of all; 0 = none.
    """

    samples: int = 512


@dataclass
class LoggingSettings:
    """Where figures go besides ``metrics.jsonl``.

    Attributes:
        trackers: names Accelerate knows, for example ``tensorboard`` or ``wandb``.
        progress: ``auto`` (a bar on a terminal, else lines), ``bar``, ``lines``, ``off``.
        lines_every: steps between two lines when the output is no terminal.
    """

    trackers: list[str] = field(default_factory=lambda: ["tensorboard"])
    progress: str = "auto"
    lines_every: int = 25


@dataclass
class RunSettings:
    """One run.

    Attributes:
        modality: name of an installed plug-in, or the path of a ``.py`` file that brings one.
        recipe: name of a recipe of that modality, or the path of a YAML file.
        seed: all randomness of the run comes from it.
        name: folder name below ``runs_dir``; None = ``<modality>-<recipe>``, numbered when it exists.
        runs_dir: where run folders lie.
        resume: None, ``auto`` (the newest run of this name that has a checkpoint), or a run or checkpoint folder.
        dry_run: show the parameter table, first shapes, memory, schedules; then stop.
    """

    modality: str = ""
    recipe: str = "quickstart"
    seed: int = 0
    name: str | None = None
    runs_dir: str = "runs"
    resume: str | None = None
    dry_run: bool = False
    data: DataSettings = field(default_factory=DataSettings)
    trainer: TrainerSettings = field(default_factory=TrainerSettings)
    optimizer: OptimizerSettings = field(default_factory=OptimizerSettings)
    monitor: MonitorSettings = field(default_factory=MonitorSettings)
    probe: OnlineProbeSettings = field(default_factory=OnlineProbeSettings)
    logging: LoggingSettings = field(default_factory=LoggingSettings)
    report: ReportSettings = field(default_factory=ReportSettings)
