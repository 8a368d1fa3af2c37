"""Every recipe of every installed modality keeps the contract: it builds, learns, moves its target, embeds, draws."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

from jepa_core.config import compose
from jepa_core.contracts import Batch, Method, Modality
from jepa_core.data.loader import Loader
from jepa_core.data.sampler import Sampler
from jepa_core.monitor.verdict import MOVED_ALARM, SAMPLE_ALARM
from jepa_core.plugins import LoadFailure, Recipe, find_recipe, modalities, recipes
from jepa_core.targets import EmaTarget
from jepa_core.train.optim import build_optimizer, check_groups
from jepa_core.train.run import build_method

COMMON = ["trainer.device=cpu", "trainer.batch_size=2", "data.workers=0"]
# What makes a step of a modality affordable, and a recipe's own where that is not enough.
CHEAP = {
    "audio": [
        *("audio.encoder.size=nano", "audio.predictor.width=64", "audio.predictor.depth=1", "audio.predictor.heads=4"),
        "data.seconds=1.6",
    ],
    "audio/wavjepa": ["audio.target.blocks=2", "data.views=2"],
    "causal": ["data.episodes=6", "data.test_episodes=2", "data.slot_steps=2"],
    "causal/causal_jepa": ["data.slots=state", "data.frame_skip=1", "causal.masking.masked_objects=[0,4]"],
    "causal/causal_jepa_push_t": ["data.slots=state", "data.frame_skip=1"],
    "causal/causal_jepa_released": ["data.slots=state", "data.frame_skip=1", "causal.masking.masked_objects=[4,4]"],
    "lidar": ["data.root=simulated", "data.azimuths=96", "data.beams=32", "data.scenes=4"],
    "lidar/ad_l_jepa": ["trainer.batch_size=1", "lidar.predictor.hidden=[8,8]"],
    "vision": ["vision.encoder.size=nano", "vision.predictor.width=64", "vision.predictor.depth=1"],
    "video": [
        *("vision.encoder.size=nano", "vision.predictor.width=64", "vision.predictor.depth=1"),
        *("vision.predictor.heads=0", "data.frames=8", "data.height=64", "data.width=64"),
    ],
}
INSTALLED = {name: modality for name, modality in modalities().items() if not isinstance(modality, LoadFailure)}
RECIPES = [f"{name}/{recipe}" for name, modality in INSTALLED.items() for recipe in recipes(modality)]


@dataclass
class Case:
    """A recipe after one step of training.

    Attributes:
        method: in train mode, gradients still in place.
        batch: what it was trained on.
        before: the EMA targets' parameters before the step, by name in the method.
        loss: of the step.
    """

    modality: Modality
    config: Any
    method: Any
    batch: Batch
    before: dict[str, Tensor]
    loss: Tensor


def configured(name: str) -> tuple[Modality, Any]:
    modality_name, recipe = name.split("/")
    modality = INSTALLED[modality_name]
    overrides = [*COMMON, *CHEAP.get(modality_name, []), *CHEAP.get(name, [])]
    return modality, compose(modality.schema, find_recipe(modality, recipe), overrides)


def first_batch(modality: Modality, config: Any) -> Batch:
    source = modality.sources(config)
    return Loader(source, Sampler(len(source), config.seed, config.trainer.batch_size), config.seed).peek()


def target_parameters(method: nn.Module) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for prefix, module in method.named_modules():
        if isinstance(module, EmaTarget):
            found |= {f"{prefix}.{name}": p.detach().clone() for name, p in module.named_parameters()}
    return found


@pytest.fixture(scope="module", params=RECIPES)
def case(request: pytest.FixtureRequest) -> Iterator[Case]:
    modality, config = configured(request.param)
    method, batch = build_method(config, modality), first_batch(modality, config)
    method.train()
    optimizer, _, _ = build_optimizer(method.parameter_groups(), config.optimizer, torch.device("cpu"))
    before = target_parameters(method)
    losses = method(batch, 1)
    losses.total.backward()
    optimizer.step()
    method.after_step(1)
    yield Case(modality, config, method, batch, before, losses.total.detach())


def test_every_installed_modality_loads_and_has_a_quickstart() -> None:
    assert {name: found for name, found in modalities().items() if isinstance(found, LoadFailure)} == {}
    assert INSTALLED and all("quickstart" in recipes(modality) for modality in INSTALLED.values())


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_says_what_it_is_and_how_to_run_it(name: str) -> None:
    modality_name, recipe = name.split("/")
    found: Recipe = recipes(INSTALLED[modality_name])[recipe]
    head = [line for line in found.file.read_text(encoding="utf-8").splitlines() if line.startswith("#")]
    assert found.summary and any(line.startswith("# paper:") for line in head)
    command = next(line for line in head if line.startswith("# command:"))
    assert f"modality={modality_name}" in command and (recipe == "quickstart" or f"recipe={recipe}" in command)
    assert configured(name)[1].recipe == recipe


def test_diagnosis_leaves_weights_modes_and_generators_alone(case: Case) -> None:
    before = copy.deepcopy(case.method.state_dict())
    modes, generator = [module.training for module in case.method.modules()], torch.get_rng_state()
    figures = case.method.diagnose()
    assert torch.equal(torch.get_rng_state(), generator)
    assert [module.training for module in case.method.modules()] == modes
    assert all(torch.equal(value, before[name]) for name, value in case.method.state_dict().items())
    # The context of another sample takes a second sample.
    alone = case.config.trainer.batch_size == 1
    assert set(figures["prediction"]) == {"relative_error"} | ({"context_use"} if not alone else set())
    assert all(bool(value.isfinite()) for each in figures.values() for value in each.values())
    # One step from the start no recipe is told to ignore its input, or to have stopped moving.
    assert figures["prediction"].get("context_use", 1) > 0
    assert figures.get("samples", {}).get("share", torch.ones(())) > SAMPLE_ALARM
    assert figures.get("weights", {}).get("moved", torch.ones(())) > MOVED_ALARM


def test_every_parameter_is_in_one_group_and_learns(case: Case) -> None:
    assert isinstance(case.method, Method) and isinstance(case.method, nn.Module)
    check_groups(case.method, case.method.parameter_groups())
    assert bool(case.loss.isfinite()) and case.loss.dtype == torch.float32 and case.loss.shape == ()
    trainable = [(name, p) for name, p in case.method.named_parameters() if p.requires_grad]
    assert [name for name, p in trainable if p.grad is None or not bool(p.grad.isfinite().all())] == []
    assert [
        group.name for group in case.method.parameter_groups() if not any(_moved(p) for _, p in group.parameters)
    ] == []


def _moved(parameter: nn.Parameter) -> bool:
    return parameter.grad is not None and bool(parameter.grad.any())


def test_an_ema_target_moves_once_a_step_and_by_its_schedule(case: Case) -> None:
    for prefix, module in case.method.named_modules():
        if not isinstance(module, EmaTarget):
            continue
        online = dict(case.method.encoder.named_parameters())
        for name, parameter in module.encoder.named_parameters():
            start = case.before[f"{prefix}.encoder.{name}"]
            expected = torch.lerp(start, online[name].detach(), 1 - module.schedule(1))
            torch.testing.assert_close(parameter, expected, atol=1e-7, rtol=1e-6)
        assert any(not torch.equal(now, case.before[name]) for name, now in target_parameters(case.method).items())
        assert not any(parameter.requires_grad for parameter in module.parameters())


def test_a_resumed_run_continues_the_schedule(case: Case) -> None:
    later = case.config.trainer.max_steps // 2
    whole, resumed = copy.deepcopy(case.method), build_method(case.config, case.modality)
    resumed.load_state_dict(case.method.state_dict())
    for step in (2, later):
        whole.after_step(step)
        resumed.after_step(step)
    now, then = target_parameters(resumed), target_parameters(whole)
    assert list(now) == list(then) and all(torch.equal(now[name], then[name]) for name in now)
    for module in resumed.modules():
        if isinstance(module, EmaTarget):
            moves = module.schedule.start != module.schedule.end
            assert resumed.momentum_now == module.schedule(later)
            assert (module.schedule(later) != module.schedule(1)) is moves


def test_embeddings_are_finite_repeatable_and_without_gradient(case: Case) -> None:
    case.method.train()
    first, again = case.method.embed(case.batch), case.method.embed(case.batch)
    assert first and case.method.training
    for name, embedding in first.items():
        features = embedding.features
        assert features.shape[0] == len(case.batch) and bool(features.isfinite().all()) and not features.requires_grad
        assert torch.equal(features, again[name].features)
        assert embedding.sites is None or embedding.sites.ids.shape == features.shape[:2]


def test_choices_are_named_and_reasoned(case: Case) -> None:
    rows = list(case.modality.choices(case.config))
    assert rows and all(len(row) == 3 and all(isinstance(text, str) and text for text in row) for row in rows)
    assert len({what for what, _, _ in rows}) == len(rows)


def test_pictures_are_pictures(case: Case) -> None:
    pictures = case.modality.pictures(case.config, cast(Method, case.method.eval()), case.batch)
    assert pictures and all(p.png.startswith(b"\x89PNG\r\n\x1a\n") and p.title for p in pictures)
