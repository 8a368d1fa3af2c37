"""The references' side of a vision row: facebookresearch/ijepa and /jepa, imported from a checkout and stepped.

The modules, optimisers, collators and loss functions are theirs, called in the order of their training scripts; the
distributed wrapper, the loader and the schedules are left out, which is in their favour. What is done before the first
step (weights, inputs, masks) is written down for our side.
"""

from __future__ import annotations

import abc
import contextlib
import copy
import importlib
import logging
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from driver import TOTAL, Stopwatch
from torch import Tensor
from torch.nn import functional as F
from vision_cases import (
    DECAY,
    LR,
    MOMENTUM,
    Case,
    Options,
    Step,
    draw_inputs,
    keep_steps,
    lengths,
    normalise,
)


def _import(checkout: str, name: str) -> Any:
    if checkout not in sys.path:
        sys.path.insert(0, checkout)
    return importlib.import_module(name)


class Reference(abc.ABC):
    """See :class:`driver.Work`; what the two projects share."""

    def __init__(self, options: Options) -> None:
        logging.disable(logging.INFO)
        self.case: Case = options["case"]
        self.checkout = str(options["reference"])
        torch.manual_seed(0)
        self.encoder, self.predictor = self.models()
        self.target = copy.deepcopy(self.encoder).requires_grad_(False)
        self.steps = self.draw(options["steps"])
        self.write(Path(options["folder"]))
        self.optimizer = self.build_optimizer()
        for group in self.optimizer.param_groups:
            group["lr"] = LR
            group["weight_decay"] = 0.0 if group.get("WD_exclude") else DECAY
        self.autocast = options["precision"] == "bf16"
        self.watch = Stopwatch()

    @abc.abstractmethod
    def models(self) -> tuple[Any, Any]:
        """Encoder and predictor as the training script builds them."""

    @abc.abstractmethod
    def draw(self, steps: int) -> list[Step]:
        """Inputs, and masks from the reference's collator."""

    @abc.abstractmethod
    def build_optimizer(self) -> torch.optim.Optimizer:
        """As the training script."""

    @abc.abstractmethod
    def loss(self, inputs: Tensor, step: Step) -> Tensor:
        """Forward passes and loss."""

    @abc.abstractmethod
    def grad_norms(self) -> None:
        """What the training script reads of the gradients in every step."""

    def write(self, folder: Path) -> None:
        """A checkpoint in the reference's own layout, and the steps."""
        parts = {"encoder": self.encoder, "predictor": self.predictor, "target_encoder": self.target}
        torch.save({name: part.state_dict() for name, part in parts.items()}, folder / "weights.pth.tar")
        keep_steps(folder, self.steps)

    def facts(self) -> Mapping[str, Any]:
        """Losses of a turn that trains, and the lengths of its masks."""
        return {"losses": [self.step(step) for step in self.steps], "lengths": lengths(self.steps)}

    def turn(self) -> Mapping[str, float]:
        """Every stored step once."""
        self.watch.take()
        with self.watch.of(TOTAL):
            for step in self.steps:
                self.step(step)
        return self.watch.take()

    def step(self, step: Step) -> float:
        """One training step."""
        with self.watch.of("input"):
            inputs = normalise(step.inputs)
        with self._precision():
            loss = self.loss(inputs, step)
        with self.watch.of("backward"):
            loss.backward()
        with self.watch.of("optimiser"):
            self.optimizer.step()
            self.grad_norms()
            self.optimizer.zero_grad()
        with self.watch.of("moving average"), torch.no_grad():
            pairs = zip(self.encoder.parameters(), self.target.parameters(), strict=True)
            for online, average in pairs:
                average.data.mul_(MOMENTUM).add_((1.0 - MOMENTUM) * online.detach().data)
        return float(loss.detach())

    @contextlib.contextmanager
    def _precision(self) -> Iterator[None]:
        with torch.autocast("cpu", torch.bfloat16) if self.autocast else contextlib.nullcontext():
            yield


class IJepa(Reference):
    """facebookresearch/ijepa."""

    def models(self) -> tuple[Any, Any]:
        """See :meth:`Reference.models`."""
        case, helper = self.case, _import(self.checkout, "src.helper")
        self.parts = {
            "tensors": _import(self.checkout, "src.utils.tensors"),
            "masks": _import(self.checkout, "src.masks.utils"),
            "logging": _import(self.checkout, "src.utils.logging"),
        }
        found: tuple[Any, Any] = helper.init_model("cpu", 16, f"vit_{case.model}", case.side, case.depth, 384)
        return found

    def draw(self, steps: int) -> list[Step]:
        """See :meth:`Reference.draw`; the released configuration."""
        collator = _import(self.checkout, "src.masks.multiblock").MaskCollator(
            self.case.side, 16, (0.85, 1.0), (0.15, 0.2), (0.75, 1.5), 1, 4, 10, False
        )
        drawn = []
        for inputs in draw_inputs(self.case, steps, seed=1):
            _, context, targets = collator(list(inputs))
            drawn.append(Step(inputs, [context[0]], [torch.stack(targets, dim=1)]))
        return drawn

    def build_optimizer(self) -> torch.optim.Optimizer:
        """See :meth:`Reference.build_optimizer`."""
        helper = _import(self.checkout, "src.helper")
        return helper.init_opt(self.encoder, self.predictor, 100, LR, LR, 0, 1)[0]  # type: ignore[no-any-return]

    def loss(self, inputs: Tensor, step: Step) -> Tensor:
        """See :meth:`Reference.loss`."""
        seen, hidden = step.context, list(step.targets[0].unbind(1))
        apply, repeat = self.parts["masks"].apply_masks, self.parts["tensors"].repeat_interleave_batch
        with self.watch.of("target"), torch.no_grad():
            features = self.target(inputs)
            features = F.layer_norm(features, (features.size(-1),))
            wanted = repeat(apply(features, hidden), len(features), repeat=len(seen))
        with self.watch.of("context"):
            context = self.encoder(inputs, seen)
        with self.watch.of("predictor"):
            predicted = self.predictor(context, seen, hidden)
        with self.watch.of("loss"):
            return F.smooth_l1_loss(predicted, wanted)

    def grad_norms(self) -> None:
        """See :meth:`Reference.grad_norms`."""
        self.parts["logging"].grad_logger(self.encoder.named_parameters())


class VJepa(Reference):
    """facebookresearch/jepa."""

    def models(self) -> tuple[Any, Any]:
        """See :meth:`Reference.models`; fused attention, as released."""
        case, utils = self.case, _import(self.checkout, "app.vjepa.utils")
        self.apply_masks = _import(self.checkout, "src.masks.utils").apply_masks
        self.grad_logger = _import(self.checkout, "src.utils.logging").grad_logger
        found: tuple[Any, Any] = utils.init_video_model(
            device="cpu",
            patch_size=16,
            num_frames=case.frames,
            tubelet_size=2,
            model_name=f"vit_{case.model}",
            crop_size=case.side,
            pred_depth=case.depth,
            pred_embed_dim=384,
            uniform_power=True,
            use_mask_tokens=True,
            num_mask_tokens=2,
            zero_init_mask_tokens=True,
            use_sdpa=True,
        )
        return found

    def draw(self, steps: int) -> list[Step]:
        """See :meth:`Reference.draw`; the released configuration."""
        case = self.case
        shared: dict[str, Any] = {"temporal_scale": (1.0, 1.0), "aspect_ratio": (0.75, 1.5), "max_temporal_keep": 1.0}
        short = {"spatial_scale": (0.15, 0.15), "num_blocks": 8, **shared}
        long = {"spatial_scale": (0.7, 0.7), "num_blocks": 2, **shared}
        module = _import(self.checkout, "src.masks.multiblock3d")
        collator = module.MaskCollator([short, long], (case.side, case.side), case.frames, 16, 2)
        drawn = []
        for inputs in draw_inputs(case, steps, seed=1):
            _, context, targets = collator(list(inputs))
            drawn.append(Step(inputs, list(context), [ids[:, None] for ids in targets]))
        return drawn

    def build_optimizer(self) -> torch.optim.Optimizer:
        """See :meth:`Reference.build_optimizer`."""
        utils = _import(self.checkout, "app.vjepa.utils")
        return utils.init_opt(self.encoder, self.predictor, 100, LR, LR, 0, 1)[0]  # type: ignore[no-any-return]

    def loss(self, inputs: Tensor, step: Step) -> Tensor:
        """See :meth:`Reference.loss`; the spread of the predictions is computed though its weight is 0."""
        seen, hidden = step.context, [ids[:, 0] for ids in step.targets]
        with self.watch.of("target"), torch.no_grad():
            features = self.target(inputs)
            features = F.layer_norm(features, (features.size(-1),))
            wanted = self.apply_masks(features, hidden, concat=False)
        with self.watch.of("context"):
            context = self.encoder(inputs, seen)
        with self.watch.of("predictor"):
            predicted = self.predictor(context, wanted, seen, hidden)
        with self.watch.of("loss"):
            distances = [(mine - other).abs().mean() for mine, other in zip(predicted, wanted, strict=True)]
            spread = sum(torch.sqrt(mine.var(dim=1) + 0.0001) for mine in predicted) / len(predicted)
            return torch.stack(distances).mean() + 0.0 * F.relu(1.0 - spread).mean()

    def grad_norms(self) -> None:
        """See :meth:`Reference.grad_norms`."""
        self.grad_logger(self.encoder.named_parameters())
        self.grad_logger(self.predictor.named_parameters())


def build(options: Options) -> Reference:
    """For :class:`driver.Side`."""
    return (IJepa if options["case"].family == "ijepa" else VJepa)(options)
