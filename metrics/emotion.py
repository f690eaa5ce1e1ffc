"""How well emotions survive: recall of each class, their unweighted average, and agreement between two predictions.

The unweighted average recall (UAR) is the field's figure because emotions are never equally frequent (Schuller et al.
2009, the Interspeech emotion challenge); guessing scores 1 / classes whatever their frequencies. Any attribute with
classes is scored the same way.
"""

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np

from metrics.estimate import Estimate
from metrics.intervals import (
    DRAWS,
    FloatArray,
    IntArray,
    Labels,
    draw_speakers,
    encode_speakers,
    fraction_estimate,
    percentile_interval,
    same_length,
    widen_certainty,
)

# A class of k speakers is missing from about exp(-k) of the draws: 5 % for three, 14 % for two.
MINIMUM_SPEAKERS_PER_CLASS = 3


def unknown_labels(labels: Sequence[str], classes: Sequence[str]) -> dict[str, int]:
    """Count the labels that are none of the classes, by label: a recogniser of the classes cannot be scored on them."""
    known = set(classes)
    return dict(Counter(label for label in labels if label not in known))


def confusion_matrix(labels: Sequence[str], predictions: Sequence[str], classes: Sequence[str]) -> IntArray:
    """Count utterances by label (row) and prediction (column): [C, C + 1], the last column for any other prediction.

    Raises ValueError for a label that is none of the classes.
    """
    return speaker_confusions(labels, predictions, classes, np.zeros(len(labels), dtype=np.int64))[0].astype(np.int64)


def speaker_confusions(
    labels: Sequence[str], predictions: Sequence[str], classes: Sequence[str], codes: IntArray
) -> FloatArray:
    """Return one confusion matrix a speaker: [S, C, C + 1]."""
    same_length(labels=labels, predictions=predictions, speakers=codes)
    if len(labels) == 0:
        raise ValueError("no items: at least one utterance is needed")
    unknown = unknown_labels(labels, classes)
    if unknown:
        raise ValueError(
            f"labels {sorted(unknown)} are none of the classes {list(classes)}: leave those utterances out"
        )
    index = {name: position for position, name in enumerate(classes)}
    rows = np.array([index[label] for label in labels])
    columns = np.array([index.get(prediction, len(classes)) for prediction in predictions])
    confusions = np.zeros((codes.max() + 1, len(classes), len(classes) + 1))
    np.add.at(confusions, (codes, rows, columns), 1)
    return confusions


def unweighted_average_recall(
    labels: Sequence[str],
    predictions: Sequence[str],
    classes: Sequence[str],
    speakers: Labels,
    seed: int,
    draws: int = DRAWS,
) -> Estimate:
    """Estimate the mean recall over those `classes` that occur in `labels` [N]; `n` counts speakers.

    A resampling in which one of these classes does not occur is left out, since its average would be of other classes.
    A class spoken by fewer than three people makes too many draws such, and the estimate untrustworthy, as does a
    single class. A prediction outside the classes is an error. Raises ValueError for a label outside them.
    """
    names, codes = encode_speakers(speakers)
    confusions = speaker_confusions(labels, predictions, classes, codes)
    hits, totals = np.diagonal(confusions, axis1=1, axis2=2), confusions.sum(axis=2)  # (S, C)
    present = totals.sum(axis=0) > 0
    hits, totals = hits[:, present], totals[:, present]
    weights = draw_speakers(names.size, seed, draws)
    drawn_totals = weights @ totals
    complete = (drawn_totals > 0).all(axis=1)
    averages = np.full(draws, np.nan)
    averages[complete] = ((weights @ hits)[complete] / drawn_totals[complete]).mean(axis=1)
    value = float((hits.sum(axis=0) / totals.sum(axis=0)).mean())
    estimate = percentile_interval(value, averages, names.size)
    if estimate.lower == estimate.upper and value in (0.0, 1.0):
        estimate = widen_certainty(estimate)
    reasons = list(estimate.reasons)
    found = [name for name, there in zip(classes, present, strict=True) if there]
    if len(found) == 1:
        reasons.append(f"Only one class, {found[0]}, occurs, so any constant answer would be right.")
    for name, speaker_count in zip(found, np.count_nonzero(totals, axis=0), strict=True):
        if speaker_count < MINIMUM_SPEAKERS_PER_CLASS:
            reasons.append(
                f"Class {name} is spoken by {speaker_count} of {names.size} speakers; "
                f"at least {MINIMUM_SPEAKERS_PER_CLASS} are needed."
            )
    return Estimate(value, estimate.lower, estimate.upper, names.size, not reasons, tuple(reasons))


def recall_retained(
    labels: Sequence[str],
    before: Sequence[str],
    after: Sequence[str],
    classes: Sequence[str],
    speakers: Labels,
    seed: int,
    draws: int = DRAWS,
) -> Estimate:
    """Estimate the unweighted average recall of `after` [N] over that of `before` [N], as a ratio; 1 keeps everything.

    Both recalls of a draw are of the same speakers, so that what they have in common drops out of the interval. Where
    `before` recognises nothing there is nothing to retain: NaN, untrustworthy. Raises ValueError for a label outside
    the classes.
    """
    names, codes = encode_speakers(speakers)
    weights = np.concatenate([np.ones((1, names.size)), draw_speakers(names.size, seed, draws)])  # the first: everybody
    recalls = []
    for predictions in (before, after):
        confusions = speaker_confusions(labels, predictions, classes, codes)
        totals = weights @ confusions.sum(axis=2)
        present = totals[0] > 0
        with np.errstate(invalid="ignore", divide="ignore"):
            drawn = (weights @ np.diagonal(confusions, axis1=1, axis2=2))[:, present] / totals[:, present]
        recalls.append(drawn.mean(axis=1))  # NaN where a class was not drawn
    if recalls[0][0] == 0:
        reason = "On the original speech the recogniser is never right, so nothing can be retained."
        return Estimate(math.nan, math.nan, math.nan, names.size, False, (reason,))
    with np.errstate(invalid="ignore", divide="ignore"):
        ratios = recalls[1] / recalls[0]
    ratios[~np.isfinite(ratios)] = np.nan
    return percentile_interval(float(ratios[0]), ratios[1:], names.size)


def recall_by_class(
    labels: Sequence[str],
    predictions: Sequence[str],
    classes: Sequence[str],
    speakers: Labels,
    seed: int,
    draws: int = DRAWS,
) -> dict[str, Estimate]:
    """Estimate the recall of each class that occurs; `n` counts the speakers of that class."""
    same_length(labels=labels, predictions=predictions, speakers=speakers)
    truth, guess, who = np.asarray(labels), np.asarray(predictions), np.asarray(speakers)
    return {
        name: fraction_estimate((guess[truth == name] == name).astype(float), who[truth == name], seed, draws)
        for name in classes
        if (truth == name).any()
    }


def agreement(
    predictions_a: Sequence[str], predictions_b: Sequence[str], speakers: Labels, seed: int, draws: int = DRAWS
) -> Estimate:
    """Estimate how often two predictions of an utterance, say before and after anonymization, name the same class."""
    same_length(predictions_a=predictions_a, predictions_b=predictions_b, speakers=speakers)
    same = np.asarray(predictions_a) == np.asarray(predictions_b)
    return fraction_estimate(same.astype(float), speakers, seed, draws)
