"""When an attack proves nothing: reasons, as sentences, not to believe a privacy figure.

An attack that fails may have met good protection or may just be a bad attack. These checks look for the second: an
attacker who cannot tell people apart on original speech, too few people, scores or training that are broken. Every
check returns its reasons, none of them if all is well; `metrics.estimate.distrust` puts them on an estimate.
"""

import math
from collections.abc import Sequence

import numpy as np

from metrics.estimate import Estimate
from metrics.intervals import Labels, same_length
from metrics.trials import Trials, degenerate_scores

# GE2E, the weaker of the two attackers, errs in none of the cases on LibriSpeech test-other and in 0.11 on the acted
# emotions of EmoDB; an attacker that errs more often than that on original speech misses what a good one would find.
WEAKEST_ATTACKER = 0.15
# Below ten people, one more or less moves the figures by a tenth and percentile intervals are too narrow.
FEWEST_SPEAKERS = 10
# The rule of 30 of Doddington et al. 2000 ("The NIST speaker recognition evaluation"), on mated trials.
FEWEST_MATED_TRIALS = 30
FEWEST_TRAINING_SPEAKERS = 20


def attack_validity(
    unprotected_eer: Estimate,
    trials: Trials,
    weakest_attacker: float = WEAKEST_ATTACKER,
    fewest_speakers: int = FEWEST_SPEAKERS,
) -> tuple[str, ...]:
    """Say why an attack by this attacker on these `trials` proves nothing.

    `unprotected_eer` is the same attacker's equal error rate on original speech, in [0, 0.5].
    """
    return (
        *attacker_strength(unprotected_eer, weakest_attacker),
        *trial_numbers(trials, fewest_speakers),
        *degenerate_scores(trials),
    )


def attacker_strength(unprotected_eer: Estimate, weakest_attacker: float = WEAKEST_ATTACKER) -> tuple[str, ...]:
    """Check that the attacker can tell people apart on original speech."""
    if not math.isfinite(unprotected_eer.value):
        return ("How well the attacker does on original speech is not known.",)
    if unprotected_eer.value > weakest_attacker:
        return (
            f"The attacker is weak: on original speech it errs in {unprotected_eer.value:.1%} of the cases "
            f"(at most {weakest_attacker:.0%} is asked), so its failing on anonymized speech proves nothing.",
        )
    return ()


def trial_numbers(trials: Trials, fewest_speakers: int = FEWEST_SPEAKERS) -> tuple[str, ...]:
    """Check that there are enough people, enough mated trials, and more than one utterance a person."""
    _, counts = np.unique(trials.trial_speaker[trials.mated], return_counts=True)
    reasons = []
    if counts.size < fewest_speakers:
        reasons.append(f"Only {counts.size} speakers were attacked; at least {fewest_speakers} are needed.")
    if counts.sum() < FEWEST_MATED_TRIALS:
        reasons.append(
            f"Only {counts.sum()} trials compare a person with themselves; at least {FEWEST_MATED_TRIALS} are needed."
        )
    alone = np.count_nonzero(counts == 1)
    if alone > counts.size / 2:
        reasons.append(
            f"{alone} of {counts.size} speakers have one trial utterance, which does not show how a voice varies."
        )
    return tuple(reasons)


def session_overlap(
    enrolment_speakers: Labels, enrolment_sessions: Labels, trial_speakers: Labels, trial_sessions: Labels
) -> tuple[str, ...]:
    """Check that people were not enrolled and tried in one recording session, whose room and microphone give them away.

    Sessions are named for each enrolment utterance [M] and each trial utterance [K].
    """
    same_length(enrolment_speakers=enrolment_speakers, enrolment_sessions=enrolment_sessions)
    same_length(trial_speakers=trial_speakers, trial_sessions=trial_sessions)
    enrolled = set(zip(enrolment_speakers, enrolment_sessions, strict=True))
    tried = set(zip(trial_speakers, trial_sessions, strict=True))
    shared, people = {speaker for speaker, _ in enrolled & tried}, {speaker for speaker, _ in tried}
    if not shared:
        return ()
    return (
        f"{len(shared)} of {len(people)} speakers were enrolled and tried in one recording session: "
        "the attacker may recognise the room instead of the voice.",
    )


def training_validity(
    training_speakers: int, losses: Sequence[float] = (), fewest_speakers: int = FEWEST_TRAINING_SPEAKERS
) -> tuple[str, ...]:
    """Check that an attacker was trained on enough people and, where it has a loss history, that the loss fell.

    The loss fell when the mean of the last tenth of the steps is below that of the first tenth.
    """
    reasons = []
    if training_speakers < fewest_speakers:
        reasons.append(
            f"The attacker was trained on {training_speakers} speakers; at least {fewest_speakers} are needed."
        )
    if len(losses) > 0:
        history = np.asarray(losses, dtype=np.float64)
        tenth = max(1, history.size // 10)
        if not np.isfinite(history).all():
            reasons.append("The attacker's training broke down: its loss is not a finite number.")
        elif history[-tenth:].mean() >= history[:tenth].mean():
            reasons.append("The attacker's training loss did not fall, so it learnt nothing.")
    return tuple(reasons)


def training_gain(untrained_eer: Estimate, trained_eer: Estimate) -> tuple[str, ...]:
    """Check that training did not make an attacker worse than the untrained one on the same trials.

    Worse means that the intervals of the two equal error rates do not touch: less may be chance.
    """
    if trained_eer.lower > untrained_eer.upper:
        return (
            f"Training made the attacker worse: it errs in {trained_eer.value:.1%} of the cases and the untrained one "
            f"in {untrained_eer.value:.1%}, so its failing proves nothing.",
        )
    return ()


def refuse_training_overlap(training_speakers: Labels, attacked_speakers: Labels) -> None:
    """Raise ValueError, with the number, when an attacker was trained on people it attacks: the classic leak."""
    shared = set(np.unique(np.asarray(training_speakers))) & set(np.unique(np.asarray(attacked_speakers)))
    if shared:
        raise ValueError(f"{len(shared)} speakers are both in the attacker's training corpus and in the trials")


def speakers_needed(estimate: Estimate, bound: float) -> int | None:
    """Return about how many speakers would bring the interval off the bound; None where no number would.

    An interval shrinks with the square root of the number of speakers, so its arm towards the bound must shrink to
    the distance of the value from it: n (arm / distance)^2, assuming that the value stays what it is. `estimate.n`
    must count speakers.
    """
    distance = abs(estimate.value - bound)
    if distance == 0 or not math.isfinite(distance):
        return None
    arm = estimate.upper - estimate.value if bound > estimate.value else estimate.value - estimate.lower
    return max(estimate.n, math.ceil(estimate.n * (arm / distance) ** 2))
