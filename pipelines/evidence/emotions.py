"""Emotions: what a recogniser still hears of how something was said."""

from collections import Counter

import numpy as np

from metrics.emotion import agreement, confusion_matrix, recall_by_class, recall_retained, unweighted_average_recall
from metrics.estimate import Estimate, distrust
from models.emotion import CLASSES, canonical
from pipelines.evidence.views import Views, stack

MOST_LABELS_NAMED = 10
WEAKEST_RECOGNISER = 0.5  # twice what guessing among four classes reaches


def measure_emotions(views: Views, seed: int) -> tuple[dict[str, np.ndarray], dict[str, Estimate], list[str]]:
    """Return confusion matrices of both views (none without labels), figures, and what a reader has to know."""
    heard = {
        name: [CLASSES[index] for index in stack(table, "emotion_probabilities").argmax(axis=1)]
        for name, table in (("original", views.original), ("anonymized", views.anonymized))
    }
    figures = {
        "utility.emotion_agreement": agreement(heard["original"], heard["anonymized"], views.speakers, seed),
    }
    given = views.carried("emotion")
    labels = [canonical(label) if label else None for label in given]
    rows = [row for row, label in enumerate(labels) if label is not None]
    notes = []
    others = Counter(label for label, known in zip(given, labels, strict=True) if label and known is None)
    if others:
        named = ", ".join(f"“{label[:20]}”: {count}" for label, count in others.most_common(MOST_LABELS_NAMED))
        notes.append(
            f"The emotion recogniser knows {', '.join(CLASSES)}. Utterances with other labels ({named}) take part in "
            "the agreement, and not in the recognition rate."
        )
    if not rows:
        return {}, figures, notes
    truth, speakers = [str(labels[row]) for row in rows], [views.speakers[row] for row in rows]
    confusions = {}
    for view, answers in heard.items():
        labelled = [answers[row] for row in rows]
        figures[f"utility.uar.{view}"] = unweighted_average_recall(truth, labelled, CLASSES, speakers, seed)
        for emotion, recall in recall_by_class(truth, labelled, CLASSES, speakers, seed).items():
            figures[f"utility.recall.{emotion}.{view}"] = recall
        confusions[view] = confusion_matrix(truth, labelled, CLASSES)[:, : len(CLASSES)]
    before, after = ([heard[view][row] for row in rows] for view in ("original", "anonymized"))
    figures["utility.uar.retained"] = recall_retained(truth, before, after, CLASSES, speakers, seed)
    original = figures["utility.uar.original"].value
    if original < WEAKEST_RECOGNISER:
        reason = (
            f"On the original speech the emotion recogniser is right in {original:.0%} of cases only (at least "
            f"{WEAKEST_RECOGNISER:.0%} is asked), so what it hears after anonymization says little."
        )
        weak = [name for name in figures if name.startswith(("utility.uar.", "utility.recall."))]
        figures |= {name: distrust(figures[name], (reason,)) for name in weak}
    return confusions, figures, notes
