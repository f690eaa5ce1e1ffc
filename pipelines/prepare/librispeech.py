"""LibriSpeech (Panayotov et al. 2015) as openslr.org/12 unpacks it.

`<speaker>/<chapter>/<speaker>-<chapter>-<number>.flac`, beside each chapter's audio its `*.trans.txt`, and one
`SPEAKERS.TXT` above the subsets, from which only the gender is taken: the readers' names are not.
"""

from collections.abc import Iterator
from pathlib import Path

from operators.schema import InputError
from pipelines.prepare.index import (
    PreparedIndex,
    Utterance,
    canonical_gender,
    locate_audio,
    require_folder,
    write_index,
)

LABELS = ("text", "gender", "language")


def prepare_librispeech(source: Path, output: Path, embed: bool) -> PreparedIndex:
    """Index the subsets at or below `source`. `gender` is null where no SPEAKERS.TXT is found at it or above it.

    Raises InputError as `write_index` does, and where a transcript or SPEAKERS.TXT is not UTF-8 text.
    """
    root = require_folder(source)
    genders = _read_genders(root)
    skipped: list[str] = []
    rows, speakers, embedded = write_index(_utterances(root, genders, skipped), root, output, LABELS, embed)
    return PreparedIndex(output, rows, speakers, embedded, tuple(skipped))


def _read_genders(root: Path) -> dict[str, str]:
    """Speaker to gender, from the nearest SPEAKERS.TXT: `14 | F | train-clean-360 | 25.03 | name`, `;` a comment."""
    for folder in (root, root.parent):
        table = folder / "SPEAKERS.TXT"
        if table.is_file():
            lines = (line.split("|") for line in _read_text(table).splitlines() if not line.startswith(";"))
            return {fields[0].strip(): canonical_gender(fields[1]) for fields in lines if len(fields) > 1}
    return {}


def _utterances(root: Path, genders: dict[str, str], skipped: list[str]) -> Iterator[Utterance]:
    """Chapter by chapter, so that no more than one chapter's transcripts are held."""
    for chapter in sorted({audio.parent for audio in root.rglob("*.flac")}):
        texts = _read_transcripts(chapter)
        for audio in sorted(chapter.glob("*.flac")):
            speaker, separator, _ = audio.stem.partition("-")
            origin = str(audio.relative_to(root))
            if not separator:
                skipped.append(f"{origin}: not named like a LibriSpeech utterance (84-121123-0000.flac)")
                continue
            labels = {"text": texts.pop(audio.stem, None), "gender": genders.get(speaker), "language": "en"}
            yield Utterance(audio.stem, speaker, locate_audio(root, origin, origin), labels, origin)
        skipped += [f"{utt_id}: transcribed in {chapter.relative_to(root)}, but without audio" for utt_id in texts]


def _read_transcripts(chapter: Path) -> dict[str, str | None]:
    """Utterance to text, as published (capitals, no punctuation)."""
    texts: dict[str, str | None] = {}
    for transcript in sorted(chapter.glob("*.trans.txt")):
        for line in _read_text(transcript).splitlines():
            utt_id, _, text = line.strip().partition(" ")
            if utt_id:
                texts[utt_id] = text.strip() or None
    return texts


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as UTF-8 text; unpack the download again") from error
