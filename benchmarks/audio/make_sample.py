"""Makes the sample of ESC-10 that the package brings: a part of the clips, as Ogg Vorbis at 16 kHz.

``python benchmarks/audio/make_sample.py ESC10 TARGET`` where ESC10 holds ``meta.csv`` and ``audio/``. The choice of
clips and what they decode to are the same each time with the same encoder (libsndfile 1.2.2 made those in the package);
the files themselves differ in Ogg's serial number, which is drawn at random.
"""

from __future__ import annotations

import csv
import sys
from collections import defaultdict
from pathlib import Path

import soundfile

CLIPS = 5
"""Of each class in each fold."""
LEVEL = 0.7
"""Compression level of libsndfile, from 0 (best quality) to 1."""
LICENCES = {"CC0": "CC0 1.0", "CC-BY": "CC BY 3.0"}
COLUMNS = ("filename", "fold", "category", "src_file", "take", "licence")

ATTRIBUTION = """\
# ESC-10, a part of it: source and licence

* Source: Karol J. Piczak, ESC-10 (https://github.com/karolpiczak/ESC-10), a part of ESC-50
  (https://github.com/karolpiczak/ESC-50). Cite: K. J. Piczak, "ESC: Dataset for Environmental Sound Classification",
  ACM Multimedia 2015, doi 10.1145/2733373.2806390.
* Licence of ESC-10 as a collection: Creative Commons Attribution 3.0 Unported
  (https://creativecommons.org/licenses/by/3.0/). The clips come from Freesound, each under CC0 1.0
  (https://creativecommons.org/publicdomain/zero/1.0/) or CC BY 3.0, as listed below.
* Changed: see README.md.

## Clips

"""

README = """\
# ESC-10, a part of it

{count} of the 400 clips of ESC-10: environmental sounds of 10 classes, {each} clips of each class in each of the 5
folds, 5 s each. `meta.csv` names them: file, fold, class, recording (`src_file`, the clip's number at Freesound), take
and licence.

What was changed against ESC-10: clips were chosen (first takes first, so that as many recordings as possible are in;
clips under CC Sampling+ are left out), decoded, resampled to 16 kHz, filled up or cut to 5.0 s, limited to -1..1 and
encoded again as Ogg Vorbis. The folds are those of ESC-10 and no recording is in two of them. For figures to compare
with others, take the whole data set.
"""


def chosen(rows: list[dict[str, str]]) -> list[dict[str, str]]:
    """The first clips of each class and fold by take and name, less those of other licences."""
    cells: dict[tuple[str, str], list[dict[str, str]]] = defaultdict(list)
    for row in sorted(rows, key=lambda row: (row["take"], row["filename"])):
        cell = cells[row["fold"], row["category"]]
        if row["licence"] in LICENCES and len(cell) < CLIPS:
            cell.append({**row, "source": row["filename"], "filename": f"{Path(row['filename']).stem}.ogg"})
    return sorted((row for cell in cells.values() for row in cell), key=lambda row: row["filename"])


def encode(source: Path, target: Path) -> None:
    """One clip to Ogg Vorbis."""
    samples, rate_hz = soundfile.read(source, dtype="float32")
    soundfile.write(target, samples, rate_hz, format="OGG", subtype="VORBIS", compression_level=LEVEL)


def describe(row: dict[str, str]) -> str:
    """The line of the attribution that a clip's licence asks for."""
    return (
        f'* `{row["filename"]}`: from "{row["freesound_title"]}" by {row["author"]}, {row["freesound_url"]} '
        f"[{LICENCES[row['licence']]}]\n"
    )


def main(source: Path, target: Path) -> None:
    """Writes the sample and says how large it is."""
    with (source / "meta.csv").open(newline="", encoding="utf-8") as file:
        rows = chosen(list(csv.DictReader(file)))
    (target / "audio").mkdir(parents=True, exist_ok=True)
    for row in rows:
        encode(source / "audio" / row["source"], target / "audio" / row["filename"])
    with (target / "meta.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    (target / "ATTRIBUTION.md").write_text(ATTRIBUTION + "".join(map(describe, rows)), encoding="utf-8")
    (target / "README.md").write_text(README.format(count=len(rows), each=CLIPS), encoding="utf-8")
    size = sum(path.stat().st_size for path in target.rglob("*") if path.is_file())
    print(f"{len(rows)} clips of {len({row['src_file'] for row in rows})} recordings, {size} bytes")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
