"""Cut long recordings at their pauses into pieces of a few seconds, and write down what Whisper hears in each.

    python sample/cut_speech.py --speech ../shared/speech/librispeech-voices --output pieces

Reads the folder's metadata.csv (utt_id, speaker_id, path) and writes another of the pieces, their text included, which
is what a content encoder learns to spell from. The text is the embedded Whisper's, with its errors. The index:

    voxveil prepare folder pieces --embed --output corpus/pieces.parquet
"""

import argparse
import csv
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

from models import registry
from models.whisper import Whisper

RATE = 16_000
SHORTEST, LONGEST = 2.5, 6.0  # seconds
STEP = RATE // 100

Wave = NDArray[np.float32]


def cut(wave: Wave) -> Iterator[Wave]:
    """Yield pieces of SHORTEST to LONGEST seconds, cut where those seconds are quietest, and a rest of one or more."""
    while len(wave) > LONGEST * RATE:
        first, last = round(SHORTEST * RATE), round(LONGEST * RATE)
        power = np.square(wave[first:last]).reshape(-1, STEP).sum(1)
        place = first + STEP * (int(np.convolve(power, np.ones(10), mode="valid").argmin()) + 5)
        yield wave[:place]
        wave = wave[place:]
    if len(wave) > RATE:
        yield wave


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--speech", type=Path, required=True, help="folder with metadata.csv, 16 kHz, one channel")
    parser.add_argument("--output", type=Path, required=True, help="folder to write")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    whisper = Whisper(registry.resolve(registry.PROFILES["embedded"]["whisper"]).path, threads=options.threads)
    (options.output / "audio").mkdir(parents=True, exist_ok=True)
    with (options.speech / "metadata.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    with (options.output / "metadata.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(("utt_id", "speaker_id", "path", "text"))
        for done, row in enumerate(rows, 1):
            wave, rate = soundfile.read(options.speech / row["path"], dtype="float32")
            if rate != RATE or wave.ndim > 1:
                raise SystemExit(f"{row['path']}: {rate} Hz, {wave.ndim} channels; 16,000 Hz and one are needed")
            pieces = list(cut(wave))
            for number, (piece, text) in enumerate(
                zip(pieces, whisper.transcribe(whisper.encode(pieces)), strict=True)
            ):
                name = f"{row['utt_id']}-{number}"
                soundfile.write(options.output / "audio" / f"{name}.flac", piece, RATE)
                table.writerow((name, row["speaker_id"], f"audio/{name}.flac", text))
            if done % 50 == 0:
                print(f"{done} of {len(rows)} recordings")


if __name__ == "__main__":
    main()
