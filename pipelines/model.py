"""Commands about model files: converting published checkpoints to one that loads at once, and making a model small."""

from pathlib import Path
from typing import Annotated

import typer

from operators.schema import InputError
from pipelines.faults import told_in_one_line
from pipelines.registered import local_model

model_app = typer.Typer(help="Convert model files.")


@model_app.callback()
def about() -> None:
    """Convert model files."""


@model_app.command("convert")
@told_in_one_line
def convert_checkpoint(
    source: Annotated[
        str, typer.Argument(help="Folder with the five published files, Hugging Face repository, or models:/….")
    ],
    target: Annotated[Path, typer.Argument(help="Folder for the safetensors file and its JSON configuration.")],
) -> None:
    """Convert a published StreamVoiceAnon checkpoint to one safetensors file without its training-only parts."""
    from models.streamvoiceanon import CheckpointError, convert

    source = local_model(source)
    try:
        convert(source, target)
    except (CheckpointError, OSError) as error:
        raise InputError(str(error)) from None
    _say_sizes(target)


@model_app.command("compact")
@told_in_one_line
def compact_model(
    source: Annotated[str, typer.Argument(help="Model folder, as `model convert` and the trainings write it.")],
    target: Annotated[Path, typer.Argument(help="Folder for the same model with a byte a weight.")],
) -> None:
    """Write a model with eight bits a weight: a quarter of the size, loaded and used like any other."""
    from models.streamvoiceanon.checkpoint import load_networks, save_converted
    from models.streamvoiceanon.config import build_networks
    from pipelines.training.model_folder import read_base

    base = read_base(source)
    networks = build_networks(base.config)
    load_networks(networks, base.states)
    try:
        save_converted(target, networks, base.config, base.sources, compact=True)
    except OSError as error:
        raise InputError(str(error)) from None
    _say_sizes(target)


def _say_sizes(folder: Path) -> None:
    for path in sorted(folder.iterdir()):
        typer.echo(f"{path}  {path.stat().st_size / 1e6:.1f} MB")
