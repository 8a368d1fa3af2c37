"""Joint batch norm on one process is torch's; batches without variance do not fail. Several processes: see the
distributed tests."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from jepa_core.nn.norm import JointBatchNorm

SHAPES = {"rows": (37, 6), "maps": (3, 6, 5, 4), "volumes": (2, 6, 3, 2, 2)}
TORCH = {"rows": nn.BatchNorm1d, "maps": nn.BatchNorm2d, "volumes": nn.BatchNorm3d}


def data(kind: str) -> Tensor:
    # A mean far from 0 shows a variance computed from the difference of two sums.
    return torch.randn(SHAPES[kind], generator=torch.Generator().manual_seed(0)) * 2 + 50


@pytest.mark.parametrize("kind", SHAPES)
@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("path", ["forward", "joint"])
def test_equals_torch_on_one_process(kind: str, affine: bool, path: str) -> None:
    ours, theirs = JointBatchNorm(6, momentum=0.2, affine=affine), TORCH[kind](6, momentum=0.2, affine=affine)
    if affine:
        nn.init.normal_(ours.weight, generator=torch.Generator().manual_seed(1))
    theirs.load_state_dict(ours.state_dict())
    # The path over several processes, whose sums are then those of the one there is.
    run = ours if path == "forward" else ours._by_joint_statistics
    for _ in range(2):
        a, b = data(kind).requires_grad_(), data(kind).requires_grad_()
        out, expected = run(a), theirs(b)
        weights = torch.linspace(-1, 1, out.numel()).view_as(out)
        (out * weights).sum().backward()
        (expected * weights).sum().backward()
        torch.testing.assert_close(out, expected, atol=5e-6, rtol=1e-5)
        torch.testing.assert_close(a.grad, b.grad, atol=1e-5, rtol=1e-4)
    for name, value in theirs.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name], value, atol=1e-6, rtol=1e-6)
    for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(ours.eval()(data(kind)), theirs.eval()(data(kind)), atol=1e-6, rtol=1e-6)


def test_state_dicts_are_interchangeable() -> None:
    assert JointBatchNorm(4).state_dict().keys() == nn.BatchNorm2d(4).state_dict().keys()
    nn.BatchNorm1d(4).load_state_dict(JointBatchNorm(4).state_dict())


@pytest.mark.parametrize("path", ["forward", "joint"])
@pytest.mark.parametrize("shape", [(0, 4), (0, 4, 3, 3), (1, 4), (1, 4, 1, 1)])
def test_no_row_and_one_row_leave_the_statistics_alone(shape: tuple[int, ...], path: str) -> None:
    norm = JointBatchNorm(4)
    norm(data("rows")[:, :4])
    before = copy.deepcopy(norm.state_dict())
    x = torch.full(shape, 3.0, requires_grad=True)
    out = norm(x) if path == "forward" else norm._by_joint_statistics(x)
    out.sum().backward()
    assert out.shape == shape and out.isfinite().all()
    for name, value in before.items():
        assert torch.equal(norm.state_dict()[name], value), name
    torch.testing.assert_close(out, norm.eval()(x))
    for parameter in norm.parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all()


@pytest.mark.parametrize("path", ["forward", "joint"])
def test_half_precision_keeps_its_dtype_and_float32_statistics(path: str) -> None:
    norm, reference = JointBatchNorm(6), nn.BatchNorm1d(6)
    x = torch.randn(500, 6, generator=torch.Generator().manual_seed(2)).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = norm(x) if path == "forward" else norm._by_joint_statistics(x)
    expected = reference(x.float())
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.float(), expected, atol=0.02, rtol=0.01)
    torch.testing.assert_close(norm.running_var, reference.running_var, atol=1e-6, rtol=1e-6)


def test_channels_must_be_dim_1() -> None:
    with pytest.raises(ValueError, match=r"expected \[V, 4\]"):
        JointBatchNorm(4)(torch.zeros(3, 5))
