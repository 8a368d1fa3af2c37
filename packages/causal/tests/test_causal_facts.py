"""What the evaluation is there to tell holds of predictors that were really trained, if only for half a minute."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch

from jepa_causal import modality
from jepa_causal.baselines import ConstantVelocity, CopyLast, MethodForecaster
from jepa_causal.evaluation import COPY, STRAIGHT, TRAINED, data_of, position_table, prepare
from jepa_causal.scoring import COMPLETION, CONTACT, COUNTERFACTUAL, LEFT_IN
from jepa_causal.settings import CausalRun
from jepa_core.config import compose
from jepa_core.contracts import Measurement
from jepa_core.data.loader import Loader
from jepa_core.data.sampler import Sampler
from jepa_core.plugins import find_recipe
from jepa_core.train.run import build_method

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
"""About a minute on one core; the first test waits for both trainings."""

Row = Mapping[str, Measurement]
MODALITY: Any = modality.MODALITY
SEED = 0
SMALL = [
    "data.objects_min=2",
    "data.objects_max=3",
    "data.episodes=500",
    "data.test_episodes=100",
    "data.workers=0",
    "causal.history=3",
    "causal.masking.kind=object",
    "trainer.device=cpu",
]
# Without masks the future has to be learned; that a hidden object is near its anchor shows after a few steps.
STEPS = {"[0,0]": 800, "[1,1]": 150}


def configured(masked: str) -> CausalRun:
    settings = [*SMALL, f"seed={SEED}", f"causal.masking.masked_objects={masked}"]
    found = compose(CausalRun, find_recipe(MODALITY, "quickstart"), settings)
    assert isinstance(found, CausalRun)
    return found


def trained(config: CausalRun, steps: int) -> Any:
    torch.manual_seed(config.seed)
    method: Any = build_method(config, MODALITY)
    source = MODALITY.sources(config)
    loader = Loader(source, Sampler(len(source), config.seed, config.trainer.batch_size), config.seed)
    optimizer = torch.optim.AdamW(method.parameters(), config.optimizer.lr)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, config.optimizer.lr, total_steps=steps, pct_start=0.1)
    for step in range(steps):
        optimizer.zero_grad()
        method(loader.next(), step + 1).total.backward()
        optimizer.step()
        rate.step()
    return method.eval()


@pytest.fixture(scope="module")
def rows() -> dict[str, Row]:
    """Rows of the table: controls, and each predictor under its mask."""
    data = data_of(configured("[0,0]"))
    ready = prepare(data)
    found: dict[str, Row] = {}
    for masked, steps in STEPS.items():
        forecaster = MethodForecaster(trained(configured(masked), steps), torch.device("cpu"))
        table = position_table(data, ready, {TRAINED: forecaster, COPY: CopyLast(), STRAIGHT: ConstantVelocity()})
        found |= {COPY: table.rows[COPY], STRAIGHT: table.rows[STRAIGHT], masked: table.rows[TRAINED]}
        found[LEFT_IN.format(masked)] = table.rows[LEFT_IN.format(TRAINED)]
    return found


def test_contacts_are_foretold_better_than_by_copying_or_going_straight_on(rows: Mapping[str, Row]) -> None:
    error = rows["[0,0]"][CONTACT].value
    assert error < 0.9 * rows[COPY][CONTACT].value and error < 0.85 * rows[STRAIGHT][CONTACT].value


def test_being_told_of_a_removal_lowers_the_counterfactual_error(rows: Mapping[str, Row]) -> None:
    assert rows["[0,0]"][COUNTERFACTUAL].value < 0.97 * rows[LEFT_IN.format("[0,0]")][COUNTERFACTUAL].value


def test_hidden_objects_are_filled_in_better_by_who_was_trained_to(rows: Mapping[str, Row]) -> None:
    assert rows["[1,1]"][COMPLETION].value < 0.7 * rows["[0,0]"][COMPLETION].value
