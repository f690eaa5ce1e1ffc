"""The record of a job in MLflow: one experiment a dataset, one run a release or audit, for people to read and compare.

A run carries the tag of its job, so a job that is resumed completes its run instead of making another. Uses no global
state of MLflow's. Whatever keeps MLflow from answering ends, within seconds, in `TrackingUnavailable`.
"""

import hashlib
import html
import json
import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from governance.catalogue import describe, written
from governance.lineage import without_secrets
from governance.report import Report

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import DatasetInput, Metric, Param, RunTag

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # read when MLflow is imported; we report to nobody

JOB_TAG = "voxveil.job_id"
PUBLISHED_TAG = "released_to"
# Without it, MLflow takes an experiment for an application of language models and opens on traces and judges.
EXPERIMENT_TAGS = {"mlflow.experimentKind": "custom_model_development"}
MARKS = {"release": "✓ Release", "review": "⚠ Review", "withhold": "✕ Withhold"}
# A run has thousands of small requests at most; a server that does not answer the first within seconds is down.
REACH = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "5", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
WORK = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "30", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2"}
BATCH = 100  # tags and parameters in one request; MLflow's limit, and that of metrics is higher


class TrackingUnavailable(RuntimeError):
    """MLflow could not take the record; the message is one line without credentials."""


def tracking_uri(folder: Path) -> str:
    """Return where to record: MLFLOW_TRACKING_URI, or else an SQLite file in `folder` (made when it is first used)."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{folder.absolute() / 'mlflow.db'}"


def check_tracking(uri: str) -> None:
    """Ask MLflow for a sign of life before the work starts. Raises TrackingUnavailable."""
    with told_in_one_line(uri), patience(REACH):
        open_client(uri).search_experiments(max_results=1)


def record(report: Report, folder: Path, uri: str) -> str:
    """Record the report and everything under `folder` (report.html, report.json, plots) and return the run's id.

    A run of the same job is found by its tag and completed. Raises TrackingUnavailable; the run is then left marked as
    failed where it was begun, and a second call completes it.
    """
    check_tracking(uri)
    with told_in_one_line(uri):
        client = open_client(uri)
        with patience(WORK):
            run_id = _find_or_create_run(client, open_experiment(client, report.lineage.dataset, uri), report)
        try:
            with patience(WORK):
                _fill(client, run_id, report, folder)
                client.set_terminated(run_id, "FINISHED")
        except BaseException:
            with suppress(Exception), patience(REACH):  # the server may be what failed
                client.set_terminated(run_id, "FAILED")
            raise
        return run_id


def record_published(run_id: str, target: Path, uri: str) -> None:
    """Note on a recorded run that its data now lies in the released folder: a decision alone has moved nothing.

    Raises TrackingUnavailable; calling again is harmless.
    """
    with told_in_one_line(uri), patience(WORK):
        open_client(uri).set_tag(run_id, PUBLISHED_TAG, str(target))


def open_client(uri: str) -> "MlflowClient":
    """Return a client of the store at `uri`, whose SQLite file is made where it is missing."""
    from mlflow import MlflowClient

    for talkative in ("mlflow.store.db.utils", "alembic"):  # they report every step of making an SQLite store
        logging.getLogger(talkative).setLevel(logging.WARNING)

    if uri.startswith("sqlite:///"):
        Path(uri.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    return MlflowClient(tracking_uri=uri)


def open_experiment(client: "MlflowClient", name: str, uri: str) -> str:
    """Return the id of an experiment, made where it is missing. Raises TrackingUnavailable where it was deleted."""
    from mlflow.exceptions import MlflowException

    name = name[:500]
    known = client.get_experiment_by_name(name)
    if known is not None:
        if known.lifecycle_stage != "active":
            raise TrackingUnavailable(
                f"the MLflow experiment “{name}” was deleted; restore it with"
                f" `mlflow experiments restore --experiment-id {known.experiment_id}` or rename the dataset"
            )
        return str(known.experiment_id)
    location = None
    if uri.startswith("sqlite:///"):  # beside the database, not wherever the job was started
        location = (Path(uri.removeprefix("sqlite:///")).absolute().parent / "mlartifacts").as_uri()
    try:
        return str(client.create_experiment(name, artifact_location=location, tags=EXPERIMENT_TAGS))
    except MlflowException:
        made = client.get_experiment_by_name(name)  # by another job, in this very moment
        if made is None:
            raise
        return str(made.experiment_id)


def _find_or_create_run(client: "MlflowClient", experiment_id: str, report: Report) -> str:
    job_id = report.lineage.job_id
    found = client.search_runs([experiment_id], f"tags.`{JOB_TAG}` = '{job_id}'", max_results=1)
    if found:
        client.update_run(found[0].info.run_id, status="RUNNING", name=_run_name(report))
        return str(found[0].info.run_id)
    start = int(report.lineage.created.timestamp() * 1000)
    run = client.create_run(experiment_id, start, tags={JOB_TAG: job_id}, run_name=_run_name(report))
    return str(run.info.run_id)


def _run_name(report: Report) -> str:
    return f"{MARKS[report.decision]} · {report.lineage.job} {report.lineage.day}"  # MLflow's table cuts the end off


def _fill(client: "MlflowClient", run_id: str, report: Report, folder: Path) -> None:
    known = client.get_run(run_id).data.params
    for param in _params(report):
        if known.get(param.key, param.value) != param.value:
            raise TrackingUnavailable(
                f"MLflow run {run_id} records job {report.lineage.job_id} with {param.key} = {known[param.key]!r}, not"
                f" {param.value!r}; a job that is resumed cannot change its settings: start a new one"
            )
    params = [param for param in _params(report) if param.key not in known]
    tags, metrics = _tags(report), _metrics(report)
    for start in range(0, max(len(params), len(tags)), BATCH):
        client.log_batch(run_id, params=params[start : start + BATCH], tags=tags[start : start + BATCH])
    for start in range(0, len(metrics), BATCH):
        client.log_batch(run_id, metrics=metrics[start : start + BATCH])
    client.log_inputs(run_id, _datasets(report))
    client.log_artifacts(run_id, str(folder))


def _params(report: Report) -> list["Param"]:
    """What the job was told to do: it does not change when the job is resumed, as MLflow's parameters must not."""
    from mlflow.entities import Param

    lineage = report.lineage
    told = {
        "job": lineage.job,
        "profile": lineage.profile,
        "anonymizer": lineage.anonymizer.name,
        "anonymizer_digest": lineage.anonymizer.digest,
        "key_policy": lineage.key_policy,
        "voice_policy": lineage.voice_policy,
        "policy": f"{report.policy.name} {report.policy.version}",
        "policy_sha256": report.policy.sha256,
        "index": lineage.index_uri,
    }
    told |= {f"anonymizer.{key}": json.dumps(value) for key, value in lineage.anonymizer.config.items()}
    return [Param(safe_key(key), value[:6000]) for key, value in told.items()]


def _tags(report: Report) -> list["RunTag"]:
    from mlflow.entities import RunTag

    lineage = report.lineage
    told = {
        "decision": report.decision,
        "policy": f"{report.policy.name} {report.policy.version}",
        "profile": lineage.profile,
        "anonymizer": lineage.anonymizer.name,
        "dataset": lineage.dataset,
        "job": lineage.job,
        "code_version": lineage.code_version,
        "software": ", ".join(f"{name} {version}" for name, version in sorted(lineage.software.items())),
        "mlflow.source.name": f"voxveil {lineage.job}",
        "mlflow.source.type": "LOCAL",
        "mlflow.note.content": summary(report),
    }
    told |= {f"model.{model.role.replace(' ', '_')}": f"{model.uri} {model.digest}" for model in lineage.auditors}
    return [RunTag(safe_key(key), value[:8000]) for key, value in told.items()]


def _metrics(report: Report) -> list["Metric"]:
    """Figures under their stable names, with `.lower` and `.upper`; what is not a number is not logged as one."""
    from mlflow.entities import Metric

    moment = int(report.lineage.created.timestamp() * 1000)  # fixed, so that logging twice is logging once
    counts = report.lineage.counts
    numbers: dict[str, float | None] = {
        "data.rows.input": counts.input,
        "data.rows.released": counts.released,
        "data.rows.quarantined": counts.quarantined,
    }
    for name, figure in report.metrics.items():
        numbers |= {name: figure.value, f"{name}.lower": figure.lower, f"{name}.upper": figure.upper}
    return [Metric(safe_key(name), number, moment, 0) for name, number in numbers.items() if number is not None]


def _datasets(report: Report) -> list["DatasetInput"]:
    from mlflow.entities import Dataset, DatasetInput, InputTag

    lineage = report.lineage
    profile = {"rows": lineage.counts.input, "speakers": lineage.speakers, "hours": round(lineage.hours, 4)}
    source = json.dumps({"uri": lineage.index_uri})
    rows = [("input", lineage.dataset, lineage.fingerprint, source, profile)]
    if lineage.output_digest:
        made = json.dumps({"anonymized_from": lineage.fingerprint, "by": lineage.anonymizer.name})
        rows.append(
            (
                "output",
                f"{lineage.dataset} (anonymized)",
                lineage.output_digest,
                made,
                {"rows": lineage.counts.released},
            )
        )
    return [
        DatasetInput(
            # MLflow shows the digest beside the name; the whole one is in the report
            Dataset(name[:500], digest[:12], "parquet", source, profile=json.dumps(profile)),
            [InputTag("mlflow.data.context", context)],
        )
        for context, name, digest, source, profile in rows
    ]


def summary(report: Report) -> str:
    """Return half a page of Markdown: the decision, the rules, and where to read on."""
    lineage, counts = report.lineage, report.lineage.counts
    lines = [
        f"## {MARKS[report.decision]}",
        "",
        _inert(report.sentence),
        "",
        f"{_inert(lineage.dataset)}: {counts.input} recordings of {lineage.speakers} speakers"
        f" ({lineage.hours:.1f} hours), {counts.quarantined} set aside, anonymized with"
        f" {_inert(lineage.anonymizer.name)}.",
        "",
        "| | rule | required | measured |",
        "|---|---|---|---|",
    ]
    for rule in report.rules:
        figure, mark = rule.figure, "met" if rule.passed else "**not met**"
        measured = "not measured"
        if figure and figure.value is not None:
            measured = written(figure.value, describe(rule.metric).unit)
            measured += "" if figure.trustworthy else " (not trustworthy)"
        lines.append(f"| {mark} | {_inert(rule.title)} | {rule.expectation} | {measured} |")
    if report.notes:
        lines += ["", *(f"- {_inert(note)}" for note in report.notes)]
    lines += ["", "The whole report is the artifact `report.html`; `report.json` is the same for machines."]
    return "\n".join(lines)


def _inert(text: str) -> str:
    """Return text that Markdown shows as it is: names come from the data, and the data is hostile."""
    return re.sub(r"([\\`*_{}\[\]()#+!|~])", r"\\\1", html.escape(" ".join(text.split()), quote=False))


def safe_key(name: str) -> str:
    """Return a name that MLflow takes (letters, digits and `_-. :/`); one that had to be changed stays unique."""
    plain = re.sub(r"[^\w\-. :/]", "_", name, flags=re.ASCII)
    plain = plain.replace("..", "._").replace("//", "/_").strip("/ ")
    if plain == name and len(plain) <= 250:
        return plain
    return f"{plain[:240]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


@contextmanager
def patience(settings: dict[str, str]) -> Iterator[None]:
    """Set how long MLflow's HTTP client waits, for the time of a block; what the user set stays."""
    added = [name for name in settings if name not in os.environ]
    os.environ.update({name: settings[name] for name in added})
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)


@contextmanager
def told_in_one_line(uri: str) -> Iterator[None]:
    """Turn whatever MLflow raises within a block into TrackingUnavailable, one line without credentials."""
    from mlflow.exceptions import MlflowException

    try:
        yield
    except TrackingUnavailable:
        raise
    # Databases, object stores and proxies each fail in their own way; the job must keep its result whatever it is.
    except Exception as error:
        why = " ".join(str(error).split()).replace(uri, without_secrets(uri))
        why = re.sub(r"//[^/@\s]+@", "//", why)
        if not isinstance(error, MlflowException | OSError):
            why = f"{type(error).__name__}: {why}"
        raise TrackingUnavailable(f"MLflow at {without_secrets(uri)} cannot take the record: {why[:200]}") from None
