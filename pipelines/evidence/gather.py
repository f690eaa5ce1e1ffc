"""Gather: every figure of an audit in one piece of evidence."""

from typing import Literal

import pyarrow as pa

from governance.evidence import Evidence
from metrics.estimate import Estimate
from models.attackers import SpeakerBackend
from models.emotion import CLASSES
from pipelines.evidence.emotions import measure_emotions
from pipelines.evidence.privacy import attack, infer_attributes
from pipelines.evidence.semi_informed import Listening
from pipelines.evidence.sound import measure_sound
from pipelines.evidence.subgroups import measure_subgroups
from pipelines.evidence.views import Views
from pipelines.evidence.words import measure_words
from pipelines.trials import OfficialTrials


def gather_evidence(
    views: Views,
    attacker: pa.Table,
    unusable: int,
    rows: int,
    subgroups: tuple[str, ...],
    language: str,
    seed: int,
    semi_informed: SpeakerBackend | Listening | Literal["folds"] | None = None,
    official: OfficialTrials | None = None,
) -> Evidence:
    """Return all figures. `unusable` of `rows` input rows were set aside; `language` is that of rows naming none.

    `attacker`, `semi_informed` and `official` are as in `privacy.attack`.
    """
    share = unusable / rows
    metrics = {"data.quarantined_fraction": Estimate(share, share, share, rows)}  # counted: the interval is a point
    attacks, figures, notes = attack(views, attacker, seed, semi_informed, official)
    metrics |= figures
    figures, chance = infer_attributes(views, subgroups, seed)
    metrics |= figures
    words, figures, more = measure_words(views, language, seed)
    metrics |= figures
    notes += more
    confusions, figures, more = measure_emotions(views, seed)
    metrics |= figures
    notes += more
    figures, more = measure_sound(views, seed)
    metrics |= figures
    notes += more
    for column in subgroups:
        figures, more = measure_subgroups(column, views, attacks, words, seed)
        metrics |= figures
        notes += more
    scores = {name: (trials.scores[trials.mated], trials.scores[~trials.mated]) for name, trials in attacks.items()}
    return Evidence(metrics, scores, confusions, CLASSES if confusions else (), notes, chance)
