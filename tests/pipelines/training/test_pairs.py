"""Pairs: a neutral prompt and an emotional source of one person, balanced, and repeatable."""

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from operators.schema import InputError
from pipelines.training.pairs import (
    Spoken,
    draw_pairs,
    fit_sequence,
    keep_known_emotions,
    name_speakers,
    pair_emotions,
    pair_speakers,
    split_speakers,
)

EMOTIONS = ("neutral", "happy", "sad", "angry")


def corpus(speakers: int = 4, texts: int = 3) -> list[Spoken]:
    """Every speaker says every text in every emotion."""
    return [
        Spoken(f"s{speaker}-{emotion}-{text}", f"s{speaker}", emotion, f"text {text}", 60)
        for speaker in range(speakers)
        for emotion in EMOTIONS
        for text in range(texts)
    ]


UTTERANCES = st.lists(
    st.builds(
        Spoken,
        utt_id=st.uuids().map(str),
        speaker_id=st.sampled_from(["a", "b", "c"]),
        emotion=st.sampled_from(EMOTIONS),
        text=st.sampled_from(["", "one", "two"]),
        frames=st.integers(1, 900),
    ),
    max_size=40,
    unique_by=lambda utterance: utterance.utt_id,
)


def test_the_prompt_is_neutral_the_source_emotional_and_both_of_one_speaker_with_other_words() -> None:
    rows = {row.utt_id: row for row in corpus()}
    pairs = pair_emotions(list(rows.values()), seed=0, epoch=0)
    assert len(pairs) == 4 * 3 * 3
    for pair in pairs:
        prompt, source = rows[pair.prompt], rows[pair.source]
        assert prompt.speaker_id == source.speaker_id
        assert (prompt.emotion, source.emotion != "neutral") == ("neutral", True)
        assert prompt.text != source.text


@settings(max_examples=60, deadline=None)
@given(UTTERANCES, st.integers(0, 3))
def test_whatever_the_corpus_pairs_keep_their_promise(utterances: list[Spoken], seed: int) -> None:
    rows = {row.utt_id: row for row in utterances}
    try:
        pairs = pair_emotions(utterances, seed, 0)
    except InputError:
        both = {u.speaker_id for u in utterances if u.emotion == "neutral"}
        assert not both & {u.speaker_id for u in utterances if u.emotion != "neutral"}
        return
    for pair in pairs:
        prompt, source = rows[pair.prompt], rows[pair.source]
        assert prompt.speaker_id == source.speaker_id
        assert prompt.emotion == "neutral" != source.emotion
        own_neutral_texts = {u.text for u in utterances if u.speaker_id == prompt.speaker_id and u.emotion == "neutral"}
        assert prompt.text != source.text or not source.text or own_neutral_texts == {source.text}
    counts = Counter(rows[pair.source].emotion for pair in pairs)
    assert max(counts.values()) - min(counts.values()) <= 1


def test_speakers_and_emotions_weigh_the_same_although_one_speaker_has_ten_times_the_recordings() -> None:
    rows = corpus(speakers=3, texts=2)
    loud = [replace(row, utt_id=f"{row.utt_id}-{n}") for row in rows if row.speaker_id == "s0" for n in range(9)]
    by_id = {row.utt_id: row for row in rows + loud}
    sources = [by_id[pair.source] for pair in pair_emotions(rows + loud, seed=1, epoch=0)]
    cells = Counter((source.speaker_id, source.emotion) for source in sources)
    assert len(cells) == 9
    assert max(cells.values()) - min(cells.values()) <= 1


def test_equal_seeds_give_equal_pairs_whatever_the_order_of_the_rows_and_epochs_differ() -> None:
    rows = corpus()
    assert pair_emotions(rows, 3, 0) == pair_emotions(rows[::-1], 3, 0)
    assert pair_emotions(rows, 3, 0) != pair_emotions(rows, 3, 1)
    assert draw_pairs(rows, "emotional", 3, 0) != draw_pairs(rows, "emotional", 4, 0)


def test_without_pairs_every_utterance_is_a_source_and_a_lonely_one_is_its_own_prompt() -> None:
    rows = [*corpus(2), Spoken("alone", "s9", "neutral", "", 60)]
    pairs = pair_speakers(rows, seed=0, epoch=0)
    assert sorted(pair.source for pair in pairs) == sorted(row.utt_id for row in rows)
    assert [pair.prompt for pair in pairs if pair.source == "alone"] == ["alone"]
    assert all(pair.prompt != pair.source for pair in pairs if pair.source != "alone")
    assert all(pair.prompt.split("-")[0] == pair.source.split("-")[0] for pair in pairs)


def test_validation_speakers_are_trained_on_by_nobody_and_the_split_repeats() -> None:
    speakers = [f"s{n}" for n in range(10)]
    training, validation = split_speakers(speakers, 0.2, seed=0)
    assert len(validation) == 2
    assert training | validation == set(speakers)
    assert not training & validation
    assert split_speakers(speakers[::-1] * 2, 0.2, seed=0) == (training, validation)
    assert split_speakers(speakers[:2], 0.01, seed=0)[1]


def test_speakers_who_were_named_are_held_out_and_one_whom_nobody_knows_is_told() -> None:
    assert name_speakers({"s0", "s1", "s2"}, ("s2", "s0")) == {"s0", "s2"}
    with pytest.raises(InputError, match="s7 cannot be held out"):
        name_speakers({"s0", "s1"}, ("s0", "s7"))
    with pytest.raises(InputError, match="nobody is left"):
        name_speakers({"s0", "s1"}, ("s0", "s1"))


def test_labels_are_known_by_their_synonyms_and_others_are_named() -> None:
    rows = [replace(row, emotion={"happy": "joy", "sad": "boredom"}.get(row.emotion, row.emotion)) for row in corpus(1)]
    kept, unknown = keep_known_emotions(rows)
    assert {row.emotion for row in kept} == {"neutral", "happy", "angry"}
    assert unknown == ["boredom"]


def test_each_corpus_that_cannot_be_paired_is_told_why() -> None:
    rows = corpus()
    with pytest.raises(InputError, match="no neutral speech"):
        pair_emotions([row for row in rows if row.emotion != "neutral"], 0, 0)
    with pytest.raises(InputError, match="no emotional speech"):
        pair_emotions([row for row in rows if row.emotion == "neutral"], 0, 0)
    apart = [row for row in rows if (row.speaker_id == "s0") == (row.emotion == "neutral")]
    with pytest.raises(InputError, match="both neutrally and emotionally"):
        pair_emotions(apart, 0, 0)
    with pytest.raises(InputError, match="1 speaker;"):
        split_speakers(["only", "only"], 0.2, 0)
    with pytest.raises(InputError, match="boredom"):
        keep_known_emotions([replace(row, emotion="boredom") for row in rows])
    with pytest.raises(InputError, match="shortest has 60 frames"):
        fit_sequence(rows, prompt_frames=100, limit=150)


def test_utterances_too_long_for_the_sequence_are_counted_out() -> None:
    rows = [replace(row, frames=700) if row.speaker_id == "s1" else row for row in corpus()]
    kept, too_long = fit_sequence(rows, prompt_frames=200, limit=768)
    assert too_long == 12
    assert {row.speaker_id for row in kept} == {"s0", "s2", "s3"}
