"""The attacker from end to end, on synthetic voices: against no protection it must succeed, and it is kept."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from models.attackers import SpeakerBackend
from pipelines.config import Job
from pipelines.progress import Track
from pipelines.release import Outcome, run_job

pytestmark = pytest.mark.slow

STRONGEST = """
name: strongest attacker alone
version: "1"
rules:
  - {metric: privacy.semi_informed.eer, bound: {at_least: 0.35}, reason: nobody is recognised by who knows the system}
"""


@pytest.fixture
def log() -> Console:
    return Console(record=True, width=400, file=io.StringIO())


def audit(job: Job, log: Console) -> Outcome:
    return run_job(job, "audit", False, Track(log, None))


def test_without_an_anonymizer_the_trained_attacker_fails_the_data_in_folds_and_with_a_corpus(
    tmp_path: Path, few_rows: Any, write_index: Any, log: Console
) -> None:
    rows = few_rows(12, 4)
    attacked, training = (
        [row for row in rows if (row["speaker_id"] in chosen) == wanted]
        for chosen in [sorted({row["speaker_id"] for row in rows})[:6]]
        for wanted in (True, False)
    )
    policy = tmp_path / "policy.yaml"
    policy.write_text(STRONGEST)
    index = str(write_index(tmp_path / "index.parquet", attacked))
    corpus = str(write_index(tmp_path / "training.parquet", training))
    job = Job(
        index=index, name="control", output=tmp_path / "out", anonymizer="identity", policy=str(policy), workers=1
    )
    folds = audit(job, log).report
    named = audit(job.model_copy(update={"attacker_corpus": corpus}), log)
    again = audit(job.model_copy(update={"attacker_corpus": corpus, "name": "again"}), log)

    for report in (folds, named.report):
        trained, unprotected = (report.metrics[f"privacy.{name}.eer"] for name in ("semi_informed", "unprotected"))
        assert report.decision == "withhold"
        # Twelve mated trials: one wrong moves the rate by 0.08.
        assert trained.value == pytest.approx(unprotected.value, abs=0.15)
        assert not trained.trustworthy
        assert any("at least 20 are needed" in reason for reason in trained.reasons)
    assert any("learnt from this corpus itself" in note for note in folds.notes)
    assert any("24 utterances of 6 speakers" in note for note in named.report.notes)

    (kept,) = (tmp_path / "out" / "attackers").glob("*.safetensors")
    backend = SpeakerBackend.load(kept)
    assert (backend.speakers, backend.utterances) == (6, 24)
    assert json.loads(backend.metadata["anonymizer"])["name"] == "identity"
    used = [model for model in named.report.lineage.auditors if model.role == "semi-informed attacker"]
    assert [model.uri for model in used] == [f"attackers/{kept.name}"]
    # The second audit with the same system and corpus neither anonymizes nor trains again.
    figures = ("privacy.semi_informed.eer", "privacy.semi_informed.min_cllr")
    assert [again.report.metrics[name] for name in figures] == [named.report.metrics[name] for name in figures]
    said = log.export_text()
    assert said.count("anonymize the attacker's corpus: 0 of 24") == 1
    assert said.count("is there already") == 1
