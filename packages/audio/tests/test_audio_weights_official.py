"""Released Audio-JEPA checkpoints: parity with the published forward pass, strictness, nothing is run.

The reference is a second implementation, straight on the checkpoint's own tensors.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from audio_weights_cases import built, clips, configured, equal_tensors
from torch import Tensor
from torch.nn import functional as F

from jepa_audio.frontend import SpectrogramFrontEnd
from jepa_audio.waveforms import Waveforms
from jepa_audio.weights import AudioModel, WeightsError
from jepa_audio.weights.official import COPIES, Hints
from jepa_core.contracts import Sites, Tokens
from jepa_core.weights import read_lightning

WIDTH, DEPTH, HEADS, INNER, INNER_HEADS = 192, 2, 3, 96, 12
GRIDS = {"audio_jepa": (16, 8), "audio_jepa_repo": (32, 6)}


def table(steps: int, bands: int, width: int) -> Tensor:
    """``[1, N, D]``: a quarter each of sine and cosine of the band, then of the step."""
    quarter = width // 4
    rates = [10000 ** (-i / quarter) for i in range(quarter)]
    rows = []
    for step in range(steps):
        for band in range(bands):
            angles = [[place * rate for rate in rates] for place in (band, step)]
            rows.append([f(x) for side in angles for f in (math.sin, math.cos) for x in side])
    return torch.tensor(rows, dtype=torch.float64).float()[None]


def random_state(grid: tuple[int, int], flash: bool, biases: bool, depth: int = DEPTH) -> dict[str, Tensor]:
    """A Lightning state dict with the released names and random values."""
    generator = torch.Generator().manual_seed(0)
    qkv, out = ("attn.Wqkv", "attn.out_proj") if flash else ("attn.qkv", "attn.proj")

    def values(*shape: int) -> Tensor:
        return 0.1 * torch.randn(*shape, generator=generator)

    def linear(name: str, inputs: int, outputs: int, bias: bool = True) -> dict[str, Tensor]:
        return {f"{name}.weight": values(outputs, inputs)} | ({f"{name}.bias": values(outputs)} if bias else {})

    def norm(name: str, width: int) -> dict[str, Tensor]:
        return {f"{name}.weight": 1 + values(width), f"{name}.bias": values(width)}

    def block(name: str, width: int, bias: bool) -> dict[str, Tensor]:
        return (
            norm(f"{name}.norm1", width)
            | linear(f"{name}.{qkv}", width, 3 * width, bias)
            | linear(f"{name}.{out}", width, width)
            | norm(f"{name}.norm2", width)
            | linear(f"{name}.mlp.fc1", width, 4 * width)
            | linear(f"{name}.mlp.fc2", 4 * width, width)
        )

    def encoder(name: str) -> dict[str, Tensor]:
        found = {f"{name}.pos_embed": table(*grid, WIDTH)} | norm(f"{name}.norm", WIDTH)
        found |= {f"{name}.patch_embed.proj.weight": values(WIDTH, 1, 16, 16)}
        found |= {f"{name}.patch_embed.proj.bias": values(WIDTH)}
        for number in range(depth):
            found |= block(f"{name}.blocks.{number}", WIDTH, biases)
        return found

    predictor = {"predictor.mask_token": values(1, 1, INNER)} | norm("predictor.predictor_norm", INNER)
    predictor |= {"predictor.predictor_pos_embed": table(*grid, INNER)}
    predictor |= linear("predictor.predictor_embed", WIDTH, INNER) | linear("predictor.predictor_proj", INNER, WIDTH)
    predictor |= block("predictor.predictor_blocks.0", INNER, True)
    return encoder("encoder") | encoder("target_encoder") | predictor


class Callback:
    """Stands for what the release has pickled beside its tensors."""

    def __init__(self) -> None:
        self.tau = 0.996


def released(path: Path, state: Mapping[str, Any]) -> Path:
    """A file as Lightning writes it."""
    settings = {"optimizer": functools.partial(torch.optim.AdamW, lr=3e-4), "ma_callback": Callback()}
    torch.save({"epoch": 3, "state_dict": dict(state), "hyper_parameters": settings, "loops": {}}, path)
    return path


# ---------------------------------------------------------------------------------------------------------- reference


def part(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}


def layer_norm(x: Tensor, state: Mapping[str, Tensor], name: str, eps: float) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    scaled = centred / (centred.square().mean(-1, keepdim=True) + eps).sqrt()
    return scaled * state[f"{name}.weight"] + state[f"{name}.bias"]


def reference_block(x: Tensor, state: Mapping[str, Tensor], heads: int, eps: float) -> Tensor:
    names = ("attn.Wqkv", "attn.out_proj") if "attn.Wqkv.weight" in state else ("attn.qkv", "attn.proj")
    qkv = F.linear(layer_norm(x, state, "norm1", eps), state[f"{names[0]}.weight"], state.get(f"{names[0]}.bias"))
    heard = []
    for q, k, v in zip(*(side.chunk(heads, -1) for side in qkv.chunk(3, -1)), strict=True):
        heard.append((q @ k.transpose(1, 2) / math.sqrt(q.shape[-1])).softmax(-1) @ v)
    x = x + F.linear(torch.cat(heard, -1), state[f"{names[1]}.weight"], state[f"{names[1]}.bias"])
    inside = F.linear(layer_norm(x, state, "norm2", eps), state["mlp.fc1.weight"], state["mlp.fc1.bias"])
    return x + F.linear(F.gelu(inside), state["mlp.fc2.weight"], state["mlp.fc2.bias"])


def reference_encoder(spectrogram: Tensor, state: Mapping[str, Tensor], eps: float, kept: Tensor | None) -> Tensor:
    """``[B, T, mels]`` to tokens ``[B, N, D]`` at ``kept``."""
    x = F.conv2d(spectrogram[:, None], state["patch_embed.proj.weight"], state["patch_embed.proj.bias"], stride=16)
    x = x.flatten(2).transpose(1, 2) + state["pos_embed"]
    x = x if kept is None else torch.stack([row[ids] for row, ids in zip(x, kept, strict=True)])
    for number in range(DEPTH):
        x = reference_block(x, part(state, f"blocks.{number}."), HEADS, eps)
    return layer_norm(x, state, "norm", eps)


def reference_predictor(
    context: Tensor, state: Mapping[str, Tensor], eps: float, kept: Tensor, hidden: Tensor
) -> Tensor:
    x = F.linear(context, state["predictor_embed.weight"], state["predictor_embed.bias"])
    places = state["predictor_pos_embed"][0]
    x = torch.cat([x + places[kept], state["mask_token"] + places[hidden]], 1)
    x = reference_block(x, part(state, "predictor_blocks.0."), INNER_HEADS, eps)
    x = layer_norm(x, state, "predictor_norm", eps)[:, kept.shape[1] :]
    return F.linear(x, state["predictor_proj.weight"], state["predictor_proj.bias"])


# -------------------------------------------------------------------------------------------------------------- tests


@pytest.mark.parametrize(
    ("name", "flash", "biases"),
    [("audio_jepa", True, False), ("audio_jepa", False, True), ("audio_jepa_repo", False, False)],
)
@torch.no_grad()
def test_the_published_forward_pass(name: str, flash: bool, biases: bool, tmp_path: Path) -> None:
    state = random_state(GRIDS[name], flash, biases)
    path = released(tmp_path / "JEPA.ckpt", state)
    eps = 1e-6 if biases else 1e-5
    sounds = torch.stack(clips(32_000, 10.0, 10.0))
    torch.manual_seed(0)
    order = torch.stack([torch.randperm(math.prod(GRIDS[name])) for _ in sounds])
    kept, hidden = order[:, :50], order[:, 50:]
    for which, prefix in COPIES.items():
        model = AudioModel.from_official(path, which)
        assert model.predictor is not None and model.facts.norm_eps == eps and model.sample_rate_hz == 32_000
        patches, grid = model.front_end(Waveforms(sounds), torch.zeros(2, dtype=torch.long))
        assert isinstance(model.front_end, SpectrogramFrontEnd)
        bank = model.front_end.bank
        frames = bank(Waveforms(sounds)).values
        lacking = GRIDS[name][0] * 16 - frames.shape[1]
        spectrogram = F.pad(frames, (0, 0, 0, lacking), value=bank.silence)
        whole = reference_encoder(spectrogram, part(state, prefix), eps, None)
        assert (model(Waveforms(sounds)).features - whole).abs().max() < 1e-5
        context = model.encoder(patches, Sites(kept))
        expected = reference_encoder(spectrogram, part(state, prefix), eps, kept)
        assert (context.features - expected).abs().max() < 1e-5
        predicted = model.predictor(Tokens(expected, Sites(kept), grid.lattice), Sites(hidden[:, None]))
        inner = reference_predictor(expected, part(state, "predictor."), eps, kept, hidden)
        assert (predicted[:, 0] - inner).abs().max() < 1e-5


def test_a_compiled_model_a_bare_state_dict_and_the_encoder_alone(tmp_path: Path) -> None:
    state = random_state((16, 8), True, False)
    model = AudioModel.from_official(released(tmp_path / "a.ckpt", state), "teacher")
    compiled = {key.replace("encoder.", "encoder._orig_mod.", 1): value for key, value in state.items()}
    assert equal_tensors(AudioModel.from_official(released(tmp_path / "b.ckpt", compiled), "teacher"), model)
    torch.save(state, tmp_path / "c.pt")
    assert equal_tensors(AudioModel.from_official(tmp_path / "c.pt", "teacher"), model)
    alone = {key: value for key, value in state.items() if not key.startswith("predictor.")}
    path = released(tmp_path / "d.ckpt", alone)
    assert equal_tensors(AudioModel.from_official(path, "teacher", parts="encoder").encoder, model.encoder)
    with pytest.raises(WeightsError, match=r"expected predictor\.\*"):
        AudioModel.from_official(path, "teacher")


def test_a_teacher_whose_fixed_table_was_averaged_is_read(tmp_path: Path) -> None:
    state = random_state((16, 8), True, False)
    state["target_encoder.pos_embed"] = state["target_encoder.pos_embed"] * (1 + 2e-5)
    AudioModel.from_official(released(tmp_path / "a.ckpt", state), "teacher")
    state["target_encoder.pos_embed"] = state["target_encoder.pos_embed"].flip(1)
    with pytest.raises(WeightsError, match="is it of another front end"):
        AudioModel.from_official(released(tmp_path / "b.ckpt", state), "teacher")


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("target_encoder.blocks.1.mlp.fc1.weight", "1 missing: blocks.1.mlp.fc1.weight"),
        ("target_encoder.norm.bias", "1 missing: norm.bias"),
        ("predictor.mask_token", "1 missing: mask_token"),
    ],
)
def test_a_missing_key_is_told_with_the_table(key: str, message: str, tmp_path: Path) -> None:
    state = random_state((16, 8), True, True)
    del state[key]
    with pytest.raises(WeightsError, match=message) as caught:
        AudioModel.from_official(released(tmp_path / "a.ckpt", state), "teacher")
    assert any(table.missing for table in caught.value.tables.values())


def test_what_is_left_over_or_wrong_is_told(tmp_path: Path) -> None:
    state = random_state((16, 8), True, True)
    for change, message in (
        ({"target_encoder.cls_token": torch.zeros(1)}, "1 unexpected: cls_token"),
        ({"target_encoder.norm.weight": torch.zeros(3)}, r"1 of wrong shape: norm.weight \(model \(192,"),
        ({"target_encoder.pos_embed": torch.zeros(1, 100, WIDTH)}, "say which front end, preset="),
        ({"target_encoder.blocks.0.attn.Wqkv.bias": None}, "1 missing: blocks.0.attn.Wqkv.bias"),
    ):
        changed = {key: value for key, value in {**state, **change}.items() if value is not None}
        with pytest.raises(WeightsError, match=message):
            AudioModel.from_official(released(tmp_path / "a.ckpt", changed), "teacher")
    with pytest.raises(WeightsError, match="is it of another front end|expected .* positions"):
        AudioModel.from_official(released(tmp_path / "a.ckpt", state), "teacher", hints=Hints(preset="audio_mae"))


class Attack:
    """Runs a command when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.target,)


def test_nothing_in_a_checkpoint_is_run(tmp_path: Path) -> None:
    torch.save({"state_dict": {"a": torch.ones(2)}, "hyper_parameters": Attack(tmp_path / "ran")}, tmp_path / "a.ckpt")
    try:
        assert list(read_lightning(tmp_path / "a.ckpt")) == ["a"]
    except ValueError as error:
        assert "refused" in str(error)
    assert not (tmp_path / "ran").exists()
    (tmp_path / "b.ckpt").write_bytes((tmp_path / "a.ckpt").read_bytes()[:300])
    with pytest.raises(ValueError, match="refused"):
        read_lightning(tmp_path / "b.ckpt")
    torch.save({"epoch": 1}, tmp_path / "c.ckpt")
    with pytest.raises(ValueError, match="expected state_dict in it"):
        read_lightning(tmp_path / "c.ckpt")


def test_training_goes_on_from_a_release(tmp_path: Path) -> None:
    path = released(tmp_path / "JEPA.ckpt", random_state((16, 8), True, False, depth=12))
    fits = (
        "audio.frontend.preset=audio_jepa",
        "audio.frontend.mean=null",
        "audio.frontend.std=null",
        "audio.encoder.stem=linear",
        "audio.encoder.positions=sin_cos_ft",
        "audio.encoder.norm_eps=1e-5",
        "audio.encoder.size=tiny",
        "audio.weights_parts=encoder",
        f"audio.weights={path}",
    )
    method = built(configured("quickstart", *fits))
    teacher = AudioModel.from_official(path, "teacher", parts="encoder")
    assert equal_tensors(method.encoder, teacher.encoder)
    assert method.encoder.transformer.norm.eps == 1e-5  # type: ignore[union-attr]
    with pytest.raises(WeightsError, match=r"audio.encoder.size \(width\): here 128, in the weights 192"):
        built(configured("quickstart", *fits, "audio.encoder.size=nano"))
    with pytest.raises(WeightsError, match="audio.encoder.norm_eps: here 1e-06, in the weights 1e-05"):
        built(configured("quickstart", *fits, "audio.encoder.norm_eps=1e-6"))
