"""Evidence and lineage refuse what does not fit, and carry no secret."""

import numpy as np
import pytest
from pydantic import ValidationError

from governance.evidence import Evidence
from governance.lineage import Counts, Lineage, ModelUsed, without_secrets
from metrics.estimate import Estimate

SOME = Estimate(0.4, 0.3, 0.5, 10)


def test_a_metric_without_a_name_in_the_catalogue_is_refused() -> None:
    with pytest.raises(ValueError, match=r"no metric is called “privacy\.eer”; the nearest name is"):
        Evidence(metrics={"privacy.eer": SOME})


def test_an_unknown_scenario_is_refused() -> None:
    with pytest.raises(ValueError, match="no scenario is called “naive”"):
        Evidence(metrics={}, scores={"naive": (np.zeros(1), np.zeros(1))})


def test_a_confusion_matrix_must_fit_its_classes() -> None:
    with pytest.raises(ValueError, match="is not 3 by 3"):
        Evidence(metrics={}, confusions={"original": np.eye(2, dtype=int)}, emotion_classes=("a", "b", "c"))


def test_rows_that_do_not_add_up_are_refused() -> None:
    with pytest.raises(ValidationError, match="10 input rows are not 8 released"):
        Counts(input=10, released=8, quarantined=1, reasons={"silent": 1})
    with pytest.raises(ValidationError, match="2 quarantined rows have 1 reasons"):
        Counts(input=10, released=8, quarantined=2, reasons={"silent": 1})


@pytest.mark.parametrize(
    ("uri", "safe"),
    [
        ("s3://key:secret@bucket/a/b.parquet?sig=x#y", "s3://bucket/a/b.parquet"),
        ("https://user@host:8080/a", "https://host:8080/a"),
        ("hf://org/name@revision", "hf://org/name@revision"),
        ("file:///data/index.parquet", "file:///data/index.parquet"),
        ("sqlite:////data/mlflow.db", "sqlite:////data/mlflow.db"),
        ("/data/what?.parquet", "/data/what?.parquet"),
        ("data/me@home/index.parquet", "data/me@home/index.parquet"),
    ],
)
def test_addresses_lose_their_secrets_and_nothing_else(uri: str, safe: str) -> None:
    assert without_secrets(uri) == safe
    assert ModelUsed(role="r", uri=uri, digest="d").uri == safe


@pytest.mark.parametrize("job_id", ["", "it's a job", "a\n", "a/b", "x" * 101])
def test_a_job_id_is_a_plain_word(job_id: str, lineage: Lineage) -> None:
    with pytest.raises(ValidationError, match="job_id"):
        Lineage.model_validate(lineage.model_dump() | {"job_id": job_id})


def test_a_moment_without_a_time_zone_is_refused(lineage: Lineage) -> None:
    with pytest.raises(ValidationError, match="timezone"):
        Lineage.model_validate(lineage.model_dump() | {"created": "2026-11-22T13:05:00"})
