"""Files of somebody who means ill, one named attack each: refused with one line, nothing run, nothing unpacked."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import pickle
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import save_file

from jepa_audio.sound_data import Sounds, Whole
from jepa_audio.sound_files import find_sounds
from jepa_causal.slots.files import SlotFiles
from jepa_core.compare.inputs import load
from jepa_core.config import compose
from jepa_core.contracts import BadSample
from jepa_core.errors import ConfigError, DataError, UserError
from jepa_core.evaluate.tables import read_table
from jepa_core.plugins import find_modality
from jepa_core.report.html import write_report
from jepa_core.train import checkpoint
from jepa_core.weights import read_state
from jepa_lidar.readers import read_scan
from jepa_vision.image_data import Images
from jepa_vision.image_files import find_images

PIXEL = (
    b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR\x00\x00\x00\x01\x00\x00\x00\x01\x08\x00\x00\x00\x00:~\x9bU"
    b"\x00\x00\x00\nIDATx\x9cc`\x00\x00\x00\x02\x00\x01H\xaf\xa4q\x00\x00\x00\x00IEND\xaeB`\x82"
)


# --------------------------------------------------------------------------------------------------------------------
# Bombs and headers
# --------------------------------------------------------------------------------------------------------------------


def png(width: int, height: int, rows: bytes) -> bytes:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def first_image(root: Path) -> Any:
    return Images(find_images(root).records, (16, 16)).load(0, 0)


@pytest.mark.parametrize("sides", [(20_000, 20_000), (2**31 - 1, 2**31 - 1), (89_000_000, 1)])
def test_a_picture_that_claims_millions_of_pixels(sides: tuple[int, int], tmp_path: Path) -> None:
    (tmp_path / "bomb.png").write_bytes(png(*sides, bytes(2**20)))
    with pytest.raises(BadSample, match="bomb.png"):
        first_image(tmp_path)


def test_a_sound_that_claims_hours(tmp_path: Path) -> None:
    data = np.zeros(800, "<i2").tobytes()
    head = struct.pack("<4sI4s4sIHHIIHH", b"RIFF", 2**31, b"WAVE", b"fmt ", 16, 1, 1, 16000, 32000, 2, 16)
    (tmp_path / "long.wav").write_bytes(head + struct.pack("<4sI", b"data", 2**31 - 64) + data)
    with pytest.raises(BadSample, match=r"long.wav: truncated: 1600 bytes of data"):
        Sounds(find_sounds(tmp_path).records, 16000, Whole()).load(0, 0)


def npz_bomb(path: Path, name: str) -> None:
    """100 MiB of zeros in about 100 kB, with a header that is right."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header,
        {"descr": "|u1", "fortran_order": False, "shape": (10, 10 * 2**20)},
    )
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open(f"{name}.npy", "w") as file,
    ):
        file.write(header.getvalue())
        for _ in range(100):
            file.write(bytes(2**20))
    assert path.stat().st_size < 2**18


READ_NPZ: dict[str, Callable[[Path], object]] = {
    "features": load,
    "images": lambda path: find_images(path),
    "xyz": read_scan,
    "slots": lambda path: SlotFiles(path),
}


@pytest.mark.parametrize("name", READ_NPZ)
def test_an_archive_that_unpacks_to_a_thousand_times_its_size(name: str, tmp_path: Path) -> None:
    path = tmp_path / "bomb.npz"
    npz_bomb(path, name)
    with pytest.raises((BadSample, DataError, ValueError), match="expected at most 100 times|fit into"):
        READ_NPZ[name](path)


@pytest.mark.parametrize("name", READ_NPZ)
def test_an_archive_whose_array_claims_more_than_it_has(name: str, tmp_path: Path) -> None:
    header = io.BytesIO()
    claim = {"descr": "<f4", "fortran_order": False, "shape": (2**40, 4)}
    np.lib.format.write_array_header_1_0(header, claim)
    with zipfile.ZipFile(tmp_path / "liar.npz", "w") as archive:
        archive.writestr(f"{name}.npy", header.getvalue() + bytes(64))
    with pytest.raises((BadSample, DataError, ValueError), match="liar.npz.*got 64"):
        READ_NPZ[name](tmp_path / "liar.npz")


def test_a_parquet_file_that_claims_absurd_counts(tmp_path: Path) -> None:
    """Ten million rows of nothing take a kilobyte."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = 10_000_000
    empty = pa.nulls(rows, pa.struct([("bytes", pa.binary())]))
    pq.write_table(pa.table({"image": empty}), tmp_path / "rows.parquet", row_group_size=rows)
    with pytest.raises(ValueError, match="expected at most .* rows"):
        find_images(tmp_path)


def test_a_dictionary_that_stands_for_gigabytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One medium, written once and named by every row."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from jepa_core.data import tables

    one = os.urandom(2**16)
    pq.write_table(pa.table({"image": [one] * 2000}), tmp_path / "rows.parquet")
    assert (tmp_path / "rows.parquet").stat().st_size < 2**18
    records = find_images(tmp_path).records
    monkeypatch.setattr(tables, "LARGEST_GROUP_BYTES", 2**26)
    with pytest.raises(BadSample, match="expected at most 67108864 bytes in a row group"):
        records[0].read()


def safetensors(header: object, data: bytes = bytes(64)) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


LIARS = {
    "header of 2^60 bytes": struct.pack("<Q", 2**60) + b"{}",
    "overlapping": safetensors(
        {"a": {"dtype": "F32", "shape": [16], "data_offsets": [0, 64]}, "b": {"dtype": "F32", "shape": [8],
         "data_offsets": [0, 32]}}
    ),
    "beyond the end": safetensors({"a": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}}),
    "another shape": safetensors({"a": {"dtype": "F32", "shape": [1024, 1024], "data_offsets": [0, 64]}}),
    "a hole": safetensors({"a": {"dtype": "F32", "shape": [8], "data_offsets": [32, 64]}}),
    "overflow": safetensors({"a": {"dtype": "F32", "shape": [2**62, 2**62], "data_offsets": [0, 64]}}),
}  # fmt: skip


@pytest.mark.parametrize("lie", LIARS)
def test_safetensors_that_lie(lie: str, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(LIARS[lie])
    for read in (read_state, load, SlotFiles):
        with pytest.raises((ValueError, DataError), match="model.safetensors"):
            read(path)


# --------------------------------------------------------------------------------------------------------------------
# Archives that reach out
# --------------------------------------------------------------------------------------------------------------------


def shard(path: Path, entry: tarfile.TarInfo, content: bytes = PIXEL) -> None:
    entry.size = len(content) if entry.isfile() else 0
    with tarfile.open(path, "w:gz" if path.suffix == ".gz" else "w") as archive:
        archive.addfile(entry, io.BytesIO(content) if entry.isfile() else None)


@pytest.mark.parametrize("name", ["../../outside.png", "/tmp/outside.png", "a/../../outside.png"])
def test_a_shard_whose_names_lead_out_of_it(name: str, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    shard(tmp_path / "data" / "train-0000.tar", tarfile.TarInfo(name))
    with pytest.raises(ValueError, match="leads out of the shard"):
        find_images(tmp_path / "data")
    assert not list(tmp_path.rglob("outside.png"))


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_a_shard_with_links_and_devices(kind: bytes, tmp_path: Path) -> None:
    entry = tarfile.TarInfo("a.png")
    entry.type, entry.linkname = kind, "/etc/passwd"
    shard(tmp_path / "train-0000.tar", entry)
    with pytest.raises(ValueError, match="a link, a device or sparse"):
        find_images(tmp_path)


def test_a_member_that_claims_more_than_the_shard(tmp_path: Path) -> None:
    entry = tarfile.TarInfo("a.png")
    entry.size = 2**40
    for name, pack in (("train-0000.tar", bytes), ("train-0000.tar.gz", gzip.compress)):
        (tmp_path / name).write_bytes(pack(entry.tobuf(tarfile.GNU_FORMAT) + PIXEL + bytes(20480)))
        with pytest.raises(ValueError, match=f"{name}.*1099511627776 bytes"):
            find_images(tmp_path)
        (tmp_path / name).unlink()


def test_a_shard_that_unpacks_to_a_thousand_times_its_size(tmp_path: Path) -> None:
    shard(tmp_path / "train-0000.tar.gz", tarfile.TarInfo("a.png"), bytes(80 * 2**20))
    with pytest.raises(ValueError, match="has room for"):
        find_images(tmp_path)


# --------------------------------------------------------------------------------------------------------------------
# What would run
# --------------------------------------------------------------------------------------------------------------------


class Opens:
    """Unpickled, it writes a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.write_text, (self.marker, "run")


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("name", ["a.pth", "a.pt", "a.pth.tar", "a.safetensors"])
def test_a_malicious_pickle_does_not_run(name: str, zipped: bool, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    content = {"encoder": {"a": torch.zeros(2)}, "epoch": Opens(marker)}
    torch.save(content, tmp_path / name, _use_new_zipfile_serialization=zipped)
    with pytest.raises(ValueError, match=name):
        read_state(tmp_path / name)
    assert not marker.exists()


@pytest.mark.parametrize("read", [load, SlotFiles, find_images])
def test_arrays_of_objects_are_not_unpickled(read: Callable[[Path], object], tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    np.savez(tmp_path / "a.npz", images=np.array([Opens(marker)], object))
    with pytest.raises((DataError, ValueError), match="pickle"):
        read(tmp_path / "a.npz")
    (tmp_path / "a.npy").write_bytes(pickle.dumps(Opens(marker)))
    with pytest.raises(DataError):
        load(tmp_path / "a.npy")
    assert not marker.exists()


YAML = {
    "objects": "trainer: !!python/object/apply:os.system ['touch marker']\n",
    "aliases": "a: &a [1,1,1,1,1,1,1,1,1,1]\n"
    + "".join(f"{b}: &{b} [{', '.join(['*' + a] * 10)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)),
    "depth": "a: " + "[" * 20_000,
    "circle": "a: &a [*a]\n",
    "digits": "seed: " + "9" * 10_000,
    "length": "# " + "x" * 2**21,
}


@pytest.mark.parametrize("attack", YAML)
def test_yaml_that_builds_objects_or_fills_memory(attack: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "evil.yaml").write_text(YAML[attack])
    with pytest.raises(ConfigError, match="evil.yaml") as refusal:
        compose(find_modality("causal").schema, tmp_path / "evil.yaml", ())
    assert len(str(refusal.value)) < 1200 and not (tmp_path / "marker").exists()
    (tmp_path / "config.yaml").write_text(YAML[attack])
    assert write_report(tmp_path).is_file(), "a report shows what it can"


def test_anchors_of_an_honest_recipe_still_work(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("seed: &seed 3\ndata: {seed: *seed}\n")
    assert compose(find_modality("causal").schema, tmp_path / "mine.yaml", ()).seed == 3
    assert yaml.safe_load((tmp_path / "mine.yaml").read_text())["data"]["seed"] == 3


# --------------------------------------------------------------------------------------------------------------------
# Checkpoints
# --------------------------------------------------------------------------------------------------------------------


def saved(run: Path) -> Path:
    run.mkdir(parents=True, exist_ok=True)
    state = checkpoint.Checkpoint(1, {"w": torch.zeros(3)}, {}, {}, [{"r": torch.zeros(1)}], {"position": 0}, "seed: 0")
    return checkpoint.save(run, state, keep=0)


def listed(folder: Path, name: str, content: bytes) -> None:
    """Writes a name with a right checksum into the manifest."""
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["sha256"][name] = hashlib.sha256(content).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(manifest))


def test_a_manifest_that_names_other_files(tmp_path: Path) -> None:
    folder = saved(tmp_path / "run")
    (tmp_path / "secret").write_bytes(b"secret")
    for name in ("../../../secret", str(tmp_path / "secret"), "."):
        listed(folder, name, b"secret")
        with pytest.raises(checkpoint.CheckpointError, match="files of its own"):
            checkpoint.load(folder)
        folder = saved(tmp_path / "run")


def test_a_checkpoint_with_a_link(tmp_path: Path) -> None:
    folder = saved(tmp_path / "run")
    (folder / "model.safetensors").rename(tmp_path / "elsewhere.safetensors")
    (folder / "model.safetensors").symlink_to(tmp_path / "elsewhere.safetensors")
    with pytest.raises(checkpoint.CheckpointError, match="files of its own"):
        checkpoint.load_model(folder)


def test_a_file_that_no_checksum_speaks_of_is_not_believed(tmp_path: Path) -> None:
    folder = saved(tmp_path / "run")
    manifest = json.loads((folder / "manifest.json").read_text())
    del manifest["sha256"]["model.safetensors"]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(checkpoint.CheckpointError, match="has no checksum"):
        checkpoint.load_model(folder)


@pytest.mark.parametrize("name", ["model.safetensors", "trainer_state.json", "optimizer.json", "config.yaml"])
def test_right_checksums_do_not_make_a_checkpoint(name: str, tmp_path: Path) -> None:
    folder = saved(tmp_path / "run")
    for content in (b"\xff\xfe", b"[" * 100_000, struct.pack("<Q", 2**50) + b"{}"):
        (folder / name).write_bytes(content)
        listed(folder, name, content)
        if name == "config.yaml" and content.isascii():
            continue  # text, and nothing else is asked of it here
        with pytest.raises(checkpoint.CheckpointError, match="cannot be read"):
            checkpoint.load(folder)


# --------------------------------------------------------------------------------------------------------------------
# What is said of it
# --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [BadSample, UserError])
def test_a_reason_is_one_line_of_some_length_that_no_terminal_obeys(kind: type[Exception]) -> None:
    text = str(kind("a.png:\n\tbad \x1b[2J\x07" + "x" * 5000))
    assert text.startswith("a.png: bad \ufffd[2J\ufffdxx") and text.isprintable() and len(text) < 1100


def test_a_broken_table_is_said_in_one_line(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(2, 2)}, tmp_path / "a.safetensors")
    (tmp_path / "a.safetensors").rename(tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"a\.parquet: expected a whole Parquet file"):
        read_table(tmp_path / "a.parquet")
