"""Subgroups: the figures that matter most, for each value of a column, so that an average hides nobody."""

import math
from collections.abc import Hashable

import numpy as np
from numpy.typing import NDArray

from metrics.estimate import Estimate, distrust
from metrics.intervals import ratio_estimate
from metrics.signal import mean_estimate
from metrics.subgroups import estimate_by_subgroup, within_subgroup_trials
from metrics.trials import Trials
from metrics.validity import attack_validity, trial_numbers
from metrics.verification import evaluate_verification
from pipelines.evidence.views import Views
from pipelines.evidence.words import Words

MOST_SUBGROUPS = 20  # a column with more values than this is likelier to name people than groups


def measure_subgroups(
    column: str, views: Views, attacks: dict[str, Trials], words: Words | None, seed: int
) -> tuple[dict[str, Estimate], list[str]]:
    """Return `subgroup.<column>.<value>.…` figures: the attacks among the members of a subgroup, words and quality.

    Rows without a value form no subgroup. A column that differs within a speaker gives no attack figures.
    """
    values = np.array([value or "" for value in views.carried(column)])
    names = sorted(set(values.tolist()) - {""})
    if len(names) > MOST_SUBGROUPS:
        return {}, [f"The column {column} has {len(names)} distinct values; more than {MOST_SUBGROUPS} name people."]
    if len(names) < 2:
        return {}, [f"The column {column} has {len(names)} distinct value, so there are no subgroups to compare."]
    speakers = np.array(views.speakers)
    figures: dict[str, Estimate] = {}
    notes = []
    value_of = {speaker: sorted(set(values[speakers == speaker].tolist())) for speaker in sorted(set(views.speakers))}
    if all(len(found) == 1 for found in value_of.values()):
        # trials carry speakers as their position among the sorted names
        subgroup_of: dict[Hashable, str] = {code: value_of[name][0] for code, name in enumerate(sorted(value_of))}
        parts = {scenario: within_subgroup_trials(trials, subgroup_of) for scenario, trials in attacks.items()}
        figures |= attack_parts(column, names, parts, seed)
    else:
        notes.append(f"Speakers have more than one value of {column}, so the attack is not split by it.")
    kept = np.isin(values, names)
    quality = views.anonymized["dnsmos"].to_numpy()

    def mean_quality(mask: NDArray[np.bool_]) -> Estimate:
        return mean_estimate(quality[kept][mask], speakers[kept][mask], seed)

    for name, figure in estimate_by_subgroup(values[kept], mean_quality).items():
        figures[f"subgroup.{column}.{name}.utility.dnsmos.anonymized"] = figure
    if words is not None:
        own = kept[words.rows]
        rows = words.rows[own]

        def word_error_rate(mask: NDArray[np.bool_]) -> Estimate:
            errors, lengths = words.anonymized.word_errors[own], words.anonymized.reference_words[own]
            return ratio_estimate(errors[mask], lengths[mask], speakers[rows][mask], seed)

        for name, figure in estimate_by_subgroup(values[rows], word_error_rate).items():
            figures[f"subgroup.{column}.{name}.utility.wer.anonymized"] = figure
    return figures, notes


def attack_parts(column: str, names: list[str], parts: dict[str, dict[str, Trials]], seed: int) -> dict[str, Estimate]:
    """Return the equal error rate of each attack in each part of its trials, trusted only where it may be.

    `parts` holds, for each scenario, the trials of the parts in `names`; a part may be missing.
    """
    figures: dict[str, Estimate] = {}
    missing = Estimate(math.nan, math.nan, math.nan, 0, False, ("Too few speakers of this subgroup were attacked.",))
    for scenario, within in parts.items():  # the unprotected attack comes first: it says how strong the attacker is
        for name in names:
            metric = f"subgroup.{column}.{name}.privacy.{scenario}.eer"
            if name not in within:
                figures[metric] = missing
                continue
            unprotected = figures.get(f"subgroup.{column}.{name}.privacy.unprotected.eer")
            own = within[name]
            reasons = trial_numbers(own) if unprotected is None else attack_validity(unprotected, own)
            figures[metric] = distrust(evaluate_verification(own, seed)["eer"], reasons)
    return figures
