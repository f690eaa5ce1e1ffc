"""The figures of reports in the VoicePrivacy challenges' terms, so that they can stand beside a challenge's.

The challenges report EER by gender, WER and UAR in per cent, and name an attack by what is enrolled and what is tried:
original (o) or anonymized (a). Their semi-informed attacker is the trained one here.
"""

import re
from collections.abc import Sequence

from governance.report import Figure, Report

COLUMNS = (
    "dataset", "anonymizer", "metric", "attacker", "enrolment", "trial", "gender",
    "value", "lower", "upper", "trustworthy",
)  # fmt: skip
SIDES = {
    "unprotected": ("o", "o"),
    "ignorant": ("o", "a"),
    "lazy_informed": ("a", "a"),
    "semi_informed": ("a", "a"),
}
_EER = re.compile(r"(?:subgroup\.gender\.(?P<gender>[^.]+)\.)?privacy\.(?P<attacker>\w+)\.eer")
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


def _describe(name: str) -> tuple[str, str, str, str, str] | None:
    """Return metric, attacker, enrolment, trial and gender of a figure, None where the challenges have no such one."""
    if match := _EER.fullmatch(name):
        return "EER", match["attacker"], *SIDES[match["attacker"]], _plain(match["gender"] or "all")
    if match := _UTILITY.fullmatch(name):
        return match["metric"].upper(), "", "", match["side"][0], "all"
    return None


def _numbers(figure: Figure) -> tuple[str, ...]:
    values = (figure.value, figure.lower, figure.upper)
    return (*("" if value is None else f"{100 * value:.2f}" for value in values), "yes" if figure.trustworthy else "no")


def _plain(text: str) -> str:
    """Return text without what would break the table."""
    return " ".join(text.split())
