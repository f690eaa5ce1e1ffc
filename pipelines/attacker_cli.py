"""`voxveil attacker`: train the semi-informed attacker ahead of the releases that it will attack."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipelines.faults import console, told_in_one_line

if TYPE_CHECKING:
    from models.registry import Resolved

attacker_app = typer.Typer(
    name="attacker",
    help="Train the attacker that knows the anonymization system, once for all releases with that system.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
)


@attacker_app.callback()
def attacker() -> None:
    """Keep `train` a command of its own, since typer would make a single one the whole application."""


@attacker_app.command(epilog="Example: `voxveil attacker train --corpus corpora/train-clean-100.parquet`")
@told_in_one_line
def train(
    corpus: Annotated[str, typer.Option(help="Index of speech by people who are attacked in no release.")],
    anonymizer: Annotated[str, typer.Option(help="The anonymizer to attack.")] = "streamvoiceanon",
    voice_level: Annotated[str, typer.Option(help="A pseudo-voice for every utterance, or one a speaker.")] = (
        "utterance"
    ),
    sample_rate: Annotated[int, typer.Option(help="Sample rate of the anonymized audio, hertz.")] = 16_000,
    model: Annotated[str | None, typer.Option(help="The anonymizer's model, where it has one.")] = None,
    voices: Annotated[str | None, typer.Option(help="The anonymizer's voice bank, where it has one.")] = None,
    alpha: Annotated[float | None, typer.Option(help="How much of the bank's voices is kept, 0 to 1.")] = None,
    context: Annotated[
        str, typer.Option(help="How the anonymizer hears: full, causal, or auto, by the corpus' language.")
    ] = "auto",
    prosody: Annotated[
        str, typer.Option(help="How much prosody the anonymizer keeps: full, reduced, or auto, by the corpus' labels.")
    ] = "auto",
    profile: Annotated[str, typer.Option(help="Whose speaker encoder the attacker builds on.")] = "embedded",
    network: Annotated[
        Path | None, typer.Option(help="Train a network, by these settings (YAML); the standard profile always does.")
    ] = None,
    checkpoint: Annotated[
        str | None, typer.Option(help="Network to start from: a folder or hf://…; the standard profile's own, or none.")
    ] = None,
    output: Annotated[
        Path, typer.Option(help="Folder under which releases are written; the attacker is kept there.")
    ] = Path("voxveil-out"),
    workers: Annotated[int | None, typer.Option(help="Actors at most; default: one a CPU core.")] = None,
    gpus: Annotated[float, typer.Option(help="GPUs (or a fraction) for each actor.")] = 0.0,
    resume: Annotated[bool, typer.Option(help="Continue the newest unfinished training of the same attacker.")] = False,
) -> None:
    """Anonymize a corpus with a system and a key of its own, train an attacker on it, and keep the attacker.

    A release or audit with `--attacker-corpus` of the same corpus, the same anonymizer and the same `--output` uses it;
    one with `--attacker` uses a network, by its folder or its name in MLflow.
    Exit codes: 0 trained or there already, 2 the input or configuration is wrong, 1 anything else.
    """
    from operators.schema import InputError
    from pipelines.anonymize import choose_anonymizer
    from pipelines.attacker import train_attacker
    from pipelines.attacker_corpus import survey_training
    from pipelines.attacker_network import NetworkSettings, train_network
    from pipelines.cluster import ray_session
    from pipelines.config import load_fields, load_job
    from pipelines.progress import tracking_progress
    from pipelines.runs import start_run

    options = {"anonymizer": anonymizer, "voice_level": voice_level, "sample_rate": sample_rate, "profile": profile}
    options |= {"model": model, "voices": voices, "alpha": alpha, "context": context, "prosody": prosody}
    options |= {"output": output, "workers": workers, "gpus": gpus}
    job = load_job(None, {"index": corpus, "attacker_corpus": corpus, "name": "attackers", **options})
    survey = survey_training(corpus, attacked=())
    job, used, told = choose_anonymizer(job, survey)
    if network is None and checkpoint is not None and job.profile != "standard":
        raise InputError("--checkpoint is where a network starts from; name its settings too (--network)")
    settings = load_fields(NetworkSettings, network, {}, ())
    initial = find_checkpoint(checkpoint, job.profile)
    with tracking_progress(console) as track:
        for sentence in told:
            track.say(sentence)
        for setting in ("context", "prosody"):
            if setting in used.config:
                track.say(f"the attacker fits releases with --{setting} {used.config[setting]}")
        run = start_run(job, "attacker", {"index": survey.digest}, resume)
        with ray_session():
            if network is not None or job.profile == "standard":
                trained = train_network(run, corpus, survey, used, settings, initial, track)
                utterances, speakers, kept = trained.card.utterances, trained.card.speakers, trained.folder
            else:
                backend, kept = train_attacker(run, corpus, survey, used, track)
                utterances, speakers = backend.utterances, backend.speakers
        run.close()
    console.print(f"{utterances} utterances of {speakers} speakers: {kept}", soft_wrap=True)


def find_checkpoint(checkpoint: str | None, profile: str) -> "Resolved | None":
    """Return the network that training starts from: the one named, or the standard profile's. Raises InputError."""
    from models import registry
    from operators.schema import InputError

    uri = registry.PROFILES["standard"]["speaker"] if checkpoint is None and profile == "standard" else checkpoint
    if uri is None:
        return None
    try:
        return registry.resolve(uri if ":" in uri else f"file:{uri}")
    except ValueError as fault:
        raise InputError(str(fault)) from None
