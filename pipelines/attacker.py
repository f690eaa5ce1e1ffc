"""The semi-informed attacker of a named corpus: anonymize it with the audited system and a key of one's own, embed it,
train a back-end on it, and keep that for the next release with the same system.

<output>/attackers/<digest>.safetensors     the digest is that of anonymizer, settings, speaker encoder and corpus

Where no corpus is named there is nothing to train here: `evidence.semi_informed` trains on folds of the corpus itself.
"""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow.dataset as pds

from governance.lineage import AnonymizerUsed, ModelUsed
from metrics.validity import refuse_training_overlap
from models import registry
from models.attackers import FORMAT, SHRINKAGE, SpeakerBackend, train_backend
from operators.decode import Decode, Unusable
from operators.keys import derive_key
from operators.schema import InputError
from operators.select import Select, has_ids
from pipelines.anonymize import finished_ids, read_view
from pipelines.audit import attacker_schema, attacker_steps
from pipelines.cluster import run_pass
from pipelines.config import Job
from pipelines.runs import Run
from pipelines.survey import Survey, open_index, read_batches, survey_index

if TYPE_CHECKING:
    from pipelines.progress import Track

ROWS_AT_ONCE = 16  # of encoded audio, in memory while a corpus is hashed


def survey_training(corpus: str, attacked: Iterable[str]) -> Survey:
    """Survey a training corpus. Raises InputError where it cannot be used or shares a speaker with the `attacked`."""
    survey, counts = survey_index(corpus), utterances_of(corpus)
    try:
        refuse_training_overlap(list(counts), list(attacked))
    except ValueError as fault:
        raise InputError(
            f"the attacker's corpus {corpus} cannot be used: {fault}; leave these speakers out, or it would recognise "
            "whom it was trained on"
        ) from None
    if sum(count > 1 for count in counts.values()) < 2:
        raise InputError(
            f"the attacker's corpus {corpus} has fewer than two speakers with two utterances, so nothing can be learnt "
            "of how a voice varies"
        )
    return survey


def utterances_of(index: str) -> Counter[str]:
    """Return how many utterances an index holds of each speaker. Raises InputError."""
    counts: Counter[str] = Counter()
    for batch in read_batches(open_index(index)[0], ["utt_id", "speaker_id"], index):
        counts.update(batch.filter(has_ids(batch))["speaker_id"].to_pylist())
    return counts


def recording_digests(corpus: str, survey: Survey) -> dict[str, str]:
    """Return the SHA-256 of each usable utterance's encoded bytes, by id; unusable and repeated ids are left out."""
    reader = Decode(survey.folder, 16_000, 0)
    digests = {}
    columns = ["utt_id", "speaker_id", "audio"]
    for batch in open_index(corpus)[0].to_batches(columns=columns, batch_size=ROWS_AT_ONCE, batch_readahead=1):
        for row in batch.to_pylist():
            if row["utt_id"] is None or row["speaker_id"] is None or row["utt_id"] in survey.duplicate_ids:
                continue
            try:
                digests[row["utt_id"]] = hashlib.sha256(reader.read(row["audio"])).hexdigest()
            except Unusable:
                continue
    return digests


def refuse_shared_recordings(digests: Iterable[str], anonymized: Path) -> None:
    """Raise InputError where a training recording is attacked too, under whatever name.

    `anonymized` holds the parts of the attacked corpus with the digests of what they were made from.
    """
    table = pds.dataset(anonymized, format="parquet").to_table(columns=["audio_digest"])
    shared = set(table["audio_digest"].to_pylist()) & set(digests)
    if shared:
        raise InputError(
            f"{len(shared)} recordings are both in the attacker's training corpus and in the trials, under other "
            "names; leave their speakers out of the training corpus"
        )


def attacker_digest(job: Job, anonymizer: AnonymizerUsed, recordings: dict[str, str], speakers: dict[str, str]) -> str:
    """Return the digest under which an attacker is kept: of everything that makes it what it is, but its key.

    `recordings` and `speakers` are by utterance id.
    """
    weights = registry.resolve(registry.PROFILES[job.profile]["speaker"])
    corpus = sorted((utt_id, speakers[utt_id], digest) for utt_id, digest in recordings.items())
    bounds = [job.min_seconds, job.max_seconds]
    described = [FORMAT, SHRINKAGE, anonymizer.digest, weights.uri, dict(weights.digests), bounds, corpus]
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()


def train_attacker(
    run: Run, corpus: str, survey: Survey, anonymizer: AnonymizerUsed, track: "Track"
) -> tuple[SpeakerBackend, Path]:
    """Return the attacker trained on `corpus` against the `anonymizer` of the run's job, and the file it is kept in.

    Resumes where a former try was cut. Raises InputError where the corpus has nothing to train on, or holds recordings
    that the run attacks.
    """
    job = run.job
    recordings = recording_digests(corpus, survey)
    attacked = run.work / "anonymized"
    if attacked.exists():
        refuse_shared_recordings(recordings.values(), attacked)
    digest = attacker_digest(job, anonymizer, recordings, _speakers(corpus))
    kept = job.output / "attackers" / f"{digest}.safetensors"
    if kept.exists():
        track.say(f"the semi-informed attacker of this system and corpus is there already: {kept}")
        try:
            return SpeakerBackend.load(kept), kept
        except ValueError as fault:
            raise InputError(f"{fault}; delete it, and the attacker is trained anew") from None
    folder = run.parts(f"attacker-{digest[:16]}")
    _embed_corpus(run, survey, frozenset(recordings), folder, track)
    table = pds.dataset(folder, format="parquet", schema=attacker_schema()).to_table(filter=pds.field("reason") == "")
    # In a fixed order, so that the same embeddings make the same attacker, whoever finished first.
    table = table.sort_by("utt_id")
    metadata = {"anonymizer": json.dumps(anonymizer.model_dump()), "digest": digest, "profile": job.profile}
    try:
        embeddings = np.array(table["embedding"].to_pylist(), np.float32).reshape(len(table), -1)
        backend = train_backend(embeddings, table["speaker_id"].to_pylist(), metadata)
    except ValueError as fault:
        raise InputError(f"the attacker cannot be trained on {corpus}: {fault}") from None
    kept.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    partial = kept.with_name(f".{kept.name}.{os.getpid()}")
    backend.save(partial)
    partial.replace(kept)
    track.say(f"trained the semi-informed attacker on {backend.utterances} utterances of {backend.speakers} speakers")
    return backend, kept


def _speakers(corpus: str) -> dict[str, str]:
    table = open_index(corpus)[0].to_table(columns=["utt_id", "speaker_id"])
    return dict(zip(table["utt_id"].to_pylist(), table["speaker_id"].to_pylist(), strict=True))


def _embed_corpus(run: Run, survey: Survey, usable: frozenset[str], folder: Path, track: "Track") -> None:
    """Fill `folder` with embeddings of the training corpus, anonymized by the audited system with a key of its own."""
    job = run.job
    description = "anonymize the attacker's corpus"
    finished = finished_ids(folder, "training")
    track.begin(description, len(usable), len(finished))
    if len(finished) == len(usable):
        return
    select = Select("training", ("utt_id", "speaker_id", "audio"), finished, only=usable)
    steps = attacker_steps(job, survey.folder, derive_key(run.key, "attacker training"), folder)
    run_pass(
        read_view(survey.folder, survey.files, select, survey.schema),
        steps,
        job.workers,
        job.gpus,
        track,
        description,
    )


def attacker_used(kept: Path) -> ModelUsed:
    """Return a kept attacker as the report names it: by the digest of what it was trained on, and of its weights."""
    with kept.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return ModelUsed(role="semi-informed attacker", uri=f"attackers/{kept.name}", digest=digest)
