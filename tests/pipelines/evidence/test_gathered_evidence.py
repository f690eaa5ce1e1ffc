"""Evidence from small tables: what is measured, and what is said where something cannot be."""

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from models.emotion import CLASSES
from pipelines.evidence.emotions import measure_emotions
from pipelines.evidence.gather import gather_evidence
from pipelines.evidence.privacy import attack
from pipelines.evidence.subgroups import measure_subgroups
from pipelines.evidence.views import Views
from pipelines.evidence.words import measure_words

SPEAKERS, UTTERANCES = 12, 6


def make_views(kept_voice: float, **columns: Any) -> Views:
    """Views in which the anonymized embedding keeps so much of the speaker's own direction (1: all, 0: nothing)."""
    generator = np.random.default_rng(0)
    voices = generator.normal(size=(SPEAKERS, 32))
    rows = []
    for number in range(SPEAKERS * UTTERANCES):
        speaker = number // UTTERANCES
        noise = generator.normal(size=(3, 32))
        anonymous = kept_voice * voices[speaker] + (1 - kept_voice) * noise[2]
        emotion = np.eye(4)[number % 4]
        rows.append(
            {
                "utt_id": f"u{number:03d}",
                "speaker_id": f"s{speaker}",
                "text": "the cat sat down",
                "emotion": CLASSES[number % 4],
                "language": None,
                "gender": "fm"[speaker % 2],
                "seconds": 2.0,
                "transcript": "the cat sat down",
                "dnsmos": 3.0,
                "pitch": 100 + 20 * np.sin(np.arange(100) / 9),
                "emotion_probabilities": emotion,
                "original": voices[speaker] + 0.2 * noise[0],
                "anonymized": anonymous + 0.2 * noise[1],
            }
            | {name: value(number) if callable(value) else value for name, value in columns.items()}
        )
    tables = []
    for view in ("original", "anonymized"):
        columns_of = {name: [row[name] for row in rows] for name in rows[0] if name not in ("original", "anonymized")}
        columns_of["embedding"] = [(row[view] / np.linalg.norm(row[view])).astype(np.float32) for row in rows]
        columns_of["transcript"] = [
            row.get("heard_after", row["transcript"]) if view == "anonymized" else row["transcript"] for row in rows
        ]
        for name in ("text", "transcript", "language"):
            columns_of[name] = pa.array(columns_of[name], pa.string())
        tables.append(pa.table(columns_of))
    return Views([row["utt_id"] for row in rows], [row["speaker_id"] for row in rows], *tables)


def attacker_table(views: Views) -> pa.Table:
    return views.anonymized.select(["utt_id", "embedding"])


def test_an_anonymizer_that_changes_nothing_fails_every_attack() -> None:
    views = make_views(kept_voice=1.0)
    _, figures, _ = attack(views, attacker_table(views), seed=0)
    for scenario in ("unprotected", "ignorant", "lazy_informed"):
        assert figures[f"privacy.{scenario}.eer"].value < 0.02
        assert figures[f"privacy.{scenario}.linkability.2"].value > 0.95


def test_an_anonymizer_that_keeps_nothing_leaves_guessing() -> None:
    views = make_views(kept_voice=0.0)
    _, figures, notes = attack(views, attacker_table(views), seed=0)
    figure = figures["privacy.lazy_informed.eer"]
    assert figure.lower < 0.5 <= figure.upper
    assert figure.value > 0.35
    assert figure.trustworthy, figure.reasons
    assert any("36 utterances of 12 speakers" in note for note in notes)


def test_a_weak_attacker_makes_the_others_untrustworthy() -> None:
    views = make_views(kept_voice=0.0)
    blind = views.anonymized["embedding"]
    views = Views(
        views.utt_ids,
        views.speakers,
        views.original.set_column(views.original.column_names.index("embedding"), "embedding", blind),
        views.anonymized,
    )
    _, figures, _ = attack(views, attacker_table(views), seed=0)
    assert not figures["privacy.lazy_informed.eer"].trustworthy
    assert any("weak" in reason for reason in figures["privacy.lazy_informed.eer"].reasons)


def test_a_language_that_the_recogniser_does_not_know_gets_no_number() -> None:
    views = make_views(1.0, language="de", transcript=None)
    words, figures, notes = measure_words(views, "en", seed=0)
    assert (words, figures) == (None, {})
    assert "does not know the language of 72 of 72 utterances (“de”: 72)" in notes[0]


def test_without_texts_the_original_transcript_is_the_reference_and_that_is_said() -> None:
    views = make_views(1.0, text=None, heard_after="the cat sat")
    _, figures, notes = measure_words(views, "en", seed=0)
    assert "utility.wer.original" not in figures
    assert figures["utility.wer.anonymized"].value == pytest.approx(0.25)
    assert any("no written text" in note for note in notes)


def test_words_are_counted_against_the_text_in_both_versions() -> None:
    views = make_views(1.0, transcript="the cat sat here", heard_after="the cat ran here")
    _, figures, _ = measure_words(views, "en", seed=0)
    assert figures["utility.wer.original"].value == pytest.approx(0.25)
    assert figures["utility.wer.anonymized"].value == pytest.approx(0.5)
    assert figures["utility.wer.increase"].value == pytest.approx(0.25)


def test_labels_outside_the_recogniser_are_named_and_left_out() -> None:
    views = make_views(1.0, emotion=lambda number: "boredom" if number % 3 == 0 else CLASSES[number % 4])
    confusions, figures, notes = measure_emotions(views, seed=0)
    assert figures["utility.uar.original"].value == 1.0
    assert figures["utility.uar.retained"].value == 1.0
    assert confusions["original"].sum() == 48
    assert any("“boredom”: 24" in note for note in notes)


def test_without_labels_only_agreement_is_measured() -> None:
    confusions, figures, _ = measure_emotions(make_views(1.0, emotion=None), seed=0)
    assert confusions == {}
    assert list(figures) == ["utility.emotion_agreement"]


def test_each_subgroup_gets_its_own_figures() -> None:
    views = make_views(1.0)
    attacks, _, _ = attack(views, attacker_table(views), seed=0)
    words, _, _ = measure_words(views, "en", seed=0)
    figures, _ = measure_subgroups("gender", views, attacks, words, seed=0)
    for gender in "fm":
        for name in ("privacy.lazy_informed.eer", "utility.wer.anonymized", "utility.dnsmos.anonymized"):
            assert f"subgroup.gender.{gender}.{name}" in figures


def test_everything_together_is_evidence_that_governance_accepts() -> None:
    views = make_views(1.0)
    evidence = gather_evidence(views, attacker_table(views), 3, 75, ("gender",), "en", seed=0)
    assert evidence.metrics["data.quarantined_fraction"].value == pytest.approx(0.04)
    assert evidence.metrics["privacy.inference.gender.original"].n == SPEAKERS
    assert evidence.chance["privacy.inference.gender.anonymized"] == 0.5
    assert set(evidence.scores) == {"unprotected", "ignorant", "lazy_informed"}


def test_a_recogniser_that_hears_no_emotion_in_the_original_is_not_believed() -> None:
    views = make_views(1.0, emotion_probabilities=np.eye(4)[0])
    _, figures, _ = measure_emotions(views, seed=0)
    assert figures["utility.uar.original"].value == pytest.approx(0.25)
    assert not figures["utility.uar.retained"].trustworthy
    assert figures["utility.emotion_agreement"].trustworthy


def test_one_utterance_a_speaker_cannot_be_attacked_and_that_is_said() -> None:
    views = make_views(1.0)
    first = list(range(0, SPEAKERS * UTTERANCES, UTTERANCES))
    single = Views(
        [views.utt_ids[row] for row in first],
        [views.speakers[row] for row in first],
        views.original.take(first),
        views.anonymized.take(first),
    )
    attacks, figures, notes = attack(single, attacker_table(single), seed=0)
    assert (attacks, figures) == ({}, {})
    assert "12 speakers have a single utterance" in notes[0]
    assert "at least two speakers with two utterances each" in notes[1]
