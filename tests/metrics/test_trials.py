"""Trials: the split, the cosine, and what is refused."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metrics.trials import Trials, cosine_trials, matrix_trials, score_matrix, split_enrolment_trial


def test_each_speaker_gives_half_to_enrolment_and_half_to_trial() -> None:
    utt_ids = [f"{speaker}-{number}" for speaker in ("a", "b", "c") for number in range(5)]
    split = split_enrolment_trial(utt_ids, [name[0] for name in utt_ids], seed=1)
    assert sorted([*split.enrolment, *split.trial]) == list(range(15))
    assert [sum(utt_ids[row][0] == speaker for row in split.enrolment) for speaker in "abc"] == [2, 2, 2]
    assert split.excluded_speakers == ()


def test_a_speaker_with_one_utterance_is_excluded_and_named() -> None:
    split = split_enrolment_trial(["a1", "a2", "b1"], ["a", "a", "b"], seed=1)
    assert split.excluded_speakers == ("b",)
    assert 2 not in split.enrolment
    assert 2 not in split.trial


@given(st.permutations(range(12)))
def test_the_split_depends_neither_on_order_nor_on_other_speakers(order: list[int]) -> None:
    utt_ids = [f"u{row}" for row in range(12)]
    speakers = ["abc"[row % 3] for row in range(12)]
    whole = split_enrolment_trial(utt_ids, speakers, seed=7)
    enrolled = {utt_ids[row] for row in whole.enrolment if speakers[row] == "a"}
    kept = [row for row in order if speakers[row] != "b"]
    part = split_enrolment_trial([utt_ids[row] for row in kept], [speakers[row] for row in kept], seed=7)
    assert {utt_ids[kept[row]] for row in part.enrolment if speakers[kept[row]] == "a"} == enrolled


def test_another_seed_gives_another_split() -> None:
    utt_ids = [f"u{row}" for row in range(40)]
    first, second = (split_enrolment_trial(utt_ids, ["a"] * 40, seed).enrolment for seed in (1, 2))
    assert not np.array_equal(first, second)


def test_a_name_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="twice"):
        split_enrolment_trial(["u", "u"], ["a", "a"], seed=0)


def test_cosine_trials_score_each_utterance_against_each_speakers_mean_direction() -> None:
    enrolment = [[3.0, 0.0], [0.0, 0.5], [0.0, 2.0], [1.0, 1.0]]
    trials = cosine_trials(enrolment, ["a", "a", "b", "b"], [[1.0, 0.0], [0.0, 5.0]], ["a", "b"])
    mean_b = np.array([0.5**0.5, 1 + 0.5**0.5])
    mean_b /= np.linalg.norm(mean_b)
    assert trials.scores == pytest.approx([0.5**0.5, 0.5**0.5, mean_b[0], mean_b[1]])
    assert trials.enrolment_speaker.tolist() == ["a", "a", "b", "b"]
    assert trials.trial_speaker.tolist() == ["a", "b", "a", "b"]
    assert trials.mated.tolist() == [True, False, False, True]


def test_a_score_matrix_survives_shuffling_and_drops_strangers() -> None:
    scores = np.arange(12.0).reshape(3, 4)
    trials = matrix_trials(scores, ["a", "b", "c"], ["a", "b", "x", "c"])
    order = np.random.default_rng(0).permutation(12)
    shuffled = Trials(
        trials.scores[order],
        trials.enrolment_speaker[order],
        trials.trial_speaker[order],
        trials.trial_utterance[order] if trials.trial_utterance is not None else None,
    )
    matrix = score_matrix(shuffled)
    assert np.array_equal(matrix.scores, scores[:, [0, 1, 3]])
    assert matrix.trial_speakers.tolist() == ["a", "b", "c"]
    with pytest.raises(ValueError, match="every enrolled speaker exactly once"):
        score_matrix(trials.select(np.arange(12) != 5))


@pytest.mark.parametrize(
    ("scores", "enrolled", "tried", "message"),
    [
        ([0.1, np.nan], ["a", "a"], ["a", "b"], "not finite"),
        ([0.1, 0.2], ["a", "a"], ["b", "c"], "no mated trial"),
        ([0.1, 0.2], ["a", "b"], ["a", "b"], "no non-mated trial"),
        ([0.1], ["a", "b"], ["a", "b"], "lengths differ"),
    ],
)
def test_trials_that_cannot_be_scored_are_refused(scores: list, enrolled: list, tried: list, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Trials(np.array(scores), np.array(enrolled), np.array(tried))


def test_a_zero_embedding_is_refused() -> None:
    with pytest.raises(ValueError, match="all zeros"):
        cosine_trials([[1.0, 0.0], [0.0, 0.0]], ["a", "b"], [[1.0, 0.0]], ["a"])


def test_whole_sessions_are_dealt_to_one_side() -> None:
    utt_ids, speakers = [f"u{row}" for row in range(24)], ["a"] * 12 + ["b"] * 12
    sessions = [f"day {row % 4}" for row in range(24)]
    split = split_enrolment_trial(utt_ids, speakers, 0, sessions)
    for own in ("a", "b"):
        known, tried = (
            [sessions[row] for row in rows if speakers[row] == own] for rows in (split.enrolment, split.trial)
        )
        assert len(known) == len(tried) == 6
        assert not set(known) & set(tried)


def test_a_speaker_of_one_session_is_split_by_utterance_all_the_same() -> None:
    split = split_enrolment_trial(["u0", "u1", "u2", "u3"], ["a"] * 4, 0, ["day 0"] * 4)
    assert (split.enrolment.size, split.trial.size) == (2, 2)


def test_utterances_without_a_session_are_dealt_as_ever() -> None:
    utt_ids, speakers = [f"u{row}" for row in range(9)], ["a"] * 9
    plain, unnamed = (split_enrolment_trial(utt_ids, speakers, 3, sessions) for sessions in (None, [None] * 9))
    np.testing.assert_array_equal(plain.enrolment, unnamed.enrolment)
