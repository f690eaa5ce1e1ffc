"""Figures and evidence of a small release, complete enough that every part of the report has something to show."""

from collections.abc import Callable

import numpy as np

from governance.evidence import Evidence
from governance.report import Report
from metrics.estimate import Estimate

ReportMaker = Callable[..., tuple[Report, Evidence]]  # see the fixture `make_report`


def metrics_of_a_good_release() -> dict[str, Estimate]:
    """Figures that meet every rule of the default policy."""
    metrics = {
        "privacy.unprotected.eer": Estimate(0.01, 0.0, 0.03, 40),
        "privacy.unprotected.min_cllr": Estimate(0.03, 0.01, 0.05, 40),
        "privacy.ignorant.eer": Estimate(0.49, 0.45, 0.5, 40),
        "privacy.lazy_informed.eer": Estimate(0.47, 0.43, 0.5, 40),
        "privacy.semi_informed.eer": Estimate(0.44, 0.38, 0.5, 40),
        "privacy.inference.gender.original": Estimate(0.98, 0.95, 1.0, 40),
        "privacy.inference.gender.anonymized": Estimate(0.57, 0.49, 0.66, 40),
        "utility.wer.original": Estimate(0.07, 0.05, 0.09, 40),
        "utility.wer.anonymized": Estimate(0.11, 0.09, 0.14, 40),
        "utility.wer.increase": Estimate(0.04, 0.02, 0.06, 40),
        "utility.uar.original": Estimate(0.86, 0.8, 0.9, 40),
        "utility.uar.anonymized": Estimate(0.7, 0.62, 0.77, 40),
        "utility.uar.retained": Estimate(0.81, 0.75, 0.9, 40),
        "utility.recall.sad.original": Estimate(0.9, 0.8, 0.95, 40),
        "utility.recall.sad.anonymized": Estimate(0.75, 0.65, 0.85, 40),
        "utility.emotion_agreement": Estimate(0.74, 0.66, 0.81, 40),
        "utility.dnsmos.original": Estimate(3.3, 3.2, 3.4, 40),
        "utility.dnsmos.anonymized": Estimate(2.81, 2.71, 2.9, 40),
        "utility.pitch_correlation": Estimate(0.93, 0.91, 0.95, 40),
        "utility.duration_ratio": Estimate(1.0, 1.0, 1.0, 40),
        "data.quarantined_fraction": Estimate(0.03, 0.03, 0.03, 100),
        "subgroup.gender.female.privacy.lazy_informed.eer": Estimate(0.44, 0.38, 0.5, 20),
        "subgroup.gender.male.privacy.lazy_informed.eer": Estimate(0.48, 0.42, 0.5, 20),
    }
    for population, chance in ((2, 0.5), (10, 0.1)):
        metrics[f"privacy.lazy_informed.linkability.{population}"] = Estimate(chance, chance - 0.02, chance + 0.05, 40)
    for population, chance in ((2, 0.5), (10, 0.387)):
        metrics[f"privacy.lazy_informed.singling_out.{population}"] = Estimate(chance, chance - 0.04, chance + 0.05, 40)
    return metrics


def metrics_of_a_weak_anonymizer() -> dict[str, Estimate]:
    """The same, but the informed attacker recognises the speakers in two comparisons of three."""
    return metrics_of_a_good_release() | {"privacy.lazy_informed.eer": Estimate(0.331, 0.271, 0.391, 40)}


def evidence_of(metrics: dict[str, Estimate]) -> Evidence:
    generator = np.random.default_rng(7)
    return Evidence(
        metrics=metrics,
        scores={
            "unprotected": (generator.normal(0.8, 0.1, 90), generator.normal(0.3, 0.1, 400)),
            "lazy_informed": (generator.normal(0.4, 0.1, 90), generator.normal(0.3, 0.1, 400)),
        },
        confusions={"original": np.array([[9, 1], [0, 8]]), "anonymized": np.array([[7, 3], [2, 6]])},
        emotion_classes=("neutral", "sad"),
        notes=("Enrolment and trial are utterances of one session.",),
        chance={"privacy.inference.gender.original": 0.5, "privacy.inference.gender.anonymized": 0.5},
    )
