"""Evaluation of clips: heads and layer of the probe, and tables of chosen layers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from clip_cases import built, configured
from numpy.typing import NDArray
from torch import Tensor

from jepa_core.cli import main
from jepa_core.config import to_yaml
from jepa_core.contracts import BadSample
from jepa_core.errors import ConfigError
from jepa_core.evaluate.tables import read_table
from jepa_core.methods.frozen import frozen_tokens
from jepa_core.methods.masked import MaskedPrediction
from jepa_core.plugins import find_modality
from jepa_core.train import checkpoint as checkpoints
from jepa_core.train.run import run_training
from jepa_vision.evaluation import labelled_clips
from jepa_vision.video_probe import MEAN, STEPS, describe_side, of_encoder, probe_table, tokens_of
from jepa_vision.video_sources import ProbeSide, ProbeSplit

CPU = torch.device("cpu")
SMALL = ["data.frames=4", "data.height=32", "data.width=32"]
SIDE, SQUARE, STEP = 32, 8, 4


class Walks:
    """A square walks right and comes in again at the left; in clips of an even number the film runs backwards.

    Each frame is as likely in the one class as in the other.
    """

    def __init__(self, count: int, seed: int, torn: int = -1) -> None:
        self.count, self.seed, self.torn = count, seed, torn

    def __len__(self) -> int:
        return self.count

    def sample_id(self, index: int) -> str:
        return f"walk-{self.seed}-{index}"

    def load(self, index: int, seed: int) -> NDArray[np.uint8]:
        if index == self.torn:
            raise BadSample("torn")
        rng = np.random.default_rng([self.seed, index])
        row, start, colour = rng.integers(SIDE - SQUARE + 1), rng.integers(SIDE), rng.integers(120, 256, 3)
        clip = np.full((4, SIDE, SIDE, 3), 30, np.uint8)
        for number, frame in enumerate(clip):
            frame[row : row + SQUARE, (start + STEP * number + np.arange(SQUARE)) % SIDE] = colour
        return clip if index % 2 else clip[::-1].copy()

    def collate(self, samples: list[NDArray[np.uint8]]) -> Tensor:
        return torch.from_numpy(np.stack(samples)).permute(0, 4, 1, 2, 3).contiguous()


def side(count: int, seed: int, torn: int = -1, groups: Tensor | None = None) -> ProbeSide:
    return ProbeSide(Walks(count, seed, torn), torch.arange(count) % 2, groups)  # type: ignore[arg-type]  # list of arrays


def seeing(method: MaskedPrediction) -> MaskedPrediction:
    """Untrained tokens are little but their positions; these show what is there."""
    with torch.no_grad():
        method.encoder.patch_embed.proj.weight.mul_(20)  # type: ignore[union-attr, operator]
    return method.eval()


# --------------------------------------------------------------------------------------------------------------- probe


def test_the_attentive_head_reads_motion() -> None:
    config = configured("quickstart", *SMALL, "probe.heads=[attentive,linear]", "probe.layer=2")
    method = seeing(built(config))
    found = probe_table(ProbeSplit(side(40, 1), side(40, 2, torn=3), "walks"), {"trained": method}, config.probe, CPU)
    assert found.metric == "attentive" and found.n == 39
    assert set(found.rows["trained"]) == {"attentive", "linear", "linear, time"} and set(found.rows["raw"]) == {
        "linear"
    }
    assert found.rows["trained"]["attentive"].value > 0.9, "the order of frames tells the classes"
    assert found.rows["mean frame"]["linear"].value < 0.7, "their mean does not"
    assert "output of block 2, before any norm" in found.note and "attentive: V-JEPA's probe" in found.note
    assert "1 unreadable clips left out" in found.note and "kNN" not in found.note


def test_the_attentive_head_alone_works_with_few_recordings() -> None:
    config = configured("quickstart", *SMALL, "probe.heads=[attentive]")
    split = ProbeSplit(side(12, 1, groups=torch.arange(12) // 4), side(8, 2, groups=torch.arange(8) // 2), "walks")
    found = probe_table(split, {"trained": built(config).eval()}, config.probe, CPU)
    assert found.metric == "attentive" and set(found.rows["trained"]) == {"attentive"} and found.n == 8


def test_each_readout_is_of_the_chosen_block() -> None:
    config = configured("quickstart", *SMALL)
    method, clips = built(config).eval(), side(4, 1)
    rows = {str(layer): of_encoder(method, "online", layer) for layer in (-1, 1, 3)}
    found = describe_side(clips, rows, 3, CPU).features
    inputs = clips.source.collate([clips.source.load(index, 0) for index in range(4)])
    for layer in (-1, 1, 3):
        tokens = frozen_tokens(method, "online", inputs, layer).features
        torch.testing.assert_close(found[str(layer), MEAN], tokens.mean(1))
        torch.testing.assert_close(found[str(layer), STEPS], tokens.unflatten(1, (2, -1)).mean(2).flatten(1))
    assert not torch.allclose(found["1", MEAN], found["3", MEAN])
    assert not torch.allclose(found["3", MEAN], found["-1", MEAN]), "the last norm follows block 3"


@pytest.mark.parametrize("most", [2**30, 1000], ids=["kept", "anew"])
def test_tokens_are_those_of_the_clips_that_can_be_read(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jepa_core.evaluate.heads.MOST_TOKEN_BYTES", most)
    config = configured("quickstart", *SMALL, "probe.layer=1", "probe.encoder=target", "probe.batch_size=3")
    method, clips = built(config).eval(), side(8, 1, torn=2, groups=torch.arange(8) // 2)
    described = describe_side(clips, {}, 3, CPU)
    tokens = tokens_of(clips, described, method, config.probe, CPU)
    assert isinstance(tokens.tokens, Tensor) is (most > 1000)
    assert tokens.labels.tolist() == [0, 1, 1, 0, 1, 0, 1] and tokens.groups is not None
    assert tokens.groups.tolist() == [0, 0, 1, 2, 2, 3, 3]
    inputs = clips.source.collate([clips.source.load(index, 0) for index in (5, 0, 7, 3)])
    expected = frozen_tokens(method, "target", inputs, 1).features
    torch.testing.assert_close(tokens.batch(torch.tensor([4, 0, 6, 2]), CPU)[0], expected)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "probe.heads=[linaer]",
            "probe.heads: expected some of linear, knn, attentive, got 'linaer'; did you mean linear?",
        ),
        ("probe.heads=[]", "probe.heads: expected some of linear, knn, attentive, got none"),
        ("probe.layer=4", "probe.layer: expected a value from -1 to 3, got 4"),
        ("probe.layer=-2", "probe.layer: expected a value from -1 to 3, got -2"),
        ("probe.batch_size=0", "probe.batch_size: expected a value from 1 to inf, got 0"),
    ],
)
def test_a_probe_that_cannot_be_is_refused_before_training(override: str, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        configured("quickstart", override)
    assert message in str(error.value) and len(str(error.value).splitlines()) == 1


# -------------------------------------------------------------------------------------------------------------- tables


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a short run on generated clips."""
    folder = tmp_path_factory.mktemp("clips")
    quiet = ["data.workers=0", "trainer.threads=1", "trainer.precision=fp32", "logging.trackers=[]", "monitor.every=1"]
    few = ["trainer.max_steps=2", "trainer.batch_size=4", "probe.enabled=false", "probe.test_clips=9"]
    places = [f"runs_dir={folder}", "name=run", "logging.progress=off"]
    config = configured("quickstart", *SMALL, *few, *places, *quiet)
    assert run_training(config, find_modality("video"), to_yaml(config)) == 0
    return folder / "run"


def test_chosen_layers_of_either_encoder_are_written(trained: Path, tmp_path: Path) -> None:
    config = configured("quickstart", *SMALL, "probe.test_clips=9")
    method, source = built(config), labelled_clips(config, "test")
    assert source is not None
    checkpoints.load_into(method, checkpoints.load_model(trained / "checkpoints" / "step-2"), "test")
    inputs = source.collate([source.load(index, 0) for index in range(9)])
    for encoder in ("online", "target"):
        out = tmp_path / f"{encoder}.parquet"
        own = [f"out={out}", f"encoder={encoder}", "layers=block_1,last", "pooling=mean,tokens"]
        assert main(["embed", str(trained), *own]) == 0
        table = read_table(out)
        for layer, number in (("block_1", 1), ("last", -1)):
            tokens = frozen_tokens(method.eval(), encoder, inputs, number).features
            mean, sites = table.select(layer, "mean"), table.select(layer, "tokens")
            assert mean.label is not None and mean.label.tolist() == [source.label(index) for index in range(9)]
            np.testing.assert_allclose(mean.vectors, tokens.mean(1).numpy(), atol=1e-5, rtol=1e-4)
            np.testing.assert_allclose(sites.vectors, tokens.flatten(0, 1).numpy(), atol=1e-5, rtol=1e-4)
            assert sites.site is not None and sites.site[:32].tolist() == list(range(32))


def test_a_block_that_is_not_there_is_one_line(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert main(["embed", str(trained), f"out={tmp_path / 't.parquet'}", "layers=block_4"]) == 2
    said = capsys.readouterr().err
    assert "layers: expected -4 to 3, got 4" in said and len(said.splitlines()) == 1
