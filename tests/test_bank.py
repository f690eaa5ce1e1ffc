"""Choosing a bank's voices: those kept are those that are understood and sound well."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks import bank
from models.streamvoiceanon import VoiceBank
from models.streamvoiceanon.voices import Voice

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


def test_of_each_voice_the_best_prompt_is_kept(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = [f"voice-{number:05d}" for number in (0, 1, 2, 4, 5, 7)]  # 3 and 6 were left out
    codes = torch.zeros(3, dtype=torch.int64)
    voices = [Voice(codes, codes.expand(8, -1), torch.zeros(160), torch.zeros(0, 0), name) for name in names]
    VoiceBank(voices).save(tmp_path / "all.parquet")
    misread, quality = np.array([0.1, 0.2, 0.9, 0.3, 0.8, 0.7]), np.array([3.0, 2.9, 2.0, 2.8, 2.1, 2.2])
    monkeypatch.setattr(bank, "judge", lambda *_: (misread, quality))
    monkeypatch.setattr(bank, "Ears", lambda *_: None)
    monkeypatch.setattr(bank, "read_speech", lambda _: None)
    monkeypatch.setattr(bank.StreamVoiceAnon, "from_pretrained", lambda _: None)
    asked = ["--model", "m", "--voices", str(tmp_path / "all.parquet"), "--speech", "s", "--keep", "2"]
    monkeypatch.setattr("sys.argv", ["bank", *asked, "--prompts", "2", "--into", str(tmp_path / "best.parquet")])
    bank.main()
    assert [voice.voice_id for voice in VoiceBank.load(tmp_path / "best.parquet").voices] == [names[0], names[3]]
    assert "| kept, 2 | 0.200 | 2.900 |" in capsys.readouterr().out
    monkeypatch.setattr("sys.argv", ["bank", *asked, "--prompts", "0", "--into", str(tmp_path / "no.parquet")])
    with pytest.raises(SystemExit):
        bank.main()
    assert "a voice has one at least" in capsys.readouterr().err
