"""Random views of a scan without labels: flip, rotation, scale, point order (the list of AD-L-JEPA, arXiv 2501.04969).

The released configuration also pastes labelled objects into scans (gt_sampling); a method without labels leaves it out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_STREAM = 90210  # keeps these draws apart from other uses of a sample's seed


@dataclass(frozen=True)
class Augment:
    """What is drawn for each scan; the default draws nothing but the point order.

    Attributes:
        flip_x: x is negated with probability one half.
        flip_y: y is negated with probability one half.
        rotation_rad: a turn about z, uniform in this range.
        scale: a factor on x, y, z, uniform in this range.
        shuffle: points come in random order, which decides which of them a crowded voxel keeps.
    """

    flip_x: bool = False
    flip_y: bool = False
    rotation_rad: tuple[float, float] = (0.0, 0.0)
    scale: tuple[float, float] = (1.0, 1.0)
    shuffle: bool = True

    def __post_init__(self) -> None:
        if self.rotation_rad[0] > self.rotation_rad[1]:
            raise ValueError(f"Augment: rotation_rad must be (low, high), got {self.rotation_rad}")
        if not 0 < self.scale[0] <= self.scale[1]:
            raise ValueError(f"Augment: scale must be (low, high) above 0, got {self.scale}")


PAPER = Augment(flip_x=True, flip_y=True, rotation_rad=(-math.pi / 4, math.pi / 4), scale=(0.95, 1.05))
PAPER_KITTI = Augment(flip_y=True, rotation_rad=(-math.pi / 4, math.pi / 4), scale=(0.95, 1.05))
FLIP_Y = Augment(flip_y=True)


def augmented(points: NDArray[np.float32], settings: Augment, seed: int) -> NDArray[np.float32]:
    """A view of ``[P, F]`` points (x, y, z first); all randomness from ``seed``.

    Every quantity is drawn whether it is used or not, so that switching one off leaves the others as they were.
    """
    rng = np.random.Generator(np.random.PCG64([seed, _STREAM]))
    negate_x, negate_y = rng.random(2) < 0.5
    angle, scale = rng.uniform(*settings.rotation_rad), rng.uniform(*settings.scale)
    out = points[rng.permutation(len(points))] if settings.shuffle else points.copy()
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    flip = np.diag([-1.0 if negate_x and settings.flip_x else 1.0, -1.0 if negate_y and settings.flip_y else 1.0])
    out[:, :2] = out[:, :2] @ (scale * turn @ flip).T.astype(np.float32)
    out[:, 2] *= np.float32(scale)
    return out
