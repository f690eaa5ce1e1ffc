"""A small release as fixtures: its lineage, its policy, and a maker of its report."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest
from release_sample import ReportMaker, evidence_of, metrics_of_a_good_release, metrics_of_a_weak_anonymizer

from governance.decision import decide
from governance.evidence import Evidence
from governance.lineage import AnonymizerUsed, Counts, Lineage, ModelUsed
from governance.policy import Policy, load_policy
from governance.report import Report


@pytest.fixture
def lineage() -> Lineage:
    return Lineage(
        job="release",
        job_id="job-1",
        created=datetime(2026, 11, 22, 13, 5, tzinfo=UTC),
        dataset="read sentences",
        index_uri="s3://AKIAKEY:verysecret@bucket/corpus/index.parquet?X-Amz-Signature=deadbeef",
        fingerprint="1f" * 32,
        output_digest="2e" * 32,
        counts=Counts(input=100, released=97, quarantined=3, reasons={"silent": 1, "unreadable": 2}),
        speakers=40,
        hours=0.5,
        profile="embedded",
        anonymizer=AnonymizerUsed(name="mcadams", config={"lowest": 0.5, "highest": 0.9}, digest="3d" * 32),
        auditors=(ModelUsed(role="speaker attacker", uri="pypi://Resemblyzer/pretrained.pt", digest="4c" * 32),),
        key_policy="ephemeral",
        voice_policy="utterance",
        code_version="0.1.0",
        software={"python": "3.11.7"},
    )


@pytest.fixture
def policy() -> Policy:
    return load_policy("default")


@pytest.fixture
def make_report(lineage: Lineage, policy: Policy) -> ReportMaker:
    """Return a function that makes the report and the evidence of a release (`good` or not), with lineage changed."""

    def make(good: bool = True, notes: tuple[str, ...] | None = None, **changes: object) -> tuple[Report, Evidence]:
        evidence = evidence_of(metrics_of_a_good_release() if good else metrics_of_a_weak_anonymizer())
        if notes is not None:
            evidence = replace(evidence, notes=notes)
        described = Lineage.model_validate(lineage.model_dump() | changes)
        decision = decide(policy, evidence.metrics, evidence.chance)
        return Report.of(evidence, described, policy, decision), evidence

    return make
