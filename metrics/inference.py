"""Inference, the third GDPR criterion: how well an attribute of the speaker can be predicted from what was released.

An attacker who holds labelled speech of other people, treated the same way, trains a classifier on it. No person is in
both training and test, since recognising somebody again is linkability.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import LeaveOneGroupOut, StratifiedGroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from metrics.emotion import unweighted_average_recall
from metrics.estimate import Estimate, distrust
from metrics.intervals import DRAWS, Labels, finite, same_length

FOLDS = 5
# Inverse strength of the L2 penalty. Between 0.001 and 10 gender from GE2E embeddings of LibriSpeech test-other moves
# only from 0.86 to 0.88: it hardly matters, and this stays in the middle.
REGULARIZATION = 0.1


def inference_chance(labels: Sequence[str]) -> float:
    """Return the balanced accuracy of a guess: 1 / number of classes that occur."""
    return 1.0 / len(set(labels))


def attribute_inference(
    features: ArrayLike, labels: Sequence[str], speakers: Labels, seed: int, draws: int = DRAWS
) -> Estimate:
    """Estimate the balanced accuracy (mean recall over classes) of predicting `labels` [N] from `features` [N, D].

    A regularised logistic regression on standardised features is trained on four fifths of the speakers and tested on
    the rest, five times; `n` counts speakers. The interval resamples the tested speakers, for the classifiers as they
    were trained. Classes of one speaker are left out, since nobody is left to train on; they make the estimate
    untrustworthy, as do classes of fewer than three speakers. Fewer than two classes leave NaN.
    Raises ValueError when lengths differ or a feature is not finite.
    """
    inputs = finite("features", features)
    truth, people = np.asarray(labels, dtype=str), np.asarray(speakers)
    same_length(features=inputs, labels=truth, speakers=people)
    lone = [name for name in np.unique(truth) if np.unique(people[truth == name]).size == 1]
    reasons = tuple(f"Class {name} is spoken by one speaker, so it was left out." for name in lone)
    kept = ~np.isin(truth, lone)
    inputs, truth, people = inputs[kept], truth[kept], people[kept]
    classes = np.unique(truth).tolist()
    if len(classes) < 2:
        nan = float("nan")
        reasons += ("Fewer than two classes have speakers to train on and to test, so nothing can be predicted.",)
        return Estimate(nan, nan, nan, np.unique(people).size, trustworthy=False, reasons=reasons)
    predictions = np.empty_like(truth)
    for train, test in speaker_disjoint_folds(truth, people, seed):
        classifier = make_pipeline(
            StandardScaler(), LogisticRegression(C=REGULARIZATION, class_weight="balanced", max_iter=1000)
        )
        predictions[test] = classifier.fit(inputs[train], truth[train]).predict(inputs[test])
    estimate = unweighted_average_recall(truth.tolist(), predictions.tolist(), classes, people, seed, draws)
    return distrust(estimate, reasons)


def speaker_disjoint_folds(labels: NDArray, speakers: NDArray, seed: int) -> Iterator[tuple[NDArray, NDArray]]:
    """Yield rows to train on and rows to test on, no speaker in both and every class in each training part.

    Five folds with classes spread evenly; where that leaves a class out of a training part, one fold a speaker. Every
    class must have two speakers.
    """
    fewest = min(np.unique(speakers[labels == name]).size for name in np.unique(labels))
    class_count = np.unique(labels).size
    spread = StratifiedGroupKFold(n_splits=min(FOLDS, fewest), shuffle=True, random_state=seed)
    folds = list(spread.split(labels, labels, speakers))
    if any(test.size == 0 or np.unique(labels[train]).size < class_count for train, test in folds):
        folds = list(LeaveOneGroupOut().split(labels, labels, speakers))
    yield from folds
