"""Words: how much more a speech recogniser gets wrong after anonymization than before."""

from collections import Counter
from dataclasses import dataclass

import numpy as np

from metrics.estimate import Estimate
from metrics.intervals import ratio_estimate
from metrics.recognition import ErrorCounts, count_errors
from operators.schema import base_language
from pipelines.evidence.views import Views

COUNTED = {"wer": ("word_errors", "reference_words"), "cer": ("character_errors", "reference_characters")}


@dataclass(frozen=True)
class Words:
    """Error counts of the rows that could be measured, in both views."""

    rows: np.ndarray
    original: ErrorCounts
    anonymized: ErrorCounts


def measure_words(views: Views, language: str, seed: int) -> tuple[Words | None, dict[str, Estimate], list[str]]:
    """Return the error counts (None where nothing could be measured), the error rates, and what a reader has to know.

    `language` stands in for rows that name none.
    """
    heard, heard_after = (view["transcript"].to_pylist() for view in (views.original, views.anonymized))
    languages = [base_language(name or language) for name in views.carried("language")]
    notes = note_foreign_languages(languages, heard)
    understood = [row for row, text in enumerate(heard) if text is not None]
    texts = views.carried("text")
    rows = [row for row in understood if (texts[row] or "").strip()]
    has_text = bool(rows)
    if has_text:
        references = [str(texts[row]) for row in rows]
        if len(rows) < len(understood):
            notes.append(f"Word error rates are over the {len(rows)} of {len(understood)} utterances that have a text.")
    else:
        rows = understood
        references = [heard[row] for row in rows]
        if rows:
            notes.append(
                "The corpus has no written text. The word error rate compares what the recogniser understands after "
                "anonymization with what it understood before, so the recogniser's own mistakes count as truth."
            )
    if not rows:
        return None, {}, notes
    spoken = [languages[row] for row in rows]
    words = Words(
        np.array(rows),
        count_by_language(references, [heard[row] for row in rows], spoken),
        count_by_language(references, [heard_after[row] for row in rows], spoken),
    )
    if words.original.reference_words.sum() == 0:
        return None, {}, [*notes, "No reference text holds a word, so no word error rate is given."]
    speakers = [views.speakers[row] for row in rows]
    figures = {}
    for rate, (errors, length) in COUNTED.items():
        before, after = getattr(words.original, errors), getattr(words.anonymized, errors)
        total = getattr(words.original, length)
        if has_text:
            figures[f"utility.{rate}.original"] = ratio_estimate(before, total, speakers, seed)
        figures[f"utility.{rate}.anonymized"] = ratio_estimate(after, total, speakers, seed)
        figures[f"utility.{rate}.increase"] = ratio_estimate(after - before, total, speakers, seed)
    return words, figures, notes


def note_foreign_languages(languages: list[str], heard: list[str | None]) -> list[str]:
    """Say which languages the recogniser does not know, and that no figure is given for them."""
    foreign = Counter(name for name, text in zip(languages, heard, strict=True) if text is None)
    if not foreign:
        return []
    named = ", ".join(f"“{name}”: {count}" for name, count in sorted(foreign.items()))
    return [
        f"The speech recogniser of this profile does not know the language of {sum(foreign.values())} of {len(heard)} "
        f"utterances ({named}). No word error rate is given for them, because the number would mean nothing; a "
        "multilingual recogniser (the standard profile) could measure it."
    ]


def count_by_language(references: list[str], hypotheses: list[str], languages: list[str]) -> ErrorCounts:
    """Count the errors of each row [N] after the normalisation of its own language."""
    counts = {name: np.zeros(len(references), np.int64) for pair in COUNTED.values() for name in pair}
    for language in sorted(set(languages)):
        rows = [row for row, name in enumerate(languages) if name == language]
        found = count_errors([references[row] for row in rows], [hypotheses[row] for row in rows], language)
        for name, column in counts.items():
            column[rows] = getattr(found, name)
    return ErrorCounts(**counts)
