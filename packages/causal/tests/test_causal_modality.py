"""The plug-in: every recipe builds and learns, settings that cannot be are refused, one command goes all the way."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from jepa_causal import modality
from jepa_causal.settings import CausalRun
from jepa_core.config import compose, to_yaml
from jepa_core.contracts import Batch
from jepa_core.data.loader import Loader
from jepa_core.data.sampler import Sampler
from jepa_core.draw_masks import draw_masks
from jepa_core.errors import ConfigError, DataError
from jepa_core.evaluation_source import Evaluable
from jepa_core.plugins import find_recipe, recipes
from jepa_core.train.optim import check_groups
from jepa_core.train.run import build_method, run_training

# A plug-in's own types are narrower than the contract's.
MODALITY: Any = modality.MODALITY
RECIPES = sorted(recipes(MODALITY))
SMALL = ["trainer.device=cpu", "trainer.batch_size=4", "data.workers=0"]


def configured(recipe: str, tmp_path: Path, *overrides: str) -> CausalRun:
    """A recipe with little data: files of its shape where it reads files."""
    found = compose(MODALITY.schema, find_recipe(MODALITY, recipe), [*SMALL, f"data.root={tmp_path}", *overrides])
    assert isinstance(found, CausalRun)
    if found.data.slots == "files":
        _write_slots(tmp_path / "slots.npz", found)
    else:
        found.data.episodes, found.data.test_episodes, found.data.slot_steps = 6, 4, 2
    return found


def _write_slots(path: Path, config: CausalRun) -> None:
    """Three episodes of two windows, of the width and number of the paper."""
    causal, push_t = config.causal, config.causal.history == 3
    frames = (causal.history + causal.future - 1) * config.data.frame_skip + 2
    numbers = np.random.default_rng(0)
    arrays: dict[str, Any] = {}
    for place in range(3):
        arrays[f"e{place}/slots"] = numbers.standard_normal((frames, 4 if push_t else 7, 128)).astype(np.float32)
        if push_t:
            arrays[f"e{place}/actions"] = numbers.standard_normal((frames - 1, 2)).astype(np.float32)
            arrays[f"e{place}/proprio"] = numbers.standard_normal((frames, 4)).astype(np.float32)
    np.savez(path, **arrays)


def first_batch(config: CausalRun) -> Batch:
    source = MODALITY.sources(config)
    return Loader(source, Sampler(len(source), config.seed, config.trainer.batch_size), config.seed).peek()


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_builds_learns_and_draws_its_masks(recipe: str, tmp_path: Path) -> None:
    config = configured(recipe, tmp_path)
    method: Any = build_method(config, MODALITY)
    check_groups(method, method.parameter_groups())
    batch = first_batch(config)
    losses = method(batch, 1)
    losses.total.backward()
    assert [name for name, p in method.named_parameters() if p.grad is None or not bool(p.grad.isfinite().all())] == []
    assert bool(losses.total.isfinite()) and set(losses.monitor) == {"context", "target"}
    rows = MODALITY.choices(config)
    assert len({what for what, _, _ in rows}) == len(rows) and all(all(row) for row in rows)
    grid, _ = method.masks(batch)
    assert method.embed(batch)["tokens"].features.shape == (4, grid.lattice.count, MODALITY.sources(config).width)


def test_released_weights_decay_nothing_that_is_a_token(tmp_path: Path) -> None:
    method: Any = build_method(configured("causal_jepa_released", tmp_path), MODALITY)
    decayed = {name for group in method.parameter_groups() if group.weight_decay for name, _ in group.parameters}
    assert "predictor.anchor.weight" in decayed
    assert not decayed & {"predictor.mask_vector", "predictor.time_embed"}


def test_the_published_recipe_has_the_published_sizes(tmp_path: Path) -> None:
    method: Any = build_method(configured("causal_jepa", tmp_path), MODALITY)
    attention = method.predictor.transformer.blocks[0].attn
    assert (len(method.predictor.transformer.blocks), attention.heads, attention.head_width) == (6, 16, 64)
    assert method.predictor.time_embed.shape == (16, 128) and method.predictor.project.out_features == 128


def test_quickstart_learns_to_forecast(tmp_path: Path) -> None:
    config = configured("quickstart", tmp_path)
    method: Any = build_method(config, MODALITY)
    optimizer = torch.optim.AdamW(method.parameters(), 3e-3)
    source = MODALITY.sources(config)
    loader = Loader(source, Sampler(len(source), 0, 64), 0)
    same = loader.peek()
    copied = float(method(same, 1).terms["energy/future"])  # before any step it keeps the slot last seen
    for step in range(100):
        losses = method(loader.next(), step + 1)
        optimizer.zero_grad()
        losses.total.backward()
        optimizer.step()
    assert float(method(same, 1).terms["energy/future"]) < 0.9 * copied


def test_it_can_be_embedded_and_its_masks_be_drawn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert isinstance(modality.MODALITY, Evaluable)
    config = configured("quickstart", tmp_path)
    sides = {name: MODALITY.evaluation(config, name) for name in ("train", "test", "all")}
    counts = {name: 0 if side is None else len(side) for name, side in sides.items()}
    assert counts["all"] == counts["train"] + counts["test"] and counts["test"] == 4 * 43
    config.trainer.batch_size = 32  # more than pictures show: objects differ in number between samples
    draw_masks(config, MODALITY, tmp_path / "masks.png")
    assert (tmp_path / "masks.png").is_file() and "token" in capsys.readouterr().out
    config.data.test_episodes = 0
    assert MODALITY.evaluation(config, "test") is None
    assert MODALITY.probe(config, None, None, torch.device("cpu")) is None


def test_one_command_goes_from_a_world_to_a_report(tmp_path: Path) -> None:
    config = configured("quickstart", tmp_path, "trainer.max_steps=6", "monitor.every=2", "logging.trackers=[]")
    config.runs_dir, config.name = str(tmp_path), "run"
    assert run_training(config, MODALITY, to_yaml(config)) == 0
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["steps"] == 6 and result["probe"]["trained"] > 0
    assert set(result["probe"]["rows"]["trained"]) <= set(result["probe"]["errors"])
    assert (tmp_path / "run" / "report.html").is_file()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["causal.masking.masked_objects=[2,1]"], "masked_objects: expected .fewest, most. with 0 <= fewest <= most"),
        (["causal.masking.masked_objects=[1]"], r"got \[1\]"),
        (["causal.masking.kind=object", "causal.masking.share=0.5"], "share: expected None with kind=object"),
        (["causal.masking.kind=token", "causal.masking.share=2"], "share: expected a value from 0 to 1"),
        (["causal.masking.released_fixed_mask=true"], r"masked_objects as \[1,1\], got kind=token and \[0, 1\]"),
        (
            ["causal.masking.masked_objects=[0,0]", "causal.masking.released_anchor_in_loss=true"],
            r"released_anchor_in_loss: expected masked_objects above \[0,0\]",
        ),
        (["causal.history=1"], "causal.history: expected 2 or more to hide"),
        (["causal.future=0"], "causal.future: expected a value from 1"),
        (["data.steps=7"], r"data.steps: expected 8 or more .* got 7"),
        (["data.frame_skip=8"], "expected 57 or more"),
        (["data.objects_max=1"], r"data.objects_max: expected 2 \(objects_min\) or more, got 1"),
        (["data.slots=files"], "data.root: expected the file or folder of extracted slots"),
        (["data.slots=object"], "data.slots"),
        (["causal.predictor.dropout=0.1"], "dropout: expected 0 without causal.predictor.released_attention"),
        (["causal.predictor.heads=0"], "causal.predictor.heads: expected a value from 1"),
        (["causal.future_weight=-1"], "causal.future_weight"),
    ],
)
def test_impossible_settings_are_one_line(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        compose(MODALITY.schema, find_recipe(MODALITY, "quickstart"), overrides)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["causal.masking.masked_objects=[0,6]"], "masked_objects: expected at most 5, the slots of a step, got 6"),
        (["data.objects_max=9"], "data.objects_min, data.objects_max, data.repulsion: fewest 2, most 9: expected"),
        (["causal.predictor.released_attention=true", "causal.predictor.heads=5"], "a divisor of the width 64, got 5"),
    ],
)
def test_what_only_the_data_tell_is_one_line_too(overrides: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        build_method(configured("quickstart", tmp_path, *overrides), MODALITY)


def test_data_that_cannot_be_scored_are_refused_before_training(tmp_path: Path) -> None:
    config = configured("quickstart", tmp_path)
    config.data.episodes = 1
    with pytest.raises(DataError, match="2 or more training episodes of at least the 8 frames .* got 1 of 1"):
        MODALITY.sources(config)
    numbers, arrays = np.random.default_rng(0), {}
    for place, frames in enumerate((20, 20, 20, 5)):  # the last one is held back, and is too short
        arrays[f"e{place}"] = numbers.standard_normal((frames, 3, 64)).astype(np.float32)
    np.savez(tmp_path / "slots.npz", **arrays)
    config.data.slots, config.data.root, config.data.test_episodes = "files", str(tmp_path / "slots.npz"), 1
    with pytest.raises(DataError, match="1 or more test episodes .* got 0 of 1; .* or set probe.enabled=false"):
        MODALITY.sources(config)
    config.probe.enabled = False
    assert len(MODALITY.sources(config)) == 3 * 13
