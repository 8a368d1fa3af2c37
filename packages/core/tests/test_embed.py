"""Embedding a run: every sample once and in order, by one process or two, and nothing half written."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from toy import ToyModality, ToySettings, ToySource, quiet

from jepa_core.contracts import Batch, Embedding, Sites
from jepa_core.errors import ConfigError, DataError, UserError, print_error
from jepa_core.evaluate import embed
from jepa_core.evaluate.embed import Options, parse_options, run_embedding
from jepa_core.evaluate.features import layer_embeddings, pool
from jepa_core.evaluate.share import Wanted, share_of
from jepa_core.evaluate.tables import EmbeddingTable, read_table
from jepa_core.evaluation_source import Split
from jepa_core.train.run import run_training

HERE = Path(__file__).parent


class LabelledToys(ToySource):
    def label(self, index: int) -> int | None:
        return None if index == 0 else index % 3

    def group(self, index: int) -> str | None:
        return f"group-{index // 5}"


class EvaluableToy(ToyModality):
    def evaluation(self, config: ToySettings, split: Split) -> LabelledToys | None:
        count = {"train": 0, "test": 7, "all": config.total}[split]
        return LabelledToys(count, tuple(config.bad)) if count else None


@dataclass
class Trained:
    """A toy run and its checkpoint."""

    folder: Path
    checkpoint: Path

    def settings(self, **values: object) -> ToySettings:
        config = quiet(ToySettings(runs_dir=str(self.folder.parent)))
        for name, value in values.items():
            setattr(config, name, value)
        return config

    def embed(self, out: Path, config: ToySettings, split: Split = "all", **wanted: tuple[str, ...]) -> int:
        options = Options(out, split, Wanted(**wanted))  # type: ignore[arg-type]  # of these few
        return run_embedding(config, EvaluableToy(), self.checkpoint, self.folder.name, options)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    config = quiet(ToySettings(runs_dir=str(tmp_path_factory.mktemp("runs")), name="trained"))
    config.trainer.max_steps = 3
    assert run_training(config, ToyModality(), "modality: toy\n") == 0
    folder = Path(config.runs_dir) / "trained"
    return Trained(folder, folder / "checkpoints" / "step-3")


def expected(trained: Trained, index: int) -> np.ndarray:
    """The features of a sample, computed here."""
    config = trained.settings()
    method = ToyModality().build(config)
    from safetensors.torch import load_file

    from jepa_core.seeds import sample_seed

    method.load_state_dict(load_file(trained.checkpoint / "model.safetensors"))
    source = ToySource(config.total)
    x = source.load(index, sample_seed(config.seed, 0, source.sample_id(index)))
    with torch.no_grad():
        return method.eval().target(x[None])[0].numpy()


def test_every_sample_once_in_order_with_what_made_it(trained: Trained, tmp_path: Path) -> None:
    out = tmp_path / "new" / "t.parquet"
    assert trained.embed(out, trained.settings()) == 0
    table = read_table(out)
    assert table.sample_id.tolist() == [f"toy-{k}" for k in range(23)]
    for index in (0, 9, 22):
        np.testing.assert_allclose(table.vectors[index], expected(trained, index), atol=1e-6)
    assert table.label is not None and table.label.tolist()[:4] == [None, 1, 2, 0]
    assert table.group is not None and table.group.tolist()[4:6] == ["group-0", "group-1"]
    said = table.metadata
    digest = hashlib.sha256((trained.checkpoint / "model.safetensors").read_bytes()).hexdigest()
    assert (said["run"], said["step"], said["weights_sha256"]) == ("trained", "3", digest)
    assert (said["modality"], said["encoder"], said["split"]) == ("toy", "online", "all")
    assert (said["samples"], said["rows"], said["unreadable"]) == ("23", "23", "0")
    assert json.loads(said["config"])["trainer"]["batch_size"] == 4
    assert [path.name for path in out.parent.iterdir()] == ["t.parquet"], "nothing is left beside the table"


def test_batches_and_workers_change_nothing(trained: Trained, tmp_path: Path) -> None:
    tables = []
    for batch_size, workers in ((4, "0"), (7, "1"), (50, "0")):
        config = trained.settings()
        config.trainer.batch_size, config.data.workers = batch_size, workers
        out = tmp_path / f"{batch_size}.parquet"
        assert trained.embed(out, config) == 0
        tables.append(read_table(out))
    for table in tables[1:]:
        assert table.sample_id.tolist() == tables[0].sample_id.tolist()
        np.testing.assert_allclose(table.vectors, tables[0].vectors, atol=1e-6)


def test_what_cannot_be_read_is_listed_and_left_out(
    trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "t.parquet"
    assert trained.embed(out, trained.settings(bad=[2, 8, 9, 10, 11, 22])) == 0
    table = read_table(out)
    assert len(table) == 17 and not {"toy-2", "toy-22"} & set(table.sample_id)
    assert table.metadata["unreadable"] == "6"
    listed = [json.loads(line) for line in (tmp_path / "t.parquet.quarantine.jsonl").read_text().splitlines()]
    assert [entry["sample_id"] for entry in listed] == [f"toy-{k}" for k in (2, 8, 9, 10, 11, 22)]
    assert listed[0]["reason"] == "broken on purpose (2)"
    assert "6 of 23 samples could not be read" in capsys.readouterr().out


def test_nothing_readable_is_an_error_and_no_table(trained: Trained, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none of 7 samples could be read; the first is toy-0: broken on purpose"):
        trained.embed(tmp_path / "t.parquet", trained.settings(bad=list(range(23))), split="test")
    assert [path.name for path in tmp_path.iterdir()] == ["t.parquet.quarantine.jsonl"]


def test_a_table_is_never_overwritten(trained: Trained, tmp_path: Path) -> None:
    out = tmp_path / "t.parquet"
    out.write_bytes(b"precious")
    with pytest.raises(ConfigError, match="expected a new file.*it exists; remove it"):
        trained.embed(out, trained.settings())
    assert out.read_bytes() == b"precious"


def test_what_an_interrupted_embedding_left_is_removed(trained: Trained, tmp_path: Path) -> None:
    (tmp_path / "t.parquet.part-7").write_bytes(b"torn")
    assert trained.embed(tmp_path / "t.parquet", trained.settings(), split="test") == 0
    assert [path.name for path in tmp_path.iterdir()] == ["t.parquet"]


def test_an_empty_split_and_a_method_without_blocks_are_told(trained: Trained, tmp_path: Path) -> None:
    out = tmp_path / "t.parquet"
    with pytest.raises(ConfigError, match="split: expected samples, but nothing of the data is train"):
        trained.embed(out, trained.settings(), split="train")
    with pytest.raises(ConfigError, match="layers: expected a method whose embed.. takes it, got ToyJepa"):
        trained.embed(out, trained.settings(), layers=("block_1",))
    with pytest.raises(ConfigError, match="layers: expected block_<k>.*one of target, got 'traget'; did you mean targ"):
        trained.embed(out, trained.settings(), layers=("traget",))
    with pytest.raises(ConfigError, match="pooling: expected features of sites for tokens"):
        trained.embed(out, trained.settings(), pooling=("tokens",))
    assert not out.exists()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "out: expected out=<table>.parquet"),
        ({"out": "t.csv"}, "ends in .parquet, got 't.csv'"),
        ({"out": "t.parquet", "split": "tset"}, "split: expected one of train, test, all, got 'tset'; did you mean te"),
        ({"out": "t.parquet", "pooling": "mean,maxx"}, "pooling: .* got 'maxx'; did you mean max"),
        ({"out": "t.parquet", "encoder": "ema"}, "encoder: expected one of online, target, got 'ema'"),
        ({"out": "t.parquet", "layers": ", "}, "layers: expected names"),
    ],
)
def test_bad_options_are_told(given: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_options(given)


def test_options_take_lists() -> None:
    options = parse_options({"out": "t.parquet", "layers": "[block_2, last,last]", "pooling": "mean,tokens"})
    assert options.wanted == Wanted(("block_2", "last"), ("mean", "tokens"), "online") and options.split == "test"


def test_shares_follow_one_another_and_have_the_batches_of_one_process() -> None:
    for total, world, size in ((23, 2, 4), (5, 8, 1), (0, 3, 4), (16, 4, 4), (40, 3, 16), (7, 2, 8)):
        shares = [share_of(total, rank, world, size) for rank in range(world)]
        assert [index for share in shares for index in share] == list(range(total))
        assert all(share.start % size == 0 for share in shares if share)
        counts = [-(-len(share) // size) for share in shares]
        assert max(counts) - min(counts) <= 1 and counts[-1] == max(counts)


def test_pooling_ignores_what_is_not_valid() -> None:
    x = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(0))
    valid = torch.tensor([[True, True, False, True, False], [False] * 5])
    sites = Sites(torch.arange(5).expand(2, -1), valid)
    wild = torch.where(valid[..., None], x, torch.nan)
    for pooling, alone in (("mean", x[0, valid[0]].mean(0)), ("max", x[0, valid[0]].amax(0))):
        pooled = pool(Embedding(wild, sites), pooling)
        torch.testing.assert_close(pooled[0], alone)
        assert not pooled[1].any(), "a sample without a valid site has zeros"
        whole = pool(Embedding(x, Sites(sites.ids)), pooling)
        torch.testing.assert_close(whole, x.mean(1) if pooling == "mean" else x.amax(1))


class TwoLayers:
    """A method with sites, some of them not valid, and a further layer."""

    def embed(self, batch: Batch) -> dict[str, Embedding]:
        x = batch.inputs[..., None].expand(-1, -1, 4)
        sites = Sites(torch.arange(12).expand(len(x), -1), batch.inputs > 0)
        return {"tokens": Embedding(x, sites), "half": Embedding(x / 2, sites)}


def test_layers_are_found_by_name() -> None:
    batch = Batch(torch.randn(2, 12), torch.arange(2), ("a", "b"))
    found = layer_embeddings(TwoLayers(), batch, ("half", "last"))  # type: ignore[arg-type]  # embeds, no more
    assert list(found) == ["half", "last"]
    torch.testing.assert_close(found["half"].features * 2, found["last"].features)


def test_single_sites_are_rows(trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built = ToyModality().build(trained.settings())
    monkeypatch.setattr(built, "embed", TwoLayers().embed)
    monkeypatch.setattr(embed, "build_method", lambda config, modality: built)
    out = tmp_path / "t.parquet"
    assert trained.embed(out, trained.settings(), "test", layers=("last", "half"), pooling=("tokens", "mean")) == 0
    tokens = read_table(out, layer="half", pooling="tokens")
    assert tokens.site is not None and set(tokens.sample_id) <= {f"toy-{k}" for k in range(7)}
    assert (tokens.vectors > 0).all(), "sites that are not valid are left out"
    first = tokens.rows(tokens.sample_id == "toy-0")
    pooled = read_table(out, layer="half", pooling="mean")
    np.testing.assert_allclose(first.vectors.mean(0), pooled.vectors[0], rtol=1e-5)
    assert pooled.site is not None and set(pooled.site) == {None}
    assert sorted(first.site.tolist()) == first.site.tolist() if first.site is not None else False


PROGRAM = """
import json, sys
from pathlib import Path

sys.path.insert(0, sys.argv[1])
from test_embed import program

sys.exit(program(json.loads(sys.argv[2])))
"""


def program(values: dict) -> int:
    """What each of two processes runs."""
    trained = Trained(Path(values["folder"]), Path(values["checkpoint"]))
    try:
        return trained.embed(Path(values["out"]), trained.settings(bad=values["bad"]), values["split"])
    except UserError as error:
        return print_error(error)


def by_two(trained: Trained, out: Path, bad: list[int], split: Split = "all") -> subprocess.CompletedProcess[str]:
    script = out.parent / "embed_toy.py"
    script.write_text(PROGRAM)
    values = {"folder": str(trained.folder), "checkpoint": str(trained.checkpoint), "out": str(out), "bad": bad}
    head = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    arguments = [str(script), str(HERE), json.dumps({**values, "split": split})]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run([*head, *arguments], env=environment, capture_output=True, text=True, timeout=90)


def same(one: EmbeddingTable, two: EmbeddingTable) -> None:
    assert one.sample_id.tolist() == two.sample_id.tolist()
    assert one.label is not None and two.label is not None and one.label.tolist() == two.label.tolist()
    assert np.array_equal(one.vectors, two.vectors)  # to the bit: the batches are the same
    assert one.metadata == two.metadata


@pytest.mark.slow
def test_two_processes_write_the_table_of_one(trained: Trained, tmp_path: Path) -> None:
    # All samples of the first share but one are bad, and one of the second.
    bad = [*range(10), 17]
    assert trained.embed(tmp_path / "one.parquet", trained.settings(bad=bad)) == 0
    done = by_two(trained, tmp_path / "two.parquet", bad)
    assert done.returncode == 0, done.stderr
    same(read_table(tmp_path / "one.parquet"), read_table(tmp_path / "two.parquet"))
    listed = [(tmp_path / f"{name}.parquet.quarantine.jsonl").read_text() for name in ("one", "two")]
    assert listed[0] == listed[1] and len(listed[0].splitlines()) == 11
    assert not list(tmp_path.glob("*.part-*"))


@pytest.mark.slow
def test_a_process_without_a_readable_sample_writes_nothing(trained: Trained, tmp_path: Path) -> None:
    done = by_two(trained, tmp_path / "half.parquet", [0, 1, 2], "test")
    assert done.returncode == 0, done.stderr
    assert read_table(tmp_path / "half.parquet").sample_id.tolist() == ["toy-3", "toy-4", "toy-5", "toy-6"]


@pytest.mark.slow
def test_two_processes_leave_together_and_one_speaks(trained: Trained, tmp_path: Path) -> None:
    (tmp_path / "t.parquet").write_bytes(b"precious")
    done = by_two(trained, tmp_path / "t.parquet", [], "test")
    assert done.returncode != 0 and done.stderr.count("expected a new file") == 1, done.stderr
