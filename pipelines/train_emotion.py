"""Trains the emotion head: Whisper tiny.en statistics of EmoDB, then multinomial logistic regression.

    python -m pipelines.train_emotion --corpus ../shared/speech/emodb --output models/weights/emotion_emodb.safetensors

Prints what it reached, leave-one-speaker-out: each speaker is recognised by a head that never heard them, and whose
regularisation was chosen on the other speakers alone. Writes the head for all speakers and, beside it in the same file,
the head that left each of them out. Nothing is drawn at random: the same corpus on the same kind of processor gives the
same file. Its digest belongs into `models.registry.KNOWN`.
"""

import argparse
import csv
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from models.emotion import CLASSES, EmotionHead, canonical
from models.registry import PROFILES, resolve
from models.whisper import SAMPLE_RATE, Whisper, frame_statistics

GRID = (1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0)  # inverse regularisation strengths C
DRAWS = 10_000
Fold = tuple[NDArray[np.float64], NDArray[np.float64]]  # weight [4, F], bias [4]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--corpus", type=Path, required=True, help="folder with metadata.csv and its audio")
    parser.add_argument("--output", type=Path, required=True, help="the safetensors file to write")
    options = parser.parse_args(arguments)

    whisper = resolve(PROFILES["embedded"]["whisper"])
    rows = [row for row in read_rows(options.corpus) if canonical(row["emotion"])]
    statistics, fingerprint = encode(options.corpus, rows, Whisper(whisper.path))
    labels = np.array([CLASSES.index(canonical(row["emotion"]) or "") for row in rows])
    speakers = np.array([row["speaker_id"] for row in rows])

    folds: dict[str, Fold] = {}
    chosen: dict[str, float] = {}
    predicted = np.empty_like(labels)
    for speaker in sorted(set(speakers)):
        seen = speakers != speaker
        chosen[speaker] = choose_regularisation(statistics[seen], labels[seen], speakers[seen])
        folds[speaker] = fit(statistics[seen], labels[seen], chosen[speaker])
        weight, bias = folds[speaker]
        predicted[~seen] = (statistics[~seen] @ weight.T + bias).argmax(axis=1)
    print(table(labels, predicted, speakers, chosen))

    regularisation = choose_regularisation(statistics, labels, speakers)
    weight, bias = fit(statistics, labels, regularisation)
    value, lower, upper = uar_with_interval(labels, predicted, speakers)
    head = EmotionHead(
        weight.astype(np.float32),
        bias.astype(np.float32),
        {name: (w.astype(np.float32), b.astype(np.float32)) for name, (w, b) in folds.items()},
        {
            "corpus": "EmoDB, Berlin Database of Emotional Speech (Burkhardt et al., Interspeech 2005)",
            "corpus_licence": "made freely available by its authors; distributed by audEERING as CC0 (not verified)",
            "corpus_sha256": fingerprint,
            "utterances": str(len(rows)),
            "regularisation_c": repr(regularisation),
            "whisper": whisper.uri,
            "whisper_sha256": whisper.digests["model.bin"],
            "leave_one_speaker_out_uar": json.dumps({"value": value, "lower": lower, "upper": upper}),
        },
    )
    head.save(options.output)
    written = EmotionHead.load(options.output)
    pairs = zip(speakers, statistics, strict=True)
    answers = np.array([written.for_speaker(speaker).predict(row[None])[0].argmax() for speaker, row in pairs])
    print(f"\nwrote {options.output} ({options.output.stat().st_size:,} bytes)")
    print(f"read again, its left-out heads reach UAR {100 * uar(confusion(labels, answers)):.1f} %")


def read_rows(corpus: Path) -> list[dict[str, str]]:
    with (corpus / "metadata.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def encode(corpus: Path, rows: Sequence[dict[str, str]], whisper: Whisper) -> tuple[NDArray[np.float64], str]:
    """Return the frame statistics [N, 2 * D] of the rows, and a SHA-256 over their names, labels and audio bytes."""
    import soundfile
    import soxr

    statistics = []
    fingerprint = hashlib.sha256()
    for row in rows:
        path = corpus / row["path"]
        fingerprint.update(f"{row['utt_id']}\t{row['speaker_id']}\t{row['emotion']}\t".encode() + path.read_bytes())
        wave, rate = soundfile.read(path, dtype="float32")
        [encoding] = whisper.encode([soxr.resample(wave, rate, SAMPLE_RATE)])
        statistics.append(frame_statistics(encoding))
    return np.stack(statistics).astype(np.float64), fingerprint.hexdigest()


def fit(statistics: NDArray[np.float64], labels: NDArray[np.intp], regularisation: float) -> Fold:
    """Fit a class-balanced multinomial logistic regression on standardised features; fold the standardisation in."""
    from sklearn.linear_model import LogisticRegression

    mean, deviation = statistics.mean(axis=0), statistics.std(axis=0)
    model = LogisticRegression(C=regularisation, class_weight="balanced", max_iter=2_000, tol=1e-6)
    model.fit((statistics - mean) / deviation, labels)
    weight = model.coef_ / deviation
    return weight, model.intercept_ - weight @ mean


def choose_regularisation(
    statistics: NDArray[np.float64], labels: NDArray[np.intp], speakers: NDArray[np.str_]
) -> float:
    """Return the C of `GRID` with the best UAR when each of `speakers` is left out in turn."""
    scores = []
    for candidate in GRID:
        predicted = np.empty_like(labels)
        for speaker in set(speakers):
            seen = speakers != speaker
            weight, bias = fit(statistics[seen], labels[seen], candidate)
            predicted[~seen] = (statistics[~seen] @ weight.T + bias).argmax(axis=1)
        scores.append(uar(confusion(labels, predicted)))
    return GRID[int(np.argmax(scores))]


def confusion(labels: NDArray[np.intp], predicted: NDArray[np.intp]) -> NDArray[np.int64]:
    counts = np.zeros((len(CLASSES), len(CLASSES)), np.int64)
    np.add.at(counts, (labels, predicted), 1)
    return counts


def uar(counts: NDArray[np.int64]) -> float:
    """Unweighted average recall of a confusion matrix [true, predicted] over the classes that occur."""
    total = counts.sum(axis=1)
    return float((counts.diagonal()[total > 0] / total[total > 0]).mean())


def uar_with_interval(
    labels: NDArray[np.intp], predicted: NDArray[np.intp], speakers: NDArray[np.str_]
) -> tuple[float, float, float]:
    """Return UAR and its 95 % percentile interval, resampled by speaker."""
    each = np.stack(
        [confusion(labels[speakers == name], predicted[speakers == name]) for name in sorted(set(speakers))]
    )
    generator = np.random.default_rng(0)
    draws = [uar(each[generator.integers(len(each), size=len(each))].sum(axis=0)) for _ in range(DRAWS)]
    lower, upper = np.quantile(draws, [0.025, 0.975])
    return uar(each.sum(axis=0)), float(lower), float(upper)


def table(
    labels: NDArray[np.intp], predicted: NDArray[np.intp], speakers: NDArray[np.str_], chosen: dict[str, float]
) -> str:
    """Return recall per class and speaker as text, in per cent."""

    def line(name: str, counts: NDArray[np.int64], regularisation: str) -> str:
        recalls = counts.diagonal() / np.maximum(counts.sum(axis=1), 1)
        cells = "".join(f"{100 * recall:9.1f}" for recall in recalls)
        return f"{name:12}{counts.sum():6}{cells}{100 * uar(counts):9.1f}{regularisation:>9}"

    lines = [f"{'speaker':12}{'n':>6}" + "".join(f"{name:>9}" for name in CLASSES) + f"{'UAR':>9}{'C':>9}"]
    for speaker in sorted(set(speakers)):
        own = speakers == speaker
        lines.append(line(speaker, confusion(labels[own], predicted[own]), f"{chosen[speaker]:g}"))
    total = confusion(labels, predicted)
    value, lower, upper = uar_with_interval(labels, predicted, speakers)
    lines.append(line("all", total, ""))
    lines.append(f"\nUAR {100 * value:.1f} % [{100 * lower:.1f}, {100 * upper:.1f}], 95 % interval by speaker")
    lines.append("\nconfusion (rows true)" + "".join(f"{name:>9}" for name in CLASSES))
    for name, row in zip(CLASSES, total, strict=True):
        lines.append(f"{name:21}" + "".join(f"{count:9}" for count in row))
    return "\n".join(lines)


if __name__ == "__main__":
    main()
