"""What the tests of weights share: small models with random weights, and the releases' layouts made from them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from jepa_core.contracts import Sites, Tokens
from jepa_vision.encoder import Size
from jepa_vision.weights import Facts, PredictorFacts, VisionModel

WIDTH, SMALL = 48, Size(48, 2, 3, 96)


def facts(*size: int, patch: int = 4, predictor: PredictorFacts | None = None, **more: Any) -> Facts:
    """A small encoder on pictures (two sides) or clips (three)."""
    of_patch = (patch, patch) if len(size) == 2 else (2, patch, patch)
    return Facts(more.pop("shape", SMALL), of_patch, size, predictor=predictor, **more)


def small_predictor(positions: Any = "sin_cos_xy", tokens: int = 1, heads: int = 3, **more: Any) -> PredictorFacts:
    """Two blocks of width 24."""
    return PredictorFacts(24, 2, heads, 96, WIDTH, tokens, more.pop("token", 0), positions, **more)


def shaken(module: nn.Module, seed: int = 0) -> Any:
    """The module with all parameters drawn at random, so that nothing is zero or one by chance."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return module.eval()


def model(of: Facts, seed: int = 0) -> VisionModel:
    """A model with random weights and, where it has one, a random table."""
    torch.manual_seed(seed)
    made = shaken(VisionModel(of), seed)
    if of.positions == "stored":
        made.encoder.table.normal_(generator=torch.Generator().manual_seed(seed))
    return made


def noise(batch: int, *size: int) -> Tensor:
    """uint8 ``[B, 3, *size]``."""
    return torch.randint(0, 256, (batch, 3, *size), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def normalised(made: VisionModel, images: Tensor) -> Tensor:
    """The float picture that other projects' models take, in the type of the model."""
    mean, std = (values.view(-1, *(1,) * (images.ndim - 2)) for values in (made.front_end.mean, made.front_end.std))
    return (images.float() / 255 - mean) / std


def equal_tensors(a: nn.Module, b: nn.Module) -> bool:
    """Whether two state dicts are the same, bit for bit."""
    first, second = a.state_dict(), b.state_dict()
    return list(first) == list(second) and all(torch.equal(first[key], second[key]) for key in first)


def predicted(made: VisionModel, tokens: Tokens, context: Tensor, targets: Tensor) -> Tensor:
    """Predictions at ``targets`` ``[B, M]`` from the tokens at ``context`` ``[B, N]``."""
    assert made.predictor is not None
    seen = Tokens(tokens.at(Sites(context)), Sites(context), tokens.lattice)
    result: Tensor = made.predictor(seen, Sites(targets[:, None]))
    return result[:, 0]


def released(made: VisionModel, wrapper: str) -> dict[str, Any]:
    """A checkpoint as the releases have it, both encoders different, with optimiser and scaler beside."""
    teacher, student = _encoder(made, wrapper), _encoder(made, wrapper)
    student = {key: value + 1 if "weight" in key and "pos" not in key else value for key, value in student.items()}
    return {
        "encoder": student,
        "predictor": _predictor(made, wrapper),
        "target_encoder": teacher,
        "opt": {"state": {0: {"step": torch.tensor(3.0), "exp_avg": torch.zeros(2)}}, "param_groups": [{"lr": 1e-3}]},
        "scaler": {"scale": 65536.0, "growth_factor": 2.0, "_growth_tracker": 3},
        "epoch": 300,
        "loss": 0.25,
        "batch_size": 128,
        "world_size": 16,
        "lr": 1e-6,
    }


def _encoder(made: VisionModel, wrapper: str) -> dict[str, Tensor]:
    """Written out by hand: it must not come from the code under test."""
    state = {}
    for key, value in made.encoder.state_dict().items():
        name = key.removeprefix("transformer.")
        if name == "patch_embed.proj.weight":
            value = value.view(value.shape[0], 3, *made.facts.patch)
        if name != "table":
            state[wrapper + name] = value.clone()
    table = made.encoder.table
    if not len(table):  # rotary: the releases keep a table that nothing uses
        table = VisionModel(facts(*made.facts.input_size, positions="sin_cos_yx")).encoder.table
    state[f"{wrapper}pos_embed"] = table[None].clone()
    return state


def _predictor(made: VisionModel, wrapper: str) -> dict[str, Tensor]:
    assert made.predictor is not None
    state: dict[str, Tensor] = {}
    for key, value in made.predictor.state_dict().items():
        if key == "mask_tokens":
            several = [f"mask_tokens.{row}" for row in range(len(value))]
            names = several if made.facts.is_video else ["mask_token"]
            state |= {wrapper + name: row.view(1, 1, -1).clone() for name, row in zip(names, value, strict=True)}
            continue
        for ours, theirs in (("embed.", "embed."), ("project.", "proj."), ("transformer.", "")):
            if key.startswith(ours):
                state[f"{wrapper}predictor_{theirs}{key.removeprefix(ours)}"] = value.clone()
    state[f"{wrapper}predictor_pos_embed"] = made.predictor.table[None].clone()
    return state
