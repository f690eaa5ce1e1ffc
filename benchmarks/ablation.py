"""What pairs and distillation each do: one base fine-tuned three ways on the same speech, and audited four times.

    export VOXVEIL_KEY=…
    python -m benchmarks.ablation --config mini --index corpus/index.parquet --model base/ --output FOLDER

`--index` has speakers and emotions, and holds its audio (`voxveil prepare folder … --embed`). A third of its speakers,
or those of `--aside`, are set aside before anything else and heard by no training; of the others some, or those of
`--choose`, are held out to choose each training's best step. All three trainings see the same speakers for as many
steps, and all four models are measured on the same speech in the same voices. Where no distillation moves the model, a
probe learns beside it what the hidden states tell of the teacher's frames. `--words` names speech in the recogniser's
language, with texts, for the word error rate; it is heard to its end where the model can, while the audits hear what a
release of `--index` would.

Trainings that are there already are resumed, so the command may be cut and repeated. Prints a table, whose figures
carry 95 % intervals over speakers and a star where the audit does not trust them, and how the losses of held-out
speakers fell.
"""

import argparse
import os
import shutil
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from rich.console import Console

from governance.report import Figure, Report
from metrics.intervals import ratio_estimate
from metrics.recognition import count_errors
from models import registry
from models.streamvoiceanon import StreamVoiceAnon, VoiceBank
from models.whisper import Whisper
from operators.decode import Decode, decode_wave
from operators.schema import InputError
from pipelines.cluster import ray_session
from pipelines.finetune import export_finetune, feed_of, prepare_finetune, run_finetune
from pipelines.finetune_evaluation import audit_of, one_key, write_voices
from pipelines.progress import Track, tracking_progress
from pipelines.release import run_job
from pipelines.survey import open_index
from pipelines.training.finetune_job import FinetuneJob, load_finetune
from pipelines.training.loop import read_curve
from pipelines.training.model_folder import read_base
from pipelines.training.told import cell

VARIANTS: dict[str, dict[str, object]] = {
    "no pairs": {"pairing": "speaker", "distillation_weight": 0.0},
    "pairs": {"pairing": "emotional", "distillation_weight": 0.0},
    "pairs + distillation": {"pairing": "emotional"},
}
AUDITED = {
    "UAR": "utility.uar.{view}",
    "emotion heard alike": "utility.emotion_agreement",
    "pitch correlation": "utility.pitch_correlation",
    "EER, lazy-informed": "privacy.lazy_informed.eer",
}
UNPROTECTED = {"EER, lazy-informed": "privacy.unprotected.eer"}
SET_ASIDE, SEED = 1 / 3, 0
WHISPER_RATE, LONGEST = 16_000, 60.0  # hertz, seconds


@dataclass(frozen=True)
class Row:
    """A model, audited; `view` says whose speech the figures are of."""

    report: Report
    view: str
    wer: Figure | None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="mini")
    parser.add_argument("--index", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--aside", nargs="+", help="speakers to set aside and measure; a third, drawn, without")
    parser.add_argument("--choose", nargs="+", default=[], help="who chooses the step; a share, drawn, without")
    parser.add_argument("--words", help="index of speech with texts in the recogniser's language")
    parser.add_argument("--utterances", type=int, default=40, help="how many of --words are spoken")
    options = parser.parse_args()
    heard, unheard = set_aside(options.index, options.output, options.aside)
    given: dict[str, object] = {
        "index": heard,
        "model": options.model,
        "output": options.output,
        "evaluation_index": unheard,
        "validation_speakers": tuple(options.choose),
    }
    jobs = {title: job_of(options.config, title, given, changed) for title, changed in VARIANTS.items()}
    began = time.monotonic()
    with tracking_progress(Console(stderr=True)) as track, ray_session(), one_key():
        rows = measure(jobs, options.words, options.utterances, track)
    print_table(rows)
    print("\nheld-out speakers     step  acoustic loss  emotion distance")
    for title, job in jobs.items():
        for line in read_curve(job.folder / "training"):
            if "validation.acoustic" in line:
                losses = line["validation.acoustic"], line["validation.emotion"]
                print(f"{title:20}{line['step']:>6.0f}{losses[0]:>15.3f}{losses[1]:>18.3f}")
    print(f"\n{time.monotonic() - began:.0f} s on the clock")


def job_of(config: str, title: str, given: Mapping[str, object], changed: Mapping[str, object]) -> FinetuneJob:
    """Return a variant's job, which runs all its steps."""
    job = load_finetune(config, **given, name=title.replace(" ", "-").replace("+", "and"), **changed)
    return job.model_copy(update={"training": job.training.model_copy(update={"patience": None})})


def set_aside(index: str, output: Path, aside: list[str] | None = None) -> tuple[str, str]:
    """Write an index of the speakers to train on and one of those to measure; return both. Raises InputError."""
    table = open_index(index)[0].to_table()
    known = sorted(set(table["speaker_id"].to_pylist()))
    if missing := set(aside or ()) - set(known):
        raise InputError(f"--aside: nobody in {index} is called {', '.join(sorted(missing))}")
    measured = aside or list(np.random.default_rng(SEED).permutation(known)[: round(len(known) * SET_ASIDE)])
    heard = write_speakers(table, set(known) - set(measured), output / "heard.parquet")
    return heard, write_speakers(table, measured, output / "unheard.parquet")


def write_speakers(table: pa.Table, speakers: Collection[str], path: Path) -> str:
    """Write an index of some speakers of an index, for the eyes of its owner alone; return its absolute path.

    Raises InputError where audio lies in files, whose paths would lead nowhere from there.
    """
    if pc.any(pc.is_null(pc.struct_field(table["audio"], "bytes"))).as_py():
        raise InputError("--index: some audio lies in files beside it: `voxveil prepare folder … --embed`")
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.touch(mode=0o600)
    chosen = pc.is_in(table["speaker_id"], pa.array(sorted(speakers), pa.string()))
    pq.write_table(table.filter(chosen), path, row_group_size=16)
    return str(path.absolute())


def measure(jobs: Mapping[str, FinetuneJob], words: str | None, utterances: int, track: Track) -> dict[str, Row]:
    """Train, export and audit; return the original speech, the base and each variant."""
    first = next(iter(jobs.values()))
    prepared = prepare_finetune(first, track)
    feed = feed_of(first, read_base(first.model), prepared)
    voices = str(write_voices(first, feed, prepared.recipe.frame_rate))
    report = audit(first, first.model, voices, track)
    rows = {
        "original": Row(report, "original", spoken_wer(None, voices, words, utterances)),
        "base": Row(report, "anonymized", spoken_wer(first.model, voices, words, utterances)),
    }
    for title, job in jobs.items():
        track.say(f"-- {title}")
        if not (job.folder / "prepared").exists():
            partial = job.folder / ".prepared"
            shutil.rmtree(partial, ignore_errors=True)
            shutil.copytree(prepared.folder, partial, copy_function=os.link)
            partial.rename(job.folder / "prepared")
        ending = run_finetune(job, (job.folder / "training").exists(), track)
        if ending.ended != "done":
            raise RuntimeError(f"the training {title!r} ended early: {ending.ended}, {ending.detail}")
        model = str(export_finetune(job, track).folder)
        rows[title] = Row(audit(job, model, voices, track), "anonymized", spoken_wer(model, voices, words, utterances))
    return rows


def audit(job: FinetuneJob, model: str, voices: str, track: Track) -> Report:
    """Return the report on one model."""
    return run_job(audit_of(job, str(job.evaluation_index), model, voices), "audit", False, track).report


def spoken_wer(model: str | None, voices: str, index: str | None, utterances: int) -> Figure | None:
    """Return how many words the embedded recogniser misses of `utterances` from an index, as a model speaks them.

    None for `model` is the speech itself; None for `index` measures nothing.
    """
    if index is None:
        return None
    dataset, folder = open_index(index)
    every = dataset.to_table(columns=["speaker_id", "text", "audio"]).to_pylist()
    rows = [row for row in every if (row["text"] or "").strip()]
    rows = rows[:: max(1, len(rows) // utterances)][:utterances]
    # The prosody of the audits beside it; words hardly hang on what pitch is usual, which is left out.
    anonymizer = None if model is None else StreamVoiceAnon.from_pretrained(model, context="auto", prosody="full")
    rate = WHISPER_RATE if anonymizer is None else anonymizer.sample_rate
    reader = Decode(folder, rate, LONGEST)
    waves = [torch.from_numpy(decode_wave(reader.read(row["audio"]), rate, LONGEST)) for row in rows]
    if anonymizer is not None:
        bank = VoiceBank.load(Path(voices))
        waves = anonymizer.anonymize(waves, [bank.draw(seed) for seed in range(len(rows))], seeds=range(len(rows)))
    whisper = Whisper(registry.resolve(registry.PROFILES["embedded"]["whisper"]).path)
    heard = whisper.transcribe(whisper.encode([wave.numpy() for wave in waves]))
    counts = count_errors([row["text"] for row in rows], heard, "en")
    return Figure.of(
        ratio_estimate(counts.word_errors, counts.reference_words, [row["speaker_id"] for row in rows], SEED)
    )


def print_table(rows: Mapping[str, Row]) -> None:
    """Print a line for each model."""
    print(f"{'':22}" + "".join(f"{name:>28}" for name in (*AUDITED, "WER (--words)")))
    for title, row in rows.items():
        cells = []
        for name, metric in AUDITED.items():
            wanted = metric.format(view=row.view)
            if row.view == "original":  # of which not every figure speaks
                wanted = UNPROTECTED.get(name, wanted if wanted != metric else "")
            cells.append(cell(metric.format(view="anonymized"), row.report.metrics.get(wanted)))
        cells.append(cell("utility.wer.anonymized", row.wer))
        print(f"{title:22}" + "".join(f"{text:>28}" for text in cells))


if __name__ == "__main__":
    main()
