"""The LiDAR method as a whole: who may see what, the published loss, nearly empty scans, and the paper's switches."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, cast

import numpy as np
import pytest
import torch
from lidar_cases import (
    KITTI_CROP,
    PAPER_LIKE,
    RECIPES,
    Scan,
    batch_of,
    built,
    configured,
    gradients,
    scan_of_cells,
    simulated,
)
from torch import Tensor, nn
from torch.nn import functional as F

from jepa_core.contracts import Drawn, Grid, Mask, Tokens
from jepa_core.distributed import drawn_rows
from jepa_core.methods.masked import MaskedPrediction
from jepa_core.nn.norm import JointBatchNorm
from jepa_core.targets import EmaTarget
from jepa_core.train.optim import check_groups
from jepa_lidar.bev_encoder import BevEncoder
from jepa_lidar.encoder import SparseBackbone
from jepa_lidar.frontend import VoxelFrontEnd
from jepa_lidar.geometry import GRIDS, VoxelGrid
from jepa_lidar.masking import EMPTY, OCCUPIED, BevMasker
from jepa_lidar.voxels import Voxels, join_scans

SMALL = GRIDS["small"]
SEEDS = torch.tensor([11, 12])
LOW_M, HIGH_M = (2.0, -6.4, -3.0), (14.8, 6.4, 1.0)
CROPS = {
    "small_backbone_4x": VoxelGrid("crop", LOW_M, HIGH_M, (0.2, 0.2, 0.2), 4),
    "voxel_backbone_8x": VoxelGrid("crop", LOW_M, HIGH_M, (0.1, 0.1, 0.1), 8),
    "voxel_res_backbone_8x": VoxelGrid("crop", LOW_M, HIGH_M, (0.1, 0.1, 0.1), 8),
}
TOKENS = {"predictor.mask_token", "kind_token.token"}
CHANGES = ("removed", "moved", "added")


@pytest.fixture(autouse=True)
def kitti_is_a_crop(monkeypatch: pytest.MonkeyPatch) -> None:
    """KITTI's voxels over a small range: its whole map takes seconds a step."""
    monkeypatch.setitem(GRIDS, "kitti", KITTI_CROP)


def changed(scan: Scan, there_N: Tensor, grid: VoxelGrid, how: str) -> Scan:
    """The scan with other points in the cells of ``there_N``; all other points stay, in their order."""
    here = there_N[grid.cell_ids(scan)].numpy()
    assert here.any() and not here.all()
    if how == "removed":
        return cast(Scan, scan[~here])
    if how == "moved":
        wild = scan.copy()
        wild[here, 2] = np.clip(-1.5 - wild[here, 2], grid.low_m[2] + 0.01, grid.high_m[2] - 0.01)
        wild[here, 3] = 1 - wild[here, 3]
        return wild
    everywhere = scan_of_cells(grid.bev_lattice.count, grid)
    extra = everywhere[there_N[grid.cell_ids(everywhere)].numpy()]
    return np.concatenate([scan[:7], extra, scan[7:]])


class FixedMasker:
    """Draws one mask again and again, whatever the scans have become."""

    def __init__(self, mask: Mask) -> None:
        self.mask = mask

    def __call__(self, grid: Grid, seeds: Tensor, batch_seed: int) -> tuple[Mask, ...]:
        return (self.mask,)


class Seen:
    """What passes between the parts of a method in its last forward pass."""

    def __init__(self, method: MaskedPrediction) -> None:
        self.context: Tokens
        self.predicted: Tensor
        self.target: Tokens
        method.predictor.register_forward_hook(self._predictor)
        encode = method.target.encode
        cast(Any, method.target).encode = lambda inputs, keep: self._target(encode, inputs, keep)

    def _predictor(self, module: nn.Module, args: tuple[Any, ...], out: Tensor) -> None:
        self.context, self.predicted = args[0], out.detach().clone()

    def _target(self, encode: Callable[..., Tokens], inputs: Voxels, keep: Any) -> Tokens:
        self.target = encode(inputs, keep)
        return self.target


# --------------------------------------------------------------------------------------------------------------------
# Contracts
# --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("backbone", CROPS)
def test_points_outside_the_kept_cells_change_no_bit(backbone: str, training: bool) -> None:
    grid = CROPS[backbone]
    front_end = VoxelFrontEnd(grid, "mean", 5, 0)
    scans = [simulated(seed, grid, azimuths=360) for seed in (1, 2)]
    voxels, known = front_end(join_scans(scans), SEEDS)
    (mask,) = BevMasker(0.5, "scan")(known, SEEDS, 0)
    torch.manual_seed(0)
    encoder = BevEncoder(SparseBackbone(backbone, 4, grid.sparse_shape), grid).train(training)
    kept_BN = mask.context.valid_mask()
    expected, whole = encoder.with_layers(voxels, mask.context), encoder(voxels, None)
    for how in CHANGES:
        others = [changed(scan, ~kept_N, grid, how) for scan, kept_N in zip(scans, kept_BN, strict=True)]
        other_voxels, _ = front_end(join_scans(others), SEEDS)
        got = encoder.with_layers(other_voxels, mask.context)
        assert torch.equal(got.features[kept_BN], expected.features[kept_BN]), how
        assert torch.equal(got.layers["stages"][kept_BN], expected.layers["stages"][kept_BN]), how
        # Without the mask the same change does reach kept cells: the test is able to fail.
        assert not torch.equal(encoder(other_voxels, None).features[kept_BN], whole.features[kept_BN]), how
    assert expected.features[mask.context.kind_mask(OCCUPIED)].any(1).all()


@pytest.mark.parametrize("recipe", RECIPES)
def test_predictions_never_see_the_target(recipe: str) -> None:
    method = built(configured(recipe)).train()
    seen, grid = Seen(method), cast(VoxelFrontEnd, method.front_end).grid
    batch = batch_of([simulated(1, grid)])
    loss, expected = method(batch, 1).total, seen.predicted
    batch.target_inputs = join_scans([simulated(2, grid)])
    assert method(batch, 1).total != loss and torch.equal(seen.predicted, expected)
    batch.target_inputs = None
    if isinstance(method.target, EmaTarget):
        for parameter in method.target.encoder.parameters():
            parameter.mul_(1 + 0.5 * torch.randn_like(parameter))
        assert method(batch, 1).total != loss and torch.equal(seen.predicted, expected)


@pytest.mark.parametrize("buffers", ["own", "follow"])
@pytest.mark.parametrize("view", ["targets", "full"])
def test_a_target_of_hidden_cells_sees_nothing_else(view: str, buffers: str) -> None:
    method = built(configured("quickstart", f"lidar.target.view={view}", f"lidar.target.buffers={buffers}")).train()
    scans = [simulated(1), simulated(2)]
    _, (mask,) = method.masks(batch_of(scans))
    method.masker = FixedMasker(mask)
    seen, hidden_BN = Seen(method), mask.target_union.valid_mask()
    method(batch_of(scans), 1)
    expected = seen.target.features[hidden_BN]
    for how in CHANGES:
        others = [changed(scan, ~hidden_N, SMALL, how) for scan, hidden_N in zip(scans, hidden_BN, strict=True)]
        method(batch_of(others), 1)
        assert torch.equal(seen.target.features[hidden_BN], expected) is (view == "targets"), how


# --------------------------------------------------------------------------------------------------------------------
# The published loss
# --------------------------------------------------------------------------------------------------------------------


def published_loss(method: MaskedPrediction, seen: Seen, mask: Mask, beta: float) -> Tensor:
    """The equations, scan after scan and cell after cell, on what the parts exchanged."""
    assert method.kind_token is not None
    context, hidden = mask.context, mask.target_union
    predicted_BND, target_BND = seen.predicted[:, 0], seen.target.features
    width = target_BND.shape[-1]
    occupied = [(p, t) for p, t in _pairs(predicted_BND, target_BND, hidden.kind_mask(OCCUPIED))]
    empty = [(p, method.kind_token.token) for p, _ in _pairs(predicted_BND, target_BND, hidden.kind_mask(EMPTY))]
    jepa = 0.75 * _mean_distance(occupied) + 0.25 * _mean_distance(empty)

    def hinge(features_BND: Tensor, cells_BN: Tensor) -> Tensor:
        scans = [F.normalize(x[cells], dim=1) for x, cells in zip(features_BND, cells_BN, strict=True)]
        return torch.stack([(width**-0.5 - (z.var(0) + 1e-4).sqrt()).relu().mean() for z in scans]).mean()

    spread = hinge(seen.context.features, context.kind_mask(OCCUPIED)) + hinge(
        predicted_BND, hidden.kind_mask(OCCUPIED)
    )
    return jepa + beta * spread


def _pairs(a_BND: Tensor, b_BND: Tensor, cells_BN: Tensor) -> zip[tuple[Tensor, Tensor]]:
    return zip(a_BND[cells_BN], b_BND[cells_BN], strict=True)


def _mean_distance(pairs: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    return torch.stack([1 - F.cosine_similarity(p, t, dim=0) for p, t in pairs]).mean()


def test_the_loss_is_the_published_one() -> None:
    method = built(configured("quickstart", *PAPER_LIKE, "lidar.variance_weight=10")).train()
    batch = batch_of([simulated(1, azimuths=64), scan_of_cells(9)])
    seen = Seen(method)
    _, (mask,) = method.masks(batch)
    losses = method(batch, 1)
    torch.testing.assert_close(losses.total, published_loss(method, seen, mask, beta=10.0), atol=1e-5, rtol=1e-5)
    assert set(losses.terms) == {"energy/occupied", "energy/empty", "variance/context", "variance/prediction"}


# --------------------------------------------------------------------------------------------------------------------
# Nearly empty scans
# --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cells", [(0, 1, 2), (0, 0), (1,), (2, 400)], ids=str)
@pytest.mark.parametrize(
    "overrides", [[], PAPER_LIKE, [*PAPER_LIKE, "lidar.mask_scope=batch"]], ids=["", "paper", "batch"]
)
def test_nearly_empty_scans_on_the_small_grid(overrides: list[str], cells: tuple[int, ...]) -> None:
    check_finite("quickstart", overrides, cells)


@pytest.mark.parametrize("recipe", [recipe for recipe in RECIPES if recipe != "quickstart"])
@pytest.mark.parametrize("cells", [(0, 1, 2), (0,)], ids=str)
def test_nearly_empty_scans_in_every_recipe(recipe: str, cells: tuple[int, ...]) -> None:
    check_finite(recipe, [], cells)


def check_finite(recipe: str, overrides: list[str], cells: tuple[int, ...]) -> None:
    """One step in train mode, then features in eval mode."""
    method = built(configured(recipe, *overrides)).train()
    grid = cast(VoxelFrontEnd, method.front_end).grid
    batch = batch_of([scan_of_cells(count, grid, seed) for seed, count in enumerate(cells)])
    known, (mask,) = method.masks(batch)
    assert cast(Tensor, known.occupied).sum(1).tolist() == list(cells)
    losses = method(batch, 1)
    losses.total.backward()
    method.after_step(1)
    values = {"loss": losses.total, **losses.terms, **gradients(method)}
    values |= {name: drawn_rows(cast(Drawn, rows)) for name, rows in losses.monitor.items()}
    values |= {name: embedding.features for name, embedding in method.embed(batch).items()}
    values |= {name: buffer.float() for name, buffer in method.named_buffers()}
    bad = [name for name, value in values.items() if not value.isfinite().all()]
    assert not bad


# --------------------------------------------------------------------------------------------------------------------
# Switches
# --------------------------------------------------------------------------------------------------------------------


def test_mask_scope() -> None:
    batch = batch_of([scan_of_cells(90), scan_of_cells(31)])
    shares = {}
    for scope in ("scan", "batch"):
        _, (mask,) = built(configured("quickstart", f"lidar.mask_scope={scope}")).masks(batch)
        shares[scope] = mask.context.kind_mask(OCCUPIED).sum(1).tolist()
    assert shares["scan"] == [45, 15]
    assert sum(shares["batch"]) == 60 and shares["batch"] != [45, 15]


@pytest.mark.parametrize("buffers", ["own", "follow"])
def test_target_buffers(buffers: str) -> None:
    method = built(configured("quickstart", *PAPER_LIKE, f"lidar.target.buffers={buffers}")).train()
    target = cast(EmaTarget, method.target)
    assert target.encoder.training is (buffers == "own")
    start = copy.deepcopy(dict(target.encoder.named_buffers()))
    method(batch_of([simulated(1)]), 1)
    before = copy.deepcopy(dict(target.encoder.named_buffers()))
    method.after_step(1)
    online, after = dict(method.encoder.named_buffers()), dict(target.encoder.named_buffers())
    means = [name for name in after if name.endswith("running_mean")]
    assert means and all(not torch.equal(online[name], start[name]) for name in means)
    for name in means:
        if buffers == "own":  # statistics of the hidden half, and the update leaves them
            assert not torch.equal(before[name], start[name]) and not torch.equal(before[name], online[name])
            assert torch.equal(after[name], before[name])
        else:
            assert torch.equal(before[name], start[name])
            torch.testing.assert_close(after[name], torch.lerp(start[name], online[name], 1 - 0.996))


@pytest.mark.parametrize("last", ["bn_relu", "plain"])
def test_last_predictor_layer(last: str) -> None:
    method = built(configured("quickstart", f"lidar.predictor.last={last}")).train()
    seen = Seen(method)
    method(batch_of([simulated(1)]), 1)
    assert (seen.predicted.min() >= 0) == (last == "bn_relu")
    ends = [type(layer) for layer in cast(nn.Sequential, method.predictor.layers)][-2:]
    assert (ends == [JointBatchNorm, nn.ReLU]) == (last == "bn_relu")


@pytest.mark.parametrize("trained", [True, False])
def test_train_tokens(trained: bool) -> None:
    method = built(configured("quickstart", f"lidar.train_tokens={trained}")).train()
    start = {name: p.detach().clone() for name, p in method.named_parameters() if name in TOKENS}
    groups = method.parameter_groups()
    check_groups(method, groups)
    in_groups = {name: group.weight_decay for group in groups for name, _ in group.parameters if name in TOKENS}
    assert set(start) == TOKENS and in_groups == (dict.fromkeys(TOKENS, False) if trained else {})
    optimizer = torch.optim.SGD([p for group in groups for _, p in group.parameters], lr=1.0)
    method(batch_of([simulated(1)]), 1).total.backward()
    gradients(method)
    optimizer.step()
    for name, parameter in method.named_parameters():
        assert name not in TOKENS or torch.equal(parameter, start[name]) is not trained


def test_a_trained_empty_token_gets_no_gradient_through_the_target() -> None:
    """Only context cells teach it: with every empty cell hidden its gradient is zero."""
    method = built(configured("quickstart")).train()
    batch = batch_of([simulated(1)])
    _, (mask,) = method.masks(batch)
    occupied = mask.context.kind_mask(OCCUPIED)
    empty_hidden = ~occupied
    method.masker = FixedMasker(
        Mask(
            "bev",
            context=replace(mask.context, valid=occupied),
            targets=replace(mask.targets, valid=empty_hidden.unsqueeze(1)),
            target_union=replace(mask.target_union, valid=empty_hidden),
        )
    )
    method(batch, 1).total.backward()
    found = gradients(method)
    assert not found["kind_token.token"].any() and found["predictor.mask_token"].any()


def test_a_budget_of_voxels_holds_in_training_only() -> None:
    method = built(configured("ad_l_jepa", "lidar.max_voxels=50"))
    front_end = cast(VoxelFrontEnd, method.front_end)
    points = batch_of([simulated(1, front_end.grid)]).inputs
    assert len(method.train().front_end(points, SEEDS[:1])[0].features) == 50
    assert len(method.eval().front_end(points, SEEDS[:1])[0].features) > 50
