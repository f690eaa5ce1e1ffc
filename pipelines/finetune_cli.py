"""`voxveil finetune`: teach a model to keep the emotion, and find out whether it still keeps the secret."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipelines.faults import OTHER, WITHHELD, console, told_in_one_line

if TYPE_CHECKING:
    from pipelines.training.finetune_job import FinetuneJob

finetune_app = typer.Typer(
    name="finetune",
    help="Fine-tune the neural anonymizer on labelled speech so that it keeps the emotion, and audit the result.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
)
CONFIG = typer.Option(help="A YAML file, or a size: full, small, mini or smoke.")
INDEX = typer.Option(help="Index of the labelled corpus; wins over the file's.")
NAME = typer.Option(help="Name of the result; wins over the file's.")
MODEL = typer.Option(help="The base: a checkpoint folder, or Plachta/StreamVoiceAnon; wins over the file's.")
OUT = typer.Option(help="Folder under which everything is written; wins over the file's.")
POLICY = typer.Option(help="Policy whose privacy rules must be met; wins over the file's.")
RESUME = typer.Option(help="Go on from the newest checkpoint.")

Config = Annotated[str, CONFIG]
Index = Annotated[str | None, INDEX]
Name = Annotated[str | None, NAME]
Model = Annotated[str | None, MODEL]
Output = Annotated[Path | None, OUT]


def _job(config: str, **options: object) -> "FinetuneJob":
    from pipelines.training.finetune_job import load_finetune

    return load_finetune(config, **options)


@finetune_app.command(
    epilog="Example: `voxveil finetune prepare --config mini --index corpus/index.parquet --name calm --model base/`"
)
@told_in_one_line
def prepare(config: Config, index: Index = None, name: Name = None, model: Model = None, output: Output = None) -> None:
    """Compute codes, voices and the teacher's features once; a second call goes on where the first was cut."""
    from pipelines.finetune import prepare_finetune
    from pipelines.progress import tracking_progress

    job = _job(config, index=index, name=name, model=model, output=output)
    with tracking_progress(console) as track:
        prepare_finetune(job, track)


@finetune_app.command(
    epilog="Example: `voxveil finetune run --config mini --index corpus/index.parquet --name calm --model base/`"
)
@told_in_one_line
def run(
    config: Config,
    index: Index = None,
    name: Name = None,
    model: Model = None,
    output: Output = None,
    resume: Annotated[bool, RESUME] = False,
) -> None:
    """Train on what was prepared. Exit code 1 where a loss became NaN; the last good checkpoint stays."""
    from pipelines.finetune import run_finetune
    from pipelines.progress import tracking_progress
    from pipelines.training.told import tell_ending

    job = _job(config, index=index, name=name, model=model, output=output)
    with tracking_progress(console) as track:
        ending = run_finetune(job, resume, track)
    tell_ending(ending, job.folder / "training", console)
    if ending.ended == "not finite":
        raise typer.Exit(OTHER)


@finetune_app.command(
    epilog="Example: `voxveil finetune export --config mini --index corpus/index.parquet --name calm --model base/`"
)
@told_in_one_line
def export(config: Config, index: Index = None, name: Name = None, model: Model = None, output: Output = None) -> None:
    """Write the best weights as a model folder like the base's, and register them in MLflow, not yet for use."""
    from pipelines.finetune import export_finetune
    from pipelines.progress import tracking_progress

    job = _job(config, index=index, name=name, model=model, output=output)
    with tracking_progress(console) as track:
        exported = export_finetune(job, track)
    console.print(f"{exported.folder}: version {exported.version} of the registered model {job.name}, not audited yet")


@finetune_app.command(
    epilog="Example: `voxveil finetune evaluate --config mini --index corpus/index.parquet --name calm --model base/`"
)
@told_in_one_line
def evaluate(
    config: Config,
    index: Index = None,
    name: Name = None,
    model: Model = None,
    output: Output = None,
    policy: Annotated[str | None, POLICY] = None,
) -> None:
    """Audit the base and the result on held-out speakers; give the result its MLflow alias if privacy is kept.

    Exit codes: 0 the alias is given, 3 it is refused, 2 the input or configuration is wrong, 1 anything else.
    """
    from pipelines.finetune_evaluation import evaluate_finetune
    from pipelines.progress import tracking_progress
    from pipelines.training.told import tell_judgement

    job = _job(config, index=index, name=name, model=model, output=output, policy=policy)
    with tracking_progress(console) as track:
        judgement = evaluate_finetune(job, track)
    tell_judgement(judgement, job, console)
    if judgement.refusal is not None:
        raise typer.Exit(WITHHELD)
