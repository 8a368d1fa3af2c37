"""What test_sharded.py starts by the files in launch/: the example sensor by DDP and in parts, in two processes.

    accelerate launch --config_file <file> --num_processes 2 sharded_runs.py <example> <folder> <sharding>

Writes ``found.json`` into the folder; runs lie beside it.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from jepa_core.config import compose
from jepa_core.distributed import own_shard, whole
from jepa_core.energy import SmoothL1
from jepa_core.errors import DivergenceError
from jepa_core.masking.time import TimeMasker
from jepa_core.methods.masked import MaskedPrediction
from jepa_core.monitor.console import Console
from jepa_core.nn.patch_encoder import PatchEncoder, Size
from jepa_core.nn.predictor import TransformerPredictor
from jepa_core.plugins import find_modality
from jepa_core.targets import EmaTarget, LayerNormalise, MomentumSchedule
from jepa_core.train import checkpoint as checkpoints
from jepa_core.train import launch
from jepa_core.train.launch import Launch
from jepa_core.train.run import build_method
from jepa_core.train.trainer import Parts, Trainer

STEPS, HALF = 4, 2
SMALL = [
    *("trainer.device=cpu", "trainer.threads=1", "trainer.batch_size=2", "trainer.accumulation=2"),
    *(f"trainer.max_steps={STEPS}", f"trainer.checkpoint_every={HALF}", "trainer.keep_checkpoints=0"),
    *("trainer.log_every=1", "trainer.clip_norm=0.05", "optimizer.warmup=0", "monitor.every=2", "data.workers=0"),
    *("motion.persons=4", "motion.windows=1", "logging.trackers=[]", "logging.progress=off", "runs_dir=unused"),
]


def small(modality: Any) -> Any:
    """The sensor with a network that has few tensors: each costs an exchange between processes that share a core."""

    def build(config: Any) -> MaskedPrediction:
        lattice = modality.build(config).front_end.lattice
        encoder = PatchEncoder(Size(16, 1, 2, 32), 48, lattice)
        return MaskedPrediction(
            front_end=modality.build(config).front_end,
            encoder=encoder,
            target=EmaTarget(encoder, "follow", MomentumSchedule(0.9, 1.0, STEPS)),
            masker=TimeMasker(0.6, length=3),
            predictor=TransformerPredictor(lattice, 16, width=16, depth=1, heads=2),
            energy=SmoothL1(),
            normaliser=LayerNormalise(),
        )

    return SimpleNamespace(name="small", schema=modality.schema, sources=modality.sources, build=build)


class Course:
    """Runs in the same processes, one after the other."""

    def __init__(self, example: str, folder: Path) -> None:
        self.modality: Any = small(find_modality(example))
        self.config = compose(self.modality.schema, None, SMALL)
        self.folder = folder
        self.started = launch.start(self.config.trainer)

    def trainer(self, name: str, sharding: str, origin: Path | None = None) -> Trainer:
        run_dir = self.folder / name
        self.started.control.first(lambda: run_dir.mkdir())
        started: Launch = replace(self.started, sharding=sharding)
        console = Console(STEPS, self.config.logging, enabled=started.rank == 0)
        source = self.modality.sources(self.config)
        method = build_method(self.config, self.modality)
        trainer = Trainer(Parts(method, source, self.config, "", started, run_dir, console))
        if origin is not None:
            trainer.restore(checkpoints.load(self.folder / origin))
        return trainer

    def trained(self, name: str, sharding: str, origin: Path | None = None) -> Trainer:
        trainer = self.trainer(name, sharding, origin)
        assert trainer.train()
        return trainer


def features(trainer: Trainer) -> torch.Tensor:
    """Of the same batch in every run; process 1 of a sharded one takes part."""
    assert trainer.last_batch is not None
    found: torch.Tensor = trainer.method.embed(trainer.last_batch)["tokens"].features
    return found


def main() -> None:
    """All courses, and what is seen from inside."""
    course = Course(sys.argv[1], Path(sys.argv[2]))
    kind = sys.argv[3]
    assert (course.started.sharding, course.started.world) == (kind, 2)  # as the launcher was configured
    ddp = course.trained("ddp", "none")
    sharded = course.trained("cut", kind)
    held = sum(own_shard(p.detach()).numel() for p in sharded.method.parameters())
    inside = features(sharded)
    still_cut = all(own_shard(p.detach()) is not p for p in sharded.method.parameters())
    sharded.assemble(lambda: build_method(course.config, course.modality))
    found = {
        "sharding": kind,
        "share held": held / sum(p.numel() for p in ddp.method.parameters()),
        "cut after embedding": still_cut,
        "assembled embeds the same": course.started.rank > 0 or torch.equal(inside, features(sharded)),
        "refused": "",
    }
    broken = course.trained("cut-cut", kind, Path(f"cut/checkpoints/step-{HALF}"))
    course.trained("cut-ddp", "none", Path(f"cut/checkpoints/step-{HALF}"))
    course.trained("ddp-cut", kind, Path(f"ddp/checkpoints/step-{HALF}"))
    last = list(broken.method.parameters())[-1]
    with torch.no_grad():
        if course.started.rank == 1:
            own_shard(last.detach()).fill_(float("nan"))
    if kind == "fsdp2":
        assert whole(last.detach()).isnan().any() and not whole(last.detach()).isnan().all()
    try:
        broken.save()
    except DivergenceError as error:
        found["refused"] = str(error)
    everywhere = course.started.control.gather(found)
    if course.started.rank == 0:
        (course.folder / "found.json").write_text(json.dumps(everywhere))
    course.started.accelerator.end_training()


if __name__ == "__main__":
    main()
