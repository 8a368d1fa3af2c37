"""Batch normalisation (Ioffe and Szegedy, arXiv 1502.03167) whose statistics are those of the joined batch."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from jepa_core.distributed import sum_over_processes, world


class JointBatchNorm(_BatchNorm):
    """Batch norm over rows ``[V, C]``, sequences ``[B, C, L]``, maps ``[B, C, H, W]`` or volumes; channels are dim 1.

    In training the mean and variance are those of the rows of all processes, however many each holds (none included),
    and gradients flow through them. State-dict keys are those of ``nn.BatchNorm1d`` / ``nn.BatchNorm2d``, and with one
    process the result is theirs. Two cases in which a batch has no variance do not fail:

    - no row in total: the (empty) input passes through, running statistics stay;
    - one row in total: it is normalised by the running statistics, which stay.

    Statistics are float32 also for half-precision inputs (float64 for float64). All processes must call it together,
    and its input must require a gradient on all of them or on none.

    Args:
        channels: C.
        eps: added to the variance.
        momentum: weight of the new statistics in the running ones.
        affine: learn a weight and a bias for each channel.
        joint: False takes the statistics over this process alone.
    """

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def __init__(
        self, channels: int, eps: float = 1e-5, momentum: float = 0.1, affine: bool = True, joint: bool = True
    ) -> None:
        super().__init__(channels, eps=eps, momentum=momentum, affine=affine)
        self.joint = joint
        self.blend = momentum

    def _check_input_dim(self, input: Tensor) -> None:
        if input.ndim < 2 or input.shape[1] != self.num_features:
            raise ValueError(
                f"JointBatchNorm: expected [V, {self.num_features}] or [B, {self.num_features}, ...], "
                f"got {list(input.shape)}: channels must be dim 1"
            )

    def forward(self, input: Tensor) -> Tensor:
        """``[V, C]`` or ``[B, C, ...]`` to the same shape and dtype."""
        self._check_input_dim(input)
        if not self.training:
            return self._by_running_statistics(input)
        if self.joint and world() > 1:
            return self._by_joint_statistics(input)
        if input.numel() <= self.num_features:
            return self._by_running_statistics(input)
        self.num_batches_tracked.add_(1)
        return functional.batch_norm(
            input, self.running_mean, self.running_var, self.weight, self.bias, True, self.blend, self.eps
        )

    def extra_repr(self) -> str:
        """Arguments, for printing."""
        return f"{super().extra_repr()}, joint={self.joint}"

    def _by_running_statistics(self, x: Tensor) -> Tensor:
        if x.numel() == 0:
            return self._normalise(x, self.running_mean, self.running_var)
        return functional.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps
        )

    def _by_joint_statistics(self, x: Tensor) -> Tensor:
        over = [dim for dim in range(x.ndim) if dim != 1]
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        local = wide.new_full((1,), x.numel() // self.num_features)
        joined = sum_over_processes(torch.cat([wide.sum(over), local]))
        count = joined[-1].detach()
        mean_C = joined[:-1] / count.clamp(min=1)
        # A second pass around the joint mean: the difference of two large sums would lose the variance.
        squares_C = sum_over_processes((wide - _per_channel(mean_C, x)).square().sum(over))
        self._update_running(mean_C.detach(), squares_C.detach(), count)
        enough = count > 1
        mean_C = torch.where(enough, mean_C, self.running_mean.to(wide.dtype))
        variance_C = torch.where(enough, squares_C / count.clamp(min=1), self.running_var.to(wide.dtype))
        return self._normalise(x, mean_C, variance_C)

    @torch.no_grad()
    def _update_running(self, mean_C: Tensor, squares_C: Tensor, count: Tensor) -> None:
        enough = count > 1
        # A weight of zero leaves the statistics as they are, without asking the device how many rows there were.
        weight = self.blend * enough.to(self.running_mean.dtype)
        unbiased_C = squares_C / (count - 1).clamp(min=1)
        self.running_mean.lerp_(mean_C.to(self.running_mean.dtype), weight)
        self.running_var.lerp_(unbiased_C.to(self.running_var.dtype), weight)
        self.num_batches_tracked.add_(enough.long())

    def _normalise(self, x: Tensor, mean_C: Tensor, variance_C: Tensor) -> Tensor:
        scale_C = torch.rsqrt(variance_C + self.eps)
        if self.weight is not None:
            scale_C = scale_C * self.weight
        out = (x.to(torch.promote_types(x.dtype, torch.float32)) - _per_channel(mean_C, x)) * _per_channel(scale_C, x)
        if self.bias is not None:
            out = out + _per_channel(self.bias, x)
        return out.to(x.dtype)


def _per_channel(x_C: Tensor, like: Tensor) -> Tensor:
    return x_C.view(1, -1, *[1] * (like.ndim - 2))
