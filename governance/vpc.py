"""The figures of reports in the VoicePrivacy challenges' terms, so that they can stand beside a challenge's.

The challenges report EER by gender, WER and UAR in per cent, and name an attack by what is enrolled and what is tried:
original (o) or anonymized (a). Their semi-informed attacker is the trained one here. `trials` names the official list
that an error rate was measured on, where an audit used such lists.
"""

import re
from collections.abc import Sequence

from governance.report import Figure, Report

COLUMNS = (
    "dataset", "anonymizer", "metric", "attacker", "enrolment", "trial", "trials", "gender",
    "value", "lower", "upper", "trustworthy",
)  # fmt: skip
SIDES = {
    "unprotected": ("o", "o"),
    "ignorant": ("o", "a"),
    "lazy_informed": ("a", "a"),
    "semi_informed": ("a", "a"),
}
_EER = re.compile(
    r"(?:subgroup\.(?:gender\.(?P<gender>[^.]+)|trials\.(?P<trials>.+))\.)?privacy\.(?P<attacker>\w+)\.eer"
)
# The challenges' lists are of one gender each, which the end of the name says: libri_test_trials_f.
_GENDER_OF_LIST = re.compile(r"_(?P<gender>[fm])$")
_UTILITY = re.compile(r"utility\.(?P<metric>wer|uar)\.(?P<side>original|anonymized)")


def vpc_table(reports: Sequence[Report]) -> str:
    """Return the EER, WER and UAR of the reports as tab-separated text, values and intervals in per cent.

    Which trials and which utterances they were measured on is that of each report: they compare with a challenge's
    figures only where the index and the trials are the challenge's own.
    """
    lines = ["\t".join(COLUMNS)]
    for report in reports:
        lineage = report.lineage
        for name, figure in report.metrics.items():
            described = _describe(name)
            if described is not None:
                lines.append(
                    "\t".join((_plain(lineage.dataset), lineage.anonymizer.name, *described, *_numbers(figure)))
                )
    return "\n".join(lines) + "\n"


def _describe(name: str) -> tuple[str, ...] | None:
    """Return metric, attacker, enrolment, trial, trial list and gender of a figure, None where the challenges have no
    such figure."""
    if match := _EER.fullmatch(name):
        trials = match["trials"] or "all"
        of_list = _GENDER_OF_LIST.search(trials)
        gender = match["gender"] or (of_list["gender"] if of_list else "all")
        return "EER", match["attacker"], *SIDES[match["attacker"]], _plain(trials), _plain(gender)
    if match := _UTILITY.fullmatch(name):
        return match["metric"].upper(), "", "", match["side"][0], "all", "all"
    return None


def _numbers(figure: Figure) -> tuple[str, ...]:
    values = (figure.value, figure.lower, figure.upper)
    return (*("" if value is None else f"{100 * value:.2f}" for value in values), "yes" if figure.trustworthy else "no")


def _plain(text: str) -> str:
    """Return text without what would break the table."""
    return " ".join(text.split())
