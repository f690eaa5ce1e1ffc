"""Singling out, the GDPR criterion: can an attacker write a rule that fits exactly one person among N?

A wrapper around `legal_eval` (Vauquier et al., Interspeech 2025; the predicate framework of Cohen and Nissim 2020). The
rule is "scores higher than a threshold against my enrolled speaker"; the threshold is set on other utterances of the
same N people so that one in N passes. What is added is that any attacker's scores may be used, and the interval.
"""

from collections.abc import Sequence

import numpy as np
from legal_eval.embeddings import build_conversations
from legal_eval.metrics import ConversationScores
from legal_eval.metrics import singling_out as legal_singling_out

from metrics.estimate import Estimate, distrust
from metrics.intervals import DRAWS, fraction_estimate
from metrics.linkability import POPULATIONS
from metrics.trials import ScoreMatrix, Trials, degenerate_scores, score_matrix

FOLDS = 10  # different choices of the utterance that is tested, as in the paper
SETS = 5  # random sets of N people for each enrolled speaker and fold, as in the paper
ENOUGH_SETS = 500  # a fold; corpora of more than a hundred speakers need fewer sets each for the same sampling noise


def singling_out(
    trials: Trials, seed: int, populations: Sequence[int] = POPULATIONS, draws: int = DRAWS
) -> dict[int, Estimate]:
    """Estimate, for each population that the corpus allows, how often an attacker isolates exactly one person.

    Each fold tests one utterance a person and calibrates on up to nine others of the same people. Speakers with fewer
    than two trial utterances take no part; populations larger than the number of those who do are left out. `n` counts
    enrolled speakers, whose rules the interval resamples.
    Raises ValueError as `metrics.trials.score_matrix` does, or when no speaker has two trial utterances.
    """
    matrix = score_matrix(trials)
    outcomes: dict[int, dict[str, list[int]]] = {}
    sets = max(1, min(SETS, ENOUGH_SETS // matrix.enrolment_speakers.size))
    for fold in range(FOLDS):
        scores = split_utterances(matrix, seed, fold)
        for population in populations:
            if 2 <= population <= len(scores.dataset_speakers):
                fold_outcomes = legal_singling_out(scores, population, n_runs=sets, seed=seed, fold=fold)
                for speaker, isolated in fold_outcomes.items():
                    outcomes.setdefault(population, {}).setdefault(speaker, []).extend(isolated)
    broken = degenerate_scores(trials)
    return {
        population: distrust(
            fraction_estimate([float(np.mean(own)) for own in by_speaker.values()], list(by_speaker), seed, draws),
            broken,
        )
        for population, by_speaker in outcomes.items()
    }


def split_utterances(matrix: ScoreMatrix, seed: int, fold: int) -> ConversationScores:
    """Split each speaker's trial utterances into one tested and up to nine that set thresholds, by `legal_eval`."""
    utterances_of: dict[str, list[str]] = {}
    for column, speaker in enumerate(matrix.trial_speakers):
        utterances_of.setdefault(str(speaker), []).append(str(column))
    # A conversation of one utterance keeps its embedding as it is, so a column number can stand in for one.
    columns = {str(column): np.array([column]) for column in range(matrix.trial_speakers.size)}
    conversations = build_conversations(utterances_of, columns, conversation_length=1, seed=seed, fold=fold)
    if not conversations:
        raise ValueError("no speaker has two trial utterances, one to test and one to set the threshold with")
    tested = [int(conversation.test[0]) for conversation in conversations.values()]
    calibration = [[int(kept[0]) for kept in conversation.calibration] for conversation in conversations.values()]
    ends = np.cumsum([len(block) for block in calibration])
    return ConversationScores(
        enroll_speakers=[str(speaker) for speaker in matrix.enrolment_speakers],
        dataset_speakers=list(conversations),
        test_scores=matrix.scores[:, tested],
        calibration_scores=matrix.scores[:, [column for block in calibration for column in block]],
        calibration_slices=[(int(end) - len(block), int(end)) for end, block in zip(ends, calibration, strict=True)],
    )
