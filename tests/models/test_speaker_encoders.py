"""A voice becomes a unit vector: alike for one speaker, unlike for two, and defined for whatever audio comes."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_models import ecapa

from models import speaker
from models.registry import PROFILES, resolve
from models.speaker import GE2E, Ecapa, SpeakerEncoder

ODD = {
    "nothing": np.zeros(0, np.float32),
    "one sample": np.ones(1, np.float32),
    "a click of 6 ms": np.full(100, 0.5, np.float32),
    "silence": np.zeros(16_000, np.float32),
    "noise without a voice": np.random.default_rng(0).normal(0, 1e-3, 16_000).astype(np.float32),
    "full scale": np.where(np.arange(16_000) % 100 < 50, 1, -1).astype(np.float32),
}


@pytest.fixture(scope="module")
def ge2e() -> SpeakerEncoder:
    return speaker.load(resolve(PROFILES["embedded"]["speaker"]).path)


def test_utterances_of_one_speaker_are_closer_than_those_of_two(ge2e: GE2E, utterances: list[Any]) -> None:
    vectors = ge2e.embed([utterance.wave for utterance in utterances])
    names = np.array([utterance.speaker for utterance in utterances])
    cosine = vectors @ vectors.T
    same = (names[:, None] == names) & ~np.eye(len(names), dtype=bool)
    assert cosine[same].mean() > cosine[names[:, None] != names].mean() + 0.1


def test_the_vectors_are_those_of_resemblyzer(ge2e: GE2E, waves: list[np.ndarray]) -> None:
    from resemblyzer import VoiceEncoder, preprocess_wav

    theirs = VoiceEncoder("cpu", verbose=False)
    expected = np.stack([theirs.embed_utterance(preprocess_wav(wave)) for wave in waves])
    np.testing.assert_allclose(ge2e.embed(waves), expected, atol=1e-5)


def test_loading_and_embedding_print_nothing(capfd: pytest.CaptureFixture[str], waves: list[np.ndarray]) -> None:
    speaker.load(resolve(PROFILES["embedded"]["speaker"]).path).embed(waves[:1])
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize("name", ODD)
def test_odd_audio_gets_a_unit_vector_too(ge2e: GE2E, name: str) -> None:
    vectors = ge2e.embed([ODD[name]])
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, rtol=1e-5)


def test_an_utterance_has_the_same_vector_alone_as_among_others(ge2e: GE2E, waves: list[np.ndarray]) -> None:
    together = ge2e.embed(waves)
    np.testing.assert_allclose(ge2e.embed(waves[2:3])[0], together[2], atol=1e-5)
    np.testing.assert_array_equal(ge2e.embed(waves), together)


def test_no_utterances_make_no_vectors(ge2e: GE2E, tmp_path: Path) -> None:
    assert ge2e.embed([]).shape == (0, 256)
    assert speaker.load(ecapa(tmp_path / "model")).embed([]).shape == (0, 24)


def test_ecapa_computes_what_speechbrain_computes_from_the_same_folder(tmp_path: Path, waves: list[np.ndarray]) -> None:
    from speechbrain.inference.classifiers import EncoderClassifier

    folder = ecapa(tmp_path / "model")
    theirs = EncoderClassifier.from_hparams(source=str(folder), savedir=str(tmp_path / "copy"))
    assert theirs is not None
    vectors = speaker.load(folder).embed(waves[:3])
    for wave, vector in zip(waves[:3], vectors, strict=True):
        expected = theirs.encode_batch(torch.from_numpy(wave))[0, 0].numpy()
        np.testing.assert_allclose(vector, expected / np.linalg.norm(expected), atol=1e-5)


@pytest.mark.parametrize("name", ODD)
def test_ecapa_embeds_odd_audio_too(tmp_path: Path, name: str) -> None:
    assert np.isfinite(speaker.load(ecapa(tmp_path / "model")).embed([ODD[name]])).all()


def test_weights_of_other_sizes_than_the_settings_are_refused(tmp_path: Path) -> None:
    folder, other = ecapa(tmp_path / "model"), ecapa(tmp_path / "other", lin_neurons=12)
    (folder / "embedding_model.ckpt").write_bytes((other / "embedding_model.ckpt").read_bytes())
    with pytest.raises(ValueError, match="is not an ECAPA-TDNN"):
        Ecapa(folder)


def test_a_program_hidden_in_the_settings_does_not_run(tmp_path: Path) -> None:
    folder = ecapa(tmp_path / "model")
    settings = folder / "hyperparams.yaml"
    settings.write_text(settings.read_text() + f"trap: !apply:pathlib.Path.touch\n    - {tmp_path / 'ran'}\n")
    assert speaker.load(folder).embed([np.ones(16_000, np.float32)]).shape == (1, 24)
    settings.write_text(settings.read_text() + f"trap2: !!python/object/apply:os.mkdir ['{tmp_path / 'ran'}']\n")
    with pytest.raises(ValueError, match="not a SpeechBrain hyperparameter file"):
        speaker.load(folder)
    assert not (tmp_path / "ran").exists()
