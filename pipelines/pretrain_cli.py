"""`voxveil pretrain`: train the networks of an anonymizer from random weights."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipelines.faults import OTHER, console, told_in_one_line

if TYPE_CHECKING:
    from pipelines.training.pretrain_job import Stage

pretrain_app = typer.Typer(
    name="pretrain",
    help="Train the networks of an anonymizer from random weights: content, then codec, then lm.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
)
CONFIG = typer.Option(help="A YAML file, or a size: full, mini or smoke.")
INDEX = typer.Option(help="Index of speech by many people; wins over the file's.")
NAME = typer.Option(help="Name of the model, the same for the three; wins over the file's.")
OUT = typer.Option(help="Folder under which everything is written; wins over the file's.")
START = typer.Option(help="Model folder whose weights to begin from; random ones without.")
RESUME = typer.Option(help="Go on from the newest checkpoint.")

Config = Annotated[str, CONFIG]
Index = Annotated[str | None, INDEX]
Name = Annotated[str | None, NAME]
Output = Annotated[Path | None, OUT]
Start = Annotated[str | None, START]
Resume = Annotated[bool, RESUME]


def _pretrain(
    stage: "Stage",
    config: str,
    index: str | None,
    name: str | None,
    output: Path | None,
    start: str | None,
    resume: bool,
) -> None:
    from pipelines.pretrain import pretrain
    from pipelines.progress import tracking_progress
    from pipelines.training.pretrain_job import load_pretrain
    from pipelines.training.told import tell_ending

    job = load_pretrain(stage, config, index=index, name=name, output=output, start=start)
    with tracking_progress(console) as track:
        ending = pretrain(stage, job, resume, track)
    tell_ending(ending, job.folder(stage) / "training", console)
    if ending.ended == "not finite":
        raise typer.Exit(OTHER)


@pretrain_app.command(epilog="Example: `voxveil pretrain content --config mini --index corpus/ --name small`")
@told_in_one_line
def content(
    config: Config,
    index: Index = None,
    name: Name = None,
    output: Output = None,
    start: Start = None,
    resume: Resume = False,
) -> None:
    """Train the content encoder to tell what Whisper's encoder hears. Exit code 1 where a loss became NaN."""
    _pretrain("content", config, index, name, output, start, resume)


@pretrain_app.command(epilog="Example: `voxveil pretrain codec --config mini --index corpus/ --name small`")
@told_in_one_line
def codec(
    config: Config,
    index: Index = None,
    name: Name = None,
    output: Output = None,
    start: Start = None,
    resume: Resume = False,
) -> None:
    """Train the codec to give back what it hears. Exit code 1 where a loss became NaN."""
    _pretrain("codec", config, index, name, output, start, resume)


@pretrain_app.command(epilog="Example: `voxveil pretrain lm --config mini --index corpus/ --name small`")
@told_in_one_line
def lm(
    config: Config,
    index: Index = None,
    name: Name = None,
    output: Output = None,
    start: Start = None,
    resume: Resume = False,
) -> None:
    """Train the language model on the codes of the other two. Exit code 1 where a loss became NaN."""
    _pretrain("lm", config, index, name, output, start, resume)
