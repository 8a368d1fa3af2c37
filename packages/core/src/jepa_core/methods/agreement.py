"""Agreement of several views of a sample, kept from collapse by SIGReg (LeJEPA, arXiv 2511.08544, algorithm 2)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from jepa_core.anticollapse import SIGReg
from jepa_core.contracts import Tokens
from jepa_core.distributed import sum_over_processes
from jepa_core.nn.norm import JointBatchNorm
from jepa_core.nn.transformer import init_linear


class ViewAgreement(nn.Module):
    """The mean context feature of each view, projected, shall equal that of the sample's other views.

    The loss is ``(1 - share) * invariance + share * sigreg``: the mean squared distance of a view's projection from the
    mean over the sample's views, and the distance of each view's projections from a normal distribution.

    Args:
        width: D of the tokens.
        views: V.
        hidden: width inside the projector.
        output: width of the projection.
        weight: of both terms in the total loss.
        share: of SIGReg; its size grows with the samples of the joined batch.
        slices: random directions of SIGReg, drawn anew each step.
    """

    def __init__(
        self,
        width: int,
        views: int = 2,
        hidden: int = 512,
        output: int = 64,
        weight: float = 1.0,
        share: float = 0.05,
        slices: int = 256,
    ) -> None:
        super().__init__()
        if views < 2:
            raise ValueError(f"ViewAgreement: expected at least 2 views, got {views}")
        if not 0 <= share <= 1:
            raise ValueError(f"ViewAgreement: share must lie in 0..1, got {share}")
        self.views, self.weight, self.share = views, weight, share
        self.regulariser = SIGReg(slices)
        self.projector = nn.Sequential(
            nn.Linear(width, hidden), JointBatchNorm(hidden), nn.GELU(), nn.Linear(hidden, output)
        )
        self.projector.apply(init_linear)

    def forward(self, context: Tokens, step: int) -> dict[str, Tensor]:
        """Weighted terms ``agreement`` and ``agreement_sigreg`` of tokens ``[V * B, N, D]``, at least float32."""
        valid_RN1 = context.sites.valid_mask().unsqueeze(-1)
        total_RD = torch.where(valid_RN1, _wide(context.features), 0.0).sum(1)
        mean_RD = total_RD / valid_RN1.sum(1).clamp(min=1)
        z_VBE = _wide(self.projector(mean_RD)).unflatten(0, (self.views, -1))
        gap = (z_VBE - z_VBE.mean(0)).square().mean(-1)
        pair = sum_over_processes(torch.stack([gap.sum(), gap.new_full((), gap.numel())]))
        spread = self.regulariser(z_VBE, None, step)["sigreg"]
        return {
            "agreement": self.weight * (1 - self.share) * pair[0] / pair[1].detach(),
            "agreement_sigreg": self.weight * self.share * spread,
        }


def _wide(x: Tensor) -> Tensor:
    """At least float32: distances of half-precision features lose their small differences."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
