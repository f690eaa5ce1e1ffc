"""The JSON document: complete, valid, stable, and the same when it is read back."""

import json
import math
from dataclasses import replace

import pytest
from release_sample import ReportMaker

from governance.decision import decide
from governance.lineage import Lineage
from governance.policy import Policy
from governance.report import SCHEMA_VERSION, Report
from metrics.estimate import Estimate


def test_the_document_is_the_same_when_read_back(make_report: ReportMaker) -> None:
    report, _ = make_report()
    assert Report.from_json(report.to_json()) == report


def test_a_document_that_is_no_report_is_refused() -> None:
    with pytest.raises(ValueError, match="decision"):
        Report.from_json('{"schema_version": "1.0"}')


def test_a_number_that_is_not_finite_becomes_null(make_report: ReportMaker, lineage: Lineage, policy: Policy) -> None:
    _, evidence = make_report()
    broken = Estimate(math.nan, -math.inf, math.inf, 0, trustworthy=False, reasons=("No pitch was found.",))
    evidence = replace(evidence, metrics={**evidence.metrics, "utility.pitch_correlation": broken})
    report = Report.of(evidence, lineage, policy, decide(policy, evidence.metrics))
    told = json.loads(report.to_json(), parse_constant=lambda constant: pytest.fail(f"{constant} is not JSON"))
    assert told["metrics"]["utility.pitch_correlation"] == {
        "value": None,
        "lower": None,
        "upper": None,
        "n": 0,
        "trustworthy": False,
        "reasons": ["No pitch was found."],
    }
    assert Report.from_json(report.to_json()) == report


def test_no_secret_of_the_index_is_in_the_document(make_report: ReportMaker) -> None:
    text = make_report()[0].to_json()
    assert "s3://bucket/corpus/index.parquet" in text
    assert "verysecret" not in text
    assert "deadbeef" not in text


def test_the_result_for_machines_has_the_documented_shape(make_report: ReportMaker) -> None:
    report, _ = make_report(good=False)
    result = report.machine_result({"report": "out/report.html"}, "run-1")
    assert set(result) == {
        "schema_version",
        "decision",
        "sentence",
        "rules",
        "metrics",
        "counts",
        "paths",
        "mlflow_run_id",
    }
    assert result["schema_version"] == SCHEMA_VERSION
    assert result["decision"] == "withhold"
    assert result["counts"] == {"input": 100, "released": 97, "quarantined": 3}
    assert result["paths"] == {"report": "out/report.html"}
    assert result["mlflow_run_id"] == "run-1"
    figure = result["metrics"]["privacy.lazy_informed.eer"]
    assert (figure["value"], figure["lower"], figure["upper"], figure["n"]) == (0.331, 0.271, 0.391, 40)
    failed = [rule for rule in result["rules"] if not rule["passed"]]
    assert [rule["metric"] for rule in failed] == ["privacy.lazy_informed.eer"]
    assert json.loads(json.dumps(result)) == result
