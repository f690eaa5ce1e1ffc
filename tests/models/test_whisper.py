"""Whisper hears what was said, and its statistics are those of the speech, not of the padding."""

from pathlib import Path
from typing import Any

import jiwer
import numpy as np
import pytest
from tiny_models import multilingual_whisper
from whisper_normalizer.english import EnglishTextNormalizer

from models.registry import PROFILES, resolve
from models.whisper import FRAME, SAMPLE_RATE, WINDOW, Encoding, Whisper, _windows, frame_statistics


@pytest.fixture(scope="module")
def english() -> Whisper:
    return Whisper(resolve(PROFILES["embedded"]["whisper"]).path)


@pytest.fixture(scope="module")
def multilingual(tmp_path_factory: pytest.TempPathFactory) -> Whisper:
    folder = tmp_path_factory.mktemp("whisper") / "tiny"
    return Whisper(multilingual_whisper(folder, resolve(PROFILES["embedded"]["whisper"]).path))


def word_error_rate(references: list[str], hypotheses: list[str]) -> float:
    normalize = EnglishTextNormalizer()
    return float(jiwer.wer([normalize(text) for text in references], [normalize(text) for text in hypotheses]))


def test_it_understands_clear_speech(english: Whisper, utterances: list[Any]) -> None:
    texts = english.transcribe(english.encode([utterance.wave for utterance in utterances]))
    assert word_error_rate([utterance.text for utterance in utterances], texts) < 0.15


def test_it_makes_no_more_errors_than_plain_faster_whisper(
    english: Whisper, waves: list[np.ndarray], utterances: list[Any]
) -> None:
    from faster_whisper import WhisperModel

    path = resolve(PROFILES["embedded"]["whisper"]).path
    plain = WhisperModel(str(path), device="cpu", compute_type="int8", cpu_threads=1)
    theirs = ["".join(part.text for part in plain.transcribe(wave, language="en")[0]) for wave in waves]
    references = [utterance.text for utterance in utterances]
    ours = english.transcribe(english.encode(waves))
    # about 70 words: a difference of two of them is within what the padding changes
    assert word_error_rate(references, ours) <= word_error_rate(references, theirs) + 0.03


def test_an_utterance_says_the_same_alone_as_among_others(english: Whisper, waves: list[np.ndarray]) -> None:
    together = english.encode(waves[:3])
    [alone] = english.encode([waves[1]])
    assert english.transcribe(together)[1] == english.transcribe([alone])[0]
    np.testing.assert_allclose(frame_statistics(together[1]), frame_statistics(alone), atol=1e-3)


def test_long_audio_is_heard_to_its_end(english: Whisper, utterances: list[Any]) -> None:
    pause = np.zeros(SAMPLE_RATE // 2, np.float32)
    repeated = utterances * 2
    long = np.concatenate([part for utterance in repeated for part in (utterance.wave, pause)])
    assert len(long) > WINDOW
    [encoding] = english.encode([long])
    assert len(encoding.windows) == 2
    assert abs(sum(encoding.frames) - len(long) / FRAME) <= 2
    [text] = english.transcribe([encoding])
    assert word_error_rate([" ".join(utterance.text for utterance in repeated)], [text]) < 0.2


def test_noise_and_hum_say_nothing(english: Whisper) -> None:
    noise = np.random.default_rng(0).normal(0, 0.1, 3 * SAMPLE_RATE).astype(np.float32)
    hum = 0.1 * np.sin(2 * np.pi * 50 * np.arange(3 * SAMPLE_RATE) / SAMPLE_RATE).astype(np.float32)
    assert english.transcribe(english.encode([noise, hum])) == ["", ""]


def test_an_utterance_without_samples_is_heard_without_complaint(english: Whisper) -> None:
    [encoding] = english.encode([np.zeros(0, np.float32)])
    assert encoding.frames == (1,)
    assert np.isfinite(frame_statistics(encoding)).all()
    assert len(english.transcribe([encoding])) == 1


def test_a_loop_is_decoded_again_without_repetition(
    english: Whisper, waves: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = english._generate
    asked: list[int] = []

    def stuck_at_first(windows: np.ndarray, tokenizer: Any, forbid_ngram: int = 0) -> list[str]:
        asked.append(len(windows))
        return real(windows, tokenizer, forbid_ngram) if forbid_ngram else ["again and " * 40, "fine"]

    monkeypatch.setattr(english, "_generate", stuck_at_first)
    same_length = [np.resize(wave, 4 * SAMPLE_RATE) for wave in waves[:2]]
    looped, fine = english.transcribe(english.encode(same_length))
    assert asked == [2, 1]
    assert fine == "fine"
    assert looped
    assert "again and again" not in looped


def test_the_statistics_are_those_of_the_real_frames() -> None:
    frames = np.random.default_rng(0).normal(size=(30, 4)).astype(np.float32)
    padding = np.full((20, 4), 100.0, np.float32)
    encoding = Encoding((np.vstack([frames[:18], padding]), np.vstack([frames[18:], padding])), (18, 12))
    expected = np.concatenate([frames.mean(axis=0), frames.std(axis=0)])
    np.testing.assert_allclose(frame_statistics(encoding), expected, rtol=1e-5)


def test_an_english_model_knows_english_only(english: Whisper, waves: list[np.ndarray]) -> None:
    encodings = english.encode(waves[:1])
    assert not english.is_multilingual
    assert english.languages == ("en",)
    with pytest.raises(ValueError, match="transcribes en, not de"):
        english.transcribe(encodings, language="de")
    with pytest.raises(ValueError, match="cannot detect languages"):
        english.detect_language(encodings)


def test_a_multilingual_model_in_the_published_layout_is_asked_for_the_language(
    multilingual: Whisper, waves: list[np.ndarray]
) -> None:
    encodings = multilingual.encode(waves[:2])
    assert multilingual.is_multilingual
    assert {"en", "de", "fr"} <= set(multilingual.languages)
    assert [window.shape for encoding in encodings for window in encoding.windows] == [(1500, 16)] * 2
    # random weights say nothing sensible, but not the same in two languages
    assert multilingual.transcribe(encodings, "de") != multilingual.transcribe(encodings, "fr")
    for language, probability in multilingual.detect_language(encodings):
        assert language in multilingual.languages
        assert 0 < probability <= 1


def test_a_folder_that_is_not_whole_is_refused_rather_than_completed_from_the_network(tmp_path: Path) -> None:
    whole = resolve(PROFILES["embedded"]["whisper"]).path
    for name in ("config.json", "model.bin"):
        (tmp_path / name).symlink_to(whole / name)
    with pytest.raises(FileNotFoundError, match=r"it has no tokenizer\.json"):
        Whisper(tmp_path)


def test_long_recordings_are_cut_at_whole_frames_and_lose_nothing() -> None:
    wave = np.random.default_rng(0).standard_normal(75 * 16_000 + 7).astype(np.float32)
    windows = list(_windows(wave))
    assert np.array_equal(np.concatenate(windows), wave)
    assert all(len(window) <= WINDOW for window in windows)
    assert all(len(window) % FRAME == 0 for window in windows[:-1])
