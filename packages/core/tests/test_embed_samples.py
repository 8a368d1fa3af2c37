"""Features of a source as a table in memory, and every layer of an encoder by one name."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from test_embed import EvaluableToy
from toy import ToySettings, quiet

from jepa_core.contracts import BadSample, Batch, Embedding
from jepa_core.errors import DataError
from jepa_core.evaluate.embed_samples import embed_samples
from jepa_core.evaluate.features import depth_of, layer_embeddings
from jepa_core.evaluate.share import Wanted
from jepa_core.seeds import sample_seed


def test_a_table_in_memory_has_names_labels_and_layers() -> None:
    modality, config = EvaluableToy(), quiet(ToySettings())
    method, source = modality.build(config), modality.evaluation(config, "all")
    table = embed_samples(method, source, batch_size=7, metadata={"run": "drawn"})
    assert table.sample_id.tolist() == [source.sample_id(k) for k in range(len(source))]
    assert table.label is not None and table.label.tolist() == [source.label(k) for k in range(len(source))]
    assert table.layer is not None and set(table.layer) == {"last"} and table.metadata["run"] == "drawn"
    seed = sample_seed(0, 0, source.sample_id(3))
    batch = Batch(source.collate([source.load(3, seed)]), torch.tensor([seed]), (source.sample_id(3),))
    expected = layer_embeddings(method, batch)["last"].features
    if expected.dim() == 3:
        expected = expected.mean(1)
    torch.testing.assert_close(table.tensor()[3:4], expected)
    with pytest.raises(ValueError, match="pooling: expected mean or max"):
        embed_samples(method, source, Wanted(pooling=("tokens",)))


def test_samples_that_cannot_be_read_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    modality, config = EvaluableToy(), quiet(ToySettings())
    method, source = modality.build(config), modality.evaluation(config, "all")
    load, total = source.load, len(source)

    def broken(index: int, seed: int) -> object:
        if index != 2:
            raise BadSample("torn")
        return load(index, seed)

    whole = type("Torn", (), {name: getattr(source, name) for name in ("sample_id", "label", "group", "collate")})()
    whole.__class__.__len__ = lambda self: total
    whole.load = broken
    with pytest.warns(UserWarning, match=f"{total - 1} of {total} samples could not be read; the first is .*torn"):
        assert len(embed_samples(method, whole)) == 1
    whole.load = lambda index, seed: broken(0, seed)
    with pytest.raises(DataError, match=f"{total} of {total} samples could not be read"):
        embed_samples(method, whole)


class Deep:
    """A method whose encoder has three blocks and gives those that are asked for."""

    encoder = SimpleNamespace(size=SimpleNamespace(depth=3), forward_layers=None)

    def embed(self, batch: Batch, layers: Sequence[int] = (), encoder: str = "online") -> dict[str, Embedding]:
        found = {f"block_{k}": Embedding(torch.full((1, 2), float(k))) for k in layers}
        return {"tokens": Embedding(torch.full((1, 2), 9.0)), **found}


def test_all_stands_for_every_block_and_the_last_layer() -> None:
    batch = Batch(torch.zeros(1, 2), torch.zeros(1, dtype=torch.int64), ("one",))
    found = layer_embeddings(cast(Any, Deep()), batch, ("all",))
    assert {name: float(one.features[0, 0]) for name, one in found.items()} == {
        "block_0": 0.0, "block_1": 1.0, "block_2": 2.0, "last": 9.0,
    }  # fmt: skip
    assert depth_of(cast(Any, Deep()), "target") == 0
    modality, config = EvaluableToy(), quiet(ToySettings())
    source = modality.evaluation(config, "all")
    batch = Batch(source.collate([source.load(0, 0)]), torch.zeros(1, dtype=torch.int64), ("one",))
    assert list(layer_embeddings(modality.build(config), batch, ("all",))) == ["target"]  # what it gives by itself
