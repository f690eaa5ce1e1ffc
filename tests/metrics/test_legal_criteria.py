"""Linkability and singling out: against `legal_eval` itself, at chance, and for attackers who know everything."""

import numpy as np
import pytest
from legal_eval import build_conversations
from legal_eval import singling_out as legal_singling_out
from legal_eval.io import ScoreMatrix
from legal_eval.metrics import linkability_naive, score_conversations
from scipy.stats import beta

from metrics.chance import linkability_chance, singling_out_chance
from metrics.linkability import linkability
from metrics.singling_out import singling_out, split_utterances
from metrics.trials import Trials, cosine_trials, matrix_trials, score_matrix


def speaker_trials(speakers: int, utterances: int, noise: float, seed: int) -> Trials:
    """Gaussian speakers in 16 dimensions, as many utterances for enrolment as for trial."""
    generator = np.random.default_rng(seed)
    centres = generator.normal(size=(speakers, 1, 16))
    enrolment, trial = (
        (centres + noise * generator.normal(size=(speakers, utterances, 16))).reshape(-1, 16) for _ in range(2)
    )
    names = np.repeat([f"s{number:02}" for number in range(speakers)], utterances)
    return cosine_trials(enrolment, names, trial, names)


def guessed_trials(speakers: int, utterances: int, seed: int) -> Trials:
    scores = np.random.default_rng(seed).normal(size=(speakers, speakers * utterances))
    return matrix_trials(scores, np.arange(speakers), np.repeat(np.arange(speakers), utterances))


def test_linkability_equals_the_literal_sampling_of_candidates() -> None:
    """5 utterances of 20 speakers, 100 candidate sets each: a standard error of 0.005 at the most."""
    trials = speaker_trials(20, 5, noise=2.0, seed=0)
    matrix = score_matrix(trials)
    legal = ScoreMatrix(matrix.scores, list(matrix.enrolment_speakers), list(matrix.trial_speakers), {})
    ours = linkability(trials, seed=0, populations=(2, 5, 20))
    for population, estimate in ours.items():
        assert estimate.value == pytest.approx(np.mean(linkability_naive(legal, population, n_runs=100)), abs=0.02)
        assert estimate.lower < estimate.value < estimate.upper
        assert estimate.n == 20


def test_linkability_falls_with_the_population_and_stops_at_the_corpus() -> None:
    estimates = linkability(speaker_trials(12, 4, noise=2.0, seed=1), seed=0)
    assert list(estimates) == [2, 5, 10]
    values = [estimate.value for estimate in estimates.values()]
    assert values == sorted(values, reverse=True)


def test_a_guessing_attacker_links_at_chance() -> None:
    estimates = linkability(guessed_trials(20, 20, seed=2), seed=0)
    for population, estimate in estimates.items():
        assert estimate.lower <= linkability_chance(population) <= estimate.upper


def test_a_guessing_attacker_singles_out_at_chance() -> None:
    """Nine utterances a person place the threshold with some noise, which costs a guesser a little.

    The share p that lies above a threshold between the 9th and 10th of 9 N scores is about Beta(9.5, 9 N - 8.5), and a
    guesser isolates with E[N p (1 - p)^(N - 1)].
    """
    for population, estimate in singling_out(guessed_trials(50, 12, seed=3), seed=0, populations=(2, 10)).items():
        share = np.linspace(0, 1, 20_001)
        density = beta.pdf(share, 9.5, 9 * population - 8.5)
        noisy_chance = np.trapezoid(density * population * share * (1 - share) ** (population - 1), share)
        assert estimate.value == pytest.approx(noisy_chance, abs=0.03)
        assert noisy_chance == pytest.approx(singling_out_chance(population), abs=0.03)


def test_a_perfect_attacker_links_and_singles_out_everybody() -> None:
    trials = speaker_trials(12, 4, noise=0.01, seed=4)
    linked, isolated = linkability(trials, seed=0), singling_out(trials, seed=0)
    assert [estimate.value for estimate in linked.values()] == [1.0, 1.0, 1.0]
    assert all(estimate.value > 0.9 for estimate in isolated.values())
    assert linked[10].lower == pytest.approx(0.025 ** (1 / 12))


def test_singling_out_equals_the_packages_on_embeddings() -> None:
    """The same conversations and seeds through `legal_eval` with embeddings instead of a score matrix."""
    generator = np.random.default_rng(5)
    centres = generator.normal(size=(9, 1, 8))
    enrolled = (centres + generator.normal(size=(9, 1, 8)))[:, 0]
    tried = (centres + generator.normal(size=(9, 6, 8))).reshape(-1, 8)
    names = [f"s{number}" for number in range(9)]
    trials = cosine_trials(enrolled, names, tried, np.repeat(names, 6))
    matrix = score_matrix(trials)
    utterances = {name: [str(6 * row + column) for column in range(6)] for row, name in enumerate(names)}
    embeddings = {str(column): vector for column, vector in enumerate(tried)}
    for fold in (0, 3):
        conversations = build_conversations(utterances, embeddings, conversation_length=1, seed=7, fold=fold)
        package = score_conversations(dict(zip(names, enrolled, strict=True)), conversations)
        ours = split_utterances(matrix, seed=7, fold=fold)
        assert np.allclose(ours.test_scores, package.test_scores)
        assert np.allclose(ours.calibration_scores, package.calibration_scores)
        assert legal_singling_out(ours, 5, seed=7, fold=fold) == legal_singling_out(package, 5, seed=7, fold=fold)


def test_chance_of_singling_out_falls_to_the_published_37_per_cent() -> None:
    assert singling_out_chance(2) == 0.5
    assert singling_out_chance(100_000) == pytest.approx(np.exp(-1), abs=1e-5)


def test_equal_scores_are_not_to_be_trusted() -> None:
    trials = matrix_trials(np.zeros((4, 8)), np.arange(4), np.repeat(np.arange(4), 2))
    for estimate in (*linkability(trials, seed=0).values(), *singling_out(trials, seed=0).values()):
        assert not estimate.trustworthy


def test_one_trial_utterance_a_speaker_cannot_be_singled_out() -> None:
    with pytest.raises(ValueError, match="two trial utterances"):
        singling_out(guessed_trials(5, 1, seed=0), seed=0)
