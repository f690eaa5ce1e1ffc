"""The command line. Every command ends with an exit code that a job scheduler can act on:

0 released (or done), 3 withheld or for review, 2 the input or the configuration is wrong, 1 anything else.

Nothing heavy is imported before a command needs it, so that `--help` answers at once.
"""

import os
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import typer

from pipelines.attacker_cli import attacker_app
from pipelines.config import AUDIT_FIELDS, Job
from pipelines.faults import console, told_in_one_line
from pipelines.fetch import fetch
from pipelines.finetune_cli import finetune_app
from pipelines.model import model_app
from pipelines.options import takes_job
from pipelines.prepare.cli import prepare_app
from pipelines.pretrain_cli import pretrain
from pipelines.serve import serve
from pipelines.stream import stream
from pipelines.voices import voices_app

app = typer.Typer(
    name="voxveil",
    help="Anonymize a speech corpus, attack the result, and release it only when a written policy is met.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)
for part, name in (
    (prepare_app, "prepare"),
    (voices_app, "voices"),
    (model_app, "model"),
    (attacker_app, "attacker"),
    (finetune_app, "finetune"),
):
    app.add_typer(part, name=name)
app.command(epilog="Example: `voxveil fetch --profile standard`")(fetch)
app.command(epilog="Example: `voxveil serve --port 8000`")(serve)
app.command(epilog="Example: `voxveil pretrain content --config mini --index corpus/ --name small`")(pretrain)
app.command(epilog="Example: `voxveil stream call.wav anonymous.wav --url ws://127.0.0.1:8000/v1/stream`")(stream)


def main() -> None:
    """Run the command line; libraries are told to keep to themselves first."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("DO_NOT_TRACK", "1")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    app()


OUTPUT = Path("voxveil-out")
ReportFormat = Literal["decision", "vpc"]
# Options that several commands share.
RESUME = typer.Option(help="Continue the newest unfinished run of the same job.")
DRY_RUN = typer.Option("--dry-run", help="Check configuration, weights and the first rows; say what would run; stop.")
JSON = typer.Option("--json", help="Write decision, rules, metrics, counts and paths to this file.")


@app.command(
    epilog="Example: `voxveil release --index corpus/index.parquet --name calls-2026 --keep-columns text,gender`"
)
@told_in_one_line
@takes_job
def release(
    job: Job,
    resume: Annotated[bool, RESUME] = False,
    dry_run: Annotated[bool, DRY_RUN] = False,
    json: Annotated[Path | None, JSON] = None,
) -> None:
    """Anonymize a corpus, audit the result, and release it if the policy is met.

    Exit codes: 0 released, 3 withheld or for review, 2 the input or configuration is wrong, 1 anything else.
    """
    from pipelines.terminal import decide_job

    raise typer.Exit(decide_job(job, "release", resume, dry_run, json, console))


@app.command(epilog="Example: `voxveil audit --index corpus/index.parquet --name calls-2026 --anonymizer identity`")
@told_in_one_line
@takes_job
def audit(
    job: Job,
    resume: Annotated[bool, RESUME] = False,
    dry_run: Annotated[bool, DRY_RUN] = False,
    json: Annotated[Path | None, JSON] = None,
) -> None:
    """Do all that `release` does but publish: what would the decision be?

    Exit codes: 0 it would be released, 3 withheld or for review, 2 input or configuration is wrong, 1 anything else.
    """
    from pipelines.terminal import decide_job

    raise typer.Exit(decide_job(job, "audit", resume, dry_run, json, console))


@app.command(epilog="Example: `voxveil anonymize --index corpus/index.parquet --name calls-2026`")
@told_in_one_line
@partial(takes_job, without=AUDIT_FIELDS)
def anonymize(job: Job, resume: Annotated[bool, RESUME] = False) -> None:
    """Only anonymize: the result was attacked by nobody and stays in the run's private folder.

    Exit codes: 0 done, 2 the input or configuration is wrong, 1 anything else.
    """
    from pipelines.terminal import anonymize_only

    anonymize_only(job, resume, console)


@app.command(epilog="Example: `voxveil demo --output /tmp/voxveil-demo`")
@told_in_one_line
def demo(
    output: Annotated[Path, typer.Option(help="Folder under which everything is written.")] = OUTPUT,
) -> None:
    """Release the sample corpus of synthetic voices that comes with the project. Succeeds whatever the decision is."""
    from pipelines.terminal import run_demo

    run_demo(output, console)


@app.command(epilog="Example: `voxveil clean voxveil-out`; `voxveil clean voxveil-out --remove`")
@told_in_one_line
def clean(
    folder: Annotated[Path, typer.Argument(help="Output folder, or a dataset's folder in it.")] = OUTPUT,
    remove: Annotated[bool, typer.Option("--remove", help="Delete them; without it they are only listed.")] = False,
) -> None:
    """List, or remove, runs that were cut and that nobody resumed; their private tables and keys stay until then.

    Exit codes: 0 done, 2 there is no such folder, 1 anything else.
    """
    from pipelines.terminal import clean_runs

    clean_runs(folder, remove, console)


@app.command(
    epilog="Example: `voxveil report voxveil-out/calls-2026`; `voxveil report voxveil-out/vpc --format vpc > vpc.tsv`"
)
@told_in_one_line
def report(
    folders: Annotated[list[Path], typer.Argument(help="Datasets' folders, runs, or report.json files.")],
    format: Annotated[
        ReportFormat, typer.Option(help="decision, or vpc: the VoicePrivacy challenge's table, tab-separated.")
    ] = "decision",
) -> None:
    """Show the decision and the rules of a finished run, the newest of a dataset; or its figures as the challenge's.

    Exit codes: 0 shown, 2 there is no report, 1 anything else.
    """
    from pipelines.terminal import show_reports, show_vpc_table

    if format == "vpc":
        show_vpc_table(folders)
    else:
        show_reports(folders, console)
