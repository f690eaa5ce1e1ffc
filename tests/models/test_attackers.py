"""The attacker's back-end learns which directions of an embedding an anonymizer varies, and is kept without pickle."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from metrics.trials import cosine_trials
from metrics.verification import evaluate_verification
from models.attackers import SpeakerBackend, train_backend

DIMENSIONS = 48


def masked_voices(speakers: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Embeddings [8 * speakers, 48] of voices that lie, faintly, in half of the dimensions; loud noise in the other."""
    generator = np.random.default_rng(seed)
    names = np.repeat([f"s{seed}-{number}" for number in range(speakers)], 8)
    voices = np.repeat(generator.normal(size=(speakers, DIMENSIONS)), 8, axis=0)
    loud = np.arange(DIMENSIONS) < DIMENSIONS // 2
    noise = generator.normal(size=voices.shape) * np.where(loud, 6.0, 0.7)
    return np.where(loud, 0, voices) + noise + 2.0, names


def equal_error_rate(embeddings: np.ndarray, speakers: np.ndarray) -> float:
    known = np.arange(len(speakers)) % 8 < 4
    trials = cosine_trials(embeddings[known], speakers[known], embeddings[~known], speakers[~known])
    return evaluate_verification(trials, 0, draws=2)["eer"].value


def test_training_finds_voices_that_loud_variation_hides() -> None:
    backend = train_backend(*masked_voices(40, seed=1))
    tried, speakers = masked_voices(20, seed=2)
    assert equal_error_rate(tried, speakers) > 0.3
    assert equal_error_rate(backend.project(tried), speakers) < 0.1


def test_eight_training_speakers_already_help() -> None:
    backend = train_backend(*masked_voices(8, seed=1))
    tried, speakers = masked_voices(20, seed=2)
    assert equal_error_rate(backend.project(tried), speakers) < 0.75 * equal_error_rate(tried, speakers)


def test_what_was_saved_is_what_is_loaded(tmp_path: Path) -> None:
    trained = train_backend(*masked_voices(5, seed=1), {"profile": "embedded"})
    trained.save(tmp_path / "backend.safetensors")
    loaded = SpeakerBackend.load(tmp_path / "backend.safetensors")
    tried, _ = masked_voices(3, seed=2)
    np.testing.assert_array_equal(loaded.project(tried), trained.project(tried))
    assert (loaded.speakers, loaded.utterances, loaded.metadata) == (5, 40, {"profile": "embedded"})


def test_equal_back_ends_are_equal_files(tmp_path: Path) -> None:
    """Ten files: two entries of metadata that stood in any order would differ in one of them almost surely."""
    metadata = {name: name for name in ("anonymizer", "digest", "profile")}
    for number in range(10):
        train_backend(*masked_voices(5, seed=1), metadata).save(tmp_path / f"{number}.safetensors")
    assert len({path.read_bytes() for path in tmp_path.iterdir()}) == 1


def test_other_files_are_refused_and_a_pickle_is_never_run(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, tuple[Path]]:
            return Path.touch, (tmp_path / "sprung",)

    path = tmp_path / "backend.safetensors"
    good = {"mean": np.zeros(2, np.float32), "projection": np.eye(2, dtype=np.float32)}
    described = {"format": "voxveil speaker back-end 2", "speakers": 2, "utterances": 4, "metadata": {}}
    counts = {"back_end": json.dumps(described)}
    path.write_bytes(pickle.dumps(Trap()))
    with pytest.raises(ValueError, match="not a safetensors file"):
        SpeakerBackend.load(path)
    assert not (tmp_path / "sprung").exists()
    for tensors, metadata in [
        (good, {}),
        (good | {"projection": np.eye(3, dtype=np.float32)}, counts),
        (good | {"mean": np.full(2, np.nan, np.float32)}, counts),
    ]:
        save_file(tensors, path, metadata)
        with pytest.raises(ValueError, match="not a speaker back-end"):
            SpeakerBackend.load(path)


def test_speakers_with_one_utterance_teach_nothing() -> None:
    embeddings, speakers = masked_voices(4, seed=1)
    alone, _ = masked_voices(1, seed=3)
    with_alone = train_backend(np.vstack([embeddings, alone[:1]]), [*speakers, "alone"])
    without = train_backend(embeddings, speakers)
    assert with_alone.speakers == 4
    np.testing.assert_array_equal(with_alone.projection, without.projection)


@pytest.mark.parametrize(
    ("embeddings", "speakers", "message"),
    [
        (np.eye(4), ["a", "a", "b", "c"], "two utterances each, and there are 1"),
        (np.ones((4, 3)), ["a", "a", "b", "b"], "nothing to learn"),
        (np.full((4, 3), np.nan), ["a", "a", "b", "b"], "not finite"),
        (np.eye(4), ["a", "a", "b"], "3 speakers are named"),
    ],
)
def test_what_cannot_teach_is_refused(embeddings: np.ndarray, speakers: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        train_backend(embeddings, speakers)


def test_embeddings_of_another_encoder_are_refused() -> None:
    backend = train_backend(*masked_voices(4, seed=1))
    with pytest.raises(ValueError, match=r"\[N, 48\], not \(2, 192\)"):
        backend.project(np.ones((2, 192)))
