"""How well an attacker tells whether two utterances are of one person: equal error rate, Cllr and its minimum.

The equal error rate is read off the convex hull of the ROC (ROCCH-EER) and min-Cllr off the same hull, both by pooling
adjacent violators. Chance is 0.5 for the first and 1 for the second; a perfect attacker reaches 0.

The bootstrap resamples speakers on both sides at once: a speaker drawn w times counts w-fold as enrolled and as tried,
so a mated trial weighs w and a non-mated trial the product of its two speakers' weights. Resampling trials, or one side
only, would treat trials that share a person as independent and give intervals that are too narrow (the two-way, or
vertex, bootstrap: Snijders and Borgatti 1999; Owen 2007). Two copies of one person are never a non-mated pair.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import sparse

from metrics.estimate import Estimate, distrust
from metrics.intervals import DRAWS, FloatArray, IntArray, draw_speakers, encode_speakers, percentile_interval
from metrics.roc import RocHull, bin_scores, fit_hull
from metrics.trials import Trials, degenerate_scores

EER_CHANCE = 0.5
MIN_CLLR_CHANCE = 1.0

# Weights of 4,096 trials in 256 draws take 4 MiB: fastest of those tried (benchmarks/metrics.py measures the whole).
TRIALS_AT_ONCE = 4096
DRAWS_AT_ONCE = 256


def trial_hull(trials: Trials) -> RocHull:
    """Fit the hull of all trials, each weighing the same."""
    mated = trials.mated
    mated_bins, nonmated_bins, count = bin_scores(trials.scores[mated], trials.scores[~mated])
    return fit_hull(
        np.bincount(mated_bins, minlength=count).astype(np.float64),
        np.bincount(nonmated_bins, minlength=count).astype(np.float64),
    )


def eer(trials: Trials) -> float:
    """Return the equal error rate on the convex hull of the ROC, in [0, 0.5]; 0.5 is chance."""
    return trial_hull(trials).equal_error_rate


def min_cllr(trials: Trials) -> float:
    """Return the least Cllr that any monotone calibration of the scores reaches, in bits, in [0, 1]; 1 is chance.

    Brümmer and du Preez 2006, "Application-independent evaluation of speaker detection".
    """
    return trial_hull(trials).minimum_cllr


def cllr(trials: Trials) -> float:
    """Return the cost of the scores taken as natural-log likelihood ratios, in bits; 1 is what knowing nothing costs.

    Brümmer and du Preez 2006. Scores on another scale, such as cosines, are charged for their calibration, and the
    figure may then exceed 1 or say little; `min_cllr` does not depend on the scale.
    """
    mated = trials.mated
    costs = log_costs(trials.scores, mated)
    return float((costs[mated].mean() + costs[~mated].mean()) / 2)


def log_costs(scores: FloatArray, mated: NDArray[np.bool_]) -> FloatArray:
    """Return what each score costs in bits: log2(1 + exp(-score)) for a mated trial, log2(1 + exp(score)) otherwise."""
    return np.logaddexp(0.0, np.where(mated, -scores, scores)) / np.log(2)


def det_points(mated: ArrayLike, nonmated: ArrayLike, limit: int = 400) -> tuple[FloatArray, FloatArray]:
    """Return (false alarms, misses) of scores [M] and [N] for a DET plot, thresholds from lowest to highest.

    Points lie on the ROC itself, one for each distinct score, thinned evenly to at most `limit`, and one above all;
    both ends are kept.
    """
    own, others = np.sort(np.asarray(mated, np.float64)), np.sort(np.asarray(nonmated, np.float64))
    thresholds = np.unique(np.concatenate([own, others]))
    kept = np.linspace(0, thresholds.size - 1, min(limit, thresholds.size)).astype(np.int64)
    thresholds = np.append(thresholds[kept], np.inf)
    misses = np.searchsorted(own, thresholds, "left") / max(own.size, 1)
    return 1.0 - np.searchsorted(others, thresholds, "left") / max(others.size, 1), misses


def evaluate_verification(trials: Trials, seed: int, draws: int = DRAWS) -> dict[str, Estimate]:
    """Estimate `eer`, `min_cllr` and `cllr` with 95 % intervals; `n` counts the speakers on either side.

    A draw without a mated or without a non-mated trial is left out. Scores of which most are one number make all three
    untrustworthy.
    """
    mated = trials.mated
    names, codes = encode_speakers(np.concatenate([trials.enrolment_speaker, trials.trial_speaker]))
    enrolled, tried = np.split(codes, 2)
    weights = draw_speakers(names.size, seed, draws)
    eers, min_cllrs = resample_hulls(trials.scores, mated, enrolled, tried, weights)
    hull = trial_hull(trials)
    estimates = {
        "eer": hull_interval(hull.equal_error_rate, eers, names.size, EER_CHANCE),
        "min_cllr": hull_interval(hull.minimum_cllr, min_cllrs, names.size, MIN_CLLR_CHANCE),
        "cllr": percentile_interval(
            cllr(trials), resample_cllr(trials.scores, mated, enrolled, tried, weights), names.size
        ),
    }
    broken = degenerate_scores(trials)
    return {name: distrust(estimate, broken) for name, estimate in estimates.items()}


def hull_interval(value: float, draws: ArrayLike, speaker_count: int, chance: float) -> Estimate:
    """Put an interval around a figure that is read off the hull, ending at `chance` at the most.

    The hull is fitted to the trials that it is read from and so flatters the attacker; a draw, with fewer distinct
    speakers, is flattered more. Percentiles alone would keep 0.5 out of the interval of an attacker who guesses. So
    each end is the outer one of the percentile interval and of the same interval mirrored at the value (the basic
    bootstrap, which takes the flattery back). docs/metrics.md shows how often each covers the truth.
    """
    estimate = percentile_interval(value, draws, speaker_count)
    return Estimate(
        value,
        max(0.0, min(estimate.lower, 2 * value - estimate.upper)),
        min(chance, max(estimate.upper, 2 * value - estimate.lower)),
        speaker_count,
        estimate.trustworthy,
        estimate.reasons,
    )


def resample_hulls(
    scores: FloatArray, mated: NDArray[np.bool_], enrolled: IntArray, tried: IntArray, weights: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Return the equal error rate and min-Cllr [draws] of every resampling `weights` [draws, S]; NaN where undefined.

    Scores are sorted once; a draw changes only how much each bin of score holds.
    """
    mated_bins, nonmated_bins, count = bin_scores(scores[mated], scores[~mated])
    order = np.argsort(nonmated_bins, kind="stable")
    nonmated_bins, first, second = nonmated_bins[order], enrolled[~mated][order], tried[~mated][order]
    by_speaker = sparse.csr_matrix((np.ones(mated_bins.size), (mated_bins, enrolled[mated])), (count, weights.shape[1]))
    eers, min_cllrs = np.full(len(weights), np.nan), np.full(len(weights), np.nan)
    for start in range(0, len(weights), DRAWS_AT_ONCE):
        block = np.ascontiguousarray(weights[start : start + DRAWS_AT_ONCE].T, dtype=np.int32)  # (S, draws)
        mated_weights = np.ascontiguousarray((by_speaker @ block).T, dtype=np.float64)  # (draws, bins)
        nonmated_weights = np.ascontiguousarray(
            pair_histograms(nonmated_bins, first, second, block, count).T, dtype=np.float64
        )
        for draw, (own, others) in enumerate(zip(mated_weights, nonmated_weights, strict=True), start):
            if own.any() and others.any():
                hull = fit_hull(own, others)
                eers[draw], min_cllrs[draw] = hull.equal_error_rate, hull.minimum_cllr
    return eers, min_cllrs


def pair_histograms(
    bins: IntArray, first: IntArray, second: IntArray, weights: NDArray[np.int32], count: int
) -> NDArray[np.int32]:
    """Add weights[first] * weights[second] of all trials [N] into their bins: [count, draws], exact in integers.

    `bins` [N] ascend. Trials are taken a few thousand at a time, so that their weights [trials, draws] stay in cache; a
    sparse matrix of ones then adds up each bin's rows.
    """
    totals = np.zeros((count, weights.shape[1]), dtype=np.int32)
    starts = np.searchsorted(bins, np.arange(count + 1))
    for begin in range(0, bins.size, TRIALS_AT_ONCE):
        end = min(begin + TRIALS_AT_ONCE, bins.size)
        products = weights[first[begin:end]]
        products *= weights[second[begin:end]]
        lowest, highest = bins[begin], bins[end - 1] + 1
        edges = np.clip(starts[lowest : highest + 1], begin, end) - begin
        ones = np.ones(end - begin, dtype=np.int32)
        adder = sparse.csr_matrix((ones, np.arange(end - begin), edges), (highest - lowest, end - begin))
        totals[lowest:highest] += adder @ products
    return totals


def resample_cllr(
    scores: FloatArray, mated: NDArray[np.bool_], enrolled: IntArray, tried: IntArray, weights: FloatArray
) -> FloatArray:
    """Return Cllr [draws] of every resampling `weights` [draws, S]; NaN where a side is missing."""
    speaker_count = weights.shape[1]
    costs = log_costs(scores, mated)

    def mated_sum(values: FloatArray) -> FloatArray:
        return weights @ np.bincount(enrolled[mated], weights=values[mated], minlength=speaker_count)

    def nonmated_sum(values: FloatArray) -> FloatArray:
        cells = (values[~mated], (enrolled[~mated], tried[~mated]))
        sums = sparse.csr_matrix(cells, shape=(speaker_count, speaker_count))
        return np.einsum("ds,sd->d", weights, sums @ weights.T)

    ones = np.ones_like(scores)
    own, others = mated_sum(ones), nonmated_sum(ones)
    defined = (own > 0) & (others > 0)
    result = np.full(len(weights), np.nan)
    result[defined] = (mated_sum(costs)[defined] / own[defined] + nonmated_sum(costs)[defined] / others[defined]) / 2
    return result
