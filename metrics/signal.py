"""What anonymization does to melody and length: pitch correlation and duration ratio of an utterance and its source."""

from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike

from metrics.estimate import Estimate
from metrics.intervals import DRAWS, FloatArray, Labels, ratio_estimate, same_length

MINIMUM_VOICED_FRAMES = 10  # with fewer, the correlation of an utterance is mostly chance


def pitch_correlation(f0_a: ArrayLike, f0_b: ArrayLike) -> float:
    """Return Pearson's correlation of log F0 [frames], in hertz, over the frames that are voiced in both, in [-1, 1].

    Unvoiced frames are 0 or NaN; the longer contour is cut to the shorter. On a log scale a change of register drops
    out, as it does for the listener (the VoicePrivacy 2022 pitch correlation is of this kind). NaN where fewer than
    10 frames are voiced in both, or where either contour is flat.
    """
    first, second = np.asarray(f0_a, dtype=np.float64), np.asarray(f0_b, dtype=np.float64)
    frames = min(first.size, second.size)
    first, second = first[:frames], second[:frames]
    voiced = (first > 0) & (second > 0) & np.isfinite(first) & np.isfinite(second)
    if np.count_nonzero(voiced) < MINIMUM_VOICED_FRAMES:
        return float("nan")
    melody_a, melody_b = np.log(first[voiced]), np.log(second[voiced])
    if np.ptp(melody_a) == 0 or np.ptp(melody_b) == 0:
        return float("nan")
    return float(np.corrcoef(melody_a, melody_b)[0, 1])


def duration_ratio(anonymized_seconds: ArrayLike, original_seconds: ArrayLike) -> FloatArray:
    """Return anonymized over original duration [N]; 1 keeps the length. Raises ValueError unless originals last."""
    original = np.asarray(original_seconds, dtype=np.float64)
    if not (original > 0).all():
        raise ValueError("an original utterance has no duration")
    return np.asarray(anonymized_seconds, dtype=np.float64) / original


def mean_estimate(values: ArrayLike, speakers: Labels, seed: int, draws: int = DRAWS) -> Estimate:
    """Estimate the mean of per-utterance values [N], leaving out NaN (not measurable).

    The interval resamples speakers, but `n` counts the utterances that were measurable. Raises ValueError when none
    was, or when a value is infinite.
    """
    array, who = np.asarray(values, dtype=np.float64), np.asarray(speakers)
    same_length(values=array, speakers=who)
    measured = ~np.isnan(array)
    count = int(np.count_nonzero(measured))
    if count == 0:
        raise ValueError("no utterance could be measured")
    return replace(ratio_estimate(array[measured], np.ones(count), who[measured], seed, draws), n=count)
