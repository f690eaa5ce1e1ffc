"""Sound: predicted quality, pitch movement and duration."""

import numpy as np

from metrics.estimate import Estimate
from metrics.signal import duration_ratio, mean_estimate, pitch_correlation
from pipelines.evidence.views import Views


def measure_sound(views: Views, seed: int) -> tuple[dict[str, Estimate], list[str]]:
    """Return the figures, and a note where the pitch could not be followed."""
    figures = {}
    for name, table in (("original", views.original), ("anonymized", views.anonymized)):
        figures[f"utility.dnsmos.{name}"] = mean_estimate(table["dnsmos"].to_numpy(), views.speakers, seed)
    ratios = duration_ratio(views.anonymized["seconds"].to_numpy(), views.original["seconds"].to_numpy())
    figures["utility.duration_ratio"] = mean_estimate(ratios, views.speakers, seed)
    contours = zip(views.original["pitch"].to_numpy(), views.anonymized["pitch"].to_numpy(), strict=True)
    correlations = np.array([pitch_correlation(before, after) for before, after in contours])
    notes = []
    if np.isfinite(correlations).any():
        figures["utility.pitch_correlation"] = mean_estimate(correlations, views.speakers, seed)
    else:
        notes.append("No utterance is voiced for long enough in both versions to compare their pitch.")
    return figures, notes
