"""What pairs and distillation each do: one base fine-tuned three ways on the same speech, and audited four times.

    python -m benchmarks.ablation --config mini --index corpus/index.parquet --model base/ --output FOLDER

Speech is prepared once. All three see the same training speakers and as many steps, and are measured on the same
held-out speakers, in the same voices. A training that is there already is resumed, so the command may be cut and
repeated. Prints a table, whose figures carry 95 % intervals over speakers and a star where the audit does not trust
them, and how the losses on the held-out speakers fell.
"""

import argparse
import os
import shutil
import time
from pathlib import Path

from rich.console import Console

from governance.report import Report
from pipelines.cluster import ray_session
from pipelines.finetune import export_finetune, feed_of, prepare_finetune, run_finetune
from pipelines.finetune_evaluation import audit_of, write_held_out, write_voices
from pipelines.progress import Track, tracking_progress
from pipelines.release import run_job
from pipelines.training.finetune_job import FinetuneJob, load_finetune
from pipelines.training.loop import read_curve
from pipelines.training.model_folder import read_base
from pipelines.training.prepared import read_prepared
from pipelines.training.told import cell

VARIANTS = {
    "no pairs": {"pairing": "speaker", "distillation_weight": 0.0},
    "pairs": {"pairing": "emotional", "distillation_weight": 0.0},
    "pairs + distillation": {"pairing": "emotional"},
}
AUDITED = {
    "UAR": "utility.uar.anonymized",
    "emotion heard alike": "utility.emotion_agreement",
    "WER": "utility.wer.anonymized",
    "EER, lazy-informed": "privacy.lazy_informed.eer",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--config", default="mini")
    parser.add_argument("--index", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    given = {"index": options.index, "model": options.model, "output": options.output}
    jobs = {
        title: load_finetune(options.config, **given, name=title.replace(" ", "-").replace("+", "and"), **changed)
        for title, changed in VARIANTS.items()
    }
    began = time.monotonic()
    with tracking_progress(Console(stderr=True)) as track, ray_session():
        rows = measure(jobs, track)
    print(f"{'':24}{'acoustic loss':>14}{'emotion':>10}" + "".join(f"{name:>34}" for name in AUDITED))
    for title, (curve, report) in rows.items():
        losses = [f"{curve[key]:.3f}" if key in curve else "-" for key in ("validation.acoustic", "validation.emotion")]
        cells = [cell(name, report.metrics.get(name)) for name in AUDITED.values()]
        print(f"{title:24}{losses[0]:>14}{losses[1]:>10}" + "".join(f"{text:>34}" for text in cells))
    print("\nheld-out speakers     step  acoustic loss  emotion distance")
    for title, job in jobs.items():
        for line in read_curve(job.folder / "training"):
            if "validation.acoustic" in line:
                emotion = f"{line['validation.emotion']:.3f}" if job.distillation_weight else "-"
                print(f"{title:20}{line['step']:>6.0f}{line['validation.acoustic']:>15.3f}{emotion:>18}")
    print(f"\n{time.monotonic() - began:.0f} s on the clock")


def measure(jobs: dict[str, FinetuneJob], track: Track) -> dict[str, tuple[dict[str, float], Report]]:
    """Train, export and audit; return the held-out figures of the best step and the report of each, the base first."""
    first = next(iter(jobs.values()))
    prepared = prepare_finetune(first, track)
    feed = feed_of(first, read_base(first.model), prepared)
    index = str(write_held_out(first, feed))
    voices = str(write_voices(first, feed, prepared.recipe.frame_rate))
    rows: dict[str, tuple[dict[str, float], Report]] = {"base": ({}, audit(first, index, first.model, voices, track))}
    for title, job in jobs.items():
        track.say(f"-- {title}")
        if not (job.folder / "prepared").exists():
            shutil.copytree(prepared.folder, job.folder / "prepared", copy_function=os.link)
        read_prepared(job.folder / "prepared", "this benchmark")
        ending = run_finetune(job, (job.folder / "training").exists(), track)
        export_finetune(job, track)
        best = next(line for line in read_curve(job.folder / "training") if line["step"] == ending.best_step)
        if not job.distillation_weight:
            best.pop("validation.emotion", None)  # of a head that was never trained
        rows[title] = best, audit(job, index, str(job.folder / "model"), voices, track)
    return rows


def audit(job: FinetuneJob, index: str, model: str, voices: str, track: Track) -> Report:
    """Return the report on one model."""
    return run_job(audit_of(job, index, model, voices), "audit", False, track).report


if __name__ == "__main__":
    main()
