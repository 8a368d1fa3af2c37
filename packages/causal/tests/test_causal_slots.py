"""Slot attention, its recurrence over frames, and the autoencoder of pixels: identities, training, files."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from jepa_causal.episodes import Episode, Floats
from jepa_causal.slots.attention import SlotAttention, normal, weighted_mean
from jepa_causal.slots.pixels import SlotAutoencoder, SlotSettings, bounded
from jepa_causal.slots.storage import cached_slots, encode_episodes, load_encoder, save_encoder, weights_hash
from jepa_causal.slots.training import SlotTraining, draw_clips, train_slots, video_training
from jepa_causal.slots.video import ResidualMlp, SlotVideo, transition
from jepa_core.errors import DataError, DivergenceError

SMALL = SlotSettings(resolution=8, slots=3, width=16, hidden=16, channels=8, frequencies=2, decoder=16)


def films(count: int, steps: int = 5, size: int = 8) -> list[Episode]:
    """One red and one blue square that walk over black."""
    out = []
    for seed in range(count):
        numbers = np.random.default_rng(seed)
        frames = np.zeros((steps, size, size, 3), np.uint8)
        for channel in (0, 2):
            row, column = numbers.integers(0, size - 2, 2)
            for step in range(steps):
                shifted = (column + step) % (size - 1)
                frames[step, row : row + 2, shifted : shifted + 2, channel] = 255
        out.append(Episode(f"film {seed}", frames=frames))
    return out


def frames_of(episodes: list[Episode]) -> Tensor:
    return torch.from_numpy(np.stack([e.frames for e in episodes if e.frames is not None]))


def slots_of(episode: Episode) -> Floats:
    assert episode.slots is not None
    return episode.slots


def module(start: str = "learned", **changes: int) -> SlotAttention:
    torch.manual_seed(0)
    sizes = {"inputs": 6, "slots": 4, "width": 8, "hidden": 12, "iterations": 3} | changes
    return SlotAttention(**sizes, start=start).double()  # type: ignore[arg-type]


def inputs(batch: int = 2, places: int = 5) -> Tensor:
    return torch.randn(batch, places, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


# --------------------------------------------------------------------------------------------------------------------
# Slot attention
# --------------------------------------------------------------------------------------------------------------------


def plain_slot_attention(model: SlotAttention, x_PI: Tensor, slots_KD: Tensor) -> tuple[Tensor, Tensor]:
    """The published algorithm, one number after the other; float64."""
    x_PI = nn.functional.layer_norm(x_PI, x_PI.shape[-1:], model.norm_inputs.weight, model.norm_inputs.bias)
    attention = torch.zeros(len(slots_KD), len(x_PI), dtype=torch.float64)
    for _ in range(model.iterations):
        normed = model.norm_slots(slots_KD)
        for p, x in enumerate(x_PI):
            scores = [float((model.query.weight @ s) @ (model.key.weight @ x)) / model.width**0.5 for s in normed]
            whole = sum(np.exp(s) for s in scores)
            for k, score in enumerate(scores):
                attention[k, p] = np.exp(score) / whole
        new = []
        for k, slot in enumerate(slots_KD):
            weights = (attention[k] + 1e-8) / (attention[k] + 1e-8).sum()
            found = sum(w * (model.value.weight @ x) for w, x in zip(weights, x_PI, strict=True))
            state = model.update(found[None], slot[None])[0]
            new.append(state + model.mlp(model.norm_mlp(state)))
        slots_KD = torch.stack(new)
    return slots_KD, attention


@torch.no_grad()
def test_slot_attention_equals_a_plain_loop() -> None:
    model, x = module(), inputs()
    start = model.initial(2, torch.tensor([3, 4]))
    slots, attention = model(x, start)
    for row in range(2):
        wanted, weights = plain_slot_attention(model, x[row], start[row])
        torch.testing.assert_close(slots[row], wanted, atol=1e-10, rtol=0)
        torch.testing.assert_close(attention[row], weights, atol=1e-10, rtol=0)
    torch.testing.assert_close(attention.sum(1), torch.ones(2, 5, dtype=torch.float64))


@torch.no_grad()
def test_slots_can_be_reordered_and_so_can_inputs() -> None:
    model, x = module("gaussian"), inputs()
    start = model.initial(2, torch.tensor([3, 4]))
    slots, attention = model(x, start)
    order, places = torch.tensor([2, 0, 3, 1]), torch.tensor([4, 2, 0, 1, 3])
    moved, moved_attention = model(x[:, places], start[:, order])
    torch.testing.assert_close(moved, slots[:, order])
    torch.testing.assert_close(moved_attention, attention[:, order][:, :, places])


@torch.no_grad()
def test_inputs_that_are_not_valid_change_nothing() -> None:
    model, x = module(), inputs(places=5)
    start = model.initial(2)
    wanted, _ = model(x, start)
    padded = torch.cat([x, torch.full((2, 3, 6), torch.nan, dtype=torch.float64)], 1)
    valid = torch.arange(8).expand(2, -1) < 5
    slots, attention = model(padded, start, valid)
    torch.testing.assert_close(slots, wanted)
    assert not attention[:, :, 5:].any()
    nothing, attention = model(padded, start, torch.zeros_like(valid))
    assert nothing.isfinite().all() and not attention.any()


def test_weights_of_a_slot_sum_to_one() -> None:
    attention = torch.rand(2, 4, 5).softmax(1)
    torch.testing.assert_close(weighted_mean(attention, torch.ones(2, 5, 3), None), torch.ones(2, 4, 3))


@pytest.mark.parametrize("start", ["learned", "gaussian"])
def test_noise_of_a_sample_comes_from_its_seed_alone(start: str) -> None:
    model = module(start)
    seeds = torch.tensor([11, 12, 13])
    together = model.initial(3, seeds)
    for row in range(3):
        assert torch.equal(together[row], model.initial(1, seeds[row : row + 1])[0])
    assert not torch.equal(together[0], together[1])
    still = model.initial(2)
    assert torch.equal(still[0], still[1]) and not torch.equal(still[0, 0], still[0, 1])


def test_noise_is_normal_and_never_infinite() -> None:
    noise = normal(torch.arange(200), 500)
    assert noise.isfinite().all() and noise.dtype == torch.float32
    assert abs(float(noise.mean())) < 0.01 and abs(float(noise.std()) - 1) < 0.01


@pytest.mark.parametrize("bad", [{"slots": 0}, {"iterations": 0}, {"start": "zeros"}])
def test_impossible_slot_attention_is_refused(bad: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="expected"):
        SlotAttention(**({"inputs": 6, "slots": 4, "width": 8, "hidden": 12} | bad))  # type: ignore[arg-type]


# --------------------------------------------------------------------------------------------------------------------
# Frames after each other
# --------------------------------------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("kind", ["attention", "mlp"])
def test_a_frame_starts_from_the_prediction_and_knows_no_later_one(kind: str) -> None:
    corrector = module()
    predictor = transition(kind, 8, 2, 12).double()  # type: ignore[arg-type]
    video = SlotVideo(corrector, predictor, 2)
    x = torch.stack([inputs(), inputs() + 1, inputs() - 1], 1)
    start = corrector.initial(2)
    slots, attention = video(x, start)
    first, _ = corrector(x[:, 0], start)
    second, weights = corrector(x[:, 1], predictor(first), iterations=2)
    torch.testing.assert_close(slots[:, 0], first)
    torch.testing.assert_close(slots[:, 1], second)
    torch.testing.assert_close(attention[:, 1], weights)
    changed = x.clone()
    changed[:, 2] = 7
    assert torch.equal(video(changed, start)[0][:, :2], slots[:, :2])
    order = torch.tensor([3, 1, 0, 2])
    torch.testing.assert_close(video(x, start[:, order])[0], slots[:, :, order])


def test_the_mlp_keeps_slots_apart() -> None:
    step, slots = ResidualMlp(8, 12), torch.randn(2, 4, 8)
    other = slots.clone()
    other[:, 1:] = 0
    assert torch.equal(step(slots)[:, 0], step(other)[:, 0])


def test_an_unknown_predictor_is_refused() -> None:
    with pytest.raises(ValueError, match="predictor: expected one of attention, mlp, got 'rnn'"):
        transition("rnn", 8, 2, 12)  # type: ignore[arg-type]


# --------------------------------------------------------------------------------------------------------------------
# Pixels
# --------------------------------------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("mode", ["image", "video"])
def test_shapes_and_masks_of_the_autoencoder(mode: str) -> None:
    model = SlotAutoencoder(replace(SMALL, mode=mode))  # type: ignore[arg-type]
    frames = frames_of(films(2))
    slots = model.encode(frames)
    rgb, masks = model.decode(slots)
    assert slots.shape == (2, 5, 3, 16) and rgb.shape == (2, 5, 3, 8, 8) and masks.shape == (2, 5, 3, 8, 8)
    torch.testing.assert_close(masks.sum(2), torch.ones(2, 5, 8, 8))
    torch.testing.assert_close(model.encode(frames[1:]), slots[1:])
    large = frames.repeat_interleave(3, 2).repeat_interleave(3, 3)
    torch.testing.assert_close(model.encode(large), slots, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_the_decoder_draws_each_pixel_and_slot_alone() -> None:
    decoder = SlotAutoencoder(SMALL).decoder
    slots = torch.randn(1, 3, 16)
    picture, masks = decoder(slots)
    drawn = torch.empty(3, 64, 4)
    for k in range(3):
        for p, code in enumerate(decoder.codes):
            product = decoder.slot_factor(slots[0, k]) * decoder.position_factor(code)
            drawn[k, p] = decoder.layers(decoder.slot(slots[0, k]) + decoder.position(code) + product)
    weights = drawn[..., 3].softmax(0)
    torch.testing.assert_close(masks[0].flatten(1), weights)
    torch.testing.assert_close(picture[0].flatten(1), (bounded(drawn[..., :3]) * weights[..., None]).sum(0).T)


def test_colours_are_bounded_and_never_stuck() -> None:
    colours = torch.tensor([-1.0, 0.0, 0.3, 1.0, 3.0], requires_grad=True)
    found = bounded(colours)
    torch.testing.assert_close(found, torch.tensor([-0.05, 0, 0.3, 1, 1.1]))
    (slopes,) = torch.autograd.grad(found.sum(), colours)
    assert (slopes > 0).all()


def test_all_parameters_have_gradients() -> None:
    for mode in ("image", "video"):
        model = SlotAutoencoder(replace(SMALL, mode=mode))
        model(frames_of(films(2)), torch.tensor([0, 1])).backward()
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


def test_frames_of_another_kind_are_refused() -> None:
    with pytest.raises(ValueError, match=r"frames: expected uint8 \[B, T, H, W, 3\], got torch.float32"):
        SlotAutoencoder(SMALL).encode(torch.zeros(1, 1, 8, 8, 3))
    with pytest.raises(ValueError, match="slots: expected 1 or more, got 0"):
        SlotSettings(slots=0)


# --------------------------------------------------------------------------------------------------------------------
# Training and files
# --------------------------------------------------------------------------------------------------------------------


def short(steps: int = 40, **changes: object) -> SlotTraining:
    plan = SlotTraining(SMALL, batch_size=8, warmup=1, lr=3e-3, log_every=5)
    return replace(plan, **({"steps": steps} | changes))  # type: ignore[arg-type]


def test_training_lowers_the_loss_and_depends_on_the_seed_alone() -> None:
    episodes = films(12)
    lines: list[str] = []
    model = train_slots(episodes, short(), seed=3, progress=lines.append)
    losses = [float(line.split("loss ")[1].split(",")[0]) for line in lines]
    assert len(losses) == 8 and losses[-1] < 0.9 * losses[0]
    assert not model.training
    first = weights_hash(train_slots(episodes, short(3), seed=3))
    torch.manual_seed(99)
    assert first == weights_hash(train_slots(episodes, short(3), seed=3))
    assert first != weights_hash(train_slots(episodes, short(3), seed=4))


def test_training_leaves_the_random_state_of_the_caller() -> None:
    before = torch.random.get_rng_state()
    train_slots(films(2), short(2))
    assert torch.equal(before, torch.random.get_rng_state())


def test_clips_are_runs_of_frames_from_all_over_the_episodes() -> None:
    episodes = [
        Episode(str(i), frames=np.arange(9, dtype=np.uint8)[:, None, None, None].repeat(3, 3)) for i in range(5)
    ]
    settings = SlotTraining(SMALL, batch_size=64, clip_frames=3, single_share=0)
    clips = draw_clips(episodes, settings, 0, 1)
    starts = clips.frames[:, :, 0, 0, 0]
    assert clips.frames.shape == (64, 3, 1, 1, 3) and (starts.long().diff(dim=1) == 1).all()
    assert set(starts[:, 0].tolist()) == set(range(7)) and len(set(clips.seeds.tolist())) == 64
    assert not torch.equal(clips.frames, draw_clips(episodes, settings, 0, 2).frames)
    first_half = replace(settings, single_share=0.5)
    assert draw_clips(episodes, first_half, 0, settings.steps // 2).frames.shape == (192, 1, 1, 1, 3)
    assert draw_clips(episodes, first_half, 0, settings.steps // 2 + 1).frames.shape == (64, 3, 1, 1, 3)


def test_training_stops_where_the_loss_is_not_finite() -> None:
    with pytest.raises(DivergenceError, match="slots: the loss is nan by step"):
        train_slots(films(2), short(20, lr=1e18, clip_norm=1e18, log_every=10))


@pytest.mark.parametrize(
    ("episodes", "message"),
    [
        ([], "expected episodes with frames, got none"),
        ([Episode("a", states=np.zeros((3, 1, 4), np.float32))], "episode a: expected frames, got none"),
        ([Episode("a", frames=np.zeros((3, 8, 8), np.uint8))], r"episode a: expected frames uint8 \[T, H, W, 3\]"),
        ([Episode("a", frames=np.zeros((3, 8, 8, 3), np.uint8))], "expected 4 frames or more, got 3"),
    ],
)
def test_episodes_that_cannot_be_trained_on_are_refused(episodes: list[Episode], message: str) -> None:
    with pytest.raises(DataError, match=message):
        train_slots(episodes, replace(video_training(SMALL), steps=1, warmup=0))


@pytest.mark.parametrize("mode", ["image", "video"])
def test_an_encoder_comes_back_from_its_folder(tmp_path: Path, mode: str) -> None:
    torch.manual_seed(0)
    model = SlotAutoencoder(replace(SMALL, mode=mode)).eval()  # type: ignore[arg-type]
    save_encoder(model, tmp_path / "slots")
    loaded = load_encoder(tmp_path / "slots")
    assert loaded.settings == model.settings and weights_hash(loaded) == weights_hash(model) and not loaded.training
    with (tmp_path / "slots" / "model.safetensors").open("r+b") as file:
        file.seek(-4, 2)
        file.write(b"\x01\x02\x03\x04")
    with pytest.raises(ValueError, match="differs from its checksum"):
        load_encoder(tmp_path / "slots")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "other"}, "expected the format jepakit-slots, got 'other'"),
        ({"format_version": 9}, "format 9 is newer than 1 here"),
        ({"model": {"slots": 0}}, "slots: expected 1 or more, got 0"),
        ({"model": {"sizes": 1}}, "expected the settings"),
        ({"model": {"slots": 7}}, "weights of another model"),
    ],
)
def test_a_folder_of_something_else_is_refused(tmp_path: Path, change: dict[str, object], message: str) -> None:
    save_encoder(SlotAutoencoder(SMALL), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(ValueError, match=message):
        load_encoder(tmp_path)


def test_episodes_are_encoded_alike_in_any_company() -> None:
    model = SlotAutoencoder(replace(SMALL, mode="video")).eval()
    episodes = [*films(3), *films(2, steps=2), *films(1)]
    found = encode_episodes(model, episodes)
    for episode, one in zip(episodes, found, strict=True):
        assert slots_of(one).shape == (episode.steps, 3, 16) and one.frames is episode.frames
        (alone,) = encode_episodes(model, [episode], frames_at_once=1)
        np.testing.assert_allclose(slots_of(one), slots_of(alone), atol=1e-5)


def test_the_cache_knows_weights_and_frames(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, episodes = SlotAutoencoder(SMALL).eval(), films(3)
    first = cached_slots(model, episodes, tmp_path / "cache", "train")
    (file,) = (tmp_path / "cache").iterdir()
    monkeypatch.setattr("jepa_causal.slots.storage.encode_episodes", lambda *_: pytest.fail("encoded again"))
    for one, same in zip(first, cached_slots(model, episodes, tmp_path / "cache", "train"), strict=True):
        assert np.array_equal(slots_of(one), slots_of(same))
    monkeypatch.undo()
    cached_slots(model, films(4), tmp_path / "cache", "train")
    with torch.no_grad():
        model.decoder.slot.weight += 1
    cached_slots(model, episodes, tmp_path / "cache", "train")
    assert len(list((tmp_path / "cache").iterdir())) == 3
    file.write_bytes(file.read_bytes()[:-100])
    with torch.no_grad():
        model.decoder.slot.weight -= 1
    again = cached_slots(model, episodes, tmp_path / "cache", "train")
    assert slots_of(again[0]).shape == (5, 3, 16)


def test_a_cache_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="the cache of slots cannot be written"):
        cached_slots(SlotAutoencoder(SMALL), films(1), tmp_path / "file", "train")
