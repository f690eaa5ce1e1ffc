"""Word and character error rates of a recogniser's transcriptions against reference texts.

Both texts first pass Whisper's own normaliser (Radford et al. 2022, appendix C): the English one, which settles
spelling, numbers and contractions, or the basic one for other languages. Rates are of the corpus: all errors over all
reference words, so a long utterance counts for more than a short one.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import jiwer
import numpy as np
from whisper_normalizer.basic import BasicTextNormalizer
from whisper_normalizer.english import EnglishTextNormalizer

from metrics.intervals import IntArray, same_length

# Written without spaces between words: as in Whisper's evaluation, every character counts as a word.
SPACELESS_LANGUAGES = frozenset({"ja", "km", "lo", "my", "th", "yue", "zh"})


@dataclass(frozen=True, eq=False)
class ErrorCounts:
    """Errors (substitutions, deletions, insertions) and reference lengths of N utterances, in words and characters.

    An utterance whose reference is empty after normalisation has length 0, and every word heard there is an error: it
    adds to the errors of the corpus and nothing to its length.
    """

    word_errors: IntArray
    reference_words: IntArray
    character_errors: IntArray
    reference_characters: IntArray


@cache
def normalizer(language: str) -> Callable[[str], str]:
    """Return Whisper's normaliser for a language code such as "en" or "de"."""
    if language == "en":
        return EnglishTextNormalizer()
    # Combining marks are vowels in many scripts; dropping them, Whisper's default, would break words apart.
    return BasicTextNormalizer(preserve_marks=True, split_letters=language in SPACELESS_LANGUAGES)


def normalize(texts: Sequence[str], language: str) -> list[str]:
    """Normalise texts as Whisper does, without white space at the ends."""
    clean = normalizer(language)
    return [clean(text).strip() for text in texts]


def count_errors(references: Sequence[str], hypotheses: Sequence[str], language: str) -> ErrorCounts:
    """Align each hypothesis [N] with its reference [N] after normalisation and count the errors, with jiwer.

    `language` is an ISO 639-1 code. Characters include the single spaces between words, except in languages written
    without them. Raises ValueError when lengths differ or a text is missing.
    """
    same_length(references=references, hypotheses=hypotheses)
    for name, texts in (("reference", references), ("hypothesis", hypotheses)):
        missing = [row for row, text in enumerate(texts) if not isinstance(text, str)]
        if missing:
            raise ValueError(f"{len(missing)} utterances have no {name} text, the first in row {missing[0]}")
    reference_texts, heard_texts = normalize(references, language), normalize(hypotheses, language)
    words = jiwer.process_words(reference_texts, heard_texts)
    if language in SPACELESS_LANGUAGES:
        reference_texts, heard_texts = (
            [text.replace(" ", "") for text in side] for side in (reference_texts, heard_texts)
        )
    characters = jiwer.process_characters(reference_texts, heard_texts)
    return ErrorCounts(*aligned_errors(words), *aligned_errors(characters))


def aligned_errors(output: jiwer.WordOutput | jiwer.CharacterOutput) -> tuple[IntArray, IntArray]:
    """Return the errors and the reference length of each utterance [N] of a jiwer alignment."""
    errors = [
        sum(
            max(chunk.ref_end_idx - chunk.ref_start_idx, chunk.hyp_end_idx - chunk.hyp_start_idx)
            for chunk in chunks
            if chunk.type != "equal"
        )
        for chunks in output.alignments
    ]
    return np.array(errors, dtype=np.int64), np.array([len(tokens) for tokens in output.references], dtype=np.int64)
