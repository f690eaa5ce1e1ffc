"""The ROC of scored trials and its convex hull, by pooling adjacent violators over exact bins of score.

Knows weights of mated and non-mated trials in order of score, nothing of speakers.
"""

from dataclasses import dataclass

import numpy as np
from scipy.optimize import isotonic_regression
from scipy.special import rel_entr

from metrics.intervals import FloatArray, IntArray


@dataclass(frozen=True, eq=False)
class RocHull:
    """The lower-left convex hull of the ROC: shares of mated and non-mated trials in blocks of rising score.

    Every block but the last ends at a threshold worth using. Both shares add up to 1.
    """

    mated: FloatArray
    nonmated: FloatArray

    @property
    def misses(self) -> FloatArray:
        """Fraction of mated trials rejected, from 0 to 1, at each vertex."""
        return np.concatenate([[0.0], np.cumsum(self.mated)])

    @property
    def false_alarms(self) -> FloatArray:
        """Fraction of non-mated trials accepted, from 1 to 0, at each vertex."""
        return 1.0 - np.concatenate([[0.0], np.cumsum(self.nonmated)])

    @property
    def equal_error_rate(self) -> float:
        """Where misses equal false alarms, in [0, 0.5]."""
        return float(np.interp(0.0, self.misses - self.false_alarms, self.misses))

    @property
    def minimum_cllr(self) -> float:
        """Cllr in bits after the best monotone calibration, in [0, 1].

        A block with share a of the mated and b of the non-mated trials is calibrated to the ratio a / b, which makes
        Cllr (sum a log2(1 + b / a) + sum b log2(1 + a / b)) / 2.
        """
        both = self.mated + self.nonmated
        nats = rel_entr(self.mated, both) + rel_entr(self.nonmated, both)
        return float(max(0.0, -nats.sum() / (2 * np.log(2))))


def fit_hull(mated: FloatArray, nonmated: FloatArray) -> RocHull:
    """Pool adjacent violators over bins of rising score, each holding a weight of mated and of non-mated trials [K].

    Linear in K (Zadrozny and Elkan 2002; Fawcett and Niculescu-Mizil 2007 for its equality with the hull).
    """
    occupied = (mated + nonmated) > 0
    mated, nonmated = mated[occupied], nonmated[occupied]
    weights = mated + nonmated
    starts = isotonic_regression(mated / weights, weights=weights).blocks[:-1]
    return RocHull(np.add.reduceat(mated, starts) / mated.sum(), np.add.reduceat(nonmated, starts) / nonmated.sum())


def bin_scores(mated: FloatArray, nonmated: FloatArray) -> tuple[IntArray, IntArray, int]:
    """Replace scores by the bins between distinct mated scores; return both sides' bins and how many there are.

    A bin begins at a mated score and ends before the next. No vertex of the hull lies inside one, whatever the weights:
    rejecting more non-mated trials while no further mated one is lost is always better. So nothing is rounded, and a
    million non-mated scores become as many bins as there are mated ones.
    """
    edges = np.unique(mated)
    return np.searchsorted(edges, mated, "right"), np.searchsorted(edges, nonmated, "right"), edges.size + 1
