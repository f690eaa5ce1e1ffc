"""Verification metrics against analytic values, other people's implementations and brute force."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from legal_eval import rocch_eer
from scipy.special import ndtr
from sklearn.metrics import roc_curve

from metrics.intervals import draw_speakers
from metrics.trials import Trials, matrix_trials
from metrics.verification import (
    cllr,
    det_points,
    eer,
    evaluate_verification,
    min_cllr,
    resample_cllr,
    resample_hulls,
)


def gaussian_trials(separation: float, speakers: int, utterances: int, seed: int, steps: int | None = None) -> Trials:
    """Independent unit-variance scores, mated ones `separation` higher; rounded to `steps` a unit to make ties."""
    generator = np.random.default_rng(seed)
    tried = np.repeat(np.arange(speakers), utterances)
    scores = generator.normal(separation * (np.arange(speakers)[:, None] == tried[None]), 1.0)
    return matrix_trials(scores if steps is None else np.round(scores * steps) / steps, np.arange(speakers), tried)


def two_sided(mated: list[float], nonmated: list[float]) -> Trials:
    """Trials of speaker 0 with the given mated scores, and of speaker 1 tried against speaker 0."""
    scores = np.array([*mated, *nonmated])
    return Trials(scores, np.zeros(scores.size, int), np.array([0] * len(mated) + [1] * len(nonmated)))


score_lists = st.lists(st.integers(-5, 5).map(float), min_size=1, max_size=25)


@pytest.mark.parametrize("separation", [0.5, 1.0, 2.0, 3.0])
def test_eer_of_two_gaussians_is_analytic(separation: float) -> None:
    """Unit Gaussians cross at Phi(-separation / 2); 160,000 trials, of them 4,000 mated, leave about 0.005 of noise."""
    assert eer(gaussian_trials(separation, 40, 100, seed=1)) == pytest.approx(ndtr(-separation / 2), abs=0.015)


@given(score_lists, score_lists)
def test_eer_equals_the_legal_packages(mated: list[float], nonmated: list[float]) -> None:
    assert eer(two_sided(mated, nonmated)) == pytest.approx(rocch_eer(mated, nonmated), abs=1e-12)


@given(score_lists, score_lists)
def test_eer_equals_brute_force_over_randomised_rules(mated: list[float], nonmated: list[float]) -> None:
    """The least max(misses, false alarms) that mixing any two thresholds reaches."""
    own, others = np.array(mated), np.array(nonmated)
    thresholds = [*np.unique([*mated, *nonmated]), np.inf]
    points = [((own < t).mean(), (others >= t).mean()) for t in thresholds]
    best = min(max(point) for point in points)
    for (miss_a, alarm_a), (miss_b, alarm_b) in itertools.combinations(points, 2):
        gap_a, gap_b = miss_a - alarm_a, miss_b - alarm_b
        if gap_a * gap_b < 0:
            best = min(best, miss_a + (miss_b - miss_a) * gap_a / (gap_a - gap_b))
    assert eer(two_sided(mated, nonmated)) == pytest.approx(best, abs=1e-12)


def test_det_points_lie_on_sklearns_roc() -> None:
    trials = gaussian_trials(1.0, 10, 8, seed=2, steps=5)
    mated, nonmated = trials.scores[trials.mated], trials.scores[~trials.mated]
    false_alarms, misses = det_points(mated, nonmated, limit=10_000)
    fpr, tpr, _ = roc_curve(trials.mated, trials.scores, drop_intermediate=False)
    known = {(round(a, 12), round(1 - b, 12)) for a, b in zip(fpr, tpr, strict=True)}
    assert {(round(a, 12), round(b, 12)) for a, b in zip(false_alarms, misses, strict=True)} == known
    assert (false_alarms[0], misses[0], false_alarms[-1], misses[-1]) == (1.0, 0.0, 0.0, 1.0)
    thinned = det_points(mated, nonmated, limit=7)
    assert len(thinned[0]) == 8
    assert (thinned[0][0], thinned[1][0], thinned[0][-1], thinned[1][-1]) == (1.0, 0.0, 0.0, 1.0)


@given(score_lists, score_lists)
def test_min_cllr_is_the_least_cost_of_monotone_calibrations(mated: list[float], nonmated: list[float]) -> None:
    """Against sklearn's isotonic regression with the prior of the classes made equal by weights."""
    from sklearn.isotonic import IsotonicRegression

    labels = np.array([1.0] * len(mated) + [0.0] * len(nonmated))
    weights = np.where(labels == 1, 1 / len(mated), 1 / len(nonmated))
    posterior = IsotonicRegression(y_min=0, y_max=1).fit([*mated, *nonmated], labels, weights)
    own, others = posterior.predict(np.array(mated)), posterior.predict(np.array(nonmated))
    expected = (-np.log2(own).mean() - np.log2(1 - others).mean()) / 2
    assert min_cllr(two_sided(mated, nonmated)) == pytest.approx(expected, abs=1e-9)


def test_cllr_of_calibrated_likelihood_ratios_is_near_its_minimum() -> None:
    """Scores of unit Gaussians at +-d/2 become natural-log likelihood ratios when multiplied by d."""
    trials = gaussian_trials(2.0, 30, 60, seed=3)
    ratios = Trials(2.0 * (trials.scores - 1.0), trials.enrolment_speaker, trials.trial_speaker)
    assert cllr(ratios) == pytest.approx(min_cllr(ratios), abs=0.01)
    assert cllr(ratios) >= min_cllr(ratios)
    silent = Trials(np.zeros(3), np.array([0, 0, 1]), np.array([0, 1, 0]))
    assert cllr(silent) == pytest.approx(1.0)


@given(st.integers(0, 1000), st.sampled_from([np.exp, np.arctan, lambda scores: scores**3 - 7]))
def test_eer_and_min_cllr_do_not_see_a_monotone_map(seed: int, mapping: np.ufunc) -> None:
    trials = gaussian_trials(1.0, 5, 4, seed, steps=3)
    mapped = Trials(mapping(trials.scores), trials.enrolment_speaker, trials.trial_speaker)
    assert eer(mapped) == pytest.approx(eer(trials), abs=1e-12)
    assert min_cllr(mapped) == pytest.approx(min_cllr(trials), abs=1e-12)


@pytest.mark.parametrize("steps", [None, 2])
def test_weights_of_one_give_the_point_values(steps: int | None) -> None:
    trials = gaussian_trials(1.0, 12, 6, seed=4, steps=steps)
    arrays = (trials.scores, trials.mated, trials.enrolment_speaker, trials.trial_speaker, np.ones((1, 12)))
    eers, min_cllrs = resample_hulls(*arrays)
    assert eers[0] == eer(trials)
    assert min_cllrs[0] == min_cllr(trials)
    assert resample_cllr(*arrays)[0] == pytest.approx(cllr(trials), abs=1e-12)


@settings(max_examples=15)
@given(st.integers(0, 1000), st.sampled_from([None, 2]))
def test_a_draw_equals_trials_literally_repeated(seed: int, steps: int | None) -> None:
    """A speaker drawn w times: mated trials stand w times, a non-mated trial as often as both speakers' product."""
    trials = gaussian_trials(1.0, 6, 5, seed, steps)
    weights = draw_speakers(6, seed, draws=3)
    arrays = (trials.scores, trials.mated, trials.enrolment_speaker, trials.trial_speaker, weights)
    eers, min_cllrs = resample_hulls(*arrays)
    cllrs = resample_cllr(*arrays)
    for draw, counts in enumerate(weights.astype(int)):
        own, tried = counts[trials.enrolment_speaker], counts[trials.trial_speaker]
        rows = np.repeat(np.arange(trials.scores.size), np.where(trials.mated, own, own * tried))
        if np.count_nonzero(counts) < 2:
            assert np.isnan(eers[draw])
            continue
        repeated = Trials(trials.scores[rows], trials.enrolment_speaker[rows], trials.trial_speaker[rows])
        assert eers[draw] == pytest.approx(eer(repeated), abs=1e-12)
        assert min_cllrs[draw] == pytest.approx(min_cllr(repeated), abs=1e-12)
        assert cllrs[draw] == pytest.approx(cllr(repeated), abs=1e-12)


def test_many_draws_and_bins_are_weighed_in_pieces_without_loss() -> None:
    """More trials and draws than one piece of the computation holds."""
    trials = gaussian_trials(1.0, 30, 8, seed=5)
    weights = draw_speakers(30, 5, draws=300)
    arrays = (trials.scores, trials.mated, trials.enrolment_speaker, trials.trial_speaker)
    eers, _ = resample_hulls(*arrays, weights)
    for draw in (0, 255, 256, 299):
        assert eers[draw] == resample_hulls(*arrays, weights[draw : draw + 1])[0][0]


def test_an_attacker_who_guesses_scores_chance_within_the_interval() -> None:
    """The hull flatters a guess: of 40 guessers, at least 34 (nominal 38) must have 0.5 and 1 in their intervals."""
    results = [evaluate_verification(gaussian_trials(0.0, 12, 5, seed), seed, draws=200) for seed in range(40)]
    assert sum(result["eer"].upper == 0.5 for result in results) >= 34
    assert sum(result["min_cllr"].upper == 1.0 for result in results) >= 34


def test_a_perfect_attacker_scores_zero() -> None:
    result = evaluate_verification(gaussian_trials(50.0, 12, 4, seed=0), seed=0)
    assert (result["eer"].value, result["eer"].upper) == (0.0, 0.0)
    assert result["min_cllr"].value == 0.0
    assert result["eer"].trustworthy
    assert result["eer"].n == 12


def test_equal_scores_are_chance_and_not_to_be_trusted() -> None:
    trials = matrix_trials(np.full((4, 8), 0.3), np.arange(4), np.repeat(np.arange(4), 2))
    result = evaluate_verification(trials, seed=0)
    assert result["eer"].value == 0.5
    assert result["min_cllr"].value == 1.0
    assert all(not estimate.trustworthy for estimate in result.values())
    assert "All scores are equal" in result["eer"].reasons[0]


def test_the_same_seed_gives_the_same_interval() -> None:
    trials = gaussian_trials(1.0, 8, 4, seed=6)
    assert evaluate_verification(trials, seed=1) == evaluate_verification(trials, seed=1)
    assert evaluate_verification(trials, seed=1)["eer"].lower != evaluate_verification(trials, seed=2)["eer"].lower
