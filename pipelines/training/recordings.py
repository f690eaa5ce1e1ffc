"""The recordings of those who say the same: readers, the synthetic voices that say it again, and others.

What `sample/say_again.py` and `pipelines.align_speech` wrote is found here, and heard, for the trainings that let
people be heard as the voices are.
"""

import argparse
import copy
import csv
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from models.streamvoiceanon.frontend import FrameConfig

TOLD_EVERY = 100  # recordings, and steps

Wave = NDArray[np.float32]
Heard = TypeVar("Heard")


@dataclass(frozen=True)
class Recording:
    """Somebody's speech, `kind` of it: a reader's "piece", the same "moved" to the pace of the voice that says it, the
    "voice" itself, or "other" speech. `alignment` says what is said when; the codes wanted are those of `wanted`."""

    kind: str
    speaker: str
    path: Path
    alignment: Path | None
    wanted: Path | None


def parser_of(doc: str, model: str, ways: int, steps: int) -> argparse.ArgumentParser:
    """Return the options of such a training: `model` says which one it takes, and the rest are defaults."""
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    parser.add_argument("--said", type=Path, required=True, help="the folder of say_again.py and align_speech")
    parser.add_argument("--pieces", type=Path, required=True, help="the pieces that it says again")
    parser.add_argument("--others", type=Path, nargs="*", default=[], help="folders of speech whose codes shall stay")
    parser.add_argument("--aside", nargs="*", default=[], help="speakers of the pieces whom no training hears")
    parser.add_argument("--model", type=Path, required=True, help=model)
    parser.add_argument("--into", type=Path, required=True, help="model folder to write")
    parser.add_argument("--ways", type=int, default=ways, help="in how many ways each recording is heard")
    parser.add_argument("--steps", type=int, default=steps)
    parser.add_argument("--threads", type=int, default=2)
    return parser


def check_aside(aside: Iterable[str], recordings: Iterable[Recording]) -> None:
    """Exit with one line where somebody who is set aside is in no recording."""
    if missing := set(aside) - {recording.speaker for recording in recordings}:
        raise SystemExit(f"--aside: nobody is called {', '.join(sorted(missing))}")


def each(hearing: Dataset[Heard], recordings: Sequence[Recording], threads: int) -> Iterator[tuple[Recording, Heard]]:
    """Yield each recording and what `hearing` makes of it, in as many processes where there are several `threads`."""
    loader = DataLoader(hearing, batch_size=None, num_workers=threads if threads > 1 else 0)
    for number, (recording, heard) in enumerate(zip(recordings, loader, strict=True), 1):
        yield recording, copy.deepcopy(heard)  # no worker's file
        if number % TOLD_EVERY == 0 or number == len(recordings):
            print(f"{number} of {len(recordings)} recordings heard", flush=True)


def read_readers(said: Path, pieces: Path) -> Iterator[Recording]:
    """Yield the recordings of each text that fits."""
    speakers = {row["path"]: row["speaker_id"] for row in read_table(pieces)}
    for row in read_table(said):
        name, voice = row["utt_id"], said / row["path"]
        moved, alignment = said / "heard" / f"{name}.flac", said / "alignments" / f"{name}.csv"
        if moved.exists():
            speaker = speakers[row["heard"]]
            yield Recording("piece", speaker, pieces / row["heard"], said / "told" / f"{name}.csv", None)
            yield Recording("moved", speaker, moved, alignment, voice)
            yield Recording("voice", speaker, voice, alignment, voice)


def read_others(folders: Iterable[Path]) -> Iterator[Recording]:
    for folder in folders:
        for row in read_table(folder):
            yield Recording("other", row["speaker_id"], folder / row["path"], None, folder / row["path"])


def read_table(folder: Path) -> list[dict[str, str]]:
    with (folder / "metadata.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def read_wave(path: Path, frames: FrameConfig) -> Wave:
    """Read a wave at a model's rate, with silence up to whole frames."""
    wave, rate = soundfile.read(path, dtype="float32")
    if wave.ndim > 1:
        raise SystemExit(f"{path}: {wave.shape[1]} channels; one is needed")
    if rate != frames.sample_rate:
        wave = soxr.resample(wave, rate, frames.sample_rate)
    return np.pad(wave, (0, -len(wave) % frames.samples))
