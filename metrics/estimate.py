"""The one shape in which a measured number travels: its value, its interval, its sample size, whether to believe it."""

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Estimate:
    """A figure with a 95 % interval.

    Figures are fractions in [0, 1] in code and storage unless their name says otherwise (DNSMOS is 1 to 5).
    `n` counts what the interval was resampled over: speakers, or utterances where a metric says so.
    `trustworthy` is False when the figure proves nothing (a weak attacker, too few speakers); `reasons` say why, as
    sentences that a reader without statistics understands.
    """

    value: float
    lower: float
    upper: float
    n: int
    trustworthy: bool = True
    reasons: tuple[str, ...] = ()


def distrust(estimate: Estimate, reasons: tuple[str, ...]) -> Estimate:
    """Return the estimate with `reasons` added, untrustworthy if there are any; those it already has stay."""
    if not reasons:
        return estimate
    added = tuple(reason for reason in reasons if reason not in estimate.reasons)
    return replace(estimate, trustworthy=False, reasons=estimate.reasons + added)
