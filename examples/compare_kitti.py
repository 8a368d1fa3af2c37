"""A camera image and a LiDAR sweep of the same moment (KITTI): geometry and plumbing only, 78 frames of one drive.

    python examples/compare_kitti.py --data kitti-camera-lidar --out comparison

Nothing is trained: an encoder of images and one of point clouds as they are drawn, and raw features: grey values of the
image, and the depths of the points where the calibration puts them into it. What two frames share is checked; how good
a representation is cannot be: consecutive frames are near copies, so that rows are no independent samples. With the
frames of each second as one group, 8 groups remain, too few for a p-value, and none is given; permuting single frames
would give one, and it would mean nothing.
"""

import argparse
import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from jepa_core.compare import Features, compare
from jepa_core.compare.inputs import from_array, from_table
from jepa_core.compare.pairing import stem_of
from jepa_core.config import compose
from jepa_core.evaluate.embed_samples import embed_samples
from jepa_core.plugins import find_recipe
from jepa_core.train.run import build_method
from jepa_lidar.modality import LidarModality
from jepa_vision.modality import VisionModality

FRAMES_A_SECOND = 10
ROWS, COLUMNS = 14, 48


def pixels_of(points: np.ndarray, calibration: dict[str, Any]) -> np.ndarray:
    """Where points ``[P, 3]`` in metres of the sensor's frame lie in the image: column, row, depth, ``[P, 3]``."""
    p2, turned, moved = (np.array(calibration[key], float) for key in ("P2", "R0_rect", "Tr_velo_to_cam"))
    homogeneous = np.concatenate([points, np.ones((len(points), 1))], 1)
    camera = _square(turned) @ _square(moved) @ homogeneous.T
    seen = (p2.reshape(3, 4) @ camera).T
    return np.concatenate([seen[:, :2] / seen[:, 2:], seen[:, 2:]], 1)


def _square(matrix: np.ndarray) -> np.ndarray:
    """A 3 x 3 or 3 x 4 matrix as 4 x 4."""
    found = np.eye(4)
    flat = matrix.reshape(3, -1)
    found[:3, : flat.shape[1]] = flat
    return found


def raw_frame(folder: Path, key: str, scans: Path) -> tuple[np.ndarray, np.ndarray, float]:
    """Grey values, log depths in the same 14 x 48 cells, and the share of points that lie in the image.

    Writes the points to ``scans`` as KITTI has them, for the encoder to read.
    """
    picture = Image.open(folder / "image" / f"{key}.jpg").convert("L")
    grey = np.asarray(picture.resize((COLUMNS, ROWS), Image.Resampling.BOX), float)
    with np.load(folder / "points" / f"{key}.npz") as held:
        points, strength = held["xyz_cm"].astype(float) / 100, held["reflectance"].astype(float) / 255
    np.concatenate([points, strength[:, None]], 1).astype(np.float32).tofile(scans / f"{key}.bin")
    column, row, depth = pixels_of(points, json.loads((folder / "calib" / f"{key}.json").read_text())).T
    inside = (depth > 0) & (column >= 0) & (column < picture.width) & (row >= 0) & (row < picture.height)
    cell = (row[inside] / picture.height * ROWS).astype(int) * COLUMNS
    cell += (column[inside] / picture.width * COLUMNS).astype(int)
    count = np.bincount(cell, minlength=ROWS * COLUMNS)
    mean = np.bincount(cell, depth[inside], ROWS * COLUMNS) / np.maximum(count, 1)
    return grey.ravel(), np.log1p(mean), float(inside.mean())


def untrained(modality: Any, root: Path, name: str) -> Features:
    """Features of an encoder whose weights are as they were drawn."""
    config = compose(modality.schema, find_recipe(modality, "quickstart"), [f"data.root={root}"])
    source = modality.evaluation(config, "all")
    return from_table(embed_samples(build_method(config, modality), source, batch_size=8), name)


def main() -> None:
    """Prints the comparisons and writes their pages."""
    parser = argparse.ArgumentParser(description="Camera and LiDAR of the same moment, without training.")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("comparison"))
    given = parser.parse_args()
    torch.set_num_threads(1)
    keys = sorted(path.stem for path in (given.data / "points").glob("*.npz"))
    scans = given.out / "scans"
    scans.mkdir(parents=True, exist_ok=True)
    grey, depth, inside = zip(*(raw_frame(given.data, key, scans) for key in keys), strict=True)
    print(f"{len(keys)} frames; share of points that fall into their image: {np.mean(inside):.3f}")
    pairs = {
        "raw": (
            from_array(np.stack(grey), "grey", sample_id=keys),
            from_array(np.stack(depth), "depth", sample_id=keys),
        ),
        "untrained": (
            untrained(VisionModality(), given.data / "image", "image"),
            untrained(LidarModality(), scans, "lidar"),
        ),
    }
    for name, (a, b) in pairs.items():
        names = keys if a.sample_id is None else [stem_of(key) for key in a.sample_id]
        seconds = [int(key.rpartition("_")[2]) // FRAMES_A_SECOND for key in names]
        found = compare(a, b, ids="stem", measures=("linear_cka", "mutual_knn"), groups=seconds)
        page = found.save(given.out / f"camera-lidar-{name}")
        print(f"\n{name}, the frames of a second are one group: {page}\n{found.table()}\n{found.verdict()[1]}")


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main()
