"""Evaluation of images: splits with labels, tables of chosen layers, and the choices of the probe."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import clip_cases
import numpy as np
import pytest
import torch
from PIL import Image
from vision_cases import built, configured

from jepa_core.cli import main
from jepa_core.config import to_yaml
from jepa_core.errors import ConfigError
from jepa_core.evaluate.tables import read_table
from jepa_core.evaluation_source import DrawsFeatures, Evaluable
from jepa_core.methods.frozen import frozen_tokens
from jepa_core.methods.masked import MaskedPrediction
from jepa_core.plugins import find_modality
from jepa_core.train import checkpoint as checkpoints
from jepa_core.train.run import run_training
from jepa_vision.evaluation import labelled_clips, labelled_images
from jepa_vision.image_data import split_images
from jepa_vision.image_files import find_images
from jepa_vision.modality import MODALITY
from jepa_vision.probe import ImageProbe, Side

CPU = torch.device("cpu")
COLOURS = {"blue": (20, 30, 200), "red": (200, 30, 20)}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Noisy red and blue pictures with a training, a validation and a test split."""
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for split, count in (("train", 10), ("val", 2), ("test", 6)):
        for name, colour in COLOURS.items():
            (folder / split / name).mkdir(parents=True)
            for place in range(count):
                pixels = np.clip(np.array(colour) + rng.integers(-40, 40, (48, 48, 3)), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / split / name / f"{place}.png")
    return folder


@pytest.fixture(scope="module")
def trained(pictures: Path) -> Path:
    """The folder of a short run on them."""
    quiet = ["data.workers=0", "trainer.threads=1", "trainer.precision=fp32", "logging.trackers=[]", "monitor.every=1"]
    config = configured(
        "quickstart",
        f"data.root={pictures}",
        "trainer.max_steps=2",
        "trainer.batch_size=4",
        "logging.progress=off",
        "probe.enabled=false",
        f"runs_dir={pictures.parent}",
        "name=run",
        *quiet,
    )
    assert run_training(config, find_modality("vision"), to_yaml(config)) == 0
    return pictures.parent / "run"


# ------------------------------------------------------------------------------------------------------------- sources


def test_splits_come_with_classes_and_without_augmentation(pictures: Path) -> None:
    config = configured("quickstart", f"data.root={pictures}")
    sources = {split: labelled_images(config, split) for split in ("train", "test", "all")}  # type: ignore[arg-type]
    sizes = {split: len(source) for split, source in sources.items() if source is not None}
    assert sizes == {"train": 20, "test": 12, "all": 36}
    test = sources["test"]
    assert test is not None
    for index in range(len(test)):
        assert test.label(index) in test.sample_id(index).split("/") and test.group(index) is None
        assert np.array_equal(test.load(index, 1), test.load(index, 2)), "the seed changes nothing"


def test_nothing_held_back_is_none(pictures: Path) -> None:
    unlabelled = configured("quickstart", f"data.root={pictures / 'train' / 'red'}")
    assert labelled_images(unlabelled, "test") is None
    source = labelled_images(unlabelled, "all")
    assert source is not None and source.label(0) is None


def test_generated_clips_have_their_motions_as_classes() -> None:
    config = clip_cases.configured("quickstart", "probe.test_clips=9", "probe.train_clips=16")
    test, train = labelled_clips(config, "test"), labelled_clips(config, "train")
    assert test is not None and train is not None and (len(test), len(train)) == (9, 16)
    assert [test.label(k) for k in (0, 1, 8)] == ["right", "left", "right"]
    assert np.array_equal(test.load(3, 1), test.load(3, 2)) and test.sample_id(3) != train.sample_id(3)
    with pytest.raises(ValueError, match="split: generated clips have no end; choose train or test"):
        labelled_clips(config, "all")


# -------------------------------------------------------------------------------------------------------------- tables


def loaded(run: Path, config: Any) -> MaskedPrediction:
    method = built(config)
    checkpoint = run / "checkpoints" / "step-2"
    checkpoints.load_into(method, checkpoints.load_model(checkpoint), "test")
    return method.eval()


def test_chosen_layers_of_either_encoder_are_written(trained: Path, pictures: Path, tmp_path: Path) -> None:
    config = configured("quickstart", f"data.root={pictures}")
    method, source = loaded(trained, config), labelled_images(config, "test")
    assert source is not None
    inputs = source.collate([source.load(index, 0) for index in range(len(source))])
    for encoder in ("online", "target"):
        out = tmp_path / f"{encoder}.parquet"
        own = [f"out={out}", f"encoder={encoder}", "layers=block_1,last", "pooling=mean,tokens", "split=test"]
        assert main(["embed", str(trained), *own]) == 0
        table = read_table(out)
        for layer, number in (("block_1", 1), ("last", -1)):
            tokens = frozen_tokens(method, encoder, inputs, number).features
            mean = table.select(layer, "mean")
            assert mean.label is not None and mean.label.tolist() == [source.label(k) for k in range(len(source))]
            np.testing.assert_allclose(mean.vectors, tokens.mean(1).numpy(), atol=1e-5, rtol=1e-4)
            sites = table.select(layer, "tokens")
            np.testing.assert_allclose(sites.vectors, tokens.flatten(0, 1).numpy(), atol=1e-5, rtol=1e-4)
            assert sites.site is not None and sites.site[:64].tolist() == list(range(64))
        assert table.metadata["encoder"] == encoder and table.metadata["modality"] == "vision"
    both = [read_table(tmp_path / f"{name}.parquet", "last", "mean").vectors for name in ("online", "target")]
    assert not np.allclose(*both)


def test_a_checkpoint_folder_and_settings_of_the_command_line(trained: Path, pictures: Path, tmp_path: Path) -> None:
    out = tmp_path / "t.parquet"
    folder = trained / "checkpoints" / "step-2"
    root = pictures / "train" / "red"
    assert main(["embed", str(folder), f"out={out}", "split=all", f"data.root={root}", "trainer.batch_size=3"]) == 0
    table = read_table(out)
    assert len(table) == 10 and table.metadata["run"] == "run" and table.metadata["step"] == "2"


MISTAKES = [
    (["layers=block_4"], "layers: expected -4 to 3, got 4"),
    (["layers=lats"], "did you mean last?"),
    (["split=tets"], "did you mean test?"),
    (["encoder=teacher"], "expected one of online, target, got 'teacher'"),
    (["pooling=average"], "expected one of mean, max, tokens, got 'average'"),
    (["splitt=all"], "splitt (command line): unknown key"),
    (["out=t.csv"], "ends in .parquet"),
]


@pytest.mark.parametrize(("arguments", "message"), MISTAKES, ids=[mistake[0][0] for mistake in MISTAKES])
def test_a_mistake_is_one_line(
    arguments: list[str], message: str, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert main(["embed", str(trained), f"out={tmp_path / 't.parquet'}", *arguments]) == 2
    said = capsys.readouterr().err
    assert message in said and len(said.splitlines()) == 1 and list(tmp_path.iterdir()) == []


# --------------------------------------------------------------------------------------------------------------- probe


def test_all_heads_read_a_chosen_block(pictures: Path) -> None:
    config = configured(
        "quickstart", f"data.root={pictures}", "probe.heads=[attentive,knn]", "probe.layer=1", "probe.neighbours=3"
    )
    method = built(config).eval()
    probe = ImageProbe(split_images(find_images(pictures), 5), (48, 48), config.probe, CPU)
    probe.add("trained", method)
    probe.add_raw()
    table = probe.table()
    assert table.metric == "attentive" and set(table.rows["trained"]) == {"attentive", "kNN", "kNN, 2x2"}
    assert table.rows["trained"]["attentive"].value > 0.9, "the classes are colours"
    assert "output of block 1, before any norm" in table.note and "attentive: V-JEPA's probe" in table.note
    features = probe._features(method, probe.test)[""]
    images = torch.from_numpy(probe.test.pictures).permute(0, 3, 1, 2)
    torch.testing.assert_close(features, frozen_tokens(method, "online", images, 1).features.mean(1))


def test_tokens_too_large_to_keep_are_computed_anew(pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = configured("quickstart", f"data.root={pictures}")
    method = built(config).eval()
    probe = ImageProbe(split_images(find_images(pictures), 5), (48, 48), config.probe, CPU)
    side: Side = probe.test
    kept = probe._tokens(method, side)
    monkeypatch.setattr("jepa_core.evaluate.heads.MOST_TOKEN_BYTES", 1000)
    anew = probe._tokens(method, side)
    assert isinstance(kept.tokens, torch.Tensor) and callable(anew.tokens)
    places = torch.tensor([3, 0, 7])
    torch.testing.assert_close(anew.batch(places, CPU)[0], kept.batch(places, CPU)[0])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "probe.heads=[linaer]",
            "probe.heads: expected some of linear, knn, attentive, got 'linaer'; did you mean lin",
        ),
        ("probe.heads=[]", "probe.heads: expected some of linear, knn, attentive, got none"),
        ("probe.layer=4", "probe.layer: expected a value from -1 to 3, got 4"),
        ("probe.layer=-2", "probe.layer: expected a value from -1 to 3, got -2"),
    ],
)
def test_a_probe_that_cannot_be_is_refused_before_training(override: str, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        configured("quickstart", override)
    assert message in str(error.value)


def test_the_modalities_offer_their_data_and_their_pictures() -> None:
    for modality in (MODALITY, clip_cases.MODALITY):
        assert isinstance(modality, Evaluable) and isinstance(modality, DrawsFeatures)
