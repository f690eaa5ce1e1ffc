"""What the training commands print at their end."""

from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from governance.catalogue import describe, written
from governance.report import Figure

if TYPE_CHECKING:
    from pipelines.finetune_evaluation import Judgement
    from pipelines.training.finetune_job import FinetuneJob
    from pipelines.training.loop import Ending


def tell_ending(ending: "Ending", folder: Path, console: Console) -> None:
    """Say how a training ended and where its weights are."""
    best = "no validation yet" if ending.best is None else f"best at step {ending.best_step}: {ending.best:.4f}"
    if ending.ended == "not finite":
        console.print(f"[bold red]stopped:[/] a loss is not a number: {escape(ending.detail)}", soft_wrap=True)
        console.print(f"The last good checkpoint is kept in {escape(str(folder))} ({best}).", soft_wrap=True)
    else:
        console.print(f"{ending.ended} after step {ending.step}; {best}; {escape(str(folder))}", soft_wrap=True)


def tell_judgement(judgement: "Judgement", job: "FinetuneJob", console: Console) -> None:
    """Print the table before and after, and whether the model may be used."""
    table = Table(title="held-out speakers", title_justify="left")
    table.add_column("")
    for name in ("original", "base", "fine-tuned"):
        table.add_column(name, justify="right")
    for line in judgement.table:
        cells = [cell(line.metric, figure) for figure in (line.original, line.before, line.after)]
        table.add_row(line.title, *cells)
    console.print(table)
    if any(figure and not figure.trustworthy for line in judgement.table for figure in (line.before, line.after)):
        console.print("* the audit does not trust this figure; the report says why")
    if any(line.before is None and line.after is None for line in judgement.table):
        console.print("- was not measured, such as words in a language that the recogniser does not know")
    for when, path in judgement.reports.items():
        console.print(f"report {when}  {escape(str(path))}", soft_wrap=True)
    if judgement.refusal is None:
        console.print(f"[green]The model {escape(job.name)} has the alias {escape(job.alias)} now.[/]", soft_wrap=True)
    else:
        told = f"The alias {job.alias} is refused: {judgement.refusal}"
        console.print(f"[red]{escape(told)}[/]", soft_wrap=True)


def cell(metric: str, figure: Figure | None) -> str:
    """Return a figure with its interval, and a star where the audit does not trust it."""
    if figure is None or figure.value is None:
        return "-"
    unit = describe(metric).unit
    interval = ""
    if figure.lower is not None and figure.upper is not None:
        interval = f" [{written(figure.lower, unit)}, {written(figure.upper, unit)}]"
    return f"{written(figure.value, unit)}{interval}{'' if figure.trustworthy else ' *'}"
