"""Validity: each way in which an attack proves nothing is found and named, and a sound attack is not."""

import numpy as np
import pytest

from metrics.estimate import Estimate, distrust
from metrics.intervals import fraction_estimate
from metrics.trials import Trials, matrix_trials
from metrics.validity import (
    attack_validity,
    refuse_training_overlap,
    session_overlap,
    speakers_needed,
    training_gain,
    training_validity,
)

STRONG = Estimate(0.03, 0.01, 0.05, 20)


def random_trials(speakers: int, utterances: int) -> Trials:
    scores = np.random.default_rng(0).normal(size=(speakers, speakers * utterances))
    return matrix_trials(scores, np.arange(speakers), np.repeat(np.arange(speakers), utterances))


def test_a_sound_attack_has_no_reasons_against_it() -> None:
    assert attack_validity(STRONG, random_trials(12, 5)) == ()


def test_an_attacker_that_errs_on_original_speech_is_weak() -> None:
    (reason,) = attack_validity(Estimate(0.21, 0.1, 0.3, 20), random_trials(12, 5))
    assert "weak: on original speech it errs in 21.0%" in reason
    (unknown,) = attack_validity(Estimate(float("nan"), 0, 0, 0), random_trials(12, 5))
    assert "not known" in unknown


def test_few_speakers_and_few_trials_are_named() -> None:
    few_people, few_trials = attack_validity(STRONG, random_trials(4, 5))
    assert few_people == "Only 4 speakers were attacked; at least 10 are needed."
    assert few_trials == "Only 20 trials compare a person with themselves; at least 30 are needed."


def test_one_utterance_a_speaker_is_named() -> None:
    (reason,) = attack_validity(STRONG, random_trials(40, 1))
    assert reason.startswith("40 of 40 speakers have one trial utterance")


def test_equal_scores_are_named() -> None:
    trials = random_trials(12, 5)
    stuck = Trials(np.zeros(trials.scores.size), trials.enrolment_speaker, trials.trial_speaker)
    assert attack_validity(STRONG, stuck) == ("All scores are equal: the attacker does not tell anybody from anybody.",)
    mostly = Trials(np.where(trials.scores > 1, trials.scores, 0.0), trials.enrolment_speaker, trials.trial_speaker)
    (reason,) = attack_validity(STRONG, mostly)
    assert "scores are the same number" in reason


def test_shared_sessions_are_counted_by_speaker() -> None:
    assert session_overlap(["a", "b"], ["s1", "s1"], ["a", "b"], ["s2", "s3"]) == ()
    (reason,) = session_overlap(["a", "a", "b"], ["s1", "s2", "s1"], ["a", "b", "c"], ["s2", "s3", "s4"])
    assert reason.startswith("1 of 3 speakers")


def test_training_that_was_too_small_or_learnt_nothing_is_named() -> None:
    assert training_validity(50, [3.0, 2.0, 1.0]) == ()
    assert "trained on 5 speakers" in training_validity(5)[0]
    assert "did not fall" in training_validity(50, [2.0, 1.0, 2.0])[0]
    assert "broke down" in training_validity(50, [2.0, float("nan")])[0]


def test_training_on_the_attacked_is_refused() -> None:
    refuse_training_overlap(["a", "b"], ["c", "d"])
    with pytest.raises(ValueError, match="1 speakers are both"):
        refuse_training_overlap(["a", "b"], ["b", "c"])


def test_distrust_adds_reasons_once_and_keeps_the_figure() -> None:
    assert distrust(STRONG, ()) is STRONG
    once = distrust(STRONG, ("Weak.",))
    assert not once.trustworthy
    assert distrust(once, ("Weak.", "Few.")).reasons == ("Weak.", "Few.")
    assert (once.value, once.lower, once.upper, once.n) == (0.03, 0.01, 0.05, 20)


def test_power_says_how_many_more_speakers_are_needed() -> None:
    undecided = Estimate(0.40, 0.20, 0.50, 10)
    assert speakers_needed(undecided, 0.30) == 40


def test_power_is_enough_where_the_interval_is_off_the_bound() -> None:
    decided = Estimate(0.40, 0.35, 0.50, 10)
    assert speakers_needed(decided, 0.30) == 10
    assert speakers_needed(decided, 0.40) is None


def test_the_promised_number_of_speakers_does_bring_the_interval_off_the_bound() -> None:
    """A tenth more than promised, because the second corpus has its own sampling noise."""
    generator = np.random.default_rng(3)
    rates = generator.beta(4, 6, 100_000)
    small = fraction_estimate(rates[:20], np.arange(20), seed=0)
    needed = speakers_needed(small, 0.37)
    assert needed is not None
    assert needed > 20
    more = round(1.1 * needed)
    large = fraction_estimate(rates[:more] - rates[:more].mean() + small.value, np.arange(more), seed=0)
    assert small.lower < 0.37 < small.upper
    assert not large.lower < 0.37 < large.upper


def test_training_may_not_make_an_attacker_clearly_worse() -> None:
    untrained = Estimate(0.30, 0.25, 0.35, 20)
    assert training_gain(untrained, Estimate(0.33, 0.28, 0.38, 20)) == ()
    assert training_gain(untrained, Estimate(0.10, 0.05, 0.15, 20)) == ()
    (reason,) = training_gain(untrained, Estimate(0.45, 0.40, 0.50, 20))
    assert "errs in 45.0% of the cases and the untrained one in 30.0%" in reason
