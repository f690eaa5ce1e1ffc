"""Models of MLflow's registry, anonymizers' and attackers': `models:/name/version` or `models:/name@alias`."""

import tempfile
from pathlib import Path
from urllib.parse import quote

from governance.tracking import open_client, patience, told_in_one_line, tracking_uri
from governance.training_record import AUDIT_TAG, PASSED
from operators.schema import InputError
from pipelines.config import Job

SCHEME = "models:/"
OUTPUT = Path("voxveil-out")
DOWNLOAD = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "120", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2"}


def with_local_model(job: Job) -> Job:
    """Return the job with its registered model, if it names one, downloaded. Raises as `download_model`."""
    return job.model_copy(update={"model": local_model(job.model, job.output)}) if job.model else job


def local_model(source: str, output: Path = OUTPUT) -> str:
    """Return a model's source with a registered one, `models:/…`, downloaded. Raises as `download_model`."""
    return str(download_model(source, output)) if source.startswith(SCHEME) else source


def download_model(uri: str, output: Path) -> Path:
    """Return a folder below `output`, where all workers reach it, with the files of a registered version.

    An alias is resolved once, here, so that a run and its resumption use one version. The folder is named after model
    and version, and downloaded once. Raises InputError where there is no such version, or one that was not audited or
    did not pass, TrackingUnavailable where MLflow does not answer.
    """
    from mlflow.artifacts import download_artifacts
    from mlflow.exceptions import MlflowException

    name, version = read_uri(uri)
    tracking, missing, audit = tracking_uri(output), None, PASSED
    with told_in_one_line(tracking), patience(DOWNLOAD):
        client = open_client(tracking)
        try:
            if version.startswith("@"):
                version = str(client.get_model_version_by_alias(name, version[1:]).version)
            audit = client.get_model_version(name, version).tags.get(AUDIT_TAG, PASSED)
            source = client.get_model_version_download_uri(name, version)
        except MlflowException as fault:
            if fault.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                raise
            missing = fault.message
        folder = output / "models" / quote(name, safe="") / version
        if missing is None and audit == PASSED and not folder.is_dir():
            folder.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
                Path(download_artifacts(source, dst_path=scratch, tracking_uri=tracking)).rename(folder)
    if missing is not None:
        raise InputError(f"{uri}: MLflow's registry has no such version: {missing}")
    if audit != PASSED:
        raise InputError(f"{uri}: version {version} did not pass its audit ({audit}): take one that did, by its alias")
    return folder


def read_uri(uri: str) -> tuple[str, str]:
    """Return the name, and the version or `@alias`, of a `models:/…` URI. Raises InputError."""
    path = uri.removeprefix(SCHEME)
    separator = "@" if "@" in path else "/"
    name, _, version = path.rpartition(separator)
    if not name or not version or (separator == "/" and not version.isdigit()):
        raise InputError(f"{uri}: write models:/name/version or models:/name@alias")
    return name, f"@{version}" if separator == "@" else version
