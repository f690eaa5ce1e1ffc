"""What is decided, and the sentence that says why."""

import math

import pytest
from release_sample import metrics_of_a_good_release, metrics_of_a_weak_anonymizer

from governance.decision import Decision, decide
from governance.policy import Policy, load_policy, parse_policy
from metrics.estimate import Estimate

EER = "privacy.lazy_informed.eer"


def policy_of(*rules: str) -> Policy:
    return parse_policy(
        "name: test\nversion: 1\nrules:\n" + "".join(f"- {{{rule}, reason: because}}\n" for rule in rules)
    )


def decide_on(estimate: Estimate | None, rule: str = f"metric: {EER}, bound: {{at_least: 0.4}}") -> Decision:
    metric = rule.split("metric: ")[1].split(",")[0]
    return decide(policy_of(rule), {} if estimate is None else {metric: estimate})


def test_data_that_meets_every_rule_is_released() -> None:
    decision = decide(load_policy("default"), metrics_of_a_good_release())
    assert decision.outcome == "release"
    assert decision.sentence == "All 10 rules of the policy “default” are met."


def test_the_decision_to_withhold_is_a_sentence_that_a_lawyer_understands() -> None:
    decision = decide(load_policy("default"), metrics_of_a_weak_anonymizer())
    assert decision.outcome == "withhold"
    assert decision.sentence == (
        "1 of the 10 rules of the policy “default” is not met, so the data must not be released. An attacker who"
        " anonymizes their own reference recordings with the same system confuses speakers in only 33.1 % of"
        " comparisons (95 % interval 27.1 to 39.1 %). Required is at least 40 %: not met."
    )


def test_a_figure_that_is_exactly_at_its_bound_meets_it() -> None:
    assert decide_on(Estimate(0.45, 0.4, 0.5, 10)).outcome == "release"


def test_a_good_value_that_is_too_uncertain_does_not_pass() -> None:
    decision = decide_on(Estimate(0.45, 0.39, 0.5, 10))
    assert decision.outcome == "withhold"
    assert (
        "the value alone would do, but its interval includes the bound: not trustworthy" in decision.rules[0].sentence
    )


def test_confidence_point_looks_at_the_value_alone() -> None:
    rule = "metric: utility.dnsmos.anonymized, bound: {at_least: 2.5}, confidence: point"
    assert decide_on(Estimate(2.6, 2.1, 3.0, 10), rule).outcome == "release"


@pytest.mark.parametrize(
    ("estimate", "told"),
    [
        (None, "was not measured"),
        (Estimate(math.nan, 0.45, 0.5, 10), "could not be computed"),
        (Estimate(math.inf, 0.45, 0.5, 10), "could not be computed"),
        (Estimate(math.nan, math.nan, math.nan, 0, False, ("Nobody to train on",)), "not met. Nobody to train on."),
        (Estimate(0.47, math.nan, 0.5, 10), "how uncertain the figure is could not be computed"),
        (
            Estimate(0.47, 0.45, 0.5, 3, trustworthy=False, reasons=("Only 3 speakers took part",)),
            "this figure proves nothing, so it counts as not met. Only 3 speakers took part.",
        ),
    ],
    ids=["missing", "NaN", "infinite", "NaN with a reason", "no interval", "untrustworthy"],
)
def test_what_is_not_known_counts_as_not_met(estimate: Estimate | None, told: str) -> None:
    decision = decide_on(estimate)
    assert decision.outcome == "withhold"
    assert not decision.rules[0].passed
    assert told in decision.rules[0].sentence


def test_an_untrustworthy_figure_fails_even_a_rule_that_asks_for_nothing() -> None:
    rule = f"metric: {EER}, bound: {{at_least: 0}}"
    assert decide_on(Estimate(0.5, 0.5, 0.5, 3, trustworthy=False), rule).outcome == "withhold"


def test_a_failed_rule_for_review_asks_for_a_person() -> None:
    decision = decide_on(None, "metric: utility.wer.increase, bound: {at_most: 0.1}, on_fail: review")
    assert decision.outcome == "review"
    assert "a person has to look at it and sign" in decision.sentence


def test_a_language_that_the_recogniser_does_not_speak_is_left_to_a_person() -> None:
    metrics = {name: figure for name, figure in metrics_of_a_good_release().items() if ".wer." not in name}
    decision = decide(load_policy("default"), metrics)
    assert decision.outcome == "review"
    assert "“Word error rate, increase” was not measured" in decision.sentence


def test_withhold_outweighs_review_and_is_told_first() -> None:
    rules = (
        "metric: utility.wer.increase, bound: {at_most: 0.1}, on_fail: review",
        f"metric: {EER}, bound: {{at_least: 0.4}}",
    )
    decision = decide(policy_of(*rules), {EER: Estimate(0.2, 0.1, 0.3, 10)})
    assert decision.outcome == "withhold"
    assert "Above all, an attacker who anonymizes" in decision.sentence


def test_a_star_looks_at_the_population_that_speaks_most_against_the_rule() -> None:
    policy = policy_of("metric: privacy.lazy_informed.linkability.*, bound: {at_most_above_chance: 0.1}")
    head = "privacy.lazy_informed.linkability"
    metrics = {
        f"{head}.2": Estimate(0.5, 0.45, 0.55, 10),
        f"{head}.10": Estimate(0.3, 0.25, 0.35, 10),
        f"{head}.20": Estimate(0.06, 0.04, 0.08, 10),
        "privacy.ignorant.linkability.5": Estimate(1.0, 1.0, 1.0, 10),
    }
    result = decide(policy, metrics).rules[0]
    assert result.metric == f"{head}.10"
    assert not result.passed
    assert result.limit == pytest.approx(0.2)
    assert "picks the right one of 10 speakers in 30.0 % of attempts" in result.sentence
    assert "at most 20 %, which is 10 percentage points above guessing" in result.sentence


def test_a_star_fails_when_any_population_is_untrustworthy() -> None:
    policy = policy_of("metric: privacy.lazy_informed.linkability.*, bound: {at_most_above_chance: 0.1}")
    metrics = {
        "privacy.lazy_informed.linkability.2": Estimate(0.5, 0.45, 0.55, 10),
        "privacy.lazy_informed.linkability.5": Estimate(0.2, 0.15, 0.25, 2, trustworthy=False, reasons=("Too few.",)),
    }
    assert decide(policy, metrics).outcome == "withhold"


def test_the_rule_that_is_missed_by_most_is_told_first() -> None:
    rules = (
        "metric: privacy.ignorant.eer, bound: {at_least: 0.4}",
        "metric: privacy.semi_informed.eer, bound: {at_least: 0.35}",
        "metric: privacy.lazy_informed.linkability.5, bound: {at_most: 0.3}",
        "metric: privacy.lazy_informed.cllr, bound: {at_least: 0.9}",
    )
    metrics = {
        "privacy.ignorant.eer": Estimate(0.32, 0.27, 0.37, 24),
        "privacy.semi_informed.eer": Estimate(0.16, 0.11, 0.21, 24),
        "privacy.lazy_informed.linkability.5": Estimate(0.58, 0.49, 0.67, 24),
        "privacy.lazy_informed.cllr": Estimate(0.1, 0.1, 0.1, 24),
    }
    assert "Above all, an attacker trained on speech from the same" in decide(policy_of(*rules), metrics).sentence


def test_a_star_that_nothing_answers_to_fails() -> None:
    decision = decide(policy_of("metric: privacy.lazy_informed.linkability.*, bound: {at_most: 0.1}"), {})
    assert decision.outcome == "withhold"
    assert "linkability among any number of speakers” was not measured" in decision.rules[0].sentence


def test_a_star_finds_the_subgroup_that_is_worst_off() -> None:
    policy = policy_of(f"metric: subgroup.gender.*.{EER}, bound: {{at_least: 0.4}}")
    metrics = {
        f"subgroup.gender.female.{EER}": Estimate(0.3, 0.2, 0.4, 10),
        f"subgroup.gender.male.{EER}": Estimate(0.5, 0.45, 0.5, 10),
    }
    result = decide(policy, metrics).rules[0]
    assert result.metric == f"subgroup.gender.female.{EER}"
    assert result.sentence.startswith("Where gender is “female”: an attacker")


def test_the_chance_of_an_inference_comes_with_the_evidence() -> None:
    name = "privacy.inference.gender.anonymized"
    policy = policy_of(f"metric: {name}, bound: {{at_most_above_chance: 0.1}}")
    metrics = {name: Estimate(0.55, 0.5, 0.59, 10)}
    assert decide(policy, metrics, {name: 0.5}).outcome == "release"
    unknown = decide(policy, metrics)
    assert unknown.outcome == "withhold"
    assert "what guessing would yield is not known" in unknown.rules[0].sentence


def test_a_figure_never_looks_equal_to_the_bound_that_it_misses() -> None:
    sentence = decide_on(Estimate(0.39996, 0.39996, 0.39996, 10)).rules[0].sentence
    assert "39.996 %" in sentence
    assert "at least 40 %" in sentence
