"""The record of a training in MLflow, against an SQLite store."""

from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.artifacts import download_artifacts

from governance.tracking import TrackingUnavailable
from governance.training_record import TrainingRecord


@pytest.fixture
def uri(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'mlflow.db'}"


def record_of(uri: str) -> TrainingRecord:
    return TrainingRecord(uri, "calm", "training-1", "fine-tuning")


def lines(first: int, last: int) -> list[dict[str, float]]:
    return [{"step": step, "total": 1 / step, "learning_rate": 0.1} for step in range(first, last + 1)]


def test_a_curve_is_logged_once_although_a_resumed_training_tells_it_again(uri: str) -> None:
    with record_of(uri) as record:
        record.parameters({"training.steps": "20"})
        record.lines(lines(1, 12))
    with record_of(uri) as resumed:
        resumed.parameters({"training.steps": "20"})
        resumed.lines(lines(1, 20))
        resumed.ended("done")
    client = MlflowClient(tracking_uri=uri)
    (run,) = client.search_runs([client.get_experiment_by_name("calm").experiment_id])
    history = client.get_metric_history(run.info.run_id, "total")
    assert [(metric.step, metric.value) for metric in history] == [(step, 1 / step) for step in range(1, 21)]
    assert run.info.status == "FINISHED"
    assert run.data.params == {"training.steps": "20"}


def test_while_mlflow_is_down_the_training_goes_on_and_its_end_says_so() -> None:
    record = record_of("http://127.0.0.1:9")
    record.lines(lines(1, 3))
    with pytest.raises(TrackingUnavailable):
        record.ended("done")


def test_a_version_has_its_lineage_and_the_alias_only_after_it_passed(uri: str, tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    (model / "weights").write_text("w")
    client = MlflowClient(tracking_uri=uri)
    with record_of(uri) as record:
        first = record.register("calm", model, {"base": "aa"}, to_audit=True)
        assert client.get_model_version("calm", first).tags == {"base": "aa", "audit": "not audited"}
        assert client.get_model_version("calm", first).aliases == []
        record.judged("calm", first, "approved", None)
        assert str(client.get_model_version_by_alias("calm", "approved").version) == first
        (model / "weights").write_text("others")
        second = record.register("calm", model, {"base": "aa"}, to_audit=True)
        record.judged("calm", second, "approved", "2 of the 5 privacy rules are not met")
        assert str(client.get_model_version_by_alias("calm", "approved").version) == first
        assert client.get_model_version("calm", second).tags["audit"].startswith("2 of the 5")
        record.judged("calm", first, "approved", "a later audit found more")
    kept = [client.get_model_version_download_uri("calm", version) for version in (first, second)]
    files = [Path(download_artifacts(source, tracking_uri=uri)) / "weights" for source in kept]
    assert [file.read_text() for file in files] == ["w", "others"], "a later export changes no earlier version"
    assert client.get_model_version("calm", first).aliases == []
    assert client.get_run(client.get_model_version("calm", first).run_id).info.experiment_id
