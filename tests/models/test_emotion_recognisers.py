"""The emotion recognisers load what they should, refuse what they must, and tell emotions apart."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import soxr
import torch
from tiny_models import wav2vec2_emotion

from models.emotion import CLASSES, EmotionHead, SpeechBrainEmotion, canonical
from models.registry import KNOWN, PROFILES, resolve
from models.whisper import Whisper, frame_statistics


@pytest.fixture(scope="module")
def head() -> EmotionHead:
    return EmotionHead.load(resolve(PROFILES["embedded"]["emotion"]).path)


def test_the_embedded_head_was_trained_on_the_whisper_that_the_profile_pins(head: EmotionHead) -> None:
    assert head.metadata["whisper_sha256"] == KNOWN[PROFILES["embedded"]["whisper"]].digests["model.bin"]


@pytest.mark.parametrize(
    ("label", "expected"),
    [
        ("happiness", "happy"),
        (" Anger ", "angry"),
        ("NEU", "neutral"),
        ("sadness", "sad"),
        ("boredom", None),
        ("", None),
    ],
)
def test_labels_of_corpora_become_the_classes(label: str, expected: str | None) -> None:
    assert canonical(label) == expected


def test_the_committed_head_says_how_well_it_does_on_speakers_it_never_heard(head: EmotionHead) -> None:
    figures = json.loads(head.metadata["leave_one_speaker_out_uar"])
    assert figures["value"] >= 0.86
    assert figures["lower"] < figures["value"] < figures["upper"]


def test_the_committed_head_names_the_encoder_it_was_trained_on(head: EmotionHead) -> None:
    assert head.metadata["whisper_sha256"] == resolve(PROFILES["embedded"]["whisper"]).digests["model.bin"]


def test_probabilities_are_a_distribution(head: EmotionHead) -> None:
    statistics = np.random.default_rng(0).normal(size=(5, head.weight.shape[1]))
    probabilities = head.predict(statistics)
    assert probabilities.shape == (5, len(CLASSES))
    np.testing.assert_allclose(probabilities.sum(axis=1), 1.0, rtol=1e-5)


def test_each_speaker_of_the_training_corpus_has_a_head_of_their_own(head: EmotionHead) -> None:
    assert len(head.speakers) == 10
    weights = [head.for_speaker(speaker).weight for speaker in head.speakers]
    assert all(not np.array_equal(weight, head.weight) for weight in weights)
    assert head.for_speaker("somebody else") is head


def test_a_saved_head_says_the_same_whatever_the_memory_order_of_its_weights(tmp_path: Path) -> None:
    weight = np.asfortranarray(np.random.default_rng(0).normal(size=(4, 6)).astype(np.float32))
    written = EmotionHead(weight, np.zeros(4, np.float32), {"s": (weight, np.zeros(4, np.float32))}, {})
    written.save(tmp_path / "head.safetensors")
    read = EmotionHead.load(tmp_path / "head.safetensors")
    assert np.array_equal(read.weight, weight)
    np.testing.assert_allclose(read.for_speaker("s").weight, weight, atol=1e-3)  # kept in half precision


def test_the_committed_head_hears_the_neutral_speech_of_the_sample_corpus(
    head: EmotionHead, sample_rows: list[dict[str, Any]]
) -> None:
    neutral = [row for row in sample_rows if row["emotion"] == "neutral"][::6]
    waves = [soundfile.read(io.BytesIO(row["audio"]["bytes"]), dtype="float32")[0] for row in neutral]
    whisper = Whisper(resolve(PROFILES["embedded"]["whisper"]).path)
    statistics = np.stack([frame_statistics(encoding) for encoding in whisper.encode(waves)])
    heard = [CLASSES[index] for index in head.predict(statistics).argmax(axis=1)]
    assert heard.count("neutral") >= 0.75 * len(heard)  # a broken head hears one class everywhere, or a quarter of each


def test_the_heads_that_left_a_speaker_out_recognise_that_speaker(
    head: EmotionHead, speech_folder: Path | None
) -> None:
    if speech_folder is None:
        pytest.skip("needs EmoDB; the sample corpus has no acted anger")
    with (speech_folder / "emodb" / "metadata.csv").open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if canonical(row["emotion"])][::14]
    whisper = Whisper(resolve(PROFILES["embedded"]["whisper"]).path)
    right = 0
    for row in rows:
        wave, rate = soundfile.read(speech_folder / "emodb" / row["path"], dtype="float32")
        statistics = frame_statistics(whisper.encode([soxr.resample(wave, rate, 16_000)])[0])
        answer = head.for_speaker(row["speaker_id"]).predict(statistics[None]).argmax()
        right += CLASSES[answer] == canonical(row["emotion"])
    # 0.88 leave-one-speaker-out over the whole corpus; 25 utterances have a standard error of 0.07.
    assert right / len(rows) > 0.65


def test_equal_heads_are_equal_files(tmp_path: Path) -> None:
    one = EmotionHead(np.ones((4, 6), np.float32), np.zeros(4, np.float32), {}, dict.fromkeys("abcdefgh", ""))
    for number in range(4):
        one.save(tmp_path / f"{number}.safetensors")
    assert len({path.read_bytes() for path in tmp_path.iterdir()}) == 1


def test_statistics_of_another_encoder_are_refused(head: EmotionHead) -> None:
    with pytest.raises(ValueError, match="takes"):
        head.predict(np.zeros((1, 1024), np.float32))


def test_a_head_comes_back_from_its_file_as_it_was_saved(tmp_path: Path) -> None:
    generator = np.random.default_rng(1)

    def draw() -> tuple[np.ndarray, np.ndarray]:
        return generator.normal(size=(4, 6)).astype(np.float32), generator.normal(size=4).astype(np.float32)

    weight, bias = draw()
    saved = EmotionHead(weight, bias, {"b": draw(), "a": draw()}, {"corpus": "none"})
    saved.save(tmp_path / "head.safetensors")
    loaded = EmotionHead.load(tmp_path / "head.safetensors")
    statistics = generator.normal(size=(3, 6))
    np.testing.assert_array_equal(loaded.predict(statistics), saved.predict(statistics))
    assert loaded.metadata["corpus"] == "none"
    for speaker in ("a", "b"):  # stored in half precision
        own, expected = loaded.for_speaker(speaker), saved.for_speaker(speaker)
        np.testing.assert_allclose(own.predict(statistics), expected.predict(statistics), atol=0.01)


def test_a_file_that_is_not_a_head_is_refused(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    (tmp_path / "text.safetensors").write_bytes(b"not safetensors at all")
    with pytest.raises(ValueError, match="is not a safetensors file"):
        EmotionHead.load(tmp_path / "text.safetensors")
    save_file({"weight": np.zeros((4, 2), np.float32)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="is not an emotion head"):
        EmotionHead.load(tmp_path / "other.safetensors")


def test_the_wav2vec2_recogniser_loads_from_the_published_layout(tmp_path: Path, waves: list[np.ndarray]) -> None:
    recogniser = SpeechBrainEmotion(wav2vec2_emotion(tmp_path / "model"))
    probabilities = recogniser.predict(waves[:3])
    assert probabilities.shape == (3, len(CLASSES))
    np.testing.assert_allclose(probabilities.sum(axis=1), 1.0, rtol=1e-5)
    np.testing.assert_allclose(recogniser.predict(waves[1:2])[0], probabilities[1], rtol=1e-4)


def test_its_columns_follow_the_label_file(tmp_path: Path, waves: list[np.ndarray]) -> None:
    folder = wav2vec2_emotion(tmp_path / "model")
    before = SpeechBrainEmotion(folder).predict(waves[:1])[0]
    labels = (folder / "label_encoder.txt").read_text().replace("neu", "x").replace("sad", "neu").replace("x", "sad")
    (folder / "label_encoder.txt").write_text(labels)
    after = SpeechBrainEmotion(folder).predict(waves[:1])[0]
    np.testing.assert_allclose(after[[CLASSES.index("sad"), 1, CLASSES.index("neutral"), 3]], before, rtol=1e-5)


def test_loudness_does_not_move_the_wav2vec2_recogniser(tmp_path: Path, waves: list[np.ndarray]) -> None:
    recogniser = SpeechBrainEmotion(wav2vec2_emotion(tmp_path / "model"))
    np.testing.assert_allclose(recogniser.predict([waves[0] / 4]), recogniser.predict([waves[0]]), atol=0.01)


def test_nothing_and_a_click_still_get_probabilities(tmp_path: Path) -> None:
    recogniser = SpeechBrainEmotion(wav2vec2_emotion(tmp_path / "model"))
    assert np.isfinite(recogniser.predict([np.zeros(0, np.float32), np.ones(3, np.float32)])).all()
    assert recogniser.predict([]).shape == (0, len(CLASSES))


def test_a_model_of_another_kind_or_a_hidden_program_is_refused(tmp_path: Path) -> None:
    folder = wav2vec2_emotion(tmp_path / "model")
    torch.save({"model.something.weight": torch.zeros(1)}, folder / "wav2vec2.ckpt")
    with pytest.raises(ValueError, match=r"not a wav2vec 2\.0 base model"):
        SpeechBrainEmotion(folder)

    class Program:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return Path.touch, (tmp_path / "ran",)  # type: ignore[return-value]

    torch.save(Program(), folder / "wav2vec2.ckpt")
    with pytest.raises(Exception, match=r"[Ww]eights"):
        SpeechBrainEmotion(folder)
    assert not (tmp_path / "ran").exists()
