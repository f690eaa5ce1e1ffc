"""Subgroups: every part is measured or says why not, and the worst is named."""

import numpy as np

from metrics.intervals import ratio_estimate
from metrics.subgroups import estimate_by_subgroup, within_subgroup_trials
from metrics.trials import matrix_trials

ERRORS, WORDS = np.array([1, 2, 9, 9, 0]), np.array([10, 10, 10, 10, 0])
SPEAKERS = np.array(["a", "b", "c", "d", "e"])


def test_each_subgroup_is_evaluated_on_its_own_rows() -> None:
    estimates = estimate_by_subgroup(
        ["f", "f", "m", "m", "x"], lambda mask: ratio_estimate(ERRORS[mask], WORDS[mask], SPEAKERS[mask], seed=0)
    )
    assert (estimates["f"].value, estimates["m"].value) == (0.15, 0.9)
    assert not estimates["x"].trustworthy
    assert estimates["x"].reasons == (
        "Not measurable: the denominators add up to zero: there is nothing to divide by.",
    )


def test_trials_within_a_gender_compare_nobody_across() -> None:
    trials = matrix_trials(np.zeros((4, 4)), ["a", "b", "c", "d"], ["a", "b", "c", "d"])
    by_gender = within_subgroup_trials(trials, {"a": "f", "b": "f", "c": "m", "d": "x"})
    assert list(by_gender) == ["f"]
    assert set(by_gender["f"].enrolment_speaker) == set(by_gender["f"].trial_speaker) == {"a", "b"}
    assert by_gender["f"].scores.size == 4
