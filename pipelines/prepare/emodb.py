"""The Berlin Database of Emotional Speech (EmoDB, Burkhardt et al. 2005) as it is downloaded: `wav/03a01Fa.wav`.

A file's name says all: two digits of speaker, three characters of text, a letter of emotion, a letter of version.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from pipelines.prepare.index import (
    PreparedIndex,
    Utterance,
    canonical_emotion,
    locate_audio,
    require_folder,
    write_index,
)

LABELS = ("text", "emotion", "gender", "language")

TEXTS = {
    "a01": "Der Lappen liegt auf dem Eisschrank.",
    "a02": "Das will sie am Mittwoch abgeben.",
    "a04": "Heute abend könnte ich es ihm sagen.",
    "a05": "Das schwarze Stück Papier befindet sich da oben neben dem Holzstück.",
    "a07": "In sieben Stunden wird es soweit sein.",
    "b01": "Was sind denn das für Tüten, die da unter dem Tisch stehen?",
    "b02": "Sie haben es gerade hochgetragen und jetzt gehen sie wieder runter.",
    "b03": "An den Wochenenden bin ich jetzt immer nach Hause gefahren und habe Agnes besucht.",
    "b09": "Ich will das eben wegbringen und dann mit Karl was trinken gehen.",
    "b10": "Die wird auf dem Platz sein, wo wir sie immer hinlegen.",
}
EMOTIONS = {  # initials of the German words: Wut, Langeweile, Ekel, Angst, Freude, Trauer, neutral
    "W": "anger",
    "L": "boredom",
    "E": "disgust",
    "A": "fear",
    "F": "happiness",
    "T": "sadness",
    "N": "neutral",
}
GENDERS = dict.fromkeys(("03", "10", "11", "12", "15"), "m") | dict.fromkeys(("08", "09", "13", "14", "16"), "f")
NAME = re.compile(
    rf"(?P<speaker>{'|'.join(GENDERS)})(?P<text>{'|'.join(TEXTS)})(?P<emotion>[{''.join(EMOTIONS)}])[a-z]", re.ASCII
)


def prepare_emodb(source: Path, output: Path, embed: bool) -> PreparedIndex:
    """Index the download at `source`, which holds `wav/` or is it. Raises InputError as `write_index` does."""
    root = require_folder(source)
    folder = root / "wav" if (root / "wav").is_dir() else root
    skipped: list[str] = []
    rows, speakers, embedded = write_index(_utterances(folder, skipped), folder, output, LABELS, embed)
    return PreparedIndex(output, rows, speakers, embedded, tuple(skipped))


def _utterances(folder: Path, skipped: list[str]) -> Iterator[Utterance]:
    """One utterance a file, by name; a file that is not named as EmoDB names its own goes to `skipped`."""
    for path in sorted(folder.iterdir()):
        name = NAME.fullmatch(path.stem)
        if path.suffix.lower() != ".wav" or name is None:
            skipped.append(f"{path.name}: not named like an EmoDB recording (03a01Fa.wav)")
            continue
        labels = {
            "text": TEXTS[name["text"]],
            "emotion": canonical_emotion(EMOTIONS[name["emotion"]]),
            "gender": GENDERS[name["speaker"]],
            "language": "de",
        }
        yield Utterance(path.stem, name["speaker"], locate_audio(folder, path.name, path.name), labels, path.name)
