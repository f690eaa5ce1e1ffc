"""The audit of a fine-tuning: base and result attacked alike, a table before and after, and leave to use it or not."""

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.dataset as pds
import pyarrow.parquet as pq

from governance.policy import load_policy
from governance.report import Figure, Report
from governance.tracking import tracking_uri
from governance.training_record import TrainingRecord, folder_digest
from operators.decode import Decode, Unusable
from operators.schema import AUDIO_TYPE, InputError
from pipelines.cluster import ray_session
from pipelines.config import Job, ephemeral_key, load_job
from pipelines.finetune import feed_of, read_document, same_base, write_document
from pipelines.release import run_job
from pipelines.survey import open_index
from pipelines.training.finetune_job import FinetuneJob
from pipelines.training.pairs import NEUTRAL
from pipelines.training.prepared import read_prepared
from pipelines.training.run_folder import training_id

if TYPE_CHECKING:
    from pipelines.progress import Track
    from pipelines.training.codes_feed import CodesFeed

COMPARED = (
    ("emotion recognised (UAR)", "utility.uar.original", "utility.uar.anonymized"),
    ("words lost (WER)", "utility.wer.original", "utility.wer.anonymized"),
    ("lazy-informed attacker errs (EER)", "privacy.unprotected.eer", "privacy.lazy_informed.eer"),
    ("semi-informed attacker errs (EER)", "privacy.unprotected.eer", "privacy.semi_informed.eer"),
    ("emotion heard alike", None, "utility.emotion_agreement"),
    ("pitch moves alike (correlation)", None, "utility.pitch_correlation"),
    ("sound (DNSMOS, 1 to 5)", "utility.dnsmos.original", "utility.dnsmos.anonymized"),
)
ROWS_AT_ONCE = 16
CARRIED = ("utt_id", "speaker_id", "text", "emotion", "language", "session", "gender")


@dataclass(frozen=True)
class Comparison:
    """One line of the table before and after; what was not measured is None."""

    title: str
    metric: str
    original: Figure | None
    before: Figure | None
    after: Figure | None


@dataclass(frozen=True)
class Judgement:
    """What came of an audit: the table, and why the alias was refused (None: it was given)."""

    table: tuple[Comparison, ...]
    refusal: str | None
    reports: dict[str, Path]


def evaluate_finetune(job: FinetuneJob, track: "Track") -> Judgement:
    """Audit base and result on the same speech with the same voices, and give the result its alias, or refuse it.

    Raises InputError where there is nothing to audit.
    """
    load_policy(job.policy)
    prepared = read_prepared(job.folder / "prepared", "voxveil finetune prepare")
    base = same_base(job, prepared)
    exported = read_document(job.folder / "model.json", "voxveil finetune export")
    if exported["weights"] != folder_digest(job.folder / "model"):
        raise InputError(f"{job.folder / 'model'} is not what version {exported['version']} is: export it again")
    feed = feed_of(job, base, prepared)
    if job.evaluation_index:
        check_unheard(job.evaluation_index, feed)
    index = job.evaluation_index or str(write_held_out(job, feed))
    voices = job.voices or str(write_voices(job, feed, prepared.recipe.frame_rate))
    audits: dict[str, tuple[Report, Path]] = {}
    with ray_session(), one_key():
        for when, model in (("before", base.folder), ("after", job.folder / "model")):
            track.say(f"audit {when} fine-tuning: {model}")
            audit = audit_of(job, index, str(model), voices)
            outcome = run_job(audit, "audit", False, track)
            audits[when] = outcome.report, outcome.paths["report"]
    before, after = audits["before"][0], audits["after"][0]
    refusal = refuse(after)
    judgement = Judgement(compare(before, after), refusal, {when: path for when, (_, path) in audits.items()})
    training = training_id(job.folder / "training", "voxveil finetune run")
    with TrainingRecord(tracking_uri(job.output), job.name, training, "fine-tuning") as record:
        record.figures(dict(figures_of(judgement.table)))
        record.judged(job.name, exported["version"], job.alias, refusal)
    write_document(job.folder / "result.json", as_document(judgement))
    return judgement


def check_unheard(index: str, feed: "CodesFeed") -> None:
    """Raise InputError where a training speaker is among those that are to be audited."""
    trained = {utterance.speaker_id for utterance in feed.corpus.training}
    heard = sorted(trained & {str(speaker) for speaker in open_index(index)[0].to_table(["speaker_id"])[0].to_pylist()})
    if heard:
        raise InputError(
            f"evaluation_index: {len(heard)} of its speakers were trained on ({', '.join(heard[:5])}); leave them out, "
            "or give them other ids where they are other people"
        )


@contextmanager
def one_key() -> Iterator[None]:
    """Give all audits within one key, where the environment has none: models are compared in the same voices."""
    variable = Job.model_fields["key_env"].default
    if os.environ.get(variable):
        yield
        return
    os.environ[variable] = ephemeral_key().hex()
    try:
        yield
    finally:
        del os.environ[variable]


def audit_of(job: FinetuneJob, index: str, model: str, voices: str) -> Job:
    """Return the audit of a model."""
    fields: dict[str, object] = {"index": index, "name": f"{job.name}-audit", "output": job.output, "model": model}
    fields |= {"anonymizer": "streamvoiceanon", "voices": voices, "profile": job.profile, "policy": job.policy}
    fields |= {"attacker_corpus": job.attacker_corpus, "language": job.language}
    return load_job(None, fields | {"workers": job.workers, "gpus": job.gpus})


def refuse(report: Report) -> str | None:
    """Return why a model may not be used, in one line: the policy's privacy rules that it fails. None: it may."""
    rules = [rule for rule in report.rules if rule.metric.startswith("privacy.")]
    failed = [rule for rule in rules if not rule.passed]
    if not rules:
        return f"the policy {report.policy.name} has no rule about privacy, so nothing says that it is kept"
    if not failed:
        return None
    return f"{len(failed)} of the {len(rules)} privacy rules are not met. {failed[0].sentence}"


def compare(before: Report, after: Report) -> tuple[Comparison, ...]:
    """Return the table: the original speech, and what each model leaves of it; None where nothing was measured."""
    return tuple(
        Comparison(title, name, before.metrics.get(original or ""), before.metrics.get(name), after.metrics.get(name))
        for title, original, name in COMPARED
    )


def figures_of(table: tuple[Comparison, ...]) -> Iterator[tuple[str, float]]:
    """Yield the figures of a table by name, those that are numbers."""
    for line in table:
        for when, figure in (("before", line.before), ("after", line.after)):
            if figure is not None and figure.value is not None and math.isfinite(figure.value):
                yield f"{when}.{line.metric}", figure.value


def as_document(judgement: Judgement) -> dict[str, Any]:
    """Return a judgement as JSON values."""
    table = [
        {
            "metric": line.metric,
            **{
                when: figure.model_dump(mode="json") if figure else None
                for when, figure in (("original", line.original), ("before", line.before), ("after", line.after))
            },
        }
        for line in judgement.table
    ]
    reports = {when: str(path) for when, path in judgement.reports.items()}
    return {"approved": judgement.refusal is None, "refusal": judgement.refusal, "table": table, "reports": reports}


def write_held_out(job: FinetuneJob, feed: "CodesFeed") -> Path:
    """Write an index of the held-out speakers' utterances, audio embedded, into the private folder; return it."""
    wanted = {utterance.utt_id for utterance in feed.corpus.validation}
    dataset, folder = open_index(job.index)
    reader = Decode(folder, 16_000, 0)
    names = [name for name in CARRIED if name in dataset.schema.names]
    schema = pa.schema([*((name, pa.string()) for name in names), ("audio", AUDIO_TYPE)])
    path = job.folder / "evaluation.parquet"
    partial = path.with_name(f".{path.name}")
    partial.touch(mode=0o600)
    with pq.ParquetWriter(partial, schema) as writer:
        found = dataset.filter(pds.field("utt_id").isin(pa.array(sorted(wanted))))
        for batch in found.to_batches(columns=[*names, "audio"], batch_size=ROWS_AT_ONCE, batch_readahead=1):
            rows = []
            for row in batch.to_pylist():
                try:
                    encoded = reader.read(row["audio"])
                except Unusable as fault:
                    raise InputError(f"{row['utt_id']} could be read when it was prepared, not now: {fault}") from None
                rows.append(row | {"audio": {"bytes": encoded, "path": None}})
            if rows:
                writer.write_table(pa.Table.from_pylist(rows, schema=schema))
    partial.replace(path)
    return path


def write_voices(job: FinetuneJob, feed: "CodesFeed", frame_rate: float) -> Path:
    """Write a voice bank of one neutral utterance, the longest, of each training speaker; return it."""
    from models.streamvoiceanon import VoiceBank
    from pipelines.training.samples import voice_of

    longest: dict[str, tuple[int, str]] = {}
    for utterance in feed.corpus.training:
        if utterance.emotion == NEUTRAL:
            found = (utterance.frames, utterance.utt_id)
            longest[utterance.speaker_id] = max(found, longest.get(utterance.speaker_id, found))
    if not longest:
        raise InputError("no training speaker speaks neutrally, so there is no voice to audit with: name `voices`")
    voices = [
        voice_of(feed, utt_id, feed.settings.prompt_frames, frame_rate, f"voice-{number:05d}")
        for number, (_, (_, utt_id)) in enumerate(sorted(longest.items()))
    ]
    path = job.folder / "voices.parquet"
    VoiceBank(voices).save(path)
    path.chmod(0o600)
    return path
