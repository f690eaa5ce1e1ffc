"""Let synthetic voices say what real people said, so that a language model hears people and speaks as nobody.

The environment is that of make_sample.py, the pieces are those of cut_speech.py:

    /tmp/sample/bin/python sample/say_again.py --voices /tmp/package/voices --pieces pieces --output again

Each piece is said by one of the voices of make_training_speech.py, in turn, about as fast as it was said. Audio that is
there already is kept. What follows is `pipelines.align_speech`, which moves the
people's words to the moments at which the synthesizer said them.
"""

import argparse
import csv
from pathlib import Path

import soundfile
from make_training_speech import VOICES, mixtures, write_alignment, write_audio
from synthesizer import Kokoro
from utterance import Utterance

TOKENS_PER_SECOND = 17.5  # of the synthesizer at its own speed
SLOWEST, FASTEST = 0.75, 1.4
COLUMNS = ("utt_id", "speaker_id", "path", "text", "emotion", "gender", "language", "heard")


def main() -> None:
    parser = argparse.ArgumentParser(description="Let synthetic voices say what real people said.")
    parser.add_argument("--voices", type=Path, required=True, help="the folder package/voices of npm's kokoro-js")
    parser.add_argument("--pieces", type=Path, required=True, help="what cut_speech.py wrote")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=0, help="0: one a core")
    arguments = parser.parse_args()
    kokoro = Kokoro(arguments.voices, arguments.threads)
    voices = mixtures(sorted(kokoro.styles))
    for folder in ("audio", "alignments"):
        (arguments.output / folder).mkdir(parents=True, exist_ok=True)
    with (arguments.pieces / "metadata.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    with (arguments.output / "metadata.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(COLUMNS)
        for number, row in enumerate(rows):
            if not any(letter.isalpha() for letter in row["text"]):
                continue
            place = number % VOICES
            said = Utterance(row["utt_id"], f"v{place + 1:02d}", voices[place], "neutral", row["text"])
            audio = Path("audio") / f"{said.utt_id}.flac"
            if not (arguments.output / audio).exists():
                tokens = len(kokoro.tokens(said.text, said.voice))
                seconds = soundfile.info(arguments.pieces / row["path"]).duration
                pace = min(max(tokens / seconds / TOKENS_PER_SECOND, SLOWEST), FASTEST)
                spoken = kokoro.speak_aligned(said, pace)
                write_alignment(spoken, arguments.output / "alignments" / f"{said.utt_id}.csv")
                write_audio(spoken.samples, arguments.output / audio)
            named = (said.utt_id, said.speaker_id, audio, said.text, said.emotion, said.gender, "en")
            table.writerow((*named, row["path"]))
            if (number + 1) % 50 == 0:
                print(f"{number + 1} of {len(rows)} pieces", flush=True)


if __name__ == "__main__":
    main()
