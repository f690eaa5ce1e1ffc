"""A policy says what it means, and a policy that does not is refused with one line that says where and why."""

from pathlib import Path

import pytest

from governance.policy import BUILT_IN, Policy, PolicyError, load_policy, parse_policy

HEAD = "name: strict\nversion: 2\nrules:\n"
RULE = "- {metric: privacy.lazy_informed.eer, bound: {at_least: 0.4}, reason: because}\n"


def one_rule(**changes: str) -> str:
    parts = {
        "metric": "privacy.lazy_informed.eer",
        "bound": "{at_least: 0.4}",
        "on_fail": "withhold",
        "reason": "because",
    } | changes
    return HEAD + "- {" + ", ".join(f"{key}: {value}" for key, value in parts.items()) + "}\n"


def test_the_cautious_end_of_the_interval_is_the_default() -> None:
    rules = parse_policy(
        HEAD + RULE + "- {metric: utility.wer.anonymized, bound: {at_most: 0.2}, reason: because}\n"
    ).rules
    assert rules[0].confidence == "lower"
    assert rules[1].confidence == "upper"
    assert rules[0].on_fail == "withhold"


def test_a_version_may_be_written_as_a_number() -> None:
    assert parse_policy(HEAD + RULE).version == "2"


def test_the_text_and_its_digest_keep_the_comments() -> None:
    text = "# agreed on by the board\n" + HEAD + RULE
    policy = parse_policy(text)
    assert policy.text == text
    assert policy.digest != parse_policy(HEAD + RULE).digest


def test_a_policy_made_in_code_can_be_written_and_read_back() -> None:
    made = Policy.model_validate(parse_policy(HEAD + RULE).model_dump())
    assert parse_policy(made.text).model_dump() == made.model_dump()


@pytest.mark.parametrize("name", [path.stem for path in BUILT_IN.glob("*.yaml")])
def test_every_built_in_policy_loads_and_gives_its_reasons(name: str) -> None:
    policy = load_policy(name)
    assert policy.name == name
    assert all(len(rule.reason.split()) > 8 for rule in policy.rules)


def test_a_trait_may_be_asked_to_survive() -> None:
    text = one_rule(metric="privacy.inference.gender.anonymized", bound="{at_least: 0.8}")
    assert parse_policy(text).rules[0].bound.at_least == 0.8


def test_a_single_mistake_is_not_said_to_be_several() -> None:
    with pytest.raises(PolicyError) as refused:
        parse_policy(one_rule(metric="privacy.lazy_informed.err"))
    assert "more)" not in str(refused.value)


def test_a_policy_tells_which_attackers_it_needs() -> None:
    policy = parse_policy(HEAD + RULE)
    assert policy.needs("lazy_informed")
    assert not policy.needs("semi_informed")


@pytest.mark.parametrize("name", [path.stem for path in BUILT_IN.glob("*.yaml")])
def test_every_built_in_policy_asks_for_the_strongest_attacker(name: str) -> None:
    assert load_policy(name).needs("semi_informed")


def test_review_only_has_the_rules_of_the_default_policy_and_withholds_nothing() -> None:
    default, review_only = load_policy("default").rules, load_policy("review-only").rules
    asked, also = ([(rule.metric, rule.bound, rule.confidence) for rule in rules] for rules in (default, review_only))
    assert asked == also
    assert {rule.on_fail for rule in review_only} == {"review"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "policy: a policy is a mapping with name, version and rules"),
        ("- just\n- a list\n", "policy: a policy is a mapping with name, version and rules"),
        ("name: [", "policy, line 1: not valid YAML"),
        ("name: !!python/object:os.system {}\n", "policy, line 1: not valid YAML"),
        (HEAD + RULE + "name: again\n", "policy, line 5: the key “name” is written twice"),
        (
            one_rule(bound="{at_least: 0.4, at_least: 0.1}"),
            "policy, line 4: the key “at_least” is written twice",
        ),
        ("name: x\nversion: 1\nrules: []\n", "policy, a policy needs a rule at least"),
        ("name: x\nrules:\n" + RULE, "policy, the field “version” is missing"),
        (HEAD + RULE + "owner: me\n", "policy, unknown field “owner”"),
        (one_rule(severity="high"), "policy, rule 1 (privacy.lazy_informed.eer): unknown field “severity”"),
        (
            HEAD + RULE + RULE.replace("lazy_informed", "lazy"),
            "policy, rule 2 (privacy.lazy.eer): no metric is called “privacy.lazy.eer”; the nearest name is",
        ),
        (
            HEAD + "- {metric: privacy.ignorant.eer, bound: {at_least: 0.4}}\n",
            "policy, rule 1 (privacy.ignorant.eer): the field “reason” is missing",
        ),
        (one_rule(bound="0.4"), "policy, rule 1 (privacy.lazy_informed.eer): bound: "),
        (one_rule(bound="{}"), "a bound is exactly one of at_least, at_most and at_most_above_chance"),
        (one_rule(bound="{at_least: 0.4, at_most: 0.5}"), "a bound is exactly one of"),
        (one_rule(bound="{min: 0.4}"), "unknown field “bound.min”"),
        (one_rule(bound="{at_least: .nan}"), "bound.at_least: input should be a finite number"),
        (one_rule(bound="{at_least: .inf}"), "bound.at_least: input should be a finite number"),
        (one_rule(bound="{at_least: yes}"), "bound.at_least: input should be a valid number"),
        (one_rule(bound="{at_least: 40 %}"), "bound.at_least: input should be a valid number"),
        (one_rule(bound="{at_least: 40}"), "the bound 40 is not a fraction; 40 % is written 0.4"),
        (
            one_rule(metric="utility.dnsmos.anonymized", bound="{at_least: 0.5}"),
            "the bound 0.5 lies outside the scale from 1 to 5",
        ),
        (one_rule(confidence="likely"), "confidence: input should be 'lower', 'upper' or 'point'"),
        (
            one_rule(confidence="point"),
            "confidence point would let a privacy figure pass for being uncertain",
        ),
        (
            one_rule(confidence="upper"),
            "at_least with confidence upper would let an uncertain figure pass; use lower",
        ),
        (
            one_rule(bound="{at_most: 0.4}", confidence="lower"),
            "at_most with confidence lower would let an uncertain figure pass; use upper",
        ),
        (one_rule(bound="{at_most: 0.4}"), "higher is better here, so this bound would pass the bad; use at_least"),
        (
            one_rule(metric="privacy.unprotected.eer"),
            "lower is better here, so this bound would pass the bad; use at_most",
        ),
        (one_rule(metric="utility.wer.increase"), "use at_most"),
        (one_rule(bound="{at_least: -0.4}"), "the bound -0.4 is below 0, where no share can lie"),
        (one_rule(on_fail="ignore"), "on_fail: input should be 'withhold' or 'review'"),
        (one_rule(metric="'privacy.*.linkability.*'"), "only one * can stand in the name of a metric"),
        (
            one_rule(metric="utility.wer.increase", bound="{at_most_above_chance: 0.1}"),
            "utility.wer.increase has no chance level to be compared with",
        ),
    ],
)
def test_each_mistake_is_told_in_one_line(text: str, message: str) -> None:
    with pytest.raises(PolicyError) as caught:
        parse_policy(text)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there_is_told_with_what_there_is(tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match=r"nowhere.yaml: cannot be read: No such file"):
        load_policy(tmp_path / "nowhere.yaml")
    with pytest.raises(PolicyError, match=r"no built-in policy of that name \(.*default.*\)"):
        load_policy("defualt")
    with pytest.raises(PolicyError, match="no such file"):
        load_policy("../policies/default")


def test_a_file_is_named_in_the_message(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(PolicyError, match=r"mine\.yaml: cannot be read: not a UTF-8 text"):
        load_policy(path)
    path.write_text(one_rule(severity="high"))
    with pytest.raises(PolicyError, match=r"mine\.yaml, rule 1"):
        load_policy(path)
