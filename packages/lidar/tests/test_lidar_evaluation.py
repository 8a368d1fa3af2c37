"""LiDAR scans as evaluation sees them: which belong to a split, their drives, and a table of their features."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from lidar_cases import configured, scan_of_cells

from jepa_core.evaluate.share import Job, Share, Wanted
from jepa_core.evaluate.tables import read_table
from jepa_core.evaluation_source import Evaluable, Labelled
from jepa_lidar.modality import MODALITY
from jepa_lidar.sources import evaluation_source


def recorded(folder: Path, drives: int = 2, count: int = 20) -> Path:
    for drive in range(drives):
        (folder / f"drive-{drive}").mkdir(parents=True)
        for frame in range(count):
            scan_of_cells(60, seed=100 * drive + frame).tofile(folder / f"drive-{drive}/{frame:06d}.bin")
    return folder


def names(source: Labelled | None) -> list[str]:
    assert source is not None
    return [source.sample_id(index) for index in range(len(source))]


def test_splits_follow_those_of_the_probe(tmp_path: Path) -> None:
    config = configured("quickstart", f"data.root={recorded(tmp_path)}", "probe.train_until=0.5", "probe.test_from=0.7")
    train, test, every = (evaluation_source(config, split) for split in ("train", "test", "all"))  # type: ignore[arg-type]
    assert (len(names(train)), len(names(test)), len(names(every))) == (20, 12, 40)
    assert not set(names(train)) & set(names(test)) and set(names(train)) | set(names(test)) < set(names(every))
    assert isinstance(MODALITY, Evaluable) and train is not None
    assert {train.group(index) for index in range(len(train))} == {"drive-0", "drive-1"}
    assert {train.label(index) for index in range(len(train))} == {None}
    assert np.array_equal(train.load(3, 1), train.load(3, 2)), "nothing is augmented"
    everything = configured("quickstart", f"data.root={tmp_path}", "probe.train_until=1")
    assert evaluation_source(everything, "test") is None


def test_simulated_scenes_of_the_test_are_none_of_the_training() -> None:
    config = configured("quickstart", "data.root=simulated", "data.scenes=4", "probe.test_scans=3")
    train, test = evaluation_source(config, "train"), evaluation_source(config, "test")
    assert (len(names(train)), len(names(test))) == (4, 3) and not set(names(train)) & set(names(test))
    with pytest.raises(ValueError, match="split: simulated scenes have no end; choose train or test"):
        evaluation_source(config, "all")


def test_a_table_of_scans(tmp_path: Path) -> None:
    config = configured(
        "quickstart", "data.root=simulated", "data.scenes=3", "data.azimuths=96", "data.beams=32", "trainer.device=cpu"
    )
    source = evaluation_source(config, "train")
    assert source is not None
    torch.manual_seed(0)
    method = MODALITY.build(config)
    device = torch.device("cpu")
    job = Job(method, source, Wanted(("last",), ("mean", "tokens")), device, config.seed, 2, 0, {"run": "r"})
    share = Share(job, range(3), tmp_path / "t.parquet")
    share.advance(10)
    share.close({})
    table = read_table(tmp_path / "t.parquet", pooling="mean")
    assert table.sample_id.tolist() == names(source) and np.isfinite(table.vectors).all()
    sites = read_table(tmp_path / "t.parquet", pooling="tokens")
    for index, name in enumerate(names(source)):
        mine = sites.vectors[sites.sample_id == name]
        np.testing.assert_allclose(mine.mean(0), table.vectors[index], atol=1e-4)
    blocks = Share(replace(job, wanted=Wanted(("block_1",))), range(3), tmp_path / "u.parquet")
    with pytest.raises(ValueError, match="layers: expected an encoder with blocks to choose from, got BevEncoder"):
        blocks.advance(1)
