"""The semi-informed attacker of a named corpus: anonymize it with the audited system and a key of one's own, embed it,
train a back-end on it, and keep that for the next release with the same system.

<output>/attackers/<digest>.safetensors     the digest is that of anonymizer, settings, speaker encoder and corpus

Where no corpus is named there is nothing to train here: `evidence.semi_informed` trains on folds of the corpus itself.
"""

import hashlib
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow.dataset as pds

from governance.lineage import AnonymizerUsed, ModelUsed
from models import registry
from models.attackers import FORMAT, SHRINKAGE, SpeakerBackend, train_backend
from operators.cut import MOST_PIECES, SHORTEST_PIECE
from operators.schema import InputError
from pipelines.attacker_corpus import Recording, anonymize_corpus, read_recordings, refuse_shared_recordings
from pipelines.audit import attacker_schema, listening_steps
from pipelines.config import Job
from pipelines.runs import Run
from pipelines.survey import Survey

if TYPE_CHECKING:
    from pipelines.progress import Track


def attacker_digest(job: Job, anonymizer: AnonymizerUsed, recordings: dict[str, Recording]) -> str:
    """Return the digest under which an attacker is kept: of everything that makes it what it is, but its key."""
    weights = registry.resolve(registry.PROFILES[job.profile]["speaker"])
    corpus = sorted((utt_id, recording.speaker, recording.digest) for utt_id, recording in recordings.items())
    numbers = [SHRINKAGE, MOST_PIECES, SHORTEST_PIECE, job.min_seconds, job.max_seconds]
    described = [FORMAT, numbers, anonymizer.digest, weights.uri, dict(weights.digests), corpus]
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()


def train_attacker(
    run: Run, corpus: str, survey: Survey, anonymizer: AnonymizerUsed, track: "Track"
) -> tuple[SpeakerBackend, Path]:
    """Return the attacker trained on `corpus` against the `anonymizer` of the run's job, and the file it is kept in.

    Resumes where a former try was cut. Raises InputError where the corpus has nothing to train on, or holds recordings
    that the run attacks.
    """
    job = run.job
    recordings = read_recordings(corpus, survey)
    attacked = run.work / "anonymized"
    if attacked.exists():
        refuse_shared_recordings((recording.digest for recording in recordings.values()), attacked)
    digest = attacker_digest(job, anonymizer, recordings)
    kept = job.output / "attackers" / f"{digest}.safetensors"
    if kept.exists():
        track.say(f"the semi-informed attacker of this system and corpus is there already: {kept}")
        try:
            return SpeakerBackend.load(kept), kept
        except ValueError as fault:
            raise InputError(f"{fault}; delete it, and the attacker is trained anew") from None
    folder = run.parts(f"attacker-{digest[:16]}")
    listen = listening_steps(job, survey.folder, folder, registry.PROFILES[job.profile]["speaker"])
    anonymize_corpus(run, survey, recordings, folder, listen, track)
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


def attacker_used(kept: Path) -> ModelUsed:
    """Return a kept attacker as the report names it: by the digest of what it was trained on, and of its weights."""
    with kept.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return ModelUsed(role="semi-informed attacker", uri=f"attackers/{kept.name}", digest=digest)
