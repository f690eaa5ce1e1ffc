"""Inference: what can be predicted is, what cannot is chance, and speakers never stand on both sides."""

import numpy as np
import pytest

from metrics.inference import attribute_inference, inference_chance, speaker_disjoint_folds

SPEAKERS = np.repeat([f"s{number:02}" for number in range(16)], 6)
GENDER = np.where(np.arange(96) // 6 % 2 == 0, "f", "m")


def speaker_features(seed: int, gender_gap: float) -> np.ndarray:
    """Strong speaker identities in 12 dimensions, of which the first also carries the gender."""
    generator = np.random.default_rng(seed)
    features = np.repeat(generator.normal(size=(16, 12)), 6, axis=0) + 0.1 * generator.normal(size=(96, 12))
    features[:, 0] += gender_gap * (GENDER == "m")
    return features


def test_an_attribute_that_shows_is_inferred() -> None:
    estimate = attribute_inference(speaker_features(0, gender_gap=20.0), GENDER.tolist(), SPEAKERS, seed=0)
    assert estimate.value > 0.95
    assert estimate.lower > 0.9
    assert estimate.trustworthy
    assert estimate.n == 16


def test_identities_alone_infer_nothing_about_people_who_were_not_trained_on() -> None:
    """Utterance-wise folds would reach 1.0 here; the mean of 12 corpora has a standard error of about 0.04."""
    values = [
        attribute_inference(speaker_features(seed, gender_gap=0.0), GENDER.tolist(), SPEAKERS, seed, draws=10).value
        for seed in range(12)
    ]
    assert np.mean(values) == pytest.approx(inference_chance(GENDER.tolist()), abs=0.12)


@pytest.mark.parametrize("rare", [2, 3])
def test_folds_share_no_speaker_and_train_on_every_class(rare: int) -> None:
    labels = np.where(np.arange(96) < 6 * rare, "rare", "common")
    folds = list(speaker_disjoint_folds(labels, SPEAKERS, seed=0))
    assert sorted(np.concatenate([test for _, test in folds])) == list(range(96))
    for train, test in folds:
        assert not set(SPEAKERS[train]) & set(SPEAKERS[test])
        assert set(labels[train]) == {"rare", "common"}


def test_one_class_is_untrustworthy_and_no_crash() -> None:
    estimate = attribute_inference(speaker_features(0, 0.0), ["f"] * 96, SPEAKERS, seed=0)
    assert np.isnan(estimate.value)
    assert estimate.reasons == (
        "Fewer than two classes have speakers to train on and to test, so nothing can be predicted.",
    )


def test_a_class_of_one_speaker_is_left_out_and_named() -> None:
    labels = GENDER.copy()
    labels[:6] = "x"
    estimate = attribute_inference(speaker_features(0, 20.0), labels.tolist(), SPEAKERS, seed=0)
    assert estimate.value > 0.9
    assert not estimate.trustworthy
    assert estimate.reasons == ("Class x is spoken by one speaker, so it was left out.",)
    assert estimate.n == 15


def test_every_class_of_one_speaker_leaves_nothing() -> None:
    estimate = attribute_inference(np.eye(4), ["f", "f", "m", "m"], ["a", "a", "b", "b"], seed=0)
    assert np.isnan(estimate.value)
    assert len(estimate.reasons) == 3


def test_features_that_are_not_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match="not finite"):
        attribute_inference(np.full((4, 2), np.nan), ["f", "f", "m", "m"], ["a", "b", "c", "d"], seed=0)
