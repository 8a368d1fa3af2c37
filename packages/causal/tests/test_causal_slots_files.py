"""Slots that others extracted: three formats, the same episodes; and what must not be believed."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file

from jepa_causal.slots.files import SlotFiles
from jepa_core.contracts import BadSample
from jepa_core.errors import DataError

Parts = dict[str, NDArray[Any]]
Made = dict[str, Parts]


def made(count: int = 3, slots: int = 4, width: int = 6) -> Made:
    """Episodes of different lengths, with all parts."""
    out: Made = {}
    for index in range(count):
        numbers, steps = np.random.default_rng(index), 5 + index
        actions = numbers.standard_normal((steps, 2)).astype(np.float32)
        actions[-1] = np.nan
        out[f"video {index}"] = {
            "slots": numbers.standard_normal((steps, slots, width)).astype(np.float32),
            "actions": actions,
            "proprio": numbers.standard_normal((steps, 3)).astype(np.float32),
            "present": numbers.random((steps, slots)) < 0.8,
        }
    return out


def flat(episodes: Made) -> Parts:
    return {f"{name}/{part}": value for name, parts in episodes.items() for part, value in parts.items()}


def save_npz(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    np.savez_compressed(path, **arrays)  # type: ignore[arg-type]  # of which keys mypy thinks they are options


def as_npz(path: Path, episodes: Made) -> Path:
    np.savez(path / "slots.npz", **flat(episodes))  # type: ignore[arg-type]
    return path / "slots.npz"


def as_safetensors(path: Path, episodes: Made) -> Path:
    tensors = {key: torch.from_numpy(value) for key, value in flat(episodes).items()}
    save_file(tensors, path / "slots.safetensors")
    return path / "slots.safetensors"


def as_parquet(path: Path, episodes: Made, numbered: bool = False) -> Path:
    rows = []
    for name, parts in episodes.items():
        for step in range(len(parts["slots"])):
            row = {part: value[step].tolist() for part, value in parts.items()}
            if numbered:
                row |= {f"slot_{k}": one for k, one in enumerate(row.pop("slots"))}
            rows.append({"episode": name, "step": step, **row})
    # Small row groups, so that an episode lies in several.
    pq.write_table(pa.Table.from_pylist(rows), path / "slots.parquet", row_group_size=4)
    return path / "slots.parquet"


def as_columns(path: Path, episodes: Made) -> Path:
    return as_parquet(path, episodes, numbered=True)


def as_folder(path: Path, episodes: Made) -> Path:
    (path / "folder").mkdir()
    for name, parts in episodes.items():
        save_npz(path / "folder" / f"{name}.npz", parts)
    return path / "folder"


FORMATS = [as_npz, as_safetensors, as_parquet, as_columns, as_folder]
Write = Callable[[Path, Made], Path]


@pytest.mark.parametrize("write", FORMATS)
def test_every_format_gives_the_same_episodes(tmp_path: Path, write: Write) -> None:
    episodes = made()
    files = SlotFiles(write(tmp_path, episodes))
    assert files.episode_ids == tuple(episodes) and len(files) == 3 and files.shape == (4, 6)
    for index in (2, 0, 1):
        found, wanted = files.load(index), episodes[files.episode_ids[index]]
        for part, values in wanted.items():
            np.testing.assert_array_equal(getattr(found, part), values)
        assert found.slots is not None and found.slots.dtype == np.float32 and found.present is not None
    # As a loader's process gets it.
    again = pickle.loads(pickle.dumps(files)).load(1)
    np.testing.assert_array_equal(again.slots, episodes["video 1"]["slots"])
    usable = files.usable()
    assert [e.episode_id for e in usable.episodes] == list(episodes) and not usable.rejected


def test_slots_alone_are_enough_and_other_numbers_are_converted(tmp_path: Path) -> None:
    slots = {name: parts["slots"].astype(np.float64) for name, parts in made().items()}
    save_npz(tmp_path / "a.npz", slots)
    episode = SlotFiles(tmp_path / "a.npz").load(0)
    assert episode.slots is not None and episode.slots.dtype == np.float32 and episode.actions is None
    save_file({name: torch.from_numpy(v).bfloat16() for name, v in slots.items()}, tmp_path / "b.safetensors")
    assert SlotFiles(tmp_path / "b.safetensors").load(2).slots is not None


def test_actions_between_steps_get_a_last_row(tmp_path: Path) -> None:
    episodes = made(1)
    episodes["video 0"]["actions"] = episodes["video 0"]["actions"][:-1]
    actions = SlotFiles(as_npz(tmp_path, episodes)).load(0).actions
    assert actions is not None and actions.shape == (5, 2) and np.isnan(actions[-1]).all()


def test_flat_lists_need_the_number_of_slots(tmp_path: Path) -> None:
    wanted = made(1)["video 0"]["slots"]
    rows = [{"episode": 7, "step": t, "slots": one.ravel().tolist()} for t, one in enumerate(wanted)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    with pytest.raises(DataError, match="set the number of slots"):
        SlotFiles(tmp_path / "a.parquet")
    episode = SlotFiles(tmp_path / "a.parquet", slots=4).load(0)
    assert episode.episode_id == "7"
    np.testing.assert_array_equal(episode.slots, wanted)


def test_only_the_episode_asked_for_is_read(tmp_path: Path) -> None:
    path = as_parquet(tmp_path, made(6))
    files = SlotFiles(path)
    container = files._places["video 0"]
    read: list[int] = []
    opened = container._file()  # type: ignore[attr-defined]

    class Counted:
        def read_row_group(self, group: int, columns: list[str]) -> Any:
            read.append(group)
            return opened.read_row_group(group, columns=columns)

    container._file = Counted  # type: ignore[attr-defined]
    files.load(5)
    assert read and min(read) >= 8  # rows 35 to 44 of groups of 4


# --------------------------------------------------------------------------------------------------------------------
# What must not be believed
# --------------------------------------------------------------------------------------------------------------------

BAD: list[tuple[str, NDArray[Any], str]] = [
    ("slots", np.full((5, 4, 6), np.nan, np.float32), "slots: expected finite numbers, got 120 that are not"),
    ("slots", np.zeros((0, 4, 6), np.float32), "at least one step"),
    ("slots", np.zeros((5, 4, 7), np.float32), r"slots: expected \[T, 4, 6\], got \[5, 4, 7\]"),
    ("slots", np.zeros((5, 3, 6), np.float32), r"slots: expected \[T, 4, 6\], got \[5, 3, 6\]"),
    ("slots", np.zeros((5, 24), np.float32), r"slots: expected \[T, 4, 6\], got \[5, 24\]"),
    ("slots", np.full((5, 4, 6), 1e300), "slots: expected finite numbers"),
    ("actions", np.zeros((3, 2), np.float32), "actions: expected a row for each of 5 steps, got 3"),
    ("actions", np.full((5, 2), np.inf, np.float32), "or NaN where there is none, got infinity"),
    ("actions", np.zeros((5, 9), np.float32), r"actions: expected rows of shape \[2\], got \[9\]"),
    ("proprio", np.full((5, 3), np.nan, np.float32), "proprio: expected finite numbers"),
    ("present", np.zeros((5, 3), bool), r"present: expected true or false \[T, K\] = \[5, 4\]"),
    ("present", np.full((5, 4), 2), "present: expected true or false"),
]


@pytest.mark.parametrize("write", [as_npz, as_safetensors])
@pytest.mark.parametrize(("part", "values", "message"), BAD)
def test_one_bad_episode_is_left_out_with_its_reason(
    tmp_path: Path, write: Write, part: str, values: NDArray[Any], message: str
) -> None:
    episodes = made()
    episodes["video 0"][part] = values
    files = SlotFiles(write(tmp_path, episodes))
    with pytest.raises(BadSample, match=f"video 0: .*{message}"):
        files.load(0)
    usable = files.usable()
    assert [e.episode_id for e in usable.episodes] == ["video 1", "video 2"]
    assert [name for name, _ in usable.rejected] == ["video 0"]


def test_an_episode_that_lacks_a_part_is_left_out(tmp_path: Path) -> None:
    episodes = made()
    del episodes["video 1"]["actions"]
    with pytest.raises(BadSample, match="video 1: expected actions, present, proprio, slots as in other episodes"):
        SlotFiles(as_npz(tmp_path, episodes)).load(1)


def test_the_shape_can_be_told(tmp_path: Path) -> None:
    files = SlotFiles(as_npz(tmp_path, made()), slots=4, width=5)
    with pytest.raises(DataError, match=r"none of 3 episodes can be used; the first: .*expected \[T, 4, 5\]"):
        files.usable()


def parquet_rows(tmp_path: Path, change: Callable[[list[dict[str, Any]]], object]) -> Path:
    rows = pq.read_table(as_parquet(tmp_path, made())).to_pylist()
    change(rows)
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "slots.parquet")
    return tmp_path / "slots.parquet"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: rows[1].update(slots=rows[1]["slots"][:2]), "slots: expected lists of one length"),
        (lambda rows: rows[1].update(slots=None), "slots: expected lists of one length without gaps"),
        (lambda rows: rows[1]["slots"][0].__setitem__(0, None), "slots: expected finite numbers, got 1"),
        (lambda rows: rows[1].update(step=9), "expected steps that rise by 1"),
        (lambda rows: rows[1]["present"].__setitem__(0, None), "present: expected no gaps"),
    ],
)
def test_a_bad_row_spoils_its_episode_alone(tmp_path: Path, change: Callable[[Any], object], message: str) -> None:
    files = SlotFiles(parquet_rows(tmp_path, change))
    with pytest.raises(BadSample, match=f"video 0.*{message}"):
        files.load(0)
    assert len(files.usable().episodes) == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: rows.append({**rows[0]}), "together, got video 0 apart; sort by episode, step"),
        (lambda rows: rows[2].update(episode=None), "expected episode and step in every row"),
        (lambda rows: [row.pop("step") for row in rows], "expected a column step"),
        (lambda rows: [row.pop("slots") for row in rows], "either a column slots or columns slot_0"),
        (lambda rows: [row.update(slots=["a"]) for row in rows], "expected numbers or lists of numbers"),
        (lambda rows: [row.update(slot_1=[0.0]) for row in rows], "expected slot_0, slot_1 and so on"),
        (lambda rows: rows.clear(), "expected a column episode"),
    ],
)
def test_a_table_of_another_kind_is_one_line(tmp_path: Path, change: Callable[[Any], object], message: str) -> None:
    with pytest.raises(DataError, match=message) as error:
        SlotFiles(parquet_rows(tmp_path, change))
    assert "\n" not in str(error.value)


def write_objects(path: Path) -> None:
    np.savez(path / "a.npz", video=np.array([{"x": 1}], dtype=object))


def write_pickle(path: Path) -> None:
    (path / "a.npz").write_bytes(pickle.dumps({"video": np.zeros((2, 2, 2))}))


def write_mixed(path: Path) -> None:
    np.savez(path / "a.npz", video=np.zeros((2, 2, 2)))
    save_file({"video": torch.zeros(2, 2, 2)}, path / "b.safetensors")


def write_twice(path: Path) -> None:
    for name in ("a.npz", "b.npz"):
        np.savez(path / name, video=np.zeros((2, 2, 2)))


def write_cut(path: Path) -> None:
    np.savez(path / "a.npz", video=np.zeros((2, 2, 2)))
    (path / "a.npz").write_bytes((path / "a.npz").read_bytes()[:-40])


def write_text(name: str) -> Callable[[Path], object]:
    return lambda path: (path / name).write_text("no slots")


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda path: None, "expected files of one kind of .*got none"),
        (write_objects, "refused: .*it holds Python objects"),
        (write_pickle, "expected a file of numpy.savez"),
        (write_mixed, "expected files of one kind"),
        (write_twice, "expected each episode once, got video in a.npz and b.npz"),
        (write_cut, "expected a file of numpy.savez"),
        (write_text("a.npz"), "expected a file of numpy.savez"),
        (write_text("a.safetensors"), "expected a safetensors file"),
        (write_text("a.parquet"), "expected a Parquet file"),
        (lambda path: np.savez(path / "a.npz"), "expected slots of episodes, got an empty file"),
        (lambda path: save_npz(path / "a.npz", {"v/actions": np.zeros((2, 2))}), "expected slots of v beside"),
    ],
)
def test_a_folder_of_something_else_is_one_line(tmp_path: Path, write: Callable[[Path], object], message: str) -> None:
    write(tmp_path)
    with pytest.raises(DataError, match=message) as error:
        SlotFiles(tmp_path)
    assert "\n" not in str(error.value)


def test_text_instead_of_numbers_is_left_out(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", good=np.zeros((2, 2, 2)), text=np.full((2, 2, 2), "a"))
    with pytest.raises(BadSample, match="text: slots: expected numbers, got <U1"):
        SlotFiles(tmp_path).load(1)
    with pytest.raises(DataError, match="no such file or folder"):
        SlotFiles(tmp_path / "nothing")
