"""A small corpus of readers and of what synthetic voices say of them, as the scripts of `sample` would have made it."""

import csv
from pathlib import Path

import numpy as np
import soundfile

RATE = 16_000
READERS = ("anna", "bert")


def write_table(folder: Path, columns: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    with (folder / "metadata.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([columns, *rows])


def write_corpus(folder: Path) -> None:
    """Write two readers' pieces, what voices say of them, one of which does not fit, and an actor at another rate."""
    random = np.random.default_rng(0)
    for name in ("pieces/audio", "again/audio", "again/heard", "again/alignments", "again/told", "actor/audio"):
        (folder / name).mkdir(parents=True)
    pieces, said = [], []
    for number, reader in enumerate((*READERS, "anna")):
        name = f"{reader}-{number}"
        files = [folder / "pieces/audio" / f"{name}.flac", folder / "again/audio" / f"{name}.flac"]
        if number < 2:
            files.append(folder / "again/heard" / f"{name}.flac")
        for path in files:
            soundfile.write(path, 0.1 * random.standard_normal(RATE), RATE)
        for kind in ("alignments", "told"):
            (folder / "again" / kind / f"{name}.csv").write_text(",0.2\ns,0.5\n\u0259,1.0\n", encoding="utf-8")
        pieces.append((name, reader, f"audio/{name}.flac"))
        said.append((name, "v01", f"audio/{name}.flac", f"audio/{name}.flac"))
    write_table(folder / "pieces", ("utt_id", "speaker_id", "path"), pieces)
    write_table(folder / "again", ("utt_id", "speaker_id", "path", "heard"), said)
    soundfile.write(folder / "actor/audio/a.flac", 0.1 * random.standard_normal(22_050), 22_050)
    write_table(folder / "actor", ("utt_id", "speaker_id", "path"), [("a", "carl", "audio/a.flac")])
