"""Where a rule failed for want of speakers, the report says how many more; elsewhere it keeps quiet."""

import math

import pytest

from governance.decision import decide
from governance.policy import parse_policy
from governance.power import power_notes
from metrics.estimate import Estimate

POLICY = parse_policy(
    "name: p\nversion: '1'\nrules:\n"
    "  - {metric: privacy.lazy_informed.eer, bound: {at_least: 0.4}, reason: r}\n"
    "  - {metric: utility.wer.increase, bound: {at_most: 0.1}, reason: r}\n"
)


def notes(eer: Estimate) -> list[str]:
    uncertain = Estimate(0.08, 0.05, 0.12, 20)
    return power_notes(decide(POLICY, {"privacy.lazy_informed.eer": eer, "utility.wer.increase": uncertain}))


def test_an_interval_that_includes_the_bound_says_how_many_more_speakers() -> None:
    (note,) = notes(Estimate(0.44, 0.37, 0.52, 20))
    # The arm of 0.07 must shrink to the distance of 0.04: (7 / 4) squared times as many, 61.25, are 42 more.
    assert "with 20 speakers the interval, 37.0 to 52.0 %, includes the bound of 40.0 %" in note
    assert "About 42 more speakers" in note


def test_a_value_on_the_bound_is_settled_by_no_number() -> None:
    (note,) = notes(Estimate(0.4, 0.36, 0.44, 20))
    assert "no number of speakers" in note


@pytest.mark.parametrize(
    "estimate",
    [
        Estimate(0.45, 0.41, 0.49, 20),
        Estimate(0.2, 0.15, 0.25, 20),
        Estimate(0.44, 0.36, 0.52, 5, trustworthy=False, reasons=("Only 5 speakers.",)),
        Estimate(math.nan, math.nan, math.nan, 20),
    ],
)
def test_rules_that_pass_or_fail_clearly_or_prove_nothing_get_no_note(estimate: Estimate) -> None:
    assert notes(estimate) == []
