"""The vision method as a whole: published loss, controls, who may see what, the probe, pictures, settings, sources."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F
from vision_cases import RECIPES, built, configured, noise

from jepa_core.config import compose
from jepa_core.contracts import Method, Sites, Tokens
from jepa_core.errors import ConfigError
from jepa_core.masking.block import MultiBlockMasker
from jepa_core.targets import EmaTarget
from jepa_vision.frontend import patch_lattice
from jepa_vision.image_data import Images, split_images
from jepa_vision.image_files import find_images
from jepa_vision.modality import MODALITY, build_masker
from jepa_vision.probe import ImageProbe, quarters
from jepa_vision.settings import VisionRun
from jepa_vision.sources import choose_root, images_of, splits_of, training_source

CPU = torch.device("cpu")
LITTLE = ["data.height=56", "data.width=56"]  # 4 x 4 patches of 14 pixels


# ------------------------------------------------------------------------------------------------------------ method


def test_the_loss_is_the_published_one_written_out() -> None:
    method = built(configured("ijepa_vith14", "vision.masking.truncate=random", "data.height=112", "data.width=112"))
    batch = noise(3, 112, 112)
    losses = method(batch, 1)
    inputs, grid = method.front_end(batch.inputs, batch.seeds)
    (mask,) = method.masker(grid, batch.seeds, batch.batch_seed)
    target = F.layer_norm(cast(EmaTarget, method.target).encoder(inputs, None).features, (128,))
    expected = []
    for block in mask.targets.ids.unbind(1):
        context = method.encoder(inputs, mask.context)
        predicted = method.predictor(context, Sites(block[:, None]), None)[:, 0]
        wanted = target.gather(1, block[..., None].expand(-1, -1, 128))
        expected.append(F.smooth_l1_loss(predicted, wanted))
    torch.testing.assert_close(losses.total, torch.stack(expected).mean())


@pytest.mark.parametrize("sequences", ["per_block", "packed"])
def test_targets_never_reach_the_prediction(sequences: str) -> None:
    method = built(configured("quickstart", f"vision.predictor.sequences={sequences}")).eval()
    batch = noise(2, 48, 48)
    inputs, grid = method.front_end(batch.inputs, batch.seeds)
    (mask,) = method.masker(grid, batch.seeds, batch.batch_seed)
    hidden = mask.targets.on_lattice(grid.lattice.count)
    spoiled = copy.copy(inputs)
    object.__setattr__(spoiled, "features", inputs.features.masked_fill(hidden[..., None], float("nan")))
    got = method.predictor(method.encoder(spoiled, mask.context), mask.targets, None)
    assert torch.equal(got, method.predictor(method.encoder(inputs, mask.context), mask.targets, None))


def test_the_control_predicts_normalised_pixels_of_hidden_patches() -> None:
    method = built(configured("mae"))
    batch = noise(2, 48, 48)
    losses = method(batch, 1)
    inputs, grid = method.front_end(batch.inputs, batch.seeds)
    (mask,) = method.masker(grid, batch.seeds, batch.batch_seed)
    assert mask.targets.ids.shape == (2, 1, 48) and mask.context.ids.shape == (2, 16)
    predicted = method.predictor(method.encoder(inputs, mask.context), mask.targets, None)[:, 0]
    patches = inputs.features.gather(1, mask.targets.ids[:, 0, :, None].expand(-1, -1, 108))
    wanted = (patches - patches.mean(-1, keepdim=True)) / (patches.var(-1, correction=0, keepdim=True) + 1e-5).sqrt()
    torch.testing.assert_close(losses.total, (predicted - wanted).square().mean())
    assert method.target.policy == "raw" and not list(cast(Any, method.target).parameters())


def test_control_and_quickstart_differ_in_the_target_alone() -> None:
    jepa, mae = configured("quickstart"), configured("mae")
    for section in ("data", "trainer", "optimizer", "probe"):
        assert getattr(jepa, section) == getattr(mae, section)
    assert jepa.vision.encoder == mae.vision.encoder and jepa.vision.masking == mae.vision.masking
    assert jepa.vision.predictor == mae.vision.predictor


@pytest.mark.parametrize("policy", ["ema", "stop_gradient", "pixels"])
@pytest.mark.parametrize("positions", ["sin_cos_xy", "rotary_tiled"])
def test_every_parameter_gets_a_gradient(policy: str, positions: str) -> None:
    wanted = (f"vision.target.policy={policy}", f"vision.encoder.positions={positions}")
    method = built(configured("quickstart", *wanted))
    method(noise(4, 48, 48), 1).total.backward()
    silent = [name for name, p in method.named_parameters() if p.requires_grad and p.grad is None]
    assert silent == []


def test_lengths_do_not_change_from_batch_to_batch_of_one_block_size() -> None:
    method = built(configured("ijepa_vith14", "vision.masking.truncate=random", "data.height=224", "data.width=112"))
    batch = noise(2, 224, 112)
    grid, (mask,) = method.masks(batch)
    assert grid.lattice.sizes == (16, 8) and mask.context.ids.shape == (2, round(128 * 2 / 7))
    assert method.target_counts(batch) is None


def test_published_recipes_hold_the_published_values() -> None:
    expected = {
        "ijepa_vith14": ("huge", 14, 224, 12, 187_500, 25_000, 128),
        "ijepa_vith16_448": ("huge", 16, 448, 12, 187_500, 25_000, 16),
        "ijepa_vith14_in22k": ("huge", 14, 224, 12, 457_512, 20_796, 32),
        "ijepa_vitg16_in22k": ("giant", 16, 224, 16, 305_008, 20_796, 16),
        "ijepa_vitb16": ("base", 16, 224, 6, 375_000, 25_000, 128),
        "ijepa_vitl16": ("large", 16, 224, 12, 375_000, 25_000, 128),
    }
    assert set(expected) | {"quickstart", "mae", "cifar10", "small"} == set(RECIPES)
    for name, values in expected.items():
        run = compose(VisionRun, MODALITY.recipes / f"{name}.yaml", [])
        vision, rate = run.vision, run.optimizer
        got = (vision.encoder.size, vision.encoder.patch, run.data.height, vision.predictor.depth)
        assert (*got, run.trainer.max_steps, rate.warmup, run.trainer.batch_size) == values
        assert (rate.lr, rate.lr * rate.lr_start, rate.lr * rate.lr_end) == pytest.approx((1e-3, 2e-4, 1e-6))
        assert (rate.weight_decay, rate.weight_decay_end, rate.beta1, rate.beta2) == (0.04, 0.4, 0.9, 0.999)
        assert (vision.target.momentum_start, vision.target.momentum_end, vision.predictor.width) == (0.996, 1.0, 384)
        assert (run.data.augment.scale_min, run.data.augment.flip, run.trainer.clip_norm) == (0.3, 0.0, 0.0)
        masker = build_masker(run)
        assert isinstance(masker, MultiBlockMasker) and masker.truncate == "prefix" and masker.blocks == 4
        assert masker.target_scale == (0.15, 0.2) and masker.context_scale == (0.85, 1.0)


# ------------------------------------------------------------------------------------------------------------- probe


@pytest.fixture
def coloured(tmp_path: Path) -> Path:
    """Images whose class is their colour, and one that cannot be read."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 12), ("test", 6)):
        for number, name in enumerate(("red", "green")):
            folder = tmp_path / split / name
            folder.mkdir(parents=True)
            for place in range(count):
                pixels = rng.integers(0, 90, (56, 60, 3), dtype=np.uint8)
                pixels[..., number] += 150
                Image.fromarray(pixels).save(folder / f"{place}.png")
    (tmp_path / "test" / "red" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nno more")
    return tmp_path


@pytest.mark.parametrize("which", ["online", "target"])
def test_the_probe_reads_what_can_be_read(coloured: Path, which: str) -> None:
    config = configured("quickstart", f"data.root={coloured}", f"probe.encoder={which}", "probe.neighbours=3")
    method = built(config).eval()
    table = MODALITY.probe(config, cast(Method, method), cast(Method, method), CPU)
    assert table is not None and table.n == 12 and table.metric == "linear"
    assert set(table.rows) == {"trained", "untrained", "raw"}
    assert set(table.rows["trained"]) == {"linear", "kNN", "linear, 2x2", "kNN, 2x2"}
    assert table.rows["raw"]["linear"].value == table.rows["raw"]["kNN"].value == 1.0
    assert "1 unreadable images left out" in table.note and "the data's own test split" in table.note


def test_the_probe_uses_the_encoder_that_is_asked_for(coloured: Path) -> None:
    config = configured("quickstart", f"data.root={coloured}")
    method, splits = built(config).eval(), split_images(find_images(coloured), 5)
    for parameter in method.encoder.parameters():
        torch.nn.init.zeros_(parameter)
    for which, constant in (("online", True), ("target", False)):
        config.probe.encoder = which  # type: ignore[assignment]  # two literals
        probe = ImageProbe(splits, (48, 48), config.probe, CPU)
        features = probe._features(method, probe.test)[""]
        assert bool((features == features[:1]).all()) is constant


def test_nothing_to_probe_with_is_no_probe(coloured: Path) -> None:
    off = configured("quickstart", f"data.root={coloured}", "probe.enabled=false")
    unlabelled = configured("quickstart", f"data.root={coloured / 'train' / 'red'}")
    for config in (off, unlabelled):
        method = cast(Method, built(config))
        assert MODALITY.probe(config, method, method, CPU) is None


def test_quarters_are_means_over_the_four_quarters() -> None:
    lattice = patch_lattice((8, 16), (2, 2))
    features = torch.randn(2, 32, 3)
    found = quarters(Tokens(features, Sites.whole(lattice, 2), lattice)).view(2, 3, 2, 2)
    expected = features.view(2, 4, 8, 3)[:, :2, 4:].mean((1, 2))
    torch.testing.assert_close(found[:, :, 0, 1], expected)


# -------------------------------------------------------------------------------------------------- pictures, sources


@pytest.mark.parametrize("recipe", ["quickstart", "ijepa_vith14"])
def test_mask_pictures_say_what_they_show(recipe: str) -> None:
    config = configured(recipe)
    method = cast(Method, built(config))
    (picture,) = MODALITY.pictures(config, method, noise(2, config.data.height, config.data.width))
    assert picture.png.startswith(b"\x89PNG") and picture.title == "Mask"
    assert "context" in picture.caption and "target block" in picture.caption and "%" in picture.caption


def test_data_are_looked_up_in_the_stated_order(
    coloured: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("JEPA_DATA", raising=False)
    sample = configured("quickstart")
    assert choose_root(sample).root.parts[-2:] == ("samples", "clothing10")
    (tmp_path / "images" / "clothing10").mkdir(parents=True)
    monkeypatch.setenv("JEPA_DATA", str(tmp_path))
    assert choose_root(sample).root == tmp_path / "images" / "clothing10"
    assert choose_root(configured("quickstart", f"data.root={coloured}")).reason == "data.root"


def test_the_sample_in_the_package_is_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JEPA_DATA", raising=False)
    config = configured("quickstart")
    images = images_of(config)
    splits = splits_of(config, images)
    assert (len(splits.train), len(splits.test), len(images.classes)) == (3068, 372, 10)
    assert {record.label for record in splits.test} == set(range(10))
    view = training_source(config).load(0, 3)
    assert view.shape == (48, 48, 3) and view.std() > 5
    folder = choose_root(config).root
    assert "CC0" in (folder / "ATTRIBUTION.md").read_text()
    assert sum(path.stat().st_size for path in folder.iterdir()) < 4.5e6


def test_held_back_images_are_never_trained_on(coloured: Path) -> None:
    root = coloured / "train"
    for probed, count in (("true", 24), ("false", 24)):
        config = configured("quickstart", f"data.root={root}", f"probe.enabled={probed}")
        splits = splits_of(config, images_of(config))
        source = training_source(config)
        assert isinstance(source, Images) and len(source) == len(splits.train)
        assert len(splits.train) + len(splits.test) == count and (probed == "true") == bool(splits.test)
        assert not {source.sample_id(i) for i in range(len(source))} & {r.sample_id for r in splits.test}


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("data.height=50", "data.height: expected a multiple of vision.encoder.patch"),
        ("data.augment.scale_min=0", "data.augment.scale_min"),
        ("vision.masking.target_scale_max=0.1", "vision.masking.target_scale_min"),
        ("vision.encoder.size=enormous", "vision.encoder.size"),
        ("vision.predictor.depth=0", "vision.predictor.depth"),
        ("vision.masking.truncate=sufix", "prefix"),
    ],
)
def test_impossible_settings_are_one_line(override: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        configured("quickstart", override)
    assert "\n" not in str(caught.value)


def test_settings_that_exclude_each_other_are_refused() -> None:
    with pytest.raises(ConfigError, match="probe.encoder"):
        configured("mae", "probe.encoder=target")
    with pytest.raises(ConfigError, match="vision.masking.edges"):
        configured("ijepa_vith14", "vision.masking.edges=wrap")
