"""Whether a fine-tuned model may be used: by the privacy rules of a policy, and by nothing else."""

from release_sample import ReportMaker

from governance.report import Report
from pipelines.finetune_evaluation import compare, figures_of, refuse


def test_a_model_that_keeps_the_secret_may_be_used_whatever_else_it_loses(make_report: ReportMaker) -> None:
    report, _ = make_report()
    assert refuse(report) is None
    rules = tuple(rule.model_copy(update={"passed": rule.metric.startswith("privacy.")}) for rule in report.rules)
    assert refuse(report.model_copy(update={"rules": rules})) is None


def test_a_model_that_fails_one_privacy_rule_may_not_and_the_rule_is_told(make_report: ReportMaker) -> None:
    report, _ = make_report(good=False)
    failed = next(rule for rule in report.rules if rule.metric.startswith("privacy.") and not rule.passed)
    told = refuse(report)
    assert told is not None
    assert failed.sentence in told


def test_a_policy_without_privacy_rules_lets_nothing_pass(make_report: ReportMaker) -> None:
    report, _ = make_report()
    rules = tuple(rule for rule in report.rules if not rule.metric.startswith("privacy."))
    assert refuse(Report.model_validate(report.model_dump() | {"rules": [rule.model_dump() for rule in rules]}))


def test_the_table_sets_before_and_after_beside_the_original(make_report: ReportMaker) -> None:
    (before, _), (after, _) = make_report(good=False), make_report()
    table = {line.metric: line for line in compare(before, after)}
    line = table["privacy.lazy_informed.eer"]
    assert line.original == before.metrics["privacy.unprotected.eer"]
    assert (line.before, line.after) == (before.metrics[line.metric], after.metrics[line.metric])
    assert dict(figures_of(tuple(table.values())))["after.privacy.lazy_informed.eer"] == line.after.value
