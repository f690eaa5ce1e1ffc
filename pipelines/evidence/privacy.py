"""Privacy: the speaker-verification attacker's figures in each scenario."""

from typing import Literal

import numpy as np
import pyarrow as pa

from metrics.estimate import Estimate, distrust
from metrics.inference import attribute_inference, inference_chance
from metrics.linkability import linkability
from metrics.singling_out import singling_out
from metrics.trials import Trials, cosine_trials
from metrics.validity import attack_validity, session_overlap, training_gain, trial_numbers
from metrics.verification import evaluate_verification
from models.attackers import SpeakerBackend
from pipelines.evidence.semi_informed import attack_in_folds, attack_with
from pipelines.evidence.views import Views, stack

Figures = dict[str, Estimate]
Attacks = dict[str, Trials]


def attack(
    views: Views, attacker: pa.Table, seed: int, semi_informed: SpeakerBackend | Literal["folds"] | None = None
) -> tuple[Attacks, Figures, list[str]]:
    """Return the trials of each scenario, their figures, and what a reader has to know.

    `attacker` holds `utt_id` and `embedding` of the enrolment half, anonymized by the attacker with a key of its own.
    `semi_informed` is the back-end of an attacker trained on other people; "folds" trains it on the corpus itself, all
    of which the table then holds; None leaves this attack out.
    """
    split = views.split(seed)
    notes = []
    taking_part = len(set(views.speakers)) - len(split.excluded_speakers)
    if split.excluded_speakers:
        notes.append(
            f"{len(split.excluded_speakers)} speakers have a single utterance, which cannot be known to the attacker "
            "and tried at once; they take no part in the attack."
        )
    if taking_part < 2:
        notes.append(
            f"The attack needs at least two speakers with two utterances each, and this corpus has {taking_part}: "
            "nothing is known about its privacy."
        )
        return {}, {}, notes
    notes.append(
        f"The attacker knows {len(split.enrolment)} utterances of {taking_part} speakers and tries to recognise these "
        f"speakers in {len(split.trial)} others. Which are known is drawn for each speaker by a hash of the "
        f"utterance's name (seed {seed})."
    )
    speakers = np.unique(views.speakers, return_inverse=True)[1]  # codes: a trial carries two of them
    known, tried = speakers[split.enrolment], speakers[split.trial]
    original, after = stack(views.original, "embedding"), stack(views.anonymized, "embedding")[split.trial]
    own = dict(zip(attacker["utt_id"].to_pylist(), stack(attacker, "embedding"), strict=True))
    # An anonymizer that draws at random may fail where it did well before: then the attacker knows one utterance less.
    heard = [row for row in split.enrolment if views.utt_ids[row] in own]
    informed, informed_of = np.stack([own[views.utt_ids[row]] for row in heard]), speakers[heard]
    attacks = {
        "unprotected": cosine_trials(original[split.enrolment], known, original[split.trial], tried),
        "ignorant": cosine_trials(original[split.enrolment], known, after, tried),
        "lazy_informed": cosine_trials(informed, informed_of, after, tried),
    }
    reasons_of: dict[str, tuple[str, ...]] = {}
    if semi_informed is not None:
        try:
            if semi_informed == "folds":
                speaker_of = dict(zip(views.utt_ids, speakers.tolist(), strict=True))
                everybody = np.array([speaker_of[utt_id] for utt_id in own])
                whole = np.stack(list(own.values()))
                trained = attack_in_folds(whole, everybody, informed, informed_of, after, tried, seed)
            else:
                trained = attack_with(semi_informed, informed, informed_of, after, tried)
            attacks["semi_informed"], reasons_of["semi_informed"] = trained.trials, trained.reasons
            notes.append(trained.note)
        except ValueError as fault:
            notes.append(f"The semi-informed attacker could not be trained: {fault}.")
    sessions = np.array([name or f"\0{row}" for row, name in enumerate(views.sessions)])
    shared = session_overlap(known, sessions[split.enrolment], tried, sessions[split.trial])
    figures: Figures = {}
    for scenario, trials in attacks.items():
        found, missing = measure_attack(scenario, trials, seed)
        if scenario == "unprotected":
            reasons = trial_numbers(trials)
        else:
            reasons = attack_validity(figures["privacy.unprotected.eer"], trials)
        if scenario == "semi_informed":
            reasons += training_gain(figures["privacy.lazy_informed.eer"], found["privacy.semi_informed.eer"])
        reasons += shared + reasons_of.get(scenario, ())
        figures |= {name: distrust(figure, reasons) for name, figure in found.items()}
        notes += missing
    return attacks, figures, notes


def infer_attributes(views: Views, columns: tuple[str, ...], seed: int) -> tuple[Figures, dict[str, float]]:
    """Return how well each labelled column can be read off the speaker embeddings of both views, and what chance is.

    Rows without a label take no part; the classifier is never tested on a speaker that it was trained on.
    """
    figures: Figures = {}
    chance: dict[str, float] = {}
    for column in columns:
        values = views.carried(column)
        rows = [row for row, value in enumerate(values) if value]
        labels = [str(values[row]) for row in rows]
        if len(set(labels)) < 2:
            continue
        speakers = [views.speakers[row] for row in rows]
        for name, table in (("original", views.original), ("anonymized", views.anonymized)):
            metric = f"privacy.inference.{column}.{name}"
            figures[metric] = attribute_inference(stack(table, "embedding")[rows], labels, speakers, seed)
            chance[metric] = inference_chance(labels)
    return figures, chance


def measure_attack(scenario: str, trials: Trials, seed: int) -> tuple[Figures, list[str]]:
    """Return the figures of one scenario, and a note for each criterion that its trials do not allow."""
    prefix = f"privacy.{scenario}"
    figures = {f"{prefix}.{name}": figure for name, figure in evaluate_verification(trials, seed).items()}
    notes = []
    for criterion, measure in (("linkability", linkability), ("singling_out", singling_out)):
        try:
            by_population = measure(trials, seed)
        except ValueError as fault:
            notes.append(f"{criterion.replace('_', ' ').capitalize()} was not measured ({scenario}): {fault}.")
            continue
        figures |= {f"{prefix}.{criterion}.{population}": figure for population, figure in by_population.items()}
    return figures, notes
