"""Verification trials: who is compared with whom, and how alike the attacker finds them.

Speakers are enrolled with the mean of their enrolment utterances; every other utterance is a trial against every
enrolled speaker. Nothing here knows which network made the embeddings or how the speech was anonymized.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from metrics.intervals import FloatArray, IntArray, Labels, encode_speakers, finite, same_length


@dataclass(frozen=True, eq=False)
class Trials:
    """N comparisons of an enrolled speaker with a trial utterance; a trial is mated when both are the same person.

    `scores` [N] grow with likeness; for `cllr` they are natural-log likelihood ratios. Speakers [N] are names or
    integer codes (much faster for millions). `trial_utterance` [N] says which utterance was tried, with any code;
    linkability and singling out need it, the equal error rate does not.
    Raises ValueError when lengths differ, a score is not finite, or there is no mated or no non-mated trial.
    """

    scores: FloatArray
    enrolment_speaker: NDArray
    trial_speaker: NDArray
    trial_utterance: NDArray | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "scores", finite("scores", self.scores))
        object.__setattr__(self, "enrolment_speaker", np.asarray(self.enrolment_speaker))
        object.__setattr__(self, "trial_speaker", np.asarray(self.trial_speaker))
        same_length(scores=self.scores, enrolment_speaker=self.enrolment_speaker, trial_speaker=self.trial_speaker)
        if self.trial_utterance is not None:
            object.__setattr__(self, "trial_utterance", np.asarray(self.trial_utterance))
            same_length(scores=self.scores, trial_utterance=self.trial_utterance)
        if not self.mated.any():
            raise ValueError("no mated trial: no speaker is in both enrolment and trial")
        if self.mated.all():
            raise ValueError("no non-mated trial: at least two speakers are needed")

    @property
    def mated(self) -> NDArray[np.bool_]:
        """Whether enrolment and trial are the same speaker [N]."""
        return np.asarray(self.enrolment_speaker == self.trial_speaker)

    def select(self, keep: NDArray[np.bool_]) -> "Trials":
        """Return the trials where `keep` [N] is true, for example those within one gender."""
        utterance = None if self.trial_utterance is None else self.trial_utterance[keep]
        return Trials(self.scores[keep], self.enrolment_speaker[keep], self.trial_speaker[keep], utterance)


def degenerate_scores(trials: Trials) -> tuple[str, ...]:
    """Say why the scores could never tell people apart: over half of them are one and the same number."""
    _, counts = np.unique(trials.scores, return_counts=True)
    if counts.max() == trials.scores.size:
        return ("All scores are equal: the attacker does not tell anybody from anybody.",)
    if counts.max() > trials.scores.size / 2:
        return (f"{counts.max()} of {trials.scores.size} scores are the same number: the attacker is broken.",)
    return ()


@dataclass(frozen=True, eq=False)
class EnrolmentTrialSplit:
    """Row numbers of the enrolment and of the trial utterances, and the speakers that could give only one side."""

    enrolment: IntArray
    trial: IntArray
    excluded_speakers: tuple[str, ...]


def split_enrolment_trial(
    utt_ids: Sequence[str], speakers: Sequence[str], seed: int, sessions: Sequence[str | None] | None = None
) -> EnrolmentTrialSplit:
    """Give half of each speaker's utterances to enrolment and half to trial (the odd one too).

    Utterances are ordered by a hash of their name keyed with `seed`, so a speaker's halves depend on nothing but that
    speaker's own utterances: adding or removing other people moves nothing. Where recording `sessions` are named, whole
    sessions are dealt out, so that the room tells nothing; a speaker of one session has only utterances to be dealt,
    which `validity.session_overlap` finds. Speakers with one utterance are excluded.
    Raises ValueError for a name that stands twice.
    """
    same_length(utt_ids=utt_ids, speakers=speakers)
    if len(set(utt_ids)) != len(utt_ids):
        raise ValueError("utt_ids hold a name twice")
    named = [None] * len(utt_ids) if sessions is None else list(sessions)
    same_length(utt_ids=utt_ids, sessions=named)
    key = hashlib.sha256(str(seed).encode()).digest()
    rows: dict[str, list[int]] = {}
    for row, speaker in enumerate(speakers):
        rows.setdefault(speaker, []).append(row)
    enrolment: list[int] = []
    trial: list[int] = []
    for own in rows.values():
        if len(own) < 2:
            continue
        by_session = [utt_ids[row] if named[row] is None else f"session {named[row]}" for row in own]
        units = by_session if len(set(by_session)) > 1 else [utt_ids[row] for row in own]
        ordered = sorted(set(units), key=lambda unit: hashlib.blake2b(unit.encode(), key=key).digest())
        known = set(ordered[: len(ordered) // 2])
        for row, unit in zip(own, units, strict=True):
            (enrolment if unit in known else trial).append(row)
    excluded = tuple(sorted(speaker for speaker, own in rows.items() if len(own) < 2))
    return EnrolmentTrialSplit(np.sort(np.array(enrolment, np.int64)), np.sort(np.array(trial, np.int64)), excluded)


def unit_length(embeddings: ArrayLike) -> FloatArray:
    """Scale every embedding of [N, D] to length 1. Raises ValueError for one that is zero or not finite."""
    array = finite("embeddings", embeddings)
    if array.ndim != 2:
        raise ValueError(f"embeddings must be [N, D], got shape {array.shape}")
    norms = np.linalg.norm(array, axis=1, keepdims=True)
    if (norms == 0).any():
        raise ValueError(f"{np.count_nonzero(norms == 0)} embeddings are all zeros: they point nowhere")
    return array / norms


def enrol_speakers(embeddings: ArrayLike, speakers: Labels) -> tuple[FloatArray, NDArray]:
    """Average each speaker's unit-length embeddings [M, D] and scale the mean to length 1.

    Returns the enrolled embeddings [S, D] and the speakers [S] in sorted order.
    """
    units = unit_length(embeddings)
    same_length(embeddings=units, speakers=speakers)
    names, codes = encode_speakers(speakers)
    sums = np.zeros((names.size, units.shape[1]))
    np.add.at(sums, codes, units)
    return unit_length(sums), names


def matrix_trials(
    scores: ArrayLike, enrolment_speakers: Labels, trial_speakers: Labels, trial_utterances: Labels | None = None
) -> Trials:
    """Make trials from a score matrix [S, K]: every enrolled speaker [S] against every trial utterance [K]."""
    matrix = np.asarray(scores, dtype=np.float64)
    enrolled, tried = np.asarray(enrolment_speakers), np.asarray(trial_speakers)
    if matrix.shape != (enrolled.size, tried.size):
        raise ValueError(
            f"scores are {matrix.shape}, but {enrolled.size} speakers are tried by {tried.size} utterances"
        )
    utterances = np.arange(tried.size) if trial_utterances is None else np.asarray(trial_utterances)
    return Trials(
        matrix.ravel(),
        np.repeat(enrolled, tried.size),
        np.tile(tried, enrolled.size),
        np.tile(utterances, enrolled.size),
    )


def cosine_trials(
    enrolment_embeddings: ArrayLike, enrolment_speakers: Labels, trial_embeddings: ArrayLike, trial_speakers: Labels
) -> Trials:
    """Compare every trial embedding [K, D] with every enrolled speaker (mean of [M, D]) by their cosine, in [-1, 1].

    Raises ValueError when embeddings are zero or not finite, or when no speaker is on both sides.
    """
    enrolled, names = enrol_speakers(enrolment_embeddings, enrolment_speakers)
    tried = unit_length(trial_embeddings)
    same_length(trial_embeddings=tried, trial_speakers=trial_speakers)
    if enrolled.shape[1] != tried.shape[1]:
        raise ValueError(f"enrolment embeddings have {enrolled.shape[1]} dimensions, trial embeddings {tried.shape[1]}")
    return matrix_trials(enrolled @ tried.T, names, trial_speakers)


@dataclass(frozen=True, eq=False)
class ScoreMatrix:
    """Scores [S, K] of every enrolled speaker [S] against every trial utterance, and who spoke each [K]."""

    scores: FloatArray
    enrolment_speakers: NDArray
    trial_speakers: NDArray


def score_matrix(trials: Trials) -> ScoreMatrix:
    """Arrange trials as a matrix, utterances of speakers who are not enrolled left out.

    Raises ValueError when the trials do not say which utterance they tried, when an utterance was not tried against
    every enrolled speaker exactly once, or when it bears two speakers.
    """
    if trials.trial_utterance is None:
        raise ValueError("these trials do not say which utterance was tried (trial_utterance)")
    enrolled, rows = np.unique(trials.enrolment_speaker, return_inverse=True)
    utterances, first, columns = np.unique(trials.trial_utterance, return_index=True, return_inverse=True)
    tried = trials.trial_speaker[first]
    if not np.array_equal(tried[columns], trials.trial_speaker):
        raise ValueError("a trial utterance bears two speakers")
    cells = rows * utterances.size + columns
    if cells.size != enrolled.size * utterances.size or np.unique(cells).size != cells.size:
        raise ValueError("not every trial utterance was tried against every enrolled speaker exactly once")
    scores = np.empty(cells.size)
    scores[cells] = trials.scores
    known = np.isin(tried, enrolled)
    return ScoreMatrix(scores.reshape(enrolled.size, utterances.size)[:, known], enrolled, tried[known])
