"""The video method as a whole: published losses and schedules, every recipe, masks, controls, settings, pictures."""

from __future__ import annotations

from typing import Any, cast

import pytest
import torch
from clip_cases import LITTLE, RECIPES, built, configured, noise, whole
from torch.nn import functional as F

from jepa_core.contracts import Method, Sites
from jepa_core.errors import ConfigError
from jepa_core.masking.block import TubeMasker
from jepa_core.masking.random import RandomMasker
from jepa_core.targets import EmaTarget, MomentumSchedule
from jepa_core.train.optim import build_optimizer, check_groups
from jepa_core.train.schedule import rates_at
from jepa_vision.video_modality import MODALITY, build_masker
from jepa_vision.video_sources import probe_split, training_source

PUBLISHED = {
    "vjepa_vitl16": ("large", 16, 224, 90_000, 24),
    "vjepa_vith16": ("huge", 16, 224, 90_000, 24),
    "vjepa_vith16_384": ("huge", 16, 384, 90_000, 10),
    "vjepa2_vitl": ("large", 16, 256, 240_000, 24),
    "vjepa2_vith": ("huge", 16, 256, 240_000, 24),
    "vjepa2_vitg": ("giant_22_heads", 16, 256, 240_000, 24),
    "vjepa2_vitl_cooldown": ("large", 64, 256, 12_000, 12),
    "vjepa2_vith_cooldown": ("huge", 64, 256, 12_000, 6),
    "vjepa2_vitg_cooldown": ("giant_22_heads", 64, 256, 12_000, 6),
    "vjepa2_vitg_384_cooldown": ("giant_22_heads", 64, 384, 12_000, 3),
}
VJEPA = [name for name in PUBLISHED if name.startswith("vjepa_")]
COOLDOWNS = [name for name in PUBLISHED if name.endswith("cooldown")]
MAIN = [name for name in PUBLISHED if name.startswith("vjepa2") and name not in COOLDOWNS]


# ------------------------------------------------------------------------------------------------------------ recipes


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_takes_a_training_step(name: str) -> None:
    config = configured(name, *LITTLE, "trainer.batch_size=2")
    method = built(config)
    check_groups(method, method.parameter_groups())
    optimizer, _, _ = build_optimizer(method.parameter_groups(), config.optimizer, torch.device("cpu"))
    before = {name: parameter.detach().clone() for name, parameter in method.encoder.named_parameters()}
    losses = method(noise(2, 8, 64, 64), 1)
    losses.total.backward()
    silent = [name for name, p in method.named_parameters() if p.requires_grad and p.grad is None]
    optimizer.step()
    method.after_step(1)
    assert silent == [] and bool(losses.total.isfinite())
    assert any(not torch.equal(parameter, before[name]) for name, parameter in method.encoder.named_parameters())


def test_published_recipes_hold_the_published_values() -> None:
    assert set(RECIPES) - set(PUBLISHED) == {"quickstart", "mae", "grid_s1"}
    for name, values in PUBLISHED.items():
        run = whole(name)
        vision, data = run.vision, run.data
        got = (vision.encoder.size, data.frames, data.height, run.trainer.max_steps, run.trainer.batch_size)
        assert got == values and data.width == data.height and data.augment.scale_min == 0.3
        assert (vision.encoder.patch, vision.encoder.tubelet, vision.energy) == (16, 2, "l1")
        assert (data.augment.aspect_min, data.augment.aspect_max, data.augment.flip) == (0.75, 1.35, 0.5)
        assert (vision.predictor.width, vision.predictor.depth, vision.predictor.token_std) == (384, 12, 0.0)
        masker = build_masker(vision.masking)
        assert isinstance(masker, TubeMasker) and (masker.truncate, masker.edges) == ("prefix", "inside")
        assert [(t.name, t.blocks, t.scale[0], t.aspect) for t in masker.sets] == [
            ("short", 8, 0.15, (0.75, 1.5)),
            ("long", 2, 0.7, (0.75, 1.5)),
        ]


@pytest.mark.parametrize("name", VJEPA)
def test_v_jepa_ends_where_its_cut_schedules_do(name: str) -> None:
    run, steps = whole(name), 90_000
    start, peak, end = (rates_at(step, steps, run.optimizer) for step in (1, 12_000, steps))
    assert start.lr == pytest.approx(2e-4, rel=1e-3) and peak.lr == pytest.approx(6.25e-4)
    assert end.lr == pytest.approx(7.5e-5, rel=0.01) and end.weight_decay == pytest.approx(0.366, abs=5e-4)
    assert start.weight_decay == pytest.approx(0.04) and run.optimizer.beta2 == 0.999
    target = run.vision.target
    ema = MomentumSchedule(target.momentum_start, target.momentum_end, steps)
    assert (ema(1), ema(steps)) == (0.998, pytest.approx(0.9996))
    assert (run.data.fps, run.data.stride, run.vision.predictor.mask_tokens, run.vision.predictor.token) == (
        0,
        4,
        2,
        -1,
    )
    assert (run.vision.encoder.positions, run.vision.encoder.scale_residuals) == ("sin_cos_yx", "constant")


@pytest.mark.parametrize("name", [*MAIN, *COOLDOWNS])
def test_v_jepa_2_holds_its_effective_values(name: str) -> None:
    run = whole(name)
    vision, steps = run.vision, run.trainer.max_steps
    first, last = (rates_at(step, steps, run.optimizer) for step in (1, steps))
    assert (first.weight_decay, last.weight_decay, run.trainer.clip_norm) == (0.04, 0.04, 0.0)
    if name in COOLDOWNS:
        assert first.lr == pytest.approx(5.25e-4, rel=1e-3) and last.lr == pytest.approx(1.06e-4, abs=5e-7)
    else:
        assert first.lr == pytest.approx(1e-4, rel=1e-3) and last.lr == pytest.approx(5.25e-4)
    assert (vision.target.momentum_start, vision.target.momentum_end) == (0.99925, 0.99925)
    assert (vision.predictor.heads, vision.predictor.mask_tokens, vision.predictor.token) == (12, 10, 0)
    assert (vision.encoder.positions, vision.encoder.scale_residuals) == ("rotary_tiled", "by_depth")
    assert run.data.fps == 4 and vision.encoder.recompute


def test_recipes_of_weights_say_so() -> None:
    for name in COOLDOWNS:
        assert "vision.weights=" in (MODALITY.recipes / f"{name}.yaml").read_text(encoding="utf-8")


# ------------------------------------------------------------------------------------------------------------- method


@pytest.mark.parametrize("name", ["vjepa_vitl16", "vjepa2_vitl"])
def test_the_loss_is_the_published_one_written_out(name: str) -> None:
    method = built(configured(name, *LITTLE))
    # Zero tokens would hide which of them is taken.
    torch.nn.init.normal_(cast(Any, method.predictor).mask_tokens)
    batch = noise(3, 8, 64, 64)
    losses = method(batch, 1)
    inputs, grid = method.front_end(batch.inputs, batch.seeds)
    masks = method.masker(grid, batch.seeds, batch.batch_seed)
    target = F.layer_norm(cast(EmaTarget, method.target).encoder(inputs, None).features, (128,))
    expected = []
    for index, mask in enumerate(masks):
        ids = mask.targets.ids[:, 0]
        token = index if name == "vjepa_vitl16" else 0
        predicted = method.predictor(method.encoder(inputs, mask.context), Sites(ids[:, None]), None, token)[:, 0]
        wanted = target.gather(1, ids[..., None].expand(-1, -1, 128))
        # p = 1 of the released mean(|z - h|^p) / p.
        expected.append((predicted - wanted).abs().mean())
    assert len(expected) == 2
    torch.testing.assert_close(losses.total, torch.stack(expected).mean())


def test_each_mask_takes_its_own_token_where_the_recipe_says_so() -> None:
    for name, used in (("vjepa_vitl16", [True, True]), ("vjepa2_vitl", [True] + [False] * 9)):
        method = built(configured(name, *LITTLE))
        method(noise(2, 8, 64, 64), 1).total.backward()
        gradient = cast(Any, method.predictor).mask_tokens.grad
        assert gradient.any(1).tolist() == used


def test_control_and_quickstart_differ_in_the_target_alone() -> None:
    jepa, mae = whole("quickstart"), whole("mae")
    for section in ("data", "trainer", "optimizer", "probe"):
        assert getattr(jepa, section) == getattr(mae, section)
    for part in ("encoder", "masking", "predictor"):
        assert getattr(jepa.vision, part) == getattr(mae.vision, part)
    assert built(configured("mae")).target.policy == "raw"


def test_the_masker_is_the_one_that_is_named() -> None:
    drawn = build_masker(whole("vjepa_vitl16", "vision.masking.kind=random", "vision.masking.masks=3").vision.masking)
    assert isinstance(drawn, RandomMasker) and (drawn.bounds, drawn.masks) == ((0.9, 0.9), 3)
    short = build_masker(whole("vjepa_vitl16", "vision.masking.long.blocks=0").vision.masking)
    assert isinstance(short, TubeMasker) and [tubes.name for tubes in short.sets] == ["short"]


# --------------------------------------------------------------------------------------------------- data and pictures


def test_generated_clips_are_named_as_such_and_held_back_by_photo() -> None:
    config = configured("quickstart", "data.clips=40", "probe.train_clips=24", "probe.test_clips=16")
    rows = {what: (choice, reason) for what, choice, reason in MODALITY.choices(config)}
    assert rows["data"][0].startswith("generated") and rows["data"][1] == "no data.root"
    source, split = training_source(config), probe_split(config)
    assert len(source) == 40 and split is not None and "generated" in split.note
    assert (len(split.train.labels), len(split.test.labels)) == (24, 16)
    names = [{side.sample_id(i) for i in range(len(side))} for side in (source, split.train.source, split.test.source)]
    assert not names[0] & names[1] and not names[0] & names[2] and not names[1] & names[2]


@pytest.mark.parametrize(("recipe", "titles"), [("quickstart", None), ("vjepa_vitl16", ["Mask short", "Mask long"])])
def test_mask_pictures_say_what_they_show(recipe: str, titles: list[str] | None) -> None:
    config = configured(recipe, *LITTLE)
    pictures = MODALITY.pictures(config, cast(Method, built(config)), noise(2, 8, 64, 64))
    assert all(p.png.startswith(b"\x89PNG") and "context" in p.caption and "%" in p.caption for p in pictures)
    assert titles is None or [picture.title for picture in pictures] == titles


def test_the_future_is_predicted_from_the_first_steps_alone() -> None:
    config = configured("quickstart", "vision.masking.kind=future", "vision.masking.future.past=0.25")
    _, (mask,) = MODALITY.masking(config).masks(noise(2, 8, 48, 48))
    assert mask.context.ids.shape == (2, 27) and mask.targets.ids.shape == (2, 1, 81)
    assert mask.context.ids.max() < 36 <= mask.targets.ids.min()
    assert built(config)(noise(2, 8, 48, 48), 1).total.isfinite()
    short = configured("quickstart", "vision.masking.kind=future", "data.frames=2")
    with pytest.raises(ValueError, match="expected at least 2 time steps"):
        MODALITY.build(short)


def test_variance_is_that_of_samples_or_of_the_tokens_within_each() -> None:
    batch, found = noise(4, 8, 48, 48), {}
    for whose in ("samples", "tokens"):
        method = built(configured("quickstart", f"vision.variance_of={whose}", "vision.variance_weight=0.5"))
        found[whose] = method(batch, 1).terms
    assert {"pooled_variance/context", "pooled_covariance/context"} <= set(found["samples"])
    assert {"variance/context", "covariance/context"} <= set(found["tokens"])


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("data.frames=7", "data.frames: expected a multiple of vision.encoder.tubelet"),
        ("vision.masking.future.past=1.0", "vision.masking.future.past: expected a value from 0.01 to 0.99, got 1.0"),
        ("data.region=[0.5,0,0.5,1]", "data.region: expected top, left, bottom and right"),
        ("data.region=[0,1]", "data.region: expected top, left, bottom and right"),
        ("data.height=50", "data.height: expected a multiple of vision.encoder.patch"),
        ("vision.masking.edges=wrap", "vision.masking.edges"),
        ("vision.masking.long.scale=1.5", "vision.masking.long.scale"),
        ("vision.encoder.positions=sin_cos_xy", "vision.encoder.positions"),
        ("vision.predictor.token=10", "vision.predictor.token"),
    ],
)
def test_impossible_settings_are_one_line(override: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        configured("vjepa_vitl16", override)
    assert "\n" not in str(caught.value)
