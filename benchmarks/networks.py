"""How well networks attack people whom they never heard: equal error rates on a folder of speech.

    python -m benchmarks.networks --speech ../shared/speech/librispeech-test-other voxveil-out/attackers/<digest> …

The speech is anonymized with `mcadams` twice, with a key for the release and with another for the attacker, who enrols
their own; `original` is speech that nobody anonymized. Networks are folders that `voxveil attacker train` wrote; GE2E,
which was never trained on anonymized speech, is there to compare with.
"""

import argparse
import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import soundfile
import torch

from metrics.trials import cosine_trials, split_enrolment_trial
from metrics.verification import evaluate_verification
from models import registry, speaker
from models.catalogue import AnonymizerSpec, load_anonymizer
from models.speaker import SpeakerEncoder
from operators.keys import derive_key, keyed_seed

RATE = 16_000


def read_speech(folder: Path) -> tuple[list[str], list[str], list[np.ndarray]]:
    """Return ids, speakers and waves of a folder with a `metadata.csv`."""
    with (folder / "metadata.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    waves = [soundfile.read(folder / row["path"], dtype="float32")[0] for row in rows]
    return [row["utt_id"] for row in rows], [row["speaker_id"] for row in rows], waves


def anonymize(ids: Sequence[str], waves: Sequence[np.ndarray], version: str) -> list[np.ndarray]:
    """Return the waves as `mcadams` speaks them with the key of a version."""
    anonymizer = load_anonymizer(AnonymizerSpec("mcadams"), RATE)
    key = derive_key(version.encode() * 4, "voices")
    spoken = []
    for utt_id, wave in zip(ids, waves, strict=True):
        voice = anonymizer.draw_voice(keyed_seed(key, "voice", utt_id))
        spoken.append(anonymizer.anonymize([torch.from_numpy(wave)], [voice], [0])[0].numpy().astype(np.float32))
    return spoken


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--speech", type=Path, required=True, help="folder with metadata.csv, of people to attack")
    parser.add_argument("networks", type=Path, nargs="*", help="folders of trained networks")
    options = parser.parse_args()
    ids, speakers, waves = read_speech(options.speech)
    split, by = split_enrolment_trial(ids, speakers, 0), np.array(speakers)
    released, own = anonymize(ids, waves, "released"), anonymize(ids, waves, "attacker")
    encoders: dict[str, SpeakerEncoder] = {
        "GE2E": speaker.load(registry.resolve(registry.PROFILES["embedded"]["speaker"]).path)
    }
    encoders |= {folder.name[:12]: speaker.load(folder) for folder in options.networks}
    print("| encoder | original | `mcadams` |\n|---|---|---|")
    for name, encoder in encoders.items():
        cells = []
        for known, tried in ((waves, waves), (own, released)):
            sides = [
                (encoder.embed([side[row] for row in rows]), by[rows])
                for side, rows in ((known, split.enrolment), (tried, split.trial))
            ]
            rate = evaluate_verification(cosine_trials(*sides[0], *sides[1]), 0)["eer"]
            cells.append(f"{rate.value:.3f} ({rate.lower:.3f} to {rate.upper:.3f})")
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
