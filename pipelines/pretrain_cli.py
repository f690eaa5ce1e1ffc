"""`voxveil pretrain`: train the networks of an anonymizer from random weights."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from pipelines.faults import OTHER, console, told_in_one_line


@told_in_one_line
def pretrain(
    stage: Annotated[Literal["content", "codec", "lm"], typer.Argument(help="What to train, in this order.")],
    config: Annotated[str, typer.Option(help="A YAML file, or a size: full, small, mini or smoke.")],
    index: Annotated[str | None, typer.Option(help="Index of speech by many people; wins over the file's.")] = None,
    name: Annotated[
        str | None, typer.Option(help="Name of the model, the same for the three; wins over the file's.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="Folder under which everything is written; wins over the file's.")
    ] = None,
    start: Annotated[
        str | None, typer.Option(help="Model folder whose weights to begin from; random ones without.")
    ] = None,
    whisper: Annotated[
        str | None, typer.Option(help="content: URI of the Whisper to begin the trunk with; the embedded one without.")
    ] = None,
    alignments: Annotated[
        Path | None, typer.Option(help="content: folder of <utt_id>.csv, when which phoneme was said.")
    ] = None,
    heard: Annotated[
        Path | None, typer.Option(help="lm: folder of <utt_id>.flac, the same words at the same moments by others.")
    ] = None,
    resume: Annotated[bool, typer.Option(help="Go on from the newest checkpoint.")] = False,
) -> None:
    """Train the networks of an anonymizer from random weights: content, then codec, then lm.

    The content encoder learns to tell what Whisper's encoder hears, the codec to give back what it hears, the language
    model the codes of the other two. Exit code 1 where a loss became NaN.
    """
    from pipelines.pretrain import pretrain as train_stage
    from pipelines.progress import tracking_progress
    from pipelines.training.pretrain_job import load_pretrain
    from pipelines.training.told import tell_ending

    given = {"index": index, "name": name, "output": output, "start": start}
    given |= {"whisper": whisper, "alignments": alignments, "heard": heard}
    job = load_pretrain(stage, config, **given)
    with tracking_progress(console) as track:
        ending = train_stage(stage, job, resume, track)
    tell_ending(ending, job.folder(stage) / "training", console)
    if ending.ended == "not finite":
        raise typer.Exit(OTHER)
