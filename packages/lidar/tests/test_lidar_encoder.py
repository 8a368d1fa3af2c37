"""The sparse backbones: names, shapes, coverage of occupied cells, degenerate batches, readout."""

from __future__ import annotations

import functools

import pytest
import torch
from torch import nn

from jepa_lidar.encoder import SPECS, SparseBackbone, stage_features
from jepa_lidar.sparse import SparseTensor
from jepa_lidar.sparse.backend import spconv_problem

SMALL = (21, 16, 24)


def random_voxels(shape: tuple[int, int, int], scans: tuple[int, ...], seed: int = 0) -> SparseTensor:
    """Scans with about the given numbers of voxels in the lower ``shape[0] - 1`` layers."""
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for scan, count in enumerate(scans):
        limits = (shape[0] - 1, shape[1], shape[2])
        zyx = [torch.randint(0, limit, (count,), generator=generator) for limit in limits]
        rows.append(torch.stack([torch.full((count,), scan), *zyx], dim=1))
    sites = torch.cat(rows).unique(dim=0)
    return SparseTensor(torch.randn(len(sites), 4, generator=generator), sites, shape, len(scans))


@pytest.mark.parametrize(
    ("spec", "shape", "depths", "bev", "channels"),
    [
        ("voxel_backbone_8x", (41, 1600, 1408), (41, 21, 11, 5, 2), (200, 176), 256),
        ("voxel_res_backbone_8x", (41, 1504, 1504), (41, 21, 11, 5, 2), (188, 188), 256),
        ("small_backbone_4x", (21, 256, 256), (21, 11, 6, 2), (64, 64), 128),
    ],
)
def test_published_shapes(
    spec: str, shape: tuple[int, int, int], depths: tuple[int, ...], bev: tuple[int, int], channels: int
) -> None:
    model = SparseBackbone(spec, 4, shape)
    assert (model.depths, model.bev_shape, model.bev_channels) == (depths, bev, channels)
    out = model(random_voxels(shape, (30, 20))).bev
    assert out.shape == (2, channels, *bev)


def test_keys_are_those_of_openpcdet() -> None:
    plain = SparseBackbone("voxel_backbone_8x", 4, (41, 16, 16))
    state = plain.state_dict()
    convs = {key: tuple(value.shape) for key, value in state.items() if value.ndim == 5}
    assert convs == {
        "conv_input.0.weight": (16, 3, 3, 3, 4),
        "conv1.0.0.weight": (16, 3, 3, 3, 16),
        "conv2.0.0.weight": (32, 3, 3, 3, 16),
        "conv2.1.0.weight": (32, 3, 3, 3, 32),
        "conv2.2.0.weight": (32, 3, 3, 3, 32),
        "conv3.0.0.weight": (64, 3, 3, 3, 32),
        "conv3.1.0.weight": (64, 3, 3, 3, 64),
        "conv3.2.0.weight": (64, 3, 3, 3, 64),
        "conv4.0.0.weight": (64, 3, 3, 3, 64),
        "conv4.1.0.weight": (64, 3, 3, 3, 64),
        "conv4.2.0.weight": (64, 3, 3, 3, 64),
        "conv_out.0.weight": (128, 3, 1, 1, 64),
    }
    norm = {"weight", "bias", "running_mean", "running_var", "num_batches_tracked"}
    assert {key.rpartition(".")[2] for key in state if key.startswith("conv4.2.1.")} == norm
    # Twelve layers of one weight and five norm entries; with the detector's global_step 73.
    assert len(state) == 72
    residual = SparseBackbone("voxel_res_backbone_8x", 4, (41, 16, 16)).state_dict()
    block = {key[len("conv4.1.") :] for key in residual if key.startswith("conv4.1.") and ".running" not in key}
    parts = {f"conv{i}.{p}" for i in (1, 2) for p in ("weight", "bias")}
    assert block == parts | {f"bn{i}.{p}" for i in (1, 2) for p in ("weight", "bias", "num_batches_tracked")}
    assert residual["conv4.0.0.weight"].shape == (128, 3, 3, 3, 64) and "conv1.1.conv2.bias" in residual


@pytest.mark.parametrize("spec", SPECS)
def test_an_occupied_cell_is_always_active(spec: str) -> None:
    """Kernel 3, stride 2, padding 1 always takes input i to output i // 2, at every height and edge."""
    shape = (41 if "8x" in spec else 21, 32, 40)
    x = random_voxels(shape, (150, 0, 1), seed=3)
    model = SparseBackbone(spec, 4, shape)
    stride = model.spec.stride
    scan, _, y, column = x.coordinates.unbind(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 5:
                parameter.fill_(0.01)
        bev = model.eval()(x.with_features(torch.ones_like(x.features))).bev
    assert bool((bev[scan, :, y // stride, column // stride].amax(1) > 0).all())
    assert not bev[1].any()


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("scans", [(0, 0), (1, 0), (40, 0)], ids=str)
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_degenerate_batches_stay_finite(spec: str, scans: tuple[int, int], training: bool) -> None:
    shape = (41, 16, 24)
    model = SparseBackbone(spec, 4, shape).train(training)
    output = model(random_voxels(shape, scans))
    features = stage_features(output, model.bev_shape)
    assert bool(features.isfinite().all()) and features.shape[:1] == (2,) and not features[1].any()
    features.square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and bool(parameter.grad.isfinite().all()), name
    assert all(bool(buffer.isfinite().all()) for buffer in model.buffers())


def test_channels_fold_depth_last() -> None:
    model = SparseBackbone("small_backbone_4x", 4, SMALL)
    x = random_voxels(SMALL, (60, 60))
    last: list[SparseTensor] = []
    model.conv_out.register_forward_hook(lambda module, args, out: last.append(out))
    bev = model(x).bev
    row = int(last[0].features.sum(1).argmax())
    scan, z, y, column = last[0].coordinates[row].tolist()
    channels = torch.arange(64) * 2 + z
    assert torch.equal(bev[scan, channels, y, column], last[0].features[row])


def test_stage_readout_is_the_maximum_over_each_column() -> None:
    model = SparseBackbone("small_backbone_4x", 4, SMALL)
    output = model(random_voxels(SMALL, (80, 30)))
    features = stage_features(output, model.bev_shape)
    assert features.shape == (2, 240, 4, 6)
    assert torch.equal(features[:, :128], output.bev)
    first = 128
    for name, cell in (("conv1", 4), ("conv2", 2), ("conv3", 1)):
        dense = output.stages[name].dense()
        expected = dense.amax(2).unfold(2, cell, cell).unfold(3, cell, cell).amax((-1, -2))
        assert torch.equal(features[:, first : first + dense.shape[1]], expected)
        first += dense.shape[1]
    with pytest.raises(ValueError, match="cells of the map"):
        stage_features(output, (8, 6))


def test_scans_do_not_mix() -> None:
    model = SparseBackbone("small_backbone_4x", 4, SMALL).eval()
    x = random_voxels(SMALL, (50, 50))
    second = x.coordinates[:, 0] == 1
    alone = SparseTensor(x.features[second], x.coordinates[second] - torch.tensor([1, 0, 0, 0]), SMALL, 1)
    torch.testing.assert_close(model(x).bev[1], model(alone).bev[0], atol=1e-6, rtol=1e-5)


def test_two_encoders_share_the_maps_of_the_same_voxels() -> None:
    x = random_voxels(SMALL, (50, 50))
    online, target = (SparseBackbone("small_backbone_4x", 4, SMALL) for _ in range(2))
    online(x)
    built = dict(x.maps)
    target(x)
    assert x.maps == built and len(built) == 6


def test_norm_can_be_replaced() -> None:
    norm = functools.partial(nn.LayerNorm, eps=1e-4)
    model = SparseBackbone("voxel_res_backbone_8x", 4, (41, 16, 16), norm=norm)
    assert isinstance(model.conv_input[1], nn.LayerNorm)
    assert bool(model(random_voxels((41, 16, 16), (20,))).bev.isfinite().all())


@pytest.mark.skipif(spconv_problem() is not None, reason=str(spconv_problem()))
@pytest.mark.parametrize("spec", SPECS)
def test_backends_give_the_same_maps_and_gradients(spec: str) -> None:
    shape = (41, 16, 24)
    results = []
    for backend in ("torch", "spconv"):
        torch.manual_seed(0)
        model = SparseBackbone(spec, 4, shape, backend)
        bev = model(random_voxels(shape, (200, 0, 90))).bev
        bev.sum().backward()
        results.append((bev.detach(), model.conv_input[0].weight.grad))
    torch.testing.assert_close(results[0][0], results[1][0], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(results[0][1], results[1][1], atol=1e-3, rtol=1e-3)


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="expected one of voxel_backbone_8x.*got 'second'"):
        SparseBackbone("second", 4, SMALL)
    with pytest.raises(ValueError, match="multiples of 8"):
        SparseBackbone("voxel_backbone_8x", 4, (41, 20, 24))
    with pytest.raises(ValueError, match="too small"):
        SparseBackbone("voxel_backbone_8x", 4, (5, 16, 16)).bev_channels  # noqa: B018  # a property that computes
    with pytest.raises(ValueError, match="expected voxels on a grid"):
        SparseBackbone("small_backbone_4x", 4, SMALL)(random_voxels((21, 16, 16), (5,)))
