"""Linkability, the GDPR criterion: can an attacker find the speaker of a recording among N enrolled people?

A wrapper around `legal_eval` (Vauquier et al., "Legally validated evaluation framework for voice anonymization",
Interspeech 2025), whose definition the French data-protection authority validated. What is added is the interval.
"""

from collections.abc import Sequence

import numpy as np
from legal_eval.io import ScoreMatrix as LegalScores
from legal_eval.metrics import count_beaters
from legal_eval.metrics import linkability as legal_linkability

from metrics.estimate import Estimate, distrust
from metrics.intervals import DRAWS, fraction_estimate
from metrics.trials import Trials, degenerate_scores, score_matrix

POPULATIONS = (2, 5, 10, 20, 50, 100, 200, 500, 1000)


def linkability(
    trials: Trials, seed: int, populations: Sequence[int] = POPULATIONS, draws: int = DRAWS
) -> dict[int, Estimate]:
    """Estimate, for each population that the corpus allows, how often an utterance is linked to its own speaker.

    The attacker compares one utterance with its own speaker and population - 1 others drawn without replacement, and
    succeeds when nobody scores higher (a tie counts as success, as in `legal_eval`). The chance over all such draws is
    computed, not sampled. Populations larger than the number of enrolled speakers are left out. `n` counts the speakers
    of the trial utterances, which the interval resamples; the enrolled people are taken as the population.
    Raises ValueError as `metrics.trials.score_matrix` does.
    """
    matrix = score_matrix(trials)
    enrolled = [str(speaker) for speaker in matrix.enrolment_speakers]
    legal = LegalScores(matrix.scores, enrolled, [str(speaker) for speaker in matrix.trial_speakers], {})
    beaters = count_beaters(legal)
    broken = degenerate_scores(trials)
    estimates = {}
    for population in populations:
        if not 2 <= population <= len(enrolled):
            continue
        # The chance depends on nothing but how many people outscore the true speaker; logarithms leave it off by 1e-15.
        chance_by_beaters = np.round(
            [
                legal_linkability(legal, population, estimator="exact", beaters=np.array([count]))[0]
                for count in range(len(enrolled))
            ],
            12,
        )
        estimate = fraction_estimate(chance_by_beaters[beaters], matrix.trial_speakers, seed, draws)
        estimates[population] = distrust(estimate, broken)
    return estimates
