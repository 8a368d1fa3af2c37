"""Batch-norm calibration, the control that never learns: a plain average over the scans, nothing else changed."""

from __future__ import annotations

from typing import cast

import torch
from lidar_cases import batch_of, built, configured, simulated

from jepa_core.contracts import Method
from jepa_core.methods.masked import MaskedPrediction
from jepa_lidar.probe import BATCH, ProbeScan, calibrate_batch_norm

CPU = torch.device("cpu")


def test_calibration_averages_batches_of_whole_scans_and_changes_only_statistics() -> None:
    method = built(configured("quickstart", "lidar.max_voxels=100")).train()  # a budget that must not hold here
    clouds = [simulated(seed, azimuths=48) for seed in range(BATCH + 1)]
    scans = [ProbeScan(torch.from_numpy(cloud), 0, torch.ones(4096, dtype=torch.bool), None) for cloud in clouds]
    before = {name: value.clone() for name, value in method.state_dict().items()}
    calibrated = cast(MaskedPrediction, calibrate_batch_norm(cast(Method, method), scans, CPU))
    assert all(torch.equal(value, before[name]) for name, value in method.state_dict().items())
    weights = dict(calibrated.named_parameters())
    assert all(torch.equal(weights[name], parameter) for name, parameter in method.named_parameters())
    # The first layer's statistics, worked out from its own inputs.
    seen: list[torch.Tensor] = []
    norm = calibrated.encoder.get_submodule("backbone.conv_input.1")
    norm.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    for group in (clouds[:BATCH], clouds[BATCH:]):
        calibrated.embed(batch_of(group))
    torch.testing.assert_close(norm.running_mean, torch.stack([x.mean(0) for x in seen]).mean(0))
    torch.testing.assert_close(norm.running_var, torch.stack([x.var(0) for x in seen]).mean(0))
    assert not any(module.training for module in calibrated.modules())
