"""`benchmarks.choices`: its attacker learns from other people's speech, and words are compared in pairs."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from benchmarks import choices
from benchmarks.choices import Ears, Speech


def speech(speakers: list[str]) -> Speech:
    count = len(speakers)
    nothing: list[str | None] = [None] * count
    waves = [np.zeros(16, np.float32)] * count
    return Speech([f"u{number}" for number in range(count)], speakers, nothing, nothing, waves)


def test_the_attacker_sees_what_stays_the_same_for_a_person() -> None:
    """What differs between a person's recordings is loud in the embeddings, and who speaks is quiet."""
    random = np.random.default_rng(0)
    names = [f"s{number // 4}" for number in range(80)]
    who = np.repeat(random.standard_normal((20, 2)), 4, axis=0)
    embeddings = np.concatenate([10.0 * random.standard_normal((80, 2)), who], axis=1).astype(np.float32)
    ears: Any = object.__new__(Ears)
    ears.encoder = SimpleNamespace(embed=lambda waves: embeddings[: len(waves)])
    others = speech(names)
    attacker = ears.train_attacker(others, others.waves)
    assert (attacker.speakers, attacker.utterances) == (20, 80)
    noise, voice = np.eye(4, dtype=np.float32)[[0, 2]]
    moved = attacker.project(np.stack([np.zeros(4, np.float32), noise, voice]))
    assert np.linalg.norm(moved[2] - moved[0]) > 5 * np.linalg.norm(moved[1] - moved[0])


def test_words_are_compared_with_those_of_the_first_setting_utterance_by_utterance(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    contour = np.linspace(100.0, 200.0, 40)
    monkeypatch.setattr(choices, "fundamental_frequency", lambda wave: contour)
    ears: Any = object.__new__(Ears)
    ears.speech, ears.first, ears.emotions = speech(["a", "a", "b", "b"]), None, ["neutral"] * 4
    ears.texts, ears.pitch, ears.other = ["red hat"] * 4, [contour] * 4, None
    ears.quality = SimpleNamespace(score=lambda waves: {"overall": np.full(len(waves), 3.0)})
    ears.encoder = SimpleNamespace(embed=lambda waves: np.eye(4, dtype=np.float32)[: len(waves)])

    def figures_of(heard: list[str]) -> dict[str, Any]:
        ears.listen = lambda waves: (heard, ["neutral"] * len(waves))
        return ears.measure(ears.speech.waves, [ears.speech.waves] * 2, None)

    first = figures_of(["red hat", "red cat"] * 4)
    second = figures_of(["red hat", "bad cat"] * 4)
    assert (first["WER"].value, first["vs first"].value) == (0.25, 0.0)
    assert (second["WER"].value, second["vs first"].value) == (0.5, 0.25)
    assert second["vs first"].lower == pytest.approx(0.25), "every speaker loses as much"
    assert "WER, other" not in first
    ears.others_texts = ["a red hat"] * 4
    ears.other = SimpleNamespace(encode=lambda waves: waves, transcribe=lambda heard: ["a red cat"] * len(heard))
    assert figures_of(["red hat"] * 8)["WER, other"].value == pytest.approx(1 / 3), "against its own texts"


@pytest.mark.parametrize(
    ("others", "said"),
    [(["a", "c", "c"], "a would be attacked by who was trained on them"), (["c", "c", "d"], "two people with two")],
)
def test_who_is_attacked_trains_nobody_and_one_person_is_too_few(
    monkeypatch: pytest.MonkeyPatch, others: list[str], said: str
) -> None:
    monkeypatch.setattr(choices, "read_speech", lambda folder: speech(others if folder.name == "o" else ["a", "b"]))
    monkeypatch.setattr(choices, "Ears", None)
    asked = ["choices", "--model", "m", "--voices", "v", "--speech", "s", "--others", "o"]
    monkeypatch.setattr("sys.argv", asked)
    with pytest.raises(SystemExit, match=said):
        choices.main()


def test_people_are_recognised_by_what_all_draws_keep_of_them() -> None:
    random, names = np.random.default_rng(0), [f"s{number // 4}" for number in range(40)]
    who = np.repeat(np.eye(10), 4, axis=0)
    ears: Any = object.__new__(Ears)
    ears.speech = speech(names)
    assert ears.recognise(who, [who, who]).value == 0.0
    told = ears.recognise(who, [who, random.standard_normal((40, 10))])
    assert 0.1 < told.value < 0.4, "half of the draws tell nothing"
    assert ears.recognise(who, [random.standard_normal((40, 10)) for _ in range(4)]).value > 0.35


def test_a_setting_is_read_or_refused() -> None:
    assert choices.read_setting("delay=2,context=full") == {"delay": 2, "context": "full"}
    with pytest.raises(SystemExit, match="prosody is one of auto, full, reduced, not half"):
        choices.read_setting("prosody=half")
    with pytest.raises(SystemExit, match="context is one of auto, full, causal, not ful"):
        choices.read_setting("context=ful")
    with pytest.raises(SystemExit, match="'speed' is no setting"):
        choices.read_setting("speed=2")
