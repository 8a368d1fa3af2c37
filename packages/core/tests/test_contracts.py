"""Lattices, sites and tokens: ids, look-ups by id, and what is not valid."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from jepa_core.contracts import Sites, Tokens
from jepa_core.lattice import Lattice


def lattice(*sizes: int) -> Lattice:
    n = len(sizes)
    return Lattice(tuple("tyxz"[:n]), sizes, (0.5,) * n, ("m",) * n, (0.25,) * n)


@given(st.lists(st.integers(1, 5), min_size=1, max_size=4))
def test_ids_and_coordinates_are_inverse(sizes: list[int]) -> None:
    grid = lattice(*sizes)
    ids = torch.arange(grid.count)
    assert torch.equal(grid.ids(grid.coordinates(ids)), ids)
    assert (grid.coordinates(ids).amax(0) == torch.tensor(sizes) - 1).all()


def test_last_axis_runs_fastest_and_positions_are_centres() -> None:
    grid = lattice(2, 3)
    assert grid.coordinates(torch.tensor([1])).tolist() == [[0, 1]]
    assert grid.positions(torch.tensor([4])).tolist() == [[0.75, 0.75]]


def test_lattice_refuses_mismatched_axes() -> None:
    with pytest.raises(ValueError, match="one entry per axis"):
        Lattice(("y", "x"), (2,), (1.0,), ("m",), (0.0,))
    with pytest.raises(ValueError, match="at least 1"):
        lattice(2, 0)


def test_an_invalid_entry_never_shows_on_the_lattice() -> None:
    sites = Sites(torch.tensor([[0, 2, 2]]), valid=torch.tensor([[True, True, False]]))
    assert sites.on_lattice(4).tolist() == [[True, False, True, False]]
    again = Sites(torch.tensor([[2, 2, 0]]), valid=torch.tensor([[True, False, False]]))
    assert again.on_lattice(4).tolist() == [[False, False, True, False]]


def test_dense_fills_what_is_not_valid() -> None:
    sites = Sites(torch.tensor([[3, 1, 1]]), valid=torch.tensor([[True, True, False]]))
    tokens = Tokens(torch.tensor([[[3.0], [1.0], [9.0]]]), sites, lattice(2, 2))
    assert tokens.dense(torch.tensor([-1.0])).flatten().tolist() == [-1, 1, -1, 3]


def test_at_looks_up_by_id_for_blocks() -> None:
    tokens = Tokens(torch.tensor([[[30.0], [10.0]]]), Sites(torch.tensor([[3, 1]])), lattice(4))
    blocks = Sites(torch.tensor([[[1, 3], [0, 1]]]))
    assert tokens.at(blocks).squeeze(-1).tolist() == [[[10, 30], [0, 10]]]


def test_whole_lattice_shortcut_equals_the_general_path() -> None:
    torch.manual_seed(0)
    grid, valid = lattice(3, 4), torch.rand(2, 12) > 0.5
    features = torch.randn(2, 12, 5)
    whole = Sites.whole(grid, 2)
    short = Tokens(features, Sites(whole.ids, valid, complete=True), grid)
    general = Tokens(features, Sites(whole.ids, valid), grid)
    fill = torch.randn(5)
    assert torch.equal(short.dense(fill), general.dense(fill))
    blocks = Sites(whole.ids.unsqueeze(1), complete=True)
    assert torch.equal(short.at(blocks), general.at(Sites(whole.ids.unsqueeze(1))))
    assert torch.equal(short.sites.on_lattice(12), general.sites.on_lattice(12))


def test_kind_mask_counts_only_valid_sites_of_the_kind() -> None:
    sites = Sites(
        torch.tensor([[0, 1, 2]]), torch.tensor([[True, False, True]]), torch.tensor([[1, 1, 0]]), ("full", "empty")
    )
    assert sites.kind_mask(1).tolist() == [[True, False, False]]
    assert Sites(torch.tensor([[0]])).kind_mask(1).tolist() == [[False]]
