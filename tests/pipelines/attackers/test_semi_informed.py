"""The trained attack on a corpus itself: nobody is compared by who heard them, and what proves nothing is said to."""

import numpy as np
import pytest

from metrics.trials import split_enrolment_trial
from metrics.verification import evaluate_verification
from models.attackers import SpeakerBackend, train_backend
from pipelines.evidence import semi_informed
from pipelines.evidence.semi_informed import (
    MANY_SPEAKERS,
    Listening,
    SemiInformed,
    attack_by_listening,
    attack_in_folds,
    attack_with,
    deal_folds,
    folds_suffice,
)

UTTERANCES = 6


def corpus(speakers: int, voice: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The attacker's and the released embeddings [N, 64] of a corpus, and who spoke [N]; `voice` 0 is pure chance."""
    generator = np.random.default_rng(seed)
    names = np.repeat([f"s{number:02d}" for number in range(speakers)], UTTERANCES)
    voices = np.repeat(voice * generator.normal(size=(speakers, 64)), UTTERANCES, axis=0)
    noise = generator.normal(size=(2, *voices.shape)) + 1.0
    return (voices + noise[0]).astype(np.float32), (voices + noise[1]).astype(np.float32), names


def attack(own: np.ndarray, released: np.ndarray, names: np.ndarray, seed: int = 0) -> SemiInformed:
    split = split_enrolment_trial([str(row) for row in range(len(names))], names.tolist(), seed)
    known, tried = split.enrolment, split.trial
    return attack_in_folds(own, names, own[known], names[known], released[tried], names[tried], seed)


def test_no_comparison_is_made_by_a_back_end_that_heard_either_person(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first dimension says who speaks, so that a back-end can see whom it is shown."""

    def train(embeddings: np.ndarray, speakers: np.ndarray) -> SpeakerBackend:
        heard = set(embeddings[:, 0].tolist())

        class Watching(SpeakerBackend):
            def project(self, embeddings: np.ndarray) -> np.ndarray:
                assert not heard & set(embeddings[:, 0].tolist())
                return embeddings

        return Watching(np.zeros(64, np.float32), np.eye(64, dtype=np.float32), len(set(speakers)), len(speakers))

    monkeypatch.setattr(semi_informed, "train_backend", train)
    own, released, names = corpus(13, voice=1.0)
    own[:, 0] = released[:, 0] = np.unique(names, return_inverse=True)[1] + 1.0
    result = attack(own, released, names)
    assert result.trials.scores.size == 13 * 13 * UTTERANCES // 2
    assert np.isfinite(result.trials.scores).all()


def test_scores_stand_where_their_people_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """With back-ends that change nothing, the folds give the cosines of the untrained attacker, pair by pair."""
    unchanged = SpeakerBackend(np.zeros(64, np.float32), np.eye(64, dtype=np.float32), 20, 120)
    monkeypatch.setattr(semi_informed, "train_backend", lambda *_: unchanged)
    own, released, names = corpus(13, voice=1.0)
    folded = attack(own, released, names).trials
    split = split_enrolment_trial([str(row) for row in range(len(names))], names.tolist(), 0)
    plain = attack_with(
        unchanged, own[split.enrolment], names[split.enrolment], released[split.trial], names[split.trial]
    ).trials
    np.testing.assert_allclose(folded.scores, plain.scores, atol=1e-6)
    np.testing.assert_array_equal(folded.mated, plain.mated)


def test_chance_level_embeddings_score_chance() -> None:
    """Over six corpora without a voice, mated trials outscore half of the others, give or take 0.04."""
    better = []
    for seed in range(6):
        trials = attack(*corpus(24, voice=0.0, seed=seed), seed).trials
        mated, others = trials.scores[trials.mated], np.sort(trials.scores[~trials.mated])
        better.append(np.searchsorted(others, mated).mean() / others.size)
    # Six draws of 72 mated trials have a standard error of about 0.014.
    assert np.mean(better) == pytest.approx(0.5, abs=0.04)
    estimate = evaluate_verification(attack(*corpus(24, voice=0.0)).trials, 0, draws=200)["eer"]
    assert estimate.lower < 0.5 <= estimate.upper


def test_a_voice_that_was_left_is_found() -> None:
    assert evaluate_verification(attack(*corpus(24, voice=2.0)).trials, 0, draws=2)["eer"].value < 0.02


def test_too_few_training_speakers_are_not_trusted() -> None:
    few, enough = attack(*corpus(12, voice=1.0)), attack(*corpus(24, voice=1.0))
    assert "trained on 10 speakers; at least 20" in few.reasons[0]
    assert "--attacker-corpus" in few.reasons[0]
    assert enough.reasons == ()
    assert "trained on 20 others or more" in enough.note


@pytest.mark.parametrize("speakers", [2, 23, 24, 25, 26, 27, 37, MANY_SPEAKERS - 1, MANY_SPEAKERS])
def test_it_is_known_beforehand_whether_folds_leave_enough_people(speakers: int) -> None:
    dealt = np.bincount(list(deal_folds(np.arange(speakers), 0).values()))
    assert folds_suffice(speakers) == (speakers - np.sort(dealt)[-2:].sum() >= 20)
    assert folds_suffice(speakers) == (speakers >= 24)


def test_a_corpus_of_three_speakers_has_nobody_to_train_on() -> None:
    with pytest.raises(ValueError, match="two or more speakers with two utterances"):
        attack(*corpus(3, voice=1.0))


def test_folds_hold_nearly_equally_many_people() -> None:
    for speakers, folds in ((13, 12), (MANY_SPEAKERS, 5)):
        dealt = np.bincount(list(deal_folds(np.array([f"s{n}" for n in range(speakers)]), 0).values()))
        assert len(dealt) == folds
        assert dealt.max() - dealt.min() <= 1


def test_an_attacker_of_another_corpus_says_what_it_was_trained_on() -> None:
    own, released, names = corpus(6, voice=2.0)
    training, _, training_names = corpus(30, voice=2.0, seed=1)
    backend = train_backend(training, training_names)
    result = attack_with(backend, own[::2], names[::2], released[1::2], names[1::2])
    assert result.reasons == ()
    assert "180 utterances of 30 speakers" in result.note


@pytest.mark.parametrize(
    ("speakers", "losses", "reason"),
    [
        (30, (3.0, 2.0, 1.0), None),
        (30, (2.0, 1.0, 2.0), "training loss did not fall"),
        (30, (2.0, float("nan")), "training broke down"),
        (8, (3.0, 1.0), "trained on 8 speakers; at least 20"),
    ],
)
def test_a_network_whose_training_failed_is_not_trusted(
    speakers: int, losses: tuple[float, ...], reason: str | None
) -> None:
    own, released, names = corpus(6, voice=2.0)
    ids = [f"u{row}" for row in range(len(names))]
    known = dict(zip(ids[1::2], own[1::2], strict=True))  # one of those it was to enrol it could not anonymize
    del known["u1"]
    heard = Listening(known, dict(zip(ids, released, strict=True)), speakers, 90, losses)
    result = attack_by_listening(heard, ids[1::2], names[1::2], ids[::2], names[::2])
    assert "a network that was trained on 90 utterances" in result.note
    assert [reason in given for given in result.reasons] == ([] if reason is None else [True])
    assert evaluate_verification(result.trials, 0, draws=2)["eer"].value < 0.02
