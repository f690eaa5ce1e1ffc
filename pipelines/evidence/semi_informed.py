"""The semi-informed attack: the trials of an attacker who was trained on speech from the same anonymization system.

The attacker was trained either on a corpus of other people, once, or on folds of the attacked corpus itself. With
folds, every comparison is made by a back-end that has seen neither of the two people: people are dealt into folds, and
for each pair of folds there is a back-end of all the others.
"""

import hashlib
from collections.abc import Hashable
from dataclasses import dataclass
from itertools import combinations_with_replacement
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pyarrow.dataset as pds
from numpy.typing import NDArray

from metrics.trials import Trials, cosine_trials, enrol_speakers, matrix_trials, unit_length
from metrics.validity import FEWEST_TRAINING_SPEAKERS, training_validity
from models.attackers import SpeakerBackend, train_backend

# A back-end a pair of folds: with 12 folds it learns from five sixths of the people, so that 24 people leave the 20 who
# are asked, and there are 78 of them. Where people are many, three fifths are plenty and 15 back-ends are quicker.
FOLDS = 12
FOLDS_OF_MANY = 5
MANY_SPEAKERS = 100

MEND = f"Train it on a corpus of {FEWEST_TRAINING_SPEAKERS} or more other speakers (option --attacker-corpus)."

Rows = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class SemiInformed:
    """The trials, why they prove nothing (no reasons if all is well), and what a reader has to know."""

    trials: Trials
    reasons: tuple[str, ...]
    note: str


@dataclass(frozen=True, eq=False)
class Listening:
    """What an attacker of its own network heard: embeddings by utterance, as it anonymized them itself and as they
    were released; and how it was trained, on whom and with which losses."""

    known: dict[str, Rows]
    released: dict[str, Rows]
    speakers: int
    utterances: int
    losses: tuple[float, ...]


def read_listening(folder: Path, speakers: int, utterances: int, losses: tuple[float, ...]) -> Listening:
    """Read the views `attacker` and `released` of a network's table of embeddings."""
    table = pds.dataset(folder, format="parquet").to_table(filter=pds.field("reason") == "")
    views = {
        view: {row["utt_id"]: np.array(row["embedding"], np.float32) for row in rows.to_pylist()}
        for view in ("attacker", "released")
        for rows in [table.filter(pc.equal(table["view"], view))]
    }
    return Listening(views["attacker"], views["released"], speakers, utterances, losses)


def attack_by_listening(
    listening: Listening, known: list[str], known_by: NDArray, tried: list[str], tried_by: NDArray
) -> SemiInformed:
    """Attack with a network of the attacker's own: utterances `known`, spoken by `known_by` [M], and `tried` [K]."""
    heard = [row for row, utt_id in enumerate(known) if utt_id in listening.known]
    enrolled = np.stack([listening.known[known[row]] for row in heard])
    released = np.stack([listening.released[utt_id] for utt_id in tried])
    note = (
        f"The semi-informed attacker is a network that was trained on {listening.utterances} utterances of "
        f"{listening.speakers} speakers of another corpus, anonymized by the same system; none of these speakers is "
        "attacked."
    )
    trials = cosine_trials(enrolled, known_by[heard], released, tried_by)
    return SemiInformed(trials, training_validity(listening.speakers, listening.losses), note)


def attack_with(
    backend: SpeakerBackend, known: Rows, known_by: NDArray, tried: Rows, tried_by: NDArray
) -> SemiInformed:
    """Attack with a back-end trained on other people: `known` [M, D] spoken by `known_by` [M], `tried` [K, D]."""
    note = (
        f"The semi-informed attacker was trained on {backend.utterances} utterances of {backend.speakers} speakers of "
        "another corpus, anonymized by the same system; none of these speakers is attacked."
    )
    trials = cosine_trials(backend.project(known), known_by, backend.project(tried), tried_by)
    return SemiInformed(trials, with_mend(training_validity(backend.speakers)), note)


def with_mend(reasons: tuple[str, ...]) -> tuple[str, ...]:
    """Add to each reason not to believe an attacker what would mend it."""
    return tuple(f"{reason} {MEND}" for reason in reasons)


def folds_suffice(speakers: int) -> bool:
    """Say whether folds of so many speakers leave enough of them to train on."""
    least, larger = divmod(speakers, fold_count(speakers))
    return speakers - 2 * least - min(larger, 2) >= FEWEST_TRAINING_SPEAKERS


def attack_in_folds(
    own: Rows, own_by: NDArray, known: Rows, known_by: NDArray, tried: Rows, tried_by: NDArray, seed: int
) -> SemiInformed:
    """Attack with back-ends trained on the corpus itself: `own` [N, D] is the attacker's own anonymization of it.

    Raises ValueError where too few speakers are left to train on.
    """
    fold_of = deal_folds(np.concatenate([own_by, known_by, tried_by]), seed)
    own_fold, known_fold, tried_fold = (
        np.array([fold_of[name] for name in names.tolist()]) for names in (own_by, known_by, tried_by)
    )
    names = np.unique(known_by)
    scores = np.empty((names.size, tried_by.size))
    fewest = names.size
    for first, second in combinations_with_replacement(sorted({*known_fold.tolist(), *tried_fold.tolist()}), 2):
        unseen = (own_fold != first) & (own_fold != second)
        backend = train_backend(own[unseen], own_by[unseen])
        fewest = min(fewest, backend.speakers)
        for enrolled, other in {(first, second), (second, first)}:
            rows, columns = known_fold == enrolled, tried_fold == other
            if not rows.any() or not columns.any():
                continue
            centres, found = enrol_speakers(backend.project(known[rows]), known_by[rows])
            block = centres @ unit_length(backend.project(tried[columns])).T
            scores[np.ix_(np.searchsorted(names, found), np.flatnonzero(columns))] = block
    note = (
        "No training corpus was named for the semi-informed attacker, so it learnt from this corpus itself, as the "
        f"attacker anonymized it. Every comparison of two people was made by an attacker that had heard neither of "
        f"them, trained on {fewest} others or more. It knows the recordings better than an outsider would."
    )
    return SemiInformed(matrix_trials(scores, names, tried_by), with_mend(training_validity(fewest)), note)


def deal_folds(speakers: NDArray, seed: int) -> dict[Hashable, int]:
    """Deal the distinct speakers (names or codes) into folds of nearly equal size, ordered by a hash with `seed`."""
    key = hashlib.sha256(str(seed).encode()).digest()
    names = sorted(set(speakers.tolist()), key=lambda name: hashlib.blake2b(str(name).encode(), key=key).digest())
    folds = fold_count(len(names))
    return {name: number % folds for number, name in enumerate(names)}


def fold_count(speakers: int) -> int:
    """Return into how many folds so many speakers are dealt."""
    return FOLDS_OF_MANY if speakers >= MANY_SPEAKERS else FOLDS
