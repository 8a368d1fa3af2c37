"""Real files to be damaged: from JEPA_DATA and the packages' samples, and the same in further formats."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tarfile
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from mutations import Seed

ROOT = Path(__file__).parent.parent.parent
RUN = ROOT / "runs" / "fuzz" / "run"
_TRAIN = ("modality=causal", "recipe=quickstart", "trainer.max_steps=2", "trainer.batch_size=4", "trainer.device=cpu")
_SMALL = ("data.episodes=8", "data.test_episodes=4", f"runs_dir={RUN.parent}", f"name={RUN.name}")


def data() -> Path:
    """JEPA_DATA."""
    if not os.environ.get("JEPA_DATA"):
        raise SystemExit("JEPA_DATA: expected the folder of the data sets, which gives real files")
    return Path(os.environ["JEPA_DATA"])


def _members(shard: Path, count: int) -> list[Seed]:
    with tarfile.open(shard) as archive:
        found = [entry for entry in archive if entry.isfile()][:count]
        return [Seed(entry.name, archive.extractfile(entry).read()) for entry in found]  # type: ignore[union-attr]


@cache
def sounds() -> list[Seed]:
    """A second of real recordings in every usual format."""
    import soundfile

    seeds = []
    for path in sorted((data() / "audio").rglob("*.flac"))[::900][:4]:
        seeds.append(Seed(path.name, path.read_bytes()))
    samples, rate = soundfile.read(io.BytesIO(seeds[0].content))
    formats = [("wav", "WAV", "PCM_16"), ("wav", "WAV", "FLOAT"), ("wav", "WAV", "MS_ADPCM"), ("ogg", "OGG", "VORBIS")]
    formats += [("opus", "OGG", "OPUS"), ("mp3", "MP3", None), ("aiff", "AIFF", None), ("au", "AU", None)]
    formats += [("caf", "CAF", None), ("w64", "W64", None), ("voc", "VOC", None), ("sph", "NIST", None)]
    for ending, kind, subtype in formats:
        file = io.BytesIO()
        soundfile.write(file, samples[:rate], 16000 if kind == "OGG" else rate, subtype, format=kind)
        seeds.append(Seed(f"{kind.lower()}-{subtype}.{ending}", file.getvalue()))
    return seeds


@cache
def images() -> list[Seed]:
    """Photographs, and one of them in every usual format and mode."""
    from PIL import Image

    seeds = [seed for seed in _members(data() / "images/clothing10/test-0000.tar", 8) if seed.ending == ".jpg"]
    seeds += [seed for seed in _members(data() / "images/sign-digits/test-0000.tar", 4) if seed.ending != ".cls"]
    photo = Image.open(io.BytesIO(seeds[0].content)).convert("RGB")
    kinds: list[tuple[str, str, dict[str, Any]]] = [("png", "RGB", {}), ("png", "P", {}), ("png", "RGBA", {})]
    kinds += [("png", "I;16", {}), ("webp", "RGB", {}), ("webp", "RGBA", {"lossless": True}), ("gif", "P", {})]
    kinds += [("bmp", "RGB", {}), ("tiff", "RGB", {}), ("tiff", "L", {"compression": "tiff_lzw"}), ("ppm", "RGB", {})]
    kinds += [
        ("tiff", "RGB", {"compression": "tiff_deflate"}),
        ("jpg", "CMYK", {}),
        ("jpg", "L", {"progressive": True}),
    ]
    for number, (ending, mode, options) in enumerate(kinds):
        file = io.BytesIO()
        made = photo.convert("L").convert("I").convert("I;16") if mode == "I;16" else photo.convert(mode)
        made.save(file, {"jpg": "JPEG"}.get(ending, ending.upper()), **options)
        seeds.append(Seed(f"{number}-{mode.replace(';', '')}.{ending}", file.getvalue()))
    return seeds


@cache
def videos() -> list[Seed]:
    """Recordings of a speaker as MP4, and a second of one in other containers and codecs."""
    import av

    seeds = [seed for seed in _members(data() / "paired/grid-s1/test-0000.tar", 6) if seed.ending == ".mp4"]
    with av.open(io.BytesIO(seeds[0].content)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)][:16]
    for ending, kind, codec in (("mkv", "matroska", "libx264"), ("webm", "webm", "libvpx"), ("avi", "avi", "mpeg4")):
        file = io.BytesIO()
        with av.open(file, "w", format=kind) as out:
            stream = out.add_stream(codec, rate=25)
            stream.height, stream.width, stream.pix_fmt = *frames[0].shape[:2], "yuv420p"
            for frame in frames:
                out.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
            out.mux(stream.encode(None))
        seeds.append(Seed(f"{codec}.{ending}", file.getvalue()))
    return seeds


@cache
def points() -> list[Seed]:
    """A real scan in every format, thinned."""
    from plyfile import PlyData, PlyElement
    from pypcd4 import Encoding, PointCloud

    raw = (data() / "lidar/kitti_raw_mini/formats/kitti_000076.bin").read_bytes()
    scan = np.frombuffer(raw, "<f4").reshape(-1, 4)[::60].copy()
    seeds = [Seed("kitti.bin", scan.tobytes())]
    nuscenes = np.concatenate([scan * [1, 1, 1, 255], (np.arange(len(scan)) % 32)[:, None]], 1).astype("<f4")
    seeds.append(Seed("nuscenes.pcd.bin", nuscenes.tobytes()))
    compact = sorted((data() / "lidar").rglob("*.npz"))[0]
    seeds.append(Seed("compact.npz", compact.read_bytes()))
    seeds.append(Seed("ascii.pcd", (data() / "lidar/kitti_raw_mini/formats/ascii_000076_sub60.pcd").read_bytes()))
    for encoding in (Encoding.BINARY, Encoding.BINARY_COMPRESSED):
        file = io.BytesIO()
        PointCloud.from_xyzi_points(scan).save(file, encoding)
        seeds.append(Seed(f"{encoding.name.lower()}.pcd", file.getvalue()))
    rows = np.rec.fromarrays(scan.T, names="x,y,z,intensity")
    for text in (False, True):
        file = io.BytesIO()
        PlyData([PlyElement.describe(np.asarray(rows), "vertex")], text=text).write(file)
        seeds.append(Seed(f"text-{text}.ply", file.getvalue()))
    return seeds


@cache
def shards() -> list[Seed]:
    """Tar shards of three photographs with what is said of them, packed in several ways."""
    members = _members(data() / "images/clothing10/test-0000.tar", 6)
    members.append(Seed(members[0].name.replace(".jpg", ".json"), b'{"group": "a", "weight": 1.5}'))
    seeds = []
    for ending, mode, kind in (
        (".tar", "w", tarfile.USTAR_FORMAT),
        ("-0001.tar", "w", tarfile.GNU_FORMAT),
        ("-0002.tar", "w", tarfile.PAX_FORMAT),
        (".tar.gz", "w:gz", tarfile.PAX_FORMAT),
    ):
        file = io.BytesIO()
        with tarfile.open(fileobj=file, mode=mode, format=kind) as archive:  # type: ignore[call-overload]
            for member in members:
                entry = tarfile.TarInfo(member.name if kind != tarfile.PAX_FORMAT else "f" * 120 + "/" + member.name)
                entry.size = len(member.content)
                archive.addfile(entry, io.BytesIO(member.content))
        seeds.append(Seed(f"train{ending}", file.getvalue()))
    return seeds


@cache
def media_tables() -> list[Seed]:
    """Parquet files of photographs with labels, under each usual compression."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    photos = [seed.content for seed in images()[:3]] * 2
    table = pa.table(
        {"image": [{"bytes": photo, "path": None} for photo in photos], "label": [0, 1, 2] * 2, "group": list("aabbcc")}
    )
    seeds = []
    for compression in ("NONE", "SNAPPY", "ZSTD", "GZIP"):
        file = io.BytesIO()
        pq.write_table(table, file, compression=compression, row_group_size=3)
        seeds.append(Seed(f"{compression.lower()}.parquet", file.getvalue()))
    return seeds


@cache
def saved_datasets() -> list[Seed]:
    """The files of a folder that ``DatasetDict.save_to_disk`` wrote: photographs with labels, in two splits."""
    import datasets

    features = datasets.Features(
        {
            "image": datasets.Image(),
            "label": datasets.ClassLabel(names=["a", "b", "c"]),
            "group": datasets.Value("string"),
        }
    )
    photos = [{"bytes": seed.content, "path": None} for seed in images()[:3]]
    rows = {"image": photos * 2, "label": [0, 1, 2] * 2, "group": list("aabbcc")}
    whole = datasets.Dataset.from_dict(rows, features=features)
    with tempfile.TemporaryDirectory() as name:
        datasets.DatasetDict(train=whole.select(range(4)), test=whole.select([4, 5])).save_to_disk(name)
        files = _of_run(Path(name))
    # Arrow files are two of seven, and it is they that are read without a parser of text.
    return [*files, *[seed for seed in files if seed.ending == ".arrow"] * 2]


def _features() -> np.ndarray[Any, Any]:
    """Real scans as rows of numbers, [40, 16]."""
    raw = (data() / "lidar/kitti_raw_mini/formats/kitti_000076.bin").read_bytes()
    return np.frombuffer(raw, "<f4")[: 40 * 16].reshape(40, 16).copy()


@cache
def tables() -> list[Seed]:
    """Embedding tables as this project and as others write them."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    from safetensors.numpy import save

    features = _features()
    names = [f"sample {place}" for place in range(len(features))]
    columns: dict[str, Any] = {"sample_id": names, "label": ["a", "b"] * 20, "layer": ["last"] * 40}
    fixed = pa.FixedSizeListArray.from_arrays(pa.array(features.ravel()), features.shape[1])
    seeds = []
    for name, vectors in (("fixed", fixed), ("lists", pa.array(features.tolist(), pa.list_(pa.float64())))):
        file = io.BytesIO()
        pq.write_table(pa.table({**columns, "vector": vectors}), file, row_group_size=16)
        seeds.append(Seed(f"{name}.parquet", file.getvalue()))
    for name, write in (("array.npy", np.save), ("arrays.npz", np.savez), ("packed.npz", np.savez_compressed)):
        file = io.BytesIO()
        given = {} if name == "array.npy" else {"first": features, "label": np.arange(40)}
        write(file, features) if not given else write(file, **given)
        seeds.append(Seed(name, file.getvalue()))
    arrays = {"first": features, "second": features[:, :3].copy()}
    return [*seeds, Seed("features.safetensors", save(arrays, {"encoder": "other"}))]


@cache
def slots() -> list[Seed]:
    """Episodes of slots in each format."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    from safetensors.numpy import save

    numbers = _features().reshape(20, 4, 8)
    arrays = {"a/slots": numbers[:10].copy(), "b/slots": numbers[10:].copy(), "a/actions": np.zeros((10, 2), "f4")}
    arrays["b/actions"] = np.zeros((9, 2), "f4")
    seeds = [Seed("slots.safetensors", save(arrays))]
    for name, write in (("plain.npz", np.savez), ("packed.npz", np.savez_compressed)):
        file = io.BytesIO()
        write(file, **arrays)
        seeds.append(Seed(name, file.getvalue()))
    rows = [{"episode": "ab"[k // 10], "step": k % 10, "slots": numbers[k].tolist()} for k in range(20)]
    file = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), file, row_group_size=4)
    return [*seeds, Seed("slots.parquet", file.getvalue())]


@cache
def recipes() -> list[Seed]:
    """Every recipe of a modality, and the full configuration of a run."""
    folder = ROOT / "packages/audio/src/jepa_audio/recipes"
    found = [Seed(path.name, path.read_bytes()) for path in sorted(folder.glob("*.yaml"))]
    return [*found, Seed("config.yaml", (run() / "config.yaml").read_bytes())]


@cache
def weights() -> list[Seed]:
    """Released weights in miniature: torch files of both kinds, Lightning's, and safetensors."""
    import torch
    from safetensors.torch import save

    tensors = {f"blocks.{k}.weight": torch.from_numpy(_features()[k : k + 4].copy()) for k in range(4)}
    state = {"encoder": tensors, "target_encoder": {k: v + 1 for k, v in tensors.items()}, "epoch": 3}
    seeds = [Seed("features.safetensors", save(tensors))]
    for name, content, zipped in (
        ("new.pth", state, True),
        ("old.pth.tar", state, False),
        ("lightning.ckpt", {"state_dict": tensors, "hyper_parameters": {"optimizer": torch.optim.AdamW}}, True),
    ):
        file = io.BytesIO()
        torch.save(content, file, _use_new_zipfile_serialization=zipped)
        seeds.append(Seed(name, file.getvalue()))
    return seeds


@cache
def label_tables() -> list[Seed]:
    """Real label tables and tables of boxes."""
    meta = (data() / "audio/esc10/meta.csv").read_bytes()
    boxes = sorted((data() / "lidar").rglob("boxes_lidar.csv"))[0].read_bytes()
    return [Seed("labels.csv", b"file,label,group\na.wav,x,1\nb.wav,y,2\n"), Seed("meta.csv", meta), Seed(
        "boxes_lidar.csv", boxes
    )]  # fmt: skip


@cache
def run() -> Path:
    """The folder of a run of two steps, trained where it is not there."""
    if not (RUN / "report.html").is_file():
        command = [sys.executable, str(ROOT / "tools" / "train.py"), *_TRAIN, *_SMALL]
        subprocess.run(command, check=True, capture_output=True, env={**os.environ, "JEPA_DATA": ""})
    return RUN


def _of_run(folder: Path, but: tuple[str, ...] = ()) -> list[Seed]:
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path.name not in but)
    return [Seed(path.relative_to(folder).as_posix(), path.read_bytes()) for path in paths]


@cache
def checkpoints() -> list[Seed]:
    """The files of a checkpoint."""
    return _of_run(run() / "checkpoints" / "step-2")


@cache
def reports() -> list[Seed]:
    """The files of a run that a report is made of."""
    kept = ("samples.json", "result.json", "metrics.jsonl", "config.yaml", "recipe.json", "environment.json")
    found = [seed for seed in _of_run(run()) if seed.name in kept or seed.name.startswith("pictures/")]
    return [seed for seed in found if seed.name in kept or len(seed.content) < 20_000]
