"""Synthetic voices say what people said: about as fast, what is there is kept, and the table names the recording."""

import csv
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import soundfile

from models.phones import read_alignment

RATE = 16_000
TEXTS = {"a-1-0": ("Good night.", 0.2), "a-1-1": ("x" * 35, 2.0), "a-1-2": ("... 12!", 1.0), "b-1-0": ("x" * 7, 4.0)}


class Kokoro:
    """A synthesizer that has a token a letter, hums for a second, and remembers how fast it was to say what."""

    paces: dict[str, float]

    def __init__(self, voices: Path, threads: int = 0) -> None:
        self.styles = {f"a{gender}_{number}": voices for gender in "fm" for number in range(10)}

    def tokens(self, text: str, voice: tuple[str, ...]) -> list[int]:
        return [1] * len(text)

    def speak_aligned(self, said: Any, pace: float = 1.0) -> Any:
        self.paces[said.utt_id] = pace
        return sys.modules["utterance"].Spoken(
            0.1 * np.sin(np.arange(RATE) * 0.05), ["", "m", ""], np.array([0.1, 0.8, 1.0])
        )


@pytest.fixture
def say_again(
    sample_script: Callable[[str], ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[], dict[str, float]]:
    """A function that runs the command on pieces in `pieces`, into `again`; returns how fast each piece was said."""
    synthesizer = ModuleType("synthesizer")
    synthesizer.Kokoro = Kokoro  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "synthesizer", synthesizer)
    for name in ("utterance", "make_training_speech"):
        monkeypatch.setitem(sys.modules, name, sample_script(name))
    script = sample_script("say_again")
    pieces = tmp_path / "pieces"
    pieces.mkdir()
    with (pieces / "metadata.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(("utt_id", "speaker_id", "path", "text"))
        for name, (text, seconds) in TEXTS.items():
            soundfile.write(pieces / f"{name}.flac", np.zeros(round(seconds * RATE)), RATE)
            table.writerow((name, "reader", f"{name}.flac", text))
    command = ["say_again.py", "--voices", "voices", "--pieces", str(pieces), "--output", str(tmp_path / "again")]

    def run() -> dict[str, float]:
        monkeypatch.setattr(sys, "argv", command)
        monkeypatch.setattr(Kokoro, "paces", {}, raising=False)
        script.main()
        return Kokoro.paces

    return run


def test_each_piece_is_said_about_as_fast_as_it_was(say_again: Callable[[], dict[str, float]]) -> None:
    """At 17.5 tokens a second; 1.4 times that at most, and 0.75 times at least."""
    assert say_again() == pytest.approx({"a-1-0": 1.4, "a-1-1": 1.0, "b-1-0": 0.75})


def test_the_table_names_who_says_it_and_whom_they_repeat(
    say_again: Callable[[], dict[str, float]], tmp_path: Path
) -> None:
    say_again()
    with (tmp_path / "again" / "metadata.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["utt_id", "speaker_id", "path", "text", "emotion", "gender", "language", "heard"]
    assert [tuple(row.values()) for row in rows] == [
        ("a-1-0", "v01", "audio/a-1-0.flac", "Good night.", "neutral", "f", "en", "a-1-0.flac"),
        ("a-1-1", "v02", "audio/a-1-1.flac", "x" * 35, "neutral", "m", "en", "a-1-1.flac"),
        ("b-1-0", "v04", "audio/b-1-0.flac", "x" * 7, "neutral", "m", "en", "b-1-0.flac"),
    ], "a piece without a letter is left out"
    for row in rows:
        assert soundfile.info(tmp_path / "again" / row["path"]).samplerate == RATE
        alignment = read_alignment(tmp_path / "again" / "alignments" / f"{row['utt_id']}.csv")
        assert alignment == (["", "m", ""], [0.1, 0.8, 1.0])


def test_audio_that_is_there_is_kept_and_stays_in_the_table(
    say_again: Callable[[], dict[str, float]], tmp_path: Path
) -> None:
    say_again()
    audio, table = tmp_path / "again" / "audio", tmp_path / "again" / "metadata.csv"
    before = table.read_text()
    (audio / "a-1-1.flac").unlink()
    (audio / "b-1-0.flac").write_bytes(b"as it was")
    assert list(say_again()) == ["a-1-1"]
    assert (audio / "b-1-0.flac").read_bytes() == b"as it was"
    assert table.read_text() == before
