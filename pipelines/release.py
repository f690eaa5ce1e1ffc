"""Release and audit: a dataset goes in, a decision comes out.

    index -> survey -> anonymize -> audit -> decide -> report -> record (MLflow) -> publish

Both jobs are one sequence of steps; `audit` stops before publishing. Every step leaves its result in the run's private
folder, so that a run that was cut resumes where it was. No MLflow record, no release: where tracking is down the
staged result stays, and `--resume` finishes later.
"""

import hashlib
import importlib.metadata
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import pyarrow.compute as pc
import pyarrow.dataset as pds

from governance.lineage import AnonymizerUsed, Counts, Lineage, ModelUsed
from governance.manifest import ManifestError, read_manifest
from governance.policy import Policy, load_policy
from governance.publish import check_target, publish
from governance.report import Report
from governance.tracking import TrackingUnavailable, check_tracking, record, record_published, tracking_uri
from models import registry
from operators.schema import InputError
from pipelines.anonymize import (
    anonymize_index,
    choose_anonymizer,
    digest_of,
    seal,
    subgroup_columns,
    unusable_ids,
    write_quarantine,
)
from pipelines.attacker import attacker_used, train_attacker
from pipelines.attacker_corpus import survey_training, utterances_of
from pipelines.attacker_network import Network, NetworkSettings, embed_with, find_network, train_network
from pipelines.audit import anonymize_as_attacker, attacker_schema, extract_features
from pipelines.cluster import ray_session
from pipelines.config import Job, job_key
from pipelines.runs import Run, find_unfinished, start_run
from pipelines.survey import Survey, check_columns_wanted, check_output_apart, survey_index
from pipelines.trials import OfficialTrials, read_trials

if TYPE_CHECKING:
    from models.attackers import SpeakerBackend
    from pipelines.evidence.semi_informed import Listening
    from pipelines.progress import Track

Kind = Literal["release", "audit"]
ASSUMED_ENGLISH = "The index does not say in which language people speak; English was assumed (option --language)."
SAME_EARS = (
    "The recogniser that counts the words also listened for the anonymizer, so it may find more of them than another "
    "would (option --profile standard)."
)
SOFTWARE = ("voxveil", "torch", "ray", "mlflow", "faster-whisper", "Resemblyzer", "speechmos")


def heard_by_its_judge(plan: "Plan") -> bool:
    """Whether the recogniser that counts words is also who hears for the anonymizer."""
    ears = plan.anonymizer.config.get("recogniser_digest")
    return any(auditor.role == "whisper" and auditor.digest == ears for auditor in plan.auditors)


@dataclass(frozen=True)
class Outcome:
    """How a job ended. `released` is the folder of the released data, None where nothing was released."""

    report: Report
    run_folder: Path
    tracking: str
    mlflow_run_id: str | None
    released: Path | None

    @property
    def paths(self) -> dict[str, Path]:
        """Where everything lies, for machines."""
        paths = {
            "report": self.run_folder / "report" / "report.html",
            "report_json": self.run_folder / "report" / "report.json",
            "quarantine": self.run_folder / "quarantine.parquet",
        }
        staged = self.run_folder / "staged"
        if self.released is not None:
            paths["released"] = self.released
        elif staged.exists():
            paths["staged"] = staged
        return paths


@dataclass(frozen=True)
class Plan:
    """A job that was checked before it runs: its policy, its index, its auditors' weights.

    `training` surveys the corpus that the semi-informed attacker is trained on, None where none is named; `trials` are
    official ones, None where they are drawn. `network` is a semi-informed attacker that the job names. `told` is
    what has to be told of how the index is anonymized, a sentence each.
    """

    job: Job
    kind: Kind
    policy: Policy
    survey: Survey
    training: Survey | None
    network: Network | None
    trials: OfficialTrials | None
    auditors: tuple[ModelUsed, ...]
    anonymizer: AnonymizerUsed
    tracking: str
    target: Path
    told: tuple[str, ...]

    @property
    def has_key(self) -> bool:
        """Whether the key comes from the environment."""
        return job_key(self.job) is not None

    @property
    def trains_in_folds(self) -> bool:
        """Whether the policy wants a semi-informed attacker and the corpus itself has to train it."""
        return self.training is None and self.network is None and self.policy.needs("semi_informed")

    @property
    def language(self) -> str:
        """The language of rows that name none."""
        return self.job.language or "en"


def plan_job(job: Job, kind: Kind, resume: bool = False) -> Plan:
    """Check everything that can be checked before work starts. Raises InputError, PolicyError, PublishError,
    WeightsMissing or WeightsChanged, each with one line."""
    policy = load_policy(job.policy)
    check_output_apart(job)
    survey = survey_index(job.index, (*job.keep_columns, *(job.subgroups or ())))
    check_columns_wanted(job, survey)
    training = survey_training(job.attacker_corpus, utterances_of(job.index)) if job.attacker_corpus else None
    trials = read_trials(job)
    job, anonymizer, told = choose_anonymizer(job, survey)
    target = job.folder() / "released"
    if kind == "release" and not (resume and released_by_unfinished(job, target)):
        check_target(target)
    job_key(job)  # a key that cannot be used is an error now, not later
    auditors = tuple(
        ModelUsed(role=role, uri=uri, digest=digest_of(registry.resolve(uri).digests))
        for role, uri in registry.PROFILES[job.profile].items()
    )
    network = None
    if job.attacker is not None:
        network = find_network(job.attacker, job.output, anonymizer, list(utterances_of(job.index)))
        auditors += (network.used,)
    return Plan(
        job,
        kind,
        policy,
        survey,
        training,
        network,
        trials,
        auditors,
        anonymizer,
        tracking_uri(job.output),
        target,
        told,
    )


def released_by_unfinished(job: Job, target: Path) -> bool:
    """Whether `target` was released by the run that is to be resumed, which died before it could say so."""
    found = find_unfinished(job, "release")
    try:
        return found is not None and read_manifest(target).job_id == found[0].name
    except ManifestError:
        return False


def run_job(job: Job, kind: Kind, resume: bool, track: "Track") -> Outcome:
    """Run a job to its decision and, for a release that is decided so, to the released folder.

    Raises what `plan_job` raises. TrackingUnavailable and PublishError leave the staged result for `--resume`.
    """
    plan = plan_job(job, kind, resume)
    job = plan.job
    try:
        check_tracking(plan.tracking)
    except TrackingUnavailable as fault:
        track.say(f"MLflow does not answer ({fault}). The work goes on; nothing is released before it is recorded.")
    world = {"index": plan.survey.digest, "policy": plan.policy.digest}
    if plan.training is not None:
        world["attacker_corpus"] = plan.training.digest
    if plan.trials is not None:
        world["trials"] = plan.trials.digest
    run = start_run(job, kind, world, resume)
    for sentence in plan.told:
        track.say(sentence)
    track.say(f"{plan.survey.rows} rows of {plan.survey.speakers} speakers; the run's folder is {run.folder}")
    if "reported" not in run.done:
        track.say("starting Ray, which takes some seconds")
        with ray_session():
            report = prepare_report(run, plan, track)
        run.finish_step("reported")
    else:
        report = Report.from_json((run.report / "report.json").read_text())
    run_id = record(report, run.report, plan.tracking)
    run.finish_step("recorded", run_id)
    released = None
    if kind == "release" and report.decision == "release":
        publish(run.staged, plan.target, report, run_id)
        record_published(run_id, plan.target, plan.tracking)
        released = plan.target
    run.close()
    return Outcome(report, run.folder, plan.tracking, run_id, released)


def run_anonymize(job: Job, resume: bool, track: "Track") -> tuple[Run, int, dict[str, int]]:
    """Run the anonymizing half alone; return the run, the rows staged, and the count of each quarantine reason."""
    check_output_apart(job)
    survey = survey_index(job.index, job.keep_columns)
    job_key(job)
    check_columns_wanted(job, survey)
    job, _, told = choose_anonymizer(job, survey)  # weights that cannot be loaded are an error now, not later
    for sentence in told:
        track.say(sentence)
    run = start_run(job, "anonymize", {"index": survey.digest}, resume)
    with ray_session():
        reasons = anonymize_and_seal(run, survey, track)
    run.close()
    return run, survey.rows - sum(reasons.values()), reasons


def anonymize_and_seal(run: Run, survey: Survey, track: "Track") -> dict[str, int]:
    """Fill `staged`, skipping what a former run finished; return the count of each quarantine reason."""
    if "anonymized" not in run.done:
        anonymize_index(run, survey, track)
        run.finish_step("anonymized", write_quarantine(run, survey))
    reasons: dict[str, int] = run.done["anonymized"]
    unusable = sum(reasons.values())
    if unusable == survey.rows:
        named = ", ".join(f"{reason}: {count}" for reason, count in reasons.items())
        raise InputError(
            f"none of the {survey.rows} rows of {run.job.index} can be used ({named}); see {run.quarantine}"
        )
    if "sealed" not in run.done:
        run.finish_step("sealed", seal(run, survey, survey.rows - unusable))
    return reasons


def prepare_report(run: Run, plan: Plan, track: "Track") -> Report:
    """Anonymize, attack and judge; write the report into the run's folder and return it. Resumes step by step."""
    from governance.decision import decide
    from governance.page import write_report
    from governance.power import power_notes
    from pipelines.evidence.gather import gather_evidence
    from pipelines.evidence.semi_informed import read_listening
    from pipelines.evidence.views import read_views

    job, survey = run.job, plan.survey
    reasons = anonymize_and_seal(run, survey, track)
    unusable = sum(reasons.values())
    if "features" not in run.done:
        extract_features(run, survey, unusable_ids(run), track)
        run.finish_step("features")
    views = read_views(run.work / "features")
    if len(views.utt_ids) != survey.rows - unusable:
        raise RuntimeError(f"{survey.rows - unusable} rows are staged, but {len(views.utt_ids)} were audited")
    if "attacked" not in run.done:
        wanted = range(len(views.utt_ids)) if plan.trains_in_folds else views.split(job.seed, plan.trials).enrolment
        anonymize_as_attacker(run, survey, frozenset(views.utt_ids[row] for row in wanted), track)
        run.finish_step("attacked")
    attacker, used = obtain_attacker(run, plan, track)
    plan = replace(plan, auditors=(*plan.auditors, *used))
    semi_informed: SpeakerBackend | Listening | Literal["folds"] | None = "folds" if plan.trains_in_folds else None
    if isinstance(attacker, Network):
        known = frozenset(views.utt_ids[row] for row in views.split(job.seed, plan.trials).enrolment)
        heard = embed_with(run, survey, attacker, known, unusable_ids(run), track)
        semi_informed = read_listening(heard, attacker.card.speakers, attacker.card.utterances, attacker.card.losses)
    elif attacker is not None:
        semi_informed = attacker
    track.say("measuring, with intervals over speakers")
    own = pds.dataset(run.work / "attacker", format="parquet", schema=attacker_schema()).to_table(
        filter=pds.field("reason") == ""
    )
    columns = subgroup_columns(job, survey)
    evidence = gather_evidence(
        views, own, unusable, survey.rows, columns, plan.language, job.seed, semi_informed, plan.trials
    )
    if not survey.languages and job.language is None:
        evidence = replace(evidence, notes=[*evidence.notes, ASSUMED_ENGLISH])
    evidence = replace(evidence, notes=[*evidence.notes, *plan.told])
    if heard_by_its_judge(plan):
        evidence = replace(evidence, notes=[*evidence.notes, SAME_EARS])
    decision = decide(plan.policy, evidence.metrics, evidence.chance)
    evidence = replace(evidence, notes=[*evidence.notes, *power_notes(decision)])
    seconds = float(pc.sum(views.original["seconds"]).as_py())
    report = Report.of(evidence, lineage_of(run, plan, reasons, seconds), plan.policy, decision)
    write_report(report, evidence, run.report)
    return report


def obtain_attacker(
    run: Run, plan: Plan, track: "Track"
) -> "tuple[SpeakerBackend | Network | None, tuple[ModelUsed, ...]]":
    """Return the trained attacker that the job names, or that it trains on a corpus that it names, and what the report
    calls it where the plan does not say yet; None where neither is named."""
    job = run.job
    if plan.network is not None or job.attacker_corpus is None or plan.training is None:
        return plan.network, ()
    if job.profile == "standard":  # its attacker is a network, which goes on from the profile's own encoder
        initial = registry.resolve(registry.PROFILES["standard"]["speaker"])
        settings = NetworkSettings.model_validate({})
        network = train_network(run, job.attacker_corpus, plan.training, plan.anonymizer, settings, initial, track)
        return network, (network.used,)
    backend, kept = train_attacker(run, job.attacker_corpus, plan.training, plan.anonymizer, track)
    return backend, (attacker_used(kept),)


def lineage_of(run: Run, plan: Plan, reasons: dict[str, int], seconds: float) -> Lineage:
    """Return where the result comes from. `seconds` is the duration of the usable original speech."""
    job, survey = run.job, plan.survey
    unusable = sum(reasons.values())
    return Lineage(
        job=plan.kind,
        job_id=run.run_id,
        created=datetime.now(UTC),
        dataset=job.name,
        index_uri=job.index,
        fingerprint=fingerprint(run.work / "anonymized"),
        output_digest=digest_of({path.name: _sha256(path) for path in sorted(run.staged.glob("*.parquet"))}),
        counts=Counts(input=survey.rows, released=survey.rows - unusable, quarantined=unusable, reasons=reasons),
        speakers=survey.speakers,
        hours=seconds / 3600,
        profile=job.profile,
        anonymizer=plan.anonymizer,
        auditors=plan.auditors,
        key_policy="ephemeral" if run.key_is_ephemeral else "environment",
        voice_policy=job.voice_level,
        code_version=importlib.metadata.version("voxveil"),
        software={name: importlib.metadata.version(name) for name in SOFTWARE},
    )


def fingerprint(anonymized: Path) -> str:
    """Return the digest of a corpus: of every id and encoded audio in it, whatever the order of its rows."""
    table = pds.dataset(anonymized, format="parquet").to_table(columns=["utt_id", "audio_digest"])
    rows = sorted(zip(table["utt_id"].to_pylist(), table["audio_digest"].to_pylist(), strict=True))
    return hashlib.sha256("\n".join(f"{utt_id}\t{digest}" for utt_id, digest in rows).encode()).hexdigest()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
