"""Pitch and duration: what a shift of register, a gap in voicing and missing values do."""

import numpy as np
import pytest

from metrics.signal import duration_ratio, mean_estimate, pitch_correlation

MELODY = 120.0 * np.exp(0.2 * np.sin(np.linspace(0, 9, 80)))


def test_a_change_of_register_keeps_the_correlation_at_one() -> None:
    assert pitch_correlation(MELODY, 1.7 * MELODY) == pytest.approx(1.0)
    assert pitch_correlation(MELODY, 200.0**2 / MELODY) == pytest.approx(-1.0)


def test_only_frames_voiced_in_both_count() -> None:
    gapped = np.where(np.arange(80) % 3 == 0, 0.0, MELODY)
    holed = np.where(np.arange(80) % 7 == 0, np.nan, MELODY)
    assert pitch_correlation(gapped, holed[:70]) == pytest.approx(1.0)


def test_too_few_voiced_frames_or_a_flat_contour_are_not_measurable() -> None:
    assert np.isnan(pitch_correlation(MELODY[:9], MELODY[:9]))
    assert not np.isnan(pitch_correlation(MELODY[:10], MELODY[:10]))
    assert np.isnan(pitch_correlation(MELODY, np.full(80, 100.0)))


def test_duration_ratio_is_anonymized_over_original() -> None:
    assert duration_ratio([1.0, 3.0], [2.0, 3.0]).tolist() == [0.5, 1.0]
    with pytest.raises(ValueError, match="no duration"):
        duration_ratio([1.0], [0.0])


def test_a_mean_leaves_out_what_could_not_be_measured_and_counts_the_rest() -> None:
    estimate = mean_estimate([1.0, np.nan, 2.0, 6.0], ["a", "a", "b", "c"], seed=0)
    assert (estimate.value, estimate.n) == (3.0, 3)
    assert estimate.lower == 1.0
    with pytest.raises(ValueError, match="no utterance"):
        mean_estimate([np.nan], ["a"], seed=0)
    with pytest.raises(ValueError, match="not finite"):
        mean_estimate([np.inf, 1.0], ["a", "b"], seed=0)
