"""The attacker's own network learns voices through an anonymizer, is kept with its card, and is refused where it must
not be used."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "models"))

from tiny_models import ecapa

from governance.attackers import AttackerCard, mark_speaker, read_card, write_card
from governance.lineage import AnonymizerUsed
from metrics.trials import cosine_trials
from metrics.verification import eer
from models import registry, speaker
from models.ecapa import SpeakerTask, read_ecapa, write_ecapa
from operators.decode import object_array
from operators.encode import Encode
from operators.schema import InputError
from operators.write import WriteParts
from pipelines.anonymize import anonymizer_used
from pipelines.attacker_cli import find_checkpoint
from pipelines.attacker_corpus import Recording
from pipelines.attacker_feed import CropFeed, hold_out, list_spoken
from pipelines.attacker_network import (
    SPEECH_SCHEMA,
    NetworkSettings,
    find_network,
    keep,
    make_task,
    network_digest,
)
from pipelines.config import Job, load_fields
from pipelines.release import plan_job
from pipelines.training.checkpoints import load_best
from pipelines.training.loop import Place, read_curve, train

TRAINING = {
    "steps": 80,
    "batch_size": 16,
    "learning_rate": 0.003,
    "warmup_steps": 5,
    "average": 0.9,
    "validate_every": 80,
    "checkpoint_every": 80,
}
TINY = NetworkSettings.model_validate(
    {"channels": 16, "attention_channels": 8, "embedding": 24, "crop_seconds": 1.0, "training": TRAINING}
)
SPEAKERS = 16
RATE = 16_000


def pulsing_noise(voice: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Two seconds of noise, [32000] samples: bands of the voice pulse, two of the upper half, and louder ones below
    pulse too, which an anonymizer draws anew for every utterance."""
    times, frequencies = np.arange(2 * RATE) / RATE, np.fft.rfftfreq(2 * RATE, 1 / RATE)
    noise = np.fft.rfft(generator.normal(size=len(times)))
    wave = 0.3 * np.fft.irfft(noise)
    for centre, loudness in [*((one, 1.0) for one in voice), *((one, 2.0) for one in generator.uniform(300, 3000, 3))]:
        band = np.fft.irfft(noise * np.exp(-0.5 * ((frequencies - centre) / 150) ** 2))
        wave += 4 * loudness * band * (np.sin(2 * np.pi * (3 * times + generator.uniform())) > 0)
    return (0.1 * wave / wave.std()).astype(np.float32)


def write_speech(folder: Path, speakers: range, utterances: int, seed: int) -> Path:
    """Write utterances of these speakers as the parts of an attacker's corpus, as if they had been anonymized."""
    folder.mkdir()
    generator = np.random.default_rng(seed)
    names = [f"s{number:02d}" for number in speakers for _ in range(utterances)]
    waves = [
        pulsing_noise(np.random.default_rng(number).uniform(3500, 7000, 2), generator)
        for number in speakers
        for _ in range(utterances)
    ]
    batch = {
        "view": object_array(["training"] * len(names)),
        "utt_id": object_array([f"{name}-{row}" for row, name in enumerate(names)]),
        "speaker_id": object_array(names),
        "reason": object_array([""] * len(names)),
        "wave": object_array(waves),
    }
    WriteParts(str(folder), SPEECH_SCHEMA, rows_per_group=1)(Encode(RATE)(batch))
    return folder


@pytest.fixture(scope="module")
def speech(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """The training corpus, and other utterances of its people as the attacker anonymizes them and as they were
    released. In seconds a network learns these people and not voices in general; docs/results.md has people whom it
    never heard."""
    folder = tmp_path_factory.mktemp("speech")
    return (
        write_speech(folder / "training", range(SPEAKERS), 12, seed=1),
        write_speech(folder / "own", range(SPEAKERS), 2, seed=2),
        write_speech(folder / "released", range(SPEAKERS), 2, seed=3),
    )


@pytest.fixture(scope="module")
def trained(speech: tuple[Path, Path, Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, SpeakerTask]:
    """The folder of a training in this process, and what it trained."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("training")
    feed = CropFeed(speech[0], TINY.crop_seconds, TINY.training.batch_size, TINY.training.seed)
    task = make_task(TINY, None, len(feed.number_of))
    train(task, feed, TINY.training, folder, Place())
    load_best(folder, {"voices": task.voices})
    return folder, task


def equal_error_rate(task: SpeakerTask, own: Path, released: Path) -> float:
    """Everybody's utterances as the attacker anonymized them, against those that were released."""
    task.voices.eval()
    sides = []
    for folder in (own, released):
        feed = CropFeed(folder, TINY.crop_seconds, 1, seed=0)
        spoken = list_spoken(folder)
        waves = torch.from_numpy(np.stack([feed.crop(one, None) for one in spoken]))
        with torch.no_grad():
            sides += [task.voices.embed(waves).numpy(), np.array([one.speaker for one in spoken])]
    return eer(cosine_trials(*sides))


def test_training_beats_the_untrained_network_on_utterances_it_never_heard(
    trained: tuple[Path, SpeakerTask], speech: tuple[Path, Path, Path]
) -> None:
    folder, task = trained
    untrained = make_task(TINY, None, len(task.voices.classifier.weight))
    after, before = (equal_error_rate(one, *speech[1:]) for one in (task, untrained))
    losses = [line["total"] for line in read_curve(folder)]
    assert np.mean(losses[-10:]) < 0.8 * np.mean(losses[:10])
    assert after < 0.8 * before


def test_what_is_kept_is_what_the_profiles_encoder_loads(
    trained: tuple[Path, SpeakerTask], tmp_path: Path, sample_wave: np.ndarray
) -> None:
    """SpeechBrain's layout, equal bytes for equal networks, and the same embedding as in training."""
    folder, task = trained
    for name in ("one", "two"):
        keep(folder, card_of(("somebody",), speakers=len(task.voices.classifier.weight)), tmp_path / name, None)
    files = [sorted((path.name, path.read_bytes()) for path in (tmp_path / name).iterdir()) for name in ("one", "two")]
    assert files[0] == files[1]
    task.voices.eval()
    with torch.no_grad():
        expected = task.voices.embed(torch.from_numpy(sample_wave)[None]).numpy()
    found = speaker.load(tmp_path / "one").embed([sample_wave])
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert read_card(tmp_path / "one").speakers == len(task.voices.classifier.weight)


def test_a_network_starts_from_a_given_checkpoint(tmp_path: Path) -> None:
    """From SpeechBrain's layout: the published encoder's, which the standard profile starts from."""
    initial = ecapa(tmp_path / "published")
    task = make_task(TINY, initial, speakers=7)
    _, weights = read_ecapa(initial)
    own = task.voices.embedder.state_dict()
    assert own.keys() == weights.keys()
    assert all(torch.equal(own[name], weights[name]) for name in weights)
    assert task.voices.classifier.weight.shape[0] == 7


def test_a_checkpoint_of_another_kind_is_refused(tmp_path: Path) -> None:
    (tmp_path / "hyperparams.yaml").write_text("embedding_model: {input_size: 80}\n")
    (tmp_path / "embedding_model.ckpt").write_bytes(b"no weights")
    with pytest.raises(InputError, match="cannot start from"):
        make_task(TINY, tmp_path, 7)


def test_the_standard_profile_starts_from_its_own_encoder_and_says_what_to_fetch(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(
        registry.WeightsMissing, match=r"spkrec-ecapa-voxceleb.*83 MB.*voxveil fetch --profile standard"
    ):
        find_checkpoint(None, "standard")
    assert find_checkpoint(None, "embedded") is None
    with pytest.raises(registry.WeightsMissing, match="nothing at"):
        find_checkpoint(str(tmp_path / "none"), "embedded")


def test_batches_follow_from_their_number_alone(speech: tuple[Path, Path, Path]) -> None:
    first, second = (CropFeed(speech[0], 1.0, 8, seed=3) for _ in range(2))
    assert first.batch(5).keys() == {"waves", "speakers", "lengths"}
    assert all(torch.equal(first.batch(5)[name], second.batch(5)[name]) for name in first.batch(5))
    assert not torch.equal(first.batch(5)["waves"], first.batch(6)["waves"])
    epoch = [name for number in range(len(first.spoken) // 8) for name in first.names(number)]
    assert len(set(epoch)) == len(epoch)


def test_people_held_out_are_not_trained_on(speech: tuple[Path, Path, Path]) -> None:
    training, held_out = hold_out(list_spoken(speech[0]), seed=0)
    assert {one.speaker for one in training}.isdisjoint({one.speaker for one in held_out})
    assert len(held_out) == 4


def test_a_corpus_of_three_voices_is_refused(speech: tuple[Path, Path, Path]) -> None:
    few = list_spoken(speech[0])[:36]
    with pytest.raises(InputError, match="shows 3 voices more than once; a network needs 4"):
        hold_out(few, seed=0)


def card_of(names: tuple[str, ...], anonymizer: AnonymizerUsed | None = None, **changed: Any) -> AttackerCard:
    used = anonymizer or AnonymizerUsed(name="mcadams", digest="0" * 64)
    fields: dict[str, Any] = {
        "digest": "1" * 64,
        "anonymizer": used,
        "corpus_fingerprint": "2" * 64,
        "speakers": 30,
        "utterances": 90,
        "speaker_marks": tuple(mark_speaker(name) for name in names),
        "settings": TINY.model_dump(mode="json"),
        "initial": None,
        "losses": (3.0, 1.0),
    }
    return AttackerCard(**fields | changed)


@pytest.fixture
def index(tmp_path: Path, few_rows: Any, write_index: Any) -> str:
    return str(write_index(tmp_path / "attacked.parquet", few_rows(3, 2)))


def write_attacker(folder: Path, card: AttackerCard) -> str:
    task = make_task(TINY, None, 5)
    write_ecapa(folder, task.arguments, task.export()["embedder"])
    write_card(card, folder)
    return str(folder)


def test_an_attacker_of_the_same_system_and_other_people_is_taken(index: str, tmp_path: Path) -> None:
    job = Job(index=index, name="x", anonymizer="mcadams", output=tmp_path / "out")
    attacker = write_attacker(tmp_path / "attacker", card_of(("somebody else",), anonymizer_used(job)))
    plan = plan_job(job.model_copy(update={"attacker": attacker, "policy": "strict"}), "audit")
    assert plan.network is not None
    assert not plan.trains_in_folds
    assert plan.auditors[-1].role == "semi-informed attacker"


def test_an_attacker_that_knows_whom_it_attacks_is_refused(index: str, tmp_path: Path) -> None:
    job = Job(index=index, name="x", anonymizer="mcadams", output=tmp_path / "out")
    speakers = sorted({row["speaker_id"] for row in pq.read_table(index).to_pylist()})
    attacker = write_attacker(tmp_path / "attacker", card_of((speakers[0], "other"), anonymizer_used(job)))
    with pytest.raises(InputError, match="was trained on 1 of the speakers that it is to attack"):
        plan_job(job.model_copy(update={"attacker": attacker}), "audit")


def test_an_attacker_of_another_system_is_refused(index: str, tmp_path: Path) -> None:
    job = Job(index=index, name="x", anonymizer="mcadams", output=tmp_path / "out")
    attacker = write_attacker(tmp_path / "attacker", card_of(("other",), anonymizer_used(job)))
    other = job.model_copy(update={"attacker": attacker, "voice_level": "speaker"})
    with pytest.raises(InputError, match="trained against mcadams with other settings or weights"):
        plan_job(other, "audit")


@pytest.mark.parametrize(
    ("uri", "message"),
    [("none", "holds no attacker.json"), ("models:/attacker", "write models:/name/version")],
)
def test_what_is_no_attacker_is_refused(tmp_path: Path, uri: str, message: str) -> None:
    used = AnonymizerUsed(name="mcadams", digest="0" * 64)
    with pytest.raises(InputError, match=message):
        find_network(uri, tmp_path, used, [])


def test_an_attacker_and_a_corpus_to_train_one_on_are_one_too_many(index: str) -> None:
    with pytest.raises(ValueError, match="not both"):
        Job(index=index, name="x", attacker="a", attacker_corpus="b")


def test_settings_that_cannot_be_are_told_in_one_line(tmp_path: Path) -> None:
    settings = tmp_path / "small.yaml"
    for text, message in (("channels: 3", "channels"), ("channel: 8", "Fields:"), ("- 1", "mapping of fields")):
        settings.write_text(text)
        with pytest.raises(InputError, match=message):
            load_fields(NetworkSettings, settings, {}, ())
    assert load_fields(NetworkSettings, None, {}, ()).channels == 1024


def test_a_network_is_kept_under_everything_that_makes_it(index: str, tmp_path: Path) -> None:
    job = Job(index=index, name="x", anonymizer="mcadams", output=tmp_path)
    used = anonymizer_used(job)
    recordings = {"a": Recording("anna", "1", 2.0)}
    initial = registry.resolve(f"file:{ecapa(tmp_path / 'published')}")
    digests = [
        network_digest(job, used, TINY, None, recordings),
        network_digest(job, used.model_copy(update={"digest": "other"}), TINY, None, recordings),
        network_digest(job, used, TINY.model_copy(update={"channels": 24}), None, recordings),
        network_digest(job, used, TINY, initial, recordings),
        network_digest(job, used, TINY, None, {"a": Recording("bert", "1", 2.0)}),
    ]
    assert len(set(digests)) == len(digests)


def test_a_card_names_nobody() -> None:
    assert "anna-of-the-corpus" not in json.dumps(card_of(("anna-of-the-corpus",)).model_dump(mode="json"))
