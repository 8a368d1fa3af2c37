"""Images as data: every layout is found, every odd file is converted or refused by rule, views come from the seed."""

from __future__ import annotations

import io
import tarfile
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from jepa_core.contracts import BadSample
from jepa_core.data.records import Records
from jepa_vision.augment import Augment, Box, centre_box, cut, random_box
from jepa_vision.image_data import Images, decode, decode_cut, split_images
from jepa_vision.image_files import find_images
from jepa_vision.image_records import ImageList, Record


def picture(width: int = 20, height: int = 12, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def shard(path: Path, members: dict[str, bytes]) -> None:
    with tarfile.open(path, "w:gz" if path.name.endswith("gz") else "w") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


def facts(images: ImageList) -> list[tuple[str, str, int | None]]:
    return [(record.sample_id, record.split, record.label) for record in images.records]


# ----------------------------------------------------------------------------------------------------------- layouts


def test_class_folders_with_and_without_splits(tmp_path: Path) -> None:
    for name in ("train/cat/a.png", "train/dog/b.JPG", "test/dog/c.png"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(picture()))
    (tmp_path / "train/cat/notes.txt").write_text("no image")
    found = find_images(tmp_path)
    assert found.classes == ("cat", "dog")
    assert facts(found) == [
        ("test/dog/c.png", "test", 1),
        ("train/cat/a.png", "train", 0),
        ("train/dog/b.JPG", "train", 1),
    ]
    assert find_images(tmp_path / "train").classes == ("cat", "dog")
    # One folder is no class, and images beside folders are none either.
    assert find_images(tmp_path / "test").classes == ()


def test_a_table_of_labels(tmp_path: Path) -> None:
    for name in ("a.png", "sub/b.png", "c.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(encoded(picture()))
    (tmp_path / "labels.csv").write_text("file,label,split\na.png,wool,train\nsub/b.png,silk,test\n")
    found = find_images(tmp_path)
    assert found.classes == ("silk", "wool")
    assert facts(found) == [("a.png", "train", 1), ("c.png", "", None), ("sub/b.png", "test", 0)]
    (tmp_path / "labels.csv").write_text("file,label\nmissing.png,x\n")
    with pytest.raises(ValueError, match=r"none for 'missing.png'"):
        find_images(tmp_path)
    (tmp_path / "labels.csv").write_text("name,label\n")
    with pytest.raises(ValueError, match="columns file and label"):
        find_images(tmp_path)


@pytest.mark.parametrize("ending", ["tar", "tar.gz"])
def test_tar_shards(tmp_path: Path, ending: str) -> None:
    first, second = encoded(picture(seed=1)), encoded(picture(seed=2), "JPEG")
    shard(tmp_path / f"train-0000.{ending}", {"a.png": first, "a.cls": b"1", "b.jpg": second, "b.cls": b"0"})
    shard(tmp_path / f"test-0000.{ending}", {"c.png": first, "c.cls": b"1"})
    (tmp_path / "classes.txt").write_text("hat\nshoe\n")
    found = find_images(tmp_path)
    assert found.classes == ("hat", "shoe") and found.kind == "tar shards"
    assert facts(found) == [("test-0000/c", "test", 1), ("train-0000/a", "train", 1), ("train-0000/b", "train", 0)]
    assert [record.read() for record in found.records] == [first, first, second]
    (tmp_path / "classes.txt").write_text("hat\n")
    with pytest.raises(ValueError, match="a line for each class up to 1, got 1"):
        find_images(tmp_path)


def test_a_torn_shard_is_one_line(tmp_path: Path) -> None:
    shard(tmp_path / "train-0000.tar.gz", {"a.png": encoded(picture(200, 200))})
    whole = (tmp_path / "train-0000.tar.gz").read_bytes()
    (tmp_path / "train-0000.tar.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="whole tar shard"):
        find_images(tmp_path)


def test_arrays(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, 5, 7, 3), dtype=np.uint8)
    np.savez(tmp_path / "train.npz", images=images, labels=np.array([0, 2, 1]))
    np.savez(tmp_path / "test.npz", images=images[..., 0])
    found = find_images(tmp_path)
    assert [(split, label) for _, split, label in facts(found)] == [("test", None)] * 3 + [
        ("train", n) for n in (0, 2, 1)
    ]
    assert found.classes == ("0", "1", "2")
    gray, colour = (decode(found.records[place].read(), "x") for place in (1, 4))
    assert np.array_equal(np.asarray(colour), images[1]) and np.array_equal(np.asarray(gray)[..., 2], images[1, ..., 0])
    np.savez(tmp_path / "train.npz", images=images.astype(np.float32))
    with pytest.raises(ValueError, match="uint8"):
        find_images(tmp_path)


def test_what_is_not_there_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("x")
    for root in (tmp_path / "missing", tmp_path, tmp_path / "notes.txt"):
        with pytest.raises(ValueError, match="data.root: expected"):
            find_images(root)


# ---------------------------------------------------------------------------------------------------------- decoding


def test_odd_files_are_converted_by_rule() -> None:
    gray = Image.fromarray(np.arange(0, 240, dtype=np.uint8).reshape(12, 20))
    assert np.array_equal(np.asarray(decode(encoded(gray), "x")), np.repeat(np.asarray(gray)[..., None], 3, 2))
    deep = Image.fromarray((np.asarray(gray).astype(np.uint16) << 8) + 77)
    assert np.array_equal(np.asarray(decode(encoded(deep), "x"))[..., 0], np.asarray(gray))
    clear = Image.new("RGBA", (4, 4), (10, 20, 30, 0))
    assert np.asarray(decode(encoded(clear), "x")).min() == 255
    palette = picture().quantize(16)
    assert np.array_equal(np.asarray(decode(encoded(palette), "x")), np.asarray(palette.convert("RGB")))
    cmyk = picture(16, 16).convert("CMYK")
    assert decode(encoded(cmyk, "JPEG"), "x").mode == "RGB"
    dotted = Image.fromarray(np.arange(240).reshape(12, 20) % 3 == 0)
    assert dotted.mode == "1"
    both = np.asarray(decode(encoded(dotted), "x"))
    assert np.array_equal(both[..., 1] == 255, np.asarray(dotted)) and set(np.unique(both)) == {0, 255}
    # Half of a palette is transparent: white there, its own colours elsewhere.
    few = picture().quantize(4)
    mixed = np.asarray(decode(encoded(few, transparency=bytes([0, 0, 255, 255])), "x"))
    hidden = np.asarray(few) < 2
    assert np.all(mixed[hidden] == 255) and np.array_equal(mixed[~hidden], np.asarray(few.convert("RGB"))[~hidden])
    lab = Image.merge("LAB", [Image.new("L", (4, 4), level) for level in (255, 128, 128)])
    assert np.asarray(decode(encoded(lab, "TIFF"), "x")).min() > 250
    # A portable graymap of 16 bits, which Pillow holds as 32.
    pgm = b"P5 20 12 65535\n" + np.asarray(deep).astype(">u2").tobytes()
    assert np.array_equal(np.asarray(decode(pgm, "x"))[..., 0], np.asarray(gray))
    still = encoded(picture(), "WEBP", lossless=True)
    assert np.array_equal(np.asarray(decode(still, "x")), np.asarray(picture()))
    # A wrong extension does not matter: the content tells what a file is.
    assert decode(encoded(picture(), "JPEG"), "photo.png").size == (20, 12)


def test_the_orientation_tag_is_applied() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    assert decode(encoded(picture(20, 12), "JPEG", exif=exif), "x").size == (12, 20)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "no image"),
        (b"hello world, no picture at all", "no image"),
        (encoded(picture(200, 200), "JPEG")[:2000], "broken or truncated"),
        (encoded(picture(200, 200), "PNG")[:2000], "broken or truncated"),
        (encoded(picture(200, 200), "WEBP")[:2000], "broken or truncated|no image"),
        (encoded(picture(200, 200), "JPEG")[:20], "broken or truncated|no image"),
        (encoded(picture(), "GIF", save_all=True, append_images=[picture(seed=3)]), "animation"),
        (encoded(picture(), "PNG", save_all=True, append_images=[picture(seed=3)]), "animation"),
        (encoded(picture(), "WEBP", save_all=True, append_images=[picture(seed=3)]), "animation"),
        (encoded(picture(), "TIFF", save_all=True, append_images=[picture(seed=3)]), "several pages"),
        # 60000 x 60000 pixels are announced, and there are none.
        (b"P6 60000 60000 255\n", "DecompressionBomb"),
        (b"P6 0 12 255\n", "no image|broken|sides"),
        (encoded(Image.fromarray(np.zeros((4, 4), np.float32)), "TIFF"), "32 bits"),
        (encoded(Image.fromarray(np.zeros((4, 4), np.int32)), "TIFF"), "32 bits"),
        (encoded(Image.new("RGB", (400, 4))), "32 to 1"),
    ],
)
def test_what_cannot_be_used_is_a_bad_sample(content: bytes, says: str) -> None:
    with pytest.raises(BadSample, match=says) as caught:
        decode(content, "some/file.png")
    assert str(caught.value).startswith("some/file.png") and "\n" not in str(caught.value)


def test_a_bomb_is_not_unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(BadSample, match="DecompressionBomb"):
        decode(encoded(picture()), "x")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
def test_damage_anywhere_gives_a_picture_or_a_bad_sample(kind: str) -> None:
    whole = encoded(picture(40, 30), kind)
    rng = np.random.default_rng(0)
    for _ in range(60):
        content = bytearray(whole[: rng.integers(1, len(whole) + 1)])
        for place in rng.integers(0, len(content), 3):
            content[place] = rng.integers(0, 256)
        try:
            assert decode(bytes(content), "x").mode == "RGB"
        except BadSample as error:
            assert str(error).startswith("x: ") and "\n" not in str(error)


# ------------------------------------------------------------------------------------------------------------- views


def smooth(width: int, height: int) -> Image.Image:
    """A picture with structure at many scales, as photographs have it."""
    y, x = np.mgrid[:height, :width] / min(height, width)
    waves = [np.sin(20 * x * y + phase) + np.cos(9 * (x - y) + phase) for phase in range(3)]
    return Image.fromarray((np.stack(waves, -1) * 60 + 128).astype(np.uint8))


def _always(box: Box, width: int, height: int) -> Box:
    return box


@pytest.mark.parametrize("orientation", [1, 2, 3, 4, 5, 6, 7, 8])
@pytest.mark.parametrize(("side", "same"), [(200, True), (130, False), (70, False), (24, False)])
def test_a_large_jpeg_decoded_smaller_gives_the_same_view(side: int, same: bool, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = encoded(smooth(803, 601), "JPEG", quality=95, exif=exif)
    whole = decode(content, "x")
    for box in ((0, 0, 601, 601), (3, 50, 590, 600)):
        expected = cut(whole, box, (side, side))
        got = decode_cut(content, "x", partial(_always, box), (side, side))
        difference = np.abs(got.astype(int) - expected)
        assert difference.mean() < 1 and difference.max() < 12
        assert np.array_equal(got, expected) == same
    # The box is chosen in pixels of the upright picture, whatever is decoded.
    seen: list[tuple[int, int]] = []

    def choose(width: int, height: int) -> Box:
        seen.append((width, height))
        return 0, 0, width, height

    decode_cut(content, "x", choose, (20, 20))
    assert seen == [(601, 803) if orientation > 4 else (803, 601)]


def source(augment: Augment | None, size: tuple[int, int] = (8, 12)) -> Images:
    records = [Record(f"n{i}", partial(encoded, picture(30, 24, i))) for i in range(4)]
    return Images(records, size, augment)


def test_a_view_depends_on_its_seed_alone() -> None:
    images = source(Augment(flip=0.5))
    first = images.load(1, 77)
    assert first.shape == (8, 12, 3) and first.dtype == np.uint8
    assert np.array_equal(first, images.load(1, 77)) and not np.array_equal(first, images.load(1, 78))
    batch = images.collate([first, images.load(2, 5)])
    assert batch.shape == (2, 3, 8, 12) and batch.dtype == torch.uint8
    assert np.array_equal(batch[0].permute(1, 2, 0).numpy(), first)


def test_flips_come_as_often_as_asked() -> None:
    whole = Augment(scale=(1, 1), aspect=(1, 1))
    records = [Record("n", lambda: encoded(picture(12, 8)))]
    never, half = (Images(records, (8, 12), Augment(whole.scale, whole.aspect, flip)) for flip in (0.0, 0.5))
    plain = never.load(0, 0)
    flips = [not np.array_equal(half.load(0, seed), plain) for seed in range(200)]
    assert 70 < sum(flips) < 130 and np.array_equal(np.asarray(picture(12, 8)), plain)
    flipped = half.load(0, flips.index(True))
    assert np.array_equal(flipped[:, ::-1], plain)


def test_cuts_have_the_area_and_aspect_asked_for() -> None:
    augment, wanted = Augment((0.3, 0.9), (0.75, 4 / 3)), 1.5
    shares, aspects = [], []
    for seed in range(600):
        left, top, right, bottom = random_box(300, 200, wanted, augment, seed)
        assert 0 <= left < right <= 300 and 0 <= top < bottom <= 200
        shares.append((right - left) * (bottom - top) / 60_000)
        aspects.append((right - left) / (bottom - top) / wanted)
    assert min(shares) > 0.29 and max(shares) < 0.91 and 0.55 < np.mean(shares) < 0.62
    assert min(aspects) > 0.74 and max(aspects) < 1.35 and abs(np.mean(np.log(aspects))) < 0.03


def test_a_picture_too_long_for_any_cut_gives_its_centre() -> None:
    box = random_box(300, 10, 1.0, Augment((0.9, 1.0)), 0)
    assert box == pytest.approx(((300 - 40 / 3) / 2, 0, (300 + 40 / 3) / 2, 10))
    assert centre_box(30, 20, 1.0) == (5, 0, 25, 20) and centre_box(20, 30, 2.0) == (0, 10, 20, 20)


# ------------------------------------------------------------------------------------------------------------ splits


def listed(splits: list[str], classes: tuple[str, ...] = ("a", "b")) -> ImageList:
    records = tuple(Record(f"{i}", bytes, split, i % 2) for i, split in enumerate(splits))
    return ImageList(Records.of(records), classes, "test")


def test_the_data_s_own_test_split_is_kept_and_validation_is_in_neither() -> None:
    found = split_images(listed(["train", "validation", "test", "train"]), 5)
    assert [r.sample_id for r in found.train] == ["0", "3"] and [r.sample_id for r in found.test] == ["2"]
    with pytest.raises(ValueError, match="to train on"):
        split_images(listed(["test"]), 5)


def test_without_a_test_split_a_fifth_is_held_back_by_name() -> None:
    found = split_images(listed([""] * 1000), 5)
    assert len(found.train) + len(found.test) == 1000 and 150 < len(found.test) < 250
    assert not {r.sample_id for r in found.train} & {r.sample_id for r in found.test}
    assert not split_images(listed([""] * 10), 0).test and not split_images(listed([""] * 10, ()), 5).test
