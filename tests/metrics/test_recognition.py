"""Word error rates: against jiwer's own corpus figure, and where references are empty."""

import jiwer
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metrics.intervals import ratio_estimate
from metrics.recognition import count_errors, normalize

sentences = st.lists(st.sampled_from(["cat", "dog", "bird", "tree", "house"]), min_size=1, max_size=8).map(" ".join)


@settings(max_examples=30)
@given(st.lists(st.tuples(sentences, sentences), min_size=2, max_size=6))
def test_corpus_rates_equal_jiwers(pairs: list[tuple[str, str]]) -> None:
    references, heard = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    counts = count_errors(references, heard, "de")
    speakers = np.arange(len(pairs))
    words = ratio_estimate(counts.word_errors, counts.reference_words, speakers, 0, draws=10)
    characters = ratio_estimate(counts.character_errors, counts.reference_characters, speakers, 0, draws=10)
    assert words.value == pytest.approx(jiwer.wer(references, heard))
    assert characters.value == pytest.approx(jiwer.cer(references, heard))
    for row, (reference, hypothesis) in enumerate(pairs):
        assert counts.word_errors[row] == round(jiwer.wer(reference, hypothesis) * counts.reference_words[row])


def test_spelling_numbers_and_case_are_no_errors_in_english() -> None:
    counts = count_errors(["Mr. Grey can't pay twenty dollars!"], ["Mister gray can not pay $20"], "en")
    assert counts.word_errors.tolist() == [0]


def test_umlauts_and_vowel_signs_survive_normalisation() -> None:
    assert normalize(["Über die Straße, nicht wahr?"], "de") == ["über die straße nicht wahr"]
    assert normalize(["हिन्दी"], "hi") == ["हिन्दी"]


def test_every_character_is_a_word_where_no_spaces_are_written() -> None:
    counts = count_errors(["今日は天気"], ["今日は元気"], "ja")
    assert (counts.word_errors.tolist(), counts.reference_words.tolist()) == ([1], [5])
    assert (counts.character_errors.tolist(), counts.reference_characters.tolist()) == ([1], [5])


def test_words_heard_where_nothing_was_said_are_errors() -> None:
    counts = count_errors(["...", "two cats"], ["hello there", "two cats"], "de")
    assert counts.word_errors.tolist() == [2, 0]
    assert counts.reference_words.tolist() == [0, 2]


def test_a_hallucinating_recogniser_exceeds_one() -> None:
    counts = count_errors(["yes", "no"], ["yes yes yes yes", "no no no no"], "de")
    assert ratio_estimate(counts.word_errors, counts.reference_words, ["a", "b"], seed=0).value == 3.0


def test_missing_texts_and_empty_corpora_are_refused() -> None:
    with pytest.raises(ValueError, match="no reference text, the first in row 1"):
        count_errors(["one", None], ["one", "two"], "en")  # type: ignore[list-item]
    with pytest.raises(ValueError, match="lengths differ"):
        count_errors(["one"], ["one", "two"], "en")
    silent = count_errors(["", ""], ["a", "b"], "en")
    with pytest.raises(ValueError, match="add up to zero"):
        ratio_estimate(silent.word_errors, silent.reference_words, ["a", "b"], seed=0)
