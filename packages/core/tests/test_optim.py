"""The optimiser: groups are complete, rates reach them, and no option is ignored."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from toy import ToyJepa

from jepa_core.contracts import ParameterGroup
from jepa_core.errors import UserError
from jepa_core.settings import OptimizerSettings
from jepa_core.train.optim import GradientCheck, apply_rates, build_optimizer, check_groups, check_settings
from jepa_core.train.schedule import Rates


def test_groups_must_hold_each_trainable_parameter_exactly_once() -> None:
    method = ToyJepa()
    matrices, vectors = method.parameter_groups()
    check_groups(method, [matrices, vectors])
    with pytest.raises(ValueError, match="in no group: encoder.0.bias, encoder.1.weight"):
        check_groups(method, [matrices])
    with pytest.raises(ValueError, match="in several groups: encoder.0.weight"):
        check_groups(method, [matrices, vectors, replace(matrices, parameters=matrices.parameters[:1])])
    frozen = ParameterGroup("target", (("target.0.weight", method.target[0].weight),), True)
    with pytest.raises(ValueError, match="frozen: target.0.weight"):
        check_groups(method, [matrices, vectors, frozen])
    foreign = ParameterGroup("other", (("mine", torch.nn.Parameter(torch.zeros(1))),), True)
    with pytest.raises(ValueError, match="no parameter of the method: mine"):
        check_groups(method, [matrices, vectors, foreign])


def test_every_setting_reaches_the_optimiser() -> None:
    method = ToyJepa()
    settings = OptimizerSettings(lr=0.1, beta1=0.8, beta2=0.7, eps=1e-3, weight_decay=0.5)
    optimizer, choice, reason = build_optimizer(method.parameter_groups(), settings, torch.device("cpu"))
    apply_rates(optimizer, Rates(lr=0.1, weight_decay=0.5, beta1=0.8))
    matrices, vectors = optimizer.param_groups
    assert (matrices["lr"], vectors["lr"]) == (0.1, 0.2)
    assert (matrices["weight_decay"], vectors["weight_decay"]) == (0.5, 0.0)
    assert matrices["betas"] == (0.8, 0.7) and matrices["eps"] == 1e-3
    assert "fused" in choice and "cpu" in reason and matrices["fused"]


def test_a_step_is_that_of_plain_adamw() -> None:
    torch.manual_seed(0)
    method = ToyJepa()
    twin = ToyJepa()
    twin.load_state_dict(method.state_dict())
    ours, _, _ = build_optimizer(method.parameter_groups(), OptimizerSettings(), torch.device("cpu"))
    matrices = [p for name, p in twin.named_parameters() if p.requires_grad and p.dim() > 1]
    vectors = [p for name, p in twin.named_parameters() if p.requires_grad and p.dim() < 2]
    decay, plain = {"lr": 0.01, "weight_decay": 0.1}, {"lr": 0.02, "weight_decay": 0.0}
    groups = [{"params": matrices, **decay}, {"params": vectors, **plain}]
    theirs = torch.optim.AdamW(groups, betas=(0.9, 0.999), eps=1e-8)
    for model, optimizer in ((method, ours), (twin, theirs)):
        if optimizer is ours:
            apply_rates(ours, Rates(0.01, 0.1, 0.9))
        model.predictor(model.encoder(torch.ones(2, 12))).square().sum().backward()
        optimizer.step()
    for a, b in zip(method.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"name": "sgd"}, "optimizer.name"),
        ({"lr": 0.0}, "optimizer.lr"),
        ({"beta2": 1.0}, "optimizer.beta2"),
        ({"weight_decay": -1.0}, "optimizer.weight_decay"),
        ({"name": "adam_onecycle", "warmup": 0.2}, "optimizer.warmup: adam_onecycle fixes it"),
        ({"name": "adam_onecycle", "lr_end": 0.5}, "optimizer.lr_end"),
        ({"name": "adam_onecycle", "shape": "linear"}, "optimizer.shape"),
        ({"name": "adam_onecycle", "stretch": 1.25}, "optimizer.stretch"),
    ],
)
def test_impossible_and_unused_settings_are_refused(change: dict, word: str) -> None:
    with pytest.raises(UserError, match=word):
        check_settings(OptimizerSettings(**change))


def test_one_cycle_accepts_its_own_values_spelt_out() -> None:
    check_settings(OptimizerSettings(name="adam_onecycle", lr_start=0.1, lr_end=1e-5, warmup=0.4, beta1=0.95))


def test_parameters_without_gradient_are_named_once() -> None:
    method = ToyJepa()
    check = GradientCheck(method.parameter_groups(), steps=2)
    method.predictor(torch.ones(2, 6)).sum().backward()
    assert check.observe() is None
    silent = check.observe()
    assert silent is not None and "encoder.0.weight" in silent and "predictor.1.weight" not in silent
    assert check.observe() is None
