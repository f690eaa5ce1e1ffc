"""Disguise actors, so that a language model hears emotion acted and learns nobody's voice.

    python sample/disguise_speech.py --speech ../shared/speech/emodb --output disguised --speakers emodb-03 emodb-08

Reads the folder's metadata.csv (utt_id, speaker_id, path, text, emotion, gender, language) and writes another: each of
the speakers in DISGUISES other voices, whose pitch and vocal tract are moved by amounts drawn for the voice, at 16 kHz.
Nothing else changes, and nothing in time. The speaker's own recording goes to `heard`, for each of his disguises.
"""

import argparse
import csv
import zlib
from pathlib import Path

import numpy as np
import soundfile
import soxr

from models.streamvoiceanon.training.perturb import Wave, shift_tract, shift_voice

RATE = 16_000
DISGUISES = 3
SEMITONES = (1.5, 4.0)  # of pitch and vocal tract together, up or down
COEFFICIENTS = (0.84, 0.94)  # of McAdams, for the vocal tract alone
COLUMNS = ("utt_id", "speaker_id", "path", "text", "emotion", "gender", "language")


def disguise(wave: Wave, voice: str) -> Wave:
    """Return the wave [n] in another voice, always the same one for `voice`; [n]."""
    random = np.random.default_rng(zlib.crc32(voice.encode()))
    semitones = random.uniform(*SEMITONES) * random.choice((-1, 1))
    changed = shift_tract(shift_voice(wave, RATE, 2.0 ** (semitones / 12)), RATE, random.uniform(*COEFFICIENTS))
    return (0.5 * changed / max(0.5, float(np.abs(changed).max()))).astype(np.float32)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--speech", type=Path, required=True, help="folder with metadata.csv")
    parser.add_argument("--output", type=Path, required=True, help="folder to write")
    parser.add_argument("--speakers", nargs="+", required=True, help="whom to disguise")
    options = parser.parse_args()
    for folder in ("audio", "heard"):
        (options.output / folder).mkdir(parents=True, exist_ok=True)
    with (options.speech / "metadata.csv").open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["speaker_id"] in options.speakers]
    with (options.output / "metadata.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(COLUMNS)
        for row in rows:
            wave, rate = soundfile.read(options.speech / row["path"], dtype="float32")
            wave = soxr.resample(wave, rate, RATE)
            for number in range(1, DISGUISES + 1):
                voice, name = f"{row['speaker_id']}d{number}", f"{row['utt_id']}d{number}"
                soundfile.write(options.output / "audio" / f"{name}.flac", disguise(wave, voice), RATE)
                soundfile.write(options.output / "heard" / f"{name}.flac", wave, RATE)
                said = (row["text"], row["emotion"], row["gender"], row["language"])
                table.writerow((name, voice, f"audio/{name}.flac", *said))
    print(f"{len(rows)} utterances of {len({row['speaker_id'] for row in rows})} people in {DISGUISES} voices each")


if __name__ == "__main__":
    main()
