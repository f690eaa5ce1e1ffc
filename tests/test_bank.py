"""Choosing a bank's voices: those kept are those that are understood and sound well."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from benchmarks import bank

TEXTS = ["the cat sat down", "every morning birds sing", "good night"]


@pytest.fixture
def ears() -> Any:
    """Ears that hear a wave as its numbers: how many words of which text were said, and how well it sounds."""

    def transcribe(spoken: list[np.ndarray]) -> list[str]:
        return [" ".join(TEXTS[int(text)].split()[: int(words)]) for text, words, _ in spoken]

    def score(spoken: list[np.ndarray]) -> dict[str, np.ndarray]:
        return {"overall": np.array([sound for _, _, sound in spoken])}

    return SimpleNamespace(
        speech=SimpleNamespace(ids=["a", "b", "c"], waves=[0, 1, 2]),
        texts=TEXTS,
        whisper=SimpleNamespace(encode=list, transcribe=transcribe),
        quality=SimpleNamespace(score=score),
    )


def test_each_voice_is_judged_by_its_own_words_and_sound(ears: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    voices = [(4, 2.0), (2, 3.0), (0, 2.5)]  # how many words of a text each says, and how well it sounds
    monkeypatch.setattr(bank, "say", lambda _, waves, own: [(w, n, s) for w, (n, s) in zip(waves, own, strict=True)])
    monkeypatch.setattr(bank, "SPOKEN_AT_ONCE", 4)
    held: Any = type("Bank", (), {"voices": voices, "__len__": lambda self: 3})()
    speaker: Any = None  # `say` needs none here
    misread, quality = bank.judge(speaker, held, ears, 3)
    assert misread == pytest.approx([0.0, 4 / 10, 1.0])
    assert quality == pytest.approx([2.0, 3.0, 2.5])


def test_places_begin_with_the_smallest() -> None:
    assert bank.places(np.array([0.3, 0.1, 0.2])).tolist() == [2, 0, 1]
