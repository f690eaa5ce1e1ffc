"""The commands that the README and `docs/` show, and a small world of corpora in which they can be run."""

import csv
import re
import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models.streamvoiceanon.checkpoint import save_converted
from models.streamvoiceanon.shapes import MINI
from models.streamvoiceanon.training.initial import fresh_networks

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")])
PROGRAM = re.compile(r"(?:[A-Z_]+=\S+ )*(?:voxveil|python|make|export|curl|cat|for|\.venv/bin/\w+)\s")
PROMPT = "$ "


@dataclass(frozen=True)
class Command:
    """A command of a page; `shown` where its output stands below it, as a terminal would show both."""

    page: str
    line: int
    text: str
    shown: bool

    @property
    def words(self) -> list[str]:
        return shlex.split(self.text, comments=True)


def fenced_blocks(page: Path) -> Iterator[tuple[int, str, list[str]]]:
    """Line number of the first line, language and lines of every fenced block."""
    block: list[str] | None = None
    for number, line in enumerate(page.read_text().splitlines(), 1):
        if line.startswith("```") and block is None:
            block, start, language = [], number + 1, line[3:].strip()
        elif line.startswith("```"):
            yield start, language, block or []
            block = None
        elif block is not None:
            block.append(line)


def commands(page: Path) -> list[Command]:
    """The commands in a page's fenced blocks, in order."""
    found = []
    for start, _, lines in fenced_blocks(page):
        for offset, line in enumerate(lines):
            below = lines[offset + 1 : offset + 2]
            shown = line.startswith(PROMPT) and bool(below) and not below[0].startswith(PROMPT)
            text = line.removeprefix(PROMPT)
            while text.endswith("\\"):
                offset += 1
                text = text[:-1] + lines[offset].strip()
            if shown or PROGRAM.match(text + " "):
                found.append(Command(page.name, start + offset, text, shown))
    return found


def inline_commands(page: Path) -> list[Command]:
    """The `voxveil …` commands in a page's running text."""
    prose = re.sub(r"^```.*?^```", lambda block: "\n" * block[0].count("\n"), page.read_text(), flags=re.M | re.S)
    return [
        Command(page.name, prose[: match.start()].count("\n") + 1, " ".join(match[1].split()), False)
        for match in re.finditer(r"`(voxveil [^`]+)`", prose)
    ]


def files(page: Path) -> dict[str, str]:
    """The files that a page shows: blocks whose first line is a comment with a file's name."""
    shown = {}
    for _, _, lines in fenced_blocks(page):
        if lines and (name := re.fullmatch(r"# (\w[\w.-]*\.(?:yaml|csv))", lines[0])):
            shown[name[1]] = "\n".join(lines) + "\n"
    return shown


def build_world(
    folder: Path, few: Callable[[int, int], list[dict[str, Any]]], write_index: Callable[..., Path]
) -> Path:
    """Lay out what the documented commands read, of the sample corpus, and return the folder to run them in."""
    home = folder / "voxveil"
    (home / "corpora").mkdir(parents=True)
    rows = few(4, 2)
    for name in ("voxveil/recordings", "shared/speech/librispeech-test-other", "shared/speech/emodb"):
        write_folder(folder / name, rows)
    write_folder(folder / "shared/speech/librispeech-voices", few(24, 2)[8:])
    write_folder(home / "voices", few(24, 2)[8:])
    write_librispeech(home / "LibriSpeech" / "test-other", rows)
    write_emodb(home / "downloads" / "emodb" / "wav", rows)
    write_vpc(home / "challenge", rows)
    write_index(home / "corpora" / "few.parquet", rows)
    save_converted(home / "weights", fresh_networks(MINI, seed=0), MINI, {})
    write_index(home / "corpora" / "others.parquet", few(24, 2)[8:])
    return home


def write_folder(folder: Path, rows: list[dict[str, Any]]) -> None:
    """A folder of audio with its metadata.csv."""
    folder.mkdir(parents=True)
    with (folder / "metadata.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["utt_id", "speaker_id", "path", "text", "emotion", "gender", "language"])
        for row in rows:
            (folder / f"{row['utt_id']}.flac").write_bytes(row["audio"]["bytes"])
            labels = [row[name] for name in ("text", "emotion", "gender")]
            table.writerow([row["utt_id"], row["speaker_id"], f"{row['utt_id']}.flac", *labels, "en"])


def write_librispeech(folder: Path, rows: list[dict[str, Any]]) -> None:
    """LibriSpeech's layout: a folder a speaker and chapter."""
    speakers = list(dict.fromkeys(row["speaker_id"] for row in rows))
    for row in rows:
        speaker = 100 + speakers.index(row["speaker_id"])
        chapter = folder / str(speaker) / "1"
        chapter.mkdir(parents=True, exist_ok=True)
        name = f"{speaker}-1-{len(list(chapter.glob('*.flac'))):04}"
        (chapter / f"{name}.flac").write_bytes(row["audio"]["bytes"])
        with (chapter / f"{speaker}-1.trans.txt").open("a") as transcript:
            transcript.write(f"{name} {row['text'].upper()}\n")


def write_emodb(folder: Path, rows: list[dict[str, Any]]) -> None:
    """EmoDB's names; the audio is what it is."""
    folder.mkdir(parents=True)
    for index, row in enumerate(rows):
        name = f"{('03', '08', '09', '10')[index // 2]}a0{1 + index % 2}{'NF'[index % 2]}a.wav"
        (folder / name).write_bytes(row["audio"]["bytes"])


def write_vpc(folder: Path, rows: list[dict[str, Any]]) -> None:
    """A data folder of the VoicePrivacy challenge, with enrolments and trials."""
    data = folder / "data" / "libri_dev"
    enrolled, tried = data.with_name("libri_dev_enrolls"), data.with_name("libri_dev_trials_f")
    for part in (data, enrolled, tried, folder / "audio"):
        part.mkdir(parents=True)
    for row in rows:
        (folder / "audio" / f"{row['utt_id']}.flac").write_bytes(row["audio"]["bytes"])
    (data / "wav.scp").write_text("".join(f"{row['utt_id']} audio/{row['utt_id']}.flac\n" for row in rows))
    (data / "utt2spk").write_text("".join(f"{row['utt_id']} {row['speaker_id']}\n" for row in rows))
    (data / "text").write_text("".join(f"{row['utt_id']} {row['text']}\n" for row in rows))
    enrolments, trials = rows[::2], rows[1::2]
    (enrolled / "enrolls").write_text("".join(f"{row['utt_id']}\n" for row in enrolments))
    kind = {True: "target", False: "nontarget"}
    (tried / "trials").write_text(
        "".join(
            f"{model['speaker_id']} {trial['utt_id']} {kind[model['speaker_id'] == trial['speaker_id']]}\n"
            for model in enrolments
            for trial in trials
        )
    )
