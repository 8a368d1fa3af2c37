"""Decoding videos: the frames asked for are the frames that come, odd files are converted or refused by rule."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from video_cases import SIZE, Film, clips, numbers, sound

from jepa_core.contracts import BadSample
from jepa_vision.video_decode import open_footage
from jepa_vision.video_files import FrameFiles

FILMS = {
    "mp4, B frames": Film(options={"bf": "3"}),
    "mp4, open groups": Film(options={"bf": "3", "x264-params": "open-gop=1:keyint=8:min-keyint=8"}),
    "mkv, one key frame": Film(container="matroska", group=1000),
    "webm, VP9": Film("libvpx-vp9", "webm"),
    "webm, VP8 with hidden frames": Film("libvpx", "webm", options={"auto-alt-ref": "1", "lag-in-frames": "10"}),
    "avi, MPEG-4 with B frames": Film("mpeg4", "avi", options={"bf": "2", "qmax": "2"}),
    "avi, MPEG-4": Film("mpeg4", "avi", options={"qmax": "2"}),
    "avi, H.264 with B frames": Film(container="avi", options={"bf": "2"}),
    "H.264 without times": Film(container="h264"),
}


@pytest.mark.parametrize("film", FILMS.values(), ids=FILMS.keys())
def test_every_frame_can_be_reached_whatever_the_format(film: Film) -> None:
    content = film.encoded()
    with open_footage(content, "v") as footage:
        assert footage.count == 40 and footage.times is not None
        assert footage.times == pytest.approx(np.arange(40) / 25, abs=1e-3)
        for place in (39, 0, 17, 23, 24, 25, 5):
            (picture,) = footage.pictures([place])
            assert numbers(np.stack([picture.cut((0, 0, 64, 48), SIZE)])) == [place]
        several = [picture.cut((0, 0, 64, 48), SIZE) for picture in footage.pictures([1, 2, 36, 39])]
        assert numbers(np.stack(several)) == [1, 2, 36, 39]
    assert numbers(clips(content).load_at(0, 0)) == list(range(0, 32, 4))
    assert numbers(clips(content, fps=12.5).load_at(0, 1)) == list(range(25, 40, 2))


def test_a_jump_gives_the_same_bits_as_decoding_from_the_start() -> None:
    moving = np.random.default_rng(0).integers(0, 256, (40, *SIZE, 3), dtype=np.uint8)
    content = Film(options={"bf": "3"}, paint=lambda number: moving[number]).encoded()
    with open_footage(content, "v") as footage:
        whole = [picture.cut((0, 0, 64, 48), SIZE) for picture in footage.pictures(range(40))]
        for place in (30, 11, 12, 13, 39):
            (one,) = footage.pictures([place])
            assert np.array_equal(one.cut((0, 0, 64, 48), SIZE), whole[place])


def test_only_the_groups_that_are_needed_are_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    from jepa_vision.video_decode import _Video

    decoded: list[int] = []
    plain = _Video._decoded

    def counted(self: _Video, key: int | None) -> Any:
        for mark, frame in plain(self, key):
            decoded.append(mark)
            yield mark, frame

    monkeypatch.setattr(_Video, "_decoded", counted)
    with open_footage(Film(options={"bf": "0", "x264-params": "scenecut=0"}).encoded(), "v") as footage:
        assert [len(list(footage.pictures(places))) for places in ([26, 27], [1, 38])] == [2, 2]
    # From the key frame 24 up to 27; then 0 and 1, and from 36 up to 38.
    assert [mark // 512 for mark in decoded] == [24, 25, 26, 27, 0, 1, 36, 37, 38]


# ------------------------------------------------------------------------------------------------------- kinds of files


def test_large_frames_are_reduced_to_what_a_smooth_filter_gives() -> None:
    ramp = np.linspace(0, 255, 64)[None, :, None] * np.linspace(0.3, 1, 48)[:, None, None]
    picture = np.repeat(ramp, 3, 2).astype(np.uint8)
    content = Film("ffv1", "matroska", pixels="bgr0", frames=2, paint=lambda number: picture).encoded()
    small = clips(content, frames=1, size=(12, 16)).load(0, 0)[0]
    direct = np.asarray(Image.fromarray(picture).resize((16, 12), Image.Resampling.BOX))
    assert np.abs(small.astype(int) - direct).max() <= 3


def test_gray_deep_and_clear_pixels_become_rgb() -> None:
    def clear(number: int) -> NDArray[np.uint8]:
        return np.dstack([np.full((*SIZE, 3), 90, np.uint8), np.full(SIZE, 255 * number, np.uint8)])

    gray = clips(Film("ffv1", "matroska", pixels="gray16le").encoded(), stride=1).load_at(0, 0)
    assert numbers(gray) == list(range(8)) and np.array_equal(gray[..., 0], gray[..., 2])
    deep = clips(Film("ffv1", "matroska", pixels="yuv420p10le").encoded(), stride=1).load_at(0, 0)
    assert numbers(deep) == list(range(8))
    film = Film("qtrle", "mov", pixels="argb", frames=2, paint=clear).encoded()
    assert [int(frame.mean()) for frame in clips(film, frames=2, stride=1).load(0, 0)] == [255, 90]


@pytest.mark.parametrize("turn", [90, 180, -90])
def test_a_turned_video_is_shown_upright(turn: int) -> None:
    shown = np.zeros((*SIZE, 3), np.uint8)
    shown[:24, :32] = 200
    upright = np.rot90(shown, turn // 90)
    content = Film(turn=turn, frames=3, paint=lambda number: shown).encoded()
    clip = clips(content, frames=2, stride=1, size=(upright.shape[0], upright.shape[1])).load(0, 0)
    assert np.abs(clip[0].astype(int) - upright).mean() < 3


def test_colours_follow_the_matrix_that_the_file_names() -> None:
    red = np.zeros((*SIZE, 3), np.uint8)
    red[..., 0] = 200
    for name in ("bt709", "smpte170m"):
        content = Film(options={"x264-params": f"colormatrix={name}"}, frames=2, paint=lambda number: red).encoded()
        with av.open(io.BytesIO(content), "r") as container:
            assert next(container.decode(video=0)).colorspace == {"bt709": 1, "smpte170m": 6}[name]
        found = clips(content, frames=1).load(0, 0)[0].reshape(-1, 3).mean(0)
        # The film is painted by BT.601, so that only there the red comes back.
        assert (np.abs(found - [200, 0, 0]).max() < 5) == (name == "smpte170m")


# -------------------------------------------------------------------------------------------------------- hostile files

WHOLE = Film().encoded()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "broken or no video"),
        (b"hello world, no video at all " * 40, "broken or no video"),
        (b"RIFF\x00\x00\x00\x00AVI LIST", "broken or no video|no video stream"),
        (WHOLE[:60], "broken or no video|no video stream"),
        (WHOLE[:-400], "broken or no video|no video stream"),
        (sound(), "no video stream"),
        (b"#EXTM3U\n#EXT-X-TARGETDURATION:3\n#EXTINF:3,\n/etc/hosts\n#EXT-X-ENDLIST\n", "broken or no video"),
        (b"ffconcat version 1.0\nfile /etc/hosts\n", "broken or no video"),
        (Path("/nowhere/x.mp4"), "No such file"),
        (FrameFiles(()), "no frame in the folder"),
    ],
    ids=lambda value: value[:12] if isinstance(value, str) else "",
)
def test_what_cannot_be_used_is_a_bad_sample(content: object, says: str) -> None:
    with pytest.raises(BadSample, match=says) as caught:
        clips(content, frames=40, stride=1).load(0, 0)
    assert str(caught.value).startswith("v: ") and "\n" not in str(caught.value)


def test_films_that_are_broken_off_or_damaged_are_bad_samples(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (40, *SIZE, 3), dtype=np.uint8)
    whole = Film(paint=lambda number: noise[number]).index_first(tmp_path)
    assert clips(whole, frames=40, stride=1).load(0, 0).shape == (40, *SIZE, 3)
    with pytest.raises(BadSample, match=r"broken off: \d+ frames, expected the 40 that its index lists"):
        clips(whole[: len(whole) * 3 // 4]).load(0, 0)
    damaged = np.frombuffer(whole, np.uint8).copy()
    damaged[np.random.default_rng(1).integers(len(whole) // 2, len(whole), 40)] ^= 0xFF
    with pytest.raises(BadSample, match="broken or no video|conceal"):
        clips(damaged.tobytes(), frames=40, stride=1).load(0, 0)
    # The damage lies in the second half: what is decoded before it can be used.
    assert np.array_equal(clips(damaged.tobytes(), stride=1).load_at(0, 0), clips(whole, stride=1).load_at(0, 0))


def test_matroska_that_is_broken_off_counts_as_far_as_it_goes() -> None:
    content = Film(container="matroska", options={"bf": "0"}).encoded()
    clip = numbers(clips(content[: len(content) * 3 // 4], frames=40, stride=1).load(0, 0))
    last = clip[-1]
    assert 3 < last < 39 and clip == [min(number, last) for number in range(40)]


def test_huge_frames_are_refused_before_they_are_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jepa_vision.video_decode._MOST_PIXELS", 1000)
    with pytest.raises(BadSample, match="64 x 48"):
        clips(WHOLE).load(0, 0)
