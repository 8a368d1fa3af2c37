"""Decoding sounds: a part equals that part of the whole, in every format; hostile files are refused by stated rules."""

from __future__ import annotations

import io
import struct
import tracemalloc
from pathlib import Path

import librosa
import numpy as np
import pytest
import soundfile
import soxr  # type: ignore[import-untyped]
from numpy.typing import NDArray
from sound_cases import FORMATS, decoded, encoded, noise

from jepa_audio.sound_decode import Channels, open_sound, resampled_length, sound_info
from jepa_core.contracts import BadSample


def whole(content: bytes | Path, rate_hz: int = 16_000, channels: Channels = "mean") -> NDArray[np.float32]:
    with open_sound(content, "s") as sound:
        return sound.whole(rate_hz, channels)


def part(content: bytes, start: int, count: int, rate_hz: int = 16_000) -> NDArray[np.float32]:
    with open_sound(content, "s") as sound:
        return sound.part(rate_hz, start, count)


# --------------------------------------------------------------------------------------------------------------- parts


@pytest.mark.parametrize("kind", sorted(set(FORMATS) - {"opus"}))
@pytest.mark.parametrize(("own", "rate", "channels"), [(44_100, 16_000, 2), (16_000, 16_000, 1), (8_000, 16_000, 1)])
def test_a_part_found_by_seeking_equals_that_part_of_the_whole(kind: str, own: int, rate: int, channels: int) -> None:
    content = encoded(noise(own * 3 + 17, channels), own, kind)
    reference = whole(content, rate)
    assert len(reference) == resampled_length(len(decoded(content)), own, rate)
    for start, count in ((0, 16_000), (1, 7), (20_001, 16_000), (len(reference) - 900, 900), (31_999, 1)):
        found = part(content, start, count, rate)
        assert found.shape == (count,) and found.dtype == np.float32
        assert np.abs(found - reference[start : start + count]).max() < 2e-6
    assert len(part(content, len(reference) - 5, 50, rate)) == 5


@pytest.mark.parametrize(("kind", "most"), [("ogg", 2e-6), ("mp3", 2e-6), ("opus", 5e-3)])
def test_long_lossy_files_are_sought(kind: str, most: float, capfd: pytest.CaptureFixture[str]) -> None:
    content = encoded(np.tile(noise(16_000 * 7), (10, 1)), 16_000, kind)
    reference = decoded(content)[:, 0]
    for start in (0, 300_000, 800_001, len(reference) - 16_500):
        assert np.abs(part(content, start, 16_000) - reference[start : start + 16_000]).max() < most
    capfd.readouterr()  # the MP3 decoder says where it lacks bits of earlier frames


@pytest.mark.parametrize("own", [11_127, 22_050, 48_000, 96_000, 192_000])
def test_odd_and_high_rates_are_resampled_to_the_exact_length(own: int) -> None:
    content = encoded(noise(own + 331), own)
    reference = whole(content)
    assert len(reference) == round((own + 331) * 16_000 / own)
    assert np.abs(part(content, 5_003, 4_000) - reference[5_003:9_003]).max() < 5e-6
    assert np.array_equal(reference[:9000], soxr.resample(decoded(content)[:, 0], own, 16_000, quality="HQ")[:9000])


def test_resampling_is_that_of_librosa() -> None:
    content = encoded(noise(44_100), 44_100)
    expected = librosa.resample(decoded(content)[:, 0], orig_sr=44_100, target_sr=16_000, res_type="soxr_hq")
    assert np.abs(whole(content) - expected).max() < 1e-6


def test_a_part_of_a_long_file_is_read_without_the_rest(tmp_path: Path) -> None:
    path = tmp_path / "long.wav"
    soundfile.write(path, np.tile(noise(44_100), (240, 1)), 44_100)
    tracemalloc.start()
    with open_sound(path, "s") as sound:
        found = sound.part(16_000, 16_000 * 200, 16_000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found.shape == (16_000,) and peak < 2_000_000
    # Second after second is the same noise.
    assert np.abs(found - part(path.read_bytes(), 16_000 * 90, 16_000)).max() < 2e-6


def test_channels_are_joined_by_rule() -> None:
    left, right = noise(16_000)[:, 0] * 0.2, noise(16_000, seed=1)[:, 0]
    content = encoded(np.stack([left, right], 1), 16_000, subtype="FLOAT")
    assert np.allclose(whole(content), (left + right) / 2, atol=1e-7)
    assert np.array_equal(whole(content, channels="first"), left)
    assert np.array_equal(whole(content, channels="loudest"), right)


# ----------------------------------------------------------------------------------------------------------- odd input


def test_the_header_alone_is_read() -> None:
    info = sound_info(encoded(noise(441, 2), 44_100, "flac"), "s")
    assert (info.frames, info.rate_hz, info.channels, info.format, info.subtype) == (441, 44_100, 2, "FLAC", "PCM_16")
    assert info.samples_at(16_000) == 160


@pytest.mark.parametrize(
    ("subtype", "bound"), [("PCM_U8", 8e-3), ("PCM_16", 4e-5), ("PCM_24", 2e-7), ("PCM_32", 1e-7), ("FLOAT", 0)]
)
def test_every_depth_comes_as_the_same_floats(subtype: str, bound: float) -> None:
    samples = noise(2_000)
    assert np.abs(whole(encoded(samples, 16_000, subtype=subtype)) - samples[:, 0]).max() <= bound


def test_loud_and_silent_sounds_are_kept() -> None:
    loud = encoded(noise(44_100) * 5, 44_100, subtype="FLOAT")
    assert 3 < np.abs(whole(loud)).max() < 6
    silent = whole(encoded(np.zeros(44_100, np.float32), 44_100))
    assert silent.shape == (16_000,) and not silent.any()


def test_the_content_decides_not_the_name(tmp_path: Path) -> None:
    path = tmp_path / "a.mp3"
    path.write_bytes(encoded(noise(1_600), 16_000, "flac"))
    assert np.array_equal(whole(path), decoded(path.read_bytes())[:, 0])


def with_size(content: bytes, size: int) -> bytes:
    place = content.index(b"data") + 4
    return content[:place] + struct.pack("<I", size) + content[place + 4 :]


def test_a_stream_of_no_known_size_is_read_to_its_end() -> None:
    content = encoded(noise(16_000), 16_000)
    assert np.array_equal(whole(with_size(content, 0xFFFFFFFF)), whole(content))


def with_total(flac: bytes, total: int) -> bytes:
    """The number of frames in a FLAC's header, 36 bits."""
    other = int.from_bytes(flac[18:26], "big") >> 36 << 36
    return flac[:18] + (other | total).to_bytes(8, "big") + flac[26:]


@pytest.mark.parametrize("kind", ["wav", "flac", "mp3", "aiff"])
def test_truncated_files_are_refused(kind: str) -> None:
    content = encoded(noise(64_000), 16_000, kind)
    with pytest.raises(BadSample, match=r"s: .*truncated"):
        whole(content[: len(content) * 3 // 5])


def test_a_huge_claim_takes_no_memory() -> None:
    honest = encoded(noise(16_000), 16_000, "flac")
    content = with_total(honest, 2**36 - 1)
    tracemalloc.start()
    with pytest.raises(BadSample, match="truncated"):
        whole(content)
    with pytest.raises(BadSample, match="truncated"):
        part(content, 2**33, 16_000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 64_000_000
    # What is there is used.
    assert np.array_equal(part(content, 100, 5_000), whole(honest)[100:5_100])


def test_a_length_that_is_not_told_is_one_line() -> None:
    content = with_total(encoded(noise(16_000), 16_000, "flac"), 0)
    with pytest.raises(BadSample, match="s: a FLAC file whose header tells no length; write it again"):
        part(content, 0, 100)


def test_an_mp3_without_a_table_of_contents_ends_in_silence() -> None:
    buffer = io.BytesIO()
    soundfile.write(buffer, noise(44_100 * 4), 44_100, format="MP3", bitrate_mode="CONSTANT", compression_level=0.5)
    content = buffer.getvalue()
    start = content.index(b"\xff\xfb", 4)
    found = whole(content[start:], 44_100)
    assert abs(len(found) - 44_100 * 4) < 6 * 1152 and np.isfinite(found).all()


def no_numbers(value: float) -> bytes:
    samples = noise(16_000)
    samples[8_000] = value
    return encoded(samples, 16_000, subtype="FLOAT")


HOSTILE = {
    "nan": (no_numbers(np.nan), "NaN"),
    "infinity": (no_numbers(np.inf), "NaN or infinite"),
    "no frames": (encoded(np.zeros((0, 1), np.float32), 16_000), "no frames"),
    "no bytes": (b"", "no sound"),
    "text": (b"RIFF of the reef " * 50, "no sound"),
    "head alone": (encoded(noise(10), 16_000)[:20], "no sound|truncated"),
    "rate of 1 Hz": (encoded(noise(100), 1), "sample rate of 1 Hz"),
    "rate of 2 GHz": (encoded(noise(100), 2_000_000_000), "sample rate of 2000000000 Hz"),
    "zeros": (bytes(4_000), "no sound"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_files_are_bad_samples_of_one_line(case: str) -> None:
    content, says = HOSTILE[case]
    with pytest.raises(BadSample, match=says) as caught:
        whole(content)
    assert str(caught.value).startswith("s: ") and "\n" not in str(caught.value)


def test_a_folder_or_nothing_in_the_place_of_a_file_is_a_bad_sample(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none.wav"):
        with pytest.raises(BadSample, match="s: no such file"):
            whole(path)


def test_damage_in_the_middle_shows_where_it_is_read() -> None:
    content = bytearray(encoded(noise(160_000), 16_000, "flac"))
    middle = len(content) // 2
    content[middle : middle + 20_000] = bytes(20_000)
    assert len(part(bytes(content), 0, 16_000)) == 16_000
    with pytest.raises(BadSample):
        whole(bytes(content))


def test_bytes_and_file_are_the_same_sound(tmp_path: Path) -> None:
    content = encoded(noise(30_000, 2), 22_050, "ogg")
    (tmp_path / "a.ogg").write_bytes(content)
    assert np.array_equal(whole(tmp_path / "a.ogg"), whole(content))
    assert soundfile.info(io.BytesIO(content)).frames == 30_000
