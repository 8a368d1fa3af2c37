"""Filter banks against torchaudio, Kaldi's in torchaudio, and librosa: equal output first, then time.

    python benchmarks/audio/frontend_speed.py --data <folder of ESC-10>

The two sides of a row take turns, and the figure is the median of the ratios of neighbours, with the middle half of
them: a busy machine slows both. Time is processor time of one thread. Writes ``FRONTEND.md``.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import librosa
import soundfile
import torch
import torchaudio
from torch import Tensor
from torchaudio.compliance.kaldi import fbank
from torchaudio.transforms import MelSpectrogram

from jepa_audio.framing import FilterBank
from jepa_audio.kaldi import KaldiFbank, KaldiSettings
from jepa_audio.log_mel import LogMel, LogMelSettings
from jepa_audio.waveforms import Waveforms

HERE = Path(__file__).parent
MEL = LogMelSettings(n_fft=512, n_mels=64, f_min_hz=0.0)
KALDI = KaldiSettings()
Side = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        name: of the reference.
        batch, seconds: clips at once, and their length.
        ours, reference: clips ``[R, S]`` to log energies ``[R, T, bins]``.
    """

    name: str
    batch: int
    seconds: float
    ours: Side
    reference: Side


def sides() -> list[Row]:
    """Every comparison."""
    mel, kaldi = LogMel(MEL), KaldiFbank(KALDI)
    batched = "torchaudio.transforms.MelSpectrogram and logarithm, batched"
    with_lengths = f"{batched}; ours with the length of each clip"
    return [
        Row(batched, 16, 5.0, plain(mel), torchaudio_mel()),
        Row(batched, 1, 5.0, plain(mel), torchaudio_mel()),
        Row(batched, 64, 2.08, plain(mel), torchaudio_mel()),
        Row(with_lengths, 16, 5.0, measured(mel), torchaudio_mel()),
        Row("librosa.feature.melspectrogram and logarithm, clip by clip", 16, 5.0, plain(mel), librosa_mel),
        Row("torchaudio.compliance.kaldi.fbank, clip by clip", 16, 5.0, plain(kaldi), torchaudio_kaldi),
        Row("torchaudio.compliance.kaldi.fbank, clip by clip", 1, 5.0, plain(kaldi), torchaudio_kaldi),
        Row("torchaudio.compliance.kaldi.fbank, clip by clip", 64, 2.08, plain(kaldi), torchaudio_kaldi),
        Row("our own log-mel of all rows at once", 16, 5.0, plain(mel), undivided(mel)),
        Row("our own Kaldi filter bank of all rows at once", 16, 5.0, plain(kaldi), undivided(kaldi)),
    ]


def plain(bank: FilterBank) -> Side:
    """Ours, all clips of one length."""
    return lambda clips: bank(Waveforms(clips)).values


def measured(bank: FilterBank) -> Side:
    """Ours, told the length of each clip."""
    return lambda clips: bank(Waveforms(clips, torch.full((len(clips),), clips.shape[1]))).values


def undivided(bank: FilterBank) -> Side:
    """Ours, without the blocks of rows that fit a processor's cache."""
    return lambda clips: bank.log_energies(Waveforms(clips))


def torchaudio_mel() -> Side:
    """torchaudio's with our settings."""
    mel = MelSpectrogram(
        MEL.sample_rate_hz,
        MEL.n_fft,
        MEL.win_length,
        MEL.hop_length,
        MEL.f_min_hz,
        MEL.f_max_hz,
        n_mels=MEL.n_mels,
        norm=MEL.norm,
        mel_scale=MEL.mel_scale,
    )
    return lambda clips: (mel(clips) + MEL.eps).log().transpose(1, 2)


def librosa_mel(clips: Tensor) -> Tensor:
    """librosa's with our settings."""
    made = [
        librosa.feature.melspectrogram(
            y=clip,
            sr=MEL.sample_rate_hz,
            n_fft=MEL.n_fft,
            win_length=MEL.win_length,
            hop_length=MEL.hop_length,
            n_mels=MEL.n_mels,
            fmin=MEL.f_min_hz,
            fmax=MEL.f_max_hz,
            pad_mode="reflect",
        )
        for clip in clips.numpy()
    ]
    return (torch.stack([torch.from_numpy(m) for m in made]) + MEL.eps).log().transpose(1, 2)


def torchaudio_kaldi(clips: Tensor) -> Tensor:
    """torchaudio's Kaldi filter bank, which takes one clip."""
    return torch.stack([fbank(clip[None], num_mel_bins=KALDI.n_mels) for clip in clips])


def difference(row: Row, clips: Tensor) -> float:
    """Largest difference of energies as a share of the largest energy; ends the run where it is above 1e-5."""
    ours, reference = row.ours(clips).double().exp(), row.reference(clips).double().exp()
    found = float((ours - reference).abs().max() / reference.max())
    if not found <= 1e-5:
        raise SystemExit(f"{row.name}: outputs differ by {found:.2e} of the peak, no time is worth measuring")
    return found


def seconds_of(side: Side, clips: Tensor, calls: int) -> float:
    """Processor time of so many calls."""
    start = time.process_time()
    for _ in range(calls):
        side(clips)
    return time.process_time() - start


def measure(row: Row, clips: Tensor, turns: int) -> str:
    """The row as Markdown."""
    error = difference(row, clips)
    calls = max(1, 16 // row.batch)
    ratios, ours = [], []
    for turn in range(turns):
        # Who goes first changes, so that neither always finds the other's cache.
        order = (row.ours, row.reference) if turn % 2 else (row.reference, row.ours)
        took = {side: seconds_of(side, clips, calls) for side in order}
        ratios.append(took[row.reference] / took[row.ours])
        ours.append(calls * row.batch / took[row.ours])
    low, middle, high = statistics.quantiles(ratios, n=4)
    return (
        f"| {row.name} | {row.batch} x {row.seconds:g} s | {error:.1e} | {statistics.median(ours):.0f} | "
        f"{middle:.2f} ({low:.2f} .. {high:.2f}) |"
    )


def load(root: Path, count: int) -> Tensor:
    """The first clips in order of name, ``[count, 80000]``."""
    files = sorted((root / "audio").glob("*.flac"))[:count]
    if len(files) < count:
        raise SystemExit(f"--data: expected a folder with at least {count} audio/*.flac (ESC-10), got {root}")
    return torch.stack([torch.from_numpy(soundfile.read(file, dtype="float32")[0]) for file in files])


def page(rows: list[str], turns: int) -> str:
    """The whole file."""
    versions = ", ".join(
        f"{library.__name__} {library.__version__.split('+')[0]}" for library in (torch, torchaudio, librosa)
    )
    return "\n".join(
        [
            "# Speed of the filter banks",
            "",
            "`python benchmarks/audio/frontend_speed.py --data <folder of ESC-10>`,",
            f"{turns} turns a row, one thread, {platform.machine()}, {versions}; the machine was busy, so only",
            "ratios count. Difference: largest difference of energies as a share of the largest energy. Times faster:",
            "median of the ratios of neighbouring runs, and the middle half of them.",
            "",
            "Ours takes many clips in blocks of rows that fit a processor's cache; the last two rows show that alone.",
            "One clip is one block.",
            "",
            "Log-mel: 16 kHz, n_fft 512, window 400, hop 160, 64 mels. Kaldi: 25 ms, hop 10 ms, 128 bins, povey.",
            "",
            "| against | clips | difference | our clips/s | times faster |",
            "|---|---|---|---|---|",
            *rows,
            "",
        ]
    )


@torch.no_grad()
def main() -> None:
    """Measures every row and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of ESC-10 with audio/*.flac")
    parser.add_argument("--turns", type=int, default=30)
    options = parser.parse_args()
    torch.set_num_threads(1)
    clips, rows = load(options.data, 64), []
    for row in sides():
        part = clips[: row.batch, : round(row.seconds * MEL.sample_rate_hz)].contiguous()
        rows.append(measure(row, part, options.turns))
        print(rows[-1], flush=True)
    (HERE / "FRONTEND.md").write_text(page(rows, options.turns))


if __name__ == "__main__":
    main()
