"""Commands about model files: converting published checkpoints to one that loads at once."""

from pathlib import Path
from typing import Annotated

import typer

from operators.schema import InputError
from pipelines.faults import told_in_one_line

model_app = typer.Typer(help="Convert model files.")


@model_app.callback()
def about() -> None:
    """Convert model files."""


@model_app.command("convert")
@told_in_one_line
def convert_checkpoint(
    source: Annotated[str, typer.Argument(help="Folder with the five published files, or Hugging Face repository.")],
    target: Annotated[Path, typer.Argument(help="Folder for the safetensors file and its JSON configuration.")],
) -> None:
    """Convert a published StreamVoiceAnon checkpoint to one safetensors file without its training-only parts."""
    from models.streamvoiceanon import CheckpointError, convert

    try:
        convert(source, target)
    except (CheckpointError, OSError) as error:
        raise InputError(str(error)) from None
    for path in sorted(target.iterdir()):
        typer.echo(f"{path}  {path.stat().st_size / 1e6:.1f} MB")
