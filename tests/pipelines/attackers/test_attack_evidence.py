"""What an audit says of attacks, the trained one among them, and of those that prove nothing."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from metrics.estimate import Estimate
from metrics.trials import Trials
from models.attackers import train_backend
from pipelines.evidence.privacy import attack
from pipelines.evidence.views import Views

DIMENSIONS, UTTERANCES = 32, 6


def make(
    speakers: int,
    anonymize: Callable[[np.ndarray], np.ndarray],
    session: Callable[[int], str | None] = lambda row: None,
) -> tuple[Views, pa.Table]:
    """Views of a corpus with clear voices whose embeddings went through `anonymize`, and the attacker's table."""
    generator = np.random.default_rng(0)
    names = [f"s{row // UTTERANCES}" for row in range(speakers * UTTERANCES)]
    ids = [f"u{row:03d}" for row in range(len(names))]
    voices = np.repeat(generator.normal(size=(speakers, DIMENSIONS)), UTTERANCES, axis=0)
    original, released, own = (voices + 0.3 * generator.normal(size=voices.shape) for _ in range(3))
    sessions = pa.array([session(row) for row in range(len(names))], pa.string())
    tables = [
        pa.table({"utt_id": ids, "session": sessions, "embedding": list(rows.astype(np.float32))})
        for rows in (original, anonymize(released))
    ]
    attacker = pa.table({"utt_id": ids, "embedding": list(anonymize(own).astype(np.float32))})
    return Views(ids, names, *tables), attacker


def masked(rows: np.ndarray) -> np.ndarray:
    """What is left of a voice lies under loud variation, new for every utterance, in half of the dimensions."""
    loud = np.arange(DIMENSIONS) < DIMENSIONS // 2
    generator = np.random.default_rng(int(abs(rows).sum() * 1e6))
    return rows + np.where(loud, 6.0, 0.1) * generator.normal(size=rows.shape)


@pytest.fixture(scope="module")
def trained() -> tuple[dict[str, Trials], dict[str, Estimate], list[str]]:
    """The attacks, figures and notes of a corpus whose voices are hidden, with an attacker trained in folds."""
    return attack(*make(26, masked), seed=0, semi_informed="folds")


def test_the_trained_attack_has_every_figure_and_its_scores(trained: Any) -> None:
    attacks, figures, notes = trained
    scenario = {name.removeprefix("privacy.semi_informed.") for name in figures if "semi_informed" in name}
    assert {"eer", "min_cllr", "cllr", "linkability.2", "linkability.10", "singling_out.2"} <= scenario
    assert attacks["semi_informed"].scores.size == attacks["lazy_informed"].scores.size
    assert any("No training corpus was named" in note for note in notes)


def test_the_trained_attack_finds_what_the_untrained_one_misses(trained: Any) -> None:
    _, figures, _ = trained
    found, missed = figures["privacy.semi_informed.eer"], figures["privacy.lazy_informed.eer"]
    assert found.trustworthy
    assert found.upper < missed.lower


def test_without_protection_the_trained_attack_is_as_good_as_on_the_original() -> None:
    _, figures, _ = attack(*make(26, lambda rows: rows), seed=0, semi_informed="folds")
    assert abs(figures["privacy.semi_informed.eer"].value - figures["privacy.unprotected.eer"].value) < 0.02


def test_without_being_asked_for_there_is_no_trained_attack() -> None:
    attacks, figures, _ = attack(*make(4, masked), seed=0)
    assert "semi_informed" not in attacks
    assert not any("semi_informed" in name for name in figures)


def test_a_corpus_too_small_to_train_on_says_so_and_names_the_mend() -> None:
    attacks, figures, notes = attack(*make(3, masked), seed=0, semi_informed="folds")
    assert "semi_informed" not in attacks
    figure = figures["privacy.semi_informed.eer"]
    assert not figure.trustworthy
    assert np.isnan(figure.value)
    assert "could not be trained" in figure.reasons[0]
    assert "--attacker-corpus" in figure.reasons[0]
    assert any("could not be trained" in note for note in notes)


def test_training_that_made_the_attacker_worse_proves_nothing() -> None:
    views, attacker = make(26, lambda rows: rows)
    backend = train_backend(np.random.default_rng(0).normal(size=(60, DIMENSIONS)), np.repeat(np.arange(30), 2))
    broken = type(backend)(backend.mean, np.zeros_like(backend.projection) + 1.0, 30, 60)
    _, figures, _ = attack(views, attacker, seed=0, semi_informed=broken)
    figure = figures["privacy.semi_informed.eer"]
    assert not figure.trustworthy
    assert any("Training made the attacker worse" in reason for reason in figure.reasons)


def test_an_utterance_that_the_attacker_could_not_anonymize_is_known_to_nobody() -> None:
    views, attacker = make(12, masked)
    lost = set(views.split(0).enrolment[:2].tolist())
    kept = attacker.take([row for row in range(len(attacker)) if row not in lost])
    attacks, figures, _ = attack(views, kept, seed=0, semi_informed="folds")
    assert np.isfinite(figures["privacy.semi_informed.eer"].value)
    assert attacks["lazy_informed"].scores.size == attacks["ignorant"].scores.size


def test_scores_that_are_all_equal_are_not_trusted() -> None:
    _, figures, notes = attack(*make(12, lambda rows: np.ones_like(rows)), seed=0, semi_informed="folds")
    figure = figures["privacy.lazy_informed.eer"]
    assert figure.value == 0.5
    assert any("All scores are equal" in reason for reason in figure.reasons)
    assert any("nothing to learn" in note for note in notes)


def test_speakers_known_and_tried_in_one_session_are_not_trusted() -> None:
    _, figures, _ = attack(*make(12, masked, session=lambda row: f"day {row // UTTERANCES}"), seed=0)
    assert any("12 of 12 speakers were enrolled and tried in one" in r for r in figures["privacy.ignorant.eer"].reasons)


def test_sessions_are_kept_apart_where_people_have_several() -> None:
    views, attacker = make(12, masked, session=lambda row: f"room {row % 3}")
    split = views.split(0)
    for speaker in set(views.speakers):
        known, tried = (
            {views.sessions[row] for row in rows if views.speakers[row] == speaker}
            for rows in (split.enrolment, split.trial)
        )
        assert known
        assert tried
        assert not known & tried
    _, figures, _ = attack(views, attacker, seed=0)
    assert not any("session" in reason for reason in figures["privacy.ignorant.eer"].reasons)
