"""Sparse tensors: order of sites, dense maps, refusals; and the choice of a backend."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from jepa_lidar.sparse import SparseTensor, SubmanifoldConv3d, backend, choose_backend, linear_keys
from jepa_lidar.sparse.tensor import coordinates_of

WAYMO = (41, 1504, 1504)


@given(
    st.tuples(*(st.integers(1, 50) for _ in range(3))),
    st.lists(st.tuples(*(st.floats(0, 0.999) for _ in range(4))), max_size=20),
)
@settings(max_examples=40, deadline=None)
def test_keys_and_coordinates_are_inverse(shape: tuple[int, int, int], fractions: list[tuple[float, ...]]) -> None:
    rows = [[int(f * size) for f, size in zip(row, (4, *shape), strict=True)] for row in fractions]
    sites = torch.tensor(rows, dtype=torch.int64).reshape(-1, 4)
    assert torch.equal(coordinates_of(linear_keys(sites, shape), shape), sites)


def test_keys_pass_two_to_the_31() -> None:
    last = torch.tensor([[31, 40, 1503, 1503]], dtype=torch.int32)
    assert linear_keys(last, WAYMO).item() == 32 * 41 * 1504 * 1504 - 1 > 2**31


def test_a_grid_of_more_than_two_to_the_31_sites_convolves() -> None:
    sites = torch.tensor([[31, 40, 1503, 1502], [31, 40, 1503, 1503]])
    layer = SubmanifoldConv3d(1, 1, 3, "k")
    out = layer(SparseTensor(torch.tensor([[1.0], [10.0]]), sites, WAYMO, 32)).features
    centre, right, left = (layer.weight[0, 1, 1, k, 0] for k in (1, 2, 0))
    torch.testing.assert_close(out[:, 0], torch.stack([centre + 10 * right, left + 10 * centre]))


def test_edges_are_no_neighbours() -> None:
    """The end of one line, plane or scan and the start of the next have neighbouring keys, not neighbouring sites."""
    sites = torch.tensor([[0, 0, 0, 3], [0, 0, 1, 0], [0, 1, 3, 3], [1, 0, 0, 0]])
    layer = SubmanifoldConv3d(1, 1, 3, "k")
    out = layer(SparseTensor(torch.ones(4, 1), sites, (2, 4, 4), 2)).features
    torch.testing.assert_close(out, layer.weight[:, 1, 1, 1].expand(4, 1))


def test_dense_puts_features_at_their_sites_and_passes_gradient() -> None:
    sites = torch.tensor([[0, 0, 1, 2], [1, 1, 0, 0]])
    features = torch.tensor([[1.0, 2.0], [3.0, 4.0]], requires_grad=True)
    dense = SparseTensor(features, sites, (2, 2, 3), 2).dense()
    assert dense.shape == (2, 2, 2, 2, 3) and dense.is_contiguous()
    assert dense[0, :, 0, 1, 2].tolist() == [1, 2] and dense[1, :, 1, 0, 0].tolist() == [3, 4] and dense.sum() == 10
    (dense * 2).sum().backward()
    assert features.grad is not None and features.grad.eq(2).all()


def test_from_unsorted_sorts_and_refuses() -> None:
    sites = torch.tensor([[1, 0, 0, 0], [0, 1, 1, 1], [0, 0, 0, 1]], dtype=torch.int32)
    x = SparseTensor.from_unsorted(torch.tensor([[1.0], [2.0], [3.0]]), sites, (2, 2, 2), 2)
    assert x.features.flatten().tolist() == [3, 2, 1] and bool((x.keys().diff() > 0).all())
    with pytest.raises(ValueError, match="1 of 3 coordinates lie outside"):
        SparseTensor.from_unsorted(torch.ones(3, 1), sites, (2, 2, 2), 1)
    with pytest.raises(ValueError, match="1 sites are named more than once"):
        SparseTensor.from_unsorted(torch.ones(2, 1), sites[:1].repeat(2, 1), (2, 2, 2), 2)


def test_wrong_tensors_are_refused() -> None:
    sites = torch.tensor([[0, 1, 1, 1], [0, 0, 0, 1]])
    with pytest.raises(ValueError, match="same V"):
        SparseTensor(torch.ones(3, 1), sites, (2, 2, 2), 1)
    with pytest.raises(ValueError, match="int64"):
        SparseTensor(torch.ones(2, 1), sites.int(), (2, 2, 2), 1)
    with pytest.raises(ValueError, match="not sorted"):
        SubmanifoldConv3d(1, 1, 3, "k")(SparseTensor(torch.ones(2, 1), sites, (2, 2, 2), 1))


def test_backend_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    monkeypatch.setattr(backend, "spconv_problem", lambda: None)
    assert choose_backend("auto", cpu)[0] == "torch" and choose_backend("auto", cuda)[0] == "spconv"
    assert choose_backend("torch", cuda)[0] == "torch" and choose_backend("spconv", cpu)[0] == "spconv"
    monkeypatch.setattr(backend, "spconv_problem", lambda: "spconv is not installed")
    chosen, reason = choose_backend("auto", cuda)
    assert chosen == "torch" and "not installed" in reason
    with pytest.raises(ValueError, match=r"not installed; pip install spconv-cu126") as raised:
        choose_backend("spconv", cpu)
    assert "\n" not in str(raised.value)
    with pytest.raises(ValueError, match="expected one of auto, torch, spconv, got 'minkowski'"):
        choose_backend("minkowski", cpu)


def test_auto_on_a_cpu_does_not_import_spconv(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its import takes four seconds of every run."""

    def asked() -> str:
        raise AssertionError("spconv was looked at")

    monkeypatch.setattr(backend, "spconv_problem", asked)
    assert choose_backend("auto", torch.device("cpu"))[0] == "torch"
