"""Move people's words to the moments at which a synthetic voice says the same, and tell their phonemes by it.

    python -m pipelines.align_speech --said again --pieces pieces

`again` is what `sample/say_again.py` wrote of `pieces`. Both recordings of a text are heard by the phoneme teacher and
aligned by dynamic time warping (Sakoe & Chiba, 1978) of its distributions. `again/heard/<utt_id>.flac` is then the
person's recording at the synthetic one's pace (WSOLA: Verhelst & Roelands, 1993). `again/told/<recording>.csv` and
`<piece>.csv` say when the person said what, in the recording that was cut and in its pieces, a phoneme and its end in
seconds a line. Pieces that do not fit, because their text was recognised wrongly, are in the first as unknown.
"""

import argparse
import csv
from collections.abc import Iterable, Sequence
from pathlib import Path

import librosa
import numpy as np
import soundfile
from numpy.typing import NDArray

from models import registry
from models.phones import PAUSE, UNKNOWN, read_alignment
from models.streamvoiceanon.training.teachers import PROSODY, PhoneTeacher

RATE = 16_000
WORST = 0.4  # nats a frame: what two recordings may differ by on average
SMOOTH = 9  # frames of 20 ms: a path of whole steps jumps
SEGMENT, REACH = 512, 240  # samples, of WSOLA: what is added at a time, and how far either way it looks for its place
STEPS = np.array([[1, 1], [1, 2], [2, 1], [1, 0], [0, 1]])
COSTS = np.array([1.0, 1.0, 1.0, 1.5, 1.5])  # of a step: standing still costs more than going on

Wave = NDArray[np.float32]
Told = tuple[list[str], list[float]]  # phonemes, and when each of them ends, in seconds


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--said", type=Path, required=True, help="the folder that sample/say_again.py wrote")
    parser.add_argument("--pieces", type=Path, required=True, help="the pieces that it read")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args(arguments)
    whisper = registry.resolve(registry.PROFILES["embedded"]["whisper"]).path
    teacher = PhoneTeacher(whisper, registry.resolve(registry.PHONES).path, options.threads)
    for folder in ("heard", "told"):
        (options.said / folder).mkdir(exist_ok=True)
    with (options.said / "metadata.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    told: dict[str, Told] = {}
    for number, row in enumerate(rows, 1):
        voice, person = read(options.said / row["path"]), read(options.pieces / row["heard"])
        first, second = teacher.features([voice, person])
        cost, path = align(first[:, :-PROSODY], second[:, :-PROSODY])
        if cost <= WORST:
            moved = warp(person, path / teacher.rate, len(voice))
            soundfile.write(options.said / "heard" / f"{row['utt_id']}.flac", moved, RATE)
            names, ends = read_alignment(options.said / "alignments" / f"{row['utt_id']}.csv")
            told[row["utt_id"]] = names, move(ends, path / teacher.rate)
            write_told(list(zip(*told[row["utt_id"]], strict=True)), options.said / "told" / f"{row['utt_id']}.csv")
        if number % 100 == 0 or number == len(rows):
            print(f"{number} of {len(rows)} recordings, {len(told)} fit", flush=True)
    with (options.pieces / "metadata.csv").open(newline="", encoding="utf-8") as file:
        write_recordings(csv.DictReader(file), options.pieces, told, options.said / "told")


def read(path: Path) -> Wave:
    wave, rate = soundfile.read(path, dtype="float32")
    if rate != RATE or wave.ndim > 1:
        raise SystemExit(f"{path}: {rate} Hz, {wave.ndim} channels; 16,000 Hz and one are needed")
    return wave


def align(first: NDArray[np.floating], second: NDArray[np.floating]) -> tuple[float, NDArray[np.float64]]:
    """Align distributions [n, phones] and [m, phones].

    Returns what they differ by (Bhattacharyya's distance in nats, the mean of the path) and for each frame of the first
    its place in the second, [n], which never falls.
    """
    likeness = np.sqrt(first.clip(0.0)) @ np.sqrt(second.clip(0.0)).T
    distance = -np.log(likeness.clip(1e-4, 1.0))
    _, path = librosa.sequence.dtw(C=distance, step_sizes_sigma=STEPS, weights_mul=COSTS)
    path = path[::-1]
    rows, places = np.unique(path[:, 0], return_inverse=True)
    means = np.bincount(places, path[:, 1]) / np.bincount(places)
    along = np.interp(np.arange(len(first)), rows, means)
    reach = SMOOTH // 2
    padded = np.pad(along, reach, mode="reflect", reflect_type="odd")
    smooth = np.convolve(padded, np.hanning(SMOOTH + 2)[1:-1] / (SMOOTH + 1) * 2, mode="valid")
    return float(distance[path[:, 0], path[:, 1]].mean()), np.maximum.accumulate(smooth)


def warp(wave: Wave, path: NDArray[np.float64], count: int, rate: float = 50.0) -> Wave:
    """Map a wave [n] at RATE to [count]: the moment i / `rate` sounds like the wave at `path[i]` seconds.

    Segments are taken where they go on best from the one before, within REACH of where the path wants them, and
    crossed over, so that pitch stays what it was.
    """
    half = SEGMENT // 2
    padded = np.pad(wave, (SEGMENT + REACH, SEGMENT + 2 * REACH))
    window = np.hanning(SEGMENT + 1)[:-1].astype(np.float32)
    centres = np.arange(0, count + half, half)
    wanted = np.interp(centres / RATE, (np.arange(len(path)) + 0.5) / rate, path + 0.5 / rate) * RATE
    moved = np.zeros(count + 2 * SEGMENT, np.float32)
    following: Wave | None = None
    for centre, place in zip(centres, wanted.clip(0, len(wave)), strict=True):
        begin = round(place) + SEGMENT + REACH - half  # of the segment in `padded`
        if following is not None:
            around = padded[begin - REACH : begin + REACH + SEGMENT]
            energy = np.sqrt(np.convolve(np.square(around), np.ones(SEGMENT), mode="valid") + 1e-6)
            begin += int((np.correlate(around, following, mode="valid") / energy).argmax()) - REACH
        moved[centre : centre + SEGMENT] += window * padded[begin : begin + SEGMENT]
        following = padded[begin + half : begin + half + SEGMENT]
    return moved[half : half + count]


def move(ends: Sequence[float], path: NDArray[np.float64], rate: float = 50.0) -> list[float]:
    """Return moments of the first recording, in seconds, where the path says that they are in the other."""
    return np.interp(ends, (np.arange(len(path)) + 0.5) / rate, path + 0.5 / rate).tolist()


def write_recordings(rows: Iterable[dict[str, str]], pieces: Path, told: dict[str, Told], folder: Path) -> None:
    """Join what the pieces of each recording tell: one after the other, they are named NAME-NUMBER."""
    joined: dict[str, list[tuple[str, float]]] = {}
    begins: dict[str, float] = {}
    for row in rows:
        recording = row["utt_id"].rpartition("-")[0]
        begin, seconds = begins.get(recording, 0.0), soundfile.info(pieces / row["path"]).duration
        names, ends = told.get(row["utt_id"], ([UNKNOWN], [seconds]))
        lines = joined.setdefault(recording, [])
        lines.extend((name, begin + min(end, seconds)) for name, end in zip(names, ends, strict=True))
        begins[recording] = begin + seconds
        lines.append((PAUSE, begins[recording]))
    for recording, lines in joined.items():
        write_told(lines, folder / f"{recording}.csv")


def write_told(lines: Iterable[tuple[str, float]], path: Path) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows((name, f"{end:.3f}") for name, end in lines)


if __name__ == "__main__":
    main()
