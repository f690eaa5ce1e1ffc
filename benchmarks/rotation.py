"""What fine-tuning on emotion does to people whom it did not hear, with everybody measured once.

    export VOXVEIL_KEY=…
    python -m benchmarks.rotation --config small --index actors.parquet --model base/ --output FOLDER \\
        --groups emodb-03,emodb-08 emodb-09,emodb-10 emodb-11,emodb-12

The people are in groups; each group in turn is measured, the one after it chooses the best step, and all others are
trained on. A speaker with a person's id, a d and a number (`emodb-03d1` for `emodb-03`) is that person in disguise, as
`sample/disguise_speech.py` writes them: disguises are trained on and choose, and people are measured as they are.
Whoever has no disguises is trained on as he is. What the base has heard before is another question: of the embedded one
docs/model-card.md answers it. The index holds its audio (`voxveil prepare folder … --embed`);
`--words` names speech in the recogniser's language, with texts, for the word error rate.

Trainings that are there already are resumed, so the command may be cut and repeated. Prints, for each group as it ends,
the base beside what became of it, and then the means over groups with their 95 % intervals over groups.
"""

import argparse
import math
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
from rich.console import Console

from benchmarks.ablation import Row, job_of, measure, write_speakers
from benchmarks.choices import shown as told
from metrics.signal import mean_estimate
from operators.schema import InputError
from pipelines.cluster import ray_session
from pipelines.finetune_evaluation import one_key
from pipelines.progress import tracking_progress
from pipelines.survey import open_index

VARIANT = "pairs + distillation"
FIGURES = {
    "UAR": "utility.uar.anonymized",
    "UAR kept": "utility.uar.retained",
    "emotion heard alike": "utility.emotion_agreement",
    "pitch": "utility.pitch_correlation",
    "EER, lazy-informed": "privacy.lazy_informed.eer",
}
WORDS = "WER (--words)"


@dataclass(frozen=True)
class Fold:
    """Ids of speakers: those to train on, those who choose the step, and the people to measure."""

    trained: tuple[str, ...]
    choosing: tuple[str, ...]
    measured: tuple[str, ...]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="small")
    parser.add_argument("--index", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--groups", nargs="+", required=True, help="people to measure together: id,id for each group")
    parser.add_argument("--words", help="index of speech with texts in the recogniser's language")
    parser.add_argument("--utterances", type=int, default=40, help="how many of --words are spoken")
    options = parser.parse_args()
    table = open_index(options.index)[0].to_table()
    groups = [tuple(group.split(",")) for group in options.groups]
    folds = rotate(table["speaker_id"].to_pylist(), groups)
    began = time.monotonic()
    values: dict[str, list[list[float]]] = {"base": [], VARIANT: []}
    print(f"| measured | | {' | '.join((*FIGURES, WORDS))} |\n|{'---|' * (len(FIGURES) + 3)}", flush=True)
    with tracking_progress(Console(stderr=True)) as track, ray_session(), one_key():
        for group, fold in zip(groups, folds, strict=True):
            track.say(f"-- measured: {', '.join(group)}")
            job = job_of(options.config, VARIANT, fold_fields(table, fold, options.model, options.output), {})
            models = measure({VARIANT: job}, options.words, options.utterances, track)
            for title, every in values.items():
                every.append(figures_of(models[title]))
                print(f"| {', '.join(group)} | {title} | {' | '.join(map(shown, every[-1]))} |", flush=True)
    for title, every in values.items():
        print(f"| mean | {title} | {' | '.join(means(every))} |")
    print(f"\n{time.monotonic() - began:.0f} s on the clock")


def rotate(speakers: Sequence[str], groups: Sequence[Sequence[str]]) -> list[Fold]:
    """Return a fold for each group of people. Raises InputError where they are fewer than three, or somebody is in two
    groups or has no speech."""
    people = [person for group in groups for person in group]
    if len(groups) < 3:
        raise InputError("--groups: name three or more; one is measured, one chooses, and the others are trained on")
    if len(set(people)) < len(people):
        raise InputError("--groups: somebody is named twice")
    known = sorted(set(speakers))
    if missing := sorted(set(people) - set(known)):
        raise InputError(f"--groups: nobody is called {', '.join(missing)}")
    if hidden := sorted(name for name in people if re.sub(r"d\d+$", "", name) in set(people) - {name}):
        raise InputError(f"--groups: {', '.join(hidden)}: a disguise of somebody who is named too")
    disguises = {
        person: tuple(name for name in known if re.fullmatch(rf"{re.escape(person)}d\d+", name)) or (person,)
        for person in people
    }
    folds = []
    for number, measured in enumerate(groups):
        choosing = groups[(number + 1) % len(groups)]
        trained = [person for person in people if person not in (*measured, *choosing)]
        heard = (tuple(name for person in part for name in disguises[person]) for part in (trained, choosing))
        folds.append(Fold(*heard, tuple(measured)))
    return folds


def fold_fields(table: pa.Table, fold: Fold, model: str, output: Path) -> dict[str, object]:
    """Write a fold's two indices; return the fields of its job."""
    folder = output / "-".join(fold.measured)
    return {
        "index": write_speakers(table, {*fold.trained, *fold.choosing}, folder / "heard.parquet"),
        "evaluation_index": write_speakers(table, fold.measured, folder / "unheard.parquet"),
        "model": model,
        "output": folder,
        "validation_speakers": fold.choosing,
    }


def figures_of(row: Row) -> list[float]:
    """Return a model's figures; NaN for what was not measured."""
    figures = [row.report.metrics.get(metric) for metric in FIGURES.values()] + [row.wer]
    return [math.nan if figure is None or figure.value is None else figure.value for figure in figures]


def means(every: list[list[float]]) -> list[str]:
    """Return the mean of each figure over groups, those left out in which it was not measured."""
    groups = list(range(len(every)))
    columns = list(zip(*every, strict=True))
    return ["" if all(map(math.isnan, column)) else told(mean_estimate(column, groups, 0)) for column in columns]


def shown(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.3f}"


if __name__ == "__main__":
    main()
