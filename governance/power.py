"""Power: where a privacy rule failed only because people were few, how many more would settle it."""

from governance.catalogue import describe, written, written_range
from governance.decision import Decision
from metrics.validity import speakers_needed


def power_notes(decision: Decision) -> list[str]:
    """Return a sentence for each failed privacy rule whose interval includes its limit.

    Figures that are not trustworthy are left out: more people alone would not mend them.
    """
    notes = []
    for result in decision.rules:
        figure, limit = result.estimate, result.limit
        if (
            result.passed
            or figure is None
            or limit is None
            or not figure.trustworthy
            or "privacy." not in result.metric
        ):
            continue
        if not figure.lower < limit < figure.upper:
            continue
        unit = describe(result.metric).unit
        interval, bound = written_range(figure.lower, figure.upper, unit), written(limit, unit)
        needed = speakers_needed(figure, limit)
        told = f"“{result.title}”: with {figure.n} speakers the interval, {interval}, includes the bound of {bound}"
        if needed is None:
            notes.append(f"{told}, on which the value lies: no number of speakers would tell them apart.")
        else:
            more = f"{needed - figure.n:,}".replace(",", " ")
            notes.append(f"{told}. About {more} more speakers would settle it, if the value stayed the same.")
    return notes
