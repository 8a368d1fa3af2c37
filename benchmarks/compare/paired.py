"""Video and sound of the same sentence: what encoders trained by this project share, beside untrained and raw ones.

    python benchmarks/compare/grid_clips.py --data grid-s1 --out clips
    python benchmarks/compare/paired.py train --clips clips --runs runs --seeds 0 1
    python benchmarks/compare/paired.py measure --data grid-s1 --clips clips --runs runs --seeds 0 1
    python benchmarks/compare/paired.py table

``train`` makes two runs a seed, of video and of sound, see ``grid_runs.py``. ``measure`` embeds all clips with them and
with the same encoders untrained, whole clips and speech alone, compares the 200 test clips, retrieval's map fitted on
the 700 training clips, and writes ``results/paired.json``; ``table`` writes ``PAIRED.md`` from it.
"""

from __future__ import annotations

import argparse
import json
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import librosa
import numpy as np
import torch
from grid_clips import KINDS, chosen_sound, clips, frames_at
from grid_runs import settings, train
from numpy.typing import NDArray
from paired_page import page

from jepa_audio.sound_files import find_sounds
from jepa_core.compare import Features, canonical_correlations, compare, lookup
from jepa_core.compare.inputs import from_array
from jepa_core.evaluate.heads import compress
from jepa_core.methods.frozen import frozen_tokens
from jepa_core.methods.masked import MaskedPrediction
from jepa_core.train.checkpoint import load_into, load_model, newest
from jepa_core.train.run import build_method

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "paired.json"
STEPS, PARTS, FEW = 25, 150, 30
MEASURES = ("linear_cka", "mutual_knn", "cknna", "rsa", "retrieval")
SLOTS = ("command", "color", "preposition", "letter", "digit", "adverb")
Array = NDArray[np.float64]
Table = dict[str, Array]
"""Features by split."""


# --------------------------------------------------------------------------------------------------------------------
# Features
# --------------------------------------------------------------------------------------------------------------------


def small_grey(frames: NDArray[np.uint8]) -> Array:
    """Frames at 16 x 16 pixels, ``[T, 256]``."""
    grey = frames.astype(np.float64) @ np.array([0.299, 0.587, 0.114])
    return grey.reshape(len(grey), 16, 7, 16, 7).mean((2, 4)).reshape(len(grey), -1)


def log_mel(sound: NDArray[np.float32], samples: int) -> Array:
    """Log energies of 40 bins, the means of 25 equal parts of the clip, ``[25, 40]``."""
    fixed = librosa.util.fix_length(sound, size=samples)
    mel = librosa.feature.melspectrogram(y=fixed, sr=16_000, n_fft=400, hop_length=160, n_mels=40)
    return np.stack([part.mean(1) for part in np.array_split(np.log(mel + 1e-6), STEPS, axis=1)])


def raw_tables(data: Path) -> dict[str, Table]:
    """Pixels and log energies of both kinds by split."""
    rows: dict[str, dict[str, list[Array]]] = {}
    for clip in clips(data):
        for kind in KINDS:
            first = clip.times_s[0]
            span = (first, first + 2.96) if kind == "whole" else clip.speech()
            seen = small_grey(frames_at(clip, np.linspace(*span, STEPS))).ravel()
            heard = log_mel(chosen_sound(clip, kind), 48_000 if kind == "whole" else 23_200).ravel()
            for medium, row in (("video", seen), ("sound", heard)):
                rows.setdefault(f"{kind}, raw {medium}", {}).setdefault(clip.split, []).append(row)
    return {name: {split: np.stack(x) for split, x in held.items()} for name, held in rows.items()}


def known_of(where: Path) -> dict[str, dict[str, list[Any]]]:
    """Ids, times of speech and words of every clip, by split, in the order of the shards."""
    known: dict[str, dict[str, list[Any]]] = {"ids": {}, "times": {}, "words": {}}
    for record in find_sounds(where / "whole" / "sound").records:
        split = record.sample_id.partition("-")[0]
        known["ids"].setdefault(split, []).append(record.sample_id.rpartition("/")[2])
        said = record.fields
        known["times"].setdefault(split, []).append((float(said["start_s"]), float(said["end_s"])))
        known["words"].setdefault(split, []).append([said[slot] for slot in SLOTS])
    return known


def one_hot(words: Mapping[str, list[list[str]]]) -> Table:
    """The six words of a sentence, one column a word of a slot."""
    columns = sorted({(slot, word) for held in words.values() for line in held for slot, word in enumerate(line)})
    return {
        split: np.array([[float(line[slot] == word) for slot, word in columns] for line in held])
        for split, held in words.items()
    }


def encoder_tables(kind: str, medium: str, where: Path, run: Path | None, seed: int) -> dict[str, Table]:
    """Of every clip the mean of all tokens, and of each of at most 25 steps of time the mean of its tokens.

    Args:
        kind, medium: which clips.
        where: their folder.
        run: whose weights; None = as they are drawn with ``seed``.
    """
    config, modality = settings(kind, medium, where, [f"seed={seed}"])
    method = cast(MaskedPrediction, build_method(config, modality).eval())
    if run is not None:
        checkpoint = newest(run, print)
        load_into(method, load_model(checkpoint), str(checkpoint))
    source = cast(Any, modality).evaluation(config, "all")
    found: dict[str, dict[str, list[Array]]] = {"clip mean": {}, "steps": {}}
    for start in range(0, len(source), 20):
        places = range(start, min(start + 20, len(source)))
        tokens = frozen_tokens(method, "online", source.collate([source.load(place, 0) for place in places]))
        steps = tokens.features.double().unflatten(1, (tokens.lattice.sizes[0], -1)).mean(2).numpy()
        for place, row in zip(places, steps, strict=True):
            split = source.sample_id(place).partition("-")[0]
            found["clip mean"].setdefault(split, []).append(row.mean(0))
            found["steps"].setdefault(split, []).append(np.concatenate([p.mean(0) for p in _parts(row)]))
    return {name: {split: np.stack(x) for split, x in held.items()} for name, held in found.items()}


def _parts(row: Array) -> list[Array]:
    return np.array_split(row, min(STEPS, len(row)))


def reduced(table: Table, parts: int = PARTS) -> Table:
    """At most so many principal components of the training clips."""
    if table["train"].shape[1] <= parts:
        return table
    found = {}
    for split in ("val", "test"):
        fitted, other = compress(torch.from_numpy(table["train"]), torch.from_numpy(table[split]), parts)
        found[split] = other.numpy().astype(np.float64)
    return {"train": fitted.numpy().astype(np.float64), **found}


# --------------------------------------------------------------------------------------------------------------------
# Measures
# --------------------------------------------------------------------------------------------------------------------


def named(table: Table, split: str, ids: Mapping[str, Sequence[str]], name: str) -> Features:
    """One split as a table with names."""
    return from_array(table[split], name, sample_id=ids[split])


def one_pair(a: Table, b: Table, ids: Mapping[str, Sequence[str]], permutations: int, split: str) -> dict[str, Any]:
    """All figures of two tables on a split."""
    tested = named(a, split, ids, "a"), named(b, split, ids, "b")
    fit = named(a, "train", ids, "a"), named(b, "train", ids, "b")
    asked: dict[str, Any] = {"permutations": permutations, "fit_a": fit[0], "fit_b": fit[1]}
    found = compare(*tested, measures=MEASURES, map="cca", **asked)
    few = [named(reduced(table, FEW), split, ids, "few") for table in (a, b)]
    scores = [*found.scores, *compare(*few, measures=("cca_squared",), permutations=permutations).scores]
    ridge = compare(*tested, measures=("retrieval",), map="ridge", **asked)
    kept = ("value", "null_mean", "p_value", "calibrated", "ci_low", "ci_high")
    rows = {f"{s.measure} {s.direction}": {key: _number(getattr(s, key)) for key in kept} for s in scores}
    rows |= {f"ridge {s.measure} {s.direction}": {"value": s.value} for s in ridge.scores}
    return rows | {name: {"value": value} for name, value in found.figures.items()}


def unweighed(a: Table, b: Table, directions: int, split: str) -> dict[str, dict[str, float]]:
    """Retrieval by the first canonical directions of the training clips as they are, as the data's own baseline."""
    fitted = lookup.fit_cca(a["train"], b["train"])
    assert fitted.weights_y is not None
    rho = canonical_correlations(a["train"], b["train"])[:directions]
    plain = replace(
        fitted, weights=fitted.weights[:, :directions] / rho, weights_y=fitted.weights_y[:, :directions] / rho
    )
    near = lookup.similarities(plain, a[split], b[split])
    return {name: lookup.figures(lookup.ranks(x)) for name, x in (("a -> b", near), ("b -> a", near.T))}


def _number(value: float) -> float | None:
    return round(value, 5) if math.isfinite(value) else None


def timing_r2(table: Table, times: Mapping[str, Sequence[tuple[float, float]]], split: str) -> list[float]:
    """R2 of start, end and length of speech on a split, by ridge regression on the training clips."""
    from sklearn.linear_model import RidgeCV
    from sklearn.metrics import r2_score

    wanted = {name: np.array([(a, b, b - a) for a, b in times[name]]) for name in ("train", split)}
    x = reduced(table)
    scale = x["train"].std()
    fitted = RidgeCV(np.logspace(-3, 5, 17)).fit(x["train"] / scale, wanted["train"])
    return [float(v) for v in r2_score(wanted[split], fitted.predict(x[split] / scale), multioutput="raw_values")]


def all_tables(given: argparse.Namespace, raw: dict[str, Table], words: Table) -> dict[str, Table]:
    """Every table by name: kind, who made it, readout. Encoders trained on whole clips see both kinds."""
    found = {f"{name}, steps": reduced(table) for name, table in raw.items()}
    for kind in KINDS:
        found[f"{kind}, words"] = words
        for medium in ("video", "sound"):
            for seed in given.seeds:
                for who, run in (("trained", given.runs / f"whole-{medium}-{seed}"), ("untrained", None)):
                    name = f"{kind}-{medium}-{seed}-{who}"
                    made = kept(
                        given.clips / f"{name}.npz",
                        lambda r=run, k=kind, m=medium, s=seed: encoder_tables(k, m, given.clips, r, s),
                    )
                    for readout, table in made.items():
                        found[f"{kind}, {who} {medium} {seed}, {readout}"] = reduced(table)
                    print(name, flush=True)
    return found


def kept(path: Path, make: Callable[[], dict[str, Table]]) -> dict[str, Table]:
    """Tables by name, made once and then read from a file; delete it where clips or runs have changed."""
    if not path.is_file():
        tables = make()
        np.savez(path, **{f"{name}|{split}": x for name, table in tables.items() for split, x in table.items()})
    found: dict[str, Table] = {}
    with np.load(path) as held:
        for key in held.files:
            name, _, split = key.partition("|")
            found.setdefault(name, {})[split] = held[key]
    return found


def pairs(kind: str, seeds: Sequence[int]) -> dict[str, list[tuple[str, str]]]:
    """Rows of the page: which tables are compared, one pair a seed."""
    rows: dict[str, list[tuple[str, str]]] = {"raw / raw": [(f"{kind}, raw video, steps", f"{kind}, raw sound, steps")]}
    for readout in ("steps", "clip mean"):
        for a, b in (
            ("trained", "trained"),
            ("untrained", "untrained"),
            ("trained", "untrained"),
            ("untrained", "trained"),
        ):
            rows[f"{a} / {b}, {readout}"] = [
                (f"{kind}, {a} video {seed}, {readout}", f"{kind}, {b} sound {seed}, {readout}") for seed in seeds
            ]
    for medium in ("video", "sound"):
        other = "sound" if medium == "video" else "video"
        for who in ("trained", "untrained"):
            one = [f"{kind}, {who} {medium} {seed}, steps" for seed in seeds]
            with_raw = [(name, f"{kind}, raw {other}, steps") for name in one]
            if medium == "video":
                rows[f"{who} video / raw sound"] = with_raw
            else:
                rows[f"raw video / {who} sound"] = [(b, a) for a, b in with_raw]
            rows[f"{who} {medium} / words"] = [(name, f"{kind}, words") for name in one]
        rows[f"raw {medium} / words"] = [(f"{kind}, raw {medium}, steps", f"{kind}, words")]
    return rows


def measure(given: argparse.Namespace) -> None:
    """Embeds, compares and writes the results."""
    torch.set_num_threads(1)
    known = known_of(given.clips)
    raw = kept(given.clips / "raw.npz", lambda: raw_tables(given.data))
    tables = all_tables(given, raw, one_hot(known["words"]))
    rows: dict[str, Any] = {}
    for kind in KINDS:
        for name, held in pairs(kind, given.seeds).items():
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                rows[f"{kind}, {name}"] = [
                    one_pair(tables[a], tables[b], known["ids"], given.permutations, given.split) for a, b in held
                ]
            print(kind, name, {k: round(v["value"], 3) for k, v in rows[f"{kind}, {name}"][0].items() if "R@1 " in k})
    timing = {
        name: timing_r2(table, known["times"], given.split) for name, table in tables.items() if "words" not in name
    }
    found = {
        "seeds": given.seeds,
        "split": given.split,
        "permutations": given.permutations,
        "rows": rows,
        "timing": timing,
        "unweighed": {
            kind: {
                k: unweighed(tables[f"{kind}, raw video, steps"], tables[f"{kind}, raw sound, steps"], k, given.split)
                for k in (30, 50, 100)
            }
            for kind in KINDS
        },
        "runs": {p.parent.name: json.loads(p.read_text()) for p in sorted(given.runs.glob("*/result.json"))},
    }
    keep = {name: {key: run[key] for key in ("steps", "seconds", "verdict")} for name, run in found["runs"].items()}
    given.out.parent.mkdir(exist_ok=True)
    given.out.write_text(json.dumps({**found, "runs": keep}, indent=1) + "\n")


def main() -> None:
    """Trains, measures or writes the page."""
    parser = argparse.ArgumentParser(description="Video and sound of the same sentence.")
    parser.add_argument("what", choices=["train", "measure", "table"])
    parser.add_argument("--data", type=Path, help="grid-s1 itself")
    parser.add_argument("--clips", type=Path, help="what grid_clips.py wrote")
    parser.add_argument("--runs", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--permutations", type=int, default=500)
    parser.add_argument("--split", choices=["test", "val"], default="test", help="val to choose settings by")
    parser.add_argument("--out", type=Path, default=RESULTS)
    given = parser.parse_args()
    if given.what == "train":
        for seed in given.seeds:
            for medium in ("sound", "video"):
                print(train("whole", medium, seed, given.clips, given.runs, []))
    elif given.what == "measure":
        measure(given)
    else:
        (HERE / "PAIRED.md").write_text(
            page(json.loads(given.out.read_text()), (HERE / "paired_reading.md").read_text())
        )


if __name__ == "__main__":
    main()
