"""Disguising actors: other voices, each always the same, that say the same at the same moments with the same labels."""

import csv
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import soundfile
import soxr

from models.pitch import fundamental_frequency

RATE = 16_000
HEADER = ("utt_id", "speaker_id", "path", "text", "emotion", "gender", "language")


@pytest.fixture(scope="module")
def script(sample_script: Callable[[str], ModuleType]) -> ModuleType:
    return sample_script("disguise_speech")


def semitones(wave: np.ndarray, other: np.ndarray) -> float:
    """How much higher the other is, where both have a pitch."""
    ratios = np.log2(fundamental_frequency(other) / fundamental_frequency(wave))
    return 12 * float(np.nanmedian(ratios))


def test_a_voice_has_another_pitch_always_the_same_and_keeps_the_time(
    script: ModuleType, sample_wave: np.ndarray
) -> None:
    moved = [semitones(sample_wave, script.disguise(sample_wave, f"a{number}")) for number in range(1, 6)]
    low, high = script.SEMITONES
    # Half a semitone: F0 is measured on frames that the vocal tract's move disturbs.
    assert all(low - 0.5 < abs(each) < high + 0.5 for each in moved)
    assert min(moved) < 0 < max(moved)
    disguised = script.disguise(sample_wave, "a1")
    assert np.array_equal(disguised, script.disguise(sample_wave, "a1"))
    assert disguised.shape == sample_wave.shape
    spoken, again = (soxr.resample(np.square(wave), RATE, 50) for wave in (sample_wave, disguised))
    assert np.corrcoef(spoken, again)[0, 1] > 0.6, "what is loud is loud at the same moment"


def test_full_scale_stays_within_it(script: ModuleType, sample_wave: np.ndarray) -> None:
    loud = sample_wave / np.abs(sample_wave).max()
    assert np.abs(script.disguise(loud, "a1")).max() <= 0.5 + 1e-6


@pytest.fixture(scope="module")
def written(
    script: ModuleType, sample_wave: np.ndarray, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, list[dict[str, str]]]:
    """What the command makes of a recording at 16 kHz, one at 44.1 kHz, and one by somebody who is not asked for."""
    speech, output = tmp_path_factory.mktemp("speech"), tmp_path_factory.mktemp("disguised")
    soundfile.write(speech / "one.flac", sample_wave, RATE)
    soundfile.write(speech / "two.flac", soxr.resample(sample_wave, RATE, 44_100), 44_100)
    soundfile.write(speech / "three.flac", sample_wave, RATE)
    with (speech / "metadata.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(HEADER)
        table.writerow(("one", "a", "one.flac", 'Er sagt: "Für dich, mein Lieber."', "anger", "f", "de"))
        table.writerow(("two", "b", "two.flac", "Good night.", "sadness", "m", "en"))
        table.writerow(("three", "c", "three.flac", "Good night.", "neutral", "m", "en"))
    command = ["disguise_speech.py", "--speech", str(speech), "--output", str(output), "--speakers", "a", "b"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", command)
        script.main()
    with (output / "metadata.csv").open(newline="", encoding="utf-8") as file:
        return output, list(csv.DictReader(file))


def test_each_becomes_several_people_with_the_labels_that_it_had(
    script: ModuleType, written: tuple[Path, list[dict[str, str]]]
) -> None:
    output, rows = written
    assert tuple(rows[0]) == HEADER
    assert [row["utt_id"] for row in rows] == ["oned1", "oned2", "oned3", "twod1", "twod2", "twod3"]
    assert [row["speaker_id"] for row in rows] == ["ad1", "ad2", "ad3", "bd1", "bd2", "bd3"]
    labels = [tuple(row[name] for name in HEADER[3:]) for row in rows]
    assert labels[:3] == [('Er sagt: "Für dich, mein Lieber."', "anger", "f", "de")] * script.DISGUISES
    assert labels[3:] == [("Good night.", "sadness", "m", "en")] * script.DISGUISES
    for folder in ("audio", "heard"):
        assert sorted(path.name for path in (output / folder).iterdir()) == [f"{row['utt_id']}.flac" for row in rows]


def test_recordings_of_any_rate_come_at_16_khz_and_last_as_long(
    sample_wave: np.ndarray, written: tuple[Path, list[dict[str, str]]]
) -> None:
    output, rows = written
    for row in rows:
        wave, rate = soundfile.read(output / row["path"], dtype="float32")
        assert rate == RATE
        assert abs(len(wave) - len(sample_wave)) <= 2, "resampling there and back may differ by a sample of rounding"
        assert abs(semitones(sample_wave, wave[: len(sample_wave)][: len(wave)])) > 1.0
        own, rate = soundfile.read(output / "heard" / f"{row['utt_id']}.flac", dtype="float32")
        assert (len(own), rate) == (len(wave), RATE)
        assert abs(semitones(sample_wave, own[: len(sample_wave)][: len(own)])) < 0.1, "the actor's own recording"
