"""Sparse convolutions against dense ones, backend against backend, forward and both gradients."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from jepa_lidar.sparse import SparseConv3d, SparseTensor, SubmanifoldConv3d, torch_backend
from jepa_lidar.sparse import maps as maps_module
from jepa_lidar.sparse.backend import spconv_problem

BATCH, SHAPE, WIDTH = 3, (5, 8, 6), 4
needs_spconv = pytest.mark.skipif(spconv_problem() is not None, reason=str(spconv_problem()))
BACKENDS = ["torch", pytest.param("spconv", marks=needs_spconv)]
# Share of sites occupied; scan 1 of the batch is always empty.
DENSITIES = [0.0, 0.004, 0.1, 0.5, 1.0]
Size = int | tuple[int, int, int]
SUBMANIFOLD_KERNELS: list[Size] = [1, 3, (3, 1, 1), (1, 3, 5)]
STRIDED: list[tuple[Size, Size, Size]] = [
    (3, 2, 1),
    (3, 2, (0, 1, 1)),
    ((3, 1, 1), (2, 1, 1), 0),
    (2, 2, 0),
    ((3, 2, 4), (1, 3, 2), (2, 0, 1)),
    (1, 2, 0),
]


def random_input(density: float, seed: int = 0, dtype: torch.dtype = torch.float32) -> SparseTensor:
    generator = torch.Generator().manual_seed(seed)
    occupied = torch.rand(BATCH, *SHAPE, generator=generator) < density
    occupied[1] = False
    sites = occupied.nonzero()
    features = torch.randn(len(sites), WIDTH, generator=generator, dtype=dtype)
    return SparseTensor(features, sites, SHAPE, BATCH)


def dense_conv(layer: SubmanifoldConv3d | SparseConv3d, x: SparseTensor) -> Tensor:
    geometry = layer.geometry
    weight = layer.weight.permute(0, 4, 1, 2, 3)
    out = functional.conv3d(x.dense(), weight, None, geometry.stride, geometry.padding)
    if geometry.submanifold:
        out = out * x.with_features(torch.ones_like(x.features[:, :1])).dense()
    return out


Run = Callable[[SubmanifoldConv3d | SparseConv3d, SparseTensor], Tensor]


def result_and_gradients(layer: SubmanifoldConv3d | SparseConv3d, x: SparseTensor, run: Run) -> list[Tensor]:
    features = x.features.clone().requires_grad_()
    out = run(layer, x.with_features(features))
    cotangent = torch.randn(out.shape, generator=torch.Generator().manual_seed(9), dtype=out.dtype)
    to_features, to_weight = torch.autograd.grad(out, [features, layer.weight], cotangent)
    return [out.detach(), to_features, to_weight]


def check(layer: SubmanifoldConv3d | SparseConv3d, x: SparseTensor) -> None:
    got = result_and_gradients(layer, x, lambda m, t: m(t).dense())
    for mine, reference in zip(got, result_and_gradients(layer, x, dense_conv), strict=True):
        torch.testing.assert_close(mine, reference, atol=1e-5, rtol=1e-5)


@pytest.fixture(params=["pairs", "table"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways of the torch backend, each cut into many parts."""
    monkeypatch.setattr(maps_module, "PAIRS_PER_CHUNK", 50)
    monkeypatch.setattr(torch_backend, "TABLE_ELEMENTS", 1000)
    if request.param == "table":
        monkeypatch.setattr(torch_backend, "_forward_pairs", torch_backend._forward_table)
        monkeypatch.setattr(torch_backend, "_backward_pairs", torch_backend._backward_table)


@pytest.mark.parametrize("density", DENSITIES)
@pytest.mark.parametrize("kernel", SUBMANIFOLD_KERNELS, ids=str)
def test_submanifold_is_dense_conv_at_active_sites(kernel: Size, density: float, way: None) -> None:
    torch.manual_seed(0)
    check(SubmanifoldConv3d(WIDTH, 6, kernel, "k"), random_input(density))


@pytest.mark.parametrize("density", DENSITIES)
@pytest.mark.parametrize("geometry", STRIDED, ids=str)
def test_strided_is_dense_conv(geometry: tuple[Size, Size, Size], density: float, way: None) -> None:
    torch.manual_seed(0)
    check(SparseConv3d(WIDTH, 6, *geometry, "k"), random_input(density))


@needs_spconv
@pytest.mark.parametrize("density", DENSITIES)
def test_spconv_is_dense_conv(density: float) -> None:
    torch.manual_seed(0)
    x = random_input(density)
    for kernel in SUBMANIFOLD_KERNELS:
        check(SubmanifoldConv3d(WIDTH, 6, kernel, "k", backend="spconv"), x.with_features(x.features))
        x = random_input(density)
    for kernel, stride, padding in STRIDED:
        check(SparseConv3d(WIDTH, 6, kernel, stride, padding, "k", backend="spconv"), random_input(density))


@needs_spconv
@pytest.mark.parametrize("density", DENSITIES)
def test_backends_agree_row_by_row(density: float) -> None:
    torch.manual_seed(0)
    mine = [SparseConv3d(WIDTH, 6, 3, 2, 1, "down", bias=True), SubmanifoldConv3d(6, 6, 3, "subm", bias=True)]
    other = [
        SparseConv3d(WIDTH, 6, 3, 2, 1, "down", bias=True, backend="spconv"),
        SubmanifoldConv3d(6, 6, 3, "subm", bias=True, backend="spconv"),
    ]
    results = []
    for layers in (mine, other):
        for layer, source in zip(layers, mine, strict=True):
            layer.load_state_dict(source.state_dict())
        x = random_input(density)
        features = x.features.requires_grad_()
        y = x
        for _ in range(2):  # the second round uses the shared maps
            y = layers[1](layers[1](layers[0](x)))
        y.features.square().sum().backward()
        results.append(
            [y.coordinates, y.features.detach(), features.grad, *(p.grad for m in layers for p in [m.weight])]
        )
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    "layer", [SubmanifoldConv3d(2, 3, 3, "k"), SparseConv3d(2, 3, 3, 2, 1, "k")], ids=["subm", "str"]
)
def test_gradients_by_finite_differences(layer: SubmanifoldConv3d | SparseConv3d, way: None) -> None:
    layer = layer.double()
    x = random_input(0.08, dtype=torch.float64)

    def run(features: Tensor, weight: Tensor) -> Tensor:
        tensor = SparseTensor(features, x.coordinates, SHAPE, BATCH)
        return torch.func.functional_call(layer, {"weight": weight}, (tensor,)).features

    features = x.features[:, :2].clone().requires_grad_()
    assert torch.autograd.gradcheck(run, (features, layer.weight))


@pytest.mark.parametrize("backend", BACKENDS)
def test_autocast_changes_the_type_as_asked(backend: str) -> None:
    torch.manual_seed(0)
    layer, x = SubmanifoldConv3d(WIDTH, 6, 3, "k", bias=True, backend=backend), random_input(0.3)
    reference = layer(x).features
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = layer(x).features
    out.float().sum().backward()
    # spconv has no bfloat16 kernel, so it stays in float32.
    assert out.dtype == (torch.bfloat16 if backend == "torch" else torch.float32)
    assert layer.weight.grad is not None and layer.weight.grad.dtype == torch.float32
    torch.testing.assert_close(out.float(), reference, atol=0.05, rtol=0.05)


def test_same_bits_each_time() -> None:
    torch.manual_seed(0)
    layer = SparseConv3d(WIDTH, 6, 3, 2, 1, "k")
    runs = [result_and_gradients(layer, random_input(0.5), lambda m, t: m(t).features) for _ in range(2)]
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))


def test_frozen_weight_and_frozen_input_get_no_gradient() -> None:
    layer, x = SubmanifoldConv3d(WIDTH, 6, 3, "k"), random_input(0.3)
    layer(x).features.sum().backward()
    assert x.features.grad is None and layer.weight.grad is not None
    layer.requires_grad_(False)
    features = x.features.clone().requires_grad_()
    layer(x.with_features(features)).features.sum().backward()
    assert features.grad is not None


@pytest.mark.parametrize("backend", BACKENDS)
def test_zero_voxels_keep_the_graph(backend: str) -> None:
    layer = SparseConv3d(WIDTH, 6, 3, 2, 1, "k", bias=True, backend=backend)
    out = layer(random_input(0.0))
    assert out.shape == (3, 4, 3) and out.features.shape == (0, 6) and out.features.requires_grad
    out.features.sum().backward()
    assert layer.weight.grad is not None and not layer.weight.grad.any()


@pytest.mark.parametrize("backend", BACKENDS)
def test_layers_and_encoders_share_maps(backend: str) -> None:
    x = random_input(0.3)
    first, second = (SparseConv3d(WIDTH, 6, 3, 2, 1, "down", backend=backend) for _ in range(2))
    a, b = first(x), second(x.with_features(x.features * 2))
    assert a.maps is b.maps is x.maps and a.coordinates is b.coordinates
    subm = SubmanifoldConv3d(6, 6, 3, "subm", backend=backend)
    subm(a)
    subm(b)
    assert sorted(x.maps) == [f"{backend}:down", f"{backend}:subm"]


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_key_serves_one_geometry_and_one_set_of_sites(backend: str) -> None:
    x = random_input(0.3)
    down = SparseConv3d(WIDTH, WIDTH, 3, 2, 1, "down", backend=backend)(x)
    with pytest.raises(ValueError, match="was built for Geometry.*another key"):
        SparseConv3d(WIDTH, 6, 3, 2, 0, "down", backend=backend)(x)
    with pytest.raises(ValueError, match="other sites"):
        SparseConv3d(WIDTH, 6, 3, 2, 1, "down", backend=backend)(down)


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="odd"):
        SubmanifoldConv3d(2, 2, (2, 3, 3), "k")
    with pytest.raises(ValueError, match="padding not negative"):
        SparseConv3d(2, 2, 3, 2, -1, "k")
    with pytest.raises(ValueError, match="expected torch or spconv, got 'auto'"):
        SubmanifoldConv3d(2, 2, 3, "k", backend="auto")
    with pytest.raises(ValueError, match=f"expected 2 channels, got {WIDTH}"):
        SubmanifoldConv3d(2, 2, 3, "k")(random_input(0.1))
    with pytest.raises(ValueError, match="too small"):
        SparseConv3d(WIDTH, 2, 7, 1, 0, "k")(random_input(0.1))
