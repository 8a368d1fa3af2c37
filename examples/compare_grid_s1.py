"""Video, sound and text of the same sentence (grid-s1), with encoders that learned nothing: where a comparison begins.

    python examples/compare_grid_s1.py --data grid-s1 --out comparison

Nothing is trained. Each clip is seen by an untrained video encoder and as its pixels, heard by an untrained encoder of
sound and as its log energies, and read as its six words: two trained encoders share something where they are above
that. All is done twice: with whole clips, in which both sides also tell when the speaker begins and ends, and with
speech alone, cut by the times of the words. Retrieval's map is fitted on training clips.
"""

import argparse
import io
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import librosa
import numpy as np
import torch

from jepa_audio.modality import AudioModality
from jepa_audio.waveforms import Waveforms
from jepa_core.compare import Features, compare
from jepa_core.compare.inputs import from_array
from jepa_core.config import compose
from jepa_core.contracts import Batch
from jepa_core.evaluate.features import layer_embeddings, pool
from jepa_core.plugins import find_recipe
from jepa_core.train.run import build_method
from jepa_vision.video_modality import VideoModality

FRAMES, RATE_HZ = 26, 8000
KINDS = {"whole clips": (0.0, 2.94), "speech alone": None}
PAIRS = (
    ("raw video", "raw sound"),
    ("untrained video", "untrained sound"),
    ("raw video", "text"),
    ("raw sound", "text"),
)


def read(folder: Path, split: str, most: int) -> Iterator[tuple[dict[str, Any], bytes]]:
    """What is said of the first clips of a split, and their mp4 files."""
    for shard in sorted(folder.glob(f"{split}-*.tar")):
        with tarfile.open(shard) as members:
            held = {m.name: members.extractfile(m).read() for m in members}  # type: ignore[union-attr]  # all are files
        for name in [name for name in held if name.endswith(".mp4")][:most]:
            yield json.loads(held[name.replace(".mp4", ".json")]), held[name]
        most -= len(held) // 2
        if most <= 0:
            return


def cut(content: bytes, span_s: tuple[float, float]) -> tuple[np.ndarray, np.ndarray]:
    """26 mouths spread evenly over a span, uint8 ``[26, 32, 64, 3]``, and its sound stretched to one length."""
    with av.open(io.BytesIO(content), "r") as file:
        frames = [(frame.time, frame.reformat(112, 112, "rgb24").to_ndarray()) for frame in file.decode(video=0)]
    with av.open(io.BytesIO(content), "r") as file:
        rate = av.AudioResampler("flt", "mono", RATE_HZ)
        sound = np.concatenate([p.to_ndarray()[0] for f in file.decode(audio=0) for p in rate.resample(f)])
    times = np.array([time for time, _ in frames])
    near = [frames[abs(times - time).argmin()][1][56:] for time in np.linspace(*span_s, FRAMES)]
    small = torch.nn.functional.interpolate(
        torch.from_numpy(np.stack(near)).permute(0, 3, 1, 2).float(), (32, 64), mode="bilinear", antialias=True
    )
    part = sound[int(span_s[0] * RATE_HZ) : int(span_s[1] * RATE_HZ)]
    length = int(1.44 * RATE_HZ)
    heard = librosa.util.fix_length(librosa.effects.time_stretch(part, rate=len(part) / length), size=length)
    return small.permute(0, 2, 3, 1).round().byte().numpy(), heard.astype(np.float32)


def untrained(modality: Any, recipe: str, inputs: Any, ids: list[str]) -> np.ndarray:
    """Features ``[N, D]`` of an encoder whose weights are as they were drawn."""
    config = compose(modality.schema, find_recipe(modality, recipe), ["seed=0"])
    method = build_method(config, modality).eval()
    batch = Batch(inputs, torch.zeros(len(ids), dtype=torch.int64), tuple(ids))
    with torch.inference_mode():
        return pool(layer_embeddings(method, batch)["last"], "mean").numpy()


def tables(clips: list[tuple[dict[str, Any], bytes]], kind: str, words: list[tuple[int, str]]) -> dict[str, Features]:
    """Every view of the clips as a table with names; ``words``: all (place in the sentence, word)."""
    views: dict[str, list[np.ndarray]] = {name: [] for pair in PAIRS for name in pair}
    ids = [said["id"] for said, _ in clips]
    for start in range(0, len(clips), 20):
        part, names = clips[start : start + 20], ids[start : start + 20]
        both = [cut(content, KINDS[kind] or (said["words"][0][1], said["words"][-1][2])) for said, content in part]
        video, sound = (np.stack(side) for side in zip(*both, strict=True))
        mel = librosa.feature.melspectrogram(y=sound, sr=RATE_HZ, n_fft=256, hop_length=461, n_mels=40)
        pixels = torch.from_numpy(video).permute(0, 4, 1, 2, 3).contiguous()
        views["raw video"].append(video.mean(-1)[:, :, ::4, ::4].reshape(len(part), -1))
        views["raw sound"].append(np.log(mel + 1e-6).reshape(len(part), -1))
        views["untrained video"].append(untrained(VideoModality(), "grid_s1", pixels, names))
        views["untrained sound"].append(untrained(AudioModality(), "speech", Waveforms(torch.from_numpy(sound)), names))
        views["text"].append(np.array([[float(one["words"][k][0] == word) for k, word in words] for one, _ in part]))
    return {name: from_array(np.concatenate(x), name, sample_id=ids) for name, x in views.items()}


def main() -> None:
    """Prints every comparison and writes its page."""
    parser = argparse.ArgumentParser(description="Video, sound and text of the same sentence, without training.")
    parser.add_argument("--data", type=Path, required=True, help="folder of the tar shards")
    parser.add_argument("--out", type=Path, default=Path("comparison"))
    parser.add_argument("--clips", type=int, nargs=2, default=(200, 100), help="training clips, test clips")
    given = parser.parse_args()
    torch.set_num_threads(1)
    fit, test = (list(read(given.data, split, n)) for split, n in zip(("train", "test"), given.clips, strict=True))
    words = sorted({(place, word[0]) for said, _ in fit + test for place, word in enumerate(said["words"])})
    for kind in KINDS:
        fitted, tested = tables(fit, kind, words), tables(test, kind, words)
        for a, b in PAIRS:
            measures = ("linear_cka", "mutual_knn", "retrieval")
            found = compare(tested[a], tested[b], measures=measures, fit_a=fitted[a], fit_b=fitted[b])
            page = found.save(given.out / f"{kind} {a} {b}".replace(" ", "-"))
            print(f"\n{kind}, {a} and {b}: {page}\n{found.table()}")


if __name__ == "__main__":
    main()
