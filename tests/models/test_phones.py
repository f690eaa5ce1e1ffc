"""The phoneme head: what was said when, learnt from synthetic speech, heard in speech it was not trained on."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torchaudio

from models import registry
from models.phones import PhoneHead, distributions, phones_at, read_alignment
from models.registry import PROFILES, resolve
from models.streamvoiceanon.training.teachers import PROSODY, PhoneTeacher, prosody

RATE = 16_000
SENTENCE = (
    "ðəbe\u026akɚɹiɔnðəkɔɹnɚklo\u028az\u1d7bzɜliɔnmʌnde\u026az"  # "The bakery on the corner closes early on Mondays."
)


@pytest.fixture(scope="module")
def teacher() -> PhoneTeacher:
    return PhoneTeacher(resolve(PROFILES["embedded"]["whisper"]).path, resolve(registry.PHONES).path)


def test_stress_and_length_belong_to_the_vowel_and_gaps_to_nobody() -> None:
    names = ["", "h", "\u02c8", "i", "\u02d0", " ", "a", ".", ""]
    ends = [0.1, 0.2, 0.3, 0.4, 0.5, 0.56, 0.7, 0.8, 0.9]
    frames = phones_at(names, ends, 10, 10.0)
    assert frames == ["", "h", "i", "i", "i", None, "a", "", "", ""]


def test_a_long_gap_between_words_is_a_pause() -> None:
    assert phones_at(["a", " ", "b"], [0.1, 0.3, 0.4], 4, 10.0) == ["a", "", "", "b"]


@pytest.mark.parametrize(
    "damaged",
    [b"", b"m\n", b"m,0.4,x\n", b"m,soon\n", b"m,nan\n", b"m,0.4\n,inf\n", b"m,0.4\nn,0.3\n", b"m,0.4\n\xff,0.5\n"],
)
def test_an_alignment_that_is_damaged_is_refused_by_name(tmp_path: Path, damaged: bytes) -> None:
    (tmp_path / "a.csv").write_bytes(b",0.1\nm,0.4\nn,0.4\n")
    assert read_alignment(tmp_path / "a.csv") == (["", "m", "n"], [0.1, 0.4, 0.4])
    (tmp_path / "a.csv").write_bytes(damaged)
    with pytest.raises(ValueError, match=r"a\.csv is not an alignment"):
        read_alignment(tmp_path / "a.csv")


def test_a_head_is_read_as_it_was_written(tmp_path: Path) -> None:
    torch.manual_seed(0)
    head = PhoneHead(6, ["", "a", "b"], hidden=4).eval()
    head.metadata = {"whisper": "x"}
    for name in ("one", "two"):
        head.save(tmp_path / name)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    loaded = PhoneHead.load(tmp_path / "one")
    frames = np.random.default_rng(0).normal(size=(9, 6))
    told = distributions(loaded, frames)
    assert loaded.phones == head.phones
    assert loaded.metadata == {"whisper": "x"}
    assert np.allclose(told, distributions(head, frames), atol=1e-2)
    assert np.allclose(told.sum(1), 1.0, atol=1e-5)
    (tmp_path / "other").write_bytes(b"something else")
    with pytest.raises(ValueError, match="is not a phoneme head"):
        PhoneHead.load(tmp_path / "other")


def test_the_embedded_head_hears_the_phonemes_of_a_sentence(teacher: PhoneTeacher, waves: list[np.ndarray]) -> None:
    """The voice is of the sample corpus, whose voices and sentences the head was not trained on."""
    (frames,) = teacher.features(waves[:1])
    names = teacher._head.phones
    best = [names[place] for place in frames[:, : len(names)].argmax(1)]
    heard = [name for place, name in enumerate(best) if name and (not place or name != best[place - 1])]
    wanted = [name for name in SENTENCE if name in names]
    errors = torchaudio.functional.edit_distance(heard, wanted)
    shuffled = torchaudio.functional.edit_distance(list(np.random.default_rng(0).permutation(heard)), wanted)
    assert errors < 0.4 * len(wanted) < shuffled


def test_prosody_tells_how_and_not_who() -> None:
    """A glide of an octave, by a high and loud voice and by a low and soft one."""
    time = np.arange(2 * RATE) / RATE

    def glide(lowest: float, level: float) -> np.ndarray:
        phase = 2 * np.pi * np.cumsum(lowest * 2 ** (time / time[-1])) / RATE
        wave = level * sum(np.sin(k * phase) / k for k in range(1, 6))
        return np.where(time < 1.8, wave, 0.0).astype(np.float32)

    high, low = prosody(glide(150.0, 0.3), 100), prosody(glide(80.0, 0.03), 100)
    assert high.shape == (100, PROSODY)
    voiced = slice(5, 85)
    assert high[voiced, 0].min() == 1.0
    assert high[95:, 0].max() == 0.0
    assert high[80, 1] - high[10, 1] == pytest.approx(70 / 100, abs=0.03)  # octaves
    assert np.allclose(high[voiced, 1], low[voiced, 1], atol=0.02)
    assert np.allclose(high[voiced, 2], low[voiced, 2], atol=0.2)  # tens of decibels: periods pass the windows
    assert high[95:, 2].max() == pytest.approx(-4.0)


def test_prosody_of_silence_is_finite() -> None:
    told = prosody(np.zeros(RATE, np.float32), 50)
    assert np.isfinite(told).all()
    assert not told[:, :2].any()
