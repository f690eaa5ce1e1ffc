"""The record of a training in MLflow: its parameters, its curve as it grows, its files, and its model's versions.

A training has one run, found again by the training's id, so that one that was cut goes on in the same curve. While
MLflow does not answer the curve waits here, and the training goes on; what needs an answer raises TrackingUnavailable.
"""

import hashlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from governance.tracking import (
    BATCH,
    JOB_TAG,
    REACH,
    WORK,
    TrackingUnavailable,
    open_client,
    open_experiment,
    patience,
    safe_key,
    told_in_one_line,
)

if TYPE_CHECKING:
    from mlflow import MlflowClient

METRICS_AT_ONCE = 900  # MLflow's limit is 1,000
Line = Mapping[str, float]
AUDIT_TAG, PASSED = "audit", "passed"  # of a registered version


class TrainingRecord:
    """One training's run. Use it as a context: what still waits is sent at its end."""

    def __init__(self, uri: str, experiment: str, training_id: str, title: str) -> None:
        self.uri, self.experiment, self.training_id, self.title = uri, experiment, training_id, title
        self._client: MlflowClient | None = None
        self._run_id = ""
        self._sent = 0
        self._waiting: list[Line] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, fault: BaseException | None, _: TracebackType | None) -> None:
        if kind is None:
            self._send()
        elif self._client is not None:
            with suppress(Exception):  # what went wrong is told by what is already on its way
                self._client.set_terminated(self._run_id, "KILLED" if kind is KeyboardInterrupt else "FAILED")

    @property
    def run_id(self) -> str:
        """The run in MLflow, made where it is missing. Raises TrackingUnavailable."""
        if not self._run_id:
            with told_in_one_line(self.uri), patience(REACH):
                client = open_client(self.uri)
                experiment = open_experiment(client, self.experiment, self.uri)
                found = client.search_runs([experiment], f"tags.`{JOB_TAG}` = '{self.training_id}'", max_results=1)
                if found:
                    run = found[0]
                    client.update_run(run.info.run_id, status="RUNNING")
                    history = client.get_metric_history(run.info.run_id, "learning_rate")
                    self._sent = max((metric.step for metric in history), default=0)
                else:
                    name = f"{self.title} {datetime.now(UTC):%Y-%m-%d}"
                    run = client.create_run(experiment, tags={JOB_TAG: self.training_id}, run_name=name)
                self._client, self._run_id = client, run.info.run_id
        return self._run_id

    @property
    def client(self) -> "MlflowClient":
        assert self.run_id
        assert self._client is not None
        return self._client

    def parameters(self, parameters: Mapping[str, str]) -> None:
        """Log what the training was told to do. Raises TrackingUnavailable."""
        from mlflow.entities import Param

        with told_in_one_line(self.uri), patience(WORK):
            known = self.client.get_run(self.run_id).data.params
            told = [Param(safe_key(key), value[:6000]) for key, value in parameters.items()]
            new = [param for param in told if param.key not in known]
            for start in range(0, len(new), BATCH):
                self.client.log_batch(self.run_id, params=new[start : start + BATCH])

    def lines(self, lines: Sequence[Line]) -> None:
        """Log lines of a curve (a mapping with `step`); each step is logged once, however often it is told."""
        self._waiting += lines
        try:
            self._send()
        except TrackingUnavailable:
            return  # the next call tries again, and the end of the context insists

    def _send(self) -> None:
        from mlflow.entities import Metric

        if not self._waiting:
            return
        with told_in_one_line(self.uri), patience(WORK):
            client, moment = self.client, int(datetime.now(UTC).timestamp() * 1000)
            metrics = [
                Metric(safe_key(key), float(value), moment, int(line["step"]))
                for line in self._waiting
                if line["step"] > self._sent
                for key, value in line.items()
                if key != "step"
            ]
            for start in range(0, len(metrics), METRICS_AT_ONCE):
                client.log_batch(self.run_id, metrics=metrics[start : start + METRICS_AT_ONCE])
            self._sent = max(self._sent, *(int(line["step"]) for line in self._waiting))
            self._waiting = []

    def figures(self, figures: Mapping[str, float]) -> None:
        """Log figures that have no step, such as those of an audit. Raises TrackingUnavailable."""
        with told_in_one_line(self.uri), patience(WORK):
            for key, value in figures.items():
                self.client.log_metric(self.run_id, safe_key(key), value)

    def files(self, folder: Path, name: str) -> None:
        """Keep a folder as artifacts under a name. Raises TrackingUnavailable."""
        if folder.is_dir():
            with told_in_one_line(self.uri), patience(WORK):
                self.client.log_artifacts(self.run_id, str(folder), name)

    def ended(self, how: str) -> None:
        """Say how the training ended. Raises TrackingUnavailable."""
        self._send()
        with told_in_one_line(self.uri), patience(WORK):
            self.client.set_tag(self.run_id, "ended", how)
            self.client.set_terminated(self.run_id, "FAILED" if how == "not finite" else "FINISHED")

    def register(self, name: str, folder: Path, lineage: Mapping[str, str], to_audit: bool) -> str:
        """Keep a model folder as the newest version of a registered model, without an alias; return the version.

        Its files lie under their digest, so that a later export never changes what a version is. One that is `to_audit`
        is tagged so, until `judged`. Raises TrackingUnavailable.
        """
        from mlflow.exceptions import MlflowException

        path = f"model-{folder_digest(folder)}"
        with told_in_one_line(self.uri), patience(WORK):
            client = self.client
            client.log_artifacts(self.run_id, str(folder), path)
            try:
                client.create_registered_model(name, description="Speaker anonymizers fine-tuned by voxveil.")
            except MlflowException as fault:
                if fault.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
            source = f"{client.get_run(self.run_id).info.artifact_uri}/{path}"
            tags = {safe_key(key): str(value) for key, value in lineage.items()}
            tags |= {AUDIT_TAG: "not audited"} if to_audit else {}
            version = client.create_model_version(name, source, self.run_id, tags=tags)
            client.set_terminated(self.run_id, "FINISHED")
            return str(version.version)

    def judged(self, name: str, version: str, alias: str, refusal: str | None) -> None:
        """Give a version its alias, or, with a `refusal`, tag it with the reason and take the alias from it.

        A refused version never holds the alias; one that another version holds is left alone. Raises
        TrackingUnavailable.
        """
        with told_in_one_line(self.uri), patience(WORK):
            client = self.client
            client.set_model_version_tag(name, version, AUDIT_TAG, refusal or PASSED)
            holds = alias in client.get_model_version(name, version).aliases
            if refusal is None:
                client.set_registered_model_alias(name, alias, version)
            elif holds:
                client.delete_registered_model_alias(name, alias)
            client.set_terminated(self.run_id, "FINISHED")


def folder_digest(folder: Path) -> str:
    """Return a digest of the names and bytes of all files below a folder."""
    whole = hashlib.sha256()
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        with file.open("rb") as opened:
            whole.update(f"{file.relative_to(folder)}\0{hashlib.file_digest(opened, 'sha256').hexdigest()}\n".encode())
    return whole.hexdigest()
