"""The report of a job as a JSON document: what was measured, what the policy says to it, and where it comes from.

The document is versioned and stable; the page that people read (`page`), the MLflow run (`tracking`) and the result for
machines are made of it. Knows nothing of plots.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from governance.decision import Decision, Outcome, RuleResult
from governance.evidence import Evidence
from governance.lineage import Lineage
from governance.policy import Policy
from metrics.estimate import Estimate

SCHEMA_VERSION = "1.0"


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Figure(_Record):
    """An estimate as JSON carries it: a number that is not finite is null."""

    value: float | None
    lower: float | None
    upper: float | None
    n: int
    trustworthy: bool
    reasons: tuple[str, ...] = ()

    @classmethod
    def of(cls, estimate: Estimate) -> "Figure":
        return cls(
            value=_finite(estimate.value),
            lower=_finite(estimate.lower),
            upper=_finite(estimate.upper),
            n=estimate.n,
            trustworthy=estimate.trustworthy,
            reasons=estimate.reasons,
        )


class RuleVerdict(_Record):
    """One rule of the policy and how it came out; `limit` is null where a chance level was missing."""

    metric: str
    title: str
    expectation: str
    confidence: Literal["lower", "upper", "point"]
    on_fail: Literal["withhold", "review"]
    reason: str
    limit: float | None
    judged: float | None
    figure: Figure | None
    passed: bool
    sentence: str

    @classmethod
    def of(cls, result: RuleResult) -> "RuleVerdict":
        return cls(
            metric=result.metric,
            title=result.title,
            expectation=result.expectation,
            confidence=result.rule.confidence,
            on_fail=result.rule.on_fail,
            reason=result.rule.reason,
            limit=result.limit,
            judged=result.judged,
            figure=Figure.of(result.estimate) if result.estimate else None,
            passed=result.passed,
            sentence=result.sentence,
        )


class PolicyUsed(_Record):
    """Which policy judged; `sha256` is the digest of its text, comments included."""

    name: str
    version: str
    description: str
    sha256: str
    text: str


class Report(_Record):
    """Everything that a reader, a machine or a court needs to know about one release or audit."""

    schema_version: str = SCHEMA_VERSION
    decision: Outcome
    sentence: str
    rules: tuple[RuleVerdict, ...]
    policy: PolicyUsed
    metrics: dict[str, Figure]
    chance: dict[str, float] = Field(default_factory=dict)
    notes: tuple[str, ...] = ()
    lineage: Lineage

    @classmethod
    def of(cls, evidence: Evidence, lineage: Lineage, policy: Policy, decision: Decision) -> "Report":
        return cls(
            decision=decision.outcome,
            sentence=decision.sentence,
            rules=tuple(RuleVerdict.of(result) for result in decision.rules),
            policy=PolicyUsed(
                name=policy.name,
                version=policy.version,
                description=policy.description,
                sha256=policy.digest,
                text=policy.text,
            ),
            metrics={name: Figure.of(estimate) for name, estimate in sorted(evidence.metrics.items())},
            chance={name: level for name, level in sorted(evidence.chance.items()) if math.isfinite(level)},
            notes=tuple(evidence.notes),
            lineage=lineage,
        )

    def to_json(self) -> str:
        """Return the document, indented, keys in a fixed order; `Report.from_json` reads it back."""
        return self.model_dump_json(indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "Report":
        """Read a document back. Raises ValueError (pydantic's) where it is not a report."""
        return cls.model_validate_json(text)

    def machine_result(self, paths: Mapping[str, str | Path], mlflow_run_id: str | None) -> dict[str, JsonValue]:
        """Return what `--json` writes: the decision, the rules, the figures, the counts and where things lie.

        Unless the decision is `release`, `counts.released` is what would have been released.
        """
        document = self.model_dump(mode="json")
        counts = document["lineage"]["counts"]
        return {
            "schema_version": self.schema_version,
            "decision": self.decision,
            "sentence": self.sentence,
            "rules": document["rules"],
            "metrics": document["metrics"],
            "counts": {key: counts[key] for key in ("input", "released", "quarantined")},
            "paths": {name: str(path) for name, path in paths.items()},
            "mlflow_run_id": mlflow_run_id,
        }


def _finite(number: float) -> float | None:
    return float(number) if math.isfinite(number) else None
