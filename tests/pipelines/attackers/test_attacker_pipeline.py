"""The attacker from end to end, on synthetic voices: against no protection it must succeed, and it is trained once."""

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from rich.console import Console
from typer.testing import CliRunner

from governance.report import Report
from models.attackers import SpeakerBackend
from pipelines.attacker_cli import attacker_app
from pipelines.cluster import ray_session
from pipelines.config import Job
from pipelines.progress import Track
from pipelines.release import run_job

pytestmark = pytest.mark.slow

SPEAKERS, UTTERANCES = 6, 3
STRONGEST = """
name: strongest attacker alone
version: "1"
rules:
  - {metric: privacy.semi_informed.eer, bound: {at_least: 0.35}, reason: nobody is recognised by who knows the system}
"""


@pytest.fixture(scope="module", autouse=True)
def session() -> Iterator[None]:
    """One Ray for the command and the audits."""
    with ray_session():
        yield


@pytest.fixture(scope="module")
def corpora(tmp_path_factory: pytest.TempPathFactory, few_rows: Any, write_index: Any) -> tuple[Path, str, str]:
    """A folder with a policy, the index of a corpus to attack, and that of one of other people to train on."""
    folder = tmp_path_factory.mktemp("attacker")
    rows = few_rows(2 * SPEAKERS, UTTERANCES)
    chosen = set(sorted({row["speaker_id"] for row in rows})[::2])
    attacked = [row for row in rows if row["speaker_id"] in chosen]
    others = [row for row in rows if row["speaker_id"] not in chosen]
    (folder / "policy.yaml").write_text(STRONGEST)
    index, corpus = (write_index(folder / f"{name}.parquet", r) for name, r in (("a", attacked), ("b", others)))
    return folder, str(index), str(corpus)


@pytest.fixture(scope="module")
def trained(corpora: tuple[Path, str, str]) -> list[Result]:
    """The command, run twice for the same system and corpus."""
    folder, _, corpus = corpora
    arguments = ["train", "--corpus", corpus, "--anonymizer", "identity", "--output", str(folder / "out")]
    return [CliRunner().invoke(attacker_app, [*arguments, "--workers", "1"]) for _ in range(2)]


def audit(corpora: tuple[Path, str, str], name: str, corpus: str | None) -> tuple[Report, str]:
    """Audit the corpus under an anonymizer that changes nothing; return the report and what was said meanwhile."""
    folder, index, _ = corpora
    job = Job(
        index=index,
        name=name,
        output=folder / "out",
        anonymizer="identity",
        policy=str(folder / "policy.yaml"),
        attacker_corpus=corpus,
        workers=1,
    )
    said = io.StringIO()
    return run_job(job, "audit", False, Track(Console(file=said, width=400), None)).report, said.getvalue()


def expect_failure_of_protection(report: Report) -> None:
    trained, unprotected = (report.metrics[f"privacy.{name}.eer"] for name in ("semi_informed", "unprotected"))
    assert report.decision == "withhold"
    # Twelve mated trials: one wrong moves the rate by 0.08.
    assert trained.value == pytest.approx(unprotected.value, abs=0.15)
    assert not trained.trustworthy
    assert any("at least 20 are needed" in reason for reason in trained.reasons)


def test_the_second_training_for_a_system_and_corpus_finds_the_first(
    trained: list[Result], corpora: tuple[Path, str, str]
) -> None:
    first, second = trained
    assert first.exit_code == second.exit_code == 0, first.output + second.output
    assert "anonymize the attacker's corpus: 0 of 18" in first.stderr
    assert "is there already" in second.stderr
    assert "anonymize" not in second.stderr
    (kept,) = (corpora[0] / "out" / "attackers").glob("*.safetensors")
    backend = SpeakerBackend.load(kept)
    assert (backend.speakers, backend.utterances) == (SPEAKERS, SPEAKERS * UTTERANCES)
    assert json.loads(backend.metadata["anonymizer"])["name"] == "identity"
    assert not list((corpora[0] / "out" / "attackers").glob("runs/*/work"))


def test_without_an_anonymizer_the_attacker_of_another_corpus_recognises_everybody(
    trained: list[Result], corpora: tuple[Path, str, str]
) -> None:
    report, said = audit(corpora, "named", corpora[2])
    expect_failure_of_protection(report)
    assert "is there already" in said
    assert any("18 utterances of 6 speakers of another corpus" in note for note in report.notes)
    (kept,) = (corpora[0] / "out" / "attackers").glob("*.safetensors")
    used = [model.uri for model in report.lineage.auditors if model.role == "semi-informed attacker"]
    assert used == [f"attackers/{kept.name}"]


def test_without_an_anonymizer_the_attacker_of_folds_recognises_everybody(corpora: tuple[Path, str, str]) -> None:
    report, _ = audit(corpora, "folds", None)
    expect_failure_of_protection(report)
    assert any("learnt from this corpus itself" in note for note in report.notes)
