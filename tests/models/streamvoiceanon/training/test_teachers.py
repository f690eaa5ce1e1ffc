"""Every teacher answers alike: frames of one width at one rate, which are brought to the rate of the codes."""

import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from tiny_models import wav2vec2_emotion

from models.emotion import SpeechBrainEmotion
from models.registry import PHONES, PROFILES, resolve
from models.streamvoiceanon.training.teachers import (
    Emotion2vecTeacher,
    PhoneTeacher,
    SpeechBrainTeacher,
    Teacher,
    WhisperTeacher,
    to_frames,
)

SECOND = 16_000


@pytest.fixture(scope="module", params=["whisper", "phones", "speechbrain"])
def teacher(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Teacher:
    if request.param == "whisper":
        return WhisperTeacher(resolve(PROFILES["embedded"]["whisper"]).path)
    if request.param == "phones":
        return PhoneTeacher(resolve(PROFILES["embedded"]["whisper"]).path, resolve(PHONES).path)
    return SpeechBrainTeacher(wav2vec2_emotion(tmp_path_factory.mktemp("speechbrain") / "model"))


def test_frames_are_of_the_stated_width_and_rate(teacher: Teacher, waves) -> None:
    for wave, frames in zip(waves[:2], teacher.features(waves[:2]), strict=True):
        assert frames.dtype == np.float32
        assert frames.shape[1] == teacher.width
        assert len(frames) == pytest.approx(len(wave) / SECOND * teacher.rate, abs=1.5)
        assert np.isfinite(frames).all()


def test_frames_do_not_depend_on_the_other_waves(teacher: Teacher, waves) -> None:
    alone, together = teacher.features(waves[:1]), teacher.features(waves[:2])
    assert np.allclose(alone[0], together[0], atol=0.02 * np.abs(alone[0]).max())  # 8-bit arithmetic of Whisper


def test_a_wave_of_one_sample_has_a_frame(teacher: Teacher) -> None:
    (frames,) = teacher.features([np.zeros(1, np.float32)])
    assert len(frames) >= 1


def test_the_recogniser_decides_on_the_mean_of_its_frames(tmp_path: Path, waves) -> None:
    recogniser = SpeechBrainEmotion(wav2vec2_emotion(tmp_path / "model"))
    logits = recogniser.frames(waves[0]).mean(0) @ recogniser._output.T.numpy()
    powers = np.exp(logits - logits.max())[recogniser._columns]
    assert np.allclose(powers / powers.sum(), recogniser.predict([waves[0]])[0], atol=1e-5)


def test_resampling_to_the_same_rate_changes_nothing() -> None:
    features = np.random.default_rng(0).normal(size=(30, 4)).astype(np.float32)
    assert np.allclose(to_frames(features, 50.0, 50.0, 30), features, atol=1e-6)


def test_resampling_to_half_the_rate_takes_the_mean_of_two() -> None:
    features = np.arange(12, dtype=np.float32).reshape(6, 2)
    assert np.allclose(to_frames(features, 50.0, 25.0, 3), features.reshape(3, 2, 2).mean(1))


def test_resampling_keeps_the_place_of_an_event() -> None:
    """A pulse at 1.00 s is in frame 21 of 21.53 a second, and its integral is kept."""
    features = np.zeros((100, 1), np.float32)
    features[50] = 1.0
    frames = to_frames(features, 50.0, 44_100 / 2_048, 43)
    assert frames.argmax() == 21
    assert frames.sum() * 2_048 / 44_100 == pytest.approx(1 / 50, rel=1e-5)


def test_the_last_feature_lasts_to_the_end() -> None:
    assert np.allclose(to_frames(np.float32([[1.0], [3.0]]), 50.0, 25.0, 4), [[2.0], [3.0], [3.0], [3.0]])
    with pytest.raises(ValueError, match="no features"):
        to_frames(np.zeros((0, 2), np.float32), 50.0, 25.0, 4)


@pytest.fixture
def emotion2vec(tmp_path: Path) -> Path:
    layers = "[(512, 10, 5)] + [(512, 3, 2)] * 4 + [(512, 2, 2)] + [(512, 2, 2)]"
    settings = {"model": "Emotion2vec", "model_conf": {"modalities": {"audio": {"feature_encoder_spec": layers}}}}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(settings))
    (tmp_path / "model.pt").write_bytes(b"")
    return tmp_path


def change(folder: Path, changed: dict[str, Any]) -> None:
    file = folder / "config.yaml"
    file.write_text(yaml.safe_dump(yaml.safe_load(file.read_text()) | changed))


def test_emotion2vec_is_asked_for_frames_and_for_nothing_from_the_network(emotion2vec: Path, monkeypatch) -> None:
    """funasr is an optional extra: a stand-in answers as 1.4.16 did for a small model of random weights."""
    asked: list[dict[str, Any]] = []

    class AutoModel:
        def __init__(self, **options: Any) -> None:
            asked.append(options)

        def generate(self, wave: np.ndarray, **options: Any) -> list[dict[str, Any]]:
            asked.append(options)
            return [{"key": "rand_key", "feats": np.ones(((len(wave) - 400) // 320 + 1, 768), np.float32)}]

    monkeypatch.setitem(sys.modules, "funasr", types.SimpleNamespace(AutoModel=AutoModel))
    teacher = Emotion2vecTeacher(emotion2vec)
    (frames,) = teacher.features([np.zeros(SECOND, np.float32)])
    assert frames.shape == (49, teacher.width) == (49, 768)
    assert asked[0]["model"] == str(emotion2vec)
    assert asked[0]["disable_update"] is True
    assert asked[1]["granularity"] == "frame"


def test_without_funasr_the_command_that_brings_it_is_named(emotion2vec: Path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "funasr", None)
    with pytest.raises(ImportError, match=r"pip install .voxveil\[emotion2vec\]"):
        Emotion2vecTeacher(emotion2vec)


@pytest.mark.parametrize(
    "changed",
    [
        {"model_conf": {"modalities": {"audio": {"feature_encoder_spec": "__import__('os').system('true')"}}}},
        {"model": "SenseVoiceSmall"},
        {"trust_remote_code": True},
        {"model_conf": {}},
    ],
)
def test_a_configuration_that_could_run_code_is_refused(emotion2vec: Path, changed: dict[str, Any]) -> None:
    change(emotion2vec, changed)
    with pytest.raises(ValueError, match=r"config\.yaml"):
        Emotion2vecTeacher(emotion2vec)


def test_a_folder_without_the_files_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"needs config\.yaml and model\.pt"):
        Emotion2vecTeacher(tmp_path)
