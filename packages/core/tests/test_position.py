"""Sine-cosine codes against their closed form and published layouts; rotary positions against what they promise."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from jepa_core.lattice import Lattice
from jepa_core.nn.position import rotary, sin_cos, sin_cos_table


def lattice(**sizes: int) -> Lattice:
    n = len(sizes)
    return Lattice(tuple(sizes), tuple(sizes.values()), (1.0,) * n, ("patch",) * n, (0.0,) * n)


def code(position: int, channels: int) -> Tensor:
    """All sines, then all cosines, written out."""
    angles = [position / 10000 ** (2 * i / channels) for i in range(channels // 2)]
    return torch.cat([torch.tensor(angles, dtype=torch.float64).sin(), torch.tensor(angles, dtype=torch.float64).cos()])


def test_both_published_orders_in_two_dimensions() -> None:
    grid = lattice(y=3, x=5)
    row_first, column_first = sin_cos_table(grid, 16), sin_cos_table(grid, 16, order=("x", "y"))
    for y in range(3):
        for x in range(5):
            site = y * 5 + x
            torch.testing.assert_close(row_first[site].double(), torch.cat([code(y, 8), code(x, 8)]), atol=1e-7, rtol=0)
            expected = torch.cat([code(x, 8), code(y, 8)])
            torch.testing.assert_close(column_first[site].double(), expected, atol=1e-7, rtol=0)


@pytest.mark.parametrize(("width", "dropped"), [(1024, 2), (1280, 4), (1408, 2), (192, 0), (384, 0)])
def test_three_dimensions_share_alike_and_are_cut(width: int, dropped: int) -> None:
    grid = lattice(t=2, y=3, x=4)
    table = sin_cos_table(grid, width)
    each = (width + dropped) // 3
    t, y, x = 1, 2, 3
    expected = torch.cat([code(t, each), code(y, each), code(x, each)])[:width]
    torch.testing.assert_close(table[t * 12 + y * 4 + x].double(), expected, atol=1e-7, rtol=0)


def test_channels_can_be_given() -> None:
    table = sin_cos_table(lattice(t=2, y=3, x=4), 16, channels=(8, 4, 4))
    expected = torch.cat([code(1, 8), code(2, 4), code(3, 4)])
    torch.testing.assert_close(table[-1].double(), expected, atol=1e-7, rtol=0)


def test_every_site_has_its_own_code() -> None:
    table = sin_cos_table(lattice(t=4, y=7, x=9), 48)
    distance = torch.cdist(table, table) + 10 * torch.eye(len(table))
    assert distance.min() > 0.1


def test_a_code_along_one_axis_leaves_the_others_empty() -> None:
    sites = sin_cos(lattice(t=4, y=3, x=3), 24, order=("x", "t", "y"))
    got = sites.along(0, torch.tensor([2.0]))[0]
    torch.testing.assert_close(got[8:16].double(), code(2, 8), atol=1e-6, rtol=0)
    assert not got[:8].any() and not got[16:].any()


def test_wrong_shares_are_named() -> None:
    with pytest.raises(ValueError, match="each of the axes"):
        sin_cos_table(lattice(y=2, x=2), 8, order=("y", "z"))
    with pytest.raises(ValueError, match="an even number"):
        sin_cos_table(lattice(y=2, x=2), 8, channels=(3, 5))
    with pytest.raises(ValueError, match="even head width"):
        rotary(torch.zeros(1, 2, 3), 4)
    with pytest.raises(ValueError, match="interleaved or tiled"):
        rotary(torch.zeros(1, 2, 1), 4, "paired")  # type: ignore[arg-type]  # the mistake under test


@pytest.mark.parametrize(("head_width", "segment"), [(64, 20), (80, 26), (32, 10), (88, 28)])
def test_rotary_leaves_the_rest_of_the_channels(head_width: int, segment: int) -> None:
    rotation = rotary(torch.full((1, 1, 3), 7.0), head_width)
    turned = rotation.sin[0, 0] != 0
    assert turned.sum() == 3 * segment
    assert turned[: 3 * segment].all()


def products(pairing: str, places: list[tuple[float, float]]) -> list[float]:
    generator = torch.Generator().manual_seed(0)
    q, k = torch.randn(2, 1, 1, 1, 16, generator=generator).unbind(0)
    out = []
    for a, b in places:
        first = rotary(torch.full((1, 1, 2), a), 16, pairing)  # type: ignore[arg-type]  # both literals are tested
        second = rotary(torch.full((1, 1, 2), b), 16, pairing)  # type: ignore[arg-type]  # as above
        out.append((first(q) * second(k)).sum().item())
    return out


def test_interleaved_pairs_see_distances_alone_and_tiled_ones_do_not() -> None:
    places = [(3.0, 5.0), (13.0, 15.0), (103.0, 105.0)]
    interleaved = products("interleaved", places)
    assert interleaved == pytest.approx([interleaved[0]] * 3, abs=1e-3)
    tiled = products("tiled", places)
    assert max(tiled) - min(tiled) > 0.1


def test_interleaved_rotation_keeps_lengths_and_matches_complex_numbers() -> None:
    x = torch.randn(2, 3, 5, 8, generator=torch.Generator().manual_seed(1))
    coordinates = torch.arange(10.0).view(2, 5, 1)
    got = rotary(coordinates, 8)(x)
    angle = coordinates * 10000.0 ** (-torch.arange(4) / 4)
    expected = torch.view_as_real(
        torch.view_as_complex(x.view(2, 3, 5, 4, 2)) * torch.polar(torch.ones(()), angle)[:, None]
    )
    torch.testing.assert_close(got, expected.flatten(-2), atol=1e-5, rtol=1e-5)


def test_tiled_angles_repeat_as_a_whole() -> None:
    rotation = rotary(torch.full((1, 1, 1), 3.0), 8, "tiled")
    angle = 3 * 10000.0 ** (-torch.arange(4) / 4)
    torch.testing.assert_close(rotation.cos[0, 0], angle.repeat(2).cos())
