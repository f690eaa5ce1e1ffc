"""Make synthetic speech to train on: as many utterances as wanted by 80 voices that are nobody's.

Every voice is a mixture of Kokoro's own, so that none of them is a voice of the sample corpus. Texts are sentences of
Debian's fortunes. The environment is that of make_sample.py; the texts are two packages:

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

import soundfile
from synthesizer import SAMPLE_RATE, Kokoro, Spoken, Utterance

VOICES = 80
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


def write_table(utterances: list[Utterance], path: Path) -> None:
    """The table that `voxveil prepare folder` reads."""
    columns = ("utt_id", "speaker_id", "path", "text", "emotion", "gender", "language")
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(columns)
        rows.writerows(
            (u.utt_id, u.speaker_id, f"audio/{u.utt_id}.flac", u.text, u.emotion, u.gender, "en") for u in utterances
        )


def write_alignment(spoken: Spoken, path: Path) -> None:
    """What was said when: a phoneme and its end in seconds a line."""
    with path.open("w", newline="") as file:
        csv.writer(file).writerows((name, f"{end:.3f}") for name, end in zip(spoken.phonemes, spoken.ends, strict=True))


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
            seconds += soundfile.info(path).duration
            continue
        spoken = kokoro.speak_aligned(utterance)
        samples = spoken.samples
        write_alignment(spoken, alignments / f"{utterance.utt_id}.csv")
        partial = path.with_suffix(".partial")
        soundfile.write(partial, samples, SAMPLE_RATE, "PCM_16", format="FLAC")
        partial.replace(path)
        seconds += len(samples) / SAMPLE_RATE
        if number % VOICES == 0 or number == len(utterances):
            write_table(utterances[:number], arguments.output / "metadata.csv")
            print(f"{number} utterances, {seconds / 60:.1f} minutes", flush=True)


if __name__ == "__main__":
    main()
