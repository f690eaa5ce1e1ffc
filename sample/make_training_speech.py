"""Make synthetic speech to train on: as many utterances as wanted by 144 voices that are nobody's.

48 of the voices are mixtures of Kokoro's own, so that none of them is a voice of the sample corpus; the others are
these played slower and lower, or faster and higher, which costs no synthesis. Texts are sentences of Debian's
fortunes. The environment is that of make_sample.py; the texts are two packages:

    apt-get download fortunes fortunes-min && for file in fortunes*.deb; do dpkg-deb -x $file texts; done
    /tmp/sample/bin/python sample/make_training_speech.py --voices /tmp/package/voices --texts texts --output speech \
        --utterances 2000

Each voice speaks in turn, every other utterance in an expressive manner, so that any number is a fair share of all. The
folder alignments says when each phoneme was said, by the durations that the model computed itself. Audio that is there
already is kept, and metadata.csv tells what there is: stop it and go on as you like. Its index:

    voxveil prepare folder speech --embed --output corpus/synthetic.parquet
"""

import argparse
import csv
import random
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import soundfile
import soxr
from synthesizer import Kokoro
from utterance import SAMPLE_RATE, Spoken, Utterance

VOICES = 48
VARIANTS = {"": 1.0, "s": 0.93, "f": 1.07}  # what is added to a voice's name: how fast it is played
LEFT_OUT = {"af_nicole"}  # whispers
MANNERS = ("neutral", "happy", "neutral", "sad", "neutral", "angry")
LENGTHS = range(30, 121)  # characters of a sentence
SENTENCE = re.compile(r"[A-Z][A-Za-z ,;:'-]+[.?!]")
UNFIT = ("ascii-art", "translate-me", "offensive", "off", "perl", "linux", "debian", "computers", "songs-poems")


def mixtures(names: list[str]) -> list[tuple[str, ...]]:
    """VOICES mixtures of two voices of one gender, two parts to one or one to one; women and men take turns."""
    drawn = random.Random("voices")
    found: list[tuple[str, ...]] = []
    while len(found) < VOICES:
        gender = "fm"[len(found) % 2]
        first, second = drawn.sample([name for name in names if name[1] == gender and name not in LEFT_OUT], 2)
        mixture = (first, second) if len(found) % 4 < 2 else (first, first, second)
        if not any(set(mixture) == set(other) for other in found):
            found.append(mixture)
    return found


def read_sentences(texts: Path) -> list[str]:
    """Sentences of the packages' files, each once, in a shuffled order."""
    sentences = {sentence for text in read_fortunes(texts) for sentence in split(text)}
    return random.Random("sentences").sample(sorted(sentences), len(sentences))


def split(text: str) -> list[str]:
    """The sentences that are plain words: no figures, no quotation, no names in capitals."""
    found = SENTENCE.findall(re.sub(r"\s+", " ", text))
    return [s for s in found if len(s) in LENGTHS and not re.search(r"[A-Z]{2}|--|[A-Z][a-z]*[A-Z]", s)]


def read_fortunes(texts: Path) -> Iterator[str]:
    for path in sorted((texts / "usr/share/games/fortunes").iterdir()):
        if path.suffix or path.is_dir() or path.name in UNFIT:
            continue
        for fortune in path.read_text("utf-8", "ignore").split("\n%\n"):
            yield re.sub(r"\n\s+--.*", "", fortune, flags=re.DOTALL)


def plan(names: list[str], sentences: list[str], count: int) -> list[Utterance]:
    """Who says what, and how: every voice speaks in every manner."""
    voices = mixtures(names)
    return [
        Utterance(
            f"v{n % VOICES + 1:02d}-{n // VOICES + 1:03d}",
            f"v{n % VOICES + 1:02d}",
            voices[n % VOICES],
            MANNERS[(n // VOICES + n) % len(MANNERS)],
            sentences[n],
        )
        for n in range(count)
    ]


def play(samples: np.ndarray, rate: float) -> np.ndarray:
    """The same recording played `rate` times as fast: pitch, vocal tract and tempo move together."""
    return soxr.resample(samples, SAMPLE_RATE * rate, SAMPLE_RATE, quality="VHQ")


def name_variant(utterance: Utterance, suffix: str) -> tuple[str, str]:
    """The ids of an utterance and of its speaker in another variant."""
    number = utterance.utt_id.removeprefix(utterance.speaker_id)
    return f"{utterance.speaker_id}{suffix}{number}", f"{utterance.speaker_id}{suffix}"


def write_table(utterances: list[Utterance], path: Path) -> None:
    """The table that `voxveil prepare folder` reads."""
    columns = ("utt_id", "speaker_id", "path", "text", "emotion", "gender", "language")
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(columns)
        for utterance in utterances:
            for suffix in VARIANTS:
                name, speaker = name_variant(utterance, suffix)
                said = (utterance.text, utterance.emotion, utterance.gender, "en")
                rows.writerow((name, speaker, f"audio/{name}.flac", *said))


def write_alignment(spoken: Spoken, path: Path) -> None:
    """What was said when: a phoneme and its end in seconds a line."""
    with path.open("w", newline="") as file:
        csv.writer(file).writerows((name, f"{end:.3f}") for name, end in zip(spoken.phonemes, spoken.ends, strict=True))


def write_audio(samples: np.ndarray, path: Path) -> None:
    """Write a recording, whole or not at all."""
    partial = path.with_suffix(".partial")
    soundfile.write(partial, samples, SAMPLE_RATE, "PCM_16", format="FLAC")
    partial.replace(path)


def main() -> None:
    parser = argparse.ArgumentParser(description="Make synthetic speech to train on.")
    parser.add_argument("--voices", type=Path, required=True, help="the folder package/voices of npm's kokoro-js")
    parser.add_argument("--texts", type=Path, required=True, help="the folder into which the packages went")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--utterances", type=int, default=2_000)
    parser.add_argument("--threads", type=int, default=0, help="0: one a core")
    arguments = parser.parse_args()
    kokoro = Kokoro(arguments.voices, arguments.threads)
    audio = arguments.output / "audio"
    alignments = arguments.output / "alignments"
    for folder in (audio, alignments):
        folder.mkdir(parents=True, exist_ok=True)
    utterances = plan(sorted(kokoro.styles), read_sentences(arguments.texts), arguments.utterances)
    seconds = 0.0
    for number, utterance in enumerate(utterances, 1):
        path = audio / f"{utterance.utt_id}.flac"
        if path.exists():
            samples, _ = soundfile.read(path, dtype="float32")
        else:
            spoken = kokoro.speak_aligned(utterance)
            samples = spoken.samples
            write_alignment(spoken, alignments / f"{utterance.utt_id}.csv")
        for suffix, rate in VARIANTS.items():
            name, _ = name_variant(utterance, suffix)
            if not (variant := audio / f"{name}.flac").exists():
                write_audio(play(samples, rate), variant)
            seconds += len(samples) / SAMPLE_RATE / rate
        if number % VOICES == 0 or number == len(utterances):
            write_table(utterances[:number], arguments.output / "metadata.csv")
            print(f"{number} utterances, {len(VARIANTS)} times each, {seconds / 60:.1f} minutes", flush=True)


if __name__ == "__main__":
    main()
