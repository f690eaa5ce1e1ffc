"""How long the verification metrics take with a 95 % interval: `python -m benchmarks.metrics` prints a table.

Scores are synthetic (Gaussian speakers), because only their number and structure matter here: speakers, trials, draws.
"""

import resource
import time

import numpy as np

from metrics.intervals import DRAWS
from metrics.trials import Trials, matrix_trials
from metrics.verification import eer, evaluate_verification


def synthetic_trials(speakers: int, utterances: int, seed: int = 0) -> Trials:
    """Every one of `speakers` enrolled against every one of their `utterances` each, with an EER near 0.16."""
    generator = np.random.default_rng(seed)
    trial_speakers = np.repeat(np.arange(speakers), utterances)
    mated = np.arange(speakers)[:, None] == trial_speakers[None, :]
    return matrix_trials(generator.normal(2.0 * mated, 1.0), np.arange(speakers), trial_speakers)


def main() -> None:
    """Print seconds for one point value and for all three metrics with 1,000 draws."""
    print(f"{'speakers':>8} {'trials':>10} {'eer, s':>8} {f'{DRAWS} draws, s':>14} {'peak, MiB':>10}")
    for speakers, utterances in ((10, 10), (40, 25), (100, 100), (1000, 1)):
        trials = synthetic_trials(speakers, utterances)
        start = time.perf_counter()
        eer(trials)
        middle = time.perf_counter()
        evaluate_verification(trials, seed=0)
        end = time.perf_counter()
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(f"{speakers:>8} {trials.scores.size:>10,} {middle - start:>8.2f} {end - middle:>14.2f} {peak:>10.0f}")


if __name__ == "__main__":
    main()
