"""Fine-tuning: from a labelled corpus and a base model to a model that keeps the emotion, and its audit.

    index -> prepare (codes, voices, teacher features) -> run (train) -> export (model folder, registry) -> evaluate

Every step leaves its result in the fine-tuning's private folder and is a command of its own.

<output>/<name>/finetune/   prepared/  training/  model/  samples/  voices.parquet  evaluation.parquet  result.json
"""

import importlib.util
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from governance.tracking import tracking_uri
from governance.training_record import TrainingRecord, folder_digest
from models import registry
from operators.codes import ComputeCodes
from operators.schema import InputError
from operators.select import has_ids
from operators.teach import TEACHERS, Teach
from pipelines.anonymize import digest_of
from pipelines.cluster import ray_session
from pipelines.survey import Survey, open_index, read_batches, survey_index
from pipelines.training.codes_feed import CodesFeed, PairSettings, check_labels
from pipelines.training.finetune_job import FinetuneJob
from pipelines.training.model_folder import Base, read_base, write_model
from pipelines.training.pairs import Spoken
from pipelines.training.prepared import Prepared, Recipe, corpus_digest, prepare, read_prepared
from pipelines.training.run_folder import begin, training_digest, training_id

if TYPE_CHECKING:
    from models.streamvoiceanon import Config
    from models.streamvoiceanon.training.language_model import LanguageModelTask
    from pipelines.progress import Track
    from pipelines.training.loop import Ending

STEP = "train"


def prepare_finetune(job: FinetuneJob, track: "Track") -> Prepared:
    """Compute codes, style, timbre and teacher features of every labelled utterance. Raises InputError."""
    from models.streamvoiceanon import Config

    survey = survey_index(job.index, ("emotion",))
    corpus = check_labels(read_labels(job.index, survey), pair_settings(job, Config()))  # lengths are known later
    if corpus.unknown:
        track.say(f"labels that the teacher {job.teacher} does not know are left out: {', '.join(corpus.unknown)}")
    base = read_base(job.model)
    teacher, weights = teacher_of(job)
    sample_rate, frame_rate = base.config.frames.sample_rate, 1.0 / base.config.frames.seconds
    corpus_now = corpus_digest(job.index, survey)
    recipe = Recipe(corpus_now, base.digest, teacher, sample_rate, frame_rate, job.min_seconds, job.max_seconds)
    wanted = frozenset(utterance.utt_id for utterance in (*corpus.training, *corpus.validation)) - survey.duplicate_ids
    steps: list[Any] = [(ComputeCodes, {"model": str(base.folder), "device": job.device})]
    columns = codes_columns(base.config.content_encoder.nearest)
    if weights:
        rates = {"sample_rate": sample_rate, "frame_rate": frame_rate}
        steps.append((Teach, {"teacher": job.teacher, "weights": weights, "device": job.device, **rates}))
        columns |= {"teacher": pa.list_(pa.float32()), "teacher_width": pa.int32()}
    with ray_session():
        prepared = prepare(
            job.folder / "prepared", recipe, survey, wanted, steps, columns, job.workers, job.gpus, track
        )
    track.say(prepared.told())
    feed = feed_of(job, base, prepared)
    if feed.corpus.too_long:
        track.say(f"{feed.corpus.too_long} utterances are longer than a sequence holds and are left out")
    return prepared


def codes_columns(nearest: int = 1) -> dict[str, pa.DataType]:
    """Return the Parquet columns of `ComputeCodes`, with an encoder that hears so many codes at once."""
    codes, vector = pa.list_(pa.int32()), pa.list_(pa.float32())
    return {
        "frames": pa.int32(),
        "content": codes if nearest == 1 else vector,
        "acoustic": codes,
        "style": vector,
        "timbre": vector,
        "timbre_latents": pa.int32(),
    }


def read_labels(index: str, survey: Survey) -> list[Spoken]:
    """Return the labels of an index, of utterances with an id of their own."""
    names = [name for name in ("utt_id", "speaker_id", "emotion", "text") if name in survey.schema.names]
    spoken = []
    for batch in read_batches(open_index(index)[0], names, index):
        for row in batch.filter(has_ids(batch)).to_pylist():
            if row["utt_id"] not in survey.duplicate_ids:
                label, text = row.get("emotion") or "", row.get("text") or ""
                spoken.append(Spoken(row["utt_id"], row["speaker_id"], label, text, 1))
    return spoken


def teacher_of(job: FinetuneJob) -> tuple[str, str]:
    """Return what the teacher is, by name and digest, and the URI of its weights ("" without one).

    Raises WeightsMissing, or InputError where emotion2vec cannot be loaded.
    """
    if job.teacher == "none":
        return "none", ""
    uri = job.teacher_weights or TEACHERS[job.teacher].weights or ""
    resolved = registry.resolve(uri)
    if job.teacher == "emotion2vec":
        check_emotion2vec(resolved.path)
    return f"{job.teacher} {digest_of(resolved.digests)}", uri


def check_emotion2vec(path: Path) -> None:
    """Raise InputError where the folder is no emotion2vec model, or the package that loads it is not installed."""
    from models.streamvoiceanon.training.teachers import check_emotion2vec_config

    try:
        check_emotion2vec_config(path)
    except ValueError as fault:
        raise InputError(str(fault)) from None
    if importlib.util.find_spec("funasr") is None:
        raise InputError("the teacher emotion2vec needs the package funasr: pip install 'voxveil[emotion2vec]'")


def pair_settings(job: FinetuneJob, config: "Config") -> PairSettings:
    """Return how the job pairs for a base of these sizes; validation is always neutral to emotional."""
    return PairSettings(
        pairing=job.pairing,
        validation_pairing="emotional",
        known=None if job.teacher == "none" else TEACHERS[job.teacher].emotions,
        prompt_frames=max(1, int(job.prompt_seconds / config.frames.seconds)),
        validation_share=job.validation_share,
        validation_speakers=job.validation_speakers,
        validation_pairs=job.validation_pairs,
        seed=job.training.seed,
        max_frames=config.acoustic_lm.max_frames,
    )


def feed_of(job: FinetuneJob, base: Base, prepared: Prepared) -> CodesFeed:
    """Return the pairs of a preparation that fit a sequence of the base. Raises InputError where none can be made."""
    settings = pair_settings(job, base.config)
    nearest = base.config.content_encoder.nearest
    return CodesFeed(prepared.parts, settings, job.training.batch_size, job.teacher != "none", nearest=nearest)


def build_finetune(job: FinetuneJob) -> "tuple[LanguageModelTask, CodesFeed]":
    """Return what a worker trains, and on what."""
    from models.streamvoiceanon.training.language_model import (
        LanguageModelTask,
        LanguageModelTaskConfig,
        language_model,
    )
    from pipelines.training.ears import loudspeaker_of

    base = read_base(job.model)
    feed = feed_of(job, base, read_prepared(job.folder / "prepared", "voxveil finetune prepare"))
    width = 0
    if job.teacher != "none":
        some = next(iter(feed.rows.spoken))
        width = int(feed.rows.read(some, feed.columns)["teacher"].size // feed.rows.spoken[some].frames)
    lm = language_model(base.config.acoustic_lm, base.states["acoustic_lm"], job.training.seed)
    config = LanguageModelTaskConfig(
        content_weight=job.content_weight,
        teacher_width=width,
        distillation=job.distillation,
        distillation_weight=job.distillation_weight,
        smallest_delay=job.delays[0],
        largest_delay=job.delays[1],
        corrupted=job.corrupted,
        listening_weight=job.listening_weight,
        validation_delay=base.config.acoustic_lm.delay,
        seed=job.training.seed,
    )
    loudspeaker = loudspeaker_of(base) if job.listening_weight else None
    return LanguageModelTask(lm, config, loudspeaker=loudspeaker), feed


def described(job: FinetuneJob, prepared: Prepared) -> dict[str, Any]:
    """Return what makes a training what it is: resuming asks for the same, and MLflow keeps it."""
    own = job.model_dump(mode="json", include=TRAINS)
    if not job.validation_speakers:
        del own["validation_speakers"]  # as trainings that began before there were any described themselves
    return {**own, "recipe": asdict(prepared.recipe), "fingerprint": prepared.fingerprint}


TRAINS = {
    *("pairing", "teacher", "distillation", "distillation_weight", "content_weight", "delays"),
    *("corrupted", "listening_weight", "prompt_seconds", "validation_share", "validation_speakers"),
    *("validation_pairs", "training"),
}


def run_finetune(job: FinetuneJob, resume: bool, track: "Track") -> "Ending":
    """Train to the end, an early stop or a loss that is not a number. Raises InputError."""
    from pipelines.training.ray_train import train_on_ray

    prepared = read_prepared(job.folder / "prepared", "voxveil finetune prepare")
    same_base(job, prepared)
    folder = job.folder / "training"
    description = described(job, prepared)
    begun = begin(folder, description, resume, "voxveil finetune run")
    track.begin(STEP, job.training.steps, begun.step)
    with TrainingRecord(tracking_uri(job.output), job.name, begun.training_id, "fine-tuning") as record:
        record.parameters(flat(description) | {"base": job.model})

        def watch(lines: list[dict[str, float]]) -> None:
            say_progress([line for line in lines if line["step"] > begun.step], track)
            record.lines(lines)

        with ray_session():
            ending = train_on_ray(build_finetune, {"job": job}, job.training, folder, watch)
        record.ended(ending.ended)
    return ending


def say_progress(lines: list[dict[str, float]], track: "Track") -> None:
    """Count the steps and tell people of each validation."""
    if lines:
        track.advance(STEP, len(lines))
    for line in lines:
        told = [f"{key.removeprefix('validation.')} {line[key]:.4f}" for key in line if key.startswith("validation.")]
        if told:
            track.say(f"step {line['step']:.0f}, held out: {', '.join(told)}")


def same_base(job: FinetuneJob, prepared: Prepared) -> Base:
    """Return the base model. Raises InputError where the speech was prepared with another one."""
    base = read_base(job.model)
    if base.digest != prepared.recipe.model:
        raise InputError(f"{prepared.folder} was prepared with another model than {job.model}: prepare it again")
    return base


def flat(document: dict[str, Any], prefix: str = "") -> dict[str, str]:
    """Return a nested document as one level of dotted names."""
    pairs: dict[str, str] = {}
    for key, value in document.items():
        if isinstance(value, dict):
            pairs |= flat(value, f"{prefix}{key}.")
        else:
            pairs[prefix + key] = str(value)
    return pairs


@dataclass(frozen=True)
class Exported:
    """The model folder of a fine-tuning, and its version in MLflow's registry."""

    folder: Path
    version: str
    step: int


def export_finetune(job: FinetuneJob, track: "Track") -> Exported:
    """Write the best weights as a model folder of the base's contract, with samples, and register it.

    The version in MLflow's registry carries its lineage and no alias: an audit comes before anybody's use. Raises
    InputError.
    """
    from pipelines.training.checkpoints import load_best
    from pipelines.training.samples import write_samples

    prepared = read_prepared(job.folder / "prepared", "voxveil finetune prepare")
    base = same_base(job, prepared)
    task, feed = build_finetune(job)
    progress = load_best(job.folder / "training", {name: task.players[name] for name in task.exported})
    description = described(job, prepared)
    lineage = {
        "base": base.digest,
        "corpus": prepared.fingerprint,
        "configuration": training_digest(description),
        "step": str(progress.step),
    }
    model = job.folder / "model"
    write_model(model, base, task.export(), lineage)
    lineage["weights"] = folder_digest(model)
    track.say(f"the model of step {progress.step} is in {model}")
    if job.samples:
        write_samples(job.folder / "samples", str(base.folder), model, feed, job.samples, prepared.recipe.frame_rate)
    training = training_id(job.folder / "training", "voxveil finetune run")
    with TrainingRecord(tracking_uri(job.output), job.name, training, "fine-tuning") as record:
        record.files(job.folder / "samples", "samples")
        version = record.register(job.name, model, lineage | {"validation": str(progress.best)}, to_audit=True)
    write_document(job.folder / "model.json", {"version": version, **lineage})
    return Exported(model, version, progress.step)


def read_document(path: Path, command: str) -> dict[str, Any]:
    """Return a JSON document of an earlier step. Raises InputError that names the `command` which makes it."""
    if not path.exists():
        raise InputError(f"there is no {path}: run {command} first")
    document: dict[str, Any] = json.loads(path.read_text())
    return document


def write_document(path: Path, document: dict[str, Any]) -> None:
    """Write a JSON document, whole or not at all."""
    partial = path.with_name(f".{path.name}")
    partial.write_text(json.dumps(document, indent=1) + "\n")
    os.replace(partial, path)
