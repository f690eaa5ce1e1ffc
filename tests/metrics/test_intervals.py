"""Intervals resample speakers: against a loop that does so literally, and against the truth of simulated corpora."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metrics.intervals import draw_speakers, fraction_estimate, interval_tails, ratio_estimate


def test_ratio_interval_equals_literal_resampling_of_the_rows() -> None:
    generator = np.random.default_rng(1)
    speakers = generator.integers(0, 7, 60)
    errors, words = generator.integers(0, 5, 60), generator.integers(1, 20, 60)
    estimate = ratio_estimate(errors, words, speakers, seed=3)
    names = np.unique(speakers)
    literal = []
    for counts in draw_speakers(names.size, seed=3).astype(int):
        rows = np.concatenate([np.flatnonzero(speakers == name) for name in np.repeat(names, counts)])
        literal.append(errors[rows].sum() / words[rows].sum())
    assert estimate.value == errors.sum() / words.sum()
    assert (estimate.lower, estimate.upper) == pytest.approx(tuple(np.quantile(literal, interval_tails(7))), abs=1e-12)
    assert estimate.n == 7


def test_interval_covers_the_truth_where_resampling_utterances_would_not() -> None:
    """30 speakers of 20 utterances whose own rates vary: 95 % nominal. 200 corpora give a standard error of 1.8 %."""
    generator = np.random.default_rng(0)
    by_speaker = by_utterance = 0
    for corpus in range(200):
        rates = generator.beta(4, 6, 30)  # mean 0.4
        values = (generator.random((30, 20)) < rates[:, None]).astype(float).ravel()
        honest = fraction_estimate(values, np.repeat(np.arange(30), 20), seed=corpus, draws=200)
        naive = fraction_estimate(values, np.arange(600), seed=corpus, draws=200)
        by_speaker += honest.lower <= 0.4 <= honest.upper
        by_utterance += naive.lower <= 0.4 <= naive.upper
    assert by_speaker / 200 > 0.88
    assert by_utterance / 200 < 0.80


def test_ten_speakers_of_one_value_each_are_covered_as_often_as_promised() -> None:
    """Normal values, the case of Student's t: plain percentiles cover 91 %; 400 corpora leave an error of 1.1 %."""
    values = np.random.default_rng(1).normal(size=(400, 10))
    intervals = [ratio_estimate(own, np.ones(10), np.arange(10), seed) for seed, own in enumerate(values)]
    assert np.mean([interval.lower <= 0 <= interval.upper for interval in intervals]) == pytest.approx(0.95, abs=0.03)


def test_tails_approach_the_nominal_ones() -> None:
    assert interval_tails(10) == (pytest.approx(0.0086, abs=1e-4), pytest.approx(0.9914, abs=1e-4))
    assert interval_tails(100_000)[0] == pytest.approx(0.025, abs=1e-4)


def test_no_success_among_ten_speakers_still_allows_31_per_cent() -> None:
    none = fraction_estimate(np.zeros(50), np.arange(50) % 10, seed=0)
    assert (none.value, none.lower) == (0.0, 0.0)
    assert none.upper == pytest.approx(1 - 0.025 ** (1 / 10))
    every = fraction_estimate(np.ones(50), np.arange(50) % 10, seed=0)
    assert (every.lower, every.upper) == (pytest.approx(0.025 ** (1 / 10)), 1.0)


def test_one_speaker_proves_nothing() -> None:
    estimate = fraction_estimate([0.0, 1.0, 1.0], ["ann"] * 3, seed=0)
    assert not estimate.trustworthy
    assert "one speaker" in estimate.reasons[0]


@given(st.integers(2, 40), st.integers(0, 2**32))
def test_every_draw_holds_as_many_speakers_as_there_are(speakers: int, seed: int) -> None:
    weights = draw_speakers(speakers, seed, draws=20)
    assert (weights.sum(axis=1) == speakers).all()
    assert np.array_equal(weights, draw_speakers(speakers, seed, draws=20))


@pytest.mark.parametrize(
    ("numerators", "denominators", "speakers", "message"),
    [
        ([np.nan, 1.0], [1, 1], ["a", "b"], "not finite"),
        ([1.0, 1.0], [1, np.inf], ["a", "b"], "not finite"),
        ([1.0], [1, 1], ["a", "b"], "lengths differ: numerators 1"),
        ([0.0, 0.0], [0, 0], ["a", "b"], "add up to zero"),
        ([], [], [], "no items"),
    ],
)
def test_bad_numbers_are_refused(numerators: list, denominators: list, speakers: list, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ratio_estimate(numerators, denominators, speakers, seed=0)
