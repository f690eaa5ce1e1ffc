"""Privacy: the speaker-verification attacker's figures in each scenario."""

import math
from typing import Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from metrics.estimate import Estimate, distrust
from metrics.inference import attribute_inference, inference_chance
from metrics.linkability import linkability
from metrics.singling_out import singling_out
from metrics.trials import EnrolmentTrialSplit, Trials, cosine_trials
from metrics.validity import attack_validity, session_overlap, training_gain, trial_numbers
from metrics.verification import evaluate_verification
from models.attackers import SpeakerBackend
from pipelines.evidence.semi_informed import (
    Listening,
    attack_by_listening,
    attack_in_folds,
    attack_with,
    with_mend,
)
from pipelines.evidence.subgroups import attack_parts
from pipelines.evidence.views import Views, stack
from pipelines.trials import OfficialTrials, keep_listed

Figures = dict[str, Estimate]
Attacks = dict[str, Trials]


def attack(
    views: Views,
    attacker: pa.Table,
    seed: int,
    semi_informed: SpeakerBackend | Listening | Literal["folds"] | None = None,
    official: OfficialTrials | None = None,
) -> tuple[Attacks, Figures, list[str]]:
    """Return the trials of each scenario, their figures, and what a reader has to know.

    `attacker` holds `utt_id` and `embedding` of the enrolment half, anonymized by the attacker with a key of its own.
    `semi_informed` is the back-end of an attacker trained on other people, or what its network heard; "folds" trains
    it on the corpus itself, all of which the table then holds; None leaves this attack out. `official` says who is
    compared with whom; where it is None, everybody is with everybody. Linkability and singling out look for a person
    among all in either case.
    """
    split = views.split(seed, official)
    speakers = np.unique(views.speakers, return_inverse=True)[1]  # codes: a trial carries two of them
    known, tried = speakers[split.enrolment], speakers[split.trial]
    notes = describe_split(views, split, seed, official)
    shown = len(set(known.tolist()) & set(tried.tolist()))
    if shown == 0 or len(set(known.tolist())) < 2:
        notes.append(
            f"The attack needs at least two speakers with two utterances each, and this corpus has {shown}: "
            "nothing is known about its privacy."
        )
        return {}, {}, notes
    lists = {} if official is None else list_trials(views, split, official)
    if official is not None and not lists:
        notes.append(f"None of the lists of {official.source} can be tried: nothing is known about privacy.")
        return {}, {}, notes
    everybody, untrusted, more = score_scenarios(views, split, attacker, seed, semi_informed)
    notes += more
    sessions = np.array([name or f"\0{row}" for row, name in enumerate(views.sessions)])
    shared = session_overlap(known, sessions[split.enrolment], tried, sessions[split.trial])
    attacks = everybody
    if lists:
        any_list = np.logical_or.reduce(list(lists.values()))
        attacks = {scenario: keep_listed(trials, any_list) for scenario, trials in everybody.items()}
    figures: Figures = {}
    for scenario, trials in attacks.items():
        found, missing = measure_attack(scenario, trials, everybody[scenario], seed)
        if scenario == "unprotected":
            reasons = trial_numbers(trials)
        else:
            reasons = attack_validity(figures["privacy.unprotected.eer"], trials)
        if scenario == "semi_informed":
            reasons += (
                training_gain(figures["privacy.lazy_informed.eer"], found["privacy.semi_informed.eer"]) + untrusted
            )
        reasons += shared
        figures |= {name: distrust(figure, reasons) for name, figure in found.items()}
        notes += missing
    if semi_informed is not None and "semi_informed" not in attacks:
        figures["privacy.semi_informed.eer"] = Estimate(math.nan, math.nan, math.nan, 0, False, untrusted)
    if len(lists) > 1:
        parts = {
            scenario: {name: keep_listed(trials, listed) for name, listed in lists.items()}
            for scenario, trials in everybody.items()
        }
        figures |= attack_parts("trials", sorted(lists), parts, seed)
    return attacks, figures, notes


def score_scenarios(
    views: Views,
    split: EnrolmentTrialSplit,
    attacker: pa.Table,
    seed: int,
    semi_informed: SpeakerBackend | Listening | Literal["folds"] | None,
) -> tuple[Attacks, tuple[str, ...], list[str]]:
    """Return the trials of everybody with everybody in each scenario, why the trained attack proves nothing (no reasons
    if all is well), and what a reader has to know of it."""
    speakers = np.unique(views.speakers, return_inverse=True)[1]
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
    if semi_informed is None:
        return attacks, (), []
    try:
        if semi_informed == "folds":
            speaker_of = dict(zip(views.utt_ids, speakers.tolist(), strict=True))
            own_by = np.array([speaker_of[utt_id] for utt_id in own])
            whole = np.stack(list(own.values()))
            trained = attack_in_folds(whole, own_by, informed, informed_of, after, tried, seed)
        elif isinstance(semi_informed, Listening):
            known_ids, tried_ids = ([views.utt_ids[row] for row in rows] for rows in (split.enrolment, split.trial))
            trained = attack_by_listening(semi_informed, known_ids, known, tried_ids, tried)
        else:
            trained = attack_with(semi_informed, informed, informed_of, after, tried)
    except ValueError as fault:
        told = f"The semi-informed attacker could not be trained: {fault}."
        return attacks, with_mend((told,)), [told]
    return attacks | {"semi_informed": trained.trials}, trained.reasons, [trained.note]


def describe_split(views: Views, split: EnrolmentTrialSplit, seed: int, official: OfficialTrials | None) -> list[str]:
    """Say whom the attacker knows and whom it tries, and who takes no part."""
    notes = []
    if split.excluded_speakers:
        notes.append(
            f"{len(split.excluded_speakers)} speakers have a single utterance, which cannot be known to the attacker "
            "and tried at once; they take no part in the attack."
        )
    taking_part = len({views.speakers[row] for row in split.enrolment})
    known, tried = len(split.enrolment), len(split.trial)
    if official is not None:
        lost = len(official.lists) - sum(int(listed.sum()) for listed in list_trials(views, split, official).values())
        notes.append(
            f"Who is compared with whom is not drawn but given: {len(official.lists) - lost} trials of "
            f"{official.source}, of {tried} utterances with {taking_part} speakers whom the attacker knows by {known} "
            "others. Linkability and singling out look for each among all of these speakers."
        )
        if lost:
            notes.append(f"{lost} of the {len(official.lists)} given trials are of recordings that could not be used.")
    elif taking_part >= 2:
        notes.append(
            f"The attacker knows {known} utterances of {taking_part} speakers and tries to recognise these "
            f"speakers in {tried} others. Which are known is drawn for each speaker by a hash of the "
            f"utterance's name (seed {seed})."
        )
    return notes


def list_trials(views: Views, split: EnrolmentTrialSplit, official: OfficialTrials) -> dict[str, NDArray[np.bool_]]:
    """Return for each official list which speakers [S] it compares with which tried utterances [K].

    Speakers are all of the views in sorted order, as trials code them. Lists of which nothing can be tried are left
    out.
    """
    enrolled = {views.speakers[row] for row in split.enrolment}
    names = sorted(set(views.speakers))
    listed = official.listed(names, [views.utt_ids[row] for row in split.trial])
    known = np.array([name in enrolled for name in names])
    mated = np.array(names)[:, None] == np.array([views.speakers[row] for row in split.trial])[None, :]
    matrices = {name: matrix & known[:, None] for name, matrix in listed.items()}
    return {name: one for name, one in matrices.items() if (one & mated).any() and (one & ~mated).any()}


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


def measure_attack(scenario: str, trials: Trials, everybody: Trials, seed: int) -> tuple[Figures, list[str]]:
    """Return the figures of one scenario, and a note for each criterion that its trials do not allow.

    Verification is measured on `trials`, the criteria that look for one among many on `everybody` with everybody.
    """
    prefix = f"privacy.{scenario}"
    figures = {f"{prefix}.{name}": figure for name, figure in evaluate_verification(trials, seed).items()}
    notes = []
    for criterion, measure in (("linkability", linkability), ("singling_out", singling_out)):
        try:
            by_population = measure(everybody, seed)
        except ValueError as fault:
            notes.append(f"{criterion.replace('_', ' ').capitalize()} was not measured ({scenario}): {fault}.")
            continue
        figures |= {f"{prefix}.{criterion}.{population}": figure for population, figure in by_population.items()}
    return figures, notes
