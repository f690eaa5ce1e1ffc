"""Emotion metrics: against sklearn, with classes that are rare, absent or unknown."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import balanced_accuracy_score
from sklearn.metrics import confusion_matrix as sklearn_confusion

from metrics.emotion import (
    agreement,
    confusion_matrix,
    recall_by_class,
    unknown_labels,
    unweighted_average_recall,
)
from metrics.intervals import draw_speakers, interval_tails

CLASSES = ("neutral", "happy", "sad", "angry")


@settings(max_examples=30)
@pytest.mark.filterwarnings("ignore::UserWarning")
@given(st.lists(st.tuples(st.sampled_from(CLASSES), st.sampled_from(CLASSES)), min_size=4, max_size=40))
def test_uar_and_confusions_equal_sklearns(pairs: list[tuple[str, str]]) -> None:
    labels, predictions = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    speakers = np.arange(len(pairs)) % 4
    estimate = unweighted_average_recall(labels, predictions, CLASSES, speakers, seed=0, draws=20)
    assert estimate.value == pytest.approx(balanced_accuracy_score(labels, predictions))
    expected = sklearn_confusion(labels, predictions, labels=CLASSES)
    assert np.array_equal(confusion_matrix(labels, predictions, CLASSES)[:, :4], expected)


def test_uar_interval_equals_literal_resampling() -> None:
    generator = np.random.default_rng(0)
    labels = generator.choice(CLASSES, 80)
    predictions = np.where(generator.random(80) < 0.6, labels, generator.choice(CLASSES, 80))
    speakers = np.arange(80) % 8
    estimate = unweighted_average_recall(labels, predictions, CLASSES, speakers, seed=5, draws=200)
    literal = []
    for counts in draw_speakers(8, seed=5, draws=200).astype(int):
        rows = np.repeat(np.arange(80), counts[speakers])
        if len(set(labels[rows])) == 4:
            literal.append(balanced_accuracy_score(labels[rows], predictions[rows]))
    assert (estimate.lower, estimate.upper) == pytest.approx(tuple(np.quantile(literal, interval_tails(8))))
    assert estimate.trustworthy


def test_guessing_scores_chance_within_the_interval_whatever_the_frequencies() -> None:
    generator = np.random.default_rng(1)
    labels = generator.choice(CLASSES, 400, p=[0.7, 0.1, 0.1, 0.1])
    estimate = unweighted_average_recall(labels, ["neutral"] * 400, CLASSES, np.arange(400) % 20, seed=0)
    assert (estimate.value, estimate.lower, estimate.upper) == (0.25, 0.25, 0.25)
    random = unweighted_average_recall(labels, generator.choice(CLASSES, 400), CLASSES, np.arange(400) % 20, seed=0)
    assert random.lower <= 0.25 <= random.upper


def test_absent_classes_are_left_out() -> None:
    labels, predictions = ["sad", "happy"] * 6, ["sad", "angry"] * 6
    estimate = unweighted_average_recall(labels, predictions, CLASSES, np.arange(12) // 2, seed=0)
    assert estimate.value == 0.5
    assert estimate.trustworthy


def test_a_class_of_two_speakers_makes_the_average_untrustworthy() -> None:
    labels = ["sad", "happy", "sad", "happy", *["sad"] * 8]
    speakers = ["a", "a", "b", "b", *"cdefghij"]
    estimate = unweighted_average_recall(labels, labels, CLASSES, speakers, seed=0)
    assert estimate.value == 1.0
    assert estimate.reasons == ("Class happy is spoken by 2 of 10 speakers; at least 3 are needed.",)
    assert not estimate.trustworthy


def test_one_class_proves_nothing() -> None:
    estimate = unweighted_average_recall(["sad"] * 6, ["sad"] * 6, CLASSES, np.arange(6), seed=0)
    assert not estimate.trustworthy
    assert "Only one class, sad" in estimate.reasons[0]


def test_unknown_labels_are_refused_and_counted_and_unknown_predictions_are_errors() -> None:
    assert unknown_labels(["sad", "bored", "bored"], CLASSES) == {"bored": 2}
    with pytest.raises(ValueError, match=r"\['bored'\] are none of the classes"):
        unweighted_average_recall(["sad", "bored"], ["sad", "sad"], CLASSES, ["a", "b"], seed=0)
    assert confusion_matrix(["sad"], ["bored"], CLASSES)[2].tolist() == [0, 0, 0, 0, 1]


def test_recall_by_class_counts_the_speakers_of_the_class() -> None:
    recalls = recall_by_class(["sad", "sad", "happy"], ["sad", "happy", "happy"], CLASSES, ["a", "b", "a"], seed=0)
    assert {name: (estimate.value, estimate.n) for name, estimate in recalls.items()} == {
        "happy": (1.0, 1),
        "sad": (0.5, 2),
    }


def test_agreement_is_the_share_of_equal_predictions() -> None:
    estimate = agreement(["sad", "sad", "happy", "angry"], ["sad", "happy", "happy", "angry"], ["a", "a", "b", "b"], 0)
    assert estimate.value == 0.75
    assert (estimate.lower, estimate.upper) == (0.5, 1.0)
