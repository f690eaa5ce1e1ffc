"""A policy: the written bounds that a release has to meet, read from YAML and checked before anything runs.

It knows what a rule may say, not how a rule is judged (that is `decision`). Whatever is wrong with a policy ends in one
line that names the rule and the mend.
"""

import hashlib
from collections.abc import Hashable
from pathlib import Path
from typing import Annotated, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationError, model_validator

from governance.catalogue import describe

BUILT_IN = Path(__file__).parent / "policies"
Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Confidence = Literal["lower", "upper", "point"]


class PolicyError(ValueError):
    """The policy cannot be used; the message is one line that says where and why."""


class Bound(BaseModel):
    """What a figure has to reach. Exactly one of the three is set; fractions, as the figures are."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    at_least: Number | None = None
    at_most: Number | None = None
    at_most_above_chance: Number | None = None

    @model_validator(mode="after")
    def _one_bound(self) -> Self:
        if len(self.model_dump(exclude_none=True)) != 1:
            raise ValueError("a bound is exactly one of at_least, at_most and at_most_above_chance")
        return self

    def limit(self, chance: float | None) -> float | None:
        """Return the number to compare with, or None where the bound leans on a chance level that is not known."""
        if self.at_most_above_chance is not None:
            return None if chance is None else chance + self.at_most_above_chance
        return self.at_most if self.at_least is None else self.at_least


class Rule(BaseModel):
    """One bound on one metric. A `*` stands for every population, or every value of a subgroup, that was measured.

    `confidence` names the end of the 95 % interval that must meet the bound: the cautious end unless said otherwise, so
    that a figure that is merely uncertain does not pass. `point` looks at the value alone; no privacy rule may.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    metric: str
    bound: Bound
    confidence: Confidence
    on_fail: Literal["withhold", "review"] = "withhold"
    reason: str = Field(min_length=1)

    @model_validator(mode="before")
    @classmethod
    def _cautious_end(cls, data: object) -> object:
        if isinstance(data, dict) and "confidence" not in data and isinstance(data.get("bound"), dict):
            return {**data, "confidence": "lower" if "at_least" in data["bound"] else "upper"}
        return data

    @model_validator(mode="after")
    def _sensible(self) -> Self:
        if self.metric.count("*") > 1:
            raise ValueError("only one * can stand in the name of a metric")
        try:
            meaning = describe(self.metric.replace(".*", ".2"))
        except KeyError as error:
            raise ValueError(error.args[0]) from None
        if (
            self.bound.at_most_above_chance is not None
            and meaning.chance is None
            and not self.metric.startswith("privacy.inference.")
        ):
            raise ValueError(f"{self.metric} has no chance level to be compared with")
        hopeful = "upper" if self.bound.at_least is not None else "lower"
        if self.confidence == hopeful:
            kind = "at_least" if hopeful == "upper" else "at_most"
            cautious = "lower" if hopeful == "upper" else "upper"
            raise ValueError(f"{kind} with confidence {hopeful} would let an uncertain figure pass; use {cautious}")
        if self.confidence == "point" and self.metric.startswith("privacy."):
            raise ValueError("confidence point would let a privacy figure pass for being uncertain; leave it out")
        number = next(iter(self.bound.model_dump(exclude_none=True).values()))
        wrong = {"higher": self.bound.at_least is None, "lower": self.bound.at_least is not None, "either": False}
        if wrong[meaning.better] and not self.metric.startswith("privacy.inference."):  # a trait may have to survive
            needed = "at_least" if meaning.better == "higher" else "at_most"
            raise ValueError(f"{meaning.better} is better here, so this bound would pass the bad; use {needed}")
        if meaning.unit == "share" and number < 0:
            raise ValueError(
                f"the bound {number:g} is below 0, where no share can lie, so the rule would ask for nothing"
            )
        if meaning.unit in ("share", "points") and abs(number) > 1:
            raise ValueError(f"the bound {number:g} is not a fraction; {number:g} % is written {number / 100:g}")
        if meaning.unit == "score" and not 1 <= number <= 5:
            raise ValueError(f"the bound {number:g} lies outside the scale from 1 to 5")
        return self


class Policy(BaseModel):
    """Rules with a name and a version. Use `load_policy`; the text it was read from travels along."""

    model_config = ConfigDict(extra="forbid", frozen=True, coerce_numbers_to_str=True)

    name: str = Field(min_length=1)
    version: str = Field(min_length=1)
    description: str = ""
    rules: tuple[Rule, ...] = Field(min_length=1)
    _text: str = PrivateAttr(default="")

    @property
    def text(self) -> str:
        """The YAML as it was written, comments included; a policy made in code is written out instead."""
        return self._text or yaml.safe_dump(self.model_dump(mode="json", exclude_none=True), sort_keys=False)

    @property
    def digest(self) -> str:
        """The SHA-256 of `text`."""
        return hashlib.sha256(self.text.encode()).hexdigest()

    def needs(self, scenario: str) -> bool:
        """Say whether any rule looks at this attacker, so that a job knows what it has to measure."""
        return any(f"privacy.{scenario}." in rule.metric for rule in self.rules)


class _UniqueKeys(yaml.SafeLoader):
    """YAML without the silent overwriting of a key that is written twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, object]:
        seen: set[Hashable] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, Hashable):
                if key in seen:
                    raise PolicyError(f"line {key_node.start_mark.line + 1}: the key “{key}” is written twice")
                seen.add(key)
        return super().construct_mapping(node, deep)


def load_policy(path: str | Path) -> Policy:
    """Read a policy from a YAML file, or one of the built-in ones by its bare name ("default").

    Raises PolicyError with one line for whatever is wrong with it.
    """
    file = Path(path)
    if file.suffix not in (".yaml", ".yml") and not file.exists():
        file = BUILT_IN / f"{path}.yaml"
        if file.parent != BUILT_IN or not file.exists():
            known = ", ".join(sorted(built_in.stem for built_in in BUILT_IN.glob("*.yaml")))
            raise PolicyError(f"policy “{path}”: no such file, and no built-in policy of that name ({known})")
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "not a UTF-8 text"
        raise PolicyError(f"policy {file}: cannot be read: {why}") from None
    return parse_policy(text, str(file))


def parse_policy(text: str, where: str = "policy") -> Policy:
    """Make a policy of YAML text; `where` stands at the head of the message when that fails."""
    try:
        data = yaml.load(text, Loader=_UniqueKeys)  # a SafeLoader
    except PolicyError as error:
        raise PolicyError(f"{where}, {error}") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        raise PolicyError(f"{where}{line}: not valid YAML: {getattr(error, 'problem', None) or error}") from None
    if not isinstance(data, dict):
        raise PolicyError(f"{where}: a policy is a mapping with name, version and rules")
    try:
        policy = Policy.model_validate(data)
    except ValidationError as error:
        raise PolicyError(f"{where}, {_first_problem(error, data)}") from None
    policy._text = text
    return policy


def _first_problem(error: ValidationError, data: dict[str, object]) -> str:
    """Return the first of pydantic's findings as one line: the rule, the field, and what is wrong with it."""
    # Rules that are refused are missing from the list, which pydantic then finds too short.
    problems = [problem for problem in error.errors() if problem["type"] != "too_short"] or error.errors()
    first, more = problems[0], len(problems) - 1
    parts = [str(part) for part in first["loc"]]
    place = ""
    if parts[:1] == ["rules"] and len(parts) > 1:
        rules = data.get("rules")
        rule = rules[int(parts[1])] if isinstance(rules, list) else None
        metric = rule.get("metric") if isinstance(rule, dict) else None
        place = f"rule {int(parts[1]) + 1}" + (f" ({metric})" if metric else "")
        parts = parts[2:]
    what = ".".join(parts)
    message = first["msg"].removeprefix("Value error, ")
    match first["type"]:
        case "extra_forbidden":
            message = f"unknown field “{what}”"
        case "missing":
            message = f"the field “{what}” is missing"
        case "too_short":
            message = "a policy needs a rule at least"
        case "value_error":
            pass
        case _ if what:
            message = f"{what}: {message[0].lower()}{message[1:]}"
    tail = f" (and {more} more)" if more else ""
    return " ".join(f"{place + ': ' if place else ''}{message}{tail}".split())
