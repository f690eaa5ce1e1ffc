"""`voxveil prepare`: one command a kind of corpus, each of which writes an index and says what is in it."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipelines.faults import console as errors
from pipelines.faults import told_in_one_line

if TYPE_CHECKING:
    from pipelines.prepare.index import PreparedIndex

prepare_app = typer.Typer(
    name="prepare",
    help="Turn a corpus as it was downloaded into an index that the other commands read.",
    epilog="Example: voxveil prepare folder recordings/ --output corpus/index.parquet",
    no_args_is_help=True,
    rich_markup_mode="rich",
)

Source = Annotated[Path, typer.Argument(help="The folder of the corpus.", show_default=False)]
Output = Annotated[
    Path | None, typer.Option("--output", "-o", help="The index to write. Default: index.parquet in the folder.")
]
Embed = Annotated[
    bool,
    typer.Option(
        "--embed", help="Put the audio into the index, so that the one file can be moved. Default: point at it."
    ),
]


@prepare_app.command()
@told_in_one_line
def emodb(source: Source, output: Output = None, embed: Embed = False) -> None:
    """Index the Berlin Database of Emotional Speech, as it is downloaded.

    Example:  voxveil prepare emodb downloads/emodb --output corpora/emodb.parquet
    """
    from pipelines.prepare.emodb import prepare_emodb

    _run(source, output, embed, lambda path: prepare_emodb(source, path, embed))


@prepare_app.command()
@told_in_one_line
def librispeech(source: Source, output: Output = None, embed: Embed = False) -> None:
    """Index LibriSpeech, or one subset of it, as openslr.org unpacks it.

    Example:  voxveil prepare librispeech LibriSpeech/test-other
    """
    from pipelines.prepare.librispeech import prepare_librispeech

    _run(source, output, embed, lambda path: prepare_librispeech(source, path, embed))


@prepare_app.command()
@told_in_one_line
def folder(
    source: Source,
    output: Output = None,
    embed: Embed = False,
    table: Annotated[str, typer.Option(help="The table of utterances in the folder: CSV, or TSV by its name.")] = (
        "metadata.csv"
    ),
    column: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=COLUMN", help="Read NAME from the table's COLUMN; may be given more than once."),
    ] = None,
) -> None:
    """Index a folder of audio with a table that has the columns utt_id, speaker_id and path.

    Other columns (text, emotion, gender, language, …) are taken over as text.

    Example:  voxveil prepare folder recordings --table takes.csv --column speaker_id=reader --column path=file
    """
    from pipelines.prepare.folder import prepare_folder

    columns = dict(_parse_column(each) for each in column or [])
    _run(source, output, embed, lambda path: prepare_folder(source, path, embed, table, columns))


@prepare_app.command()
@told_in_one_line
def vpc(
    source: Source,
    output: Output = None,
    embed: Embed = False,
    audio: Annotated[Path | None, typer.Option(help="Where the paths in wav.scp start. Default: the folder.")] = None,
) -> None:
    """Index data folders of a VoicePrivacy challenge (wav.scp, utt2spk, …), with its official trials.

    Example:  voxveil prepare vpc challenge/data --audio challenge --output corpora/vpc.parquet
    """
    from pipelines.prepare.vpc import prepare_vpc, trials_path

    _run(source, output, embed, lambda path: prepare_vpc(source, path, embed, audio))
    trials = trials_path(output or source / "index.parquet")
    if trials.exists():
        typer.echo(f"The official trials: {trials}")


def _parse_column(option: str) -> tuple[str, str]:
    name, separator, theirs = option.partition("=")
    if not (name and separator and theirs):
        raise typer.BadParameter(f"{option!r} is not NAME=COLUMN, for example speaker_id=reader", param_hint="--column")
    return name, theirs


def _run(source: Path, output: Path | None, embed: bool, prepare: Callable[[Path], "PreparedIndex"]) -> None:
    """Prepare, with a sign of life on a terminal, and say what was written."""
    from rich.console import Console
    from rich.markup import escape

    console = Console(soft_wrap=True)
    with errors.status(f"Indexing {escape(str(source))} …"):
        prepared = prepare(output or source / "index.parquet")
    rows, speakers = f"{prepared.rows:,} utterances", f"{prepared.speakers:,} speakers"
    console.print(f"{escape(str(prepared.path))}: {rows}, {speakers}", highlight=False)
    if prepared.embedded and not embed:
        console.print("The index lies outside the folder of the audio, so it holds the audio itself.", highlight=False)
    if prepared.skipped:
        console.print(f"Left out: {len(prepared.skipped):,}", highlight=False)
        for line in prepared.skipped[:10]:
            console.print(f"  {escape(line)}", highlight=False)
        if len(prepared.skipped) > 10:
            console.print(f"  … and {len(prepared.skipped) - 10:,} more", highlight=False)
