"""Pre-training: each learned network from random weights, one after the other, into one model folder.

    content -> codec -> lm (which is trained on the codes of the other two)

<output>/<name>/model/                what `--model` takes; networks that were not trained yet are random
<output>/<name>/pretrain/<stage>/     prepared/  training/
"""

import shutil
import uuid
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pyarrow as pa

from governance.tracking import tracking_uri
from governance.training_record import TrainingRecord, folder_digest
from models import registry
from operators.codes import ComputeCodes, CountFrames, FindHeard
from operators.encode import Encode
from operators.schema import AUDIO_TYPE, InputError
from operators.teach import TEACHERS, Teach
from pipelines.anonymize import digest_of
from pipelines.cluster import ray_session
from pipelines.finetune import STEP, codes_columns, flat, say_progress
from pipelines.survey import survey_index
from pipelines.training.codes_feed import CodesFeed, Hearing, PairSettings
from pipelines.training.model_folder import Base, fresh_base, read_base, without_full_context, write_model
from pipelines.training.prepared import Prepared, Recipe, corpus_digest, prepare
from pipelines.training.pretrain_job import NETWORKS, PretrainJob, Stage
from pipelines.training.run_folder import begin, training_digest

if TYPE_CHECKING:
    from models.streamvoiceanon import Config
    from models.streamvoiceanon.checkpoint import StateDict
    from models.streamvoiceanon.training.task import Task
    from models.streamvoiceanon.whisper_trunk import WhisperTrunk
    from pipelines.progress import Track
    from pipelines.training.feed import Feed
    from pipelines.training.loop import Ending

WHISPER = registry.PROFILES["embedded"]["whisper"]
# What does not make a training another one.
NOT_TRAINED: dict[str, Any] = {
    **dict.fromkeys(("index", "name", "output", "workers", "gpus"), True),
    "training": {"readers": True},
}


def pretrain(stage: Stage, job: PretrainJob, resume: bool, track: "Track") -> "Ending":
    """Prepare the speech, train one network, and put its best weights into the model folder. Raises InputError.

    Where the loss became NaN the model folder stays as it was.
    """
    from pipelines.training.ray_train import train_on_ray

    base = base_of(stage, job)
    with ray_session():
        prepared = prepare_stage(stage, job, base, track)
        folder = job.folder(stage) / "training"
        description = {
            **job.model_dump(mode="json", exclude=NOT_TRAINED),
            "stage": stage,
            "fingerprint": prepared.fingerprint,
            "model": prepared.recipe.model,
        }
        begun = begin(folder, description, resume, f"voxveil pretrain {stage}")
        track.begin(STEP, job.training.steps, begun.step)
        with TrainingRecord(tracking_uri(job.output), job.name, begun.training_id, f"pretrain {stage}") as record:
            record.parameters(flat(description))

            def watch(lines: list[dict[str, float]]) -> None:
                say_progress([line for line in lines if line["step"] > begun.step], track)
                record.lines(lines)

            ending = train_on_ray(build_stage, {"stage": stage, "job": job}, job.training, folder, watch)
            record.ended(ending.ended)
    if ending.ended != "not finite":
        trained = put_into_model(stage, job, training_digest(description))
        track.say(f"what step {ending.best_step} made of {' and '.join(trained)} is in {job.model}")
    return ending


def base_of(stage: Stage, job: PretrainJob) -> Base:
    """Return the model folder as it is, or random weights. Raises InputError where the sizes changed meanwhile.

    The language model learns the codes of the other two networks, so these must have been trained before.
    """
    sizes = job.sizes()
    if stage == "content" and sizes.content_encoder.code_width:
        raise InputError(
            "shape: an encoder with a codebook is trained by signs, as small-signs is, and gets its codebook from "
            "`python -m pipelines.fit_codebook`"
        )
    if stage == "content" and job.start is None and sizes.content_encoder.whisper is not None:
        from models.streamvoiceanon.whisper_trunk import WhisperTrunk

        begin_with_whisper(WhisperTrunk(sizes.content_encoder.whisper), job.whisper or WHISPER)  # before all the work
    if job.model.exists():
        base = read_base(str(job.model))
        if base.config != sizes:
            raise InputError(
                f"{job.model} has other sizes than the shape ({differences(base.config, sizes)}): use another name, or "
                "delete it"
            )
    elif job.start is not None:
        base = read_start(job.start, sizes)
    else:
        base = fresh_base(sizes, job.training.seed, job.speaker_encoders)
    untrained = [other for other, name in NETWORKS.items() if other != "lm" and name not in base.sources]
    if stage == "lm" and untrained:
        raise InputError(
            f"the language model learns codes, and what makes them is not trained yet in {job.model}: run "
            + " and ".join(f"`voxveil pretrain {other}`" for other in untrained)
        )
    if stage == "lm" and job.encoder_learns and sizes.content_encoder.nearest == 1:
        raise InputError("encoder_learns: this shape's content encoder hears one code at once, which has no gradients")
    if stage == "lm" and job.codes_of_start and job.start is not None:
        check_learners_model(job, base, read_start(job.start, sizes))
    if stage == "codec" and job.listening_weight and "content" in untrained:
        raise InputError(f"listening_weight: the content encoder listens, and that of {job.model} is not trained yet")
    return base


def read_start(start: str, sizes: "Config") -> Base:
    """Read the model folder to begin from, without its full context, which is of codes that training may change.

    Raises InputError where its sizes are others.
    """
    base = without_full_context(read_base(start))
    if base.config != sizes:
        raise InputError(f"start: {start} has other sizes than the shape ({differences(base.config, sizes)})")
    return base


def differences(there: "Config", wanted: "Config") -> str:
    """Name the fields in which a model folder's configuration is not the wanted one, with what each has."""
    pairs = [(field.name, getattr(there, field.name), getattr(wanted, field.name)) for field in fields(wanted)]
    told = []
    while pairs:
        name, one, other = pairs.pop(0)
        if one == other:
            continue
        if is_dataclass(one) and is_dataclass(other):
            pairs += [(f"{name}.{f.name}", getattr(one, f.name), getattr(other, f.name)) for f in fields(other)]
        else:
            told.append(f"{name} is {one} there and {other} here")
    return ", ".join(told)


def check_learners_model(job: PretrainJob, base: Base, start: Base) -> None:
    """Raise InputError where what came of another training would be lost or mixed with.

    Language model, decoder and encoder begin from `start` together and learn its codes: the model folder `base` has its
    content encoder and codec, or of those that learn the ones of such a training.
    """
    if start.folder.resolve() == job.model.resolve():
        raise InputError(f"start: {job.start} would be changed by its own training: use another name")
    own = base.sources.get("acoustic_lm")
    for name, learns in (("content_encoder", job.encoder_learns), ("codec", job.decoder_learns)):
        if base.sources[name] not in (start.sources.get(name), *[own] * learns):
            raise InputError(
                f"{job.model} has another content encoder or codec than {job.start}, from which its own would begin: "
                "use another name"
            )


def prepare_stage(stage: Stage, job: PretrainJob, base: Base, track: "Track") -> Prepared:
    """Compute once what a stage trains on, inside a running Ray session."""
    survey = survey_index(job.index)
    frames, device = base.config.frames, "cuda" if job.gpus else "cpu"
    rates: dict[str, Any] = {"sample_rate": frames.sample_rate, "frame_rate": 1.0 / frames.seconds}
    teacher, model = "none", "none"
    steps: list[Any]
    if stage == "lm":
        if job.codes_of_start and job.start is not None:  # it changes networks of the model folder, and no code
            base = read_start(job.start, base.config)
        perturbed = 0.0 if job.encoder_learns else job.perturbed  # that is done each time it hears
        drawn: dict[str, Any] = {"perturbed": perturbed, "seed": job.training.seed, "draws": job.draws}
        columns, model = codes_columns(base.config.content_encoder.nearest), codes_digest(base)
        computed = {"model": str(base.folder), "device": device, **drawn}
        steps = []
        if job.encoder_learns:
            others = str(job.heard.absolute()) if job.heard else None
            steps = [(FindHeard, {"folder": others, "sample_rate": frames.sample_rate})]
            columns |= {"heard": AUDIO_TYPE}
            model += " to be heard"
        elif job.heard:
            computed["heard"] = str(job.heard.absolute())
        steps.append((ComputeCodes, computed))
        if not job.encoder_learns and (job.perturbed or job.heard or job.draws > 1):
            model += "".join(f" {name} {value}" for name, value in drawn.items())
        if job.heard:
            model += f" heard {folder_digest(job.heard)}"
        if job.codes_of_start:
            model += " recordings"
            steps.append((Encode, {"sample_rate": frames.sample_rate}))
            columns |= {"audio": AUDIO_TYPE}
    else:
        steps, columns = [(CountFrames, {"frame_samples": frames.samples})], {"frames": pa.int32()}
        if stage == "content":
            weights = TEACHERS[job.teacher].weights or ""
            teacher = f"{job.teacher} {digest_of(registry.resolve(weights).digests)}"
            aligned = {"alignments": str(job.alignments.absolute())} if job.alignments else {}
            if job.alignments:
                teacher += f" alignments {folder_digest(job.alignments)}"
            steps.append((Teach, {"teacher": job.teacher, "weights": weights, "device": device, **rates, **aligned}))
            columns |= {"teacher": pa.list_(pa.float32()), "teacher_width": pa.int32()}
        steps.append((Encode, {"sample_rate": frames.sample_rate}))
        columns |= {"audio": AUDIO_TYPE}
    corpus = corpus_digest(job.index, survey)
    recipe = Recipe(corpus, model, teacher, **rates, min_seconds=job.min_seconds, max_seconds=job.max_seconds)
    folder = job.folder(stage) / "prepared"
    prepared = prepare(folder, recipe, survey, None, steps, columns, job.workers, job.gpus, track)
    track.say(prepared.told())
    return prepared


def codes_digest(base: Base) -> str:
    """Return what the codes of a model folder depend on: the trainings of its content encoder and codec, and how many
    codes are heard at once."""
    encoder = base.config.content_encoder
    several = f" {encoder.nearest} nearest, spread {encoder.spread}" if encoder.nearest > 1 else ""
    return "+".join(base.sources[NETWORKS[stage]] for stage in ("content", "codec")) + several


def build_stage(stage: Stage, job: PretrainJob) -> "tuple[Task, Feed]":
    """Return what a worker trains, and on what. Raises InputError."""
    from models.streamvoiceanon.checkpoint import load_networks
    from models.streamvoiceanon.content_encoder import ContentEncoder
    from models.streamvoiceanon.training.codec import CodecTask, CodecTaskConfig
    from models.streamvoiceanon.training.content import ContentTask, ContentTaskConfig
    from models.streamvoiceanon.training.initial import fresh_networks
    from models.streamvoiceanon.training.language_model import (
        LanguageModelTask,
        LanguageModelTaskConfig,
        language_model,
    )
    from models.streamvoiceanon.training.shared_codes import CODEBOOK, share_codes
    from models.streamvoiceanon.training.teachers import PROSODY
    from pipelines.training.ears import listener_of, loudspeaker_of
    from pipelines.training.waves_feed import WavesFeed

    sizes, settings = job.sizes(), job.training
    parts = job.folder(stage) / "prepared" / "parts"
    network: Any = fresh_networks(sizes, settings.seed)[NETWORKS[stage]]
    if job.start is not None:
        weights = read_start(job.start, sizes).states[NETWORKS[stage]]
        if stage == "lm":
            network = language_model(sizes.acoustic_lm, weights, settings.seed)
        else:
            own = {key: value.clone() for key, value in weights.items()}  # those are mapped, training writes to these
            load_networks({NETWORKS[stage]: network}, {NETWORKS[stage]: own})
    elif stage == "content" and sizes.content_encoder.whisper is not None:
        begin_with_whisper(network.backbone, job.whisper or WHISPER)
    if stage == "lm":
        base = base_of(stage, job)
        codebook = base.states["content_encoder"].get(CODEBOOK)
        share_codes(
            network, sizes.content_encoder.bits if codebook is None else codebook, sizes.codec.levels, settings.seed
        )
        pairs = PairSettings(
            pairing="speaker",
            validation_pairing="speaker",
            known=None,
            prompt_frames=max(1, int(job.prompt_seconds / sizes.frames.seconds)),
            validation_share=job.validation_share,
            validation_pairs=job.validation_items,
            seed=settings.seed,
            max_frames=sizes.acoustic_lm.max_frames,
            by_length=True,
            begun=job.begun,
        )
        losses = LanguageModelTaskConfig(
            job.content_weight,
            smallest_delay=job.delays[0],
            largest_delay=job.delays[1],
            validation_delay=sizes.acoustic_lm.delay,
            corrupted=job.corrupted,
            listening_weight=job.listening_weight,
            decoder_learns=job.decoder_learns,
            encoder_learns=job.encoder_learns,
            first_codebook_weight=job.first_codebook_weight,
            seed=settings.seed,
        )
        origin = read_start(job.start, sizes) if job.codes_of_start and job.start is not None else base
        loudspeaker = loudspeaker_of(origin) if job.listening_weight else None
        encoder = cast(ContentEncoder, origin.network("content_encoder")) if job.encoder_learns else None
        task = LanguageModelTask(network, losses, loudspeaker, encoder)
        return task, CodesFeed(
            parts,
            pairs,
            settings.batch_size,
            teacher=False,
            frame_samples=sizes.frames.samples if job.codes_of_start else 0,
            nearest=sizes.content_encoder.nearest,
            hearing=Hearing(sizes.frames.sample_rate, job.perturbed) if job.encoder_learns else None,
        )
    crop = max(1, round(job.crop_seconds / sizes.frames.seconds))
    feed = WavesFeed(
        parts,
        sizes.frames,
        crop,
        settings.batch_size,
        stage == "content",
        job.perturbed if stage == "content" else 0.0,
        job.validation_share,
        job.validation_items,
        settings.seed,
    )
    if stage == "codec":
        config = CodecTaskConfig(
            adversarial_weight=job.adversarial_weight,
            listening_weight=job.listening_weight,
            frozen_codes=job.frozen_codes,
            seed=settings.seed,
        )
        listener = listener_of(base_of(stage, job)) if job.listening_weight else None
        return CodecTask(network, sizes.frames, config, listener), feed
    width = feed.item(feed.training[0], 0, 1)["teacher"].shape[1]
    wanted = ContentTaskConfig(
        width,
        phones=width - PROSODY if job.teacher == "phones" else 0,
        prosody_weight=job.prosody_weight,
        lag=job.lag,
        certainty_weight=job.certainty_weight,
        diversity_weight=job.diversity_weight,
        feature_weight=job.feature_weight,
        speakers=len(feed.speakers) if job.forgetting_weight else 0,
        forgetting_weight=job.forgetting_weight,
        spelling_weight=job.spelling_weight,
        seed=settings.seed,
    )
    return ContentTask(network, sizes.frames, wanted), feed


def begin_with_whisper(trunk: "WhisperTrunk", uri: str) -> None:
    """Load the first layers of a Whisper into a trunk. Raises InputError where it is of another width."""
    from models.streamvoiceanon.training.whisper_weights import load_whisper

    try:
        load_whisper(trunk, registry.resolve(uri).path)
    except ValueError as fault:
        wanted = f"one that is {trunk.config.width} wide (tiny is 384, base 512)"
        raise InputError(
            f"the trunk of this shape needs another Whisper, --whisper file:FOLDER, {wanted}: {fault}"
        ) from None


def put_into_model(stage: Stage, job: PretrainJob, training: str) -> list[str]:
    """Replace what a training trained in the model folder by its best weights; the folder changes at once. Returns the
    names of these networks.

    With `blend` a share of them is that of the weights it began from, which keeps what a short training unlearns
    (Wortsman et al., "Robust fine-tuning of zero-shot models", 2022, arXiv 2109.01903). The others are those of the
    folder as it is now: another stage may have ended since this one began.
    """
    from pipelines.training.checkpoints import load_best

    base = base_of(stage, job)
    task, _ = build_stage(stage, job)
    load_best(job.folder(stage) / "training", {name: task.players[name] for name in task.exported})
    trained = task.export()
    if job.blend < 1.0 and job.start is not None:
        former = read_start(job.start, job.sizes()).states
        trained = {name: blended(former[name], state, job.blend) for name, state in trained.items()}
    partial = job.model.with_name(f".{job.model.name}-{uuid.uuid4().hex}")
    write_model(partial, base, trained, base.sources | dict.fromkeys(trained, training))
    if job.model.exists():
        replaced = Path(f"{partial}-former")
        job.model.replace(replaced)
        partial.replace(job.model)
        shutil.rmtree(replaced)
    else:
        partial.replace(job.model)
    return list(trained)


def blended(former: "StateDict", trained: "StateDict", share: float) -> "StateDict":
    """Return weights a `share` of the way from the former to the trained ones; what no former had is the trained."""
    import torch

    return {
        name: torch.lerp(former[name].float(), value.float(), share).to(value.dtype)
        if name in former and value.is_floating_point()
        else value
        for name, value in trained.items()
    }
