"""From a policy and what was measured to a decision, with a sentence for every rule that a lawyer understands.

The default is no: a figure that is missing, not finite or not trustworthy fails its rule. Knows nothing of files.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from governance.catalogue import Meaning, describe, written, written_range
from governance.policy import Policy, Rule
from metrics.estimate import Estimate

Outcome = Literal["release", "review", "withhold"]


@dataclass(frozen=True)
class RuleResult:
    """How one rule came out. `metric` is the figure that was judged (the worst one, where the rule names several);
    `limit` is the number it had to meet and `judged` the end of the interval that was compared with it."""

    rule: Rule
    metric: str
    title: str
    expectation: str
    estimate: Estimate | None
    limit: float | None
    judged: float | None
    passed: bool
    sentence: str

    @property
    def value(self) -> float | None:
        return _finite(self.estimate.value if self.estimate else None)

    @property
    def lower(self) -> float | None:
        return _finite(self.estimate.lower if self.estimate else None)

    @property
    def upper(self) -> float | None:
        return _finite(self.estimate.upper if self.estimate else None)


@dataclass(frozen=True)
class Decision:
    """What becomes of the data: `release`, `review` (a person signs off) or `withhold`, and why, in plain words."""

    outcome: Outcome
    sentence: str
    rules: tuple[RuleResult, ...]


def decide(policy: Policy, metrics: Mapping[str, Estimate], chance: Mapping[str, float] | None = None) -> Decision:
    """Judge every rule. `chance` gives chance levels that do not follow from a metric's name (inference)."""
    results = tuple(_judge(rule, metrics, chance or {}) for rule in policy.rules)
    failed = [result for result in results if not result.passed]
    if not failed:
        return Decision("release", f"All {len(results)} rules of the policy “{policy.name}” are met.", results)
    outcome: Outcome = "withhold" if any(result.rule.on_fail == "withhold" for result in failed) else "review"
    missed = f"{len(failed)} of the {len(results)} rules of the policy “{policy.name}”"
    follows = {
        "withhold": "the data must not be released",
        "review": "a person has to look at it and sign before the data is released",
    }[outcome]
    verb, lead = ("is", "") if len(failed) == 1 else ("are", "Above all, ")
    gravest = _gravest(failed).sentence
    told = f"{lead}{gravest[0].lower()}{gravest[1:]}" if lead else gravest
    return Decision(outcome, f"{missed} {verb} not met, so {follows}. {told}", results)


def _judge(rule: Rule, metrics: Mapping[str, Estimate], chance: Mapping[str, float]) -> RuleResult:
    """Judge a rule by the figure that speaks most against it."""
    if "*" not in rule.metric:
        return _judge_one(rule, rule.metric, metrics.get(rule.metric), chance)
    before, after = rule.metric.split("*")
    names = [
        name
        for name in metrics
        if name.startswith(before) and name.endswith(after) and len(name) > len(before) + len(after)
    ]
    results = [_judge_one(rule, name, metrics[name], chance) for name in sorted(names)]
    return min(results, key=_margin, default=_judge_one(rule, rule.metric, None, chance))


def _margin(result: RuleResult) -> float:
    """How far a result is on the right side of its limit; results that do not count come first of all."""
    if result.judged is None or result.limit is None:
        return -math.inf
    return (result.judged - result.limit) * (1 if result.rule.bound.at_least is not None else -1)


def _gravest(failed: Sequence[RuleResult]) -> RuleResult:
    """Return the failure to tell first: one that withholds, of those one whose value itself misses the bound, and of
    those the one that misses it by most."""

    def order(result: RuleResult) -> tuple[bool, bool, bool, float]:
        uncertain = False
        if result.value is not None and result.limit is not None:
            at_least = result.rule.bound.at_least is not None
            uncertain = result.value >= result.limit if at_least else result.value <= result.limit
        return result.rule.on_fail != "withhold", result.judged is None, uncertain, -_shortfall(result)

    return min(failed, key=order)


def _shortfall(result: RuleResult) -> float:
    """How far the value of a figure lies on the way from its limit to the worst that there can be, 0 to 1; 0 where it
    has neither, or where there is no worst."""
    unit = describe(result.metric.replace(".*", ".2")).unit
    ends = {"share": (0.0, 1.0), "points": (0.0, 1.0), "score": (1.0, 5.0)}.get(unit)
    if result.value is None or result.limit is None or ends is None:
        return 0.0
    worst = ends[0] if result.rule.bound.at_least is not None else ends[1]
    return max(0.0, (result.value - result.limit) / (worst - result.limit)) if worst != result.limit else 0.0


def _judge_one(rule: Rule, name: str, estimate: Estimate | None, chance: Mapping[str, float]) -> RuleResult:
    meaning = describe(name.replace(".*", ".2"))
    limit = rule.bound.limit(chance.get(name, meaning.chance))
    at_least = rule.bound.at_least is not None
    expectation = _expectation(rule, meaning, limit, name)
    judged = None
    if estimate is not None and estimate.trustworthy:
        end = estimate.value if rule.confidence == "point" else getattr(estimate, rule.confidence)
        judged = end if math.isfinite(end) and math.isfinite(estimate.value) else None
    passed = judged is not None and limit is not None and (judged >= limit if at_least else judged <= limit)
    title = _title(meaning, name)
    sentence = _sentence(rule, meaning, title, estimate, limit, judged, passed, expectation)
    return RuleResult(rule, name, title, expectation, estimate, limit, judged, passed, sentence)


def _title(meaning: Meaning, name: str) -> str:
    if "*" not in name:
        return meaning.full_title
    if meaning.subgroup:
        return f"{meaning.title} ({meaning.subgroup[0]}: any)"
    return meaning.title.replace("among 2 speakers", "among any number of speakers")


def _expectation(rule: Rule, meaning: Meaning, limit: float | None, name: str) -> str:
    """Return the bound as words: `at least 40 %`."""
    bound = rule.bound
    if bound.at_least is not None:
        return f"at least {_plain(bound.at_least, meaning)}"
    if bound.at_most is not None:
        return f"at most {_plain(bound.at_most, meaning)}"
    assert bound.at_most_above_chance is not None
    above = f"{100 * bound.at_most_above_chance:g} percentage points above guessing"
    return f"at most {above}" if limit is None or "*" in name else f"at most {_plain(limit, meaning)}, which is {above}"


def _plain(number: float, meaning: Meaning) -> str:
    return written(number, meaning.unit).replace(".0 ", " ")


def _sentence(
    rule: Rule,
    meaning: Meaning,
    title: str,
    estimate: Estimate | None,
    limit: float | None,
    judged: float | None,
    passed: bool,
    expectation: str,
) -> str:
    if estimate is None:
        return f"“{title}” was not measured. Required is {expectation}: what is not known counts as not met."
    reasons = " ".join(reason.rstrip(".") + "." for reason in estimate.reasons)
    if not math.isfinite(estimate.value):
        told = f"“{title}” could not be computed. Required is {expectation}: what is not known counts as not met."
        return f"{told} {reasons}".rstrip()
    digits = _digits(estimate, limit, judged, meaning)
    at_least = rule.bound.at_least is not None
    value_meets = limit is not None and (estimate.value >= limit if at_least else estimate.value <= limit)
    value = written(estimate.value, meaning.unit, digits)
    claim = meaning.claim(f"only {value}" if at_least and not value_meets and not passed else value)
    if not estimate.trustworthy:
        why = reasons or "The audit gives no reason."
        return f"{claim}. Required is {expectation}, but this figure proves nothing, so it counts as not met. {why}"
    if limit is None:
        return f"{claim}. Required is {expectation}, but what guessing would yield is not known: not met."
    if judged is None:
        return f"{claim}. Required is {expectation}, but how uncertain the figure is could not be computed: not met."
    interval = ""
    if math.isfinite(estimate.lower) and math.isfinite(estimate.upper) and estimate.lower < estimate.upper:
        interval = f" (95 % interval {written_range(estimate.lower, estimate.upper, meaning.unit, digits)})"
    verdict = "met" if passed else "not met"
    if not passed and value_meets:
        verdict = "the value alone would do, but its interval includes the bound: not trustworthy, so not met"
    return f"{claim}{interval}. Required is {expectation}: {verdict}."


def _digits(estimate: Estimate, limit: float | None, judged: float | None, meaning: Meaning) -> int:
    """Return how many decimals it takes to tell the figure from its limit, so that no `40 %` fails `at least 40 %`."""
    if limit is None or judged is None or judged == limit:
        return 1
    figures = {judged, estimate.value} - {limit}
    return next(
        (d for d in (1, 2, 3) if all(written(x, meaning.unit, d) != written(limit, meaning.unit, d) for x in figures)),
        4,
    )


def _finite(number: float | None) -> float | None:
    return number if number is not None and math.isfinite(number) else None
