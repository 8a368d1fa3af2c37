"""The attentive probe of V-JEPA (arXiv 2404.08471) and V-JEPA 2 (2506.09985): training it on frozen tokens.

As V-JEPA 2 does, probes of several learning rates and weight decays are trained at once on the same batches; unlike
there, a part of the training samples chooses among them, never the test samples. The model: see ``attentive_model.py``.
Letters: P probes, S samples, B batch, N sites, D width.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from jepa_core.evaluate.attentive_model import AttentiveProbe, joint_scores
from jepa_core.evaluate.probes import Estimate, clustered_accuracy

VJEPA2_LRS = (5e-3, 3e-3, 1e-3, 3e-4, 1e-4)
VJEPA2_WEIGHT_DECAYS = (0.01, 0.1, 0.4, 0.8)


@dataclass(frozen=True)
class AttentiveSettings:
    """How probes are built and trained.

    Attributes:
        heads: attention heads; the published probes have as many as the encoder.
        blocks: self-attention blocks before the pooling: 0 (V-JEPA) or 3 (V-JEPA 2).
        lrs, weight_decays: a probe is trained for each pair; AdamW, the rate falling to 0 by a cosine, no warm-up.
        epochs: passes over the training samples.
        batch_size: samples of a step.
        clip_norm: the gradient of each probe is clipped to this norm.
        validation: share of the training samples that the pair is chosen on; not used where there is one pair.
        seed: of the first weights and of the order of samples.
    """

    heads: int
    blocks: int = 0
    lrs: tuple[float, ...] = (1e-3,)
    weight_decays: tuple[float, ...] = (0.01,)
    epochs: int = 20
    batch_size: int = 256
    clip_norm: float = 1.0
    validation: float = 0.2
    seed: int = 0

    def __post_init__(self) -> None:
        for name, low in (("heads", 1), ("blocks", 0), ("epochs", 1), ("batch_size", 1)):
            if getattr(self, name) < low:
                raise ValueError(f"attentive probe: expected {name} of at least {low}, got {getattr(self, name)}")
        if not self.lrs or min(self.lrs) <= 0 or not self.weight_decays or min(self.weight_decays) < 0:
            raise ValueError(
                f"attentive probe: expected lrs above 0 and weight_decays from 0, got {self.lrs}, {self.weight_decays}"
            )
        if not 0 < self.validation <= 0.5:
            raise ValueError(f"attentive probe: expected a validation share up to 0.5, got {self.validation}")

    @property
    def pairs(self) -> tuple[tuple[float, float], ...]:
        """Every (learning rate, weight decay)."""
        return tuple((lr, decay) for lr in self.lrs for decay in self.weight_decays)


@dataclass(frozen=True)
class TokenSet:
    """Frozen tokens of labelled samples.

    Attributes:
        tokens: ``[S, N, D]`` of any float type and device, or a function of sample indices int64 ``[B]`` that gives
            ``[B, N, D]``: what does not fit into memory is computed anew each time.
        labels: ``[S]`` class ids.
        groups: ``[S]`` recording or speaker; None = each sample is its own.
        valid: bool ``[S, N]``, which tokens are real; None = all.
    """

    tokens: Tensor | Callable[[Tensor], Tensor]
    labels: Tensor
    groups: Tensor | None = None
    valid: Tensor | None = None

    def __post_init__(self) -> None:
        if isinstance(self.tokens, Tensor) and (self.tokens.dim() != 3 or len(self.tokens) != len(self.labels)):
            raise ValueError(
                f"attentive probe: expected tokens [S, N, D] and labels [S], got {list(self.tokens.shape)} and "
                f"{list(self.labels.shape)}"
            )
        if not len(self.labels):
            raise ValueError("attentive probe: expected samples, got none")

    def batch(self, indices: Tensor, device: torch.device) -> tuple[Tensor, Tensor | None]:
        """Tokens ``[B, N, D]`` in float32 and which are valid."""
        found = self.tokens[indices.to(self.tokens.device)] if isinstance(self.tokens, Tensor) else self.tokens(indices)
        valid = None if self.valid is None else self.valid[indices.to(self.valid.device)].to(device)
        return found.detach().to(device, torch.float32), valid

    def part(self, indices: Tensor) -> TokenSet:
        """The same with these samples only; nothing is copied."""
        every = torch.arange(len(self.labels))[indices]

        def chosen(places: Tensor) -> Tensor:
            inner = every[places.cpu()]
            return self.tokens[inner.to(self.tokens.device)] if isinstance(self.tokens, Tensor) else self.tokens(inner)

        def cut(x: Tensor | None) -> Tensor | None:
            return None if x is None else x[every.to(x.device)]

        return TokenSet(chosen, cast(Tensor, cut(self.labels)), cut(self.groups), cut(self.valid))


@dataclass(frozen=True)
class AttentiveResult:
    """Outcome of :func:`attentive_probe_accuracy`.

    Attributes:
        accuracy: on the test samples, with standard error.
        lr, weight_decay: the pair that the validation part of the training samples chose.
        validation: accuracy of each pair on that part; empty where there was only one pair.
        probe: the probe, on the device it was trained on; its answer k is ``classes[k]``.
        classes: class ids of the training samples, rising.
    """

    accuracy: Estimate
    lr: float
    weight_decay: float
    validation: dict[tuple[float, float], float]
    probe: AttentiveProbe
    classes: tuple[int, ...]


def attentive_probe_accuracy(
    train: TokenSet, test: TokenSet, settings: AttentiveSettings, device: torch.device | str = "cpu"
) -> AttentiveResult:
    """Trains a probe for each pair of learning rate and weight decay, takes the best, and tests it.

    The pair is chosen on a part of the training samples that holds whole groups; then a probe with it is trained on all
    of them. The test samples choose nothing. On a CPU the same seed gives the same bits.

    Args:
        train, test: frozen tokens.
        settings: see there.
        device: where probes are trained.

    Raises:
        ValueError: heads that do not divide the width, fewer than two classes, tokens that are not finite.
    """
    device = torch.device(device)
    pairs, validation = settings.pairs, {}
    best = pairs[0]
    if len(pairs) > 1:
        fit, held = _held_back(train, settings)
        probes = fit_probes(train.part(fit), pairs, settings, device, train.labels)
        correct = predict(probes, train.part(held), settings.batch_size, device) == _numbers(train.labels)[held]
        shares = correct.double().mean(1).tolist()
        # One that diverged, at a rate too high for these tokens, has lost.
        accuracies = [share if _is_finite(probe) else 0.0 for share, probe in zip(shares, probes, strict=True)]
        validation = dict(zip(pairs, accuracies, strict=True))
        best = pairs[int(np.argmax(accuracies))]  # of equals, the first
    (probe,) = fit_probes(train, [best], settings, device)
    if not _is_finite(probe):
        raise ValueError(
            f"attentive probe: its weights are not finite at lr {best[0]}; look at the tokens, or lower lrs"
        )
    classes = train.labels.unique().cpu()
    answers = classes[predict([probe], test, settings.batch_size, device)[0]]
    accuracy = clustered_accuracy(answers == test.labels.cpu(), test.groups)
    return AttentiveResult(accuracy, *best, validation, probe, tuple(classes.tolist()))


def _numbers(labels: Tensor) -> Tensor:
    """Class ids as places in their sorted list, int64 ``[S]``."""
    return labels.cpu().unique(return_inverse=True)[1]


def _held_back(train: TokenSet, settings: AttentiveSettings) -> tuple[Tensor, Tensor]:
    """Samples to fit on and to choose on: classes in equal shares, groups whole."""
    from sklearn.model_selection import StratifiedGroupKFold

    labels = train.labels.cpu().numpy()
    groups = np.arange(len(labels)) if train.groups is None else train.groups.cpu().numpy()
    folds = round(1 / settings.validation)
    if len(np.unique(groups)) < folds:
        raise ValueError(
            f"attentive probe: expected at least {folds} samples or groups to choose lr and weight_decay on a part of, "
            f"got {len(np.unique(groups))}; give one pair, or a larger validation share"
        )
    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=settings.seed)
    with warnings.catch_warnings():
        # A class with fewer rows than folds only means that some folds lack it.
        warnings.filterwarnings("ignore", message="The least populated class", category=UserWarning)
        fit, held = next(iter(splitter.split(labels, labels, groups)))
    return torch.from_numpy(fit), torch.from_numpy(held)


def fit_probes(
    train: TokenSet,
    pairs: Sequence[tuple[float, float]],
    settings: AttentiveSettings,
    device: torch.device,
    labels: Tensor | None = None,
) -> list[AttentiveProbe]:
    """One probe for each (learning rate, weight decay), all trained on the same batches, from the same first weights.

    None influences another: each comes out as if trained alone, up to the rounding of larger products.

    Args:
        train: samples to fit on.
        pairs: of learning rate and weight decay of matrices; norms and biases have none.
        settings: see there; ``lrs`` and ``weight_decays`` are not looked at.
        device: where to train.
        labels: class ids that the answers are numbered by; None = those of ``train``.
    """
    known = (train.labels if labels is None else labels).cpu().unique()
    if len(known) < 2:
        raise ValueError(f"attentive probe: expected at least 2 classes, got {len(known)}")
    targets = torch.searchsorted(known, train.labels.cpu()).to(device)
    width = train.batch(torch.zeros(1, dtype=torch.long), device)[0].shape[-1]
    probes = [_new_probe(width, len(known), settings).to(device) for _ in pairs]
    batches = math.ceil(len(targets) / settings.batch_size)
    optimizer, schedule = _optimizer(probes, pairs, batches * settings.epochs)
    order = torch.Generator().manual_seed(settings.seed)
    for _ in range(settings.epochs):
        for indices in torch.randperm(len(targets), generator=order).split(settings.batch_size):
            x, valid = train.batch(indices, device)
            scores = joint_scores(probes, x, valid)
            wanted = targets[indices.to(device)].repeat(len(probes))
            # A sum over probes: the gradient of each is that of its own mean.
            loss = F.cross_entropy(scores.flatten(0, 1), wanted) * len(probes)
            optimizer.zero_grad()
            loss.backward()
            for probe in probes:
                nn.utils.clip_grad_norm_(probe.parameters(), settings.clip_norm)
            optimizer.step()
            schedule.step()
    return probes


def _is_finite(probe: AttentiveProbe) -> bool:
    return all(bool(torch.isfinite(parameter).all()) for parameter in probe.parameters())


def _new_probe(width: int, classes: int, settings: AttentiveSettings) -> AttentiveProbe:
    generator = torch.Generator().manual_seed(settings.seed)
    return AttentiveProbe(width, classes, settings.heads, settings.blocks, generator)


def _optimizer(
    probes: Sequence[AttentiveProbe], pairs: Sequence[tuple[float, float]], steps: int
) -> tuple[torch.optim.AdamW, torch.optim.lr_scheduler.LambdaLR]:
    groups: list[dict[str, object]] = []
    for probe, (lr, decay) in zip(probes, pairs, strict=True):
        matrices = [parameter for parameter in probe.parameters() if parameter.dim() > 1]
        vectors = [parameter for parameter in probe.parameters() if parameter.dim() < 2]
        groups.append({"params": matrices, "lr": lr, "weight_decay": decay})
        groups.append({"params": vectors, "lr": lr, "weight_decay": 0.0})
    optimizer = torch.optim.AdamW(groups, foreach=True)
    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, lambda t: (1 + math.cos(math.pi * t / steps)) / 2)


@torch.no_grad()
def predict(probes: Sequence[AttentiveProbe], samples: TokenSet, batch_size: int, device: torch.device) -> Tensor:
    """Answers of several probes, int64 ``[P, S]`` on the CPU."""
    found = []
    for indices in torch.arange(len(samples.labels)).split(batch_size):
        x, valid = samples.batch(indices, device)
        found.append(joint_scores(probes, x, valid).argmax(-1).cpu())
    return torch.cat(found, 1)
