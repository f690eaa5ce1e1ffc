"""The auditing half of a job: what the attackers, the recognisers and the listeners make of both versions of a corpus.

Three tables of features, all private: the original, the anonymized, and the attacker's own anonymization of what
they enrol and train on. `evidence` turns them into figures.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from models.registry import PROFILES
from operators.anonymize import Anonymize
from operators.decode import Decode
from operators.embed_speaker import EmbedSpeaker
from operators.encode import Encode
from operators.keys import derive_key
from operators.quality import MeasureQuality
from operators.recognize_emotion import RecognizeEmotion
from operators.screen import RequireUsable, Screen
from operators.select import Select
from operators.transcribe import Transcribe
from operators.write import WriteParts
from pipelines.anonymize import anonymizer_arguments, parts_schema, view_columns
from pipelines.cluster import run_pass
from pipelines.config import Job
from pipelines.reading import finished_ids, read_view
from pipelines.runs import Run
from pipelines.survey import Survey
from pipelines.usual_pitch import INDEX, read_usual_pitch

if TYPE_CHECKING:
    from operators.chain import Step
    from pipelines.progress import Track

AUDIT_RATE = 16_000  # what every auditor of either profile listens at


def features_schema(columns: tuple[str, ...]) -> pa.Schema:
    """Return the schema of a feature table; `columns` are those carried along, without the audio."""
    vector = pa.list_(pa.float32())
    carried = [(name, pa.string()) for name in columns if name != "audio"]
    return pa.schema(
        [
            ("view", pa.string()),
            *carried,
            ("seconds", pa.float64()),
            ("embedding", vector),
            ("transcript", pa.string()),
            ("emotion_probabilities", vector),
            ("dnsmos", pa.float64()),
            ("pitch", vector),
        ]
    )


def audit_steps(job: Job) -> "list[Step]":
    """Return the operators that listen to a wave, as the profile names them."""
    weights = PROFILES[job.profile]
    device = "cuda" if job.gpus else "cpu"
    return [
        (EmbedSpeaker, {"weights": weights["speaker"], "device": device}),
        (Transcribe, {"weights": weights["whisper"], "default_language": job.language or "en", "device": device}),
        (RecognizeEmotion, {"weights": weights["emotion"], "device": device}),
        (MeasureQuality, {"weights": weights["quality"]}),
    ]


def extract_features(run: Run, survey: Survey, unusable: frozenset[str], track: "Track") -> None:
    """Fill `work/features` with both views of every usable row, in one pass over one after the other."""
    job = run.job
    folder = run.parts("features")
    columns = view_columns(job, survey)
    excluded = unusable | survey.duplicate_ids
    finished = {view: finished_ids(folder, view) for view in ("original", "anonymized")}
    total, done = 2 * (survey.usable_rows - len(unusable)), sum(map(len, finished.values()))
    track.begin("audit", total, done)
    if done == total:
        return
    parts = sorted(str(part) for part in (run.work / "anonymized").glob("*.parquet"))
    original = read_view(
        survey.folder, survey.files, Select("original", columns, excluded | finished["original"]), survey.schema
    )
    anonymized = read_view(
        str(run.work), parts, Select("anonymized", columns, excluded | finished["anonymized"]), parts_schema(columns)
    )
    steps: list[Step] = [
        (Decode, {"folder": survey.folder, "sample_rate": AUDIT_RATE, "max_seconds": job.max_seconds + 1}),
        (RequireUsable, {}),
        *audit_steps(job),
        (WriteParts, {"folder": str(folder.absolute()), "schema": features_schema(columns)}),
    ]
    run_pass(original.union(anonymized), total - done, steps, job.workers, job.gpus, track, "audit")


def anonymize_as_attacker(run: Run, survey: Survey, wanted: frozenset[str], track: "Track") -> None:
    """Fill `work/attacker` with embeddings of the `wanted` utterances, anonymized by the same system with another key.

    The enrolment half is enough for an attacker who only enrols; one who trains on this corpus too needs all of it.
    """
    job = run.job
    folder = run.parts("attacker")
    description = "attack with the same system"
    finished = finished_ids(folder, "attacker")
    track.begin(description, len(wanted), len(finished))
    if len(finished) == len(wanted):
        return
    select = Select("attacker", view_columns(job, survey), finished, only=wanted)
    weights = PROFILES[job.profile]["speaker"]
    # What is usual of somebody is known to an attacker by the recordings that they have.
    steps = speech_steps(job, survey.folder, derive_key(run.key, "attacker"), read_usual_pitch(run, INDEX, wanted))
    steps += listening_steps(job, survey.folder, folder, weights)
    dataset = read_view(survey.folder, survey.files, select, survey.schema)
    run_pass(dataset, len(wanted) - len(finished), steps, job.workers, job.gpus, track, description)


def attacker_schema() -> pa.Schema:
    """Return the schema of a table of the attacker's: empty where nobody could be enrolled."""
    names = ("view", "utt_id", "speaker_id", "reason")
    return pa.schema([(name, pa.string()) for name in names] + [("embedding", pa.list_(pa.float32()))])


def speech_steps(
    job: Job, audio_folder: str, key: bytes, usual: Mapping[str, float] | None, *screened: "Step"
) -> "list[Step]":
    """Return the operators by which an attacker anonymizes speech with a `key` of their own.

    `usual` is the speakers' usual pitch, where the anonymizer goes by it. `screened` are further operators on what
    passed the screen.
    """
    return [
        (Decode, {"folder": audio_folder, "sample_rate": job.sample_rate, "max_seconds": job.max_seconds}),
        (Screen, {"sample_rate": job.sample_rate, "min_seconds": job.min_seconds}),
        *screened,
        (Anonymize, anonymizer_arguments(job, key, usual)),
        (Encode, {"sample_rate": job.sample_rate}),
    ]


def listening_steps(job: Job, audio_folder: str, parts: Path, weights: str) -> "list[Step]":
    """Return the operators by which an attacker looks at anonymized speech, with the speaker encoder of `weights`."""
    return [
        (Decode, {"folder": audio_folder, "sample_rate": AUDIT_RATE, "max_seconds": job.max_seconds + 1}),
        (EmbedSpeaker, {"weights": weights, "device": "cuda" if job.gpus else "cpu"}),
        (WriteParts, {"folder": str(parts.absolute()), "schema": attacker_schema()}),
    ]
