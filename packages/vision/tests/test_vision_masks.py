"""``jepa masks``: pictures and statistics of masks, of huge recipes too, without building their networks."""

from __future__ import annotations

from pathlib import Path

import pytest

from jepa_core.cli import main
from jepa_core.masking.source import MakesMasks
from jepa_vision.modality import MODALITY, VisionModality
from jepa_vision.video_modality import VideoModality


def refuse(*_: object) -> None:
    raise AssertionError("a network was built")


def masks(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["masks", *arguments]) == 0
    return capsys.readouterr().out


@pytest.fixture
def unbuilt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JEPA_DATA", raising=False)
    for modality in (VisionModality, VideoModality):
        monkeypatch.setattr(modality, "build", refuse)


@pytest.mark.usefixtures("unbuilt")
def test_masks_of_a_huge_recipe_are_counted_without_its_networks(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert isinstance(MODALITY, MakesMasks)
    out = tmp_path / "deep" / "m.png"
    wanted = ("modality=vision", "recipe=ijepa_vith14", "trainer.batch_size=8", f"out={out}")
    released = ("vision.masking.truncate=prefix", "vision.masking.edges=inside")
    page = masks(capsys, *wanted, *released)
    assert out.read_bytes().startswith(b"\x89PNG")
    assert "multiblock: 64 batches of 8 on 16 x 16 sites (y, x)" in page
    context, together = (
        next(x.split() for x in page.splitlines() if what in x) for what in ("  context ", "  targets together ")
    )
    # The length follows the whole batch, though only four images are read; the last row and column are never used.
    assert 78 < float(context[1]) < 94 and context[4] == "0.00"
    assert context[-3] == context[-1] == "0.00" and together[-3] == together[-1] == "0.00"
    page = masks(capsys, *wanted, "vision.masking.truncate=random", "vision.masking.edges=wrap")
    assert "73.0     73    73" in page and "repeated" not in page


@pytest.mark.usefixtures("unbuilt")
def test_masks_of_clips_have_one_table_for_each_set_of_tubes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = masks(capsys, "modality=video", "recipe=vjepa_vitl16", "trainer.batch_size=3", f"out={tmp_path / 'm.png'}")
    assert len(list(tmp_path.glob("m-*.png"))) == 2
    for name in ("short", "long"):
        assert f"{name}: 64 batches of 3 on 8 x 14 x 14 sites (t, y, x)" in page
    assert "ends of t  ends of y  ends of x" in page


@pytest.mark.parametrize("verb", ["masks", "train"])
def test_a_masker_that_cannot_work_on_the_grid_is_one_line(
    verb: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wanted = ["modality=vision", "vision.masking.kind=multiblock", "vision.masking.context_tokens=60"]
    where = f"out={tmp_path / 'm.png'}" if verb == "masks" else f"runs_dir={tmp_path}"
    assert main([verb, *wanted, where]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "context_tokens: expected at most" in said
