"""One figure for each part of a corpus, say each gender, so that an average hides nobody."""

from collections.abc import Callable, Hashable, Sequence

import numpy as np
from numpy.typing import NDArray

from metrics.estimate import Estimate
from metrics.trials import Trials


def estimate_by_subgroup(
    subgroups: Sequence[str] | NDArray, evaluate: Callable[[NDArray[np.bool_]], Estimate]
) -> dict[str, Estimate]:
    """Call `evaluate` with the mask [N] of each subgroup's items and return its figure by the subgroup's name.

    A subgroup that cannot be evaluated (ValueError: one speaker, nothing to divide by) gets an untrustworthy NaN with
    the reason rather than silence.
    """
    values = np.asarray(subgroups)
    estimates = {}
    for name in sorted({str(value) for value in values}):
        mask = np.array([str(value) == name for value in values])
        try:
            estimates[name] = evaluate(mask)
        except ValueError as error:
            nan = float("nan")
            estimates[name] = Estimate(nan, nan, nan, 0, trustworthy=False, reasons=(f"Not measurable: {error}.",))
    return estimates


def within_subgroup_trials(trials: Trials, subgroup_of: dict[Hashable, str]) -> dict[str, Trials]:
    """Keep, for each subgroup of speakers, the trials among its own members, as VoicePrivacy does for gender.

    An attacker who hears the gender alone tells many strangers apart; within one gender that does not help. Subgroups
    without a mated or a non-mated trial are left out. Raises KeyError for a speaker without a subgroup.
    """
    names = sorted(set(subgroup_of.values()))
    index = {name: position for position, name in enumerate(names)}

    def encode(speakers: NDArray) -> NDArray:
        distinct, codes = np.unique(speakers, return_inverse=True)
        return np.array([index[subgroup_of[speaker]] for speaker in distinct.tolist()])[codes]

    enrolled, tried = encode(trials.enrolment_speaker), encode(trials.trial_speaker)
    result = {}
    for name, position in index.items():
        keep = (enrolled == position) & (tried == position)
        mated = trials.mated[keep]
        if mated.any() and not mated.all():
            result[name] = trials.select(keep)
    return result
