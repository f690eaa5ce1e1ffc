"""How long the verification metrics take, and how often their intervals hold the truth.

`python -m benchmarks.metrics` prints seconds and memory for up to a million scores and 1,000 draws.
`python -m benchmarks.metrics --coverage` simulates corpora whose truth is known and prints how often each 95 % interval
held it, and how often it lay wholly on the side that claims more privacy than there is (nominally 2.5 %).
Speakers are synthetic (Gaussian), because only the number and structure of the scores matter here.
"""

import argparse
import resource
import time

import numpy as np

from metrics.intervals import DRAWS
from metrics.linkability import linkability
from metrics.trials import Trials, cosine_trials, matrix_trials
from metrics.verification import eer, evaluate_verification, min_cllr

CORPORA = 200
DIMENSIONS = 16
UTTERANCES = 5  # for enrolment, and as many for trial


def synthetic_trials(speakers: int, utterances: int, seed: int = 0) -> Trials:
    """Every one of `speakers` enrolled against every one of their `utterances` each, with an EER near 0.16."""
    generator = np.random.default_rng(seed)
    trial_speakers = np.repeat(np.arange(speakers), utterances)
    mated = np.arange(speakers)[:, None] == trial_speakers[None, :]
    return matrix_trials(generator.normal(2.0 * mated, 1.0), np.arange(speakers), trial_speakers)


def print_timings() -> None:
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


def simulate_corpus(generator: np.random.Generator, speakers: int, noise: float, guessing: bool) -> Trials:
    """Speakers at random places, whose utterances scatter around them, some speakers' more than others'.

    A guessing attacker has enrolled other people under the same names.
    """
    centres = generator.normal(size=(speakers, 1, DIMENSIONS))
    scatter = noise * np.exp(0.3 * generator.normal(size=(speakers, 1, 1)))
    shape = (speakers, UTTERANCES, DIMENSIONS)
    enrolled = generator.normal(size=centres.shape) if guessing else centres
    enrolment = enrolled + scatter * generator.normal(size=shape)
    trial = centres + scatter * generator.normal(size=shape)
    names = np.repeat(np.arange(speakers), UTTERANCES)
    return cosine_trials(enrolment.reshape(-1, DIMENSIONS), names, trial.reshape(-1, DIMENSIONS), names)


def print_coverage() -> None:
    """Print, for four attackers and three sizes of corpus, the truth, the mean estimate and the coverage."""
    print(f"{'attacker':>9} {'speakers':>8} {'metric':>14} {'truth':>6} {'mean':>6} {'covered':>8} {'overclaimed':>12}")
    for attacker, noise, guessing in (
        ("strong", 1.0, False),
        ("fair", 2.0, False),
        ("weak", 4.0, False),
        ("guess", 2, True),
    ):
        generator = np.random.default_rng(0)
        large = simulate_corpus(generator, 1200, noise, guessing)
        truth = {"eer": eer(large), "min_cllr": min_cllr(large)}
        truth |= {f"linkability {n}": value.value for n, value in linkability(large, 0, (2, 10), draws=2).items()}
        if guessing:
            truth = {"eer": 0.5, "min_cllr": 1.0, "linkability 2": 0.5, "linkability 10": 0.1}
        for speakers in (10, 20, 50):
            estimates = {name: [] for name in truth}
            for corpus in range(CORPORA):
                trials = simulate_corpus(generator, speakers, noise, guessing)
                found = evaluate_verification(trials, corpus, draws=300)
                found |= {f"linkability {n}": value for n, value in linkability(trials, corpus, (2, 10), 300).items()}
                for name, own in estimates.items():
                    own.append(found[name])
            for name, own in estimates.items():
                covered = np.mean([one.lower <= truth[name] <= one.upper for one in own])
                private_side = [one.upper < truth[name] if "link" in name else one.lower > truth[name] for one in own]
                mean = np.mean([one.value for one in own])
                print(
                    f"{attacker:>9} {speakers:>8} {name:>14} {truth[name]:>6.3f} {mean:>6.3f}",
                    f"{covered:>8.1%} {np.mean(private_side):>12.1%}",
                    flush=True,
                )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--coverage", action="store_true", help="simulate how often intervals hold the truth")
    if parser.parse_args().coverage:
        print_coverage()
    else:
        print_timings()
