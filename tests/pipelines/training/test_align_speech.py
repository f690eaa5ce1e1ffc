"""Aligning two recordings of a text: by what is heard, and moved without a change of pitch."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

from models.phones import UNKNOWN, phones_at, read_alignment
from pipelines.align_speech import RATE, align, move, warp, write_recordings


def heard(phones: list[int], lengths: list[int], count: int = 6) -> np.ndarray:
    """Distributions [n, count] of a teacher who is rather sure of each phone for so many frames."""
    told = np.full((sum(lengths), count), 0.1 / (count - 1))
    told[np.arange(len(told)), np.repeat(phones, lengths)] = 0.9
    return told


def test_the_same_phones_are_found_however_long_they_last() -> None:
    phones = [0, 1, 2, 3, 4, 0]
    slow, fast = [10, 12, 8, 20, 10, 10], [10, 6, 8, 10, 14, 10]
    cost, path = align(heard(phones, slow), heard(phones, fast))
    ends = move((np.cumsum(slow) / 50.0).tolist(), path / 50.0)
    assert cost < 0.05
    assert np.all(np.diff(path) >= 0)
    assert np.abs(np.array(ends) - np.cumsum(fast) / 50.0)[:-1].max() < 0.07


def test_other_phones_do_not_fit() -> None:
    assert align(heard([0, 1, 2], [20, 20, 20]), heard([3, 4, 5], [20, 20, 20]))[0] > 1.0


@pytest.mark.parametrize("pace", [0.7, 1.0, 1.4])
def test_a_moved_recording_keeps_its_pitch_and_comes_when_it_should(pace: float) -> None:
    time = np.arange(2 * RATE) / RATE
    wave = (np.sin(2 * np.pi * 220 * time) * (time > 1.0)).astype(np.float32)
    count = round(len(wave) / pace)
    path = np.minimum(np.arange(-(-count * 50 // RATE)) * pace, 99) / 50.0
    moved = warp(wave, path, count)
    assert len(moved) == count
    begins = np.flatnonzero(np.abs(moved) > 0.5)[0] / RATE
    assert begins == pytest.approx(1.0 / pace, abs=0.03)
    sounding = moved[round(1.1 / pace * RATE) :][:8_000]
    spectrum = np.abs(np.fft.rfft(sounding * np.hanning(len(sounding))))
    assert np.argmax(spectrum) * RATE / len(sounding) == pytest.approx(220, abs=3)


def test_pieces_make_up_what_their_recording_tells(tmp_path: Path) -> None:
    rows = []
    for name, seconds in (("a-1-0", 1.0), ("a-1-1", 2.0), ("b-1-0", 1.5)):
        soundfile.write(tmp_path / f"{name}.flac", np.zeros(round(seconds * RATE)), RATE)
        rows.append({"utt_id": name, "path": f"{name}.flac"})
    told = {"a-1-1": (["", "m", ""], [0.5, 1.0, 1.9]), "b-1-0": (["m"], [9.0])}
    write_recordings(rows, tmp_path, told, tmp_path)
    names, ends = read_alignment(tmp_path / "a-1.csv")
    assert names[0] == UNKNOWN
    assert phones_at(names, ends, 6, 2.0) == [None, None, "", "m", "", ""]
    assert read_alignment(tmp_path / "b-1.csv")[1] == [1.5, 1.5], "nothing is said after the end"
