"""Samples of a report: who is shown, who counts as a neighbour, the shares, the map, the pictures."""

from __future__ import annotations

import io
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from jepa_core import thumbnails
from jepa_core.contracts import Batch
from jepa_core.evaluate.nearest import Wanted, neighbours_of, same_label
from jepa_core.evaluate.projection import FEWEST_TSNE, project
from jepa_core.evaluate.sample_rows import (
    choose_queries,
    counts_other_groups,
    draw_places,
    draw_samples,
    embed_samples,
    largest_group,
)
from jepa_core.evaluate.share import Chunks
from jepa_core.evaluate.tables import EmbeddingTable
from jepa_core.results import SamplePictures
from jepa_core.thumbnails import SIDE, image_png, inlined, lines_png, strip_png, tensor_pictures


def column(values: list[Any]) -> Any:
    held = np.empty(len(values), dtype=object)
    held[:] = values
    return held


def table(rows: int = 60, seed: int = 0) -> EmbeddingTable:
    """Random vectors of 3 labels (a few rows have none) in groups of 4."""
    generator = np.random.default_rng(seed)
    labels: list[Any] = [None if row % 13 == 0 else "abc"[row % 3] for row in range(rows)]
    groups = [f"g{row // 4}" for row in range(rows)]
    names = [f"sample {row}" for row in range(rows)]
    vectors = generator.normal(size=(rows, 8)).astype(np.float32)
    return EmbeddingTable(column(names), vectors, label=column(labels), group=column(groups))


# Who is shown


def test_queries_are_drawn_by_the_seed_and_spread_over_labels() -> None:
    labels = ["rare", *["a"] * 40, *["b"] * 40, None]
    groups: list[str | None] = [None] * len(labels)
    for seed in range(20):
        chosen = choose_queries(labels, groups, 6, seed)
        assert chosen == choose_queries(list(labels), list(groups), 6, seed) and len(set(chosen)) == 6
        counted = Counter(labels[row] for row in chosen)
        assert counted["rare"] == 1 and {counted["a"], counted["b"]} <= {2, 3} and None not in counted
    assert len({tuple(choose_queries(labels, groups, 6, seed)) for seed in range(20)}) > 10


def test_queries_without_labels_are_spread_over_groups() -> None:
    groups = ["x"] * 30 + ["y"] * 3 + [None, None]
    chosen = choose_queries([None] * 35, groups, 4, seed=1)
    assert {"x", "y"} <= {str(groups[row]) for row in chosen} and {33, 34} < set(chosen)
    assert choose_queries([], [], 6, 0) == []
    assert sorted(choose_queries([None] * 3, [None] * 3, 6, 0)) == [0, 1, 2]


def test_places_are_drawn_by_the_seed() -> None:
    assert draw_places(10, 100, 3) == list(range(10))
    drawn = draw_places(1000, 16, 3)
    assert drawn == draw_places(1000, 16, 3) != draw_places(1000, 16, 4) and drawn == sorted(set(drawn))


# Neighbours


@pytest.mark.parametrize("groups", ["any", "other"])
def test_neighbours_are_never_the_sample_itself_nor_of_its_own_group(groups: str) -> None:
    held = table()
    for row, near in enumerate(neighbours_of(held, range(len(held)), Wanted((), 5, "cosine", groups))):
        assert len(near) == 5 and held.sample_id[row] not in {n.sample_id for n in near}
        if groups == "other":
            assert held.group is not None and held.group[row] not in {n.group for n in near}


@pytest.mark.parametrize("groups", ["any", "other"])
def test_the_share_with_the_same_label_is_that_of_a_direct_count(groups: str) -> None:
    held, k = table(), 5
    assert held.label is not None and held.group is not None
    known = [row for row in range(len(held)) if held.label[row] is not None]
    unit = held.vectors / np.linalg.norm(held.vectors, axis=1, keepdims=True)
    hits, chances = [], []
    for row in known:
        others = [o for o in known if o != row and (groups == "any" or held.group[o] != held.group[row])]
        nearest = sorted(others, key=lambda other: -float(unit[row] @ unit[other]))[:k]
        hits += [held.label[other] == held.label[row] for other in nearest]
        chances.append(np.mean([held.label[other] == held.label[row] for other in others]))
    found = same_label(held, Wanted((), k, "cosine", groups))
    assert found is not None
    assert found == pytest.approx((np.mean(hits), np.mean(chances)))


def test_other_groups_count_where_there_are_enough_of_them() -> None:
    assert counts_other_groups(["a", "a", "b", "b", "c"], 3)
    assert largest_group(["a", "a", None, None, None]) == 2 and largest_group([None, None]) == 1
    assert not counts_other_groups(["a"] * 50 + ["b", "c"], 5)  # most samples would have two neighbours
    assert not counts_other_groups([None] * 9, 2) and not counts_other_groups(["a", "b", "c", None], 2)


# The map


@pytest.mark.parametrize("rows", [12, 80])
def test_a_map_is_the_same_again_and_finite(rows: int) -> None:
    vectors = table(rows).vectors
    first, again = project(vectors, seed=3), project(vectors.copy(), seed=3)
    assert np.array_equal(first.xy, again.xy) and first.xy.shape == (rows, 2) and np.isfinite(first.xy).all()
    assert first.xy.min() >= 0 and first.xy.max() <= 1 and np.ptp(first.xy, axis=0).max() == pytest.approx(1)
    assert first.method.startswith("t-SNE" if rows >= FEWEST_TSNE else "principal components")


def test_clusters_stay_together_on_a_map() -> None:
    generator = np.random.default_rng(0)
    of = np.repeat(np.arange(4), 30)
    xy = project(np.eye(4)[of] * 5 + generator.normal(size=(120, 4)) * 0.1).xy
    distance = np.linalg.norm(xy[:, None] - xy[None], axis=-1) + np.eye(120) * 9
    assert (of[distance.argmin(1)] == of).all()


@pytest.mark.parametrize("width", [1, 2])
def test_a_map_of_few_or_of_no_differences(width: int) -> None:
    with pytest.raises(ValueError, match="point all the same way"):
        project(np.ones((60, width)))
    if width == 2:
        assert project(np.random.default_rng(0).normal(size=(60, 2))).xy.shape == (60, 2)


# Embedding and drawing


class Numbers:
    """Samples 0 to N - 1; every seventh cannot be read."""

    def __init__(self, total: int) -> None:
        self.total = total

    def __len__(self) -> int:
        return self.total

    def sample_id(self, index: int) -> str:
        return f"n{index}"

    def label(self, index: int) -> int:
        return index % 2

    def group(self, index: int) -> None:
        return None

    def load(self, index: int, seed: int) -> Tensor:
        if index % 7 == 3:
            raise OSError("no such file")
        return torch.tensor([float(index)])

    def collate(self, samples: Any) -> Tensor:
        return torch.stack(list(samples))


def test_what_cannot_be_read_is_left_out_and_counted() -> None:
    source = Numbers(20)
    chunks = Chunks(source, range(20), 6, 0)
    rows = embed_samples(source, chunks, {"one": lambda b: b.inputs, "two": lambda b: -b.inputs}, torch.device("cpu"))
    assert rows.unreadable == 3 and len(rows.places) == 17 and 3 not in rows.places
    for name, sign in (("one", 1), ("two", -1)):
        assert (rows.tables[name].vectors[:, 0] * sign == np.array(rows.places)).all()
    with pytest.raises(ValueError, match="NaN or infinity from the bad encoder"):
        embed_samples(source, chunks, {"bad": lambda b: b.inputs / 0}, torch.device("cpu"))


class Draws:
    """A modality that draws one picture too few where it is told to."""

    def __init__(self, missing: int = 0) -> None:
        self.missing = missing

    def sample_pictures(self, config: Any, batch: Batch) -> SamplePictures:
        one: list[bytes | None] = [name.encode() if name != "n1" else None for name in batch.sample_id]
        return SamplePictures(one[self.missing :], "How to read it.")


def test_drawn_pictures_belong_to_their_samples() -> None:
    chunks = Chunks(Numbers(9), range(9), 4, 0)
    drawn = draw_samples(Draws(), None, chunks)
    assert set(drawn.png) == {f"n{k}" for k in range(9) if k not in (1, 3)} and drawn.how == "How to read it."
    assert all(data.decode() == name for name, data in drawn.png.items())
    assert draw_samples(object(), None, chunks).png == {}
    with pytest.raises(ValueError, match="expected 3 pictures, got 2"):
        draw_samples(Draws(1), None, chunks)


# Thumbnails


def opened(png: bytes | None) -> Image.Image:
    assert png is not None
    return Image.open(io.BytesIO(png))


@pytest.mark.parametrize(
    ("shape", "size"), [((28, 28, 3), (112, 112)), ((300, 600, 3), (128, 64)), ((9, 9), (126, 126))]
)
def test_images_are_brought_to_size(shape: tuple[int, ...], size: tuple[int, int]) -> None:
    assert opened(image_png(np.zeros(shape, np.uint8))).size == size


def test_strips_and_lines() -> None:
    frames = np.zeros((7, 32, 32, 3), np.uint8)
    frames[-1] = 255
    strip = opened(strip_png(frames))
    assert strip.size == (3 * 64 + 2 * 2, 64)
    assert strip.getpixel((0, 0)) == (0, 0, 0) and strip.getpixel((195, 63)) == (255, 255, 255)
    wave = np.sin(np.linspace(0, 20, 400))
    gaps = np.where(np.arange(400) < 200, np.nan, 1.0)
    picture = opened(lines_png(np.stack([wave, np.full(400, np.nan), gaps])))
    dark = np.asarray(picture.convert("L")) < 200
    assert picture.size == (SIDE, 96) and dark[:32].any() and not dark[34:62].any() and not dark[66:, :60].any()


def test_pictures_of_plain_tensors() -> None:
    assert len(tensor_pictures(torch.randn(2, 6, 50), 2).png) == 2
    many = tensor_pictures(torch.randn(1, 20, 50), 1)
    assert many.how == thumbnails.FIRST_LANES and opened(many.png[0]).size == (SIDE, 96)
    for channels in (1, 3):
        grey = opened(tensor_pictures(torch.full((1, channels, 8, 8), 0.5), 1).png[0])
        assert grey.getpixel((5, 5)) == (128, 128, 128)
    levels = torch.stack([torch.full((8, 8), v) for v in (-2.0, 0.0, 2.0)])[None]
    assert opened(tensor_pictures(levels, 1).png[0]).getpixel((5, 5)) == (0, 128, 255)
    bytes_ = torch.full((1, 3, 8, 8), 7, dtype=torch.uint8)
    assert opened(tensor_pictures(bytes_, 1).png[0]).getpixel((5, 5)) == (7, 7, 7)
    for other in (torch.randn(3, 4), torch.randn(3, 2, 4, 4), {"x": torch.randn(3, 2, 4)}, torch.zeros(3, 1, 0)):
        assert tensor_pictures(other, 3).png == [None] * 3


def test_a_page_takes_small_pictures_only() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (400, 200, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, "PNG")
    small = inlined(buffer.getvalue(), 100)
    assert small is not None and (small.width, small.height) == (50, 100) and small.url.startswith("data:image/jpeg")
    plain = inlined(image_png(np.zeros((64, 64), np.uint8)), 200)
    assert plain is not None and plain.url.startswith("data:image/png")
    assert inlined(b"no picture", 100) is None and inlined(buffer.getvalue()[:200], 100) is None
