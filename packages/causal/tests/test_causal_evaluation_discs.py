"""The whole evaluation on the world of discs: its table, its notes, its pictures, its errors."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from jepa_causal.baselines import ConstantVelocity, CopyLast, MethodForecaster
from jepa_causal.clips import History
from jepa_causal.episodes import Episode
from jepa_causal.evaluation import (
    COPY,
    LINEAR,
    STRAIGHT,
    TRAINED,
    UNTRAINED,
    EvaluationData,
    data_of,
    discs_again,
    evaluate,
    evaluate_slots,
    position_table,
    prepare,
    prepared_of,
)
from jepa_causal.modality import MODALITY
from jepa_causal.probe import NO_SLOT
from jepa_causal.rollouts import film_of, rollout_pictures, run_pictures, telling_scene
from jepa_causal.scoring import COMPLETION, CONTACT, COUNTERFACTUAL, FACTUAL, FG_ARI, FREE, LEFT_IN, OVERLAP, SLOTS
from jepa_causal.settings import CausalRun
from jepa_causal.slots.pixels import SlotAutoencoder, SlotSettings
from jepa_causal.slots.states import StateSlots
from jepa_causal.slots.storage import encode_episodes
from jepa_causal.worlds.discs import Discs, DiscSettings
from jepa_core.contracts import Method
from jepa_core.errors import DataError

CPU = torch.device("cpu")


def small_run(**data: object) -> CausalRun:
    config = CausalRun()
    config.data.episodes, config.data.test_episodes, config.data.steps = 30, 12, 24
    for key, value in data.items():
        setattr(config.data, key, value)
    return config


def built(config: CausalRun) -> tuple[Method, Method]:
    torch.manual_seed(0)
    return MODALITY.build(config), MODALITY.build(config)


def test_table_of_a_run_has_every_row_and_says_what_it_counts() -> None:
    config = small_run()
    trained, untrained = built(config)
    table = evaluate(config, trained, untrained, CPU)
    assert list(table.rows) == [TRAINED, LEFT_IN.format(TRAINED), UNTRAINED, COPY, STRAIGHT, LINEAR, FACTUAL, SLOTS]
    assert table.metric == CONTACT
    assert set(table.rows[TRAINED]) == {CONTACT, FREE, COMPLETION, COUNTERFACTUAL} == set(table.rows[COPY])
    assert set(table.rows[SLOTS]) == {CONTACT, FREE, COMPLETION}
    assert all(m.value > 0 and m.stderr for row in table.rows.values() for m in row.values())
    for words in ("Lower is better", "36 windows of 12 episodes", "over episodes", "Being told of the removal"):
        assert words in table.note
    # Nothing is learned yet: it keeps the slot last seen, as its first step is to start from there.
    assert table.rows[UNTRAINED][CONTACT].value == pytest.approx(table.rows[COPY][CONTACT].value, rel=0.05)
    # It knows nothing of others, but what is needed to go on: better than a standstill.
    assert table.rows[LINEAR][FREE].value < table.rows[COPY][FREE].value
    # The probe alone errs far less than anything predicted through it.
    assert table.rows[SLOTS][CONTACT].value < 0.3 * min(table.rows[COPY][CONTACT].value, 0.1)


def test_what_is_scored_does_not_depend_on_the_predictor_or_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    config = small_run()
    trained, untrained = built(config)
    whole = evaluate(config, trained, untrained, CPU).rows
    monkeypatch.setattr("jepa_causal.baselines.CHUNK", 7)
    parts = evaluate(config, trained, untrained, CPU).rows
    for row, columns in whole.items():
        for column, figure in columns.items():
            assert parts[row][column].value == pytest.approx(figure.value, abs=1e-5)


def test_simulator_in_the_place_of_the_predictor_scores_next_to_nothing() -> None:
    """Removals, slots, steps and objects are all the right ones: the world itself answers every question."""
    config = small_run()
    data = data_of(config)
    ready = prepare(data)
    assert ready.removed is not None and len(ready.removed.cases) > 10

    class World(CopyLast):
        """Finds the episode and step by the last slots, and who is missing by presence."""

        def forecast(self, history: History, steps: int) -> Tensor:
            return torch.stack(
                [self.one(slots, there) for slots, there in zip(history.slots, history.present, strict=True)]
            )

        def one(self, slots_TKD: Tensor, present_TK: Tensor) -> Tensor:
            assert data.resume is not None
            for episode in data.test:
                found = (torch.from_numpy(episode.slots) == slots_TKD[-1]).flatten(1).all(1).nonzero()
                if len(found) and episode.present is not None:
                    step = int(found[0])
                    gone = np.flatnonzero(episode.present[step] & ~present_TK[-1].numpy())
                    states = data.resume(episode, step, data.future, int(gone[0]) if len(gone) else None)
                    present = np.tile(present_TK[-1].numpy(), (len(states), 1))
                    again = StateSlots()(replace(episode, states=states, present=present))
                    return torch.from_numpy(again.slots)
            raise AssertionError("no such window")

    rows = position_table(data, ready, {TRAINED: World(), COPY: CopyLast()}).rows
    floor = rows[SLOTS][CONTACT].value
    for column in (CONTACT, FREE, COUNTERFACTUAL):
        assert rows[TRAINED][column].value < 1.5 * floor
    ignored, factual = rows[LEFT_IN.format(TRAINED)][COUNTERFACTUAL], rows[FACTUAL][COUNTERFACTUAL]
    assert ignored.value == pytest.approx(factual.value, rel=0.05) and ignored.value > 0.05


def test_frame_skip_scores_the_same_world_in_longer_steps() -> None:
    config = small_run(frame_skip=2, steps=40)
    data = data_of(config)
    assert data.resume is not None and data.test[0].steps == 20
    again, states = data.resume(data.test[0], 3, 4, None), data.test[0].states
    assert states is not None and np.array_equal(again, states[4:8])
    ready = prepare(data)
    assert ready.removed is not None and ready.clips.slots.shape[1] == 8


def test_another_worlds_episodes_are_refused_before_anything_is_scored() -> None:
    config = small_run()
    data = data_of(config)
    other = Discs(DiscSettings(fewest=2, most=5))
    wrong = [replace(e, extra={**e.extra, "exact": e.extra["exact"] + [0, 0, 1e-3, 0]}) for e in data.test]
    with pytest.raises(DataError, match="simulated again without a change"):
        prepare(replace(data, resume=discs_again(other, wrong)))


def test_data_without_positions_are_scored_on_slots() -> None:
    config = small_run()
    trained, untrained = built(config)
    data = data_of(config)
    train, test = ([Episode(e.episode_id, slots=e.slots) for e in part] for part in (data.train, data.test))
    table = evaluate_slots(EvaluationData(train, test, 5, 3), None, trained, untrained, CPU)
    assert set(table.rows) == {TRAINED, UNTRAINED, COPY, STRAIGHT, LINEAR} and "variance" in table.note
    assert set(table.rows[TRAINED]) == {"forecast", COMPLETION} and set(table.rows[STRAIGHT]) == {"forecast"}


def test_too_few_training_episodes_are_one_line() -> None:
    data = data_of(small_run())
    with pytest.raises(ValueError, match="at least 2 training episodes"):
        prepare(replace(data, train=data.train[:1]))


def learned() -> EvaluationData:
    """Slots of an encoder that has learned nothing: what must hold whatever they are."""
    world = Discs(DiscSettings(fewest=2, most=3))
    torch.manual_seed(0)
    encoder = SlotAutoencoder(SlotSettings(slots=4, width=24)).eval()
    episodes = [world.with_frames(world.episode(seed, 16), 16) for seed in range(16)]
    coded = encode_episodes(encoder, episodes)
    return EvaluationData(coded[:10], coded[10:], 5, 3, encoder, discs_again(world, coded[10:]))


def test_slots_of_an_encoder_are_matched_one_to_one_and_scored_themselves() -> None:
    data = learned()
    ready = prepare(data)
    assert ready.clips.truth is not None and ready.clips.slot_present.all()
    for slots in ready.clips.truth.slot.tolist():
        given = [slot for slot in slots if slot != NO_SLOT]
        assert len(given) == len(set(given)) and all(0 <= slot < 4 for slot in given)
    table = position_table(data, ready, {TRAINED: ConstantVelocity()})
    assert {FG_ARI, OVERLAP} < set(table.rows[SLOTS]) and "higher is better" in table.note
    assert -1 <= table.rows[SLOTS][FG_ARI].value <= 1 and 0 <= table.rows[SLOTS][OVERLAP].value <= 1
    pictures = rollout_pictures(data, ready, CopyLast())
    assert [picture.title for picture in pictures] == ["Rollout", "Rollout, moving", "What each slot explains"]


def test_film_shows_the_removal_that_moves_most() -> None:
    config = small_run()
    data = data_of(config)
    ready = prepared_of(config, data)
    assert ready is not None and ready is prepared_of(config, data) and ready.removed is not None
    scene = telling_scene(ready)
    assert scene.removed is not None
    film = film_of(data, ready, CopyLast(), scene, data.future)
    happened, without = film.lines
    assert not without.present[data.history - 1 :, scene.removed].any() and happened.present[:, scene.removed].all()
    assert np.array_equal(happened.xy[: data.history], without.xy[: data.history])
    moved = np.linalg.norm(happened.xy[-1] - without.xy[-1], axis=-1)
    moved[scene.removed] = 0
    true = ready.clips.truth
    assert true is not None
    cases = ready.removed.cases
    shift = (true.xy[cases.clip, -1, cases.object] - ready.removed.xy).square().sum(-1).sqrt()
    assert moved.max() == pytest.approx(float(shift.max()), abs=1e-5)
    assert np.isnan(without.predicted[:, scene.removed]).all() and without.ignored is not None
    assert np.isfinite(without.ignored[:, moved.argmax()]).all()


def test_run_pictures_are_drawn_by_the_trained_predictor() -> None:
    config = small_run()
    trained, _ = built(config)
    assert isinstance(trained, nn.Module) and trained.training
    pictures = run_pictures(config, trained, CPU)
    assert [picture.title for picture in pictures] == ["Rollout", "Rollout, moving"] and trained.training
    assert isinstance(MethodForecaster(trained, CPU).method, nn.Module)
