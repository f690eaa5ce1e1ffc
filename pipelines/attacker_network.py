"""The strongest semi-informed attacker: a network trained, on Ray Train, on speech from the audited system.

    corpus -> the anonymizer, with a key of the attacker's own -> speech -> SpeechBrain's ECAPA-TDNN, trained -> kept

<output>/attackers/<digest>/     hyperparams.yaml and embedding_model.ckpt, as SpeechBrain has it; attacker.json, a card

It is trained from scratch or from a given network. A run that was cut goes on, in the anonymizing and in the training.
"""

import hashlib
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field, JsonValue

from governance.attackers import (
    MOST_LOSSES,
    AttackerCard,
    count_known,
    mark_speaker,
    read_card,
    register_attacker,
    write_card,
)
from governance.lineage import AnonymizerUsed, ModelUsed
from governance.tracking import TrackingUnavailable, tracking_uri
from governance.training_record import TrainingRecord
from models import registry
from operators.cut import MOST_PIECES, SHORTEST_PIECE
from operators.keys import derive_key
from operators.schema import AUDIO_TYPE, InputError
from operators.select import Select
from operators.write import WriteParts
from pipelines.attacker_corpus import Recording, anonymize_corpus, read_recordings, refuse_shared_recordings
from pipelines.audit import listening_steps, speech_steps
from pipelines.cluster import run_pass
from pipelines.config import Job
from pipelines.reading import finished_ids, read_view
from pipelines.registered import SCHEME, download_model
from pipelines.runs import Run
from pipelines.survey import Survey
from pipelines.training.settings import Settings
from pipelines.usual_pitch import INDEX, read_usual_pitch

if TYPE_CHECKING:
    from models.ecapa import SpeakerTask
    from pipelines.attacker_feed import CropFeed
    from pipelines.progress import Track

FORMAT = "voxveil attacker network 1"
EXPERIMENT = "voxveil attackers"
SPEECH_SCHEMA = pa.schema(
    [*((name, pa.string()) for name in ("view", "utt_id", "speaker_id", "reason")), ("audio", AUDIO_TYPE)]
)


class NetworkSettings(BaseModel):
    """What is trained, and how. The defaults are of full size, for a GPU and a corpus of hundreds of speakers."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    channels: int = Field(
        default=1024, ge=8, multiple_of=8, description="Width of the network; not where one is fine-tuned."
    )
    attention_channels: int = Field(
        default=128, ge=4, description="Width of its attention; not where one is fine-tuned."
    )
    embedding: int = Field(default=192, ge=8, description="Dimensions of an embedding; not where one is fine-tuned.")
    crop_seconds: float = Field(default=3.0, ge=0.5, description="Of an utterance in a batch.")
    training: Settings = Settings.model_validate(
        {
            "steps": 20_000,
            "batch_size": 128,
            "learning_rate": 1e-3,
            "warmup_steps": 1_000,
            "weight_decay": 2e-5,
            "validate_every": 1_000,
            "checkpoint_every": 500,
        }
    )


@dataclass(frozen=True)
class Network:
    """A trained attacker on this machine, its card, and how a report names it."""

    folder: Path
    card: AttackerCard
    uri: str

    @property
    def used(self) -> ModelUsed:
        """The attacker as the report names it, with the digest of its weights."""
        digests = json.dumps(registry.digest(self.folder), sort_keys=True)
        return ModelUsed(
            role="semi-informed attacker", uri=self.uri, digest=hashlib.sha256(digests.encode()).hexdigest()
        )


def find_network(uri: str, output: Path, anonymizer: AnonymizerUsed, attacked: list[str]) -> Network:
    """Return the attacker that a job names: a folder, or one in the registry of the job's MLflow.

    Raises InputError where it is none, was trained against another system, or knows somebody whom it is to attack.
    """
    try:
        local = not uri.startswith(SCHEME)
        folder = Path(uri.removeprefix("file:").removeprefix("//")) if local else download_model(uri, output)
        card = read_card(folder)
    except (ValueError, TrackingUnavailable) as fault:
        raise InputError(f"the attacker {uri} cannot be used: {fault}") from None
    if card.anonymizer.digest != anonymizer.digest:
        theirs, ours = card.anonymizer.config, anonymizer.config
        unlike = sorted(name for name in {*theirs, *ours} if theirs.get(name) != ours.get(name))
        raise InputError(
            f"the attacker {uri} was trained against {card.anonymizer.name} with other settings or weights than this "
            f"job's {anonymizer.name} ({', '.join(unlike) or 'name'}; {card.anonymizer.digest[:12]}, not "
            f"{anonymizer.digest[:12]}); train one with `voxveil attacker train`"
        )
    if known := count_known(card, attacked):
        raise InputError(
            f"the attacker {uri} was trained on {known} of the speakers that it is to attack, whom it would recognise; "
            "train one on other people"
        )
    return Network(folder, card, uri)


def network_digest(
    job: Job,
    anonymizer: AnonymizerUsed,
    settings: NetworkSettings,
    initial: registry.Resolved | None,
    recordings: dict[str, Recording],
) -> str:
    """Return the digest under which a network is kept: of everything that makes it what it is, but its key."""
    corpus = corpus_fingerprint(recordings)
    numbers = [MOST_PIECES, SHORTEST_PIECE, job.min_seconds, job.max_seconds]
    first = dict(initial.digests) if initial else None
    described = [FORMAT, numbers, anonymizer.digest, settings.model_dump(mode="json"), first, corpus]
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()


def corpus_fingerprint(recordings: dict[str, Recording]) -> str:
    """Return the digest of a corpus: of every id, speaker and encoded audio in it, in whatever order."""
    rows = sorted((utt_id, one.speaker, one.digest) for utt_id, one in recordings.items())
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()


def train_network(
    run: Run,
    corpus: str,
    survey: Survey,
    anonymizer: AnonymizerUsed,
    settings: NetworkSettings,
    initial: registry.Resolved | None,
    track: "Track",
) -> Network:
    """Return the network trained on `corpus` against the `anonymizer` of the run's job, from scratch or `initial`.

    Raises InputError where the corpus has nothing to train on, holds recordings that the run attacks, or the training
    broke down.
    """
    recordings = read_recordings(corpus, survey)
    attacked = run.work / "anonymized"
    if attacked.exists():
        refuse_shared_recordings((one.digest for one in recordings.values()), attacked)
    digest = network_digest(run.job, anonymizer, settings, initial, recordings)
    kept = run.job.output / "attackers" / digest
    if kept.exists():
        track.say(f"the semi-informed attacker of this system and corpus is there already: {kept}")
        try:
            return Network(kept, read_card(kept), f"attackers/{digest}")
        except ValueError as fault:
            raise InputError(f"{fault}; delete the folder, and the attacker is trained anew") from None
    speech = run.parts(f"speech-{digest[:16]}")
    write = (WriteParts, {"folder": str(speech.absolute()), "schema": SPEECH_SCHEMA, "rows_per_group": 1})
    anonymize_corpus(run, survey, recordings, speech, [write], track)
    folder = run.work / f"network-{digest[:16]}"
    with TrainingRecord(
        tracking_uri(run.job.output), EXPERIMENT, f"attacker-{digest}", f"attacker of {anonymizer.name}"
    ) as record:
        card = fit(speech, folder, digest, anonymizer, corpus_fingerprint(recordings), settings, initial, record, track)
        keep(folder, card, kept, initial)
        network = Network(kept, card, f"attackers/{digest}")
        try:
            record.parameters(described(card))
            record.ended("done")
            track.say(f"registered as {register_attacker(record, card, kept)}")
        except TrackingUnavailable as fault:
            track.say(f"MLflow does not answer ({fault}); the attacker is kept, but not registered")
    return network


def described(card: AttackerCard) -> dict[str, str]:
    """Return a card's settings and lineage as MLflow's parameters."""
    told: dict[str, Any] = {f"settings.{name}": value for name, value in card.settings.items() if name != "training"}
    training = card.settings["training"]
    assert isinstance(training, dict)
    told |= {f"training.{name}": value for name, value in training.items()}
    told |= {"anonymizer": card.anonymizer.name, "anonymizer_digest": card.anonymizer.digest}
    told |= {"corpus_fingerprint": card.corpus_fingerprint, "configuration_digest": card.digest}
    told |= {"speakers": card.speakers, "utterances": card.utterances, "initial": card.initial or "from scratch"}
    return {name: str(value) for name, value in told.items()}


def fit(
    speech: Path,
    folder: Path,
    digest: str,
    anonymizer: AnonymizerUsed,
    fingerprint: str,
    settings: NetworkSettings,
    initial: registry.Resolved | None,
    record: TrainingRecord,
    track: "Track",
) -> AttackerCard:
    """Train on the parts in `speech`, from the newest checkpoint in `folder` where there is one; return the card.

    Raises InputError where the training broke down.
    """
    from pipelines.attacker_feed import CropFeed
    from pipelines.training.loop import read_curve
    from pipelines.training.ray_train import train_on_ray

    training = settings.training
    feed = CropFeed(speech, settings.crop_seconds, training.batch_size, training.seed)
    description = "train the attacker"
    track.begin(description, training.steps, 0)
    first = initial.path.absolute() if initial else None
    arguments = {"speech": speech.absolute(), "settings": settings, "initial": first}  # a worker stands elsewhere

    def watch(lines: list[dict[str, float]]) -> None:
        track.advance(description, len(lines))
        record.lines([*lines])

    ending = train_on_ray(build, arguments, training, folder, watch)
    if ending.ended == "not finite":
        raise InputError(f"the attacker's training broke down, {ending.detail}; try a lower learning_rate")
    losses = np.array([line["total"] for line in read_curve(folder)])
    means = [float(part.mean()) for part in np.array_split(losses, min(MOST_LOSSES, losses.size))]
    plain: dict[str, JsonValue] = settings.model_dump(mode="json")
    return AttackerCard(
        digest=digest,
        anonymizer=anonymizer,
        corpus_fingerprint=fingerprint,
        speakers=len(feed.number_of),
        utterances=len(feed.spoken),
        # Those held out for validation chose the weights, so they are as known as the others.
        speaker_marks=tuple(sorted({mark_speaker(one.speaker) for one in (*feed.spoken, *feed.held_out)})),
        settings=plain,
        initial=initial.uri if initial else None,
        losses=tuple(means),
    )


def build(speech: Path, settings: NetworkSettings, initial: Path | None) -> "tuple[SpeakerTask, CropFeed]":
    """Return what every worker trains, and on what. Raises InputError."""
    from pipelines.attacker_feed import CropFeed

    feed = CropFeed(speech, settings.crop_seconds, settings.training.batch_size, settings.training.seed)
    return make_task(settings, initial, len(feed.number_of)), feed


def make_task(settings: NetworkSettings, initial: Path | None, speakers: int) -> "SpeakerTask":
    """Return the network to be trained, with the weights of `initial` where it is given. Raises InputError."""
    import torch

    from models.ecapa import EcapaSize, SpeakerTask, read_ecapa

    torch.manual_seed(settings.training.seed)
    if initial is None:
        size = EcapaSize(settings.channels, settings.attention_channels, settings.embedding)
        return SpeakerTask(size.arguments, speakers)
    try:
        arguments, weights = read_ecapa(initial)
        task = SpeakerTask(arguments, speakers)
        task.voices.embedder.load_state_dict(weights)
    except (ValueError, RuntimeError, KeyError, TypeError) as fault:
        raise InputError(f"the attacker cannot start from {initial}: {str(fault).splitlines()[0]}") from None
    return task


def keep(folder: Path, card: AttackerCard, kept: Path, initial: registry.Resolved | None) -> None:
    """Put the best weights of a training, with their card, where audits look for them: whole or not at all."""
    from models.ecapa import write_ecapa
    from pipelines.training.checkpoints import load_best

    task = make_task(NetworkSettings.model_validate(card.settings), initial.path if initial else None, card.speakers)
    load_best(folder, {name: task.players[name] for name in task.exported})
    kept.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    partial = kept.with_name(f".{kept.name}.{os.getpid()}")
    shutil.rmtree(partial, ignore_errors=True)
    write_ecapa(partial, task.arguments, task.export()["embedder"])
    write_card(card, partial)
    partial.replace(kept)


def embed_with(
    run: Run, survey: Survey, network: Network, known: frozenset[str], unusable: frozenset[str], track: "Track"
) -> Path:
    """Let the attacker listen: to the `known` utterances as it anonymized them itself, and to the released ones.

    Returns the folder of the parts, in which these are the views `attacker` and `released`.
    """
    job = run.job
    folder = run.parts("network")
    weights = f"file:{network.folder.absolute()}"
    description = "listen as the trained attacker"
    released = sorted(str(part) for part in (run.work / "anonymized").glob("*.parquet"))
    tried = survey.usable_rows - len(unusable)
    done = {view: finished_ids(folder, view) for view in ("attacker", "released")}
    track.begin(description, len(known) + tried, sum(map(len, done.values())))
    columns = ("utt_id", "speaker_id", "audio")
    if len(done["attacker"]) < len(known):
        select = Select("attacker", columns, done["attacker"], only=known)
        steps = speech_steps(job, survey.folder, derive_key(run.key, "attacker"), read_usual_pitch(run, INDEX, known))
        steps += listening_steps(job, survey.folder, folder, weights)
        dataset = read_view(survey.folder, survey.files, select, survey.schema)
        run_pass(dataset, len(known) - len(done["attacker"]), steps, job.workers, job.gpus, track, description)
    if len(done["released"]) < tried:
        select = Select("released", columns, done["released"] | unusable)
        schema = pa.schema([("utt_id", pa.string()), ("speaker_id", pa.string()), ("audio", AUDIO_TYPE)])
        steps = listening_steps(job, survey.folder, folder, weights)
        dataset = read_view(str(run.work), released, select, schema)
        run_pass(dataset, tried - len(done["released"]), steps, job.workers, job.gpus, track, description)
    return folder
