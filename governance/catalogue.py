"""What every figure is called and what it means, in words that need no training in statistics.

The dotted names are the public contract with MLflow, `--json` and policies. A name that is not here does not exist:
a policy that uses one is refused, and evidence that carries one is a mistake of the program that made it.
"""

import difflib
import re
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from metrics.chance import EER_CHANCE, linkability_chance, singling_out_chance

Unit = Literal["share", "points", "score", "bits", "correlation", "ratio"]
Better = Literal["higher", "lower", "either"]

SCENARIOS = {
    "unprotected": "On the original recordings, the attacker",
    "ignorant": "An attacker who does not know of the anonymization",
    "lazy_informed": "An attacker who anonymizes their own reference recordings with the same system",
    "semi_informed": "An attacker trained on speech from the same anonymization system",
}
SCENARIO_TITLES = {
    "unprotected": "No protection",
    "ignorant": "Ignorant attacker",
    "lazy_informed": "Lazy-informed attacker",
    "semi_informed": "Semi-informed attacker",
}


class _Family(NamedTuple):
    """Metrics that share a pattern of names; the texts are format strings over the pattern's groups."""

    pattern: str
    example: str
    title: str
    claim: str
    explanation: str
    unit: Unit
    better: Better


_SCENARIO = r"privacy\.(?P<scenario>unprotected|ignorant|lazy_informed|semi_informed)"
_SIDE = r"(?P<side>original|anonymized)"
_FAMILIES = (
    _Family(
        _SCENARIO + r"\.eer",
        "privacy.lazy_informed.eer",
        "{scenario_title}: equal error rate",
        "{who} confuses speakers in {value} of comparisons",
        "How often the attacker errs when asked whether two recordings are of one person, set so that both kinds of"
        " error are equally frequent. 50 % is guessing; 0 % is an attacker who is never wrong.",
        "share",
        "higher",
    ),
    _Family(
        _SCENARIO + r"\.min_cllr",
        "privacy.lazy_informed.min_cllr",
        "{scenario_title}: uncertainty left (min Cllr)",
        "{who} is left with {value} of the uncertainty about who is speaking",
        "How much doubt the attacker's scores leave at best. 100 % means that the scores tell nothing.",
        "share",
        "higher",
    ),
    _Family(
        _SCENARIO + r"\.cllr",
        "privacy.lazy_informed.cllr",
        "{scenario_title}: cost of the scores as given (Cllr)",
        "{who} pays {value} for taking the scores at face value",
        "The same doubt, with the scores as they are. At 1 bit or above, they mislead more than they help.",
        "bits",
        "higher",
    ),
    _Family(
        _SCENARIO + r"\.linkability\.(?P<population>[1-9]\d*)",
        "privacy.lazy_informed.linkability.20",
        "{scenario_title}: linkability among {population} speakers",
        "{who} picks the right one of {population} speakers in {value} of attempts",
        "How often the attacker finds the person to whom a recording belongs in a list of {population}. Blind guessing"
        " manages {chance}."
        " This is the criterion of linkability of the European data-protection authorities (opinion 05/2014).",
        "share",
        "lower",
    ),
    _Family(
        _SCENARIO + r"\.singling_out\.(?P<population>[1-9]\d*)",
        "privacy.lazy_informed.singling_out.20",
        "{scenario_title}: singling out among {population} speakers",
        "{who} isolates exactly one of {population} speakers in {value} of attempts",
        "How often the attacker can point at exactly one of {population} people. Blind guessing manages {chance}."
        " This is the criterion of singling out of the European data-protection authorities (opinion 05/2014).",
        "share",
        "lower",
    ),
    _Family(
        r"privacy\.inference\.(?P<attribute>.+)\." + _SIDE,
        "privacy.inference.gender.anonymized",
        "Inference of “{attribute}” from the {side} speech",
        "A classifier guesses “{attribute}” correctly from the {side} speech in {value} of cases",
        "How well a property of the speaker can be read off the voice. The closer to chance, the less is given away."
        " This is the criterion of inference of the European data-protection authorities (opinion 05/2014).",
        "share",
        "lower",
    ),
    _Family(
        r"utility\.(?P<rate>wer|cer)\." + _SIDE,
        "utility.wer.anonymized",
        "{rate_title}, {side} speech",
        "Automatic transcription gets {value} of the {rate_of} wrong in the {side} speech",
        "How much of what was said a speech recogniser does not understand. It can exceed 100 % when words are added.",
        "share",
        "lower",
    ),
    _Family(
        r"utility\.(?P<rate>wer|cer)\.increase",
        "utility.wer.increase",
        "{rate_title}, increase",
        "Anonymization adds {value} to the share of {rate_of} that automatic transcription gets wrong",
        "The error rate on anonymized speech less that on the original, in percentage points.",
        "points",
        "lower",
    ),
    _Family(
        r"utility\.uar\." + _SIDE,
        "utility.uar.anonymized",
        "Emotion recognition, {side} speech (UAR)",
        "A recogniser names the labelled emotion in {value} of cases in the {side} speech",
        "Unweighted average recall: the share recognised, averaged over the emotions so that rare ones count as much.",
        "share",
        "higher",
    ),
    _Family(
        r"utility\.uar\.retained",
        "utility.uar.retained",
        "Emotion recognition retained",
        "The anonymized speech keeps {value} of the emotion recognition of the original",
        "The recognition rate on anonymized speech divided by that on the original.",
        "share",
        "higher",
    ),
    _Family(
        r"utility\.recall\.(?P<emotion>.+)\." + _SIDE,
        "utility.recall.happy.anonymized",
        "Recall of “{emotion}”, {side} speech",
        "A recogniser finds {value} of the recordings labelled “{emotion}” in the {side} speech",
        "The share of the recordings with this label that the recogniser gives this label.",
        "share",
        "higher",
    ),
    _Family(
        r"utility\.emotion_agreement",
        "utility.emotion_agreement",
        "Emotion agreement",
        "A recogniser hears the same emotion before and after anonymization in {value} of recordings",
        "Needs no labels: the recogniser's answer on the original is compared with its answer on the anonymized.",
        "share",
        "higher",
    ),
    _Family(
        r"utility\.dnsmos\." + _SIDE,
        "utility.dnsmos.anonymized",
        "Sound quality, {side} speech (DNSMOS)",
        "The {side} speech sounds like {value} on a scale from 1 (bad) to 5 (excellent)",
        "The grade that listeners would give, as a model predicts it.",
        "score",
        "higher",
    ),
    _Family(
        r"utility\.pitch_correlation",
        "utility.pitch_correlation",
        "Pitch correlation",
        "The melody of the anonymized speech follows the original with a correlation of {value}",
        "1 means that the pitch rises and falls with the original, 0 that it does not. Intonation carries meaning, but"
        " also habits of the speaker.",
        "correlation",
        "either",
    ),
    _Family(
        r"utility\.duration_ratio",
        "utility.duration_ratio",
        "Duration",
        "The anonymized recordings last {value} as long as the originals",
        "100 % means that nothing was cut or stretched.",
        "ratio",
        "either",
    ),
    _Family(
        r"data\.quarantined_fraction",
        "data.quarantined_fraction",
        "Recordings set aside",
        "{value} of the recordings could not be used and were set aside",
        "Unreadable, empty, silent or otherwise unusable recordings. Each has a reason, and none is released.",
        "share",
        "lower",
    ),
)
_COMPILED = tuple((re.compile(family.pattern, re.DOTALL), family) for family in _FAMILIES)
# The value of a subgroup may contain dots, so the name of the figure is found from the right.
_SUBGROUP = re.compile(r"subgroup\.(?P<column>[^.]+)\.(?P<value>.+)\.(?P<name>(?:privacy|utility|data)\..+)", re.DOTALL)


@dataclass(frozen=True)
class Meaning:
    """One metric, explained. `chance` is what guessing yields, where that follows from the name alone."""

    name: str
    title: str
    explanation: str
    unit: Unit
    better: Better
    chance: float | None
    template: str = field(repr=False)
    words: dict[str, str] = field(repr=False)
    subgroup: tuple[str, str] | None = None

    @property
    def full_title(self) -> str:
        """The title with the subgroup that the figure was measured in."""
        return f"{self.title} ({self.subgroup[0]}: {self.subgroup[1]})" if self.subgroup else self.title

    @property
    def for_everyone(self) -> str:
        """The name that a subgroup's figure has for everyone."""
        return self.name.removeprefix("subgroup." + ".".join(self.subgroup) + ".") if self.subgroup else self.name

    def claim(self, value: str) -> str:
        """Return the sentence, without its full stop, that states `value` (already formatted)."""
        sentence = self.template.format(value=value, **self.words)
        if self.subgroup:
            return f"Where {self.subgroup[0]} is “{self.subgroup[1]}”: {sentence[0].lower()}{sentence[1:]}"
        return sentence


def describe(name: str) -> Meaning:
    """Return what the metric `name` means. Raises KeyError, with the nearest known name, for an unknown one."""
    inner = _SUBGROUP.fullmatch(name)
    for pattern, family in _COMPILED:
        match = pattern.fullmatch(inner["name"] if inner else name)
        if match is None:
            continue
        words = match.groupdict()
        if "scenario" in words:
            words["who"] = SCENARIOS[words["scenario"]]
            words["scenario_title"] = SCENARIO_TITLES[words["scenario"]]
        if "rate" in words:
            words["rate_title"] = {"wer": "Word error rate", "cer": "Character error rate"}[words["rate"]]
            words["rate_of"] = {"wer": "words", "cer": "characters"}[words["rate"]]
        chance = _chance(family, words)
        words["chance"] = "" if chance is None else written(chance, "share")
        better = family.better
        if words.get("scenario") == "unprotected":  # there, the attacker is on trial and not the protection
            better = "lower" if better == "higher" else "higher"
        return Meaning(
            name=name,
            title=family.title.format(**words),
            explanation=family.explanation.format(**words),
            unit=family.unit,
            better=better,
            chance=chance,
            template=family.claim,
            words=words,
            subgroup=(inner["column"], inner["value"]) if inner else None,
        )
    raise KeyError(f"no metric is called “{name}”; the nearest name is “{nearest(name)}”")


def _chance(family: _Family, words: dict[str, str]) -> float | None:
    match family.example.split(".")[2:]:
        case ["singling_out", _]:
            return singling_out_chance(int(words["population"]))
        case ["linkability", _]:
            return linkability_chance(int(words["population"]))
        case ["eer"]:
            return EER_CHANCE
    return None


def nearest(name: str) -> str:
    """Return the known name that `name` was most likely meant to be, keeping its scenario and population."""
    known = [family.example for family in _FAMILIES]
    known += [example.replace("lazy_informed", scenario) for example in known for scenario in SCENARIOS]
    known += [example.replace("anonymized", "original") for example in known]
    return difflib.get_close_matches(name, sorted(set(known)), n=1, cutoff=0)[0]


def written(value: float, unit: Unit, digits: int = 1) -> str:
    """Return a figure as people read it: shares in per cent, the others in their own unit."""
    match unit:
        case "share" | "ratio":
            return f"{100 * value:.{digits}f} %"
        case "points":
            return f"{100 * value:.{digits}f} percentage points"
        case "score" | "correlation":
            return f"{value:.{digits + 1}f}"
        case "bits":
            return f"{value:.{digits + 1}f} bits"


def written_range(lower: float, upper: float, unit: Unit, digits: int = 1) -> str:
    """Return an interval as people read it: `27.1 to 39.1 %`, the unit written once."""
    first = written(lower, unit, digits).split(" ")[0]
    return f"{first} to {written(upper, unit, digits)}"
