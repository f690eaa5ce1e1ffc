"""Models of MLflow's registry are given out once an audit let them pass."""

from pathlib import Path

import pytest

from governance.training_record import TrainingRecord
from operators.schema import InputError
from pipelines.registered import download_model


def test_a_version_that_no_audit_let_pass_is_not_given_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    model = tmp_path / "model"
    model.mkdir()
    (model / "weights").write_text("w")
    with TrainingRecord(uri, "calm", "training-1", "fine-tuning") as record:
        version = record.register("calm", model, {}, to_audit=True)
        with pytest.raises(InputError, match=r"did not pass its audit \(not audited\): take one that did"):
            download_model(f"models:/calm/{version}", tmp_path / "out")
        record.judged("calm", version, "approved", "2 of the 5 privacy rules are not met")
        with pytest.raises(InputError, match="2 of the 5 privacy rules"):
            download_model(f"models:/calm/{version}", tmp_path / "out")
        assert not (tmp_path / "out").exists()
        record.judged("calm", version, "approved", None)
    assert (download_model("models:/calm@approved", tmp_path / "out") / "weights").read_text() == "w"
