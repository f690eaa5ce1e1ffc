"""Which back-end attacks best: equal error rates on people it never heard, for several kinds and numbers of speakers.

    python -m benchmarks.attackers --voices ../shared/speech/librispeech-voices --cache /tmp/embeddings

Two corpora on which no result is reported: the synthetic sample, and one utterance a reader of LibriSpeech
train-clean-100, cut into up to four pieces of three seconds or more. Each is anonymized with `mcadams` twice, with one
key for the release and with another for the attacker, who enrols and trains on their own; `original` is speech that
nobody anonymized. `hidden` stands for an anonymizer that hides voices well: the embeddings of the pieces lie under loud
variation in 60 of 256 directions. Columns give the number of training speakers; the other half of the people is
attacked. Every cell is a mean over several draws of who is who. Embedding takes minutes; `--cache` keeps the result.
"""

import argparse
import csv
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import soundfile
import torch
from numpy.typing import NDArray

from metrics.trials import Trials, cosine_trials, enrol_speakers, matrix_trials, split_enrolment_trial, unit_length
from metrics.verification import evaluate_verification
from models import registry, speaker
from models.catalogue import AnonymizerSpec, load_anonymizer
from operators.keys import derive_key, keyed_seed

SAMPLE = Path(__file__).parents[1] / "sample" / "english"
RATE = 16_000
SHRINKAGES = (0.02, 0.05, 0.1, 0.2, 0.5, 0.8)
Utterance = tuple[str, str, NDArray[np.float32]]
Corpus = dict[str, NDArray]
Attack = Callable[[NDArray, NDArray, NDArray, NDArray], Trials]


def sample_utterances() -> Iterator[Utterance]:
    for row in pq.read_table(SAMPLE / "index.parquet").to_pylist():
        yield row["utt_id"], row["speaker_id"], soundfile.read(SAMPLE / row["audio"]["path"], dtype="float32")[0]


def pieces_of_voices(folder: Path) -> Iterator[Utterance]:
    with (folder / "metadata.csv").open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            wave, _ = soundfile.read(folder / row["path"], dtype="float32")
            count = max(1, min(4, len(wave) // (3 * RATE)))
            for number, piece in enumerate(np.array_split(wave, count)):
                yield f"{row['utt_id']}-{number}", row["speaker_id"], np.ascontiguousarray(piece)


def embed(utterances: Iterator[Utterance]) -> Corpus:
    """Return ids, speakers and GE2E embeddings of the original, the released and the attacker's version."""
    encoder = speaker.load(registry.resolve(registry.PROFILES["embedded"]["speaker"]).path)
    anonymizer = load_anonymizer(AnonymizerSpec("mcadams"), RATE)
    columns: dict[str, list] = {"ids": [], "speakers": [], "original": [], "released": [], "attacker": []}
    for utt_id, name, wave in utterances:
        columns["ids"].append(utt_id)
        columns["speakers"].append(name)
        columns["original"].append(encoder.embed([wave])[0])
        for version in ("released", "attacker"):
            key = derive_key(version.encode() * 4, "voices")
            voice = anonymizer.draw_voice(keyed_seed(key, "voice", utt_id))
            spoken = anonymizer.anonymize([torch.from_numpy(wave)], [voice], [0])[0]
            columns[version].append(encoder.embed([spoken.numpy().astype(np.float32)])[0])
    return {name: np.array(column) for name, column in columns.items()}


def hidden_voices(corpus: Corpus) -> Corpus:
    """Return the corpus with the original embeddings under random variation, loud in few directions."""
    generator = np.random.default_rng(0)
    dimensions = corpus["original"].shape[1]
    directions = np.linalg.qr(generator.normal(size=(dimensions, 60)))[0].T
    hidden = dict(corpus)
    for version in ("released", "attacker"):
        loudness = generator.normal(size=(len(corpus["ids"]), 60)) * np.geomspace(0.6, 0.06, 60)
        hidden[version] = unit_length(0.5 * corpus["original"] + loudness @ directions)
    return hidden


def no_training(embeddings: NDArray, speakers: NDArray) -> Attack:
    return cosine_trials


def discriminant_analysis(directions: int | None, shrinkage: float | str) -> Callable[[NDArray, NDArray], Attack]:
    """Return a trainer of scikit-learn's LDA, some of its directions kept (None: all), scored by the cosine."""
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

    def train(embeddings: NDArray, speakers: NDArray) -> Attack:
        analysis = LinearDiscriminantAnalysis(solver="eigen", shrinkage=shrinkage).fit(embeddings, speakers)
        mean, projection = embeddings.mean(axis=0), analysis.scalings_[:, :directions]

        def attack(known: NDArray, known_by: NDArray, tried: NDArray, tried_by: NDArray) -> Trials:
            return cosine_trials((known - mean) @ projection, known_by, (tried - mean) @ projection, tried_by)

        return attack

    return train


def plda(directions: int, rank: int) -> Callable[[NDArray, NDArray], Attack]:
    """Return a trainer of SpeechBrain's PLDA after scikit-learn's LDA to so many directions."""
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
    from speechbrain.processing.PLDA_LDA import PLDA, Ndx, StatObject_SB, fast_PLDA_scoring

    def as_statistics(rows: NDArray, models: Sequence[str]) -> "StatObject_SB":
        nothing = np.array([None] * len(rows))
        names = np.array([f"{number:06d}" for number in range(len(rows))], object)
        return StatObject_SB(np.array(models, object), names, nothing, nothing, np.ones((len(rows), 1)), rows.copy())

    def train(embeddings: NDArray, speakers: NDArray) -> Attack:
        analysis = LinearDiscriminantAnalysis(solver="eigen", shrinkage=0.2).fit(embeddings, speakers)
        mean, projection = embeddings.mean(axis=0), analysis.scalings_[:, :directions]
        model = PLDA(rank_f=min(rank, directions))
        model.plda(as_statistics(unit_length((embeddings - mean) @ projection), list(speakers)))

        def attack(known: NDArray, known_by: NDArray, tried: NDArray, tried_by: NDArray) -> Trials:
            centres, names = enrol_speakers((known - mean) @ projection, known_by)
            enrolled = as_statistics(centres, [f"{number:06d}" for number in range(len(centres))])
            shown = as_statistics(unit_length((tried - mean) @ projection), list(tried_by))
            pairs = Ndx()
            pairs.modelset, pairs.segset = enrolled.modelset, shown.segset
            pairs.trialmask = np.ones((len(centres), len(tried)), bool)
            scored = fast_PLDA_scoring(enrolled, shown, pairs, model.mean, model.F, model.Sigma, check_missing=False)
            return matrix_trials(scored.scoremat, names, tried_by)

        return attack

    return train


BACKENDS: dict[str, Callable[[NDArray, NDArray], Attack]] = {
    "untrained (cosine)": no_training,
    "LDA, 20 directions, shrinkage 0.1": discriminant_analysis(20, 0.1),
    "LDA, 80 directions, shrinkage 0.1": discriminant_analysis(80, 0.1),
    "LDA, all, shrinkage by Ledoit and Wolf": discriminant_analysis(None, "auto"),
    **{f"LDA, all, shrinkage {amount}": discriminant_analysis(None, amount) for amount in SHRINKAGES},
    "PLDA of rank 20 after LDA to 40": plda(40, 20),
}


def equal_error_rate(
    corpus: Corpus, train: Callable[[NDArray, NDArray], Attack], speakers: int, anonymized: bool, draws: int
) -> float:
    """Return the mean rate over draws of who trains and who is attacked; NaN where training breaks down."""
    ours, theirs = ("attacker", "released") if anonymized else ("original", "original")
    rates = []
    for seed in range(draws):
        names = np.random.default_rng(seed).permutation(np.unique(corpus["speakers"]))
        training = np.isin(corpus["speakers"], names[len(names) // 2 :][:speakers])
        attacked = np.flatnonzero(np.isin(corpus["speakers"], names[: len(names) // 2]))
        by = corpus["speakers"][attacked]
        split = split_enrolment_trial(corpus["ids"][attacked].tolist(), by.tolist(), seed)
        known, tried = attacked[split.enrolment], attacked[split.trial]
        try:
            attack = train(corpus[ours][training].astype(np.float64), corpus["speakers"][training])
            trials = attack(corpus[ours][known], by[split.enrolment], corpus[theirs][tried], by[split.trial])
            rates.append(evaluate_verification(trials, 0, draws=2)["eer"].value)
        except (ValueError, np.linalg.LinAlgError):
            return float("nan")
    return float(np.mean(rates))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--voices", type=Path, help="folder of librispeech-voices; left out: the sample alone")
    parser.add_argument("--cache", type=Path, help="folder that keeps the embeddings")
    options = parser.parse_args()
    sources = {"sample": (sample_utterances, (5, 12), 8)}
    if options.voices:
        sources["voices"] = (lambda: pieces_of_voices(options.voices), (8, 20, 50, 125), 4)
    columns: dict[str, list[float]] = {}
    for name, (utterances, sizes, draws) in sources.items():
        kept = options.cache / f"{name}.npz" if options.cache else None
        if kept and kept.exists():
            corpus = dict(np.load(kept))
        else:
            corpus = embed(utterances())
            if kept:
                kept.parent.mkdir(parents=True, exist_ok=True)
                np.savez(kept, **corpus)
        corpora = {name: (corpus, True), f"{name}, original": (corpus, False)}
        if name == "voices":
            corpora["voices, hidden"] = (hidden_voices(corpus), True)
        for label, (heard, anonymized) in corpora.items():
            for size in sizes:
                columns[f"{label} {size}"] = [
                    equal_error_rate(heard, train, size, anonymized, draws) for train in BACKENDS.values()
                ]
    print("| back-end | " + " | ".join(columns) + " |")
    print("|---|" + "---|" * len(columns))
    for row, backend in enumerate(BACKENDS):
        print(f"| {backend} | " + " | ".join(f"{100 * rates[row]:.1f}" for rates in columns.values()) + " |")


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main()
