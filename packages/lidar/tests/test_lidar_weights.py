"""OpenPCDet checkpoints: prefixes, layouts, refusals, round trip."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from jepa_lidar.encoder import SparseBackbone
from jepa_lidar.weights import export_openpcdet, load_matching_openpcdet, load_openpcdet

SHAPE = (41, 16, 16)


def backbone(seed: int, spec: str = "voxel_backbone_8x", channels: int = 4) -> SparseBackbone:
    torch.manual_seed(seed)
    return SparseBackbone(spec, channels, SHAPE)


def same(a: SparseBackbone, b: SparseBackbone) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def prefixed(model: SparseBackbone, prefix: str) -> dict[str, Tensor]:
    return {prefix + key: value for key, value in model.state_dict().items()}


@pytest.mark.parametrize("spec", ["voxel_backbone_8x", "voxel_res_backbone_8x", "small_backbone_4x"])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_round_trip(spec: str, suffix: str, tmp_path: Path) -> None:
    source, model = backbone(1, spec), backbone(2, spec)
    path = tmp_path / f"weights{suffix}"
    export_openpcdet(source, path)
    table = load_openpcdet(model, path)
    assert same(source, model) and table.complete and table.prefix == "backbone_3d."
    assert len(table.loaded) == len(model.state_dict()) and os.listdir(tmp_path) == [path.name]


@pytest.mark.parametrize("prefix", ["backbone_3d.", "backbone_3d.encoder.", "encoder.", ""])
def test_every_known_prefix_is_found_beside_other_parts(prefix: str) -> None:
    source, model = backbone(1), backbone(2)
    others = {"global_step": torch.zeros(1)} if prefix else {}
    if prefix == "backbone_3d.encoder.":
        others |= prefixed(backbone(3), "backbone_3d.target_encoder.")
    table = load_openpcdet(model, {"model_state": others | prefixed(source, prefix), "epoch": 3})
    assert same(source, model) and table.prefix == prefix and table.outside == list(others)


def test_spconv_1_layout_is_converted_and_reported() -> None:
    source, model = backbone(1), backbone(2)
    old = {k: v.permute(1, 2, 3, 4, 0).contiguous() if v.ndim == 5 else v for k, v in source.state_dict().items()}
    table = load_openpcdet(model, old)
    assert same(source, model) and len(table.converted) == 12
    assert "converted from spconv 1.x layout    12" in str(table)


def test_misfits_are_named_and_leave_the_model_alone() -> None:
    state = prefixed(backbone(1), "")
    state["conv1.0.0.weight"] = torch.zeros(16, 3, 3, 3, 5)
    state["conv9.0.weight"] = state.pop("conv2.0.0.weight")
    model, before = backbone(2), backbone(2)
    with pytest.raises(ValueError) as raised:
        load_openpcdet(model, state)
    message = str(raised.value)
    for part in ("1 missing: conv2.0.0.weight", "1 unexpected: conv9.0.weight", "1 of wrong shape: conv1.0.0.weight"):
        assert part in message
    assert "model (16, 3, 3, 3, 16), file (16, 3, 3, 3, 5)" in message and "\n" not in message
    assert same(model, before)
    table = load_matching_openpcdet(model, state)
    assert len(table.loaded) == 70 and not same(model, before)
    lines = str(table).splitlines()
    assert len(lines) == 6 and any("missing" in line and "conv2.0.0.weight" in line for line in lines)


def test_other_backbones_and_input_widths_are_refused() -> None:
    with pytest.raises(ValueError, match="conv_input.0.weight"):
        load_openpcdet(backbone(1), backbone(2, channels=5).state_dict())
    with pytest.raises(ValueError, match="missing: .*unexpected: "):
        load_openpcdet(backbone(1), backbone(2, "voxel_res_backbone_8x").state_dict())
    with pytest.raises(ValueError, match="no key fits"):
        load_matching_openpcdet(backbone(1), {"head.weight": torch.zeros(2)})


class Hostile:
    """Makes a file when unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("writer", ["torch", "pickle"])
def test_a_hostile_pickle_does_not_run(writer: str, tmp_path: Path) -> None:
    path, trace = tmp_path / "weights.pth", tmp_path / "ran"
    payload = {"model_state": Hostile(trace)}
    if writer == "torch":
        torch.save(payload, path)
    else:
        path.write_bytes(pickle.dumps(payload))
    with pytest.raises(ValueError, match="refused") as raised:
        load_openpcdet(backbone(1), path)
    assert not trace.exists() and "\n" not in str(raised.value)


def test_unreadable_files_are_refused_in_one_line(tmp_path: Path) -> None:
    model = backbone(1)
    (tmp_path / "a.pth").write_bytes(b"")
    (tmp_path / "a.safetensors").write_bytes(b"torn")
    (tmp_path / "a.ckpt").write_bytes(b"")
    torch.save([torch.zeros(1)], tmp_path / "list.pth")
    for name, what in [
        ("a.pth", "refused"),
        ("a.safetensors", "not a readable"),
        ("a.ckpt", "expected a .pth"),
        ("none.pth", "no such file"),
        ("list.pth", "expected a state dict, got list"),
    ]:
        with pytest.raises(ValueError, match=what) as raised:
            load_openpcdet(model, tmp_path / name)
        assert "\n" not in str(raised.value)
    with pytest.raises(ValueError, match="2 entries are no tensors"):
        load_openpcdet(model, {"epoch": 3, "version": "0.6"})
    with pytest.raises(ValueError, match="ending in .pth or .safetensors"):
        export_openpcdet(model, tmp_path / "a.bin")


def test_flat_safetensors_are_read(tmp_path: Path) -> None:
    source, model = backbone(1), backbone(2)
    save_file(source.state_dict(), tmp_path / "w.safetensors")
    load_openpcdet(model, tmp_path / "w.safetensors")
    assert same(source, model)
