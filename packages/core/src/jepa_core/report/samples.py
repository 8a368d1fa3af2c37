"""Samples in the report of a run: neighbours as pictures, and a map of embeddings coloured by label or group."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jepa_core.plain_json import parse_json
from jepa_core.thumbnails import Inlined, inlined

FILE, FOLDER = "samples.json", "pictures/samples"
SIDE = 240
"""Pixels of a picture's longer side in the page, at most: a strip of frames is longer than an image."""

WIDE = 2.5
"""Pictures that are longer than so many times their height get more room: they are strips of frames."""

COLOURED = 10
"""Labels that have a colour and a mark of their own, the most frequent ones; all others share one."""

OTHER = 0
WIDTH, HEIGHT, LEAST_HEIGHT, MARGIN = 640, 480, 160, 14

# Outlines about (0, 0), so that labels are told apart without their colours. The first belongs to what is left over.
MARKS = (
    "M-2.5 0a2.5 2.5 0 1 0 5 0a2.5 2.5 0 1 0 -5 0z",
    "M-4 0a4 4 0 1 0 8 0a4 4 0 1 0 -8 0z",
    "M-3.6 -3.6h7.2v7.2h-7.2z",
    "M0 -4.8L4.6 3.6H-4.6z",
    "M0 -5L5 0L0 5L-5 0z",
    "M0 4.8L4.6 -3.6H-4.6z",
    "M-1.5 -4.6h3v3.1h3.1v3h-3.1v3.1h-3v-3.1h-3.1v-3h3.1z",
    "M-4.8 0L3.6 -4.6V4.6z",
    "M4.8 0L-3.6 -4.6V4.6z",
    "M-4.4 -2.3L-2.3 -4.4L0 -2.1L2.3 -4.4L4.4 -2.3L2.1 0L4.4 2.3L2.3 4.4L0 2.1L-2.3 4.4L-4.4 2.3L-2.1 0z",
    "M0 -5.2L1.4 -1.7L5 -1.6L2.2 0.7L3.1 4.2L0 2.2L-3.1 4.2L-2.2 0.7L-5 -1.6L-1.4 -1.7z",
)


def samples_page(folder: Path, missing: list[tuple[str, str]]) -> dict[str, Any] | None:
    """What the template shows of a run's samples; None where the run left nothing of them.

    Args:
        folder: of the run.
        missing: (file, what that means) is added for what cannot be read.
    """
    path = folder / FILE
    if not path.exists():
        return None
    try:
        found = parse_json(path.read_text(encoding="utf-8"))
        if "error" in found:
            return {"error": str(found["error"])}
        return _page(found, _Pictures(folder, missing))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        missing.append((FILE, f"cannot be read: {type(error).__name__}: {error}"))
        return None


class _Pictures:
    """Pictures of the run's folder by name, each read once."""

    def __init__(self, folder: Path, missing: list[tuple[str, str]]) -> None:
        self._base, self._missing = (folder / FOLDER).resolve(), missing
        self._held: dict[str, Inlined | None] = {}

    def __call__(self, name: Any) -> Inlined | None:
        if not name:
            return None
        if name not in self._held:
            self._held[name] = self._read(str(name))
        return self._held[name]

    def _read(self, name: str) -> Inlined | None:
        path = (self._base / name).resolve()
        # The list may come from elsewhere: it must not pull other files into a page people send around.
        inside = path.is_relative_to(self._base) and path.is_file()
        found = inlined(path.read_bytes(), SIDE) if inside else None
        if found is None:
            self._missing.append((f"{FOLDER}/{name}", f"{FILE} names it, but it is no picture in that folder"))
        return found


def _page(found: Mapping[str, Any], pictures: _Pictures) -> dict[str, Any]:
    near = found["neighbours"]
    queries = [_query(query, pictures) for query in near["queries"]]
    plane = found["map"]
    return {
        "error": "",
        "intro": _intro(found),
        "how": str(found.get("how", "")),
        "pictures_error": str(found.get("pictures_error", "")),
        "shares": _shares(near),
        "queries": queries,
        "map": {"error": str(plane["error"])} if "error" in plane else _map(plane, found),
    }


def _sentence_of_source(found: Mapping[str, Any]) -> str:
    left_out = f"; {found['unreadable']} could not be read and are left out" if found["unreadable"] else ""
    drawn = "all" if found["samples"] + found["unreadable"] >= found["of"] else f"drawn by seed {found['seed']} from"
    count = f"{found['samples']} samples of the {found['split']} split ({drawn} {found['of']}{left_out})"
    layer = "last layer" if found["layer"] == "last" else f"layer {found['layer']}"
    return f"{count}; mean token, {layer} of the {found['encoder']} encoder"


def _intro(found: Mapping[str, Any]) -> str:
    near = found["neighbours"]
    labelled = near["same_label"] is not None
    turn = "one of each label in turn" if labelled else "one of each group in turn" if near["grouped"] else "at random"
    groups = {
        True: " A sample's own group (recording, drive, speaker, episode) does not count.",
        False: " Neighbours may be of the sample's own group: too few samples are of others.",
    }
    told = groups[near["groups"] == "other"] if near["grouped"] else ""
    return (
        f"The {near['k']} nearest samples by cosine, nearest first, among {_sentence_of_source(found)}. "
        f"The seed chose whose neighbours are shown, {turn}; nobody picked them.{told} "
        "The number below a name is the cosine distance."
    )


def _shares(near: Mapping[str, Any]) -> list[tuple[str, str, bool]]:
    """(what, share, whether it is the trained encoder's); none without labels."""
    rows = [("trained", "same_label"), ("before training", "before_training"), ("by chance", "by_chance")]
    return [(name, f"{near[key]:.0%}", key == "same_label") for name, key in rows if near[key] is not None]


def _query(query: Mapping[str, Any], pictures: _Pictures) -> dict[str, Any]:
    label = _text(query["label"])
    shown = [_card(near, pictures) for near in query["neighbours"]]
    for card, near in zip(shown, query["neighbours"], strict=True):
        known = query["label"] is not None and near["label"] is not None
        card["same"] = known and near["label"] == query["label"]
        card["other"] = known and not card["same"]
        # Features before training may lie within a ten-thousandth of each other.
        card["distance"] = f"{near['distance']:.{3 if near['distance'] >= 0.01 else 6}f}"
    judged = sum(card["same"] or card["other"] for card in shown)
    tally = f"{sum(card['same'] for card in shown)} of {judged} with the same label" if judged else ""
    wide = any(card["picture"] and card["picture"].width > WIDE * card["picture"].height for card in shown)
    title = label or str(query["sample_id"])
    return {**_card(query, pictures), "title": title, "tally": tally, "wide": wide, "neighbours": shown}


def _card(entry: Mapping[str, Any], pictures: _Pictures) -> dict[str, Any]:
    name, label = str(entry["sample_id"]), _text(entry["label"])
    alt = f"{name}, label {label}" if label else name
    return {"name": name, "label": label, "alt": alt, "picture": pictures(entry.get("picture"))}


def _text(value: Any) -> str:
    return "" if value is None else str(value)


# --------------------------------------------------------------------------------------------------------------------
# The map
# --------------------------------------------------------------------------------------------------------------------


def _map(plane: Mapping[str, Any], found: Mapping[str, Any]) -> dict[str, Any]:
    by, kinds = _coloured_by(plane)
    legend, number = _legend(kinds)
    places, height = _fitted(plane["xy"])
    points = [
        {
            "x": x,
            "y": y,
            "mark": number.get(kind, OTHER),
            "title": f"{kind}: {name}" if kind else name,
        }
        for (x, y), kind, name in zip(places, kinds, plane["sample_id"], strict=True)
    ]
    # In the order of a data set the last class would lie over all others.
    random.Random(0).shuffle(points)
    points.sort(key=lambda point: point["mark"] != OTHER)
    return {
        "error": "",
        "by": by,
        "legend": legend,
        "points": points,
        "marks": MARKS,
        "size": (WIDTH, height),
        "alt": f"Map of {len(points)} samples{f', marked by {by}' if by else ''}: {plane['method']}.",
        "note": (
            f"{plane['method']}; {_sentence_of_source(found)}. Each point is a sample"
            f"{f', marked by its {by}' if by else ''}. Only close neighbours mean much: distances between far "
            "clusters, and the sizes of clusters, mean little."
        ),
    }


def _fitted(xy: Sequence[Sequence[float]]) -> tuple[list[tuple[float, float]], int]:
    """Pixels of the points, y downwards, as large as the map holds, both axes at one scale; and the map's height."""
    columns = list(zip(*xy, strict=True))
    middles = [(min(column) + max(column)) / 2 for column in columns]
    spreads = [max(max(column) - min(column), 1e-9) for column in columns]
    scale = min((WIDTH - 2 * MARGIN) / spreads[0], (HEIGHT - 2 * MARGIN) / spreads[1])
    height = round(max(LEAST_HEIGHT, spreads[1] * scale + 2 * MARGIN))
    places = [(WIDTH / 2 + (x - middles[0]) * scale, height / 2 - (y - middles[1]) * scale) for x, y in xy]
    return [(round(x, 1), round(y, 1)) for x, y in places], height


def _coloured_by(plane: Mapping[str, Any]) -> tuple[str, list[str]]:
    """``label``, ``group`` or nothing, and each point's; groups of one sample each tell nothing."""
    counted = Counter(value for value in plane["group"] if value is not None)
    shared = max(counted.values(), default=0) > 1
    for by, known in (("label", any(value is not None for value in plane["label"])), ("group", shared)):
        if known:
            return by, [f"no {by}" if value is None else str(value) for value in plane[by]]
    return "", [""] * len(plane["sample_id"])


def _legend(kinds: Sequence[str]) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """Rows of the legend and the number of each kind that has a mark of its own; none where all are alike."""
    counted = Counter(kinds)
    if len(counted) < 2:
        return [], {kind: 1 for kind in counted}
    kept = sorted(counted, key=lambda kind: (-counted[kind], kind))[:COLOURED]
    number = {kind: place for place, kind in enumerate(sorted(kept), 1)}
    rows = [{"name": kind, "count": counted[kind], "mark": mark} for kind, mark in number.items()]
    if rest := len(kinds) - sum(counted[kind] for kind in kept):
        rows.append({"name": f"{len(counted) - len(kept)} others", "count": rest, "mark": OTHER})
    return rows, number
