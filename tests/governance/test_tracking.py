"""What MLflow holds after a job, read back through its own client."""

import json
import math
import socket
import time
from dataclasses import replace
from pathlib import Path

import pytest
from mlflow import MlflowClient
from release_sample import ReportMaker

from governance.decision import decide
from governance.lineage import Lineage
from governance.page import write_report
from governance.policy import Policy
from governance.report import Report
from governance.tracking import TrackingUnavailable, check_tracking, record, summary, tracking_uri
from metrics.estimate import Estimate


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An SQLite store: making one takes MLflow seconds, so the tests of this file share it, each with its dataset."""
    folder = tmp_path_factory.mktemp("tracking")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        return tracking_uri(folder / "store")


@pytest.fixture
def artifacts(make_report: ReportMaker, tmp_path: Path) -> Path:
    write_report(*make_report(), tmp_path / "report")
    return tmp_path / "report"


# Seconds: ours are 5, and a busy machine adds its own; MLflow, left to itself, tries for minutes.
GIVEN_UP_WITHIN = 60


def unused_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def test_a_run_holds_all_that_a_reader_looks_for(store: str, artifacts: Path, make_report: ReportMaker) -> None:
    report, _ = make_report(dataset="round trip")
    run_id = record(report, artifacts, store)
    client = MlflowClient(store)
    run = client.get_run(run_id)
    assert client.get_experiment(run.info.experiment_id).name == "round trip"
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "✓ Release · release 2026-11-22"
    assert run.data.tags["decision"] == "release"
    assert run.data.tags["policy"] == "default 1.1"
    assert run.data.tags["profile"] == "embedded"
    assert run.data.tags["anonymizer"] == "mcadams"
    assert run.data.tags["mlflow.note.content"] == summary(report)
    assert run.data.params["anonymizer.lowest"] == "0.5"
    assert run.data.params["index"] == "s3://bucket/corpus/index.parquet"
    for name, figure in report.metrics.items():
        assert run.data.metrics[name] == figure.value
        assert run.data.metrics[f"{name}.lower"] == figure.lower
        assert run.data.metrics[f"{name}.upper"] == figure.upper
    assert run.data.metrics["data.rows.released"] == 97


def test_input_and_output_are_logged_as_datasets(store: str, artifacts: Path, make_report: ReportMaker) -> None:
    run_id = record(make_report(dataset="datasets")[0], artifacts, store)
    told = {
        logged.tags[0].value: logged.dataset for logged in MlflowClient(store).get_run(run_id).inputs.dataset_inputs
    }
    assert told["input"].name == "datasets"
    assert ("1f" * 32).startswith(told["input"].digest)
    assert json.loads(told["input"].source) == {"uri": "s3://bucket/corpus/index.parquet"}
    assert told["output"].name == "datasets (anonymized)"
    assert ("2e" * 32).startswith(told["output"].digest)


def test_the_report_lies_beside_the_database_and_is_the_same(
    store: str, artifacts: Path, make_report: ReportMaker, tmp_path: Path
) -> None:
    run_id = record(make_report(dataset="artifacts")[0], artifacts, store)
    client = MlflowClient(store)
    assert {file.path for file in client.list_artifacts(run_id)} == {
        "report.html",
        "report.json",
        "policy.yaml",
        "plots",
    }
    fetched = Path(client.download_artifacts(run_id, "report.html", str(tmp_path)))
    assert fetched.read_bytes() == (artifacts / "report.html").read_bytes()
    database = Path(store.removeprefix("sqlite:///"))
    assert database.parent.as_uri() in client.get_run(run_id).info.artifact_uri


def test_a_job_that_is_resumed_completes_its_run(
    store: str, artifacts: Path, make_report: ReportMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    report, _ = make_report(dataset="resumed", job_id="job-7")
    client = MlflowClient(store)

    def crash(*_: object, **__: object) -> None:
        raise OSError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "log_artifacts", crash)
        with pytest.raises(TrackingUnavailable, match="the disk is full"):
            record(report, artifacts, store)
    experiment = client.get_experiment_by_name("resumed")
    assert experiment is not None
    (begun,) = client.search_runs([experiment.experiment_id])
    assert begun.info.status == "FAILED"

    assert record(report, artifacts, store) == begun.info.run_id
    assert record(report, artifacts, store) == begun.info.run_id
    (only,) = client.search_runs([experiment.experiment_id])
    assert only.info.status == "FINISHED"
    assert len(client.get_metric_history(begun.info.run_id, "privacy.lazy_informed.eer")) == 1
    assert len(only.inputs.dataset_inputs) == 2


def test_another_job_on_the_same_dataset_is_another_run(store: str, artifacts: Path, make_report: ReportMaker) -> None:
    first = record(make_report(dataset="twice", job_id="a")[0], artifacts, store)
    second = record(make_report(dataset="twice", job_id="b")[0], artifacts, store)
    client = MlflowClient(store)
    assert first != second
    assert client.get_run(first).info.experiment_id == client.get_run(second).info.experiment_id


def test_a_resumed_job_cannot_change_its_settings(store: str, artifacts: Path, make_report: ReportMaker) -> None:
    record(make_report(dataset="changed")[0], artifacts, store)
    with pytest.raises(TrackingUnavailable, match=r"profile = 'embedded', not 'standard'; .* start a new one"):
        record(make_report(dataset="changed", profile="standard")[0], artifacts, store)


def test_what_is_not_a_number_is_not_logged_as_one(
    store: str, artifacts: Path, make_report: ReportMaker, lineage: Lineage, policy: Policy
) -> None:
    _, evidence = make_report()
    broken = {"utility.pitch_correlation": Estimate(math.nan, math.nan, math.inf, 0, trustworthy=False)}
    evidence = replace(evidence, metrics={**evidence.metrics, **broken})
    described = lineage.model_copy(update={"dataset": "not a number"})
    report = Report.of(evidence, described, policy, decide(policy, evidence.metrics))
    metrics = MlflowClient(store).get_run(record(report, artifacts, store)).data.metrics
    assert not [name for name in metrics if name.startswith("utility.pitch_correlation")]
    assert all(math.isfinite(value) for value in metrics.values())


def test_names_that_mlflow_would_refuse_are_recorded_and_stay_apart(
    store: str, artifacts: Path, make_report: ReportMaker
) -> None:
    report, _ = make_report(dataset="<script>alert('1')</script>/../x")
    figure = report.metrics["utility.wer.anonymized"]
    names = [f"subgroup.accent.{value}.utility.wer.anonymized" for value in ("ü?", "ö?", "../..", "a b")]
    report = report.model_copy(update={"metrics": dict.fromkeys(names, figure)})
    metrics = MlflowClient(store).get_run(record(report, artifacts, store)).data.metrics
    values = [name for name in metrics if name.startswith("subgroup.") and not name.endswith((".lower", ".upper"))]
    assert "subgroup.accent.a b.utility.wer.anonymized" in values
    assert len([name for name in metrics if name.startswith("subgroup.")]) == 3 * len(names)


def test_a_deleted_experiment_is_told_with_the_mend(store: str, artifacts: Path, make_report: ReportMaker) -> None:
    client = MlflowClient(store)
    client.delete_experiment(client.create_experiment("deleted"))
    with pytest.raises(TrackingUnavailable, match=r"“deleted” was deleted; restore it with `mlflow experiments"):
        record(make_report(dataset="deleted")[0], artifacts, store)


def test_a_server_that_is_not_there_is_told_within_seconds_and_without_the_password(
    artifacts: Path, make_report: ReportMaker
) -> None:
    uri = f"http://someone:password@127.0.0.1:{unused_port()}"
    started = time.monotonic()
    with pytest.raises(TrackingUnavailable) as caught:
        record(make_report()[0], artifacts, uri)
    assert time.monotonic() - started < GIVEN_UP_WITHIN
    told = str(caught.value)
    assert told.startswith("MLflow at http://127.0.0.1:")
    assert "password" not in told
    assert "\n" not in told


def test_a_server_that_accepts_and_never_answers_is_given_up_within_seconds() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        started = time.monotonic()
        with pytest.raises(TrackingUnavailable):
            check_tracking(f"http://127.0.0.1:{listener.getsockname()[1]}")
        assert time.monotonic() - started < GIVEN_UP_WITHIN


def test_a_failure_of_any_kind_is_told_in_one_line(
    store: str, artifacts: Path, make_report: ReportMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ModuleNotFoundError("No module\nnamed 'boto3'")

    monkeypatch.setattr(MlflowClient, "log_artifacts", fail)
    with pytest.raises(TrackingUnavailable, match="ModuleNotFoundError: No module named 'boto3'"):
        record(make_report(dataset="bucket")[0], artifacts, store)


def test_a_store_that_cannot_be_made_is_told_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(TrackingUnavailable, match="cannot take the record") as caught:
        check_tracking(f"sqlite:///{tmp_path}/file/mlflow.db")
    assert "\n" not in str(caught.value)


def test_the_environment_names_the_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://tracking:5000")
    assert tracking_uri(tmp_path) == "http://tracking:5000"
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert tracking_uri(tmp_path) == f"sqlite:///{tmp_path}/mlflow.db"


def test_the_summary_says_the_decision_first_and_markdown_from_the_data_is_inert(make_report: ReportMaker) -> None:
    text = summary(make_report(good=False, dataset="[x](http://evil) <b>|")[0])
    assert text.startswith("## ✕ Withhold\n")
    assert "**not met**" in text
    assert "[x](http" not in text
    assert "<b>" not in text
